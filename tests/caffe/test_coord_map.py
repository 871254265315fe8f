"""Coordinate maps between blobs, and the Crop they give."""

import numpy as np
import pytest

import caffe
from caffe import layers as L
from caffe import params as P
from caffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)


def spec(kernel=3, stride=1, pad=0, pool=2, dstride=2, dpad=0):
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool)
    param = dict(num_output=10, kernel_size=dstride, stride=dstride, pad=dpad)
    n.deconv = L.Deconvolution(n.pool, convolution_param=param)
    return n


def test_a_map_follows_the_centres_of_receptive_fields():
    """conv 5 pad 2 keeps x; pool 2 stride 2 takes x to (x - .5) / 2."""
    n = spec(kernel=5, pad=2)
    assert coord_map_from_to(n.conv, n.data) == (1, 1, 0)
    ax, a, b = coord_map_from_to(n.data, n.pool)
    assert (ax, a, b) == (1, 0.5, -0.25)
    ax, a, b = coord_map_from_to(n.pool, n.data)
    assert (ax, a, b) == (1, 2, 0.5)


@pytest.mark.parametrize('kernel, pad, offset', [(3, 0, 1), (5, 10, -8), (1, 0, 0)])
def test_padding_and_deconvolution_shift(kernel, pad, offset):
    n = spec(kernel=kernel, pad=pad)
    ax, a, b = coord_map_from_to(n.deconv, n.data)
    assert (ax, a, b) == (1, 1, offset)


def test_dilation_widens_the_kernel():
    data = L.Input()
    ax, a, b = coord_map(L.Convolution(data, kernel_size=3, dilation=4, pad=4).fn)
    assert (ax, a, b) == (1, 1, 0)


def test_each_spatial_axis_has_its_own_map():
    n = spec(kernel=[3, 5], stride=[1, 2], pad=[0, 10], pool=1)
    _, a, b = coord_map_from_to(n.data, n.conv)
    np.testing.assert_array_equal(a, [1, 0.5])
    np.testing.assert_array_equal(b, [-1, 4])


def test_pointwise_layers_and_crops():
    n = spec()
    n.relu = L.Dropout(L.ReLU(n.conv))
    n.sum = L.Eltwise(n.relu, n.conv)
    assert coord_map_from_to(n.sum, n.conv) == (None, 1, 0)
    n.crop = L.Crop(n.data, n.conv, axis=2, offset=7)
    assert coord_map_from_to(n.crop, n.data) == (1, 1, 7)
    twice = L.Crop(n.crop, n.conv, crop_param=dict(offset=[2]))
    assert coord_map_from_to(twice, n.data) == (1, 1, 9)


def test_a_ladder_of_sums_is_walked_once():
    top = bottom = L.Input()
    for _ in range(60):
        top = L.Eltwise(L.ReLU(top), top)
    assert coord_map_from_to(top, bottom) == (None, 1, 0)


def test_maps_compose_and_invert():
    there = (1, 2.0, 3.0)
    assert compose(inverse(there), there) == (1, 1, 0)
    with pytest.raises(AxisMismatchException, match='1 and 2'):
        compose((1, 1, 0), (2, 1, 0))


def test_crop_aligns_the_upsampled_with_the_original():
    n = spec(kernel=5, pad=10)
    cropped = crop(n.deconv, n.data)
    layer = cropped.to_proto().layer[-1]
    assert layer.type == 'Crop' and layer.crop_param.axis == 2 and list(layer.crop_param.offset) == [8]
    assert list(crop(n.conv, n.conv).to_proto().layer[-1].crop_param.offset) == [0]


def test_what_cannot_be_aligned():
    n = spec()
    with pytest.raises(RuntimeError, match='no map'):
        coord_map_from_to(n.data, L.Input())
    with pytest.raises(UndefinedMapException, match='InnerProduct'):
        coord_map(L.InnerProduct(n.data).fn)
    with pytest.raises(AssertionError, match='scales'):
        crop(n.pool, n.data)
    with pytest.raises(AssertionError, match='negative'):
        crop(n.deconv, n.data)
    with pytest.raises(AssertionError, match='fractional'):
        crop(L.Convolution(n.data, kernel_size=2, pad=3), n.data)
    with pytest.raises(AssertionError, match='kernel_h'):
        coord_map(L.Convolution(n.data, kernel_h=2, kernel_w=3).fn)
