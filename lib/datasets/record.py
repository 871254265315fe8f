"""Record: one image of a roidb, kept small. What training asks of it is computed when it is asked for.

N images, G annotated objects of one, B of all, P proposals, R = G + P boxes (objects first), K classes with the
background.
"""

import hashlib
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from utils.cython_bbox import bbox_overlaps

FIELDS = 'image', 'width', 'height'


class Crowds(NamedTuple):
    """Boxes around more objects than anybody counted: proposals that lie in one by more than thresh of their area are
    not trained on. starts (N + 1,), boxes (C, 4) float32: as in Objects."""

    starts: np.ndarray
    boxes: np.ndarray
    thresh: float

    def of(self, number):
        """Those of image `number` alone, None where it has none."""
        boxes = self.boxes[self.starts[number] : self.starts[number + 1]]
        return Crowds(np.array([0, len(boxes)]), boxes, self.thresh) if len(boxes) else None

    def hold(self, proposals):
        """Whether one of them holds each proposal (P,)."""
        from pycocotools import mask  # few images have crowds

        corners = (boxes.astype(float) for boxes in (proposals, self.boxes))
        sides = [np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1]) for boxes in corners]
        return (mask.iou(*sides, [1] * len(self.boxes)) > self.thresh).any(1)


@dataclass(eq=False)
class Objects:
    """What N images hold, as columns: a Record refers to a row of them.

    num_classes K; starts (N + 1,): the objects of image i are those from starts[i] to starts[i + 1]; boxes (B, 4)
    float32; classes (B,) int32 in 1 .. K - 1; difficult (N,): how many objects of an image were left out of these;
    areas (B,) float32, or None for those of the boxes; images: N paths, sizes (N, 2): width and height, or None; crowds: Crowds among those left
    out, or None; segms: a sequence of B masks, of which slices are taken, or None.
    """

    num_classes: int
    starts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray = None
    images: list = None
    sizes: np.ndarray = None
    crowds: Crowds = None
    segms: object = None

    @cached_property
    def digest(self):
        """Of all that is held; of the images' paths, what comes after the folder that all have in common."""
        digest = hashlib.sha256(f'{self.num_classes}'.encode())
        for column in self.starts, self.boxes, self.classes, self.difficult, self.areas, self.sizes:
            digest.update(b'|' if column is None else np.ascontiguousarray(column).tobytes())
        for column in self.crowds or ():
            digest.update(np.ascontiguousarray(column).tobytes())
        if self.images:
            common = len(os.path.dirname(os.path.commonprefix(self.images)))
            digest.update('\n'.join(path[common:] for path in self.images).encode())
        return digest.hexdigest()


