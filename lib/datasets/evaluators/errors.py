"""What a detector's errors are (Hoiem, Chodpathumwan and Dai 2012, section 2), of one class at a time.

A class's D detections and its G objects that are to be found, in all images together; K classes with the background. Boxes are x1
y1 x2 y2, inclusive pixels.
"""

from typing import NamedTuple

import numpy as np

from datasets.evaluators.average_precision import average_precision, flat, voc_ap
from datasets.evaluators.pairs import areas, best, ious

# What a detection is. ignored: it finds a difficult object
KINDS = RIGHT, LOCALISATION, SIMILAR, OTHER, BACKGROUND, IGNORED = (
    'right',
    'localisation',
    'similar',
    'other',
    'background',
    'ignored',
)
FOUND, NEAR = 0.5, 0.1  # IoU above which an object is found, and from which a detection has to do with it
SIZES = {'small': 0, 'medium': 32**2, 'large': 96**2}  # least pixels of an object's box, COCO's


class Errors(NamedTuple):
    """Of a class: images (D,), boxes (D, 4) and scores (D,) by falling score, the kind of each (D,), a place in KINDS;
    recall and precision (D,); objects (G,), places in the truth, and which of them are found (G,)."""

    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    objects: np.ndarray
    found: np.ndarray

    @property
    def ap(self):
        return voc_ap(self.recall, self.precision)

    def shares(self):
        """{kind: its share} of as many of the best detections as there are objects, those that are ignored aside."""
        judged = self.kinds[self.kinds != KINDS.index(IGNORED)][: len(self.objects)]
        counts = np.bincount(judged, minlength=len(KINDS))
        return {kind: counts[i] / max(len(judged), 1) for i, kind in enumerate(KINDS[:-1])}

    def ap_without(self, kind):
        """AP if no detection were of this kind of error."""
        right = self.kinds == KINDS.index(RIGHT)
        counts = ~np.isin(self.kinds, [KINDS.index(kind), KINDS.index(IGNORED)])
        rights, all_of_them = np.cumsum(right[counts]), np.arange(1, counts.sum() + 1)
        return voc_ap(rights / len(self.objects), rights / all_of_them)

    def by_size(self, sizes):
        """{size: (objects, the share of them found)}, of areas `sizes` (G,) in pixels."""
        ends = [*list(SIZES.values())[1:], np.inf]
        rows = {name: (sizes >= least) & (sizes < end) for (name, least), end in zip(SIZES.items(), ends)}
        return {
            name: (int(mine.sum()), float(self.found[mine].mean()))
            for name, mine in rows.items()
            if mine.any()
        }


def class_errors(all_boxes, truth, k, similar=()):
    """Errors of class k, which has an object to find. similar: numbers of classes that are like it.

    By falling score a detection that overlaps an object of its class by more than 0.5 is right, if it is the first to, and one
    of localisation otherwise; so is one that overlaps it by 0.1 or more. Else it is one of similar, or of other classes, where it
    overlaps one of their objects by 0.1 or more; else of background."""
    images, rows = flat(all_boxes[k])
    order = np.argsort(-rows[:, 4], kind='stable')
    images, rows = images[order], rows[order]
    boxes = rows[:, :4]
    kinds = np.full(len(rows), KINDS.index(BACKGROUND))
    mine = truth.classes == k
    alike = np.isin(truth.classes, list(similar)) & ~mine
    for kind, of_kind in (OTHER, ~mine & ~alike), (SIMILAR, alike), (LOCALISATION, mine):
        kinds[_overlap(images, boxes, truth, of_kind)[0] >= NEAR] = KINDS.index(kind)
    overlap, match = _overlap(images, boxes, truth, mine)
    objects = np.flatnonzero(mine)
    hard = truth.difficult[objects]
    close = np.flatnonzero(overlap > FOUND)
    kinds[close[hard[match[close]]]] = KINDS.index(IGNORED)
    close = close[~hard[match[close]]]
    finds, first = np.unique(match[close], return_index=True)
    kinds[close[first]] = KINDS.index(RIGHT)
    found = np.isin(np.arange(len(objects)), finds)
    of_class = truth.images[objects], truth.boxes[objects], hard
    recall, precision, _ = average_precision(images, boxes, rows[:, 4], *of_class)
    return Errors(images, boxes, rows[:, 4], kinds, recall, precision, objects[~hard], found[~hard])


def _overlap(images, boxes, truth, which):
    """As pairs.best, with those objects."""
    objects = truth.boxes[which].astype(float)
    return best(images, truth.images[which], lambda d, g: ious(boxes[d], objects[g], one=1))


def sizes(truth, errors):
    """Areas (G,) of a class's objects, in pixels of their boxes."""
    return areas(truth.boxes[errors.objects].astype(float), one=1)


def all_errors(all_boxes, truth, alike):
    """{class: its Errors}, of those that have an object to find. alike: {class: those that are like it}."""
    present = np.unique(truth.classes[~truth.difficult]).tolist()
    return {k: class_errors(all_boxes, truth, k, alike.get(k, ())) for k in present if k}


def described(errors, truth):
    """A class's figures, as JSON has them."""
    kinds = [kind for kind in KINDS[:-1] if kind != RIGHT]
    return {
        'objects': len(errors.objects),
        'ap': errors.ap,
        'best': errors.shares(),
        'missed': float(1 - errors.found.mean()),
        'ap_without': {kind: errors.ap_without(kind) for kind in kinds},
        'found_by_size': errors.by_size(sizes(truth, errors)),
    }


def highest(errors, kind, most):
    """Of {class: Errors} the `most` detections of a kind that have the highest scores: [(class, image, score, box)]."""
    rows = [
        (k, int(of_class.images[i]), float(of_class.scores[i]), tuple(map(float, of_class.boxes[i])))
        for k, of_class in errors.items()
        for i in np.flatnonzero(of_class.kinds == KINDS.index(kind))[:most]
    ]
    return sorted(rows, key=lambda row: -row[2])[:most]


def worst(errors, truth, most):
    """{kind: [(class, image, score or None, box)]}, the worst first: of the highest score; of objects that were missed, the
    largest."""
    lists = {kind: highest(errors, kind, most) for kind in KINDS[:-1] if kind != RIGHT}
    missed = [
        (-size, k, int(truth.images[i]), tuple(map(float, truth.boxes[i])))
        for k, of_class in errors.items()
        for i, size, found in zip(of_class.objects, sizes(truth, of_class), of_class.found)
        if not found
    ]
    lists['missed'] = [(k, image, None, box) for _, k, image, box in sorted(missed)[:most]]
    return lists
