"""The order of an epoch: every image once, wide with wide, val images mixed in, and shares of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roi_data_layer.sampler import Sampler, epoch_order, is_train_split, mix_val


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


def test_the_draws_are_the_originals():
    """Two permutations of the kinds, one of the pairs."""
    np.random.seed(7)
    wide, tall = np.random.permutation([0, 2, 4]), np.random.permutation([1, 3, 5])
    pairs = np.hstack([wide, tall]).reshape(-1, 2)[np.random.permutation(3)]
    np.random.seed(7)
    sampler = Sampler(roidb(6, wide=(0, 2, 4)), 1)
    sampler.shuffle()
    assert sampler.order.tolist() == pairs.ravel().tolist()


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


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 30), st.integers(0, 99))
def test_workers_share_an_order(images, count, more, seed):
    """Together they draw the order from its beginning, minibatch by minibatch in the order of their ranks, and
    begin another one together, with 1 .. count minibatches left."""
    workers = [
        Sampler(roidb(images * count + more), images, True, None, rank, count) for rank in range(count)
    ]
    for worker in workers:
        np.random.seed(seed)
        worker.shuffle()
    drawn, total = [], len(workers[0].order)
    while not workers[0].exhausted:
        assert not any(worker.exhausted for worker in workers)
        for worker in workers:
            ahead = worker.coming(2).tolist()
            drawn += worker.take().tolist()
            assert ahead[:images] == drawn[-images:]
    assert all(worker.exhausted for worker in workers)
    assert drawn == workers[0].order[: len(drawn)].tolist() and len(drawn) % (images * count) == 0
    assert 1 <= total - len(drawn) <= images * count


def test_too_few_images_for_the_workers():
    with pytest.raises(ValueError, match='3 images are too few for 2 workers with 2 each'):
        Sampler(roidb(3), 2, count=2)


def test_state():
    sampler, other = Sampler(roidb(9), 2), Sampler(roidb(9), 2)
    for _ in range(6):
        if sampler.exhausted:
            sampler.shuffle()
        sampler.take()
    other.restore(sampler.state())
    assert other.epoch == 2 and other.take().tolist() == sampler.take().tolist()
