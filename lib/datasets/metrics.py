"""Metrics by name, of detections of any dataset: METRICS[name](imdb, all_boxes) -> {class: AP}, of the classes that have an
object to find, and what else there is to say, in lines.

The imdb is one of datasets.annotated; all_boxes[class][image] (n, 5): pixels that count from 0, the last one included.
"""

import functools

import numpy as np

from datasets.evaluators import average_precision, coco, imagenet, open_images
from datasets.evaluators.open_images import Wanted
from datasets.openimages import InUnit


def voc(data, all_boxes, use_07_metric=False, at_least=False):
    """PASCAL VOC's: difficult objects count neither way."""
    return average_precision.class_aps(
        all_boxes, data.truth, data.classes, use_07_metric, at_least=at_least
    ), ''


def ilsvrc(data, all_boxes):
    """ILSVRC DET's, as in its development kit; every object counts."""
    blacklist = getattr(data, 'blacklist', None)
    return imagenet.official_class_aps(all_boxes, data.truth, data.classes, blacklist, data.result_base), ''


def ilsvrc_plain(data, all_boxes):
    """The recipe's: IoU > 0.5 with boxes as written."""
    truth = data.truth._replace(boxes=data.truth.written)
    return average_precision.class_aps(all_boxes, truth, data.classes, base=data.result_base), ''


def coco_figures(data, all_boxes):
    """COCO's, over IoUs .50, .55 ... .95: a dataset in its format by its own file, else difficult objects are crowds."""
    if hasattr(data, 'scores'):
        scores = data.scores(all_boxes)
    else:
        truth, images = coco.of_truth(data.truth, data.num_classes), range(len(data.truth.sizes))
        numbers = {k: k for k in range(1, data.num_classes)}
        scores = coco.evaluate(truth, coco.results(all_boxes, images, numbers), images, numbers)
    return {data.classes[k]: ap for k, ap in scores.aps.items()}, scores.summary


def openimages(data, all_boxes, group_weight=1.0):
    """Open Images': of other datasets difficult objects are groups, and all classes are known in all images."""
    if hasattr(data, 'verified'):
        return data.class_aps(all_boxes, group_weight), ''
    truth = data.truth
    wanted = Wanted(truth.images, truth.classes, truth.boxes + [0.0, 0, 1, 1], truth.difficult)
    found = InUnit(all_boxes, np.ones_like(truth.sizes))  # in pixels
    return open_images.class_aps(found, wanted, data.classes, None, group_weight), ''


METRICS = {
    'voc': voc,
    'voc07': functools.partial(voc, use_07_metric=True),
    'voc_devkit': functools.partial(voc, at_least=True),
    'voc07_devkit': functools.partial(voc, use_07_metric=True, at_least=True),
    'ilsvrc': ilsvrc,
    'ilsvrc_plain': ilsvrc_plain,
    'coco': coco_figures,
    'openimages': openimages,
    'openimages_v2': functools.partial(openimages, group_weight=0.0),
}


def evaluate(data, all_boxes, names):
    """Prints the figures of each of METRICS named -> {name: mean AP}."""
    if not hasattr(data, 'truth'):
        raise ValueError(f'{data.name}: has no ground truth of its own: name one of its parts')
    data._check_shape(all_boxes)
    means = {}
    for name in names:
        print(f'{name}:')
        means[name] = data.report(*METRICS[name](data, all_boxes))
    return means
