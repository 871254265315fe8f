"""ResNet-101 of models/imagenet with 201 classes: the stage-1 train nets run forward and backward, the RPN's at 600x800."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import caffe
from fast_rcnn.config import overrides

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'models' / 'imagenet' / 'ResNet-101' / 'faster_rcnn_alt_opt'
BOXES = np.array([[100, 80, 399, 379], [400, 300, 699, 520]], np.float32)


@pytest.fixture
def roidb(tmp_path):
    """One image of 600x800 with two objects, and boxes around them as proposals."""
    rng = np.random.RandomState(0)
    path = str(tmp_path / 'image.png')
    cv2.imwrite(path, rng.randint(0, 255, (600, 800, 3), np.uint8))
    shifts = rng.randint(-60, 60, (100, 4)).astype(np.float32)
    boxes = np.vstack([BOXES, np.clip(BOXES[np.arange(100) % 2] + shifts, 0, 599)])
    overlaps = np.r_[1, 1, rng.rand(100)]
    targets = np.hstack([np.where(overlaps >= 0.5, 5, 0)[:, None], rng.randn(102, 4)]).astype(np.float32)
    return [
        {
            'image': path,
            'width': 800,
            'height': 600,
            'flipped': False,
            'boxes': boxes,
            'max_overlaps': overlaps,
            'gt_classes': np.r_[5, 9, np.zeros(100, int)],
            'max_classes': np.where(overlaps >= 0.5, 5, 0),
            'bbox_targets': targets,
        }
    ] * 2


@pytest.mark.parametrize(
    'file, settings, losses, learns, frozen',
    [
        (
            'stage1_rpn_train.pt',
            {'TRAIN.HAS_RPN': True},
            ['rpn_loss_cls', 'rpn_loss_bbox'],
            'rpn_conv/3x3',
            'cls_score',
        ),
        (
            'stage1_fast_rcnn_train.pt',
            {'TRAIN.HAS_RPN': False, 'TRAIN.BATCH_SIZE': 64, 'TRAIN.SCALES': [300]},
            ['loss_cls', 'loss_bbox'],
            'cls_score',
            'rpn_conv/3x3',
        ),
    ],
)
def test_train_net_forward_and_backward(roidb, file, settings, losses, learns, frozen):
    with overrides({'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.BG_THRESH_LO': 0.0, **settings}):
        net = caffe.Net(str(FOLDER / file), caffe.TRAIN)
        net.layers[0].set_roidb(roidb)
        out = net.forward()
        net.backward()
    height = settings.get('TRAIN.SCALES', [600])[0]
    assert net.blobs['data'].shape == (1, 3, height, height * 4 // 3)
    assert all(np.isfinite(out[name]) and out[name] > 0 for name in losses)
    assert (net.params[learns][0].diff != 0).any()
    assert (net.params['res4b22_branch2b'][0].diff != 0).any() and np.isfinite(
        net.params['res4b22_branch2b'][0].diff
    ).all()
    for name in (
        'conv1',
        'res2a_branch2b',
        'res3b3_branch2c',
        'bn4b22_branch2a',
        'scale4b22_branch2a',
        frozen,
    ):
        assert name not in net.params or (net.params[name][0].diff == 0).all(), name
