"""Annotations made ground truth: which object lies where, by number of image and class.

N images, B objects of all of them that are kept, in the images' order, K classes.
"""

from typing import NamedTuple

import numpy as np

from datasets.readers.boxes import clean_boxes
from datasets.record import Crowds, Objects


class Truth(NamedTuple):
    """images (B,), classes (B,), boxes (B, 4) float32 by clean_boxes, difficult (B,) bool, written (B, 4):
    the boxes as in the files. Of each image: starts (N + 1,), its objects are those from starts[i] to
    starts[i + 1]; sizes (N, 2) width and height; dropped (N,), how many boxes clean_boxes left out. areas (B,): pixels
    of the objects, None: those of the boxes. numbers (B,): which of all boxes as written each is."""

    images: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    written: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    dropped: np.ndarray
    areas: np.ndarray = None
    numbers: np.ndarray = None

    def objects(self, num_classes, images, use_diff=False, crowd_thresh=None, segms_of=None):
        """The Objects of all images (N paths): those not difficult or, with use_diff, all. crowd_thresh: difficult ones
        are Crowds of that threshold. segms_of: a function of numbers (B,) that gives the masks of these."""
        kept = slice(None) if use_diff or not self.difficult.any() else ~self.difficult
        counts = np.bincount(self.images[kept], minlength=len(self.sizes))
        return Objects(
            num_classes,
            starts=np.append(0, np.cumsum(counts)),
            boxes=self.boxes[kept],
            classes=self.classes[kept],
            difficult=np.diff(self.starts) - counts + self.dropped,
            areas=None if self.areas is None else self.areas[kept],
            images=images,
            sizes=self.sizes,
            crowds=self._crowds(crowd_thresh) if crowd_thresh is not None and self.difficult.any() else None,
            segms=segms_of and segms_of(self.numbers[kept]),
        )

    def _crowds(self, thresh):
        counts = np.bincount(self.images[self.difficult], minlength=len(self.sizes))
        return Crowds(np.append(0, np.cumsum(counts)), self.boxes[self.difficult], thresh)


def make_truth(annotations, classes, base, areas=None):
    """Truth of Annotations, and how many boxes had which fault: {rule of clean_boxes: count}.

    classes (V,): the class of each name in annotations.vocabulary; base: the number of the first pixel.
    areas: of all boxes as written, or None.
    """
    number = np.arange(len(annotations.counts))
    images = np.repeat(number, annotations.counts)
    boxes, faults = clean_boxes(annotations.boxes, *annotations.sizes[images].T, base)
    kept = ~(faults['outside'] | faults['zero area'])
    counts = np.bincount(images[kept], minlength=len(number))
    truth = Truth(
        images=images[kept],
        classes=np.asarray(classes, np.int32)[annotations.names[kept]],
        boxes=boxes[kept],
        difficult=annotations.difficult[kept],
        written=annotations.boxes[kept],
        starts=np.append(0, np.cumsum(counts)),
        sizes=annotations.sizes,
        dropped=annotations.counts - counts,
        areas=None if areas is None else areas[kept].astype(np.float32),
        numbers=np.flatnonzero(kept),
    )
    return truth, {rule: int(mask.sum()) for rule, mask in faults.items()}
