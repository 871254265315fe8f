"""How coordinates of blobs of a NetSpec relate to each other through its layers; the Crop that aligns two.

A map (axis, a, b) takes coordinate x of the first blob's spatial axes to a x + b of the second's; axis is the
channel axis, the one before the first spatial axis (None: any), a and b one number or one per spatial axis.
"""

import numpy as np

from .net_spec import layers as L

PASS_THROUGH_LAYERS = [
    'AbsVal',
    'BatchNorm',
    'Bias',
    'BNLL',
    'Dropout',
    'Eltwise',
    'ELU',
    'GroupNorm',
    'Log',
    'LRN',
    'Exp',
    'MVN',
    'Power',
    'ReLU',
    'PReLU',
    'Scale',
    'Sigmoid',
    'Split',
    'TanH',
    'Threshold',
]
_LEGACY = {'pad_h', 'pad_w', 'kernel_h', 'kernel_w', 'stride_h', 'stride_w'}


class UndefinedMapException(Exception):
    """The layer has no coordinate map."""


class AxisMismatchException(Exception):
    """Two maps are about different axes."""


def conv_params(fn):
    """(axis, stride, size of the dilated kernel, pad) of a layer with convolution-like parameters."""
    params = next((fn.params[p] for p in ('convolution_param', 'pooling_param') if p in fn.params), fn.params)
    legacy = ', '.join(sorted(_LEGACY & set(params)))
    assert not legacy, f'{fn.type_name}: {legacy}: only fields that hold for all axes can be mapped'
    stride, kernel, dilation, pad = (
        np.array(params.get(name, default), ndmin=1)
        for name, default in (('stride', 1), ('kernel_size', None), ('dilation', 1), ('pad', 0))
    )
    return params.get('axis', 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn):
    """(axis, offset) of a Crop layer."""
    params = fn.params.get('crop_param', fn.params)
    return params.get('axis', 2), np.array(params.get('offset', 0), ndmin=1)


def coord_map(fn):
    """The map from the layer's bottom to its top. UndefinedMapException where there is none."""
    if fn.type_name in ('Convolution', 'Pooling', 'Im2col'):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == 'Deconvolution':
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return None, 1, 0
    if fn.type_name == 'Crop':
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(fn.type_name)


def compose(base_map, next_map):
    """base after next: x -> a1 (a2 x + b2) + b1."""
    ax1, a1, b1 = base_map
    ax2, a2, b2 = next_map
    if None not in (ax1, ax2) and ax1 != ax2:
        raise AxisMismatchException(f'maps about axes {ax1} and {ax2}')
    return ax2 if ax1 is None else ax1, a1 * a2, a1 * b2 + b1


def inverse(coord_map):
    """The map back."""
    ax, a, b = coord_map
    return ax, 1 / a, -b / a


def _spatial_bottoms(top):
    """[(bottom, its map to top)]; a Crop's second bottom is only a reference for sizes."""
    try:
        step = coord_map(top.fn)
    except UndefinedMapException:
        return []
    return [(bottom, step) for bottom in (top.fn.inputs[:1] if top.fn.type_name == 'Crop' else top.fn.inputs)]


def _maps_back(top):
    """{blob: the map from it to top}, of top and all blobs it comes from, nearest first."""
    maps, frontier = {top: (None, 1, 0)}, [top]
    for reached in frontier:
        for bottom, step in _spatial_bottoms(reached):
            if bottom not in maps:
                maps[bottom] = compose(maps[reached], step)
                frontier.append(bottom)
    return maps


def coord_map_from_to(top_from, top_to):
    """The map from coordinates of top_from to those of top_to, through a blob that both come from.

    RuntimeError when there is none.
    """
    from_maps = _maps_back(top_from)
    for top, to_map in _maps_back(top_to).items():
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise RuntimeError(
        f'no map between {top_from.fn.type_name} and {top_to.fn.type_name}: are they joined '
        'by spatial layers?'
    )


def crop(top_from, top_to):
    """A Crop of top_from to the size and place of top_to.

    AssertionError when their scales differ or the offset is negative or fractional.
    """
    ax, a, b = coord_map_from_to(top_from, top_to)
    b = np.atleast_1d(b)
    assert np.all(np.equal(a, 1)), f'cannot crop between different scales (a = {a})'
    assert np.all(b <= 0), f'cannot crop at a negative offset (b = {b})'
    assert np.all(np.round(b) == b), f'cannot crop at a fractional offset (b = {b})'
    param = dict(axis=2 if ax is None else ax + 1, offset=[int(-x) for x in b])
    return L.Crop(top_from, top_to, crop_param=param)
