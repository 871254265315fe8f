"""Batches from databases, image files and memory: Data, ImageData, WindowData, MemoryData; and out into a file: HDF5Output.

The first three make their batches ahead of the net, in a thread (Prefetch) that draws from a generator of its own, which is seeded from the engine's
in setup; so a batch does not depend on when it is made. Shape letters: N batch_size, K channels, (h, w) the crop or the image.
"""
import contextlib
import functools
import itertools
import math
import os
import queue
import threading
import weakref

import cv2
import h5py
import numpy as np
import torch

from .. import common
from ..database import open_database
from ..layer import Layer, layer
from ..netparam import atomic_write
from ..proto import caffe_pb2
from .transformer import Transformer, decode_image, read_datum, read_file


class Prefetch:
    """Items of an endless iterator, up to `depth` of them made ahead by a thread; 0: made when asked for.

    An error of the iterator is raised by whoever asks for the item, every time. The thread ends with the Prefetch,
    and before the program does; it finishes the item that it is at.
    """

    def __init__(self, iterator, depth):
        self.iterator, self.depth, self.process = iterator, depth, os.getpid()
        self.held = None                # the item in front, or the error in its place
        if depth:
            self.ready, stop = queue.Queue(depth), threading.Event()
            thread = threading.Thread(target=_make_ahead, args=(iterator, self.ready, stop), daemon=True)
            thread.start()
            weakref.finalize(self, _end, thread, self.ready, stop)

    def first(self):
        """The next item, which stays the next one."""
        if self.depth and os.getpid() != self.process:
            raise RuntimeError('a net that prefetches does not run in a forked process; make the net there, or set prefetch: 0')
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
    except Exception as error:      # whatever it is, Prefetch.first raises it
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
            ready.get_nowait()      # lets the thread out of put
    if thread is not threading.current_thread():        # where the collector happened to run
        thread.join()


def batches(samples, size):
    """Arrays (N, K, h, w) and (N,) float32, for ever, of samples (image, label, name). The images of one batch have one shape."""
    while True:
        rows = list(itertools.islice(samples, size))
        for image, _, name in rows:
            if image.shape != rows[0][0].shape:
                raise ValueError(f'{name} makes {image.shape} (channels, height, width), but {rows[0][2]} in the same batch {rows[0][0].shape}; '
                                 'crop_size, new_height and new_width, or force_color make them equal')
        yield np.stack([r[0] for r in rows]), np.array([r[1] for r in rows], np.float32)


