"""Blob: numpy views, coherence with what the engine writes, sharing."""

import gc

import caffe
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe.blob import Blob
from helpers import data, layer, net_from


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


def test_put_takes_a_copy_of_an_array():
    blob, array = Blob(2), np.arange(6.0).reshape(2, 3)
    blob.put(array)
    array[...] = 0
    assert (
        blob.shape == (2, 3)
        and blob.data.dtype == np.float32
        and blob.data.tolist() == [[0, 1, 2], [3, 4, 5]]
    )
    blob.put(np.zeros((0, 5)))
    assert blob.shape == (0, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_put_on_a_gpu_takes_pinned_arrays_and_others():
    caffe.set_mode_gpu()
    try:
        blob = Blob(1)
        pinned = torch.ones(2, 3, pin_memory=True)
        for array in pinned.numpy(), np.ones((2, 3)), np.zeros((0, 5)):
            blob.put(array)
            assert blob.tensor.is_cuda and blob.shape == array.shape and blob.tensor.sum() == array.sum()
    finally:
        caffe.set_mode_cpu()


def test_reshape_keeps_elements_until_it_outgrows_the_largest_shape_so_far():
    blob = Blob(2, 3)
    blob.data[...] = np.arange(6).reshape(2, 3)
    blob.reshape(3, 2)
    assert (blob.data == np.arange(6).reshape(3, 2)).all()
    blob.reshape(2)
    assert (blob.data == [0, 1]).all() and blob.tensor.tolist() == [0, 1]
    blob.data[0] = 9
    blob.reshape(6)
    assert (blob.data == [9, 1, 2, 3, 4, 5]).all() and blob.tensor.tolist() == [9, 1, 2, 3, 4, 5]
    blob.reshape(7)
    assert (blob.data == 0).all()
    with pytest.raises(ValueError, match='-1'):
        blob.reshape(-1)


@pytest.mark.parametrize('member, engine', [('data', 'tensor'), ('diff', 'grad')])
def test_held_views_last_through_shrinking_and_growing_back(member, engine):
    blob = Blob(4)
    large = getattr(blob, member)
    large[...] = [1, 2, 3, 4]
    blob.reshape(2)
    small = getattr(blob, member)
    small[0] = 5
    assert large.tolist() == [5, 2, 3, 4]
    setattr(blob, engine, torch.tensor([6.0, 7.0]))
    blob.settle()
    assert small.tolist() == [6, 7] and large.tolist() == [6, 7, 3, 4]
    blob.reshape(4)
    large[3] = 8
    assert getattr(blob, engine).tolist() == [6, 7, 3, 8]


def test_elements_of_the_engine_stay_when_the_shape_grows_back():
    blob = Blob(4)
    blob.tensor = torch.tensor([1.0, 2.0])
    blob.reshape(4)
    assert blob.tensor[:2].tolist() == [1, 2] and blob.data[:2].tolist() == [1, 2]


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


def test_own_memory_that_another_blob_looks_into_is_not_written():
    """The other way round: the tensor was the first blob's own; it is copied before its view leaves."""
    a, b = Blob(4), Blob()
    a.data[...] = 1
    b.take(a.tensor[:2], [a])
    a.data[...] = 7
    assert b.tensor.tolist() == [1, 1] and a.tensor.tolist() == [7] * 4
    a.diff[...] = 2
    b.take_grad(a.grad[:2], [a])
    a.diff[...] = 7
    assert b.grad.tolist() == [2, 2]


@pytest.mark.host
def test_what_a_held_view_shows_is_copied_for_another_blob():
    a, b = Blob(4), Blob()
    view = a.data
    view[...] = 1
    b.take(a.tensor[:2], [a])
    view[...] = 7
    assert b.tensor.tolist() == [1, 1] and a.tensor.tolist() == [7] * 4


def test_reading_copies_nothing():
    a, b = Blob(4), Blob()
    a.fill(torch.ones(4))
    where = a.tensor.data_ptr()
    b.take(a.tensor[:2], [a])
    assert a.tensor.data_ptr() == b.tensor.data_ptr() == where
    a.data[...] = 2  # only a write does, and only one of them
    assert a.tensor.data_ptr() != b.tensor.data_ptr() == where


def test_share():
    a, b = Blob(2), Blob(2)
    b.share(a)
    a.data[...] = 3
    b.diff[...] = 4
    assert (b.data == 3).all() and (a.diff == 4).all()


@pytest.mark.host
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


@pytest.mark.host
def test_a_gradient_becomes_ours_unless_others_hold_it():
    blob, grad = Blob(2), torch.ones(2)
    blob.add_grad(grad)
    assert blob.grad.data_ptr() == grad.data_ptr()
    other = Blob(2)
    other.add_grad(grad, shared=True)
    other.add_grad(grad)
    assert (grad == 1).all() and (other.grad == 2).all()


@pytest.mark.host
def test_held_views_follow_an_update():
    """As a solver changes a parameter: its values in place, its diff by another tensor."""
    blob = Blob(2)
    data, diff = blob.data, blob.diff
    blob.clear_grad()
    blob.add_grad(torch.ones(2))
    blob.update().sub_(blob.grad)
    blob.grad = torch.full((2,), 3.0)
    blob.settle()
    assert (data == -1).all() and (diff == 3).all()
    blob.clear_grad()
    assert (diff == 0).all()


def test_state_never_comes_twice():
    """Not even when new memory lies where the old one did."""
    seen, blob = set(), Blob(3)
    for size in (3, 4) * 100:
        blob = Blob(size)
        blob.fill(torch.ones(size))
        assert blob.state not in seen
        seen.add(blob.state)


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


# Who is the truth and who shares, against a model of plain arrays: a blob is an array with room and a count, a
# view looks into one array, and nothing but sharing lets two blobs have one array. NaN: nobody promises a value.


class Model:
    """Three blobs and their arrays; each step does the same to both."""

    def __init__(self):
        self.blobs = [Blob(3) for _ in range(3)]
        self.arrays = [np.zeros(3, np.float32) for _ in range(3)]
        self.views = []  # pairs (a blob's view, the model's)
        self.next = 0.0

    def fresh(self, count):
        self.next += count
        return np.arange(self.next - count, self.next, dtype=np.float32)

    def reshape(self, i, j, count):
        self.blobs[i].reshape(count)
        if count > len(self.arrays[i]):
            self.arrays[i] = np.zeros(count, np.float32)

    def write(self, i, j, count):
        values = self.fresh(self.blobs[i].count)
        self.blobs[i].data[...] = values
        self.arrays[i][: len(values)] = values

    def hold(self, i, j, count):
        self.views.append((self.blobs[i].data, self.arrays[i][: self.blobs[i].count]))

    def write_held(self, i, j, count):
        for view, array in self.views[:1]:
            view[...] = array[...] = self.fresh(len(view))

    def drop(self, i, j, count):
        del self.views[:1]

    def compute(self, i, j, count):
        """The engine puts a result there."""
        self.put(i, torch.from_numpy(self.fresh(count)))

    def cut(self, i, j, count):
        """The engine puts the first elements of blob j into blob i."""
        self.put(i, self.blobs[j].tensor[:count], [self.blobs[j]])

    def put(self, i, value, sources=()):
        values = value.numpy().copy()
        self.blobs[i].take(value, sources)
        self.blobs[i].settle()
        if len(values) > len(self.arrays[i]):
            self.arrays[i] = values
        self.arrays[i][: len(values)] = values
        self.arrays[i][len(values) :] = np.nan

    def change(self, i, j, count):
        """As a solver does."""
        self.blobs[i].update().add_(1)
        self.blobs[i].settle()
        self.arrays[i][: self.blobs[i].count] += 1

    def share(self, i, j, count):
        self.blobs[i].reshape(*self.blobs[j].shape)
        self.blobs[i].share_data(self.blobs[j])
        self.arrays[i] = self.arrays[j]

    def look(self, i, j, count):
        same(self.blobs[i].data, self.arrays[i][: self.blobs[i].count])

    def check(self):
        for blob, array in zip(self.blobs, self.arrays):
            same(blob.tensor.numpy(), array[: blob.count])
        for view, array in self.views:
            same(view, array)


def same(got, want):
    known = ~np.isnan(want)
    assert got.shape == want.shape and (got[known] == want[known]).all(), (got, want)


STEPS = [n for n in vars(Model) if n not in ('fresh', 'put', 'check') and n[0] != '_']


@pytest.mark.host
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), *[st.integers(0, 2)] * 2, st.integers(1, 6)), max_size=12))
def test_blobs_are_arrays_that_only_share_what_they_were_told_to(steps):
    model = Model()
    for name, *arguments in steps:
        getattr(model, name)(*arguments)
        model.check()