class Record(MutableMapping):
    """One roidb entry, with the keys that a dict of a roidb has:

    boxes (R, 4) float32 x1 y1 x2 y2; gt_classes (R,) int32, 0 for proposals; gt_overlaps (R, K) sparse: IoU
    with the best object, in its class's column; max_overlaps (R,), max_classes (R,): the same as the best
    class and its IoU, -1 and 0 for a proposal that a crowd holds; seg_areas (R,) float32: pixels of objects, 0 for proposals; flipped; where they are
    known image (path), width, height; bbox_targets once `targets`, a function of the record, is given. Where masks are known,
    segms, which is not listed among the keys since they are read when it is asked for: of each box, as it is in the image
    file, whatever `flipped` says, a list of polygons or an RLE (datasets.readers.masks), None of proposals.
    Any key can be set, and then stands for what would be computed.

    Held: a row of Objects (source, number), whether it is mirrored, and where the proposals lie: those are
    given[place] of a sequence over images, read when they are asked for (given None: there are none). Pickled or
    copied, a record takes its own image's arrays with it.
    """

    __slots__ = 'source', 'number', 'mirror', 'given', 'place', 'targets', 'own'

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
        crowds=None,
        segms=None,
    ):
        boxes, classes = _boxes(objects), np.asarray(classes, np.int32).reshape(-1)
        areas = None if areas is None else np.asarray(areas, np.float32).reshape(-1)
        for name, values in ('classes', classes), ('areas', areas), ('segms', segms):
            if values is not None and len(values) != len(boxes):
                raise ValueError(f'{image}: {len(boxes)} objects have {len(values)} {name}')
        if classes.size and not 0 < classes.min() <= classes.max() < num_classes:
            raise ValueError(
                f'{image}: classes of objects lie in 1 .. {num_classes - 1}, got '
                f'{classes.min()} .. {classes.max()}'
            )
        starts = np.array([0, len(boxes)])
        difficult = np.array([int(difficult)])
        self._refer(
            Objects(num_classes, starts, boxes, classes, difficult, areas, crowds=crowds, segms=segms), 0
        )
        self.given = None if proposals is None else [_boxes(proposals)]
        known = {'image': image, 'width': width, 'height': height}
        self.own = {key: value for key, value in known.items() if value is not None} or None

    @classmethod
    def of(cls, source, number):
        """The record of image `number` of Objects."""
        record = object.__new__(cls)
        record._refer(source, number)
        return record

    def _refer(self, source, number):
        self.source, self.number, self.mirror = source, number, False
        self.given, self.place, self.targets, self.own = None, 0, None, None

    @property
    def _mine(self):
        return slice(self.source.starts[self.number], self.source.starts[self.number + 1])

    @property
    def num_classes(self):
        return self.source.num_classes

    @property
    def objects(self):
        """(G, 4)"""
        return self.source.boxes[self._mine]

    @property
    def classes(self):
        """(G,)"""
        return self.source.classes[self._mine]

    @property
    def areas(self):
        """(G,), or None for those of the boxes"""
        return None if self.source.areas is None else self.source.areas[self._mine]

    @property
    def difficult(self):
        """How many of the image's objects were left out."""
        return int(self.source.difficult[self.number])

    @property
    def crowds(self):
        """Those of the image, or None."""
        return self.source.crowds and self.source.crowds.of(self.number)

    @property
    def segms(self):
        """Masks of the objects, a sequence (G,), or None."""
        return None if self.source.segms is None else self.source.segms[self._mine]

    @property
    def proposals(self):
        """(P, 4), or None. One with x1 > x2 or y1 > y2 raises, naming the image."""
        if self.given is None:
            return None
        boxes = _boxes(self.given[self.place])
        wrong = boxes[:, 2:] < boxes[:, :2]
        if wrong.any():
            number = wrong.any(1).argmax()
            box = boxes[number].tolist()
            raise ValueError(f'{self.image}: proposal {number}, a box with x1 > x2 or y1 > y2: {box}')
        return boxes

    @property
    def image(self):
        """Its path, or None."""
        found = self.source.images and self.source.images[self.number]
        return self.own.get('image', found) if self.own else found

    @property
    def width(self):
        """Pixels, or None."""
        return self._size('width', 0)

    @property
    def height(self):
        """Pixels, or None."""
        return self._size('height', 1)

    def _size(self, key, column):
        if self.own and key in self.own:
            return self.own[key]
        return None if self.source.sizes is None else int(self.source.sizes[self.number, column])

    def sets(self, *keys):
        """Whether one of keys was set."""
        return bool(self.own) and not self.own.keys().isdisjoint(keys)

    def with_proposals(self, boxes, place=None):
        """A record of the same image and objects, and of boxes (P, >= 4) in place of its proposals; given a place,
        those are boxes[place], read when they are asked for."""
        record = self._twin()
        record.given, record.place = ([_boxes(boxes)], 0) if place is None else (boxes, place)
        return record

    def mirrored(self):
        """The record of the image's mirror image. Wants the width."""
        if self.width is None:
            raise ValueError(f'{self.image}: the width is not known, so the boxes cannot be mirrored')
        record = self._twin()
        record.mirror = not self.mirror
        return record

    def best_objects(self):
        """-> IoU (R,) float32 of each box with the object it meets best, and that object's class (R,) or 0; -1 and 0 of
        proposals that a crowd holds."""
        classes, proposals = self.classes.astype(np.int64), self.proposals
        overlaps = np.ones(len(classes), np.float32)
        if proposals is None:
            return overlaps, classes
        best, which = _best(proposals, self.objects)
        if self.crowds and len(proposals):
            best[self.crowds.hold(proposals)] = -1
        found = np.where(best > 0, classes[which], 0) if classes.size else np.zeros(len(best), np.int64)
        return np.append(overlaps, best), np.append(classes, found)

    def _twin(self):
        twin = Record.of(self.source, self.number)
        twin.mirror, twin.given, twin.place, twin.targets = self.mirror, self.given, self.place, self.targets
        twin.own = self.own and dict(self.own)
        return twin

    def __reduce__(self):
        known = {key: getattr(self, key) for key in FIELDS}
        held = {**known, 'areas': self.areas, 'proposals': self.proposals}
        held.update(difficult=self.difficult, crowds=self.crowds, segms=self.segms)
        state = self.mirror, self.targets, self.own
        return _restored, (self.objects, self.classes, self.num_classes, held, *state)

    def __getitem__(self, key):
        if self.own and key in self.own:
            return self.own[key]
        if key in COMPUTED:
            return COMPUTED[key](self)
        if key in FIELDS and getattr(self, key) is not None:
            return getattr(self, key)
        if key == 'segms' and self.source.segms is not None:
            return _masks(self)
        if key == 'bbox_targets' and self.targets is not None:
            return self.targets(self)
        raise KeyError(key)

    def __setitem__(self, key, value):
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
        count = 0 if self.given is None else len(self.given[self.place])
        return f'Record({self.image}, {self.width} x {self.height}, {len(self.objects)} objects, {count} proposals)'