class BatchLayer(Layer):
    """What Data, ImageData and WindowData have in common. A subclass gives samples(param, transformer): the endless (image, label, name)."""

    message = None      # the LayerParameter's field with the type's parameters

    def setup(self, bottom, top):
        with self.named_errors():
            if len(top) not in (1, 2):
                raise ValueError(f'{len(top)} tops; wanted are data and, if you like, label')
            param = getattr(self.layer_param, self.message)
            moved = [name for name in ('scale', 'mean_file', 'crop_size', 'mirror') if param.HasField(name)]
            if moved:
                raise ValueError(f'{moved[0]} has its place in transform_param, not in {self.message}')
            if not param.batch_size:
                raise ValueError('batch_size must be given and positive')
            generator = torch.Generator().manual_seed(int(torch.randint(2 ** 62, ())))
            transformer = Transformer(self.layer_param.transform_param, self.phase, generator)
            self.batches = Prefetch(batches(self.samples(param, transformer), param.batch_size), self.layer_param.data_param.prefetch)
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
    """Tops data (N, K, h, w) and label (N,) of the Datums of a database, in the order of their keys, again and again.

    In training with several solvers each takes every solver_count-th record. rand_skip: up to as many of these, less one, are skipped at first.
    Each batch has the shape of its own first record.
    """
    message = 'data_param'
    fields = ('source', 'batch_size', 'rand_skip', 'backend', 'force_encoded_color', 'prefetch')

    def samples(self, param, transformer):
        database = open_database(param.source, caffe_pb2.DataParameter.DB.Name(param.backend))
        rank, count = (common.solver_rank(), common.solver_count()) if self.phase == caffe_pb2.TRAIN else (0, 1)
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

    source: a text file with lines `path label`; root_folder is put before each path as it stands. shuffle: a new order each round.
    rand_skip: up to as many lines, less one, are skipped in the first round. Several solvers all read all lines.
    """
    message = 'image_data_param'
    fields = ('source', 'batch_size', 'rand_skip', 'shuffle', 'new_height', 'new_width', 'is_color', 'root_folder')

    def samples(self, param, transformer):
        transformer.check_color(param.is_color)
        size = param.new_height, param.new_width
        if any(size) and not all(size):
            raise ValueError(f'new_height and new_width come together, got {size}')
        lines = read_list(param.source)
        if param.rand_skip > len(lines):
            raise ValueError(f'rand_skip {param.rand_skip}, but {param.source} has only {len(lines)} lines')
        if self.phase == caffe_pb2.TRAIN and common.solver_count() > 1 and not (param.shuffle or param.rand_skip):
            common.logger.warning('layer %r: without shuffle or rand_skip all solvers see the same images', self.name)
        skip = transformer.draw(param.rand_skip) if param.rand_skip else 0
        paths = [(param.root_folder + path, label) for path, label in lines]
        return file_samples(paths, param.is_color, size, transformer, param.shuffle, skip)


def read_list(source):
    """[(path, label)] of a text file with lines `path label`, label an integer. ValueError names file and line."""
    pairs = []
    with open(source, encoding='utf-8', errors='surrogateescape') as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                path, label = line.rsplit(None, 1)
                pairs.append((path, int(label)))
            except ValueError:
                raise ValueError(f'{source}, line {number}: wanted a path and an integer label, got {line.strip()!r}') from None
    if not pairs:
        raise ValueError(f'{source} is empty; wanted are lines with a path and a label')
    return pairs


def file_samples(paths, color, size, transformer, shuffle, skip):
    """Samples of image files, round and round, from number `skip` of the first round on."""
    while True:
        order = torch.randperm(len(paths), generator=transformer.generator).tolist() if shuffle else range(len(paths))
        for i in order[skip:]:
            path, label = paths[i]
            image = decode_image(read_file(path), f'image {path}', color, size)
            yield transformer(image.transpose(2, 0, 1), f'image {path}'), label, f'image {path}'
        skip = 0


@layer('WindowData')
class WindowData(BatchLayer):
    """Tops data (N, 3, c, c) and label (N,): windows of images scaled to crop_size c, as R-CNN trains on (Girshick et al. 2014, appendix A).

    source: for each image `# index`, path, channels, height, width, number of windows, and for each of these `class overlap x1 y1 x2 y2`.
    A window of overlap fg_threshold or more is foreground with its class; another one below bg_threshold is background, class 0.
    fg_fraction of each batch is foreground, after the background, drawn with replacement. context_pad: pixels around
    the window after scaling. crop_mode square: the tightest square around the window instead of the window. What lies
    outside the image is 0, that is the mean.
    """
    message = 'window_data_param'
    fields = ('source', 'batch_size', 'fg_threshold', 'bg_threshold', 'fg_fraction', 'context_pad', 'crop_mode', 'cache_images', 'root_folder')

    def samples(self, param, transformer):
        transformer.check_color(True)
        crop = transformer.crop[0]
        if not crop or crop != transformer.crop[1]:
            raise ValueError('transform_param: crop_size must be given')
        if param.crop_mode not in ('warp', 'square'):
            raise ValueError(f'crop_mode {param.crop_mode!r}; wanted warp or square')
        if crop <= 2 * param.context_pad:
            raise ValueError(f'context_pad {param.context_pad} on both sides leaves nothing of crop_size {crop}')
        foreground = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        images, windows = read_windows(param.source, param.fg_threshold, param.bg_threshold)
        groups = [(windows[0], param.batch_size - foreground), (windows[1], foreground)]
        for what, (rows, wanted) in zip(('background', 'foreground'), groups):
            if wanted and not len(rows):
                raise ValueError(f'{param.source} has no {what} windows; each batch wants {wanted}')
        images = [param.root_folder + path for path in images]
        cut = functools.partial(cut_window, pad=param.context_pad, square=param.crop_mode == 'square', transformer=transformer)
        return window_samples(images, groups, cut, transformer, functools.cache(read_file) if param.cache_images else read_file)


def read_windows(source, fg_threshold, bg_threshold):
    """(paths, (background, foreground)) of a window file; the latter are integer arrays of rows image, class, x1, y1, x2, y2."""
    paths, chosen = [], ([], [])
    with open(source, encoding='utf-8', errors='surrogateescape') as f:
        tokens = (token for line in f for token in line.split())
        while header := list(itertools.islice(tokens, 7)):
            where = f'{source}, image {len(paths)}'
            if len(header) != 7 or header[0] != '#' or not header[6].isdecimal():
                raise ValueError(f'{where}: wanted # index path channels height width windows, got {" ".join(header)!r}')
            count = int(header[6])
            values = list(itertools.islice(tokens, 6 * count))
            if len(values) != 6 * count:
                raise ValueError(f'{where} ({header[2]}): the file ends within its {count} windows')
            rows = _window_rows(np.reshape(values, (count, 6)), len(paths), fg_threshold, bg_threshold, f'{where} ({header[2]})')
            for kind, part in zip(chosen, rows):
                kind.append(part)
            paths.append(header[2])
    if not paths:
        raise ValueError(f'{source} is empty')
    return paths, tuple(np.concatenate(kind) for kind in chosen)


def _window_rows(values, image, fg_threshold, bg_threshold, where):
    """(background, foreground) rows of one image's windows; values: (n, 6) strings."""
    try:
        overlaps, rows = values[:, 1].astype(np.float32), values[:, [0, 0, 2, 3, 4, 5]].astype(np.int64)
    except ValueError as error:
        raise ValueError(f'{where}: wanted class overlap x1 y1 x2 y2, all but overlap integers: {error}') from error
    is_fg = overlaps >= np.float32(fg_threshold)
    is_bg = ~is_fg & (overlaps < np.float32(bg_threshold))
    if (rows[is_fg, 1] <= 0).any():
        raise ValueError(f'{where}: a foreground window has the class {rows[is_fg, 1].min()}; classes begin at 1')
    rows[:, 0] = image
    rows[is_bg, 1] = 0
    return rows[is_bg], rows[is_fg]


