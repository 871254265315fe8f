"""BatchLayer, the base of sources that yield samples: batches of them are made ahead of the net, in a thread.

The thread draws from a generator of its own, seeded from the engine's in setup; so a batch does not depend on
when it is made.
Shape letters: N batch_size, K channels, (h, w) the crop or the image.
"""

import contextlib
import itertools
import os
import queue
import threading
import weakref

import cv2
import numpy as np
import torch

from ... import common
from ...layer import Layer
from .transformer import Transformer


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
    """Tensors (N, K, h, w) and (N,) float32, for ever, of samples (image, label, name); in pinned memory where
    the engine computes on a GPU."""
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
        batch = torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.float32)
        yield tuple(t.pin_memory() for t in batch) if common.device().type == 'cuda' else batch


class BatchLayer(Layer):
    """What Data, ImageData and WindowData have in common.

    A subclass gives samples(param, transformer): an endless iterator of (image, label, name) that does not
    hold the layer. data_param's prefetch says how many batches are made ahead, whatever the type.
    """

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
            transformer = Transformer(self.layer_param.transform_param, self.phase, generator)
            samples = self.samples(param, transformer)
            depth = self.layer_param.data_param.prefetch
            self.batches = Prefetch(batches(samples, param.batch_size), depth)
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
