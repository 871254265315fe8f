"""Blob: an array that layers exchange, with its diff, seen as numpy on the host and as torch on the engine's
device.

Four rules keep pycaffe's meaning:
- Taking `.data` or `.diff` counts as a write: the host copy is the truth until the device next reads it.
- On the CPU a view that somebody still holds follows the blob: when a forward or backward pass or an update
  ends, its results are copied into that memory (`settle`), as they would have been written there by Caffe.
- Blobs have one memory in common only by `share` and `share_data`. A tensor that the engine put into one blob
  may lie in another's storage (a slice, a passed-through diff); it is copied before a view of either leaves
  the engine, or at once where one is out already, so a write reaches one blob only.
- Memory has room for the largest shape so far: a blob that shrinks and grows back keeps its elements.

In half precision (common.set_precision) the engine may put tensors of 16 bits into a blob. Whoever looks, by numpy
or by `tensor` and `grad`, sees float32; layers take them as they are, by `held` and `grad_in`.
"""

import itertools
import math
import weakref

import numpy as np
import torch

from . import common

MOST = 2**31 - 1  # elements of a blob
SMALL = 2**12  # elements that may as well lie in two places
_versions = itertools.count()  # of all memories, so that none comes twice
_viewed = weakref.WeakSet()  # the memories whose host copy somebody may look into


class Memory:
    """Room for `size` numbers. `host` is a CPU tensor of any shape, `dev` its copy on a CUDA device, of float32
    or of 16 bits; None: not there. Both None: zeros. Of a tensor smaller than the room the rest is zeros."""

    __slots__ = (
        'size',
        'host',
        'dev',
        'own',
        'factor',
        'recall',
        'recalled',
        'version',
        '_view',
        '__weakref__',
    )

    def __init__(self, size):
        self.size = size
        self.host = self.dev = self._view = None
        self.own = False  # no tensor outside lies in the storage
        self.factor = (
            None  # a tensor or number that the array is still to be multiplied by, once somebody reads it
        )
        self.recall = None  # recall(this memory) sets the array that was let go of
        self.recalled = False  # somebody has looked at what was let go of
        self.version = next(_versions)  # another one after each possible write

    def clear(self):
        """Set to zero."""
        if self.host is None and self.dev is None and self._view is None and self.recall is None:
            return
        self.version = next(_versions)
        self.host = self.dev = self.factor = self.recall = None
        view = self.view
        if view is not None:
            view.fill(0)
            self.host, self.own = torch.from_numpy(view), True

    @property
    def empty(self):
        return self.host is None and self.dev is None

    @property
    def view(self):
        """The flat numpy array over all of the host copy that somebody still looks into, or None."""
        return None if self._view is None else self._view()

    @property
    def raw(self):
        """The tensor as it lies there, before it is multiplied by `factor`; None: zeros."""
        return self.host if self.dev is None else self.dev

    def on_host(self, count):
        """The host copy, of at least `count` elements."""
        self._complete()
        if self.host is None:
            self.host, self.own = torch.zeros(self.size) if self.dev is None else self.dev.cpu(), True
        if self.host.numel() < count:
            self.settle()
        if self.host.numel() < count:
            self._make_own()
        return self.host

    def _complete(self):
        """Do what waits until somebody reads."""
        if self.recall is not None:
            recall, self.recall, self.recalled = self.recall, None, True
            recall(self)
        if self.factor is not None:
            self._hold(self.raw.float() * self.factor)
            self.own, self.factor = True, None

    def _make_own(self):
        """Move the host copy into contiguous float32 storage of its own that has all the room."""
        count, room = self.host.numel(), torch.empty(self.size)
        room[:count].view(self.host.shape).copy_(self.host)
        room[count:] = 0
        self.host, self.own = room, True

    def array(self):
        """The host copy as flat numpy; from here on it is the truth."""
        host = self.on_host(0)
        self.version = next(_versions)
        self.dev = None
        view = self.view
        if view is not None:
            self.settle()
            return view
        whole = host.is_contiguous() and host.numel() == self.size and host.dtype == torch.float32
        if not (self.own and whole):
            self._make_own()
        view = self.host.view(-1).numpy()
        self._view = weakref.ref(view)
        _viewed.add(self)
        return view

    def tensor(self, count):
        """The array on the engine's device, of at least `count` elements, for reading."""
        device = common.device()
        self._complete()
        if device.type == 'cpu':
            host = self.on_host(count)
            self.dev = None
            return host
        if self.dev is not None and self.dev.numel() < count:
            self.on_host(count)
            self.dev = None
        if self.dev is None or self.dev.device != device:
            self.dev = upload(self.on_host(count), device) if self.dev is None else self.dev.to(device)
        return self.dev

    def update(self, shape):
        """The array on the engine's device, as float32, for changing in place: the other copy is dropped. Channels may
        lie last in memory where the array has this very shape."""
        held = self.tensor(math.prod(shape))
        tensor = held.float()
        whole = tensor.is_contiguous() or tensor.shape == shape and is_channels_last(tensor)
        if not ((self.own or tensor is not held) and whole):
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        self.own, self.version = True, next(_versions)
        self._hold(tensor)
        return tensor

    def set(self, tensor, own=False, factor=None):
        """Replace the array by `tensor`, which lies on the engine's device, times `factor`. own: no one else
        holds its storage."""
        self.version = next(_versions)
        self.size = max(self.size, tensor.numel())
        self._hold(tensor)
        self.own, self.factor, self.recall = own, factor, None

    def let_go(self, recall):
        """Keep no array, unless somebody looks at it; recall(this memory) is to set it when somebody does."""
        if self.view is None:
            self.host = self.dev = self.factor = None
            self.own, self.recall = False, recall

    def _hold(self, tensor):
        self.host, self.dev = (tensor, None) if tensor.device.type == 'cpu' else (None, tensor)

    def lend(self, tensor):
        """`tensor` for another memory: itself, after which a storage it has in common with us is no longer
        our own; a copy where a view that is out shows that storage."""
        mine = self.host if tensor.device.type == 'cpu' else self.dev
        if mine is None or storage(mine) != storage(tensor):
            return tensor
        view = self.view
        if view is not None and mine is self.host and _shows(view, mine):
            return tensor.clone()
        self.own = False
        return tensor

    def settle(self):
        """Bring the view that somebody holds up to date, and make it the host copy."""
        if self.view is not None:
            self._complete()
        view, host = self.view, self.host
        if view is None or host is None or _shows(view, host):
            return
        np.copyto(view[: host.numel()].reshape(host.shape), host.float().numpy())
        self.host, self.own = torch.from_numpy(view), True


