"""Detection of one image, and what is kept of it."""

import os
import pickle
from types import SimpleNamespace

import caffe
import numpy as np
import pytest
from layer_runs import write_image

from fast_rcnn.config import overrides
from fast_rcnn import test as fast_rcnn_test
from fast_rcnn.detection import Answer, ask, best, by_number
from fast_rcnn.inputs import forward, roi_blob, scaled_image
from fast_rcnn.nms_wrapper import nms
from fast_rcnn.test import apply_nms, check_classes, detections, im_detect, ims_detect
from utils.proposals import load_detections

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


def image(height=40, width=60):
    return np.random.RandomState(0).randint(0, 255, (height, width, 3), np.uint8)


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


GIVEN = [
    [[0, 0, 9, 9], [30, 10, 39, 29], [0, 0, 9.1, 9]],
    [],
    [[5, 5, 19, 34]],
    [[1, 2, 12, 30], [3, 3, 9, 9]],
]


@pytest.mark.parametrize('scales', [[80], [80, 40]])
@pytest.mark.parametrize('dedup', [0.0, 1.0 / 16])
def test_several_images_of_given_boxes_in_a_pass(net, scales, dedup):
    ims = [image(), image(), image(60, 20), image(50, 50)]
    boxes = [np.array(rows, np.float32).reshape(-1, 4) for rows in GIVEN]
    with overrides({**SCALE, 'TEST.SCALES': scales, 'DEDUP_BOXES': dedup}):
        alone = [im_detect(net, im, of_image) for im, of_image in zip(ims, boxes)]
        together = ims_detect(net, ims, boxes)
    assert net.blobs['data'].shape == (4 * len(scales), 3, 240, 120)
    for ours, theirs, of_image in zip(together, alone, boxes, strict=True):
        for values, wanted in zip(ours, theirs):
            assert len(values) == len(of_image)
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6)


def test_several_images_that_a_net_proposes_for(monkeypatch):
    monkeypatch.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'golden', 'e2e'))
    prototxt = 'models/Tiny/faster_rcnn_alt_opt/faster_rcnn_test.pt'
    net = caffe.Net(prototxt, 'stage2_fast_rcnn.caffemodel', caffe.TEST)
    ims = [image(), image()[::-1], image()[:, ::-1], image(60, 40)]
    with overrides({'TEST.HAS_RPN': True, 'TEST.SCALES': [120], 'TEST.RPN_POST_NMS_TOP_N': 9}):
        alone = [im_detect(net, im) for im in ims]
        together = ims_detect(net, ims[:3])
        padded = ims_detect(net, ims)
    assert net.blobs['data'].shape == (4, 3, 180, 180)
    np.testing.assert_array_equal(net.blobs['im_info'].data[[0, 3]], [[120, 180, 3], [180, 120, 3]])
    for ours, theirs in zip(together, alone[:3], strict=True):
        for values, wanted in zip(ours, theirs):
            np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
    for (scores, boxes), im in zip(padded, ims, strict=True):
        assert (
            0 < len(scores) <= 9
            and (boxes.reshape(-1, 4).max(0) <= np.array(im.shape)[[1, 0, 1, 0]] - 1).all()
        )


def test_an_answer_stays_when_the_net_goes_on(net):
    boxes = [np.array([[0, 0, 9, 9], [30, 10, 49, 29]], np.float32)]
    with overrides(SCALE):
        answers = ask(net, [scaled_image(image())], boxes)
        ask(net, [scaled_image(255 - image())], [boxes[0][:1]])
        (answer,) = answers()
        scores, pred = im_detect(net, image(), boxes[0])
    np.testing.assert_array_equal(answer.scores, scores)
    np.testing.assert_array_equal(answer.boxes(), pred)


def test_inputs_that_a_net_does_not_read_are_named(net):
    with pytest.raises(ValueError, match=r"reads \['data', 'rois'\]; it is given \['data', 'im_info'\]"):
        forward(net, {'data': np.zeros((1, 3, 8, 8)), 'im_info': np.zeros((1, 3))})


