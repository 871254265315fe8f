"""Crop and ROIPooling only look at their second bottom: asked for its gradient, as nets with a learnt one ask, they give zero."""

import numpy as np
import pytest

import caffe

CONV = 'layer { name: "%s" type: "Convolution" bottom: "data" top: "%s" convolution_param { num_output: %d kernel_size: %d } }\n'
CROP = 'layer { name: "crop" type: "Crop" bottom: "a" bottom: "b" top: "crop" crop_param { axis: 2 offset: 1 } }\n'
ROIS = 'layer { name: "pool" type: "ROIPooling" bottom: "a" bottom: "b" top: "crop" roi_pooling_param { pooled_h: 2 pooled_w: 2 } }\n'


@pytest.mark.parametrize('layer, outputs, kernel', [(CROP, 2, 3), (ROIS, 5, 6)])
def test_the_second_bottom_gets_zero(tmp_path, layer, outputs, kernel):
    prototxt = tmp_path / 'net.prototxt'
    prototxt.write_text(
        'input: "data" input_shape { dim: 1 dim: 1 dim: 6 dim: 6 }\n'
        + CONV % ('a', 'a', 2, 1)
        + CONV % ('b', 'b', outputs, kernel)
        + layer
        + 'layer { name: "loss" type: "Reduction" bottom: "crop" top: "loss" loss_weight: 1 }\n'
    )
    net = caffe.Net(str(prototxt), caffe.TRAIN)
    net.params['a'][0].data[...] = 1
    net.blobs['data'].data[...] = np.random.RandomState(0).rand(1, 1, 6, 6)
    net.forward()
    net.backward()
    assert np.abs(net.params['a'][0].diff).max() > 0
    assert not net.params['b'][0].diff.any()
