"""Blob: an array that layers exchange, with its diff, seen as numpy on the host and as torch on the engine's
device.

Three rules keep pycaffe's meaning:
- Taking `.data` or `.diff` counts as a write: the host copy is the truth until the device next reads it.
- On the CPU a view that somebody still holds follows the blob: when a forward or backward pass ends, its
  results are copied into that memory (`settle`), as they would have been written there by Caffe.
- A tensor that the engine put here may share memory with another blob's (a slice, a reshape, a
  passed-through diff); it is copied before a view of it leaves the engine, so a write reaches this blob
  only.
"""

import math
import weakref

import numpy as np
import torch

from . import common


class Memory:
    """One float32 array. `host` is a CPU tensor, `dev` its copy on a CUDA device; None: not there. Both
    None: zeros."""

    __slots__ = ('host', 'dev', 'own', 'version', '_view', '__weakref__')

    def __init__(self):
        self.host = self.dev = self._view = None
        self.own = False  # nobody else shares the storage
        self.version = 0  # grows with each possible write

    def clear(self):
        """Set to zero."""
        self.version += 1
        self.dev = None
        if self.view is not None:
            self.view.fill(0)
            self.host = torch.from_numpy(self.view)
        else:
            self.host = None

    @property
    def empty(self):
        return self.host is None and self.dev is None

    @property
    def view(self):
        return None if self._view is None else self._view()

    def on_host(self, shape):
        if self.host is None:
            self.host = torch.zeros(shape) if self.dev is None else self.dev.cpu()
            self.own = True
        return self.host

    def array(self, shape):
        """The host copy as numpy; from here on it is the truth."""
        host = self.on_host(shape)
        self.version += 1
        self.dev = None
        view = self.view
        if view is not None and view.shape == tuple(host.shape):
            self.settle()
            return view
        if not (self.own and host.is_contiguous()):
            self.host = host = host.clone(memory_format=torch.contiguous_format)
            self.own = True
        view = host.numpy()
        self._view = weakref.ref(view)
        return view

    def tensor(self, shape):
        """The array on the engine's device, for reading."""
        device = common.device()
        if device.type == 'cpu':
            host = self.on_host(shape)
            self.dev = None
            return host
        if self.dev is None or self.dev.device != device:
            self.dev = self.on_host(shape).to(device) if self.dev is None else self.dev.to(device)
        return self.dev

    def update(self, shape):
        """The array on the engine's device, for changing in place: the other copy is dropped."""
        tensor = self.tensor(shape)
        if not self.own:
            tensor, self.own = tensor.clone(), True
        self.version += 1
        if tensor.device.type == 'cpu':
            self.host = tensor
        else:
            self.host, self.dev = None, tensor
        return tensor

    def set(self, tensor, own=False):
        """Replace the array by `tensor`, which lies on the engine's device. own: no one else holds its
        storage."""
        self.version += 1
        if tensor.device.type == 'cpu':
            self.host, self.dev = tensor, None
        else:
            self.host, self.dev = None, tensor
        self.own = own

    def settle(self):
        """Bring the view that somebody holds up to date, and make it the host copy."""
        view, host = self.view, self.host
        if (
            view is None
            or host is None
            or view.shape != tuple(host.shape)
            or view.__array_interface__['data'][0] == host.data_ptr()
        ):
            return
        np.copyto(view, host.numpy())
        self.host, self.own = torch.from_numpy(view), True


class Blob:
    """An N-d float32 array `data` and its gradient `diff`. Shapes are tuples; scalars have shape ()."""

    def __init__(self, *shape):
        self._shape = tuple(int(d) for d in shape)
        self._data, self._diff = Memory(), Memory()

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
        array = memory.array(self._shape)
        return array if array.shape == self._shape else array.reshape(self._shape)

    @property
    def shape(self):
        return self._shape

    @property
    def count(self):
        return math.prod(self._shape)

    def reshape(self, *shape):
        """Change the shape. Values stay when the count does; otherwise they are zeros until written."""
        shape = tuple(int(d) for d in shape)
        if any(d < 0 for d in shape):
            raise ValueError(f'a blob cannot have the shape {shape}')
        if shape == self._shape:
            return
        if math.prod(shape) != self.count:
            self._data, self._diff = Memory(), Memory()
        self._shape = shape

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
        """The values on the engine's device, for reading only."""
        return self._tensor(self._data)

    @tensor.setter
    def tensor(self, value):
        self.reshape(*value.shape)
        self._data.set(value.detach())

    @property
    def grad(self):
        """The diff on the engine's device, for reading only."""
        return self._tensor(self._diff)

    @grad.setter
    def grad(self, value):
        self._diff.set(value.detach())

    def _tensor(self, memory):
        tensor = memory.tensor(self._shape)
        return tensor if tensor.shape == self._shape else tensor.reshape(self._shape)

    def fill(self, value):
        """Take the tensor `value` as the values, and its memory for our own."""
        self.reshape(*value.shape)
        self._data.set(value.detach().to(common.device()), own=True)

    def add_grad(self, grad):
        """diff += grad."""
        if self._diff.own and not self._diff.empty:
            self._diff.update(self._shape).add_(grad)
        else:
            self._diff.set(grad.clone() if self._diff.empty else self.grad + grad, own=True)

    def update(self):
        """The values on the engine's device, for changing in place (by the solver)."""
        return self._data.update(self._shape)

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
        held = self._data.view is not None
        return None if held else (id(self._data), self._data.version)

    def __repr__(self):
        return f'Blob{self._shape}'


class BlobVec(list):
    """The parameters of a layer, in order."""

    def add_blob(self, *shape):
        self.append(Blob(*shape))
