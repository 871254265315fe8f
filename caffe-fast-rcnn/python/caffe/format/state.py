"""Solver states: .solverstate files, binary or HDF5: the iteration, the weights' file and the histories.

A state is (iteration, path of the weights or '', learning-rate steps done, [history arrays]), and of a training in
fp16 its loss scale (value, clean updates).
"""

import os

import h5py
import numpy as np
from google.protobuf.message import DecodeError

from ..proto import caffe_pb2
from .files import atomic_write, read_bytes, require_file
from .hdf5 import numbers, open_hdf5
from .weights import array_to_blobproto, blobproto_to_array, text_of

SCALE = 'loss_scale', 'clean_updates'


def write_state(path, iteration, model, steps, history, scale=None):
    """Write a state, as HDF5 by suffix .h5."""
    with atomic_write(path) as temporary:
        write = _write_hdf5 if path.endswith('.h5') else _write_binary
        write(temporary, iteration, model, steps, history, dict(zip(SCALE, scale or ())))


def _write_binary(path, iteration, model, steps, history, scale):
    state = caffe_pb2.SolverState(iter=iteration, learned_net=model, current_step=steps, **scale)
    for array in history:
        state.history.append(array_to_blobproto(array))
    with open(path, 'wb') as f:
        f.write(state.SerializeToString())


def _write_hdf5(path, iteration, model, steps, history, scale):
    with h5py.File(path, 'w') as f:
        f.attrs.update(scale)
        f['iter'], f['learned_net'], f['current_step'] = iteration, model, steps
        group = f.create_group('history')
        for i, array in enumerate(history):
            group[str(i)] = array


def read_state(path):
    """(iteration, path of the weights or '', [history arrays], loss scale or None) of a state, whose content tells
    which it is.

    Errors: FileNotFoundError; ValueError with the file and its size, where it is no state or cut off.
    """
    require_file(path, 'solver state')
    if h5py.is_hdf5(path):
        return _read_hdf5(path)
    try:
        return _read_binary(path)
    except (DecodeError, OSError, ValueError) as error:
        raise ValueError(
            f'{path} is not a solver state, or is cut off ({os.path.getsize(path)} bytes): {error}'
        ) from None


def _read_binary(path):
    state = caffe_pb2.SolverState.FromString(read_bytes(path, 'solver state'))
    scale = tuple(getattr(state, name) for name in SCALE) if state.HasField(SCALE[0]) else None
    return state.iter, text_of(state.learned_net), [blobproto_to_array(b) for b in state.history], scale


def _read_hdf5(path):
    with open_hdf5(path, 'solver state') as f:
        model = f['learned_net'].asstr()[()] if 'learned_net' in f else ''
        history = [numbers(f[f'history/{i}']) for i in range(len(f['history']))]
        scale = tuple(f.attrs[name].item() for name in SCALE) if SCALE[0] in f.attrs else None
        return int(numbers(f['iter'], np.int64)), model, history, scale
