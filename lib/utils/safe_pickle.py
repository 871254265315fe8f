"""Reads the pickles that older tools wrote, building numpy arrays and plain containers and nothing else.

A pickle may name any function and have it called. Here only the few names that numpy's arrays and scalars
consist of resolve, most of them to functions of this module; any other name raises before anything of it is
called.
"""

import collections
import pickle

import numpy as np


def load(path):
    """What the pickle at `path` holds. UnpicklingError with the path: a refused name, or a broken file."""
    with open(path, 'rb') as stream:
        try:
            return _Unpickler(stream, encoding='latin1').load()
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f'{path}: {error}') from None
        except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise pickle.UnpicklingError(f'{path}: broken pickle ({error})') from error


def _array(subtype, shape, dtype):
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
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
}
for _module in 'numpy.core', 'numpy._core':
    _KNOWN[_module + '.multiarray', '_reconstruct'] = _array
    _KNOWN[_module + '.multiarray', 'scalar'] = _scalar
    _KNOWN[_module + '.numeric', '_frombuffer'] = _array_from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f'names {module}.{name}; only arrays and plain containers are read')
        return _KNOWN[module, name]
