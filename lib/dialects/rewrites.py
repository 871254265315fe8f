"""Layers of forks in the plain words of BVLC Caffe, where these compute the same.

REWRITES: type -> a function of a Site that adds the plain layers, or raises Stuck; it is asked where the dialect lacks the type.
A plain type is there where some of its forms are no plain ones; NotImplemented then says that this layer is one and stays. What
is said of sizes is of the blobs as the net was given: (N, C, H, W).
"""

import numpy as np
from caffe.proto import caffe_pb2

REWRITES = {}
MOST_SLICES = 1024  # channels that Permute takes apart


class Stuck(Exception):
    """A layer that cannot go: why, and what to do."""

    def __init__(self, why, todo):
        super().__init__(why)
        self.why, self.todo = why, todo


class Site:
    """A layer in its place, and what is put there.

    layer: LayerParameter; blobs: its arrays; bottoms, tops: keys of blobs; shapes, top_shapes: theirs; dialect: of those that
    read it; outer: whether the layer looks at the picture alone, not at what a layer that cannot go gives; values(): what it
    gives today.
    """

    def __init__(self, layer, blobs, bottoms, tops, shapes, top_shapes, dialect, outer, values):
        self.layer, self.blobs, self.bottoms, self.tops = layer, blobs, bottoms, tops
        self.shapes, self.top_shapes, self.dialect = shapes, top_shapes, dialect
        self.outer, self.values = outer, values
        self.rows = []  # (LayerParameter, arrays, bottoms, tops)

    def add(self, kind, bottoms, word=None, blobs=(), tops=None, **params):
        """Adds a layer <name>_<word>, that gives a blob of this name; without a word the last one, which has the layer's own
        name and top -> the key of its top."""
        name = self.layer.name if word is None else f'{self.layer.name}_{word}'
        tops = tops or ([self.tops[0]] if word is None else [name])
        layer = caffe_pb2.LayerParameter(name=name, type=kind, **params)
        self.rows.append((layer, [np.asarray(b, np.float32) for b in blobs], list(bottoms), tops))
        return tops[0]

    def power(self, x, word=None, **how):
        return self.add('Power', [x], word, power_param=how)

    def product(self, x, y, word=None):
        return self.add('Eltwise', [x, y], word, eltwise_param={'operation': 'PROD'})


def rewrite(*kinds):
    def register(function):
        REWRITES.update(dict.fromkeys(kinds, function))
        return function

    return register


# ------------------------------------------------------------------------------------ plain types, other forms


@rewrite('Pooling')
def pooling(site):
    """Rounded down, where only rounding up is known: all windows, then every stride-th."""
    param = site.layer.pooling_param
    down = param.round_mode == param.FLOOR or not param.ceil_mode
    param.ClearField('ceil_mode')
    if not down or param.global_pooling:
        param.ClearField('round_mode')
        return NotImplemented
    param.round_mode = param.FLOOR
    if 'PoolingParameter.round_mode' in site.dialect.fields:
        return NotImplemented
    param.ClearField('round_mode')
    strides = [getattr(param, f'stride_{axis}') or param.stride for axis in 'hw']
    for name in ('stride', 'stride_h', 'stride_w'):
        param.ClearField(name)
    every = site.add('Pooling', site.bottoms, 'all', pooling_param=param)
    channels = site.shapes[0][1]
    how = dict(num_output=channels, group=channels, bias_term=False, kernel_size=[1])
    how.update(stride_h=strides[0], stride_w=strides[1])
    site.add('Convolution', [every], None, [np.ones((channels, 1, 1, 1))], convolution_param=how)


@rewrite('Dropout')
def dropout(site):
    """scale_train false: what a test does is a factor."""
    param = site.layer.dropout_param
    if param.scale_train:
        param.ClearField('scale_train')
        return NotImplemented
    site.power(site.bottoms[0], scale=1 - param.dropout_ratio)


@rewrite('BatchNorm')
def batch_norm(site):
    site.layer.batch_norm_param.ClearField('sync')  # of training
    return NotImplemented


@rewrite('Eltwise', 'Concat')
def of_one_shape(site):
    """Ours take bottoms with ones at the end, or fewer axes."""
    axis = site.layer.concat_param.axis if site.layer.type == 'Concat' else None
    forms = {
        tuple(n for i, n in enumerate(shape) if axis is None or i != axis % len(shape))
        for shape in site.shapes
    }
    if len(forms) > 1 or len({len(shape) for shape in site.shapes}) > 1:
        raise Stuck(
            f'its bottoms have the shapes {", ".join(map(str, site.shapes))}, which Caffe does not join',
            'put a Reshape before it',
        )
    return NotImplemented


# ------------------------------------------------------------------------------------ normalisation


@rewrite('BN')
def bn(site):
    param = site.layer.bn_param
    scale, shift, *statistics = (np.ravel(blob) for blob in site.blobs)
    (x,) = site.bottoms
    if statistics:
        how = {'eps': param.eps, 'use_global_stats': True}
        x = site.add('BatchNorm', [x], 'norm', [*statistics, [1]], batch_norm_param=how)
    elif param.bn_mode == param.LEARN:
        x = _by_batch(site, x, len(scale), param.eps if param.HasField('eps') else 1e-9)
    site.add('Scale', [x], None, [scale, shift], scale_param={'bias_term': True})


