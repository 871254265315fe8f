"""Detection of one image, and what is kept of it."""

import os
from types import SimpleNamespace

import caffe
import numpy as np
import pytest

from fast_rcnn.config import overrides
from fast_rcnn.test import apply_nms, check_classes, detections, im_detect, roi_blob

# scores follow a RoI's mean colour; every delta is zero but for class 1's dx
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "rois" type: "Input" top: "rois" input_param { shape { dim: 1 dim: 5 } } }
layer { name: "pool" type: "ROIPooling" bottom: "data" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_w: 1 pooled_h: 1 spatial_scale: 1 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 2 } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
  inner_product_param { num_output: 8 } }
layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob" }
"""
SCALE = {'TEST.SCALES': [80], 'DEDUP_BOXES': 1.0 / 16}


@pytest.fixture
def net(tmp_path):
    (tmp_path / 'net.prototxt').write_text(NET)
    net = caffe.Net(str(tmp_path / 'net.prototxt'), caffe.TEST)
    net.params['cls_score'][0].data[1] = 0.01
    net.params['bbox_pred'][1].data[4] = 0.5
    return net


def image():
    return np.random.RandomState(0).randint(0, 255, (40, 60, 3), np.uint8)


def test_given_boxes(net):
    boxes = np.array([[0, 0, 9, 9], [30, 10, 49, 29], [0, 0, 9.1, 9]], np.float32)
    with overrides(SCALE):
        scores, pred = im_detect(net, image(), boxes)
        with overrides({'DEDUP_BOXES': 0.0}):
            every, _ = im_detect(net, image(), boxes)
        assert net.blobs['rois'].shape == (3, 5)
    assert scores.shape == (3, 2) and pred.shape == (3, 8)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(pred[1], [30, 10, 50, 30, 40, 10, 59, 30])  # class 1: half a width on, cut
    np.testing.assert_array_equal(scores[0], scores[2])  # one RoI on the feature map
    np.testing.assert_allclose(scores[:2], every[:2], atol=1e-6)


def test_no_boxes(net):
    with overrides(SCALE):
        scores, pred = im_detect(net, image(), np.zeros((0, 4), np.float32))
        with pytest.raises(ValueError, match='wants boxes'):
            im_detect(net, image())
    assert scores.shape == (0, 2) and pred.shape == (0, 8)


def test_a_net_that_proposes_nothing(monkeypatch):
    monkeypatch.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'golden', 'e2e'))
    prototxt = 'models/Tiny/faster_rcnn_alt_opt/faster_rcnn_test.pt'
    net = caffe.Net(prototxt, 'stage2_fast_rcnn.caffemodel', caffe.TEST)
    with overrides({'TEST.HAS_RPN': True, 'TEST.SCALES': [120], 'TEST.RPN_MIN_SIZE': 1000}):
        scores, pred = im_detect(net, image())
        with overrides({'TEST.SCALES': [120, 240]}), pytest.raises(ValueError, match='one scale'):
            im_detect(net, image())
    assert scores.shape == (0, 201) and pred.shape == (0, 804)


def test_plain_boxes_and_raw_scores(net):
    boxes = np.array([[0, 0, 9, 9]], np.float32)
    with overrides({**SCALE, 'TEST.BBOX_REG': False, 'TEST.SVM': True}):
        scores, pred = im_detect(net, image(), boxes)
    np.testing.assert_array_equal(pred, np.tile(boxes, 2))
    np.testing.assert_array_equal(scores, net.blobs['cls_score'].data)


def test_roi_goes_to_the_scale_where_it_is_near_224_pixels():
    rois = roi_blob(np.array([[0, 0, 111, 111], [0, 0, 223, 223], [0, 0, 447, 447]]), np.array([0.5, 1, 2]))
    assert rois[:, 0].tolist() == [2, 1, 0]
    assert rois[:, 3].tolist() == [222, 223, 223.5]


def test_detections():
    boxes = np.tile(np.array([[0, 0, 9, 9], [0, 0, 9, 8], [30, 30, 39, 39]], np.float32), 3)
    scores = np.array([[0.1, 0.5, 0.4], [0.1, 0.6, 0.3], [0.8, 0.15, 0.05]], np.float32)
    found = detections(scores, boxes, 0, 0.1)
    assert [dets[:, 4].tolist() for dets in found] == [[], pytest.approx([0.6, 0.15]), pytest.approx([0.4])]
    assert [len(dets) for dets in detections(scores, boxes, 2, 0.1)] == [0, 1, 1]
    assert [len(dets) for dets in detections(scores, boxes, 100, 0.1)] == [0, 2, 1]
    assert [len(dets) for dets in detections(scores[:0], boxes[:0], 100, 0.1)] == [0, 0, 0]


def test_a_net_of_another_number_of_classes():
    net = SimpleNamespace(name='n', blobs={'cls_prob': np.zeros((1, 5))})
    imdb = SimpleNamespace(name='mine_val', num_classes=4, classes=('__background__', 'a', 'b', 'c'))
    with pytest.raises(ValueError, match="net 'n' scores 5 classes.*mine_val has 4: __background__, a, b, c"):
        check_classes(net, imdb)


def test_apply_nms():
    dets = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 8, 0.8], [5, 5, 5, 9, 1]], np.float32)
    kept = apply_nms([[[], []], [dets, dets[:0]]], 0.3)
    np.testing.assert_array_equal(kept[1][0], dets[:1])
    assert kept[0][0].shape == kept[1][1].shape == (0, 5)
