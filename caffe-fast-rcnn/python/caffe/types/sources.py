"""Batches from databases, image files and memory: Data, ImageData, MemoryData; and out to a file: HDF5Output.

Data, ImageData and WindowData (windows.py) make their batches ahead of the net, in a thread (Prefetch) that
draws from a generator of its own, seeded from the engine's in setup; so a batch does not depend on when it is
made.
Shape letters: N batch_size, K channels, (h, w) the crop or the image.
"""

import contextlib
import itertools
import os
import queue
import threading
import weakref

import h5py
import numpy as np
import torch

from .. import common
from ..database import open_database
from ..format.files import atomic_write
from ..layer import Layer
from ..registry import layer
from ..proto import caffe_pb2
from .transformer import Transformer, decode_image, read_datum, read_file


class Prefetch:
    """Items of an endless iterator, up to `depth` of them made ahead by a thread; 0: made when asked for.

    An error of the iterator is raised by whoever asks for the item, every time. The thread ends with the
    Prefetch, and before the program does; it finishes the item that it is at.
    """

    def __init__(self, iterator, depth):
        self.iterator, self.depth, self.process = iterator, depth, os.getpid()
        self.held = None  # the item in front, or the error in its place
        if depth:
            self.ready, stop = queue.Queue(depth), threading.Event()
            thread = threading.Thread(target=_make_ahead, args=(iterator, self.ready, stop), daemon=True)
            thread.start()
            weakref.finalize(self, _end, thread, self.ready, stop)

    def first(self):
        """The next item, which stays the next one."""
        if self.depth and os.getpid() != self.process:
            raise RuntimeError(
                'a net that prefetches does not run in a forked process; make the net there, '
                'or say data_param { prefetch: 0 }'
            )
        if self.held is None:
            self.held = self.ready.get() if self.depth else _item_or_error(self.iterator)
        if isinstance(self.held, Exception):
            raise self.held
        return self.held

    def __next__(self):
        item = self.first()
        self.held = None
        return item


def _item_or_error(iterator):
    try:
        return next(iterator)
    except Exception as error:  # whatever it is, Prefetch.first raises it
        return error


def _make_ahead(iterator, ready, stop):
    item = None
    while not stop.is_set() and not isinstance(item, Exception):
        item = _item_or_error(iterator)
        ready.put(item)


def _end(thread, ready, stop):
    stop.set()
    with contextlib.suppress(queue.Empty):
        while True:
            ready.get_nowait()  # lets the thread out of put
    if thread is not threading.current_thread():  # where the collector happened to run
        thread.join()


def batches(samples, size):
    """Arrays (N, K, h, w) and (N,) float32, for ever, of samples (image, label, name)."""
    while True:
        rows = list(itertools.islice(samples, size))
        first, _, first_name = rows[0]
        for image, _, name in rows:
            if image.shape != first.shape:
                raise ValueError(
                    f'{name} makes {image.shape} (channels, height, width), but {first_name} in '
                    f'the same batch {first.shape}; crop_size, a new size, or force_color help'
                )
        images, labels, _ = zip(*rows)
        yield np.stack(images), np.array(labels, np.float32)


class BatchLayer(Layer):
    """What Data, ImageData and WindowData have in common.

    A subclass gives samples(param, transformer): an endless iterator of (image, label, name) that does not
    hold the layer. data_param's prefetch says how many batches are made ahead, whatever the type.
    """

    message = None  # the LayerParameter's field with the type's parameters

    def setup(self, bottom, top):
        with self.named_errors():
            if len(top) not in (1, 2):
                raise ValueError(f'{len(top)} tops; wanted are data and, if you like, label')
            param = getattr(self.layer_param, self.message)
            moved = [n for n in ('scale', 'mean_file', 'crop_size', 'mirror') if param.HasField(n)]
            if moved:
                raise ValueError(f'{moved[0]} has its place in transform_param, not in {self.message}')
            if not param.batch_size:
                raise ValueError('batch_size must be given and positive')
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            transformer = Transformer(self.layer_param.transform_param, self.phase, generator)
            samples = self.samples(param, transformer)
            depth = self.layer_param.data_param.prefetch
            self.batches = Prefetch(batches(samples, param.batch_size), depth)
            for blob, array in zip(top, self.batches.first()):
                blob.reshape(*array.shape)

    def forward(self, bottom, top):
        with self.named_errors():
            arrays = next(self.batches)
        for blob, array in zip(top, arrays):
            blob.fill(torch.from_numpy(array))

    @contextlib.contextmanager
    def named_errors(self):
        try:
            yield
        except ValueError as error:
            raise ValueError(f'layer {self.name!r} ({self.type}): {error}') from error