def _by_batch(site, x, channels, eps, word='norm'):
    """BatchNorm by the statistics of what it sees."""
    how = {'eps': eps, 'use_global_stats': False}
    return site.add('BatchNorm', [x], word, [np.zeros(channels)] * 2 + [[0]], batch_norm_param=how)


@rewrite('GroupNorm')
def group_norm(site):
    """Each group of an item as a channel of one item."""
    param = site.layer.group_norm_param
    groups, (items, channels) = param.group or param.group_num, site.shapes[0][:2]
    if len(site.shapes[0]) != 4 or not site.outer:
        raise Stuck(
            'each group is a channel of BatchNorm, whose number must be known',
            'train with BatchNorm that is frozen',
        )
    (x,) = site.bottoms
    x = _reshape(site, x, 'groups', 1, items * groups, -1, 0)
    x = _by_batch(site, x, items * groups, param.eps)
    x = _reshape(site, x, 'back' if site.blobs else None, items, channels, -1, 0)
    if site.blobs:
        site.add('Scale', [x], None, site.blobs, scale_param={'bias_term': True})


def _reshape(site, x, word, *dims):
    return site.add('Reshape', [x], word, reshape_param={'shape': {'dim': dims}})


@rewrite('Normalize')
def normalize(site):
    """A factor for each place, by a convolution that adds up the squares; across the map, for each item."""
    param, (x,) = site.layer.norm_param, site.bottoms
    channels = site.shapes[0][1]
    if param.across_spatial:
        total = site.add('Reduction', [x], 'sum', reduction_param={'operation': 'SUMSQ', 'axis': 1})
        factor = site.power(total, 'factor', shift=param.eps, power=-0.5)
        x = site.add('Scale', [x, factor], 'norm', scale_param={'axis': 0})
    else:
        total = _mixed(site, site.power(x, 'squares', power=2), 'sum', np.ones((channels, channels)))
        x = site.product(x, site.power(total, 'factor', shift=param.eps, power=-0.5), 'norm')
    scale = np.broadcast_to(site.blobs[0], (channels,))
    site.add('Scale', [x], None, [scale])


# ------------------------------------------------------------------------------------ activations, channels


@rewrite('Clip')
def clip(site):
    _clipped(site, site.bottoms[0], site.layer.clip_param.min, site.layer.clip_param.max)


@rewrite('ReLU6')
def relu6(site):
    _clipped(site, site.bottoms[0], 0, 6)


def _clipped(site, x, low, high, word=None):
    """x held to [low, high]."""
    if site.dialect.has('Clip'):
        return site.add('Clip', [x], word, clip_param={'min': low, 'max': high})
    above = site.power(x, 'above', shift=-low) if low else x
    above = site.add('ReLU', [above], 'low')
    below = site.power(above, 'below', scale=-1, shift=high - low)
    below = site.add('ReLU', [below], 'high')
    return site.power(below, word, scale=-1, shift=high)


@rewrite('HSwish', 'HardSwish')
def hard_swish(site):
    (x,) = site.bottoms
    gate = _clipped(site, site.power(x, 'shifted', shift=3), 0, 6, 'gate')
    site.product(x, site.power(gate, 'sixth', scale=1 / 6))


@rewrite('Swish')
def swish(site):
    (x,) = site.bottoms
    beta = site.layer.swish_param.beta
    gate = site.add('Sigmoid', [site.power(x, 'scaled', scale=beta) if beta != 1 else x], 'gate')
    site.product(x, gate)


@rewrite('Mish')
def mish(site):
    (x,) = site.bottoms
    site.product(x, site.add('TanH', [site.add('BNLL', [x], 'softplus')], 'gate'))


@rewrite('Axpy')
def axpy(site):
    scale, x, y = site.bottoms
    flat = site.add('Flatten', [scale], 'factor') if len(site.shapes[0]) > 2 else scale
    scaled = site.add('Scale', [x, flat], 'scaled', scale_param={'axis': 0})
    site.add('Eltwise', [scaled, y])


@rewrite('ShuffleChannel')
def shuffle_channel(site):
    """A 1x1 convolution that picks."""
    channels = site.shapes[0][1]
    order = np.arange(channels).reshape(site.layer.shuffle_channel_param.group, -1).T.ravel()
    _mixed(site, site.bottoms[0], None, np.eye(channels)[order])


def _mixed(site, x, word, weights):
    """A 1x1 convolution of these weights, (outputs, inputs)."""
    how = {'num_output': len(weights), 'kernel_size': [1], 'bias_term': False}
    return site.add('Convolution', [x], word, [weights[:, :, None, None]], convolution_param=how)


@rewrite('DepthwiseConvolution', 'ConvolutionDepthwise')
def depthwise(site):
    param = site.layer.convolution_param
    if not param.HasField('group'):
        param.group = site.shapes[0][param.axis]
    site.add('Convolution', site.bottoms, None, site.blobs, convolution_param=param)