def settle():
    """Bring all views that somebody holds up to date."""
    for memory in list(_viewed):
        if memory.view is None:
            _viewed.discard(memory)
        else:
            memory.settle()


def upload(tensor, device):
    """`tensor` on `device`. From the host to a GPU it goes through pinned memory, and nobody waits for it."""
    if device.type == 'cuda' and tensor.device.type == 'cpu':
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def storage(tensor):
    """What tells whether two tensors lie in one piece of memory."""
    return tensor.untyped_storage().data_ptr()


def channels_last(tensor):
    """A 4-d tensor in memory with the channels last; others as they are."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def is_channels_last(tensor):
    """Whether a tensor is 4-d and lies in memory with the channels last."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _shows(view, tensor):
    return view.__array_interface__['data'][0] == tensor.data_ptr()


def _fit(array, shape):
    """The first elements of a tensor or numpy array, in this shape."""
    return array if array.shape == shape else array.reshape(-1)[: math.prod(shape)].reshape(shape)


def _checked(shape):
    """A shape as a tuple. ValueError for negative numbers, and where a blob would be larger than Caffe allows."""
    shape = tuple(int(d) for d in shape)
    if any(d < 0 for d in shape) or math.prod(shape) > MOST:
        raise ValueError(f'a blob cannot have the shape {shape}')
    return shape


