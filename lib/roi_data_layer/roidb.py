"""The roidb made ready to train on: paths, sizes, which entries are of use, regression targets and statistics.

K classes, R boxes of an image; a roidb is a list of entries, one an image: datasets.record.Records, which compute
what is asked of them, or dicts, which are given it.
"""

import hashlib
import logging
import os
from functools import reduce

import numpy as np

from datasets.record import Record, best_objects
from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import box_classes, compute_targets
from fpn.boxes import FAMILIES
from roi_data_layer.minibatch import background_times, is_empty
from utils.files import cached_npz
from utils.processes import in_shares

log = logging.getLogger(__name__)

# Statistics of so many entries or more are kept; images that a process looks at at a time
CACHE_FROM, SHARE = 4000, 500


def prepare_roidb(imdb):
    """Add image (path), width, height to imdb.roidb's entries that lack them, in place, and to dicts max_classes,
    max_overlaps."""
    for i, entry in enumerate(imdb.roidb):
        if isinstance(entry, Record) and None not in (entry.image, entry.width, entry.height):
            continue
        entry['image'] = imdb.image_path_at(i)
        entry['width'], entry['height'] = imdb.image_size_at(i)
        if not isinstance(entry, Record):
            _find_best(entry)


def _find_best(entry):
    overlaps = entry['gt_overlaps'].toarray()
    entry['max_classes'] = overlaps.argmax(axis=1)
    entry['max_overlaps'] = overlaps.max(axis=1)
    odd = (entry['max_overlaps'] > 0) != (entry['max_classes'] > 0)
    if odd.any():
        raise ValueError(
            f'{entry["image"]}: RoI {np.where(odd)[0][0]} has a class if and only if it overlaps an '
            'object; its gt_overlaps say otherwise'
        )


def roidb_digest(roidb):
    """A digest of entries: images, their sizes and boxes. Those that refer to columns and to proposals which have a
    digest of their own are not read."""
    digest, digests = hashlib.sha256(), {}
    rows = np.array([_reference(entry, digests) or _content(entry, digest) for entry in roidb], np.int64)
    digest.update(rows.tobytes())
    digest.update('\n'.join(digests).encode())
    return digest.hexdigest()


def _reference(entry, digests):
    """What an entry refers to, as five numbers (digests {digest: its number} grows), or None."""
    if (
        not isinstance(entry, Record)
        or entry.own
        or not (entry.given is None or hasattr(entry.given, 'digest'))
    ):
        return None
    objects = digests.setdefault(entry.source.digest, len(digests))
    given = -1 if entry.given is None else digests.setdefault(entry.given.digest, len(digests))
    return objects, entry.number, given, entry.place, entry.mirror


def _content(entry, digest):
    for key in 'image', 'width', 'height', 'flipped':
        digest.update(f'{entry.get(key)}|'.encode())
    for key in 'boxes', 'gt_classes':
        digest.update(np.ascontiguousarray(entry[key]).tobytes() + b'|')
    return -1, -1, -1, -1, -1


def filter_roidb(roidb):
    """The entries that training can use by cfg.TRAIN; logs how many were left out, if any.

    Left out: images narrower than MIN_IM_RATIO, and images with neither foreground nor background RoIs.
    Images without an object, not even a difficult one, stay with USE_EMPTY, if there is anything in them that may
    serve as background.
    """
    kept = [entry for entry in roidb if _is_wide_enough(entry) and _has_examples(entry)]
    if not kept:
        raise ValueError(f'none of the {len(roidb)} images has anything to train on')
    if len(kept) < len(roidb):
        log.info('%d of %d roidb entries left out: %d remain', len(roidb) - len(kept), len(roidb), len(kept))
    return kept


def kept_sums(roidb, what, images, measure):
    """The sum of measure(share) over shares of images(), a list made from the roidb, by several processes.

    what: all that the sum depends on besides the roidb. Of CACHE_FROM entries or more it is kept in data/cache.
    """

    def make():
        return {
            'sums': reduce(np.add, in_shares(measure, images(), f'statistics of {what.split(":")[0]}', SHARE))
        }

    if len(roidb) < CACHE_FROM:
        return make()['sums']
    key = f'{what} {roidb_digest(roidb)}'
    name = f'sums_{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz'
    return cached_npz(os.path.join(cfg.DATA_DIR, 'cache', name), key, make)['sums']


