"""LMDB and LevelDB databases of records (key, value), both bytes: read in the order of the keys, and made.

LevelDB needs the package plyvel, which is not among the requirements.
"""

import contextlib
import functools
import itertools
import os
import shutil
import sys
import uuid
import weakref

import lmdb
import tqdm

from ..common import logger

BACKENDS = ('lmdb', 'leveldb')
_SIGNS = dict(zip(BACKENDS, ('data.mdb', 'CURRENT')))  # the files that tell one from the other
_NO_PLYVEL = (
    'LevelDB needs the package plyvel (pip install plyvel). Or make the database again from its '
    'images, as LMDB (python -m caffe.convert_imageset -backend lmdb), and write backend: LMDB'
)
_databases = weakref.WeakValueDictionary()  # neither library opens one path twice in a process


def open_database(source, backend):
    """The records of a database: an iterable of (key, value) that can be gone through any number of times.

    Keys and values may be buffers that hold until the next record is asked for. Errors: FileNotFoundError;
    ValueError for a database of the other kind, a truncated or an empty one; ModuleNotFoundError for LevelDB
    without plyvel.
    """
    if not os.path.isdir(source):
        raise FileNotFoundError(f'there is no database folder {source!r}')
    kinds = [kind for kind, file in _SIGNS.items() if os.path.exists(os.path.join(source, file))]
    if not kinds:
        raise ValueError(f'folder {source!r} is no database: it has no {" and no ".join(_SIGNS.values())}')
    kind = kinds[0]
    if kind != backend.lower():
        raise ValueError(
            f'database {source!r} is {kind.upper()}, but {backend.upper()} was asked for; say '
            f'backend: {kind.upper()} (a Data layer) or -backend {kind} (a command)'
        )
    path = os.path.realpath(source)
    database = _databases.get(path)
    if database is None:
        database = _databases[path] = (Lmdb if kind == 'lmdb' else LevelDb)(path)
        if next(iter(database), None) is None:
            raise ValueError(f'database {source!r} is empty')
    return database


class Lmdb:
    def __init__(self, path):
        try:
            self.env = lmdb.open(path, readonly=True, lock=False)
        except lmdb.Error as error:
            raise ValueError(f'database {path} cannot be read: {error}') from error
        wanted = (self.env.info()['last_pgno'] + 1) * self.env.stat()['psize']
        size = os.path.getsize(os.path.join(path, 'data.mdb'))
        # To read beyond the end would kill the process. A few last pages may be missing rightly: never used.
        if size < wanted - 2**16:
            raise ValueError(f'database {path} is truncated: data.mdb has {size} bytes of {wanted}')

    def __len__(self):
        return self.env.stat()['entries']

    def __iter__(self):
        with self.env.begin(buffers=True) as transaction:
            yield from transaction.cursor()


class LevelDb:
    def __init__(self, path):
        plyvel = _plyvel()
        try:
            self.db = plyvel.DB(path)
        except plyvel.Error as error:
            raise ValueError(f'database {path} cannot be read: {error}') from error

    def __len__(self):
        return sum(1 for _ in self.db.iterator(include_value=False))

    def __iter__(self):
        return iter(self.db.iterator())


def _plyvel():
    try:
        import plyvel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NO_PLYVEL, name='plyvel') from error
    return plyvel


def write_database(path, backend, records):
    """Make the database `path` of an iterable of (key, value). It has its name only when it is whole.

    Errors: FileExistsError; FileNotFoundError when its folder is missing.
    """
    records = iter(records)
    with new_database(path, backend) as put:
        while batch := list(itertools.islice(records, 100)):
            put(batch)


@contextlib.contextmanager
def new_database(path, backend):
    """A function that puts a list of (key, value) into a new database, which is `path` at the end. Errors as above."""
    path = os.path.abspath(path)
    if os.path.lexists(path):
        raise FileExistsError(f'{path} exists; remove it or choose another name')
    if not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(f'{path} cannot be written: there is no folder {os.path.dirname(path)}')
    temporary = f'{path}.{uuid.uuid4().hex[:8]}.tmp'
    try:
        with {'lmdb': _new_lmdb, 'leveldb': _new_leveldb}[backend](temporary) as put:
            yield put
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _new_lmdb(path):
    with lmdb.open(path, map_size=2**24, sync=False) as env:
        yield functools.partial(_put, env)
        env.sync(True)


def _put(env, batch):
    try:
        with env.begin(write=True) as transaction:
            for key, value in batch:
                transaction.put(key, value)
    except lmdb.MapFullError:
        env.set_mapsize(2 * env.info()['map_size'])
        _put(env, batch)


@contextlib.contextmanager
def _new_leveldb(path):
    with contextlib.closing(_plyvel().DB(path, create_if_missing=True)) as db:
        yield lambda batch: [db.put(key, value) for key, value in batch]


def progress(items, total, what):
    """The items; meanwhile a bar on a terminal, or a line in the log every 1000."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, what, total)
        return
    for i, item in enumerate(items, 1):
        yield item
        if i % 1000 == 0 or i == total:
            logger.info('%s: %d of %d', what, i, total)
