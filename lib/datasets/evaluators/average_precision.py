"""Average precision as PASCAL VOC defines it.

D detections and G ground-truth boxes of all images together. Boxes are x1 y1 x2 y2, inclusive pixels.
Everingham et al., "The PASCAL Visual Object Classes Challenge", section 4.2 (11 points), devkit of 2010
(area).
"""

import numpy as np

from utils.cython_bbox import bbox_overlaps


def voc_ap(rec, prec, use_07_metric=False):
    """AP from recall and precision (D,) by falling score.

    Area under the curve: precision made non-increasing from the right, times each step of recall.
    use_07_metric: the mean over t = 0, .1 ... 1 of the highest precision at a recall >= t.
    """
    if use_07_metric:
        return float(np.mean([np.max(prec[rec >= t], initial=0.0) for t in np.arange(0.0, 1.1, 0.1)]))
    envelope = np.maximum.accumulate(np.asarray(prec, float)[::-1])[::-1]
    return float(np.sum(np.diff(rec, prepend=0.0) * envelope))


def class_aps(all_boxes, truth, classes, use_07_metric=False):
    """{class: AP at IoU > 0.5}, of the classes (background first) that have an object to find."""
    aps = {}
    for k, cls in enumerate(classes):
        mine = truth.classes == k
        if k and np.any(mine & ~truth.difficult):
            det_images, rows = flat(all_boxes[k])
            objects = truth.images[mine], truth.boxes[mine], truth.difficult[mine]
            aps[cls] = average_precision(
                det_images, rows[:, :4], rows[:, 4], *objects, use_07_metric=use_07_metric
            )[2]
    return aps


def flat(boxes_by_image):
    """A class's detections: images (D,), rows (D, 5) float64."""
    rows = [np.asarray(boxes, float).reshape(-1, 5) for boxes in boxes_by_image]
    images = np.repeat(np.arange(len(rows)), [len(boxes) for boxes in rows])
    return images, np.concatenate(rows or [np.zeros((0, 5))])


def average_precision(
    det_images, det_boxes, scores, gt_images, gt_boxes, gt_difficult, ovthresh=0.5, use_07_metric=False
):
    """Recall (D,), precision (D,) and AP of one class. No object that is not difficult: AP is nan.

    det_images (D,), gt_images (G,): which image each box is of; gt_difficult (G,) bool.
    By falling score (equal scores in the order given), a detection looks at the object of its image it
    overlaps most: IoU > ovthresh: difficult - neither right nor wrong; not yet found - right; found before -
    wrong. Else wrong.
    """
    gt_difficult = np.asarray(gt_difficult, bool)
    order = np.argsort(-np.asarray(scores, float), kind='stable')
    overlap, match = _best_objects(det_images, det_boxes, gt_images, gt_boxes)
    right, wrong = np.zeros(len(order)), np.zeros(len(order))
    found = np.zeros(len(gt_difficult), bool)
    for rank, d in enumerate(order):
        if overlap[d] <= ovthresh:
            wrong[rank] = 1
        elif not gt_difficult[match[d]]:
            right[rank], wrong[rank] = (0, 1) if found[match[d]] else (1, 0)
            found[match[d]] = True
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    total = np.count_nonzero(~gt_difficult)
    prec = right / np.maximum(right + wrong, np.finfo(float).eps)
    if not total:
        return np.full(len(order), np.nan), prec, float('nan')
    return right / total, prec, voc_ap(right / total, prec, use_07_metric)


def _best_objects(det_images, det_boxes, gt_images, gt_boxes):
    """For each detection the highest IoU (D,) with an object of its image (-1: none), and which (D,)."""
    det_images, gt_images = np.asarray(det_images, int), np.asarray(gt_images, int)
    overlap, match = np.full(len(det_images), -1.0), np.zeros(len(det_images), int)
    objects, detections = _by_image(gt_images), _by_image(det_images)
    for image in objects.keys() & detections.keys():
        d, g = detections[image], objects[image]
        overlaps = bbox_overlaps(np.asarray(det_boxes, float)[d], np.asarray(gt_boxes, float)[g])
        overlap[d], match[d] = overlaps.max(1), g[overlaps.argmax(1)]
    return overlap, match


def _by_image(images):
    """{image: indices of its boxes, rising}"""
    order = np.argsort(images, kind='stable')
    numbers, starts = np.unique(images[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:])))