@layer('Data')
class Data(BatchLayer):
    """Tops data (N, K, h, w) and label (N,) of a database's Datums, in their keys' order, round and round.

    In training with several solvers each takes every solver_count-th record. rand_skip: of these, a number
    below it is skipped at first. Each batch has the shape of its own first record. backend is LEVELDB unless
    given.
    """

    message = 'data_param'
    fields = ('source', 'batch_size', 'rand_skip', 'backend', 'force_encoded_color', 'prefetch')

    def samples(self, param, transformer):
        database = open_database(param.source, caffe_pb2.DataParameter.DB.Name(param.backend))
        training = self.phase == caffe_pb2.TRAIN
        rank, count = (common.solver_rank(), common.solver_count()) if training else (0, 1)
        skip = transformer.draw(param.rand_skip) if param.rand_skip else 0
        color = True if param.force_encoded_color else transformer.color
        return record_samples(database, param.source, transformer, color, rank + skip * count, count)


def record_samples(database, source, transformer, color, first, step):
    """Samples of every step-th record of a database from record number `first` on, round and round."""
    records = itertools.chain.from_iterable(itertools.repeat(database))
    for key, value in itertools.islice(records, first, None, step):
        name = f'record {bytes(key).decode(errors="replace")!r} of {source}'
        image, label = read_datum(value, name, color)
        yield transformer(image, name), label, name


@layer('ImageData')
class ImageData(BatchLayer):
    """Tops data (N, K, h, w) and label (N,) of image files, resized to new_height, new_width where given.

    source: a text file with lines `path label`; root_folder is put before each path as it stands. shuffle: a
    new order each round. rand_skip: a number of lines below it is skipped in the first round. Several solvers
    all read all lines.
    """

    message = 'image_data_param'
    fields = (
        'source',
        'batch_size',
        'rand_skip',
        'shuffle',
        'new_height',
        'new_width',
        'is_color',
        'root_folder',
    )

    def samples(self, param, transformer):
        transformer.check_color(param.is_color)
        size = param.new_height, param.new_width
        if any(size) and not all(size):
            raise ValueError(f'new_height and new_width come together, got {size}')
        lines = read_list(param.source)
        if param.rand_skip > len(lines):
            raise ValueError(f'rand_skip {param.rand_skip}, but {param.source} has only {len(lines)} lines')
        alone = self.phase == caffe_pb2.TEST or common.solver_count() == 1
        if not (alone or param.shuffle or param.rand_skip):
            common.logger.warning(
                'layer %r: without shuffle or rand_skip all solvers see the same images', self.name
            )
        skip = transformer.draw(param.rand_skip) if param.rand_skip else 0
        files = [(param.root_folder + path, label) for path, label in lines]
        return file_samples(files, param.is_color, size, transformer, param.shuffle, skip)


def read_list(source):
    """[(path, label)] of a text file with lines `path label`, label an integer; errors name the line."""
    pairs = []
    with open(source, encoding='utf-8', errors='surrogateescape') as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                path, label = line.rsplit(None, 1)
                pairs.append((path, int(label)))
            except ValueError:
                raise ValueError(
                    f'{source}, line {number}: wanted a path and an integer label, got {line.strip()!r}'
                ) from None
    if not pairs:
        raise ValueError(f'{source} is empty; wanted are lines with a path and a label')
    return pairs


def file_samples(files, color, size, transformer, shuffle, skip):
    """Samples of [(path, label)], round and round, from number `skip` of the first round on."""
    count, generator = len(files), transformer.generator
    while True:
        order = torch.randperm(count, generator=generator).tolist() if shuffle else range(count)
        for i in order[skip:]:
            path, label = files[i]
            name = f'image {path}'
            image = decode_image(read_file(path), name, color, size)
            yield transformer(image.transpose(2, 0, 1), name), label, name
        skip = 0