# ------------------------------------------------------------------------------------ maps enlarged


@rewrite('Upsample')
def upsample(site):
    if len(site.bottoms) > 1:
        raise Stuck(
            'it puts values back where a Pooling layer found them', 'train with a Deconvolution in its place'
        )
    param = site.layer.upsample_param
    _repeated(site, None, [getattr(param, f'scale_{axis}') or param.scale for axis in 'hw'])


@rewrite('Interp')
def interp(site):
    param = site.layer.interp_param
    sizes, tops = site.shapes[0][2:], site.top_shapes[0][2:]
    factors = [-(-top // size) for size, top in zip(sizes, tops)]
    if param.pad_beg or param.pad_end:
        raise Stuck('pad_beg and pad_end cut the rims', 'train with a Crop before it')
    if tuple(sizes) == tuple(tops):
        site.add('Split', site.bottoms[:1])
    elif param.mode == param.NEAREST:
        _nearest(site, sizes, tops, factors)
    elif param.align_corners:
        raise Stuck(
            'it is bilinear with corners on corners, which no convolution is',
            'train with mode: NEAREST, or align_corners: false and sizes that divide',
        )
    elif [f * n for f, n in zip(factors, sizes)] != list(tops):
        raise Stuck(
            f'it is bilinear from {tuple(sizes)} to {tuple(tops)}, no whole factor',
            'give a --size that divides',
        )
    else:
        _bilinear(site, factors)


def _nearest(site, sizes, tops, factors):
    """Repeated, and cut to the size of the second bottom: the same wherever that is twice the first, or one less."""
    rows = [np.arange(top) * size // top for size, top in zip(sizes, tops)]
    if any((row != np.arange(top) // f).any() for row, top, f in zip(rows, tops, factors)):
        raise Stuck(f'from {tuple(sizes)} to {tuple(tops)} is no whole factor', 'give a --size that divides')
    if len(site.bottoms) > 1:
        bigger = _repeated(site, 'repeated', factors)
        site.add('Crop', [bigger, site.bottoms[1]], crop_param={'axis': 2, 'offset': [0]})
    elif [f * n for f, n in zip(factors, sizes)] == list(tops):
        _repeated(site, None, factors)
    else:
        raise Stuck(f'from {tuple(sizes)} to {tuple(tops)} is no whole factor', 'give a --size that divides')


def _repeated(site, word, factors):
    return _deconvolved(site, site.bottoms[0], word, factors, factors, (0, 0), np.ones(factors))


def _deconvolved(site, x, word, kernel, stride, pad, weights):
    """Each channel by itself, with these weights."""
    channels = site.shapes[0][1]
    how = dict(num_output=channels, group=channels, bias_term=False)
    for name, values in (('kernel', kernel), ('stride', stride), ('pad', pad)):
        how.update({f'{name}_{axis}': value for axis, value in zip('hw', values) if value or name != 'pad'})
    filters = np.broadcast_to(weights, (channels, 1, *kernel))
    return site.add('Deconvolution', [x], word, [filters], convolution_param=how)


def _bilinear(site, factors):
    """Spread, over what a map of ones becomes: at the rims less than one."""
    (x, *_), how = site.bottoms, _tents(factors)
    bigger = _deconvolved(site, x, 'spread', *how)
    ones = site.power(x, 'ones', scale=0, shift=1)
    share = site.power(_deconvolved(site, ones, 'weights', *how), 'shares', power=-1)
    site.product(bigger, share)


def _tents(factors):
    """Kernel, stride, pad and weights of a Deconvolution that enlarges bilinearly."""
    kernel, pad = [2 * f - f % 2 for f in factors], [f // 2 for f in factors]
    tents = [1 - np.abs(np.arange(k) - (k - 1) / 2) / f for k, f in zip(kernel, factors)]
    return kernel, factors, pad, np.outer(*tents)


# ------------------------------------------------------------------------------------ SSD


@rewrite('Permute')
def permute(site):
    """Where only axes of 1 move: another shape. Channels to the end: taken apart and joined."""
    shape, given = site.shapes[0], list(site.layer.permute_param.order)
    order = given + [axis for axis in range(len(shape)) if axis not in given]
    (x,) = site.bottoms
    moved = [axis for axis in order if shape[axis] != 1]
    if moved == sorted(moved):
        _reshape(site, x, None, *site.top_shapes[0])
    elif order == [0, 2, 3, 1] and shape[1] <= MOST_SLICES:
        maps = [f'{site.layer.name}_{i}' for i in range(shape[1])]
        site.add('Slice', [x], 'maps', tops=maps, slice_param={'axis': 1})
        last = [_reshape(site, one, f'{i}_last', *shape[:1], *shape[2:], 1) for i, one in enumerate(maps)]
        site.add('Concat', last, concat_param={'axis': 3})
    else:
        raise Stuck(f'no plain layer gives the axes of {shape} the order {order}', 'read the blob before it')


@rewrite('PriorBox')
def prior_box(site):
    """Of a size, the same whatever is seen."""
    site.add('Parameter', [], None, [site.values()], parameter_param={'shape': {'dim': site.top_shapes[0]}})
