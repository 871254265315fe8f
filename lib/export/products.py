"""Layers that multiply by matrices, and normalisation."""

import numpy as np

from caffe.types.conv import geometry
from export.table import exports

# ---------------------------------------------------------------------------------------------- matrices


@exports('Convolution', 'ConvolutionDepthwise', 'DepthwiseConvolution')
def convolution(*xs, at):
    return [_filtered('Conv', x, at) for x in xs]


@exports('Deconvolution')
def deconvolution(*xs, at):
    return [_filtered('ConvTranspose', x, at) for x in xs]


def _filtered(kind, x, at):
    layer = at.layer
    count = at.ndim - at.axis(layer.field('axis')) - 1
    if at.axis(layer.field('axis')) != 1 or not 1 <= count <= 3:
        raise ValueError(
            f'{kind} of ONNX wants axis 1 and 1 to 3 axes behind it; the bottom has the shape {at.shapes[0]}, '
            f'axis is {layer.field("axis")}'
        )
    kernel, stride, pad, dilation = geometry(layer.field, count)
    sizes = {'kernel_shape': kernel, 'strides': stride, 'pads': pad * 2, 'dilations': dilation}
    return x.op(
        kind, *at.weights, name=layer.name, group=layer.group, **{k: list(v) for k, v in sizes.items()}
    )


@exports('InnerProduct')
def inner_product(x, *, axis, transpose, at):
    """Gemm where axis 0 alone is kept, else MatMul."""
    axis, weight, *bias = at.axis(axis), *at.weights
    if axis == 1:
        flat = x if at.ndim == 2 else x.op('Flatten', axis=1)
        return flat.op('Gemm', weight, *bias, name=at.layer.name, transB=int(not transpose))
    weight = weight if transpose else weight.transpose(1, 0)
    y = x.reshape(*[0] * axis, -1).op('MatMul', weight)
    return y + bias[0] if bias else y


@exports('Embed')
def embed(x, *, at):
    weight, *bias = at.weights
    y = weight.take(x.cast(np.int64))
    return y + bias[0] if bias else y


# ---------------------------------------------------------------------------------------------- normalisation


@exports('BatchNorm')
def batch_norm(x, *, eps, at):
    if at.layer.use_global_stats:
        mean, var = (v.cpu().numpy() for v in at.layer.global_stats([b.tensor for b in at.layer.blobs]))
        return _by_statistics(x, np.ones_like(mean), np.zeros_like(mean), mean, var, eps, at)
    return _by_batch(x, eps, at)


def _by_statistics(x, scale, shift, mean, var, eps, at):
    given = [at.graph.const(values) for values in (scale, shift, mean, var)]
    if at.ndim < 2:
        return (x - mean[0]) * (1 / np.sqrt(var[0] + eps))
    return x.op('BatchNormalization', *given, name=at.layer.name, epsilon=float(eps))


def _by_batch(x, eps, at):
    axes = [i for i in range(at.ndim) if i != 1]
    centred = x - x.mean(*axes, keep=True)
    return centred / ((centred * centred).mean(*axes, keep=True) + eps).op('Sqrt')


@exports('BN')
def bn(x, *, frozen, bn_mode, at):
    scale, shift, *statistics = (at.array(i).reshape(-1) for i in range(len(at.layer.blobs)))
    if not at.layer.segnet:
        return _by_statistics(x, scale, shift, *statistics, at.layer.eps, at)
    axes = [-1, *[1] * (at.ndim - 2)]
    y = x if bn_mode == 'INFERENCE' else _by_batch(x, at.layer.eps, at)
    return y * at.graph.const(scale.reshape(axes)) + at.graph.const(shift.reshape(axes))


@exports('GroupNorm')
def group_norm(x, *, group, group_num, eps, at):
    groups = group or group_num
    ones, zeros = at.graph.const(np.ones(groups)), at.graph.const(np.zeros(groups))
    y = x.reshape(0, groups, -1).op('InstanceNormalization', ones, zeros, epsilon=float(eps)).like(x)
    factor = [w.reshape(-1, *[1] * (at.ndim - 2)) for w in at.weights]
    return y * factor[0] + factor[1] if factor else y


@exports('LRN')
def lrn(x, *, local_size, alpha, beta, norm_region, k):
    if norm_region == 'ACROSS_CHANNELS':
        return x.op('LRN', alpha=float(alpha), beta=float(beta), bias=float(k), size=local_size)
    window = {'kernel_shape': [local_size] * 2, 'pads': [local_size // 2] * 4, 'count_include_pad': 1}
    return x * ((x * x).op('AveragePool', **window) * alpha + 1) ** -beta


@exports('MVN')
def mvn(x, *, normalize_variance, across_channels, eps, at):
    axes = list(range(1 if across_channels else 2, at.ndim))
    centred = x - x.mean(*axes, keep=True)
    if not normalize_variance:
        return centred
    return centred / ((centred * centred).mean(*axes, keep=True).op('Sqrt') + eps)


@exports('Normalize')
def normalize(x, *, across_spatial, channel_shared, eps, at):
    axes = range(1, at.ndim) if across_spatial else [1]
    length = ((x * x).sum(*axes, keep=True) + eps).op('Sqrt')
    scale = at.weights[0]
    return x / length * (scale if channel_shared else scale.reshape(-1, *[1] * (at.ndim - 2)))


@exports('Scale')
def scale(x, *factor, axis, bias_term, at):
    blobs = list(at.weights)
    shape = at.shapes[1] if factor else at.layer.blobs[0].shape
    y = x * _along(factor[0] if factor else blobs.pop(0), len(shape), axis, at)
    return y + _along(blobs[0], len(shape), axis, at) if bias_term else y


@exports('Bias')
def bias(x, *given, axis, at):
    shape = at.shapes[1] if given else at.layer.blobs[0].shape
    return x + _along(given[0] if given else at.weights[0], len(shape), axis, at)


def _along(value, ndim, axis, at):
    """A value of so many axes, shaped to be broadcast over the first bottom from `axis` on."""
    behind = at.ndim - (at.axis(axis) if ndim else at.ndim) - ndim
    return value.unsqueeze(*range(ndim, ndim + behind)) if behind > 0 else value