def window_samples(images, groups, cut, transformer, read):
    """Samples of windows: of each group (rows, number) so many, again and again."""
    while True:
        for rows, count in groups:
            for _ in range(count):
                number, label, *box = rows[transformer.draw(len(rows))].tolist()
                mirror = transformer.mirror and transformer.draw(2)
                image = decode_image(read(images[number]), f'image {images[number]}')
                name = f'window {box} of {images[number]}'
                try:
                    yield cut(image, box, mirror), label, name
                except ValueError as error:
                    raise ValueError(f'{name}: {error}') from error


def cut_window(image, box, mirror, pad, square, transformer):
    """float32 (3, c, c): the window box = [x1, y1, x2, y2] (pixels, inclusive) of a BGR image (H, W, 3), scaled to c x c."""
    crop = transformer.crop[0]
    half = [(high - low + 1) / 2 for low, high in zip(box[:2], box[2:])]
    half = [max(half)] * 2 if square else half
    if pad or square:
        x, y = (_expand(low, high, h, size, crop, crop / (crop - 2 * pad))
                for low, high, h, size in zip(box[:2], box[2:], half, image.shape[1::-1]))
    else:
        x, y = ((low, high, crop, 0, 0) for low, high in zip(box[:2], box[2:]))
    left, top = x[4] if mirror else x[3], y[3]
    width, height = min(x[2], crop - left), min(y[2], crop - top)
    if not (0 <= x[0] <= x[1] < image.shape[1] and 0 <= y[0] <= y[1] < image.shape[0] and width > 0 and height > 0):
        raise ValueError(f'it does not lie in the image of {image.shape[1]} x {image.shape[0]} pixels, or vanishes when scaled')
    pixels = cv2.resize(image[y[0]:y[1] + 1, x[0]:x[1] + 1], (width, height))
    pixels = pixels[:, ::-1] if mirror else pixels
    result = np.zeros((3, crop, crop), np.float32)
    place = (slice(None), slice(top, top + height), slice(left, left + width))
    result[place] = pixels.transpose(2, 0, 1)
    mean = _window_mean(transformer, crop)
    if len(mean):
        result[place] -= mean[place] if mean.shape[1:] == (crop, crop) else mean
    return result * transformer.scale


def _expand(low, high, half, size, crop, factor):
    """One axis of a window of half-width `half`, made wider by `factor` about its centre, in an image of `size` pixels.

    Returns first and last pixel that the image has of it; how many of `crop` pixels these become, and how many are padding before and after.
    """
    centre = low + (high - low + 1) / 2
    low, high = _round(centre - half * factor), _round(centre + half * factor)
    scale = crop / (high - low + 1)
    before, after = max(0, -low), max(0, high - size + 1)
    low, high = low + before, high - after
    return low, high, _round((high - low + 1) * scale), _round(before * scale), _round(after * scale)


