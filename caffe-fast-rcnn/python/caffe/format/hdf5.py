"""HDF5 files, read with their sizes checked first: what a header asks for beyond what the file holds is refused."""

import contextlib
import math
import os

import h5py
import numpy as np

MOST_DEFLATED = 1040  # bytes that one byte of a compressed file can stand for

# What h5py raises of files that make no sense
_BROKEN = OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError


@contextlib.contextmanager
def open_hdf5(path, what):
    """The h5py.File at `path`. ValueError that says `what`, the file and its size, for all that is wrong within."""
    try:
        with h5py.File(path, 'r') as f:
            yield f
    except _BROKEN as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(
            f'{what} {path} ({os.path.getsize(path)} bytes) cannot be read, of another form or cut off: {text}'
        ) from error


def numbers(dataset, dtype=np.float32):
    """A dataset's values as an array."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in 'fiu':
        raise ValueError(f'{dataset.name} is no array of numbers')
    stored, chunk = dataset.id.get_storage_size(), math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    most = stored * MOST_DEFLATED if dataset.chunks else stored
    if stored > os.path.getsize(dataset.file.filename) or max(dataset.nbytes, chunk) > most:
        raise ValueError(f'{dataset.name} of shape {dataset.shape} has {stored} bytes in the file')
    return np.asarray(dataset[()], dtype)
