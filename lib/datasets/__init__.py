"""Datasets: what there is to train and test on, and how well a test went.

factory             datasets by name; register
imdb                what every dataset offers: roidb, flipping, proposals, recall
record              one image's roidb entry
annotated           datasets with annotated boxes: a reader and an evaluator put together
xml_imdb            those annotated in XML
coco_imdb           those in COCO's format
joined              several as one
pascal_voc          VOC 2007, 2012
imagenet            ILSVRC DET 2015, 200 classes
coco                COCO 2014, 2015, 2017
openimages          Open Images V4, 600 classes, and its challenge, 500
own                 anybody's dataset, described by a YAML file
readers             what lies on disk: a module for each format
labels              what labelling programs leave and want, read and written: a module for each format
split               a dataset divided by chance
writers             what was found in pictures, in formats that others read
evaluators          how good detections are: a module for each metric
metrics             an evaluator for any dataset, by its name
detection_files     detections that any tool wrote
voc_eval            VOC's evaluation from files
ds_utils            helpers for boxes
check               the list of a dataset's problems
"""
