"""Which class objects are detected as.

D detections, G objects of all images; K classes with the background. Boxes are x1 y1 x2 y2, inclusive pixels.
"""

import numpy as np

from datasets.evaluators.average_precision import flat
from datasets.evaluators.errors import FOUND
from datasets.evaluators.pairs import ious, pairs


def confusion(all_boxes, truth, least):
    """Counts (K, K): row, an object's class, 0 where there is no object; column, the detection's, 0 where there is none.

    Of the detections of score >= least, by falling score, whatever their class, each is of the object that it overlaps most, and
    by more than 0.5, among those that no other one is of. One that is left with a difficult object alone does not count."""
    found = [flat(of_class) for of_class in all_boxes]
    classes = np.repeat(np.arange(len(found)), [len(images) for images, _ in found])
    images, rows = (np.concatenate(parts) for parts in zip(*found))
    order = np.argsort(-rows[:, 4], kind='stable')
    order = order[rows[order, 4] >= least]
    images, boxes, classes = images[order], rows[order, :4], classes[order]
    match, ignored = _matches(images, boxes, truth)
    table = np.zeros((len(all_boxes), len(all_boxes)), int)
    of_object = np.where(match >= 0, truth.classes[match] if len(truth.classes) else 0, 0)
    np.add.at(table, (of_object[~ignored], classes[~ignored]), 1)
    missed = np.setdiff1d(np.flatnonzero(~truth.difficult), match)
    np.add.at(table, (truth.classes[missed], 0), 1)
    return table


def _matches(images, boxes, truth):
    """Of detections, best first: which object each is of (D,), -1: of none; whether it is ignored (D,)."""
    match, ignored = np.full(len(images), -1), np.zeros(len(images), bool)
    objects, taken = truth.boxes.astype(float), np.zeros(len(truth.boxes), bool)
    for d, g in pairs(images, truth.images):
        overlap = ious(boxes[d], objects[g], one=1)
        near = np.flatnonzero(overlap > FOUND)
        for at in near[np.lexsort((-overlap[near], d[near]))]:
            if truth.difficult[g[at]]:
                ignored[d[at]] |= match[d[at]] < 0
            elif match[d[at]] < 0 and not taken[g[at]]:
                match[d[at]], taken[g[at]], ignored[d[at]] = g[at], True, False
    return match, ignored
