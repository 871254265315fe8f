"""Record: one image of a roidb, kept small. What training asks of it is computed when it is asked for.

G annotated objects, P proposals, R = G + P boxes (objects first), K classes with the background.
"""

from collections.abc import MutableMapping

import numpy as np
import scipy.sparse

from utils.cython_bbox import bbox_overlaps

FIELDS = 'image', 'width', 'height'


class Record(MutableMapping):
    """One roidb entry, with the keys that a dict of a roidb has:

    boxes (R, 4) float32 x1 y1 x2 y2; gt_classes (R,) int32, 0 for proposals; gt_overlaps (R, K) sparse: IoU
    with the best object, in its class's column; max_overlaps (R,), max_classes (R,): the same as the best
    class and its IoU; seg_areas (R,) float32: pixels of objects, 0 for proposals; flipped; where they are
    known image (path), width, height; bbox_targets once `targets`, a function of the record, is given.
    Any key can be set, and then stands for what would be computed.

    Held: objects (G, 4), classes (G,), proposals (P, 4) or None, areas (G,) or None for those of the boxes,
    num_classes (K), difficult: how many of the image's objects were left out of these. A mirrored record
    holds the arrays of the original one.
    """

    __slots__ = (
        *FIELDS,
        'objects',
        'classes',
        'areas',
        'num_classes',
        'proposals',
        'difficult',
        'mirror',
        'targets',
        'own',
    )

    def __init__(
        self,
        objects,
        classes,
        num_classes,
        *,
        image=None,
        width=None,
        height=None,
        areas=None,
        proposals=None,
        difficult=0,
    ):
        self.objects, self.proposals = _boxes(objects), None if proposals is None else _boxes(proposals)
        self.classes = np.asarray(classes, np.int32).reshape(-1)
        self.areas = None if areas is None else np.asarray(areas, np.float32).reshape(-1)
        self.image, self.width, self.height = image, width, height
        self.num_classes, self.difficult = num_classes, int(difficult)
        self.mirror, self.targets, self.own = False, None, None
        for name, values in ('classes', self.classes), ('areas', self.areas):
            if values is not None and len(values) != len(self.objects):
                raise ValueError(f'{image}: {len(self.objects)} objects have {len(values)} {name}')
        if self.classes.size and not 0 < self.classes.min() <= self.classes.max() < num_classes:
            raise ValueError(
                f'{image}: classes of objects lie in 1 .. {num_classes - 1}, got '
                f'{self.classes.min()} .. {self.classes.max()}'
            )

    def with_proposals(self, boxes):
        """A record of the same image and objects, and of boxes (P, >= 4) in place of its proposals."""
        record = self._twin()
        record.proposals = _boxes(boxes)
        return record

    def mirrored(self):
        """The record of the image's mirror image. Wants the width."""
        if self.width is None:
            raise ValueError(f'{self.image}: the width is not known, so the boxes cannot be mirrored')
        record = self._twin()
        record.mirror = not self.mirror
        return record

    def best_objects(self):
        """-> IoU (R,) float32 of each box with the object it meets best, and that object's class (R,) or 0"""
        overlaps, classes = np.ones(len(self.objects), np.float32), self.classes.astype(np.int64)
        if self.proposals is None:
            return overlaps, classes
        best, which = self._proposals_best()
        found = np.where(best > 0, classes[which], 0) if classes.size else np.zeros(len(best), np.int64)
        return np.append(overlaps, best), np.append(classes, found)

    def _proposals_best(self):
        if not len(self.objects) or not len(self.proposals):
            return np.zeros(len(self.proposals), np.float32), np.zeros(len(self.proposals), np.int64)
        iou = bbox_overlaps(self.proposals.astype(float), self.objects.astype(float))
        which = iou.argmax(1)
        return iou[np.arange(len(which)), which].astype(np.float32), which

    def _twin(self):
        twin = object.__new__(Record)
        for name in Record.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.own = self.own and dict(self.own)
        return twin

    def __getitem__(self, key):
        if self.own and key in self.own:
            return self.own[key]
        if key in COMPUTED:
            return COMPUTED[key](self)
        if key in FIELDS and getattr(self, key) is not None:
            return getattr(self, key)
        if key == 'bbox_targets' and self.targets is not None:
            return self.targets(self)
        raise KeyError(key)

    def __setitem__(self, key, value):
        if key in FIELDS:
            setattr(self, key, value)
        else:
            self.own = {**(self.own or {}), key: value}

    def __delitem__(self, key):
        if not self.own or key not in self.own:
            raise KeyError(key)
        del self.own[key]

    def __contains__(self, key):
        return key in iter(self)

    def __iter__(self):
        known = [*COMPUTED, *(key for key in FIELDS if getattr(self, key) is not None)]
        return iter(dict.fromkeys([*known, *(['bbox_targets'] if self.targets else []), *(self.own or [])]))

    def __len__(self):
        return sum(1 for _ in self)

    def __repr__(self):
        count = 0 if self.proposals is None else len(self.proposals)
        return f'Record({self.image}, {self.width} x {self.height}, {len(self.objects)} objects, {count} proposals)'


def best_objects(entry):
    """max_overlaps (R,), max_classes (R,) of a Record, found together, or of a dict that holds them."""
    if isinstance(entry, Record) and not entry.own:
        return entry.best_objects()
    return entry['max_overlaps'], entry['max_classes']


def _boxes(values):
    values = np.asarray(values, np.float32)
    return np.ascontiguousarray(
        values.reshape(len(values), -1)[:, :4] if values.size else np.zeros((0, 4)), np.float32
    )


def _all_boxes(record):
    boxes = record.objects if record.proposals is None else np.vstack([record.objects, record.proposals])
    if record.mirror:
        boxes = boxes.copy()
        boxes[:, [0, 2]] = record.width - 1 - boxes[:, [2, 0]]
    return boxes


def _padded(record, values):
    """values (G,) of the objects, and 0 for each proposal."""
    return (
        values
        if record.proposals is None
        else np.append(values, np.zeros(len(record.proposals), values.dtype))
    )


def _areas(record):
    boxes = record.objects
    own = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    return _padded(record, own if record.areas is None else record.areas)


def _overlaps(record):
    best, classes = record.best_objects()
    rows = np.where(best > 0)[0]
    shape = (len(best), record.num_classes)
    return scipy.sparse.csr_matrix((best[rows], (rows, classes[rows])), shape=shape)


COMPUTED = {
    'boxes': _all_boxes,
    'gt_classes': lambda record: _padded(record, record.classes),
    'gt_overlaps': _overlaps,
    'seg_areas': _areas,
    'flipped': lambda record: record.mirror,
    'max_overlaps': lambda record: record.best_objects()[0],
    'max_classes': lambda record: record.best_objects()[1],
}
