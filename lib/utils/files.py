"""Files that are whole or not there: atomic writing, locks, and .npz holding ragged lists of arrays without pickle.

A ragged list of R arrays (n_r, C) is kept as one (sum n_r, C) array and R counts.
"""

import contextlib
import errno
import hashlib
import logging
import math
import os
import struct
import tokenize
import uuid
import zipfile
import zlib

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_path(path):
    """A temporary path beside `path` to write to; flushed to the disk and moved to `path` if the block ends well, else
    removed. OSErrors name `path`, a full disk's too."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f'.{uuid.uuid4().hex[:8]}.{name}')
    try:
        yield temporary
        with open(
            temporary, 'r+b' if os.name == 'nt' else 'rb'
        ) as stream:  # Windows syncs only what may be written
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, temporary):
            raise
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def locked(path):
    """Within, no other process is within for the same path: one that comes later waits. Beside it lies <path>.lock."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(f'{path}.lock', 'w') as stream:
        lock(stream)
        yield


def lock(stream):
    """Waits for other processes that hold the lock of this file; it goes when the file is closed, or its process ends.
    Where a file system has no locks, and on Windows, nobody waits."""
    if not fcntl:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info('%s: waiting for another process', stream.name)
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise


def read_text(path):
    """The text of a UTF-8 file; one in another encoding raises naming it."""
    with open(path, encoding='utf-8-sig') as stream:
        try:
            return stream.read()
        except UnicodeDecodeError as error:
            raise ValueError(f'{path}: not UTF-8 text ({error.reason} at byte {error.start})') from None


def file_digest(path, kind='sha256'):
    """Hexadecimal, by an algorithm of hashlib."""
    digest = hashlib.new(kind)
    with open(path, 'rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def save_npz(path, **arrays):
    """numpy.savez_compressed, atomically; arrays of objects are refused."""
    for name, array in arrays.items():
        if np.asarray(array).dtype == object:
            raise ValueError(f'{path}: {name} is an array of objects, which only pickle could hold')
    with atomic_path(path) as temporary, open(temporary, 'wb') as stream:
        np.savez_compressed(stream, **arrays)


# What numpy and zipfile raise at bytes that make no sense
BROKEN = (
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    AttributeError,
    LookupError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    OSError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_DEFLATED = 1040  # bytes that one byte of a deflated file can stand for


def load_npz(path):
    """dict of arrays of an .npz file; a truncated or foreign file raises naming it. No array is made that is larger
    than what the file holds of it."""
    os.stat(path)  # what is missing says so itself
    try:
        with np.load(path, allow_pickle=False) as archive:
            for info in archive.zip.infolist():
                _check_member(archive.zip, info)
            return {name: archive[name] for name in archive.files}
    except BROKEN as error:
        raise ValueError(f'{path}: not a whole .npz file ({error})') from error


def _check_member(archive, info):
    """ValueError unless a member's header, its size in the zip file, and the bytes there agree."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = NPY_HEADERS[version](stream)
        wanted = stream.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted != info.file_size:
        raise ValueError(f'{info.filename} has {info.file_size} bytes, its header says {shape} {dtype}')
    if info.file_size > MOST_DEFLATED * (info.compress_size + 1) or info.compress_size > archive.fp.seek(
        0, 2
    ):
        raise ValueError(f'{info.filename} has {info.compress_size} bytes, which cannot be {info.file_size}')


def cached_npz(path, key, make):
    """The arrays of an .npz file that has this key, else those of make(), which are then kept there. Of several
    processes that find none one makes them, and the others wait. A damaged file counts as none."""
    arrays = _keyed(path, key)
    if arrays is None:
        with locked(path):
            arrays = _keyed(path, key)
            if arrays is None:
                arrays = make()
                save_npz(path, key=np.array(key), **arrays)
    return arrays


def _keyed(path, key):
    if not os.path.exists(path):
        return None
    try:
        arrays = load_npz(path)
    except ValueError as error:
        log.warning('%s; it is made anew', error)
        return None
    return arrays if str(arrays.pop('key', '')) == key else None


def pack(arrays, columns):
    """R arrays (n_r, columns) -> ((sum n_r, columns) float32, counts (R,))."""
    arrays = [np.asarray(a, np.float32).reshape(-1, columns) for a in arrays]
    counts = np.array([len(a) for a in arrays], np.int64)
    return np.concatenate(arrays or [np.zeros((0, columns), np.float32)]), counts


def unpack(rows, counts):
    """The inverse of pack."""
    return np.split(rows, np.cumsum(counts)[:-1]) if len(counts) else []
