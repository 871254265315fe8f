"""Roidbs that refer to columns and to proposals on disk: prepared, told apart and measured without being read."""

import os

import numpy as np
import pytest

from datasets.record import Objects, Record
from fast_rcnn.config import cfg, overrides
from layer_runs import entry
from roi_data_layer import roidb as room
from fpn.boxes import FAMILIES
from roi_data_layer.roidb import add_bbox_regression_targets, filter_roidb, prepare_roidb, roidb_digest

K = 4


class Given(list):
    """Proposals with a digest."""

    digest = 'g'


class Unread(Given):
    """Only the first image's may be read: the number of classes is asked of it."""

    def __getitem__(self, i):
        if i:
            raise AssertionError('read, though it need not be')
        return super().__getitem__(i)


def boxes_of(random, count):
    low = random.randint(0, 60, (count, 2))
    return np.hstack([low, low + random.randint(5, 39, (count, 2))]).astype(np.float32)


@pytest.fixture
def records():
    """Seven images, of which one has no object, and their mirror images; ten proposals each, near objects."""
    random = np.random.RandomState(1)
    counts = np.array([2, 1, 3, 0, 1, 2, 2])
    boxes = boxes_of(random, counts.sum())
    columns = Objects(
        K,
        np.append(0, np.cumsum(counts)),
        boxes,
        random.randint(1, K, len(boxes)).astype(np.int32),
        np.zeros(7, np.int64),
        images=[f'/x/{i}.jpg' for i in range(7)],
        sizes=np.full((7, 2), 100),
    )
    given = Given(
        np.vstack([np.clip(boxes + random.randint(-3, 4), 0, 99)[:8], boxes_of(random, 2)]) for _ in range(7)
    )
    plain = [Record.of(columns, i).with_proposals(given, i) for i in range(7)]
    return plain + [record.mirrored() for record in plain]


def test_the_digest_of_a_roidb_says_what_is_trained_on():
    class Given(list):
        digest = 'g'

        def __getitem__(self, i):
            raise AssertionError('read, though it has a digest')

    columns = Objects(
        3, np.arange(5), np.ones((4, 4)), np.ones(4), np.zeros(4), images=['/x/a'] * 4, sizes=np.ones((4, 2))
    )
    plain = [Record.of(columns, i) for i in range(4)]
    given = [record.with_proposals(Given(), i) for i, record in enumerate(plain)]
    array = [record.with_proposals(np.zeros((1, 4))) for record in plain]
    others = [record.with_proposals(np.ones((1, 4))) for record in plain]
    renamed = [*plain[:3], Record.of(columns, 3)]
    renamed[3]['image'] = 'b'
    mirrored = [*plain[:3], plain[3].mirrored()]
    dicts = [entry('a', [[0, 0, 9, 9]], [1]), entry('a', [[0, 0, 9, 9]], [2])]
    roidbs = [plain, given, array, others, plain[:3], plain[::-1], renamed, mirrored, dicts, dicts[::-1]]
    assert len({roidb_digest(roidb) for roidb in roidbs}) == len(roidbs)
    assert roidb_digest(list(plain)) == roidb_digest([Record.of(columns, i) for i in range(4)])


def test_a_roidb_is_prepared_and_filtered_without_reading_what_need_not_be(records):
    class Imdb:
        roidb = [entry.with_proposals(Unread(range(7)), 1) for i, entry in enumerate(records)]

    prepare_roidb(Imdb())
    with overrides({'TRAIN.HAS_RPN': False, 'TRAIN.MIN_IM_RATIO': 0.5}):
        assert len(filter_roidb(Imdb.roidb[:3] + Imdb.roidb[4:7])) == 6


def by_loop(records):
    """Means and deviations by class of the targets of records, one by one."""
    targets = np.concatenate([record['bbox_targets'] for record in records]).astype(np.float64)
    means, stds = np.zeros((2, K, 4))
    for k in range(1, K):
        mine = targets[targets[:, 0] == k, 1:]
        means[k], stds[k] = mine.mean(0), mine.std(0)
    return means.ravel(), stds.ravel()


@pytest.mark.parametrize('share', [500, 2])
@pytest.mark.parametrize('which', [range(14), range(7), range(7, 14), [*range(5), 8, 8, 9]])
def test_statistics_are_those_of_every_entry(records, monkeypatch, share, which):
    """Each image is looked at once, whichever of it and its mirror image is there; by one process or several."""
    monkeypatch.setattr(room, 'SHARE', share)
    roidb = [records[i] for i in which]
    with overrides({'TRAIN.BBOX_NORMALIZE_TARGETS': False}):
        measured = add_bbox_regression_targets(roidb)
    for ours, theirs in zip(measured, by_loop(roidb)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_targets_are_what_moves_rois_onto_their_objects(records):
    """In each family: what it makes of the RoIs by their targets is the objects, up to the last pixel."""
    for name, family in FAMILIES.items():
        with overrides({'TRAIN.BBOX_NORMALIZE_TARGETS': False}):
            add_bbox_regression_targets(records, family)
        for record in records:
            rows = record['bbox_targets'][:, 0] > 0
            if not rows.any():
                continue
            rois, codes = record['boxes'][rows].astype(np.float32), record['bbox_targets'][rows, 1:]
            moved = family.moved(family.own(rois), codes, (10**6, 10**6))
            moved = moved - [
                0,
                0,
                *[not name.startswith('detectron')] * 2,
            ]  # whose ends are of the last pixel
            objects = record['boxes'][record['gt_classes'] > 0]
            assert np.abs(moved[:, None] - objects).max(2).min(1).max() < 0.01, name


def test_statistics_of_many_images_are_kept_by_what_they_are_of(records, tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path))
    monkeypatch.setattr(room, 'CACHE_FROM', 1)
    first = add_bbox_regression_targets(records)
    unread = [record.with_proposals(Unread(record.given), record.place) for record in records]
    for ours, theirs in zip(add_bbox_regression_targets(unread), first):
        np.testing.assert_array_equal(ours, theirs)
    for changed in {'TRAIN.AGNOSTIC': True}, {'TRAIN.BBOX_THRESH': 0.9}:
        with overrides(changed), pytest.raises(AssertionError, match='read'):
            add_bbox_regression_targets(unread)
    with pytest.raises(AssertionError, match='read'):
        add_bbox_regression_targets(unread[:-1])
    (kept,) = tmp_path.glob('cache/sums_*.npz')
    kept.write_bytes(kept.read_bytes()[:-9])
    for ours, theirs in zip(add_bbox_regression_targets(records), first):
        np.testing.assert_array_equal(ours, theirs)
    assert os.path.getsize(kept) > 0
