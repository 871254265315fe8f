"""Soft-NMS: a box that overlaps a better one is not dropped, its score falls (Bodla et al. 2017, section 3)."""

import numpy as np

from utils.cython_bbox import bbox_overlaps

DECAYS = ('linear', 'gaussian')


def soft_nms(dets, decay, iou_thresh=0.3, sigma=0.5, min_score=0.001):
    """dets (N, 5) x1 y1 x2 y2 score -> (n, 5) float32 with the scores that are left, best first.

    Again and again the best box b is taken and every other box's score is multiplied, with o = its IoU with b:
    'linear' by 1 - o where o > iou_thresh, 'gaussian' by exp(-o^2 / sigma). Scores below min_score are dropped.
    """
    if decay not in DECAYS:
        raise ValueError(f'Soft-NMS wants a decay of {DECAYS}, got {decay!r}')
    left, taken = np.array(dets, np.float64).reshape(-1, 5), []
    left = left[left[:, 4] >= min_score]
    while len(left):
        best = left[:, 4].argmax()
        taken.append(left[best])
        left = np.delete(left, best, 0)
        overlaps = bbox_overlaps(np.ascontiguousarray(left[:, :4]), taken[-1][None, :4])[:, 0]
        if decay == 'linear':
            left[:, 4] *= np.where(overlaps > iou_thresh, 1 - overlaps, 1)
        else:
            left[:, 4] *= np.exp(-(overlaps**2) / sigma)
        left = left[left[:, 4] >= min_score]
    return np.array(taken, np.float32).reshape(-1, 5)
