"""A second opinion: OpenCV 4's dnn reads our files and answers the same."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from google.protobuf import text_format

import caffe
from caffe.format.prototxt import read_net
from helpers import data

MODELS = Path(__file__).parents[2] / 'models'


def rpn_without_python(tmp_path, height, width):
    """The ResNet-101 RPN test net up to its class probabilities, as a file."""
    net = read_net(str(MODELS / 'imagenet/ResNet-101/faster_rcnn_alt_opt/rpn_test.pt'))
    kept = [layer for layer in net.layer if layer.type not in ('Input', 'Python')]
    del net.layer[:]
    net.layer.extend(kept)
    path = tmp_path / 'rpn.prototxt'
    path.write_text(data('data', 1, 3, height, width) + text_format.MessageToString(net))
    return str(path)


def randomise(net, rng):
    """Weights as large as a trained net's, so that activations neither die nor grow without bound."""
    for layer in net.layers:
        if layer.type == 'BatchNorm':
            layer.blobs[0].data[...] = rng.randn(layer.blobs[0].count) * 0.1
            layer.blobs[1].data[...] = rng.rand(layer.blobs[1].count) + 0.5
            layer.blobs[2].data[...] = 2
        elif layer.type == 'Scale':
            layer.blobs[0].data[...] = rng.rand(layer.blobs[0].count) * 0.5 + 0.25
            layer.blobs[1].data[...] = rng.randn(layer.blobs[1].count) * 0.1


@pytest.mark.parametrize('height, width', [(240, 320)])
def test_resnet101_rpn(tmp_path, height, width):
    caffe.set_random_seed(0)
    rng = np.random.RandomState(0)
    prototxt, weights = rpn_without_python(tmp_path, height, width), str(tmp_path / 'rpn.caffemodel')
    net = caffe.Net(prototxt, caffe.TEST)
    randomise(net, rng)
    net.save(weights)
    image = rng.randn(1, 3, height, width).astype(np.float32) * 50
    ours = net.forward(data=image, blobs=['rpn_bbox_pred'])
    other = cv2.dnn.readNetFromCaffe(prototxt, weights)
    other.setInput(image)
    for name in ('rpn_cls_prob_reshape', 'rpn_bbox_pred'):
        theirs = other.forward(name)
        assert theirs.shape == ours[name].shape
        assert np.abs(theirs - ours[name]).max() < 1e-3 * np.abs(theirs).max(), name
