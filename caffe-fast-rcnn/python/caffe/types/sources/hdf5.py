"""Rows from HDF5 files and out to one: HDF5Data, HDF5Output."""

import contextlib
import itertools
import os
import weakref

import h5py
import numpy as np
import torch

from ... import common
from ...format.files import atomic_write
from ...format.hdf5 import numbers, open_hdf5
from ...layer import Layer
from ...proto import caffe_pb2
from ...registry import layer


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
        with open_hdf5(path, f'layer {self.name!r}: HDF5 file') as f:
            missing = [name for name in self.names if name not in f]
            if missing:
                raise KeyError(f'no dataset {missing[0]!r}; it has {", ".join(f)}')
            arrays = [numbers(f[name]) for name in self.names]
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
