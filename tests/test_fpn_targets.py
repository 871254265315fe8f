"""What a pyramid's anchors and RoIs are to answer, on cases a person can check."""

import math
import types

import numpy as np
import pytest
import torch
from layer_runs import run_in_order

from fast_rcnn.config import cfg, overrides
from fpn.anchors import Pyramid, in_rows
from fpn.boxes import FAMILIES
from fpn.targets import anchor_targets, roi_targets

CAFFE, TORCHVISION = FAMILIES['caffe'], FAMILIES['torchvision']
PYRAMID = "'boxes': torchvision \n'strides': [8, 16] \n'scales': [1]"


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


TRAIN = dict(
    RPN_POSITIVE_OVERLAP=0.7,
    RPN_NEGATIVE_OVERLAP=0.3,
    RPN_CLOBBER_POSITIVES=False,
    RPN_BATCHSIZE=256,
    RPN_FG_FRACTION=0.5,
    RPN_BBOX_INSIDE_WEIGHTS=(1.0, 1.0, 1.0, 1.0),
    FG_FRACTION=0.25,
    FG_THRESH=0.5,
    BG_THRESH_HI=0.5,
    BG_THRESH_LO=0.0,
    USE_EMPTY=False,
    BBOX_INSIDE_WEIGHTS=(1.0, 1.0, 1.0, 1.0),
    BBOX_NORMALIZE_TARGETS_PRECOMPUTED=False,
    BBOX_NORMALIZE_MEANS=(0.0, -1.0, 0.0, 0.0),
    BBOX_NORMALIZE_STDS=(0.1, 0.1, 0.2, 0.2),
)


def settings(**others):
    return types.SimpleNamespace(**(TRAIN | others))


def test_anchor_targets():
    """Overlaps 1, 0.5, 0 and, beyond the image, 0.6; a second image without an object has negatives alone."""
    grid = boxes([0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30], [0, -2, 10, 8])
    objects = [boxes([0, 0, 10, 10, 3]), torch.zeros(0, 5)]
    info = [[40, 40, 1], [40, 40, 1]]
    labels, targets, inside, outside = anchor_targets(grid, objects, info, TORCHVISION, settings())
    assert labels.tolist() == [[1, -1, 0, -1], [0, 0, 0, 0]]
    assert not targets.any() and inside.sum() == 4 and inside[0, 0].tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(outside[..., 0], [[1 / 3, 0, 1 / 3, 0], [1 / 3] * 4])  # 2 images / 6 examples
    labels = anchor_targets(grid, objects, info, CAFFE, settings())[0]
    assert labels.tolist() == [[1, -1, 0, -1], [0, 0, 0, -1]]  # it leaves out what leaves the image
    shifted = [boxes([1, 0, 11, 10, 3])]
    _, targets, *_ = anchor_targets(grid, shifted, info[:1], TORCHVISION, settings())
    np.testing.assert_allclose(targets[0, 0], [0.1, 0, 0, 0], rtol=1e-6)


def test_what_detnet_counts_otherwise():
    """Three positive anchors where one may be: no negative takes the places of those ignored. An object that no anchor
    meets has none. An example weighs one over the examples of the last image."""
    grid = boxes([0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9], [20, 20, 29, 29], [20, 30, 29, 39])
    objects = [boxes([0, 0, 9, 9, 1], [100, 100, 109, 109, 1]), boxes([20, 20, 29, 29, 1])]
    info, few = [[200, 200, 1]] * 2, settings(RPN_BATCHSIZE=3, RPN_FG_FRACTION=0.4)
    labels, _, _, outside = anchor_targets(grid, objects, info, FAMILIES['detnet'], few)
    assert (labels[0] == 1).sum() == 1 and (labels[0] == 0).sum() == 0
    assert (labels[1] == 1).sum() == 1 and (labels[1] == 0).sum() == 2
    assert outside.max() == pytest.approx(1 / 3)
    labels = anchor_targets(grid, objects, info, CAFFE, few)[0]
    assert (labels[0] == 1).sum() == 1 and (labels[0] == 0).sum() == 0  # all are the second object's best
    labels = anchor_targets(grid, [objects[0][:1]], info[:1], CAFFE, few)[0]
    assert (labels[0] == 0).sum() == 2


def test_rois_are_repeated():
    """An example and two background RoIs make eight, of which a quarter may be examples; with one kind alone, eight of it."""
    rois = boxes([0, 0, 0, 9, 9], [0, 20, 0, 29, 9], [0, 40, 0, 49, 9])
    objects = [boxes([0, 0, 9, 9, 2])]
    found, labels, *_ = roi_targets(rois, objects, 3, 8, FAMILIES['detnet'], settings())
    assert labels.tolist() == [2] * 2 + [0] * 6 and set(found[2:, 1].tolist()) <= {20, 40}
    found, labels, targets, *_ = roi_targets(rois[:1], objects, 3, 8, FAMILIES['detnet'], settings())
    assert labels.tolist() == [2] * 8 and found.shape == (8, 5) and not targets.any()
    _, labels, *_ = roi_targets(rois, [torch.zeros(0, 5)], 3, 8, FAMILIES['detnet'], settings())
    assert labels.tolist() == [0] * 8
    assert len(roi_targets(rois[:0], [torch.zeros(0, 5)], 3, 8, FAMILIES['detnet'], settings())[1]) == 0