def random_answer(seed, rois=40, classes=9, columns=36):
    """Crowded boxes, some scores equal."""
    random = np.random.RandomState(seed)
    corners = random.rand(rois, 2) * 60
    boxes = np.hstack([corners, corners + random.rand(rois, 2) * 40]).astype(np.float32)
    scores = random.rand(rois, classes).round(seed % 3 + 1).astype(np.float32)
    return Answer((70, 80, 3), scores, boxes, random.randn(rois, columns).astype(np.float32) / 4)


@pytest.mark.parametrize('columns', [36, 8])
@pytest.mark.parametrize('most', [0, 1, 30])
def test_all_classes_at_once_are_what_a_loop_over_them_keeps(columns, most):
    for seed in range(5):
        answer = random_answer(seed, columns=columns)
        boxes = answer.boxes()
        found = [np.zeros((0, 5), np.float32)]
        for j in range(1, 9):
            above = answer.scores[:, j] > 0.3
            column = 4 * j if columns == 36 else 4
            dets = np.hstack([boxes[:, column : column + 4], answer.scores[:, j : j + 1]])[above]
            found.append(dets[nms(dets, 0.3)])
        if most:
            least = np.sort(np.concatenate(found)[:, 4])[-most]
            found = [dets[dets[:, 4] >= least] for dets in found]
        for ours in (
            detections(answer.scores, boxes, most, 0.3),
            by_number(*best(answer.scores, answer.boxes_of, most, 0.3), 9),
        ):
            for dets, wanted in zip(ours, found, strict=True):
                assert dets.dtype == np.float32 and dets.shape[1] == 5
                np.testing.assert_array_equal(dets, wanted)


def test_only_boxes_above_the_threshold_are_computed(monkeypatch):
    from fpn import boxes as families

    moved, move = [], families.bbox_transform_inv
    monkeypatch.setattr(
        families, 'bbox_transform_inv', lambda rois, deltas: moved.append(deltas.shape) or move(rois, deltas)
    )
    answer = random_answer(2)
    best(answer.scores, answer.boxes_of, 0, 0.9)
    assert moved == [((answer.scores[:, 1:] > 0.9).sum(), 4)]


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


def test_boxes_of_a_class_agnostic_net():
    boxes = np.array([[7, 7, 7, 7, 0, 0, 9, 9], [7, 7, 7, 7, 30, 30, 39, 39]], np.float32)
    scores = np.array([[0.1, 0.5, 0.4], [0.1, 0.1, 0.8]], np.float32)
    for agnostic in False, True:
        with overrides({'TEST.AGNOSTIC': agnostic}):
            found = detections(scores, boxes, 0, 0.2)
        assert [dets[:, :4].tolist() for dets in found] == [
            [],
            [boxes[0, 4:].tolist()],
            boxes[::-1, 4:].tolist(),
        ]
    with pytest.raises(ValueError, match='3 classes want boxes of 12, or 8 .* columns, got 16'):
        detections(scores, np.hstack([boxes, boxes]), 0, 0.2)
    with overrides({'TEST.AGNOSTIC': True}), pytest.raises(ValueError, match='8 .*AGNOSTIC.*got 12'):
        detections(scores, np.zeros((2, 12)), 0, 0.2)


def test_a_net_of_8_box_columns_and_4_axes(net, tmp_path):
    text = NET.replace('num_output: 2', 'num_output: 3').replace('top: "bbox_pred"', 'top: "pred"', 1)
    shape = (
        'layer { name: "s" type: "Reshape" bottom: "pred" top: "bbox_pred" reshape_param { shape { %s } } }'
    )
    text += shape % 'dim: 0 dim: 8 dim: 1 dim: 1'
    (tmp_path / 'agnostic.prototxt').write_text(text)
    net = caffe.Net(str(tmp_path / 'agnostic.prototxt'), caffe.TEST)
    with overrides(SCALE):
        scores, pred = im_detect(net, image(), np.array([[0, 0, 9, 9]], np.float32))
        with overrides({'TEST.BBOX_REG': False, 'TEST.AGNOSTIC': True}):
            assert im_detect(net, image(), np.array([[0, 0, 9, 9]], np.float32))[1].shape == (1, 8)
    assert scores.shape == (1, 3) and pred.shape == (1, 8)
    assert [len(dets) for dets in detections(scores, pred, 0, 0.2)] == [0, 1, 1]


