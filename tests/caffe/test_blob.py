"""Blob: numpy views, coherence with what the engine writes, sharing."""

import gc

import numpy as np
import pytest
import torch

from caffe.blob import Blob


def test_starts_as_zeros_and_takes_writes():
    blob = Blob(2, 3)
    assert blob.shape == (2, 3) and blob.count == 6 and blob.data.dtype == np.float32
    blob.data[...] = 5
    blob.diff[0] = 1
    assert blob.tensor.sum() == 30 and blob.grad.sum() == 3


def test_legacy_axes():
    blob = Blob(2, 3)
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 3, 1, 1)
    with pytest.raises(ValueError, match='up to 4 axes'):
        Blob(1, 2, 3, 4, 5).num


def test_reshape_keeps_values_of_equal_count_only():
    blob = Blob(2, 3)
    blob.data[...] = np.arange(6).reshape(2, 3)
    blob.reshape(3, 2)
    assert (blob.data == np.arange(6).reshape(3, 2)).all()
    blob.reshape(4)
    assert (blob.data == 0).all()
    with pytest.raises(ValueError, match='-1'):
        blob.reshape(-1)


def test_held_view_follows_the_blob():
    blob = Blob(3)
    view = blob.data
    for value in (1.0, 2.0):
        blob.tensor = torch.full((3,), value)
        blob.settle()
        assert (view == value).all()
    view[0] = 9  # and writes through it still count
    assert blob.tensor[0] == 9


def test_part_of_a_view_is_enough_to_hold_it():
    blob = Blob(2, 2)
    row = blob.data[1]
    gc.collect()
    blob.tensor = torch.ones(2, 2)
    blob.settle()
    assert (row == 1).all()


def test_write_reaches_one_blob_only():
    """Two blobs may be given views of one tensor by the engine; writing one through numpy leaves the other."""
    tensor = torch.zeros(4)
    a, b = Blob(2), Blob(2)
    a.tensor, b.tensor = tensor[:2], tensor[:2]
    a.data[...] = 7
    assert (b.data == 0).all() and (tensor == 0).all()


def test_share():
    a, b = Blob(2), Blob(2)
    b.share(a)
    a.data[...] = 3
    b.diff[...] = 4
    assert (b.data == 3).all() and (a.diff == 4).all()


def test_add_grad_and_clear():
    blob = Blob(2)
    view = blob.diff
    blob.add_grad(torch.ones(2))
    blob.add_grad(torch.ones(2))
    assert (view == 2).all()
    blob.clear_grad()
    assert (view == 0).all()
    blob.add_grad(torch.ones(2))
    assert (blob.diff == 1).all()


def test_state_tells_of_possible_writes():
    blob = Blob(2)
    blob.fill(torch.ones(2))
    before = blob.state
    assert before is not None and blob.state == before
    blob.data[0] = 2
    assert blob.state != before
    view = blob.data
    assert blob.state is None  # somebody may write at any time
    del view
    assert blob.state is not None
