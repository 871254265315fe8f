"""The library against figures recorded from the original: every key of tests/golden/lib.npz."""

import os

import caffe
import numpy as np
import pytest

from fast_rcnn.bbox_transform import bbox_transform, bbox_transform_inv, clip_boxes
from fast_rcnn.config import overrides
from layer_runs import run_layer
from nms.cpu_nms import cpu_nms, numpy_cpu_nms
from rpn.generate_anchors import generate_anchors
from utils.bbox import bbox_overlaps as numpy_bbox_overlaps
from utils.cython_bbox import bbox_overlaps

GOLDEN = np.load(os.path.join(os.path.dirname(__file__), 'golden', 'lib.npz'))
pytestmark = pytest.mark.usefixtures('two_threads')


def close(actual, name, atol=1e-5):
    assert actual.shape == GOLDEN[name].shape
    np.testing.assert_allclose(actual, GOLDEN[name], rtol=1e-5, atol=atol)


@pytest.mark.parametrize(
    'name, kwargs',
    [
        ('anchors_default', {}),
        ('anchors_2_4_8_16_32', dict(scales=np.array([2, 4, 8, 16, 32]))),
        ('anchors_ratios', dict(base_size=8, ratios=[0.25, 1, 3], scales=[3, 5])),
    ],
)
def test_anchors(name, kwargs):
    np.testing.assert_array_equal(generate_anchors(**kwargs), GOLDEN[name])


def test_box_transforms():
    close(bbox_transform(GOLDEN['ex'], GOLDEN['gt']), 'targets')
    moved = bbox_transform_inv(GOLDEN['ex'], GOLDEN['deltas'])
    close(moved, 'inv')
    close(clip_boxes(moved, (300, 500)), 'clip')


@pytest.mark.parametrize('overlaps', [bbox_overlaps, numpy_bbox_overlaps])
def test_overlaps(overlaps):
    np.testing.assert_array_equal(overlaps(GOLDEN['ex'], GOLDEN['gt'][:13]), GOLDEN['overlaps'])


@pytest.mark.parametrize('nms', [cpu_nms, numpy_cpu_nms])
@pytest.mark.parametrize('count', [1, 50, 400])
@pytest.mark.parametrize('thresh', [0.3, 0.5, 0.7])
def test_nms(nms, count, thresh):
    np.testing.assert_array_equal(nms(GOLDEN[f'dets{count}'], thresh), GOLDEN[f'keep{count}_{thresh}'])


@pytest.mark.parametrize('phase, name', [(caffe.TRAIN, 'train'), (caffe.TEST, 'test')])
def test_proposal_layer(tmp_path, phase, name):
    with overrides({'USE_GPU_NMS': False}):
        rois, scores = run_layer(
            tmp_path,
            'rpn.proposal_layer',
            'ProposalLayer',
            ['rois', 'scores'],
            "'feat_stride': 16",
            phase,
            probs=GOLDEN['pp_prob'],
            deltas=GOLDEN['pp_delta'],
            im_info=GOLDEN['pp_info'],
        )
    close(rois, f'pp_{name}_rois', atol=1e-4)
    close(scores, f'pp_{name}_scores')


def test_anchor_target_layer(tmp_path):
    tops = run_layer(
        tmp_path,
        'rpn.anchor_target_layer',
        'AnchorTargetLayer',
        ['l', 't', 'iw', 'ow'],
        "'feat_stride': 16",
        caffe.TRAIN,
        scores=GOLDEN['pp_prob'],
        gt_boxes=GOLDEN['at_gt'],
        im_info=GOLDEN['pp_info'],
        data=np.zeros((1, 3, 208, 304)),
    )
    np.testing.assert_array_equal(tops[0], GOLDEN['at_l'])
    for top, name in zip(tops[1:], ['at_t', 'at_iw', 'at_ow']):
        close(top, name)


@pytest.mark.parametrize('precomputed', [False, True])
def test_proposal_target_layer(tmp_path, precomputed):
    with overrides(
        {
            'TRAIN.BATCH_SIZE': 128,
            'TRAIN.IMS_PER_BATCH': 1,
            'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': precomputed,
        }
    ):
        tops = run_layer(
            tmp_path,
            'rpn.proposal_target_layer',
            'ProposalTargetLayer',
            ['r', 'l', 't', 'iw', 'ow'],
            "'num_classes': 21",
            caffe.TRAIN,
            rois=GOLDEN['pt_rois'],
            gt_boxes=GOLDEN['at_gt'],
        )
    np.testing.assert_array_equal(tops[1], GOLDEN[f'pt{int(precomputed)}_l'])
    for top, name in zip(tops, 'r l t iw ow'.split()):
        close(top, f'pt{int(precomputed)}_{name}')


def test_average_precision():
    voc_ap = pytest.importorskip('datasets.voc_eval').voc_ap
    for name, use_07_metric in ('ap', False), ('ap07', True):
        ours = voc_ap(GOLDEN['rec'], GOLDEN['prec'], use_07_metric)
        assert ours == pytest.approx(float(GOLDEN[name]), abs=1e-12)