def test_soft_nms_is_a_setting():
    boxes = np.tile(np.array([[0, 0, 9, 9], [0, 0, 9, 8]], np.float32), 2)
    scores = np.array([[0.1, 0.5], [0.1, 0.6]], np.float32)
    dets = [[np.hstack([boxes[:, :4], scores[:, 1:]])]]
    for decay, left in (
        ('', []),
        ('linear', [0.5 * (1 - 0.9)]),
        ('gaussian', [0.5 * np.exp(-(0.9**2) / 0.25)]),
    ):
        with overrides({'TEST.SOFT_NMS': decay, 'TEST.SOFT_NMS_SIGMA': 0.25}):
            for found in detections(scores, boxes, 0, 0.05)[1], apply_nms(dets, 0.3)[0][0]:
                assert found[:, 4].tolist() == pytest.approx([0.6, *left])


def test_names_that_forks_import(monkeypatch):
    im, rois = image(), np.array([[0, 0, 9, 9]], np.float32)
    with overrides({'TEST.SCALES': [80, 40]}):
        data, scales = fast_rcnn_test._get_image_blob(im)
        blobs, same = fast_rcnn_test._get_blobs(im, rois)
        with overrides({'TEST.HAS_RPN': True}):
            assert fast_rcnn_test._get_blobs(im, None)[0]['rois'] is None
    assert data.shape == (2, 3, 80, 120) and scales.tolist() == same.tolist() == [2, 1]
    np.testing.assert_array_equal(blobs['data'], data)
    np.testing.assert_array_equal(blobs['rois'], [[0, 0, 0, 18, 18]])
    pyplot = pytest.importorskip('matplotlib.pyplot')
    shown = []
    monkeypatch.setattr(pyplot, 'imshow', shown.append)
    monkeypatch.setattr(pyplot, 'show', lambda: None)
    dets = np.array([[5, 5, 30, 30, 0.9], [5, 5, 20, 20, 0.2]])
    fast_rcnn_test.vis_detections(im, 'dog', dets)
    fast_rcnn_test.vis_detections(im, 'dog', dets, thresh=0.95)
    assert len(shown) == 1 and shown[0].ndim == 3


def test_detections_are_written_as_npz_and_on_request_as_pickle(net, tmp_path):
    class Imdb:
        name, num_images, num_classes, classes = 'one', 1, 2, ('__background__', 'thing')
        roidb = [{'boxes': np.array([[0, 0, 9, 9]], np.float32), 'gt_classes': np.zeros(1)}]

        def image_path_at(self, i):
            return write_image(tmp_path / 'a.png')

        def evaluate_detections(self, all_boxes, output_dir):
            return output_dir

    net.name = 'n'
    with overrides({**SCALE, 'ROOT_DIR': str(tmp_path), 'TEST.HAS_RPN': False}):
        folder = fast_rcnn_test.test_net(net, Imdb())
        assert os.listdir(folder) == ['detections.npz']
        with overrides({'TEST.DETECTIONS_PKL': True}):
            fast_rcnn_test.test_net(net, Imdb())
    assert sorted(os.listdir(folder)) == ['detections.npz', 'detections.pkl']
    with open(os.path.join(folder, 'detections.pkl'), 'rb') as stream:
        as_forks_do = pickle.load(stream)
    for read in as_forks_do, load_detections(stream.name), load_detections(stream.name[:-3] + 'npz'):
        assert [[len(dets) for dets in of_class] for of_class in read] == [[0], [1]]
        np.testing.assert_array_equal(read[1][0], as_forks_do[1][0])


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
