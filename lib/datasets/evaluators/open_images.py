"""Open Images' average precision: boxes around groups, and images of which not every class is known.

D detections and G objects of a class in all images. Boxes (n, 4) are x1 y1 x2 y2, edges, in any unit. An object is a
single one, or a group: more than five that touch, in one box. After the evaluators of the TensorFlow Object Detection API
(2018), of which group_weight 1 is the challenge's metric, 0 the V2 one.
"""

from typing import NamedTuple

import numpy as np

from datasets.evaluators.average_precision import flat, voc_ap
from datasets.evaluators.pairs import areas, best, intersections, ious

THRESH = 0.5


class Wanted(NamedTuple):
    """What is to be found, B objects: images (B,), classes (B,), boxes (B, 4), group_of (B,) bool."""

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    group_of: np.ndarray


def average_precision(
    det_images, det_boxes, scores, gt_images, gt_boxes, group_of, group_weight=1.0, thresh=THRESH
):
    """AP of one class; without objects, or with groups alone of weight 0, nan. group_of (G,) bool.

    Detections without area are left out. 1. In each image by falling score (of equals the later one first) a detection
    looks at the single object it overlaps most: IoU >= thresh and not yet found - right. 2. One that is not right lies in
    the group that has most of its area, if that is >= thresh of it: it does not count. A group is found by the best score
    above 0 in it, and counts group_weight. 3. Others are wrong. In the ranking, of equal scores what comes later is first:
    images in their order, in each the detections as above, then groups.
    """
    det_images, gt_images = np.asarray(det_images, int), np.asarray(gt_images, int)
    det_boxes, gt_boxes = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (det_boxes, gt_boxes))
    scores, group_of = np.asarray(scores, float), np.asarray(group_of, bool)
    total = np.count_nonzero(~group_of) + group_weight * np.count_nonzero(group_of)
    if not total:
        return float('nan')
    order = np.lexsort((-np.arange(len(scores)), -scores, det_images))
    order = order[(det_boxes[order, :2] < det_boxes[order, 2:]).all(1)]
    det_images, det_boxes, scores = det_images[order], det_boxes[order], scores[order]
    right = np.zeros(len(order), bool)
    right[_first_finds(det_images, gt_images[~group_of], _iou(det_boxes, gt_boxes[~group_of]), thresh)[2]] = (
        True
    )
    rest = np.flatnonzero(~right)
    inside, groups, firsts = _first_finds(
        det_images[rest], gt_images[group_of], _share(det_boxes[rest], gt_boxes[group_of]), thresh
    )
    kept = np.ones(len(order), bool)
    kept[rest[inside]] = False
    found = (scores[rest[firsts]] > 0) & (group_weight > 0)
    group_images, group_scores = gt_images[group_of][groups[found]], scores[rest[firsts[found]]]
    images = np.append(det_images[kept], group_images)
    scores = np.append(scores[kept], group_scores)
    weights = np.append(right[kept].astype(float), np.full(len(group_scores), float(group_weight)))
    return _ranked(images, scores, weights, total)


def _iou(det_boxes, gt_boxes):
    return lambda d, g: ious(det_boxes[d], gt_boxes[g])


def _share(det_boxes, gt_boxes):
    own = areas(det_boxes)
    return lambda d, g: intersections(det_boxes[d], gt_boxes[g]) / own[d]


def _first_finds(det_images, gt_images, measure, thresh):
    """Which detections find an object, the objects found (rising), and the first detection of each."""
    value, match = best(det_images, gt_images, measure)
    close = np.flatnonzero(value >= thresh)
    objects, first = np.unique(match[close], return_index=True)
    return close, objects, close[first]


def _ranked(images, scores, weights, total):
    """AP of detections with a weight (0: wrong), equal scores ranked by images' order, backwards."""
    order = np.argsort(images, kind='stable')
    order = order[np.argsort(scores[order], kind='stable')[::-1]]
    right, wrong = np.cumsum(weights[order]), np.cumsum(weights[order] <= 0)
    return voc_ap(right / total, right / (right + wrong))


def class_aps(all_boxes, wanted, classes, verified=None, group_weight=1.0):
    """{class: AP} of the classes (background first) that have objects to find. all_boxes[class][image] (n, 5): corners
    as edges, in the unit of those of `wanted`. verified: (images (V,), classes (V,)), what is known of an image besides the
    classes of its objects: detections of other classes do not count. None: all count."""
    aps = {}
    for k, cls in enumerate(classes):
        mine = wanted.classes == k
        if not k or not mine.any():
            continue
        images, rows = flat(all_boxes[k])
        if verified is not None:
            known = np.append(wanted.images[mine], verified[0][verified[1] == k])
            seen = np.isin(images, known)
            images, rows = images[seen], rows[seen]
        objects = wanted.images[mine], wanted.boxes[mine], wanted.group_of[mine]
        ap = average_precision(images, rows[:, :4], rows[:, 4], *objects, group_weight)
        if not np.isnan(ap):
            aps[cls] = ap
    return aps