def best_objects(entry):
    """max_overlaps (R,), max_classes (R,) of a Record, found together, or of a dict that holds them."""
    if isinstance(entry, Record) and not entry.sets('max_overlaps', 'max_classes'):
        return entry.best_objects()
    return entry['max_overlaps'], entry['max_classes']


def _restored(objects, classes, num_classes, held, mirror, targets, own):
    record = Record(objects, classes, num_classes, **held)
    record.mirror, record.targets, record.own = mirror, targets, {**(record.own or {}), **(own or {})} or None
    return record


def _best(proposals, objects):
    """IoU (P,) float32 of each proposal with the object it meets best, and which that is (P,)."""
    if not len(objects) or not len(proposals):
        return np.zeros(len(proposals), np.float32), np.zeros(len(proposals), np.int64)
    iou = bbox_overlaps(proposals.astype(float), objects.astype(float))
    which = iou.argmax(1)
    return iou[np.arange(len(which)), which].astype(np.float32), which


def _boxes(values):
    values = np.asarray(values, np.float32)
    return np.ascontiguousarray(
        values.reshape(len(values), -1)[:, :4] if values.size else np.zeros((0, 4)), np.float32
    )


def mirror_boxes(boxes, width):
    """Boxes (R, 4) in the mirror image of an image of this width."""
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = width - 1 - boxes[:, [2, 0]]
    return mirrored


def _all_boxes(record):
    proposals = record.proposals
    boxes = record.objects if proposals is None else np.vstack([record.objects, proposals])
    return mirror_boxes(boxes, record.width) if record.mirror else boxes


def _padded(record, values):
    """values (G,) of the objects, and 0 for each proposal."""
    if record.given is None:
        return values
    return np.append(values, np.zeros(len(record.given[record.place]), values.dtype))


def _areas(record):
    boxes = record.objects
    own = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    return _padded(record, own if record.areas is None else record.areas)


def _masks(record):
    masks = list(record.segms)
    return masks if record.given is None else masks + [None] * len(record.given[record.place])


def _overlaps(record):
    import scipy.sparse  # takes its time, and a training does without

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
