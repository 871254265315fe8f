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
import re
import struct

import numpy as np

WIDEST = 2**16  # bytes of one element of an array


class Refused(pickle.UnpicklingError, ValueError):
    """A pickle that names what is not read, or is broken."""


# What Python's unpickler and numpy raise at bytes that make no sense
_BROKEN = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    SystemError,
    struct.error,
)


def load(path):
    """What the pickle at `path` holds. Refused, with the path: a name that is not read, or a broken file."""
    with open(path, 'rb') as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
                return _Unpickler(stream, encoding='latin1').load()
        except pickle.UnpicklingError as error:
            raise Refused(f'{path}: {error}') from None
        except _BROKEN as error:
            raise Refused(f'{path}: broken pickle ({error})') from error


def _array(subtype, shape, dtype):
    """The empty array that a pickled one begins with."""
    if math.prod(shape):
        raise ValueError(f'an array begins with the shape {shape}')
    return np.ndarray(shape, dtype)


def _dtype(code, *flags):
    """A dtype of numbers, text or objects; a new object, since its state comes later and changes it."""
    if not re.fullmatch(r'[<>=|]?[?biufcSUO]\d{0,5}', code) or np.dtype(code).itemsize > WIDEST:
        raise ValueError(f'an array of {code!r}')
    return np.dtype(code, copy=True)


def _array_from_buffer(buffer, dtype, shape, order):
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype, data):
    return np.frombuffer(data.encode('latin1') if isinstance(data, str) else data, dtype)[0]


def _bytes(text, encoding):
    return text.encode('latin1')


def _no_bytes():
    """How Python 3 writes empty bytes for Python 2."""
    return b''


_KNOWN = {
    ('__builtin__', 'bytes'): _no_bytes,
    ('_codecs', 'encode'): _bytes,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('numpy', 'ndarray'): None,  # only ever named, as the first argument of _reconstruct
    ('numpy', 'dtype'): _dtype,
}
for _module in 'numpy.core', 'numpy._core':
    _KNOWN[_module + '.multiarray', '_reconstruct'] = _array
    _KNOWN[_module + '.multiarray', 'scalar'] = _scalar
    _KNOWN[_module + '.numeric', '_frombuffer'] = _array_from_buffer


class _Unpickler(pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)

    def load_build(self):
        """An array of objects gets the shape and the list of its state: they must agree before it does. Of a dtype's
        state the order of bytes counts; the rest is what an own dtype has."""
        made, state = self.stack[-2:]
        if isinstance(made, np.ndarray) and isinstance(state[-1], list):
            if math.prod(state[1]) != len(state[-1]):
                raise ValueError(f'an array of shape {state[1]} has {len(state[-1])} elements')
        if isinstance(made, np.dtype) and (state[2:5] != (None,) * 3 or state[5] not in (-1, made.itemsize)):
            raise ValueError(f'the dtype {made} has the state {state}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self):
        """As Python's, which makes room before it reads."""
        (length,) = struct.unpack('<Q', self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise Refused(f'names {module}.{name}; only arrays and plain containers are read')
        return _KNOWN[module, name]