def moments(sums, least=0.0):
    """Means and standard deviations (K, C) by sums (K, 1 + 2C) of ones, values and squares; variances up to `least`
    count as zero."""
    counts, values, squares = np.split(sums, [1, 1 + sums.shape[1] // 2], 1)
    means = values / np.maximum(counts, cfg.EPS)
    variances = squares / np.maximum(counts, cfg.EPS) - means**2
    return means, np.sqrt(np.where(variances > least, variances, 0))


class RegressionTargets:
    """An entry -> its bbox_targets (R, 5: class, dx, dy, dw, dh), those of each class less means, divided by stds (K, 4)
    where these are given. thresh: as in compute_targets; family: of fpn.boxes."""

    def __init__(self, thresh, family=FAMILIES['caffe']):
        self.thresh, self.family, self.means, self.stds = thresh, family, None, None

    def __call__(self, entry):
        targets = compute_targets(entry['boxes'], *best_objects(entry), self.thresh, self.family.moves)
        if self.means is not None:
            rows = np.where(targets[:, 0] > 0)[0]
            classes = _classes(targets[rows], len(self.means))
            targets[rows, 1:] = (targets[rows, 1:] - self.means[classes]) / self.stds[classes]
        return targets


def _classes(targets, num_classes):
    """The row of the statistics that each target counts in; of two, every object's is the second."""
    return np.minimum(targets[:, 0].astype(np.int64), num_classes - 1)


def add_bbox_regression_targets(roidb, family=FAMILIES['caffe']):
    """Give each entry bbox_targets (R, 5: class, dx, dy, dw, dh) in a family's arithmetic, normalised by cfg.TRAIN: a
    Record the function that computes them, a dict the array.

    -> means, stds (4K,) that a snapshot's bbox_pred is to be unnormalised with; (8,) with cfg.TRAIN.AGNOSTIC
    """
    if not roidb or 'max_classes' not in roidb[0]:
        raise ValueError('the roidb is empty or not prepared: call prepare_roidb first')
    train, find = cfg.TRAIN, RegressionTargets(cfg.TRAIN.BBOX_THRESH, family)
    num_classes = box_classes(roidb[0]['gt_overlaps'].shape[1], train.AGNOSTIC)
    if train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        means = np.tile(np.array(train.BBOX_NORMALIZE_MEANS), (num_classes, 1))
        stds = np.tile(np.array(train.BBOX_NORMALIZE_STDS), (num_classes, 1))
    else:
        means, stds = _target_statistics(roidb, find, num_classes)
    if train.BBOX_NORMALIZE_TARGETS:
        find.means, find.stds = means, np.where(stds == 0, 1, stds)
    for entry in roidb:
        if isinstance(entry, Record):
            entry.targets = find
        else:
            entry['bbox_targets'] = find(entry)
    return means.ravel(), stds.ravel()


def _target_statistics(roidb, find, num_classes):
    """Mean and standard deviation (K, 4) of each class's targets; zero for a class without any."""
    sums = kept_sums(
        roidb,
        f'box targets: {find.thresh} {num_classes} {find.family}',
        lambda: _distinct(roidb),
        lambda images: _sums(images, find, num_classes),
    )
    return moments(sums, cfg.EPS)


def _distinct(roidb):
    """[entry, how often the roidb has it, how often its mirror image] of all entries that are not each other's."""
    found = {}
    for entry in roidb:
        plain = isinstance(entry, Record) and not entry.own
        key = (entry.source, entry.number, id(entry.given), entry.place) if plain else id(entry)
        item = found.setdefault(key, [entry, 0, 0])
        item[1 if item[0].get('flipped') == entry.get('flipped') else 2] += 1
    return list(found.values())


def _sums(images, find, num_classes):
    """Of each class's targets their number, sums and sums of squares (K, 9), over _distinct images. The targets of a
    mirror image are those of the image, dx with the other sign."""
    sums = np.zeros((num_classes, 9))
    for entry, times, mirrored in images:
        targets = find(entry)
        targets = targets[targets[:, 0] > 0].astype(np.float64)
        both, moves = times + mirrored, targets[:, 1:]
        rows = np.hstack([np.ones((len(moves), 1)), moves, moves**2]) * both
        rows[:, 1] = moves[:, 0] * (times - mirrored)
        np.add.at(sums, _classes(targets, num_classes), rows)
    return sums


def _is_wide_enough(entry):
    if not cfg.TRAIN.MIN_IM_RATIO:
        return True
    short, long = sorted((entry['width'], entry['height']))
    return short / long >= cfg.TRAIN.MIN_IM_RATIO


def _has_examples(entry):
    train = cfg.TRAIN
    if isinstance(entry, Record) and not entry.sets('max_overlaps') and len(entry.objects):
        return True  # each object is a foreground RoI
    overlaps = best_objects(entry)[0]
    background_allowed = background_times(entry, train) != 0
    if train.USE_EMPTY and is_empty(entry):
        return background_allowed and (train.HAS_RPN or len(overlaps) > 0)
    if np.any(overlaps >= train.FG_THRESH):
        return True
    background = (overlaps < train.BG_THRESH_HI) & (overlaps >= train.BG_THRESH_LO)
    return bool(background.any()) and background_allowed
