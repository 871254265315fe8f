"""Detections and objects of the same images, pair by pair.

D detections and G objects of all images, P pairs of a block. Boxes (n, 4) are x1 y1 x2 y2; one: how far beyond x2 and y2
they reach, 1 where these are the last pixels, 0 where they are edges.
"""

import numpy as np

BLOCK = 1 << 20  # pairs looked at at a time, which bounds the memory


def pairs(det_images, gt_images):
    """Yields blocks (d (P,), g (P,)): each detection with each object of its image, d rising, then g. All pairs of a
    detection are in one block. det_images (D,), gt_images (G,): which image each is of."""
    det_images, gt_images = np.asarray(det_images, int), np.asarray(gt_images, int)
    order = np.argsort(gt_images, kind='stable')
    first, end = (np.searchsorted(gt_images[order], det_images, side) for side in ('left', 'right'))
    near = np.flatnonzero(end > first)
    counts = (end - first)[near]
    block = np.cumsum(counts) // BLOCK
    for d in np.split(near, np.flatnonzero(np.diff(block)) + 1) if len(near) else ():
        counts = (end - first)[d]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield np.repeat(d, counts), order[np.repeat(first[d], counts) + within]


def best(det_images, gt_images, measure):
    """For each detection the largest measure (D,) with an object of its image (-1: there is none), and which object (D,):
    the first of equals. measure(d (P,), g (P,)) -> (P,)"""
    value, match = np.full(len(det_images), -1.0), np.zeros(len(det_images), int)
    for d, g in pairs(det_images, gt_images):
        found = measure(d, g)
        starts = np.flatnonzero(np.diff(d, prepend=-1))
        top = np.maximum.reduceat(found, starts)
        tops = np.flatnonzero(found == np.repeat(top, np.diff(starts, append=len(d))))
        value[d[starts]], match[d[starts]] = top, g[tops[np.searchsorted(tops, starts)]]
    return value, match


def areas(boxes, one=0):
    return (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)


def intersections(a, b, one=0):
    """(n,) areas that a (n, 4) and b (n, 4) have in common, row by row."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + one
    return np.maximum(sides, 0).prod(1)


def ious(a, b, one=0):
    """(n,) intersection over union of a (n, 4) and b (n, 4), row by row."""
    both = intersections(a, b, one)
    return both / (areas(a, one) + areas(b, one) - both)
