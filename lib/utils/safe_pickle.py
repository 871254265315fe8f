"""Reads the pickles that older tools wrote, building numpy arrays and plain containers and nothing else.

A pickle may name any function and have it called. Here only the few names that numpy's arrays and scalars
consist of resolve, most of them to functions of this module; any other name raises before anything of it is
called. Nothing larger than the file holds is made before it is read: Python's own unpickler is used, since
the compiled one takes memory as a number in the file asks.
"""

import collections
import math
import mmap
import pickle

import numpy as np


def load(path):
    """What the pickle at `path` holds. UnpicklingError with the path: a refused name, or a broken file."""
    with open(path, 'rb') as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
                return _Unpickler(stream, encoding='latin1').load()
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f'{path}: {error}') from None
        except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise pickle.UnpicklingError(f'{path}: broken pickle ({error})') from error


def _array(subtype, shape, dtype):
    """The empty array that a pickled one begins with."""
    if math.prod(shape):
        raise ValueError(f'an array begins with the shape {shape}')
    return np.ndarray(shape, dtype)


def _array_from_buffer(buffer, dtype, shape, order):
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype, data):
    return np.frombuffer(data.encode('latin1') if isinstance(data, str) else data, dtype)[0]


def _bytes(text, encoding):
    return text.encode('latin1')


_KNOWN = {
    ('_codecs', 'encode'): _bytes,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('numpy', 'ndarray'): None,  # only ever named, as the first argument of _reconstruct
    ('numpy', 'dtype'): np.dtype,
}
for _module in 'numpy.core', 'numpy._core':
    _KNOWN[_module + '.multiarray', '_reconstruct'] = _array
    _KNOWN[_module + '.multiarray', 'scalar'] = _scalar
    _KNOWN[_module + '.numeric', '_frombuffer'] = _array_from_buffer


class _Unpickler(pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)

    def load_build(self):
        """An array of objects gets the shape and the list of its state: they must agree before it does."""
        array, state = self.stack[-2:]
        if isinstance(array, np.ndarray) and isinstance(state[-1], list):
            if math.prod(state[1]) != len(state[-1]):
                raise ValueError(f'an array of shape {state[1]} has {len(state[-1])} elements')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f'names {module}.{name}; only arrays and plain containers are read')
        return _KNOWN[module, name]
