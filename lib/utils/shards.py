"""Rows of many images on disk, written image by image as they come: a shard for each rank, gone on with after a stop.

Of N images rank r of K has the images r, r + K, r + 2K ... Its shard is two files: `<stem>.<r>of<K>.rows`, the rows
of all its images, raw float32 (M, C); `<stem>.<r>of<K>.table`, 32 bytes that say what the rows are of (the mark), then
two uint32 an image: its number of rows and their CRC-32. Both are in the machine's byte order.
"""

import collections.abc
import functools
import glob
import hashlib
import logging
import mmap
import os
import zlib

import numpy as np

from utils.files import lock

log = logging.getLogger(__name__)

MARK = 32  # bytes


class Shard:
    """A shard being written. mark: 32 bytes; one with another mark is begun anew, one with the same is gone on with.

    len(): its images so far. To be used in a `with`. Errors: OSError with the file's name, a full disk's too; what
    was written before stays.
    """

    def __init__(self, stem, columns, mark, rank=0, count=1):
        self.path, table_path = shard_files(stem, rank, count)
        self.columns, self._table = columns, open(table_path, 'a+b', buffering=0)
        lock(self._table)
        table = self._kept(mark)
        if table is None:
            if os.path.exists(self.path):
                os.remove(self.path)  # who reads the old file keeps what it reads
            self._table.truncate(0)
            self._write(self._table, mark)
        self._len = 0 if table is None else len(table)
        self._rows = open(self.path, 'ab', buffering=0)
        if table is not None:
            self._rows.truncate(4 * columns * int(table[:, 0].sum(dtype=np.int64)))
            self._table.truncate(MARK + table.nbytes)

    def __len__(self):
        return self._len

    def __enter__(self):
        return self

    def __exit__(self, error, *more):
        for stream in self._rows, self._table:
            if error is None:
                os.fsync(stream.fileno())
            stream.close()

    def append(self, rows):
        """The next image's rows (n, C)."""
        rows = np.ascontiguousarray(rows, np.float32).reshape(-1, self.columns)
        self._write(self._rows, rows)
        self._write(self._table, np.array([len(rows), zlib.crc32(rows)], np.uint32))
        self._len += 1

    def _write(self, stream, data):
        data = memoryview(data).cast('B') if len(data) else b''
        try:
            while data:
                data = data[stream.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, stream.name) from None

    def _kept(self, mark):
        """The table (n, 2) of the images that are whole on disk; None where there is no shard of this mark."""
        self._table.seek(0)
        old, entries = self._table.read(MARK), self._table.read()
        if old != mark or not os.path.exists(self.path):
            if old:
                log.info('%s: of another net, other settings or images; begun anew', self.path)
            return None
        table = np.frombuffer(entries[: len(entries) // 8 * 8], np.uint32).reshape(-1, 2)
        rows, end = MappedRows(self.path, self.columns), 0
        for i, (number, checksum) in enumerate(table.tolist()):
            begin, end = end, end + number
            if end > len(rows) or zlib.crc32(rows[begin:end]) != checksum:
                return table[:i]
        return table


class Rows(collections.abc.Sequence):
    """The rows of N images: [i] -> (n_i, C) float32, a view, read-only where it is of a file.

    parts: K arrays or MappedRows (M_k, C); counts: K arrays (N_k,): image i is image i // K of part i % K. source:
    (function, path) that make the same where a pickle of this is read. digest: of all rows, however they are split.
    """

    def __init__(self, parts, counts, digest=None, source=None):
        self.parts, self.source = parts, source
        self._starts = [np.concatenate([[0], np.cumsum(part, dtype=np.int64)]) for part in counts]
        self._len = sum(map(len, counts))
        if digest:
            self.digest = digest

    def __len__(self):
        return self._len

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f'image {i} of {len(self)}')
        row, part = divmod(i % len(self), len(self.parts))
        begin, end = self._starts[part][row : row + 2]
        return self.parts[part][begin:end]

    def __reduce__(self):
        return (self.source[0], self.source[1:]) if self.source else super().__reduce__()

    @functools.cached_property
    def digest(self):
        table = np.array([(len(rows), zlib.crc32(np.ascontiguousarray(rows))) for rows in self], np.uint32)
        return table_digest(self.columns, table)

    @property
    def columns(self):
        return self.parts[0][:0].shape[1]


class MappedRows:
    """The rows (M, C) of a file, mapped into memory, of which slices are taken: read-only views. A part of a row at
    its end is left out. What is taken is read in one piece; no more than RESIDENT of it counts as this process's."""

    RESIDENT = 1 << 24  # bytes

    def __init__(self, path, columns):
        self._len, self.columns, self._taken = os.path.getsize(path) // (4 * columns), columns, 0
        if self._len:
            with open(path, 'rb') as stream:
                self._map = mmap.mmap(stream.fileno(), 4 * columns * self._len, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._map, np.float32).reshape(-1, columns)

    def __len__(self):
        return self._len

    def __getitem__(self, rows):
        begin, end, _ = rows.indices(len(self))
        if begin >= end:
            return np.zeros((0, self.columns), np.float32)
        start, size = 4 * self.columns * begin, 4 * self.columns * (end - begin)
        self._taken += size
        if self._taken > self.RESIDENT:
            self._advise('MADV_DONTNEED')  # views stay: what they show is mapped again when it is looked at
            self._taken = size
        before = start % mmap.PAGESIZE
        self._advise('MADV_WILLNEED', start - before, size + before)
        return self._rows[begin:end]

    def _advise(self, advice, *where):
        if hasattr(mmap, advice):  # not on Windows
            self._map.madvise(getattr(mmap, advice), *where)


def shard_files(stem, rank, count):
    """The files of a shard: rows, table."""
    return [f'{stem}.{rank}of{count}.{part}' for part in ('rows', 'table')]


def open_shards(stem, columns, count, images):
    """Rows of `count` finished shards of `images` images together. ValueError where they hold anything else."""
    parts, tables = [], []
    for rank in range(count):
        rows_path, table_path = shard_files(stem, rank, count)
        for path in rows_path, table_path:
            if not os.path.exists(path):
                raise FileNotFoundError(f'{path}: no such file; all ranks write to one folder, which all see')
        wanted = max(0, -(-(images - rank) // count))
        if os.path.getsize(table_path) != MARK + 8 * wanted:
            raise ValueError(f'{table_path}: wanted {wanted} images, got {os.path.getsize(table_path)} bytes')
        tables.append(np.fromfile(table_path, np.uint32, offset=MARK).reshape(-1, 2))
        parts.append(MappedRows(rows_path, columns))
        size, rows = os.path.getsize(rows_path), int(tables[-1][:, 0].sum(dtype=np.int64))
        if size != 4 * columns * rows:
            raise ValueError(f'{rows_path}: wanted {rows} rows of {columns} numbers, got {size} bytes')
    table = np.zeros((images, 2), np.uint32)
    for rank, part in enumerate(tables):
        table[rank::count] = part
    return Rows(parts, [part[:, 0] for part in tables], table_digest(columns, table))


def table_digest(columns, table):
    """The digest of rows by their numbers and checksums (N, 2)."""
    return hashlib.sha256(f'{columns} '.encode() + table.astype('<u4').tobytes()).hexdigest()


def remove_shards(stem, but=None):
    """Removes the shards of a stem, of any world; but: not those of this one."""
    for path in glob.glob(f'{glob.escape(stem)}.*of*.*'):
        if path.endswith(('.rows', '.table')) and not path.split('.')[-2].endswith(f'of{but}'):
            os.remove(path)
