"""Pooling with Caffe's windows, resizing, and the ways back."""

import numpy as np

from caffe.types.pooling import per_side
from export.graph import FAR
from export.table import exports

NO_PIXEL = 'a last window may hold no pixel, which ONNX leaves out'


@exports('Pooling')
def pooling(x, *, pool, global_pooling, at):
    layer = at.layer
    if global_pooling and at.num_tops == 1 and pool != 'STOCHASTIC':
        return x.op('GlobalMaxPool' if pool == 'MAX' else 'GlobalAveragePool')
    if global_pooling:
        raise ValueError('global pooling is MAX or AVE, with one top, in ONNX')
    kernel = per_side(layer, 'kernel_size')
    windows = Windows(kernel, per_side(layer, 'stride', 1), per_side(layer, 'pad', 0), layer.round_up)
    if pool == 'MAX':
        return windows.maxima(x, at.num_tops > 1)
    if pool == 'AVE':
        return windows.means(x)
    floor = float(np.finfo(np.float32).tiny)
    return windows.means(x * x) / windows.means(x).maximum(floor)


class Windows:
    """kernel, stride, pad, each (vertical, horizontal). round_up: how many there are."""

    def __init__(self, kernel, stride, pad, round_up):
        self.kernel, self.stride, self.pad = kernel, stride, pad
        self.round_up = round_up and stride != (1, 1)
        if self.round_up and any(s > k and not p for k, s, p in zip(kernel, stride, pad)):
            raise ValueError(f'kernel {kernel}, stride {stride}: {NO_PIXEL}')
        # the last starts behind the image and its near padding: Caffe leaves it out
        self.cut = [p > 0 and s - 1 >= k - p for k, s, p in zip(kernel, stride, pad)] if self.round_up else []

    def sizes(self):
        return {
            'kernel_shape': list(self.kernel),
            'strides': list(self.stride),
            'ceil_mode': int(self.round_up),
        }

    def maxima(self, x, with_places=False):
        found = x.graph.op('MaxPool', x, tops=1 + with_places, pads=list(self.pad) * 2, **self.sizes())
        if not with_places:
            return self.kept(found, x)
        maxima, places = found
        places = type(x)(x.graph, places.name, np.int64) % (x.dim(2) * x.dim(3))
        return [self.kept(maxima, x), self.kept(places.cast(np.float32), x)]

    def means(self, x):
        """The divisor counts the padding, but not what lies beyond it."""
        wide = x
        if any(self.pad):
            pads = x.graph.size(0, 0, *self.pad, 0, 0, *self.pad)
            wide = x.graph.op('Pad', x, pads)
        return self.kept(wide.op('AveragePool', **self.sizes()), x)

    def kept(self, pooled, x):
        for axis, cut, stride, pad in zip((2, 3), self.cut, self.stride, self.pad):
            if cut:
                pooled = pooled.cut(axis, 0, (x.dim(axis) + pad).ceil_by(stride))
        return pooled


@exports('SPP')
def spp(x, *, pyramid_height, pool, at):
    """For images of the size that the net has now."""
    if pool == 'STOCHASTIC':
        raise ValueError('pools are MAX or AVE')
    levels = []
    for bins in (2**level for level in range(pyramid_height)):
        kernel = tuple(-(-n // bins) for n in at.shapes[0][2:])
        pad = tuple((k * bins - n + 1) // 2 for n, k in zip(at.shapes[0][2:], kernel))
        windows = Windows(kernel, kernel, pad, True)
        levels.append(windows.maxima(x) if pool == 'MAX' else windows.means(x))
    return levels[0] if len(levels) == 1 else at.graph.join([t.op('Flatten', axis=1) for t in levels], 1)


# ---------------------------------------------------------------------------------------------- resizing


@exports('Interp')
def interp(x, *like, pad_beg, pad_end, mode, align_corners, at):
    if pad_beg or pad_end:
        for axis in 2, 3:
            x = x.cut(axis, -pad_beg, pad_end or FAR)
    sizes = [like[0].dim(2), like[0].dim(3)] if like else _interp_size(x, at)
    if mode == 'NEAREST':
        return _nearest(_nearest(x, 2, sizes[0]), 3, sizes[1])
    how = 'align_corners' if align_corners else 'half_pixel'
    full = at.graph.size(x.shape(0, 2), *sizes)
    return at.graph.op('Resize', x, None, None, full, mode='linear', coordinate_transformation_mode=how)


def _interp_size(x, at):
    layer, given = at.layer, at.layer.param.HasField
    zoom, shrink = given('zoom_factor'), given('shrink_factor')
    if given('height') and given('width') and zoom == shrink:
        return [layer.field('height'), layer.field('width')]
    sizes = [(x.dim(axis) - 1) // layer.field('shrink_factor') + 1 for axis in (2, 3)]
    return [n + (n - 1) * (layer.field('zoom_factor') - 1) for n in sizes]


def _nearest(x, axis, size):
    """Row i is row i H / H', rounded down, as torch computes it."""
    step = x.dim(axis).cast(np.float32) / (x.graph.size(size).cast(np.float32))
    rows = (x.graph.arange(x.graph.size(size)) * step).op('Floor').cast(np.int64)
    return x.take(rows.minimum(x.dim(axis) - 1), axis)


@exports('Upsample')
def upsample(x, *mask, scale, scale_h, scale_w, pad_out_h, pad_out_w, upsample_h, upsample_w, at):
    factors = [scale_h or scale, scale_w or scale]
    if not mask:
        scales = at.graph.const([1, 1, *factors])
        how = {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor', 'mode': 'nearest'}
        return at.graph.op('Resize', x, None, scales, **how)
    sizes = [upsample_h, upsample_w]
    if not all(sizes):
        cut = zip((2, 3), factors, (pad_out_h, pad_out_w))
        sizes = [x.dim(axis) * factor - less for axis, factor, less in cut]
    return _put_back(x, mask[0], sizes)


@exports('Unpooling')
def unpooling(x, *mask, unpool, unpool_size, unpool_h, unpool_w, at):
    if unpool != 'MAX' or not mask:
        raise ValueError(f'unpool: {unpool} has no operator in ONNX; MAX with a mask has')
    shape = [
        per_side(at.layer, name, usual) for name, usual in (('stride', 1), ('kernel_size', None), ('pad', 0))
    ]
    full = [(x.dim(axis) - 1) * s + (k - 2 * p) for axis, s, k, p in zip((2, 3), *shape)]
    return _put_back(x, mask[0], [unpool_h or unpool_size or full[0], unpool_w or unpool_size or full[1]])


def _put_back(x, mask, sizes):
    """Zeros of these sizes with each x where mask, a position y width + x per value, says."""
    graph, (height, width) = x.graph, map(x.graph.size, sizes)
    zeros = graph.full(graph.size(x.shape(0, 2), height * width), 0)
    places = mask.cast(np.int64).reshape(0, 0, -1)
    return zeros.op('ScatterElements', places, x.reshape(0, 0, -1), axis=2).reshape(0, 0, height, width)
