"""Layers without bottoms: where arrays enter a net. Input, Parameter, DummyData, HDF5Data."""

import itertools
import os

import h5py
import numpy as np
import torch

from .. import common
from .. import filler
from ..layer import Layer
from ..registry import layer
from ..proto import caffe_pb2


def one_per_top(name, given, top, at_least=1):
    """`given`, repeated when there is one for all tops. ValueError when the numbers do not fit."""
    if len(given) not in (1, len(top)) or len(given) < at_least:
        raise ValueError(f'{name} is given {len(given)} times for {len(top)} tops; wanted 1 or {len(top)}')
    return list(given) * len(top) if len(given) == 1 else list(given)


@layer('Input')
class Input(Layer):
    """Tops that the program fills; `shape` for each, or one for all. They keep the shape that the program
    gives them later."""

    fields = ('shape',)

    def setup(self, bottom, top):
        shapes = self.layer_param.input_param.shape
        if shapes:
            for blob, shape in zip(top, one_per_top('shape', shapes, top)):
                blob.reshape(*shape.dim)

    def forward(self, bottom, top):
        pass


@layer('Parameter')
class Parameter(Layer):
    """A learned blob of the given shape as top: the two are one memory, values and diff."""

    fields = ('shape',)

    def setup(self, bottom, top):
        self.blobs.add_blob(*self.layer_param.parameter_param.shape.dim)

    def reshape(self, bottom, top):
        top[0].reshape(*self.blobs[0].shape)
        top[0].share(self.blobs[0])

    def forward(self, bottom, top):
        pass


@layer('DummyData')
class DummyData(Layer):
    """Tops of the given shapes filled by data_filler (constant 0 when none is given): once if constant,
    otherwise anew in every pass."""

    fields = ('data_filler', 'shape', 'num', 'channels', 'height', 'width')

    def setup(self, bottom, top):
        param = self.layer_param.dummy_data_param
        if param.shape:
            shapes = [tuple(s.dim) for s in one_per_top('shape', param.shape, top)]
        else:
            dims = ('num', 'channels', 'height', 'width')
            shapes = list(zip(*(one_per_top(n, getattr(param, n), top) for n in dims)))
        fillers = one_per_top('data_filler', param.data_filler or [caffe_pb2.FillerParameter()], top)
        self.fresh = []
        for blob, shape, how in zip(top, shapes, fillers):
            if how.type == 'constant':
                blob.fill(filler.fill(shape, how))
            else:  # no draw before the first pass, as in Caffe
                blob.reshape(*shape)
                self.fresh.append((blob, how))

    def forward(self, bottom, top):
        for blob, how in self.fresh:
            blob.fill(filler.fill(blob.shape, how))


@layer('HDF5Data')
class HDF5Data(Layer):
    """Batches of rows from HDF5 files; each top takes its rows from the dataset of its name.

    source: a text file that names the HDF5 files, one a line. Rows come in the files' order and begin again
    after the last; batches run across files. shuffle: the files in a new order each round, and the rows
    within each. In training with several solvers each takes every solver_count-th row.
    """

    fields = ('source', 'batch_size', 'shuffle')

    def setup(self, bottom, top):
        param = self.layer_param.hdf5_data_param
        if self.layer_param.HasField('transform_param'):
            raise ValueError(
                f'layer {self.name!r}: HDF5Data has no transform_param; store the rows as they shall be used'
            )
        if not param.batch_size:
            raise ValueError(f'layer {self.name!r}: batch_size must be given and positive')
        self.source, self.shuffle, self.names = param.source, param.shuffle, list(self.layer_param.top)
        self.files = self.read_source()
        self.loaded = None, None
        for blob, array in zip(top, self.load(self.files[0])):
            blob.reshape(param.batch_size, *array.shape[1:])
        training = self.phase == caffe_pb2.TRAIN
        first, step = (common.solver_rank(), common.solver_count()) if training else (0, 1)
        self.rows = itertools.islice(self.all_rows(), first, None, step)

    def forward(self, bottom, top):
        batch = list(itertools.islice(self.rows, self.layer_param.hdf5_data_param.batch_size))
        for i, blob in enumerate(top):
            blob.fill(torch.from_numpy(np.stack([row[i] for row in batch])))

    def read_source(self):
        if not os.path.isfile(self.source):
            raise FileNotFoundError(f'layer {self.name!r}: no source file {self.source!r}')
        with open(self.source, encoding='utf-8', errors='surrogateescape') as f:
            files = [name.strip() for name in f if name.strip()]
        if not files:
            raise ValueError(f'layer {self.name!r}: source {self.source!r} names no HDF5 file')
        return files

    def load(self, path):
        """The datasets of one file as float32 arrays in the tops' order; the last file stays loaded."""
        if self.loaded[0] == path:
            return self.loaded[1]
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'layer {self.name!r}: no HDF5 file {path!r}, which {self.source!r} names'
            )
        with h5py.File(path, 'r') as f:
            missing = [name for name in self.names if name not in f]
            if missing:
                raise KeyError(
                    f'layer {self.name!r}: {path} has no dataset {missing[0]!r}; it has {", ".join(f)}'
                )
            arrays = [np.asarray(f[name], np.float32) for name in self.names]
        counts = {name: a.shape[0] if a.ndim else 0 for name, a in zip(self.names, arrays)}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ValueError(
                f'layer {self.name!r}: the datasets of {path} must have as many rows, and at '
                f'least one; got {counts}'
            )
        if self.loaded[1] and any(a.shape[1:] != b.shape[1:] for a, b in zip(arrays, self.loaded[1])):
            raise ValueError(
                f'layer {self.name!r}: rows of {path} have the shapes '
                f'{[a.shape[1:] for a in arrays]}, '
                f'those of {self.loaded[0]} {[b.shape[1:] for b in self.loaded[1]]}'
            )
        self.loaded = path, arrays
        return arrays

    def all_rows(self):
        """The rows, as one array for each top, for ever."""
        while True:
            for i in self.order(len(self.files)):
                arrays = self.load(self.files[i])
                for j in self.order(len(arrays[0])):
                    yield [a[j] for a in arrays]

    def order(self, count):
        return torch.randperm(count).tolist() if self.shuffle else range(count)
