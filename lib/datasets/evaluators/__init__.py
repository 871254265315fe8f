"""How good detections are: each metric is one module here, and knows nothing of files' formats or training.

A metric is a function class_aps(all_boxes, truth, classes, ...) -> {class: AP} of the classes that have an
object to find; all_boxes[class][image] = (n, 5) x1 y1 x2 y2 score, truth: a readers.truth.Truth.

average_precision   PASCAL VOC's
coco                COCO's, by pycocotools, of a ground truth in its own form; gives more than an AP
imagenet            ILSVRC DET's, as the recipe had it, and as the development kit has it
open_images         Open Images': the challenge's and the V2 one
pairs               detections and objects of the same images, which all but COCO's go through
result_files        detections as text files, for a competition's server
"""
