"""Which RoIs of an image the head trains on, and what it is to answer for them (Fast R-CNN, section 2.3).

R RoIs, K classes. Draws come from numpy's global generator: foreground first, then background. Arrays or tensors go in,
and the same come out.
"""

import numpy as np
import numpy.random as npr

from fast_rcnn.bbox_transform import bbox_transform
from utils.arrays import beside, draw, library, whole, zeros
from utils.cython_bbox import bbox_overlaps


def sample_rois(overlaps, num_rois, fg_fraction, fg_thresh, bg_thresh_hi, bg_thresh_lo, bg_times=None):
    """Draw up to num_rois RoIs (inf: all) by their highest overlaps (R,).

    Foreground: overlap >= fg_thresh, at most fg_fraction of num_rois. Background: overlap in
    [bg_thresh_lo, bg_thresh_hi), as many as foreground leaves, or bg_times those that a full foreground
    leaves.
    -> indices (foreground first), number of foreground ones
    """
    lib = library(overlaps)
    fg = lib.where(overlaps >= fg_thresh)[0]
    bg = lib.where((overlaps < bg_thresh_hi) & (overlaps >= bg_thresh_lo))[0]
    num_fg = int(min(np.round(fg_fraction * num_rois), len(fg)))
    left = num_rois - num_fg
    if bg_times is not None:
        left = bg_times and bg_times * np.round((1 - fg_fraction) * num_rois)
    num_bg = int(min(left, len(bg)))
    if len(fg):
        fg = draw(fg, num_fg)
    if len(bg):
        bg = draw(bg, num_bg)
    return lib.concatenate([fg, bg]), num_fg


def sample_repeating(overlaps, num_rois, fg_fraction, fg_thresh, bg_thresh_hi, bg_thresh_lo):
    """As sample_rois, but always num_rois (a number) of them, unless there are none: background is drawn with replacement,
    and where there is none foreground is, whatever its fraction."""
    lib = library(overlaps)
    fg = lib.where(overlaps >= fg_thresh)[0]
    bg = lib.where((overlaps < bg_thresh_hi) & (overlaps >= bg_thresh_lo))[0]
    if not len(bg):
        return (_repeating(fg, num_rois), num_rois) if len(fg) else (fg, 0)
    num_fg = int(min(np.round(fg_fraction * num_rois), len(fg)))
    fg = draw(fg, num_fg) if num_fg else fg[:0]
    return lib.concatenate([fg, _repeating(bg, num_rois - num_fg)]), num_fg


def _repeating(values, count):
    """`count` of the values, each drawn from all, by numpy's global generator."""
    return values[beside(values, np.floor(npr.rand(count) * len(values)), np.int64)]


def sample_by(train, overlaps, num_rois, has_object, bg_times=None, repeats=False):
    """sample_rois, or sample_repeating unless there is no limit, by the settings cfg.TRAIN; with USE_EMPTY any RoI may be
    background in an image without an object."""
    lowest = 0.0 if train.USE_EMPTY and not has_object else train.BG_THRESH_LO
    thresholds = train.FG_FRACTION, train.FG_THRESH, train.BG_THRESH_HI, lowest
    if repeats and num_rois < np.inf:
        return sample_repeating(overlaps, num_rois, *thresholds)
    return sample_rois(overlaps, num_rois, *thresholds, bg_times)


def normalized(targets, train):
    """Targets (R, 4) less cfg.TRAIN's means and over its deviations, where they are given before training."""
    if not train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        return targets
    means, stds = train.BBOX_NORMALIZE_MEANS, train.BBOX_NORMALIZE_STDS
    means, stds = (beside(targets, values, np.float64) for values in (means, stds))
    return (targets - means) / stds


def compute_targets(rois, overlaps, labels, thresh, moves=bbox_transform):
    """Class and regression target of every RoI (R, 4) -> (R, 5) float32: class, dx, dy, dw, dh.

    The RoIs with overlap 1 are the ground truth. A RoI with overlap >= thresh is an example of its best
    ground-truth box; the others' rows are zero. moves: of RoIs and boxes, both (n, 4), gives the codes (n, 4).
    """
    rois = rois.astype(np.float64)
    targets = np.zeros((rois.shape[0], 5), np.float32)
    gt = np.where(overlaps == 1)[0]
    if gt.size == 0:
        return targets
    examples = np.where(overlaps >= thresh)[0]
    best = bbox_overlaps(rois[examples], rois[gt]).argmax(1)
    targets[examples, 0] = labels[examples]
    targets[examples, 1:] = moves(rois[examples], rois[gt[best]])
    return targets


def box_classes(num_classes, agnostic):
    """Classes that boxes are regressed for: all, or background and object."""
    return 2 if agnostic else num_classes


def expand_bbox_targets(targets, num_classes, inside_weights, agnostic=False):
    """Targets (R, 5: class, dx, dy, dw, dh) -> targets and inside weights (R, 4K), zero but for the RoI's own
    class (background: all zero). agnostic: (R, 8), every class is the second."""
    lib = library(targets)
    expanded, weights = (
        zeros(targets, len(targets), 4 * box_classes(num_classes, agnostic)) for _ in range(2)
    )
    rows = lib.where(targets[:, 0] > 0)[0]
    classes = lib.ones_like(rows) if agnostic else whole(targets[rows, 0])
    columns = 4 * classes[:, None] + beside(rows, range(4), np.int64)
    expanded[rows[:, None], columns] = targets[rows, 1:]
    weights[rows[:, None], columns] = beside(targets, inside_weights)
    return expanded, weights
