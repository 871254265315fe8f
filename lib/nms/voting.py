"""Box voting: a detection that is kept is moved to where all of its class say (Gidaris and Komodakis 2015, section 5)."""

import numpy as np


def vote(kept, dets, thresh, overlaps):
    """kept (m, 5) x1 y1 x2 y2 score and the dets (n, 5) of the same class -> (m, 5): each box the mean of all dets that
    overlap it by at least thresh (IoU), itself among them, weighted by their scores; scores stay. overlaps (m, n).

    Errors: ValueError for scores that are negative, which are no weights.
    """
    if not len(kept):
        return kept
    if (dets[:, 4] < 0).any():
        raise ValueError(f'box voting weighs by scores of 0 to 1; got {dets[:, 4].min()}')
    weights = np.where(overlaps >= thresh, dets[:, 4].astype(np.float64), 0)
    total = weights.sum(1, keepdims=True)
    boxes = weights @ dets[:, :4].astype(np.float64) / np.where(total > 0, total, 1)
    moved = np.where(total > 0, boxes, kept[:, :4])
    return np.hstack([moved, kept[:, 4:]]).astype(kept.dtype)
