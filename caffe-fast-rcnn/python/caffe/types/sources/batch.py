"""BatchLayer, the base of sources that yield samples: batches of them are made ahead of the net, in a thread.

The thread draws from a generator of its own, seeded from the engine's in setup; so a batch does not depend on
when it is made.
Shape letters: N batch_size, K channels, (h, w) the crop or the image.
"""

import contextlib
import math
import os
import queue
import threading
import weakref

import cv2
import numpy as np
import torch

from ... import common
from ...blob import MOST
from ...layer import Layer
from .transformer import Transformer


class Prefetch:
    """Items of an endless iterator, up to `depth` of them made ahead by a thread; 0: made when asked for.

    An error of the iterator is raised by whoever asks for the item, every time. The thread ends with the
    Prefetch, and before the program does; it finishes the item that it is at, unless the iterator heeds `stop`,
    an event that is then set.
    """

    def __init__(self, iterator, depth, stop=None):
        self.iterator, self.depth, self.process = iterator, depth, os.getpid()
        self.held = None  # the item in front, or the error in its place
        if depth:
            self.ready, stop = queue.Queue(depth), stop or threading.Event()
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


def numbers(labels):
    """(N,) float32 of a number for each sample."""
    return room(len(labels)).copy_(torch.tensor(labels))


def batches(samples, size, stop, gather=numbers):
    """Tensors (N, K, h, w) and gather([label, ...]) float32 of samples (image, label, name), until `stop` is set; in
    pinned memory where the engine computes on a GPU. There is room for a batch before a second sample is asked for."""
    for image, label, name in samples:
        first, first_name = image, name
        images, labels = room(size, *image.shape), []
        for i in range(size):
            if i:
                image, label, name = next(samples)
            if stop.is_set():
                return
            if image.shape != first.shape:
                raise ValueError(
                    f'{name} makes {image.shape} (channels, height, width), but {first_name} in '
                    f'the same batch {first.shape}; crop_size, a new size, or force_color help'
                )
            images[i] = torch.from_numpy(np.ascontiguousarray(image))
            labels.append(label)
        yield images, gather(labels)


def room(size, *shape):
    """A float32 tensor (N, *shape), not filled. ValueError where a blob or the memory does not hold so much."""
    count, pinned = size * math.prod(shape), common.device().type == 'cuda'
    asked = f'batch_size {size} of shape {shape} is {count} numbers, {4 * count / 2**30:.1f} GiB'
    if count > MOST:
        raise ValueError(f'{asked}; a blob holds {MOST} numbers at most')
    try:
        return torch.empty(size, *shape, pin_memory=pinned)
    except RuntimeError as error:  # torch's word for a lack of memory
        raise ValueError(f'{asked}, more than there is room for: {error}') from error


class BatchLayer(Layer):
    """What Data, ImageData and WindowData have in common.

    A subclass gives samples(param, transformer): an endless iterator of (image, label, name) that does not
    hold the layer. data_param's prefetch says how many batches are made ahead, whatever the type.
    """

    transformer = Transformer
    gather = staticmethod(numbers)  # the labels of a batch's samples -> the second top

    def setup(self, bottom, top):
        with self.named_errors():
            if len(top) not in (1, 2):
                raise ValueError(f'{len(top)} tops; wanted are data and, if you like, label')
            param = getattr(self.layer_param, self.messages[0])
            known = param.DESCRIPTOR.fields_by_name
            moved = [
                n for n in ('scale', 'mean_file', 'crop_size', 'mirror') if n in known and param.HasField(n)
            ]
            if moved:
                raise ValueError(f'{moved[0]} has its place in transform_param, not in {self.messages[0]}')
            if not param.batch_size:
                raise ValueError('batch_size must be given and positive')
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            transformer = self.transformer(self.layer_param.transform_param, self.phase, generator)
            samples = self.samples(param, transformer)
            depth, stop = self.layer_param.data_param.prefetch, threading.Event()
            self.batches = Prefetch(batches(samples, param.batch_size, stop, self.gather), depth, stop)
            for blob, batch in zip(top, self.batches.first()):
                blob.reshape(*batch.shape)

    def forward(self, bottom, top):
        with self.named_errors():
            batches = next(self.batches)
        for blob, batch in zip(top, batches):
            blob.fill(batch)

    @contextlib.contextmanager
    def named_errors(self):
        try:
            yield
        except (ValueError, cv2.error) as error:
            raise ValueError(f'layer {self.name!r} ({self.type}): {error}') from error