class Blob:
    """An N-d float32 array `data` and its gradient `diff`. Shapes are tuples; scalars have shape ()."""

    def __init__(self, *shape):
        self._shape = _checked(shape)
        self._data, self._diff = Memory(self.count), Memory(self.count)

    # pycaffe's members
    @property
    def data(self):
        """numpy view of the values; taking it counts as a write."""
        return self._array(self._data)

    @property
    def diff(self):
        """numpy view of the gradient; taking it counts as a write."""
        return self._array(self._diff)

    def _array(self, memory):
        return _fit(memory.array(), self._shape)

    @property
    def shape(self):
        return self._shape

    @property
    def count(self):
        return math.prod(self._shape)

    def reshape(self, *shape):
        """Change the shape. The elements stay, in their order, in the first places; when the count grows
        beyond the largest so far they are zeros until written."""
        if shape == self._shape:
            return
        shape = _checked(shape)
        self._shape = shape
        count = self.count
        self._data = self._data if count <= self._data.size else Memory(count)
        self._diff = self._diff if count <= self._diff.size else Memory(count)

    def _legacy(self, axis):
        if len(self._shape) > 4:
            raise ValueError(
                f'num, channels, height and width exist for up to 4 axes; the shape is {self._shape}'
            )
        return self._shape[axis] if axis < len(self._shape) else 1

    num = property(lambda self: self._legacy(0))
    channels = property(lambda self: self._legacy(1))
    height = property(lambda self: self._legacy(2))
    width = property(lambda self: self._legacy(3))

    # the engine's members
    @property
    def tensor(self):
        """The values on the engine's device as float32, for reading only."""
        return self.held.float()

    @property
    def held(self):
        """The values on the engine's device, of 16 bits where they are held so, for reading only."""
        return self._tensor(self._data)

    @tensor.setter
    def tensor(self, value):
        self.take(value)

    @property
    def grad(self):
        """The diff on the engine's device as float32, for reading only."""
        return self._tensor(self._diff).float()

    @grad.setter
    def grad(self, value):
        self.take_grad(value)

    def _tensor(self, memory):
        return _fit(memory.tensor(self.count), self._shape)

    def grad_in(self, dtype, factor=None):
        """The diff on the engine's device over `factor`, a number or None (1), in this type, for reading only."""
        if dtype != torch.float32:
            held, waiting = self.held_grad
            if held.dtype == dtype and waiting == factor:
                return held
        return (self.grad if factor is None else self.grad / factor).to(dtype)

    @property
    def held_grad(self):
        """(the diff on the engine's device, of 16 bits where it is held so, for reading only; a number that it is still
        to be multiplied by, or None)."""
        raw, factor = self._diff.raw, self._diff.factor
        if (
            torch.is_tensor(factor)
            or raw is None
            or raw.device != common.device()
            or raw.numel() < self.count
        ):
            return self._tensor(self._diff), None
        return _fit(raw, self._shape), factor

    def take(self, value, sources=()):
        """Take the tensor `value`, which may lie in the values of the blobs `sources`, as the values."""
        self.reshape(*value.shape)
        for source in sources:
            value = source._data.lend(value)
        self._data.set(value.detach())

    def take_grad(self, value, sources=(), factor=None, own=False):
        """Take the tensor `value`, which may lie in the diffs of the blobs `sources`, as the diff; times `factor`, a
        tensor or number, once somebody asks for it. own: no one else holds its memory."""
        for source in sources:
            value = source._diff.lend(value)
        self._diff.set(value.detach(), own, factor)

    def take_grads(self, parts, ours):
        """Take the sum of some pairs, as held_grad gives them, as the diff. ours: for each whether its tensor may be
        written over."""
        factors = {factor for _, factor in parts}
        if len(factors) > 1:
            parts = [(part.float() * (1 if factor is None else factor), None) for part, factor in parts]
            factors = {None}
        parts = [part for part, _ in parts]
        if len(parts) == 2 and ours[1]:  # of more the order tells in the last bits
            parts, ours = parts[::-1], ours[::-1]
        total, mine = parts[0], ours[0]
        for part in parts[1:]:
            total = total.add_(part) if mine and total.dtype == part.dtype else total + part
            mine = True
        self.take_grad(total, factor=factors.pop())

    def fill(self, value):
        """Take the tensor `value` as the values, and its memory for our own."""
        self.reshape(*value.shape)
        self._data.set(upload(value.detach(), common.device()), own=True)

    def put(self, array):
        """Take a copy of the numpy array's values, and its shape. To a GPU it goes through pinned memory while nobody
        waits; an array that lies in pinned memory itself must not be written to any more."""
        if common.device().type == 'cuda':
            values = torch.from_numpy(np.ascontiguousarray(array, np.float32))
            self.fill(values)
            if values.numel() <= SMALL:
                self._data.host = values.clone()  # to be read here without waiting for the device
        else:
            self.reshape(*array.shape)
            self.data[...] = array

    def reorder(self):
        """Lay 4-d values out with the channels last, unless somebody holds a view of them or there are
        more than the shape shows."""
        values = self.held
        if values.dim() == 4 and self._data.view is None:
            ordered = channels_last(values)
            if ordered is not values and self._data.raw.numel() == values.numel():
                self._data.set(ordered, own=True)

    def add_grad(self, grad, shared=False):
        """diff += grad. shared: others may hold the storage of `grad`; otherwise it becomes ours."""
        if self._diff.own and not self._diff.empty:
            _fit(self._diff.update(self._shape), self._shape).add_(grad)
        elif not self._diff.empty:
            self._diff.set(self.grad + grad, own=True)
        elif shared:
            self._diff.set(grad.clone(), own=True)
        else:
            self._diff.set(grad if is_channels_last(grad) else grad.contiguous(), own=True)

    def update(self):
        """The values on the engine's device, for changing in place (by the solver)."""
        return _fit(self._data.update(self._shape), self._shape)

    def update_grad(self):
        """The diff on the engine's device, for changing in place (by the solver)."""
        return _fit(self._diff.update(self._shape), self._shape)

    def clear_grad(self):
        self._diff.clear()

    def share(self, other):
        """Values and diff become other's memory."""
        self._data, self._diff = other._data, other._diff

    def share_data(self, other):
        self._data = other._data

    def settle(self):
        self._data.settle()
        self._diff.settle()

    @property
    def state(self):
        """Changes whenever the values may have: for caches of what was computed from them. None: cannot be
        told."""
        return None if self._data.view is not None else (self._data.version, self._shape)

    def __repr__(self):
        return f'Blob{self._shape}'


class BlobVec(list):
    """The parameters of a layer, in order."""

    def add_blob(self, *shape):
        self.append(Blob(*shape))