def _round(value):
    """To the nearest integer, halves away from 0, as C does."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _window_mean(transformer, crop):
    """The mean for a whole crop: the middle of a mean file."""
    mean = transformer.mean
    if not transformer.mean_file:
        return transformer.mean_for((3, crop, crop), None)
    if len(mean) != 3 or min(mean.shape[1:]) < crop:
        raise ValueError(f'mean file {transformer.mean_file} has the shape {mean.shape}; wanted 3 channels and at least {crop} x {crop}')
    y, x = ((n - crop) // 2 for n in mean.shape[1:])
    return mean[:, y:y + crop, x:x + crop]


@layer('MemoryData')
class MemoryData(Layer):
    """Tops data (N, channels, height, width) and label (N,) from arrays that net.set_input_arrays(data, labels) gives, in order, again and again.

    The arrays are not copied: what is written into them later shows in later batches. They are not transformed.
    """
    fields = ('batch_size', 'channels', 'height', 'width')

    def setup(self, bottom, top):
        param = self.layer_param.memory_data_param
        self.shape = tuple(getattr(param, name) for name in self.fields)
        if not all(self.shape):
            raise ValueError(f'layer {self.name!r}: batch_size, channels, height and width must be given and positive, got {self.shape}')
        if len(top) != 2:
            raise ValueError(f'layer {self.name!r}: MemoryData has two tops, data and label; got {len(top)}')
        if self.layer_param.HasField('transform_param'):
            common.logger.warning('layer %r: MemoryData does not transform; give it arrays as they shall be used', self.name)
        self.arrays = None
        top[0].reshape(*self.shape)
        top[1].reshape(self.shape[0])

    def set_arrays(self, data, labels):
        """data: (n, channels, height, width), labels: (n, 1, 1, 1), C-contiguous float32, n a multiple of batch_size. Else RuntimeError."""
        for what, array, shape in (('data', data, self.shape[1:]), ('labels', labels, (1, 1, 1))):
            wanted = f'layer {self.name!r}: {what} must be a C-contiguous float32 array of shape (n, {", ".join(map(str, shape))})'
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 4 or array.shape[1:] != shape:
                raise RuntimeError(f'{wanted}; got {getattr(array, "dtype", type(array).__name__)} {np.shape(array)}')
            if not array.flags.c_contiguous:
                raise RuntimeError(f'{wanted}; it is not contiguous (numpy.ascontiguousarray makes it so)')
        if len(data) != len(labels):
            raise RuntimeError(f'layer {self.name!r}: {len(data)} rows of data but {len(labels)} labels')
        if not len(data) or len(data) % self.shape[0]:
            raise RuntimeError(f'layer {self.name!r}: {len(data)} rows are not a multiple of batch_size {self.shape[0]}')
        self.arrays, self.position = (data, labels.reshape(-1)), 0

    def forward(self, bottom, top):
        if self.arrays is None:
            raise RuntimeError(f'layer {self.name!r}: no data; call net.set_input_arrays(data, labels) first')
        for blob, array in zip(top, self.arrays):
            blob.fill(torch.from_numpy(array[self.position:self.position + self.shape[0]].copy()))
        self.position = (self.position + self.shape[0]) % len(self.arrays[0])


@layer('HDF5Output')
class HDF5Output(Layer):
    """Bottoms go to the datasets data and label of an HDF5 file, each with four axes (missing ones are 1); later passes add rows.

    The file has its name once it is whole: at close(), when the net goes, or at the end of the program.
    """
    fields = ('file_name',)
    file = None

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError(f'layer {self.name!r}: HDF5Output has two bottoms, data and label; got {len(bottom)}')
        if not self.layer_param.hdf5_output_param.file_name:
            raise ValueError(f'layer {self.name!r}: file_name must be given')

    def forward(self, bottom, top):
        rows = {name: _four_axes(blob) for name, blob in zip(('data', 'label'), bottom)}
        if len(rows['data']) != len(rows['label']):
            raise ValueError(f'layer {self.name!r}: {len(rows["data"])} rows of data but {len(rows["label"])} of label')
        if self.file is None:
            self.open(rows)
        for name, array in rows.items():
            dataset = self.file[name]
            if dataset.shape[1:] != array.shape[1:]:
                raise ValueError(f'layer {self.name!r}: rows of {name} were {dataset.shape[1:]}, now they are {array.shape[1:]}')
            dataset.resize(len(dataset) + len(array), 0)
            dataset[-len(array):] = array

    def open(self, rows):
        whole = contextlib.ExitStack()
        self.file = h5py.File(whole.enter_context(atomic_write(self.layer_param.hdf5_output_param.file_name)), 'w')
        whole.callback(self.file.close)
        for name, array in rows.items():
            self.file.create_dataset(name, (0, *array.shape[1:]), 'f4', maxshape=(None, *array.shape[1:]))
        self._close = weakref.finalize(self, whole.close)

    def close(self):
        """Finish the file. A later pass begins it anew."""
        if self.file is not None:
            self._close()
            self.file = None


def _four_axes(blob):
    return blob.tensor.cpu().numpy().reshape(blob.num, blob.channels, blob.height, blob.width)
