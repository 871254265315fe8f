"""Layers that map elements, reduce axes, or move elements."""

import functools

import numpy as np
from caffe.types.activation import natural_log

from export.graph import FAR, Value
from export.table import exports

# ---------------------------------------------------------------------------------------------- elements


@exports('AbsVal')
def abs_val(x):
    return x.op('Abs')


@exports('BNLL')
def bnll(x):
    return x.op('Softplus')


@exports('Clip')
def clip(x, *, min, max):
    return x.op('Clip', min, max)


@exports('ReLU6')
def relu6(x):
    return x.op('Clip', 0, 6)


@exports('Dropout')
def dropout(x, *, dropout_ratio, scale_train):
    return x if scale_train else x * (1 - dropout_ratio)


@exports('ELU')
def elu(x, *, alpha):
    return x.op('Elu', alpha=float(alpha))


@exports('Exp')
def exp(x, *, base, scale, shift):
    return ((x * scale + shift) * natural_log(base)).op('Exp')


@exports('Log')
def log(x, *, base, scale, shift):
    return (x * scale + shift).op('Log') / natural_log(base)


@exports('Power')
def power(x, *, power, scale, shift):
    x = x if scale == 1 else x * scale
    x = x if shift == 0 else x + shift
    return x if power == 1 else x**power


@exports('PReLU')
def prelu(x, *, channel_shared, at):
    slope = at.weights[0]
    return x.op('PRelu', slope if channel_shared else slope.reshape(-1, *[1] * (at.ndim - 2)))


@exports('ReLU')
def relu(x, *, negative_slope):
    return x.op('LeakyRelu', alpha=float(negative_slope)) if negative_slope else x.op('Relu')


@exports('Sigmoid')
def sigmoid(x):
    return x.op('Sigmoid')


@exports('Softmax')
def softmax(x, *, axis, at):
    return x.op('Softmax', axis=at.axis(axis))


@exports('Swish')
def swish(x, *, beta):
    return x * (x * beta).op('Sigmoid')


@exports('TanH')
def tanh(x):
    return x.op('Tanh')


@exports('Threshold')
def threshold(x, *, threshold):
    return (x > threshold).cast(np.float32)


@exports('HardSwish', 'HSwish')
def hard_swish(x):
    return x.op('HardSwish')


@exports('Mish')
def mish(x):
    return x * x.op('Softplus').op('Tanh')


# ---------------------------------------------------------------------------------------------- several, and axes


@exports('Axpy')
def axpy(scale, x, y, *, at):
    return scale.reshape(0, 0, *[1] * (len(at.shapes[1]) - 2)) * x + y


@exports('Eltwise')
def eltwise(*xs, operation, coeff, at):
    xs = [x if shape == at.shapes[0] else x.like(xs[0]) for x, shape in zip(xs, at.shapes)]
    if operation != 'SUM':
        return functools.reduce(Value.maximum if operation == 'MAX' else Value.__mul__, xs)
    xs = [x if c == 1 else x * c for x, c in zip(xs, coeff or [1] * len(xs))]
    return xs[0] + xs[1] if len(xs) == 2 else xs[0].op('Sum', *xs[1:])


@exports('Reduction')
def reduction(x, *, operation, axis, coeff, at):
    axes = list(range(at.axis(axis), at.ndim))
    x = x.op('Abs') if operation == 'ASUM' else x * x if operation == 'SUMSQ' else x
    reduced = x.mean(*axes) if operation == 'MEAN' else x.sum(*axes)
    return reduced if coeff == 1 else reduced * coeff


@exports('ArgMax')
def arg_max(x, *, out_max_val, top_k, axis, at):
    """Of equal ones the last comes first: the first of the axis turned round."""
    flat = x.reshape(0, -1) if axis is None else x
    along = 1 if axis is None else at.axis(axis)
    turned = flat.cut(along, -1, -FAR, -1)
    values, places = turned.top(at.graph.size(top_k), along)
    places = (flat.dim(along) - 1).cast(np.float32) - places.cast(np.float32)
    if axis is not None:
        return values if out_max_val else places
    rows = [part.unsqueeze(1) for part in (places, values)[: 2 if out_max_val else 1]]
    top = at.graph.join(rows, 1)
    return top.unsqueeze(*range(3, at.ndim)) if at.ndim > 3 else top


# ---------------------------------------------------------------------------------------------- shapes


@exports('BatchReindex')
def batch_reindex(x, index):
    return x.take(index.cast(np.int64).reshape(-1))


@exports('Filter')
def filter(*xs):
    *xs, selector = xs
    rows = (selector.reshape(-1).op('Abs') > 0).where_true()
    return [x.take(rows) for x in xs]


@exports('Concat')
def concat(*xs, axis, concat_dim, at):
    axis = at.axis(axis if concat_dim == 1 else concat_dim)
    return at.graph.join([_with_axes(x, shape, at.ndim) for x, shape in zip(xs, at.shapes)], axis)


def _with_axes(x, shape, count):
    """x without ones, the first first, that are more than so many axes."""
    extra = [i for i, size in enumerate(shape) if size == 1][: max(0, len(shape) - count)]
    return x.squeeze(*extra) if extra else x


@exports('Crop')
def crop(x, like, *, axis, offset, at):
    axis = at.axis(axis)
    count = at.ndim - axis
    starts = at.graph.size(*(offset * count if len(offset) == 1 else offset or (0,) * count))
    ends = starts + like.shape(axis)
    return x.op('Slice', starts, ends, at.graph.size(*range(axis, at.ndim)))


@exports('Flatten')
def flatten(x, *, axis, end_axis, at):
    start, end = at.axis(axis), at.axis(end_axis)
    return x.reshape(*[0] * start, -1, *([x.shape(end + 1)] if end + 1 < at.ndim else []))


@exports('Reshape')
def reshape(x, *, shape, axis, num_axes, at):
    start = axis if axis >= 0 else at.ndim + axis + 1
    end = at.ndim if num_axes == -1 else start + num_axes
    return x.reshape(*[0] * start, *shape.dim, *([x.shape(end)] if end < at.ndim else []))


@exports('Silence')
def silence(*xs):
    return []


@exports('Slice')
def slice(x, *, axis, slice_dim, slice_point, at):
    axis = at.axis(axis if slice_dim == 1 else slice_dim)
    if not slice_point:
        return at.graph.op('Split', x, tops=at.num_tops, axis=axis) if at.num_tops > 1 else x
    return [x.cut(axis, start, end) for start, end in zip((0, *slice_point), (*slice_point, FAR))]


@exports('Split')
def split(x, *, at):
    return [x] * at.num_tops


@exports('Tile')
def tile(x, *, axis, tiles, at):
    return at.graph.join([x] * tiles, at.axis(axis))


@exports('Permute')
def permute(x, *, order, at):
    return x.transpose(*order, *(i for i in range(at.ndim) if i not in order))


@exports('ShuffleChannel')
def shuffle_channel(x, *, group, at):
    channels = at.shapes[0][1] // group
    return x.reshape(0, group, channels, -1).transpose(0, 2, 1, 3).like(x)


@exports('Parameter')
def parameter(*, at):
    return at.weights