@layer('MemoryData')
class MemoryData(Layer):
    """Tops data (N, channels, height, width) and label (N,) from the arrays of net.set_input_arrays.

    Rows come in order, round and round. The arrays are not copied: what is written into them later shows in
    later batches. They are not transformed.
    """

    fields = ('batch_size', 'channels', 'height', 'width')

    def setup(self, bottom, top):
        param = self.layer_param.memory_data_param
        self.shape = tuple(getattr(param, name) for name in self.fields)
        if not all(self.shape):
            raise ValueError(
                f'layer {self.name!r}: {", ".join(self.fields)} must be given and positive, got {self.shape}'
            )
        if len(top) != 2:
            raise ValueError(f'layer {self.name!r}: MemoryData has two tops, data and label; got {len(top)}')
        if self.layer_param.HasField('transform_param'):
            common.logger.warning('layer %r: MemoryData does not transform the arrays', self.name)
        self.arrays = None
        top[0].reshape(*self.shape)
        top[1].reshape(self.shape[0])

    def set_arrays(self, data, labels):
        """data (n, channels, height, width) and labels (n, 1, 1, 1); see Net.set_input_arrays."""
        for what, array, shape in (('data', data, self.shape[1:]), ('labels', labels, (1, 1, 1))):
            contiguous = array.flags.c_contiguous
            if array.dtype != np.float32 or array.shape[1:] != shape or not contiguous:
                raise RuntimeError(
                    f'layer {self.name!r}: {what} must be a C-contiguous float32 array of '
                    f'shape (n, {", ".join(map(str, shape))}); got {array.dtype} {array.shape}'
                    f'{"" if contiguous else ", not contiguous"}'
                )
        if len(data) != len(labels):
            raise RuntimeError(f'layer {self.name!r}: {len(data)} rows of data but {len(labels)} labels')
        if not len(data) or len(data) % self.shape[0]:
            raise RuntimeError(
                f'layer {self.name!r}: wanted a multiple of batch_size {self.shape[0]} rows, got {len(data)}'
            )
        self.arrays, self.position = (data, labels.reshape(-1)), 0

    def forward(self, bottom, top):
        if self.arrays is None:
            raise RuntimeError(f'layer {self.name!r}: no data; call net.set_input_arrays(data, labels)')
        end = self.position + self.shape[0]
        for blob, array in zip(top, self.arrays):
            blob.fill(torch.from_numpy(array[self.position : end].copy()))
        self.position = end % len(self.arrays[0])


@layer('HDF5Output')
class HDF5Output(Layer):
    """Bottoms go to the datasets data and label of an HDF5 file, with four axes (missing ones are 1).

    Each pass adds its rows. The file has its name once it is whole: at close(), when the net goes, or at the
    end of the program.
    """

    fields = ('file_name',)
    file = None

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError(f'layer {self.name!r}: HDF5Output has two bottoms, got {len(bottom)}')
        if not self.layer_param.hdf5_output_param.file_name:
            raise ValueError(f'layer {self.name!r}: file_name must be given')

    def forward(self, bottom, top):
        rows = {
            name: blob.tensor.cpu().numpy().reshape(blob.num, blob.channels, blob.height, blob.width)
            for name, blob in zip(('data', 'label'), bottom)
        }
        counts = [len(array) for array in rows.values()]
        if counts[0] != counts[1]:
            raise ValueError(f'layer {self.name!r}: {counts[0]} rows of data but {counts[1]} of label')
        if self.file is None:
            self._open(rows)
        for name, array in rows.items():
            dataset = self.file[name]
            if dataset.shape[1:] != array.shape[1:]:
                raise ValueError(
                    f'layer {self.name!r}: rows of {name} were {dataset.shape[1:]} so far, '
                    f'now they are {array.shape[1:]}'
                )
            count = len(dataset)
            dataset.resize(count + len(array), 0)
            dataset[count:] = array

    def _open(self, rows):
        whole = contextlib.ExitStack()
        path = whole.enter_context(atomic_write(self.layer_param.hdf5_output_param.file_name))
        self.file = whole.enter_context(h5py.File(path, 'w'))
        for name, array in rows.items():
            row = array.shape[1:]
            self.file.create_dataset(name, (0, *row), 'f4', maxshape=(None, *row))
        self._close = weakref.finalize(self, whole.close)

    def close(self):
        """Finish the file. A later pass begins it anew."""
        if self.file is not None:
            self._close()
            self.file = None
