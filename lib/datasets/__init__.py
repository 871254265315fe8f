"""Datasets: what there is to train and test on, and how well a test went.

factory             datasets by name; register
imdb                what every dataset offers: roidb, flipping, proposals, recall
record              one image's roidb entry
xml_imdb            datasets annotated in XML: a reader and an evaluator put together
pascal_voc          VOC 2007, 2012
imagenet            ILSVRC DET 2015, 200 classes
own                 anybody's dataset, described by a YAML file
readers             what lies on disk: a module for each format
evaluators          how good detections are: a module for each metric
voc_eval            VOC's evaluation from files
ds_utils            helpers for boxes
check               the list of a dataset's problems
"""