def test_roi_targets():
    """Two images: an example and background in the first with its object itself, background alone in the second."""
    rois = boxes([0, 0, 0, 10, 10], [0, 20, 0, 30, 10], [1, 0, 0, 10, 10])
    objects = [boxes([0, 0, 10, 8, 2]), torch.zeros(0, 5)]
    found, labels, targets, weights, _ = roi_targets(rois, objects, 3, 10**6, TORCHVISION, settings())
    assert sorted(map(tuple, found[:3].tolist())) == [(0, 0, 0, 10, 8), (0, 0, 0, 10, 10), (0, 20, 0, 30, 10)]
    assert found[3].tolist() == rois[2].tolist() and labels.tolist() == [2, 2, 0, 0]
    row = next(i for i in range(2) if found[i, 4] == 10)
    np.testing.assert_allclose(
        targets[row, 8:], [0, -1, 0, 5 * math.log(0.8)], rtol=1e-5
    )  # 10 * (4 - 5) / 10
    assert weights[:2, 8:].all() and weights.sum() == 8 and not targets[:, :8].any()
    normalised = settings(BBOX_NORMALIZE_TARGETS_PRECOMPUTED=True)
    found, _, targets, *_ = roi_targets(rois[:1], objects[:1], 3, 10**6, CAFFE, normalised)
    row = next(i for i in range(2) if found[i, 4] == 10)  # 11 pixels high, its object 9
    np.testing.assert_allclose(
        targets[row, 8:], [0, (1 - 1 / 11) / 0.1, 0, math.log(9 / 11) / 0.2], rtol=1e-5
    )


def test_the_layer_of_anchor_targets(tmp_path):
    """Labels and targets stand where scores and deltas of the same anchor do: read back through the grid."""
    shapes, info, data = [(4, 3), (2, 2)], [[32, 24, 1], [32, 24, 1]], np.zeros((2, 3, 32, 24))
    scores = [np.zeros((2, 3, *shape)) for shape in shapes]
    gt = [[3, 4, 14, 12, 1, 0], [0, 8, 16, 24, 2, 1]]
    labels, targets, inside, outside = run_in_order(
        tmp_path, 'fpn.anchor_target_layer.AnchorTargetLayer', PYRAMID, [*scores, gt, info, data], 4
    )
    assert labels.shape == (2, 3 * 12 + 3 * 4) and targets.shape == inside.shape == (2, 4 * 48)
    pyramid = Pyramid(PYRAMID)
    grids = pyramid.grids(shapes, (32, 24))
    wanted = anchor_targets(
        torch.cat(grids), [boxes(gt[0][:5]), boxes(gt[1][:5])], info, TORCHVISION, cfg.TRAIN
    )
    for got, want in zip((labels, targets, inside, outside), wanted):
        width, at = got.shape[1] // 48, 0
        for (height, across), rows in zip(shapes, want.split([36, 12], 1)):
            part = torch.from_numpy(got[:, at : at + 3 * width * height * across])
            at += part.shape[1]
            for i in range(2):
                maps = part[i].reshape(3 * width, height, across)
                np.testing.assert_array_equal(in_rows(maps, width).squeeze(1), rows[i])
    assert (labels == 1).any() and outside.max() == pytest.approx(2 / (labels >= 0).sum())


def test_the_layer_of_proposal_targets(tmp_path):
    rois, gt = [[0, 0, 0, 10, 10], [1, 20, 0, 30, 10]], [[0, 0, 10, 9, 1, 0], [20, 0, 30, 9, 2, 1]]
    values = {
        'TRAIN.BATCH_SIZE': 8,
        'TRAIN.REAL_BATCH_SIZE': 0,
        'TRAIN.FG_FRACTION': 1.0,
        'TRAIN.BG_THRESH_LO': 0.0,
    }
    with overrides(values):
        found, labels, targets, inside, outside = run_in_order(
            tmp_path,
            'fpn.proposal_target_layer.ProposalTargetLayer',
            "'boxes': torchvision \n'num_classes': 3",
            [rois, gt, [[32, 32, 1]] * 2],
            5,
        )
    assert found[:, 0].tolist() == [0, 0, 1, 1] and labels.tolist() == [1, 1, 2, 2]
    assert targets.shape == (4, 12) and np.array_equal(inside, outside) and inside.sum() == 16
