"""Average precision as PASCAL VOC defines it.

D detections and G ground-truth boxes of all images together. Boxes are x1 y1 x2 y2, inclusive pixels.
Everingham et al., "The PASCAL Visual Object Classes Challenge", section 4.2 (11 points), devkit of 2010
(area).
"""

import numpy as np

from datasets.evaluators.pairs import best, ious
from utils.found import OfClass


def voc_ap(rec, prec, use_07_metric=False):
    """AP from recall and precision (D,) by falling score.

    Area under the curve: precision made non-increasing from the right, times each step of recall.
    use_07_metric: the mean over t = 0, .1 ... 1 of the highest precision at a recall >= t.
    """
    if use_07_metric:
        return float(np.mean([np.max(prec[rec >= t], initial=0.0) for t in np.arange(0.0, 1.1, 0.1)]))
    envelope = np.maximum.accumulate(np.asarray(prec, float)[::-1])[::-1]
    return float(np.sum(np.diff(rec, prepend=0.0) * envelope))


def class_aps(all_boxes, truth, classes, use_07_metric=False, base=0, at_least=False):
    """{class: AP at IoU > 0.5 (at_least: >= 0.5)}, of the classes (background first) that have an object to find. base
    is added to the detections' corners."""
    aps = {}
    for k, cls in enumerate(classes):
        mine = truth.classes == k
        if k and np.any(mine & ~truth.difficult):
            det_images, rows = flat(all_boxes[k])
            objects = truth.images[mine], truth.boxes[mine], truth.difficult[mine]
            aps[cls] = average_precision(
                det_images,
                rows[:, :4] + base,
                rows[:, 4],
                *objects,
                use_07_metric=use_07_metric,
                at_least=at_least,
            )[2]
    return aps


def flat(boxes_by_image):
    """A class's detections: images (D,), rows (D, 5) float64."""
    if isinstance(boxes_by_image, OfClass):
        return boxes_by_image.images, boxes_by_image.rows.astype(float)
    images = [image for image, boxes in enumerate(boxes_by_image) if len(boxes)]
    rows = [np.asarray(boxes_by_image[image]).reshape(-1, 5) for image in images]
    images = np.repeat(np.array(images, int), [len(boxes) for boxes in rows])
    return images, np.concatenate(rows or [np.zeros((0, 5))]).astype(float)


def average_precision(
    det_images,
    det_boxes,
    scores,
    gt_images,
    gt_boxes,
    gt_difficult,
    ovthresh=0.5,
    use_07_metric=False,
    at_least=False,
):
    """Recall (D,), precision (D,) and AP of one class. No object that is not difficult: AP is nan.

    det_images (D,), gt_images (G,): which image each box is of; gt_difficult (G,) bool.
    By falling score (equal scores in the order given), a detection looks at the object of its image it
    overlaps most: IoU > ovthresh (at_least: >=, as in the development kit): difficult - neither right nor wrong; not
    yet found - right; found before - wrong. Else wrong.
    """
    gt_difficult = np.asarray(gt_difficult, bool)
    order = np.argsort(-np.asarray(scores, float), kind='stable')
    det_boxes, gt_boxes = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (det_boxes, gt_boxes))
    overlap, match = best(det_images, gt_images, lambda d, g: ious(det_boxes[d], gt_boxes[g], one=1))
    missed = overlap < ovthresh if at_least else overlap <= ovthresh
    missed, match = missed[order], match[order]
    close = np.flatnonzero(~missed)
    close = close[~gt_difficult[match[close]]]
    first = close[np.unique(match[close], return_index=True)[1]]  # of each object found
    right, wrong = np.zeros(len(order)), missed.astype(float)
    wrong[close] = 1
    right[first], wrong[first] = 1, 0
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    total = np.count_nonzero(~gt_difficult)
    prec = right / np.maximum(right + wrong, np.finfo(float).eps)
    if not total:
        return np.full(len(order), np.nan), prec, float('nan')
    return right / total, prec, voc_ap(right / total, prec, use_07_metric)
