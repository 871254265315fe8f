"""The roidb made ready to train on: paths, sizes, best classes, regression targets and their statistics.

K classes; a roidb is a list of dicts, one an image.
"""

import logging

import numpy as np

from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import compute_targets
from roi_data_layer.minibatch import background_allowed, is_empty

log = logging.getLogger(__name__)


def prepare_roidb(imdb):
    """Add image (path), width, height, max_classes, max_overlaps to imdb.roidb's entries, in place."""
    for i, entry in enumerate(imdb.roidb):
        entry['image'] = path = imdb.image_path_at(i)
        entry['width'], entry['height'] = imdb.image_size_at(i)
        overlaps = entry['gt_overlaps'].toarray()
        entry['max_classes'] = overlaps.argmax(axis=1)
        entry['max_overlaps'] = overlaps.max(axis=1)
        odd = (entry['max_overlaps'] > 0) != (entry['max_classes'] > 0)
        if odd.any():
            raise ValueError(
                f'{path}: RoI {np.where(odd)[0][0]} has a class if and only if it overlaps an '
                'object; its gt_overlaps say otherwise'
            )


def filter_roidb(roidb):
    """The entries that training can use by cfg.TRAIN; logs how many were left out.

    Left out: images narrower than MIN_IM_RATIO, and images with neither foreground nor background RoIs.
    Images without an object, not even a difficult one, stay with USE_EMPTY, if there is anything in them that may
    serve as background.
    """
    kept = [entry for entry in roidb if _is_wide_enough(entry) and _has_examples(entry)]
    if not kept:
        raise ValueError(f'none of the {len(roidb)} images has anything to train on')
    log.info('%d of %d roidb entries left out: %d remain', len(roidb) - len(kept), len(roidb), len(kept))
    return kept


def add_bbox_regression_targets(roidb):
    """Give each entry bbox_targets (n, 5: class, dx, dy, dw, dh), normalised by cfg.TRAIN.

    -> means, stds (4K,) that a snapshot's bbox_pred is to be unnormalised with
    """
    if not roidb or 'max_classes' not in roidb[0]:
        raise ValueError('the roidb is empty or not prepared: call prepare_roidb first')
    for entry in roidb:
        entry['bbox_targets'] = compute_targets(
            entry['boxes'], entry['max_overlaps'], entry['max_classes'], cfg.TRAIN.BBOX_THRESH
        )
    num_classes = roidb[0]['gt_overlaps'].shape[1]
    if cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        means = np.tile(np.array(cfg.TRAIN.BBOX_NORMALIZE_MEANS), (num_classes, 1))
        stds = np.tile(np.array(cfg.TRAIN.BBOX_NORMALIZE_STDS), (num_classes, 1))
    else:
        means, stds = _target_statistics(roidb, num_classes)
    if cfg.TRAIN.BBOX_NORMALIZE_TARGETS:
        for entry in roidb:
            targets = entry['bbox_targets']
            rows = np.where(targets[:, 0] > 0)[0]
            classes = targets[rows, 0].astype(np.int64)
            targets[rows, 1:] = (targets[rows, 1:] - means[classes]) / np.where(stds == 0, 1, stds)[classes]
    return means.ravel(), stds.ravel()


def _target_statistics(roidb, num_classes):
    """Mean and standard deviation (K, 4) of each class's targets; zero for a class without any."""
    counts = np.zeros((num_classes, 1))
    sums, squares = np.zeros((num_classes, 4)), np.zeros((num_classes, 4))
    for entry in roidb:
        targets = entry['bbox_targets'][entry['bbox_targets'][:, 0] > 0].astype(np.float64)
        classes = targets[:, 0].astype(np.int64)
        np.add.at(counts, classes, 1)
        np.add.at(sums, classes, targets[:, 1:])
        np.add.at(squares, classes, targets[:, 1:] ** 2)
    counts = np.maximum(counts, cfg.EPS)
    means = sums / counts
    variances = squares / counts - means**2
    return means, np.sqrt(np.where(variances > cfg.EPS, variances, 0))


def _is_wide_enough(entry):
    short, long = sorted((entry['width'], entry['height']))
    return short / long >= cfg.TRAIN.MIN_IM_RATIO


def _has_examples(entry):
    train, overlaps = cfg.TRAIN, entry['max_overlaps']
    if train.USE_EMPTY and is_empty(entry):
        return background_allowed(entry) and (train.HAS_RPN or len(overlaps) > 0)
    if np.any(overlaps >= train.FG_THRESH):
        return True
    background = (overlaps < train.BG_THRESH_HI) & (overlaps >= train.BG_THRESH_LO)
    return bool(background.any()) and background_allowed(entry)
