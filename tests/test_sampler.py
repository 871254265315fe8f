"""The order of an epoch: every image once, wide with wide, val images mixed in, and shares of workers."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roi_data_layer.sampler import Sampler, bands, epoch_order, is_train_split, mix_val


def roidb(count, wide=None):
    wide = range(count) if wide is None else wide
    return [{'width': 2 if i in wide else 1, 'height': 1.5, 'image': f'/train/{i}.jpg'} for i in range(count)]


def test_epoch_order():
    np.random.seed(1)
    wide = np.array([True] * 5 + [False] * 4)
    order = epoch_order(wide, True)
    assert sorted(order) == list(range(9))
    shapes = [wide[i] for i in order[:8]]
    assert sum(a != b for a, b in zip(shapes[0::2], shapes[1::2])) == 1  # five are wide: one pair is mixed
    assert sorted(epoch_order(wide, False)) == list(range(9))


def test_the_images_of_a_pass_are_of_like_shape():
    """But for the one group where the wide ones end, and what is left over."""
    random = np.random.RandomState(0)
    wide = random.rand(103) < 0.5
    for images in 2, 3, 8:
        sampler = Sampler(roidb(103, wide=np.flatnonzero(wide)), images)
        sampler.shuffle()
        assert sorted(sampler.order) == list(range(103))
        taken = [wide[sampler.take()] for _ in range(103 // images)]
        assert sum(len(set(some)) > 1 for some in taken) <= 1


def test_the_draws_are_the_originals():
    """Two permutations of the kinds, one of the pairs."""
    np.random.seed(7)
    wide, tall = np.random.permutation([0, 2, 4]), np.random.permutation([1, 3, 5])
    pairs = np.hstack([wide, tall]).reshape(-1, 2)[np.random.permutation(3)]
    np.random.seed(7)
    sampler = Sampler(roidb(6, wide=(0, 2, 4)), 1)
    sampler.shuffle()
    assert sampler.order.tolist() == pairs.ravel().tolist()


def test_bands_of_width_over_height():
    """Three to an octave: edges at 2^-1, 2^-2/3, 2^-1/3, 1, 2^1/3, 2^2/3, 2."""
    ratios = np.array([0.4, 0.5, 0.62, 0.7, 0.9, 1, 1.2, 1.3, 1.5, 1.6, 1.9, 2, 3])
    assert bands(ratios, 3).tolist() == [0, 1, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7]


def test_a_minibatch_is_of_one_band():
    """Of bands of 5, 4 and 1 images, in pairs: two and two whole ones, the fifth and the tenth with another of theirs."""
    entries = [
        {'width': w, 'height': 10, 'image': f'{i}.jpg'} for i, w in enumerate([5] * 5 + [10] * 4 + [30])
    ]
    sampler = Sampler(entries, 2, factor=3)
    for _ in range(3):
        sampler.shuffle()
        pairs = sampler.order.reshape(-1, 2)
        assert len(pairs) == 5 and all(len({entries[i]['width'] for i in pair}) == 1 for pair in pairs)
        assert set(range(4, 9)) & set(pairs[:4].ravel()) and len(set(pairs[:4].ravel())) == 8
    lone = Sampler(entries[9:] + entries[:2], 2, factor=3)
    lone.shuffle()
    assert lone.order.tolist() in ([1, 2], [2, 1])  # no whole minibatch more of three images


def test_train_split():
    assert is_train_split('/val/DET/train/n01/a.JPEG') and not is_train_split('/train/DET/val/a.JPEG')
    assert not is_train_split('/images/train.jpg')


def test_mix_val():
    is_val = np.array([True] * 2 + [False] * 9)
    mixed = mix_val(np.array([5, 0, 2, 3, 1, 4, 6, 7, 8, 9, 10]), is_val, 1, 4)
    assert mixed.tolist() == [0, 5, 2, 3, 1, 4, 6, 7, 0, 8, 9]
    assert is_val[mix_val(np.arange(11), is_val, 3, 5)].tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [
        False
    ] * 2 + [True]


def test_mixing_wants_both_kinds_and_a_share():
    entries = [{'width': 1, 'height': 1, 'image': f'/{split}/a.jpg'} for split in ('train', 'val')]
    Sampler(entries, 1, mix=(1, 8))
    with pytest.raises(ValueError, match='one kind alone'):
        Sampler(entries[:1], 1, mix=(1, 8))
    for mix in (0, 8), (8, 8), (1, 0):
        with pytest.raises(ValueError, match='0 < TRAIN.VAL_PER_BATCH_SIZE'):
            Sampler(entries, 1, mix=mix)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 30), st.integers(0, 99))
def test_workers_share_an_order(images, count, iter_size, total, seed):
    """Together they draw what one draws in count times the passes, whatever was drawn before, minibatch by minibatch
    in the order of their ranks; an order ends with a whole real batch, when no more images than that are left."""
    real_batch = images * count * iter_size
    one, *workers = [
        Sampler(roidb(total), images, True, None, rank, n, seed)
        for rank, n in [(0, 1), *((rank, count) for rank in range(count))]
    ]
    drawn, orders = [], {}
    for sampler in one, *workers:
        sampler.real_batch = real_batch
    for _ in range(3 * iter_size):
        for worker in workers:
            for sampler in one, worker:
                if sampler.exhausted:
                    assert sampler.place % real_batch == 0
                    assert not orders or len(sampler.order) - sampler.place <= real_batch
                    sampler.shuffle()
                orders.setdefault(sampler.epoch, sampler.order.tolist())
                assert sampler.order.tolist() == orders[sampler.epoch]
            expected, place = one.take().tolist(), one.place - images
            after = np.random.rand()
            np.random.seed(1)
            assert worker.take().tolist() == expected and np.random.rand() == after
            drawn.append((one.epoch, place, expected))
    for epoch, place, indices in drawn:
        assert indices == (orders[epoch] * (real_batch + 1))[place : place + images]
    if total > real_batch:
        for batch in range(3):
            indices = sum((i for _, _, i in drawn[batch * count * iter_size :][: count * iter_size]), [])
            assert len(set(indices)) == real_batch


def test_a_seed_begins_the_engines_draws_too():
    sampler = Sampler(roidb(9), 1, seed=3)
    sampler.shuffle()
    numbers = []
    for _ in range(2):
        sampler.place = 4
        sampler.take()
        numbers.append([np.random.rand(), float(torch.rand(())), random.random()])
    sampler.take()
    numbers.append([np.random.rand(), float(torch.rand(())), random.random()])
    assert numbers[0] == numbers[1] and not set(numbers[1]) & set(numbers[2])


def test_workers_want_a_seed():
    with pytest.raises(ValueError, match='2 workers go through one order only if their draws have a seed'):
        Sampler(roidb(3), 1, count=2)


def test_state():
    sampler, other = Sampler(roidb(9), 2), Sampler(roidb(9), 2)
    for _ in range(6):
        if sampler.exhausted:
            sampler.shuffle()
        sampler.take()
    other.restore(sampler.state())
    assert other.epoch == 2 and other.take().tolist() == sampler.take().tolist()


def classed(classes, wide):
    entries = roidb(len(classes), wide)
    for entry, own in zip(entries, classes):
        entry['gt_classes'] = np.array(own)
    return entries


def test_images_are_drawn_by_class():
    """Of 50 images 48 have class 1 alone, one has class 7, and one none: half of the draws are of the one of class 7."""
    entries = classed([[1, 1, 0]] * 48 + [[7, 1], []], range(0, 50, 2))
    for factor in 0, 2:
        np.random.seed(0)
        sampler, drawn = Sampler(entries, 1, factor=factor, class_aware=True), []
        for _ in range(40):
            sampler.shuffle()
            assert len(sampler.order) == 50
            drawn += sampler.order.tolist()
        assert 0.46 < np.mean(np.array(drawn) == 48) < 0.56 and 49 not in drawn and len(set(drawn)) == 49
    with pytest.raises(ValueError, match='CLASS_AWARE'):
        Sampler(classed([[], [0]], []), 1, class_aware=True)


def test_drawn_by_class_pairs_are_of_like_shape_and_seeds_give_the_same():
    entries = classed([[1 + i % 3] for i in range(40)], range(0, 40, 3))
    taken = []
    for _ in range(2):
        sampler = Sampler(entries, 2, seed=5, class_aware=True)
        sampler.shuffle()
        ahead = sampler.ahead()
        coming = [next(ahead)[0].tolist() for _ in range(5)]
        assert [sampler.take().tolist() for _ in range(5)] == coming
        taken.append(sampler.order.tolist())
    assert taken[0] == taken[1]
    wide = np.array([i % 3 == 0 for i in taken[0]]).reshape(-1, 2)
    assert (wide[:, 0] != wide[:, 1]).sum() <= 1
