"""Datasets: what there is to train and test on, and how well a test went.

imdb                what every dataset offers: roidb, flipping, proposals, recall
annotations         the XML reader and the one rule for boxes
xml_imdb            datasets annotated in XML: ground truth, result files, mean AP
layouts             where images, annotations and image sets lie (VOC, ILSVRC DET)
pascal_voc          VOC 2007, 2012
imagenet            ILSVRC DET 2015, 200 classes
own                 anybody's dataset, described by a YAML file
factory             datasets by name
voc_eval            average precision
selective_search    proposals in .mat files
check               the list of a dataset's problems
"""
