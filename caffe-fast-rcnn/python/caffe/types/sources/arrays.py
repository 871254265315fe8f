"""Arrays of the program's own, or drawn by fillers: Input, Parameter, DummyData, MemoryData."""

import numpy as np
import torch

from ... import common, filler
from ...layer import Layer
from ...proto import caffe_pb2
from ...registry import layer


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
