"""Code that serves numpy arrays and tensors on any device alike: what the two libraries do not both offer by one name.

Tensors stay on their device.
"""

import numpy as np
import numpy.random as npr
import torch


def library(values):
    """The module whose functions take `values`."""
    return torch if torch.is_tensor(values) else np


def on_gpu(values):
    return torch.is_tensor(values) and values.is_cuda


def zeros(like, *shape):
    """float32 zeros of the kind of `like`, where it lies."""
    if torch.is_tensor(like):
        return torch.zeros(shape, device=like.device)
    return np.zeros(shape, np.float32)


def beside(like, numbers, dtype=np.float32):
    """numbers of this type (None: their own), of the kind of `like`, where it lies."""
    numbers = np.asarray(numbers, dtype)
    if not torch.is_tensor(like):
        return numbers
    from caffe.blob import upload

    return upload(torch.from_numpy(numbers), like.device)


def whole(values):
    """As int64."""
    return values.long() if torch.is_tensor(values) else values.astype(np.int64)


def draw(values, count):
    """`count` of the values, none twice, by numpy's global generator: one permutation of their number."""
    return values[beside(values, npr.choice(len(values), size=count, replace=False), np.int64)]


def values_of(blob):
    """A blob's values for reading: on a GPU the tensor there, else a numpy array."""
    tensor = blob.tensor
    return tensor if on_gpu(tensor) else tensor.numpy()


def leaving(blob):
    """A blob's values as they are now, on their way to the host -> a function that gives them as a numpy array, to which
    nobody else writes. Only that waits for a GPU; any thread may call it."""
    tensor = blob.tensor
    if not on_gpu(tensor):
        array = np.array(tensor.numpy(), order='C')
        return lambda: array
    host = torch.empty(tensor.shape, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    there = torch.cuda.Event()
    there.record()

    def arrived():
        there.synchronize()
        return host.numpy()

    return arrived


def fill(blob, values):
    """Let a blob take these values, its shape theirs."""
    if torch.is_tensor(values):
        blob.tensor = values.float().contiguous()
    else:
        blob.reshape(*values.shape)
        blob.data[...] = values
