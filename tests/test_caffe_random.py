"""The replay's random stream against weights that Caffe drew."""

import os

import numpy as np
from caffe import filler
from caffe.format.weights import read_weights
from caffe.proto import caffe_pb2
from caffe_random import CaffeRandom, caffe_fillers

GOLDEN = os.path.join(os.path.dirname(__file__), 'golden')


def fill(kind, shape, **fields):
    return filler.fill(shape, caffe_pb2.FillerParameter(type=kind, **fields)).numpy()


def test_a_net_drawn_by_caffe_from_seed_11():
    recorded = np.load(os.path.join(GOLDEN, 'caffe_random.npz'))
    with caffe_fillers(CaffeRandom(11)):
        for kind, fields in ('msra', {}), ('xavier', {}), ('gaussian', {'std': 0.3}):
            np.testing.assert_array_equal(fill(kind, recorded[kind].shape, **fields), recorded[kind])


def test_a_long_stream_with_tails_from_seed_3():
    """conv1 was scaled after it was drawn; the 84,272 weights after it were not."""
    recorded = {
        name: arrays[0]
        for name, _, arrays in read_weights(os.path.join(GOLDEN, 'e2e', 'init.caffemodel'))
        if arrays
    }
    msra, gaussian = ('msra', {}), ('gaussian', {'std': 0.01})
    drawn_by = {
        **dict.fromkeys(['conv1', 'res2_1', 'res2_2a', 'res2_2b', 'res2_2c', 'res3', 'res4'], msra),
        **dict.fromkeys(['rpn_conv/3x3', 'rpn_cls_score', 'rpn_bbox_pred'], gaussian),
        'res5': msra,
        'cls_score': gaussian,
        'bbox_pred': ('gaussian', {'std': 0.001}),
    }
    with caffe_fillers(CaffeRandom(3)):
        for name, (kind, fields) in drawn_by.items():
            ours = fill(kind, recorded[name].shape, **fields)
            assert name == 'conv1' or np.array_equal(ours, recorded[name]), name


def test_fillers_are_given_back():
    before = dict(filler.FILLERS)
    with caffe_fillers(CaffeRandom(1)):
        assert filler.FILLERS != before
    assert filler.FILLERS == before
