"""ILSVRC DET's average precision, the area under the curve, of detections as they are written.

class_aps is that of the recipe, so that its figures compare: 1 is added to detections, nothing to boxes in the files.
official_class_aps is the development kit's (of 2014 and later), of the same boxes.
"""

import numpy as np

from datasets.evaluators import average_precision
from datasets.evaluators.average_precision import flat, voc_ap
from datasets.evaluators.pairs import areas, ious, pairs

RESULT_BASE = 1
TOLERANCE = 10  # pixels by which a box may be wider and higher


def class_aps(all_boxes, truth, classes):
    """{class: AP at IoU > 0.5}, of the classes that have an object to find."""
    truth = truth._replace(boxes=truth.written)
    return average_precision.class_aps(all_boxes, truth, classes, base=RESULT_BASE)


def official_class_aps(all_boxes, truth, classes, blacklist=None, base=RESULT_BASE):
    """{class: AP} by official_average_precision, of the classes that have an object to find. blacklist: {class number:
    images (n,)}; base is added to the detections' corners."""
    aps = {}
    for k, cls in enumerate(classes):
        mine = truth.classes == k
        if k and mine.any():
            images, rows = flat(all_boxes[k])
            ap = official_average_precision(
                images,
                rows[:, :4] + base,
                rows[:, 4],
                truth.images[mine],
                truth.written[mine],
                (blacklist or {}).get(k, ()),
            )
            if not np.isnan(ap):
                aps[cls] = ap
    return aps


def thresholds(boxes):
    """The IoU (G,) that a box must have with each of boxes (G, 4), the last pixel included: of w x h pixels
    min(0.5, w h / ((w + 10) (h + 10)))."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return np.minimum(0.5, areas(boxes, one=1) / (sides + TOLERANCE).prod(1))


def official_average_precision(det_images, det_boxes, scores, gt_images, gt_boxes, blacklisted=()):
    """AP of one class; no object: nan. blacklisted: images whose detections and objects of the class do not count.

    In each image by falling score (of equals the earlier one first) a detection finds, of the objects that are not found
    yet and with which it has an IoU of at least their thresholds, the one it overlaps most; else it is wrong.
    """
    det_images, gt_images = np.asarray(det_images, int), np.asarray(gt_images, int)
    det_boxes, gt_boxes = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (det_boxes, gt_boxes))
    counted, wanted = ~np.isin(det_images, blacklisted), ~np.isin(gt_images, blacklisted)
    order = np.lexsort((det_images, -np.asarray(scores, float)))
    order = order[counted[order]]
    total = np.count_nonzero(wanted)
    if not total:
        return float('nan')
    right = _found(det_images[order], det_boxes[order], gt_images[wanted], gt_boxes[wanted])
    found = np.cumsum(right)
    return voc_ap(found / total, found / np.arange(1, len(right) + 1))


def _found(det_images, det_boxes, gt_images, gt_boxes):
    """Which detections (D,), by falling score, find an object."""
    limits, right, taken = thresholds(gt_boxes), np.zeros(len(det_images), bool), set()
    for d, g in pairs(det_images, gt_images):
        overlaps = ious(det_boxes[d], gt_boxes[g], one=1)
        close = np.flatnonzero((overlaps >= limits[g]) & (overlaps > 0))
        close = close[np.lexsort((g[close], -overlaps[close], d[close]))]
        for detection, number in zip(d[close].tolist(), g[close].tolist()):
            if not right[detection] and number not in taken:
                right[detection] = True
                taken.add(number)
    return right