# The same, seen in nets


CUTS = {
    'Slice': 'slice_param { slice_point: 1 }',
    'Crop': 'crop_param { axis: 1 }',
    'Permute': 'permute_param { order: 0 order: 2 order: 1 }',
}


@pytest.mark.host
@pytest.mark.parametrize('kind', CUTS)
@pytest.mark.parametrize('held', [False, True])
def test_writing_a_bottom_leaves_the_tops_of_a_layer_that_copies(tmp_path, kind, held):
    bottoms, tops = ('x like', 'a') if kind == 'Crop' else ('x', 'a b') if kind == 'Slice' else ('x', 'a')
    net = net_from(
        tmp_path, data('x', 1, 2, 3) + data('like', 1, 1, 3) + layer('L', kind, bottoms, tops, CUTS[kind])
    )
    view = net.blobs['x'].data
    view[...] = np.arange(6).reshape(1, 2, 3)
    if not held:
        del view
    net.run_forward()  # which, unlike forward, looks at no top
    before = net.blobs['a'].tensor.clone()
    net.blobs['x'].data[...] = 7
    assert (net.blobs['a'].tensor == before).all() and (net.blobs['a'].data == before.numpy()).all()


@pytest.mark.parametrize('held', [False, True])
def test_writing_the_diff_of_a_top_leaves_those_of_the_bottoms(tmp_path, held):
    text = 'force_backward: true ' + data('a', 1, 2) + data('b', 1, 2) + layer('cat', 'Concat', 'a b')
    net = net_from(tmp_path, text)
    net.forward()
    view = net.blobs['cat'].diff
    view[...] = [[1, 2, 3, 4]]
    if not held:
        del view
    net.run_backward()  # which, unlike backward, looks at no diff
    net.blobs['cat'].diff[...] = 7
    assert net.blobs['a'].diff.tolist() == [[1, 2]] and net.blobs['b'].diff.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    'kind, tops, more',
    [
        ('Flatten', 'y', ''),
        ('Reshape', 'y', 'reshape_param { shape { dim: 3 dim: -1 } }'),
        ('Split', 'y z', ''),
    ],
)
def test_layers_that_share_their_values_with_the_bottom(tmp_path, kind, tops, more):
    """As in Caffe: a write to either side is one to both, and in-place layers behind reach the bottom."""
    text = data('x', 1, 2, 3) + layer('L', kind, 'x', tops, more)
    net = net_from(tmp_path, text)
    net.forward(x=np.arange(6).reshape(1, 2, 3))
    net.blobs['x'].data[0, 1, 2] = 9
    assert net.blobs['y'].data.ravel().tolist() == [0, 1, 2, 3, 4, 9]
    held = net.blobs['x'].data
    net.blobs['y'].data[...] = -8
    assert (held == -8).all() and (net.blobs[tops[-1]].tensor == -8).all()
    net.blobs['x'].reshape(2, 2, 3)  # more than there was room for: new memory, again in common
    net.forward()
    net.blobs['x'].data[...] = 4
    assert net.blobs['y'].count == 12 and (net.blobs['y'].data == 4).all()
    net = net_from(tmp_path, text + layer('relu', 'ReLU', 'y', 'y'))
    net.forward(x=-np.ones((1, 2, 3)))
    assert (net.blobs['x'].data == 0).all()
