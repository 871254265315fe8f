"""Anchors, proposals, and the targets of RPN and (end to end) head, on cases a person can check."""

import caffe
import numpy as np
import pytest
import torch
from layer_runs import one_layer_net, run_layer

from fast_rcnn.bbox_transform import bbox_transform, bbox_transform_inv, clip_boxes
from fast_rcnn.config import cfg, overrides
from rpn.generate_anchors import anchor_grid, generate_anchors, own_cells
from rpn.proposals import Level, Limits, propose
from rpn.targets import (
    anchor_statistics,
    anchor_targets,
    image_targets,
    label_anchors,
    level_targets,
    outside_weights,
    proposal_targets,
    subsample,
)
from utils.cython_bbox import bbox_overlaps


def test_transform_and_back():
    rng = np.random.RandomState(0)
    corners = rng.rand(2, 30, 2) * 50
    boxes, others = np.concatenate([corners, corners + rng.rand(2, 30, 2) * 50], 2)
    np.testing.assert_allclose(
        bbox_transform(np.array([[0, 0, 9, 19]]), np.array([[5, 0, 24, 19]])), [[1.0, 0, np.log(2), 0]]
    )
    moved = bbox_transform_inv(boxes, bbox_transform(boxes, others))
    np.testing.assert_allclose(moved, others + [0, 0, 1, 1], atol=1e-9)  # as the original: no - 1 there
    assert bbox_transform_inv(np.zeros((0, 4)), np.zeros((0, 8))).shape == (0, 8)


def test_huge_deltas_clip_to_the_image():
    box = bbox_transform_inv(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 1e4, 1e4]], np.float32))
    np.testing.assert_array_equal(clip_boxes(box, (30, 50)), [[0, 0, 49, 29]])


def test_grid_against_a_loop():
    anchors = generate_anchors(scales=[1, 2])
    loop = [
        anchor + [16 * x, 16 * y, 16 * x, 16 * y] for y in range(2) for x in range(3) for anchor in anchors
    ]
    np.testing.assert_array_equal(anchor_grid(anchors, 2, 3, 16), loop)


def level(scores, stride=16, scale=1):
    """A level of one anchor and deltas of zero; scores (N, H, W)."""
    scores = torch.tensor(scores, dtype=torch.float32)[:, None]
    anchors = generate_anchors(base_size=stride, ratios=[1], scales=[scale])
    return Level(scores, torch.zeros(len(scores), 4, *scores.shape[2:]), anchors, stride)


def propose_with(scores, **kwargs):
    limits = Limits(**{**dict(pre_nms_top_n=0, post_nms_top_n=0, nms_thresh=0.7, min_size=1), **kwargs})
    ((boxes, scores),) = propose([level([scores])], torch.tensor([[32, 32, 1]]), limits)
    return boxes.numpy(), scores.numpy()


def test_propose():
    boxes, scores = propose_with([[0.1, 0.4], [0.3, 0.2]])
    assert scores.ravel().tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    np.testing.assert_array_equal(boxes, [[16, 0, 31, 16], [0, 16, 16, 31], [16, 16, 31, 31], [0, 0, 16, 16]])
    assert propose_with([[0.1, 0.4], [0.3, 0.2]], pre_nms_top_n=3)[1].min() == pytest.approx(0.2)
    assert len(propose_with([[0.1, 0.4], [0.3, 0.2]], post_nms_top_n=1)[0]) == 1
    assert len(propose_with([[0.1, 0.4], [0.3, 0.2]], min_size=17)[0]) == 1  # only the corner box is 17 x 17
    assert len(propose_with([[0.1, 0.4], [0.3, 0.2]], nms_thresh=0.0)[0]) == 1  # they all touch


def test_tensors_give_what_arrays_give():
    rng = np.random.RandomState(0)
    boxes = np.sort(rng.rand(20, 4).astype(np.float32) * 90)[:, [0, 1, 2, 3]]
    deltas = rng.randn(20, 8).astype(np.float32)
    arrays = clip_boxes(bbox_transform_inv(boxes, deltas), (50, 60)), bbox_transform(boxes, boxes[::-1])
    boxes, deltas = torch.from_numpy(boxes), torch.from_numpy(deltas)
    tensors = clip_boxes(bbox_transform_inv(boxes, deltas), (50, 60)), bbox_transform(boxes, boxes.flip(0))
    for ours, theirs in zip(tensors, arrays):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)
    assert bbox_transform_inv(torch.zeros(0, 4), torch.zeros(0, 8)).shape == (0, 8)


def test_proposals_of_several_images_and_levels_against_one_at_a_time():
    rng = np.random.RandomState(0)
    levels = [level(rng.rand(2, 4, 6), 16), level(rng.rand(2, 2, 3), 32)]
    im_info = torch.tensor([[64, 96, 1], [50, 70, 1]])
    limits = Limits(pre_nms_top_n=12, post_nms_top_n=5, nms_thresh=0.05, min_size=1)
    together = propose(levels, im_info, limits)
    cells = {(0, 16): (4, 6), (0, 32): (2, 3), (1, 16): (4, 5), (1, 32): (2, 3)}  # the second: 50 x 70 pixels
    assert len(together) == 2
    for i, (boxes, scores) in enumerate(together):
        alone = []
        for one in levels:
            h, w = cells[i, one.stride]
            maps = one.scores[i : i + 1, :, :h, :w], one.deltas[i : i + 1, :, :h, :w]
            of_image = Level(*maps, one.anchors, one.stride)
            ((some, their_scores),) = propose([of_image], im_info[i : i + 1], limits)
            assert len(some) <= 5
            alone += list(zip(their_scores[:, 0].tolist(), some.tolist()))
        best = sorted(alone, key=lambda pair: -pair[0])[:5]
        assert scores[:, 0].tolist() == [score for score, _ in best]
        assert boxes.tolist() == [box for _, box in best]


def test_rois_of_several_images_carry_their_index(tmp_path):
    rng = np.random.RandomState(0)
    bottoms = dict(
        probs=rng.rand(2, 18, 4, 4), deltas=rng.randn(2, 36, 4, 4) / 9, im_info=[[64, 64, 1], [48, 40, 1]]
    )
    what = 'rpn.proposal_layer', 'ProposalLayer', ['rois', 'scores'], "'feat_stride': 16", caffe.TEST
    rois, scores = run_layer(tmp_path, *what, **bottoms)
    assert len(rois) == len(scores)
    for i, (h, w) in enumerate([(4, 4), (3, 3)]):
        alone, their_scores = run_layer(
            tmp_path,
            *what,
            probs=bottoms['probs'][i : i + 1, :, :h, :w],
            deltas=bottoms['deltas'][i : i + 1, :, :h, :w],
            im_info=bottoms['im_info'][i : i + 1],
        )
        np.testing.assert_array_equal(rois[rois[:, 0] == i][:, 1:], alone[:, 1:])
        np.testing.assert_array_equal(scores[rois[:, 0] == i], their_scores)


def test_cells_that_are_an_images_own():
    im_info = np.array([[64, 96, 1], [50, 64, 1], [33, 96, 1]])
    assert own_cells((4, 6), im_info, 16) == [[4, 6], [4, 4], [3, 6]]
    assert own_cells((5, 7), im_info, 16) == [[5, 7], [4, 4], [3, 7]]  # a net whose maps have a cell more
    assert own_cells((3, 5), im_info, 16) == [[3, 5], [3, 4], [3, 5]]  # and one less
    assert own_cells((5, 7), im_info[1:2], 16) == [[5, 7]]


def test_proposal_layer_errors(tmp_path):
    net = one_layer_net(
        tmp_path,
        'rpn.proposal_layer',
        'ProposalLayer',
        ['rois'],
        "'feat_stride': 16",
        caffe.TEST,
        probs=(1, 16, 2, 2),
        deltas=(1, 36, 2, 2),
        im_info=(1, 3),
    )
    with pytest.raises(ValueError, match='9 anchors want 18 scores'):
        net.forward()


def test_no_proposal_is_left(tmp_path):
    rois, scores = run_layer(
        tmp_path,
        'rpn.proposal_layer',
        'ProposalLayer',
        ['rois', 'scores'],
        "'feat_stride': 16",
        caffe.TEST,
        probs=np.zeros((1, 18, 2, 2)),
        deltas=np.zeros((1, 36, 2, 2)),
        im_info=np.array([[8, 8, 1]]),
    )
    assert rois.shape == (0, 5) and scores.shape == (0, 1)


def test_label_anchors():
    overlaps = np.array([[0.8, 0], [0.5, 0.1], [0.2, 0.2], [0.1, 0.25], [0, 0.25], [0, 0]])
    #                    >= .7    between   < .3      second object's best, twice   < .3
    assert label_anchors(overlaps, 0.7, 0.3, False).tolist() == [1, -1, 0, 1, 1, 0]
    assert label_anchors(overlaps, 0.7, 0.3, True).tolist() == [1, -1, 0, 0, 0, 0]
    assert label_anchors(np.zeros((3, 0)), 0.7, 0.3, False).tolist() == [0, 0, 0]


def test_subsample():
    labels = np.array([1] * 10 + [0] * 20 + [-1] * 5, np.float32)
    np.random.seed(0)
    subsample(labels, 16, 0.25)
    assert ((labels == 1).sum(), (labels == 0).sum()) == (4, 12)
    labels = np.array([1, 0, 0], np.float32)
    subsample(labels, 16, 0.25)
    assert labels.tolist() == [1, 0, 0]


def test_negatives_of_a_whole_batch():
    """The ImageNet recipe's RPN: 256 anchors, 8 images, one of them of val, which gives 8 x 128 negatives."""
    for bg_times, negatives in (8, 1024), (0, 0), (None, 253):
        labels = np.array([1] * 3 + [0] * 2000, np.float32)
        subsample(labels, 256, 0.5, bg_times)
        assert ((labels == 1).sum(), (labels == 0).sum()) == (3, negatives)


def test_outside_weights():
    labels = np.array([1, 0, 0, -1])
    assert outside_weights(labels, -1)[:, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert outside_weights(labels, 0.25)[:, 0].tolist() == pytest.approx([0.25, 0.375, 0.375, 0])


GRID = anchor_grid(generate_anchors(ratios=[1], scales=[1]), 4, 4, 16)


def test_anchor_targets_by_hand():
    gt = np.array([[16, 16, 31, 35, 1]], np.float32)
    labels, targets, inside, outside = anchor_targets(GRID, gt, np.array([64, 64, 1]), cfg.TRAIN)
    assert np.flatnonzero(labels == 1).tolist() == [5]
    np.testing.assert_allclose(targets[5], [0, 2 / 16, 0, np.log(20 / 16)], rtol=1e-6)
    assert (labels == 0).sum() == 15 and inside.sum() == 4 and inside[5].all()
    assert outside[5, 0] == pytest.approx(1 / 16)
    labels = anchor_targets(GRID, gt, np.array([64, 64, 1]), cfg.TRAIN, bg_times=0)[0]
    assert np.flatnonzero(labels >= 0).tolist() == [5]


def test_normalised_targets_and_the_proposals_made_of_them(tmp_path):
    gt = np.array([[16, 16, 31, 35, 1]], np.float32)
    means, stds = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.6, 0.7, 0.8])
    plain = anchor_targets(GRID, gt, np.array([64, 64, 1]), cfg.TRAIN)[1]
    random = np.random.RandomState(3)
    probs, deltas = random.rand(1, 18, 4, 5), random.randn(1, 9, 4, 4, 5)
    settings = {'TRAIN.RPN_NORMALIZE_MEANS': means.tolist(), 'TRAIN.RPN_NORMALIZE_STDS': stds.tolist()}

    def rois(deltas, phase):
        deltas, info = deltas.reshape(1, 36, 4, 5), np.array([[64, 80, 1]])
        args = ['rois'], "'feat_stride': 16", phase
        return run_layer(
            tmp_path, 'rpn.proposal_layer', 'ProposalLayer', *args, p=probs, deltas=deltas, info=info
        )[0]

    wanted = rois(deltas * stds[:, None, None] + means[:, None, None], caffe.TRAIN)
    as_given = rois(deltas, caffe.TEST)
    with overrides({**settings, 'TRAIN.RPN_NORMALIZE_TARGETS': True}):
        normalised = anchor_targets(GRID, gt, np.array([64, 64, 1]), cfg.TRAIN)[1]
        np.testing.assert_allclose(rois(deltas, caffe.TRAIN), wanted, rtol=1e-5)
        np.testing.assert_array_equal(rois(deltas, caffe.TEST), as_given)
    np.testing.assert_allclose(normalised, (plain - means) / stds, rtol=1e-5, atol=1e-6)


def test_class_agnostic_proposal_targets():
    rois, gt = (
        np.array([[0, 0, 0, 9, 9]], np.float32),
        np.array([[0, 0, 9, 9, 2], [20, 20, 29, 29, 1]], np.float32),
    )
    with overrides({'TRAIN.AGNOSTIC': True, 'TRAIN.FG_FRACTION': 1.0}):
        _, labels, targets, weights, _ = proposal_targets(rois, gt, 3, np.inf, cfg.TRAIN)
    assert sorted(labels) == [1, 2, 2] and targets.shape == (3, 8)
    assert weights.tolist() == [[0] * 4 + [1] * 4] * 3


def test_anchors_of_an_image_without_objects_are_background():
    no_object, im_info = np.zeros((0, 5)), np.array([64, 64, 1])
    labels, targets, inside, outside = anchor_targets(GRID, no_object, im_info, cfg.TRAIN)
    assert (labels == 0).all() and not targets.any() and not inside.any()
    np.testing.assert_allclose(outside, 1 / 16)


def test_no_anchor_fits_the_image():
    gt, im_info = np.array([[0, 0, 5, 5, 1]]), np.array([8, 8, 1])
    labels, targets, _, outside = anchor_targets(GRID, gt, im_info, cfg.TRAIN)
    assert (labels == -1).all() and not outside.any() and np.isfinite(targets).all()
    labels = anchor_targets(GRID, gt, im_info, cfg.TRAIN, border=10)[0]
    assert (labels >= 0).any()


def test_anchor_target_layer_reads_the_fourth_number(tmp_path):
    for fourth, negatives in (1, True), (0, False):
        labels = run_layer(
            tmp_path,
            'rpn.anchor_target_layer',
            'AnchorTargetLayer',
            ['l', 't', 'i', 'o'],
            r"'feat_stride': 16\n'scales': [1, 2]\n'ratios': [1]",
            scores=np.zeros((1, 4, 4, 4)),
            gt_boxes=[[16, 16, 31, 31, 2]],
            im_info=[[64, 64, 1, fourth]],
            data=np.zeros((1, 3, 64, 64)),
        )[0]
        assert labels.shape == (1, 1, 8, 4) and labels[0, 0, 1, 1] == 1
        assert (labels == 0).any() == negatives


def test_proposal_targets():
    rois = np.array([[0, 0, 0, 9, 9], [0, 50, 50, 59, 59]], np.float32)
    gt = np.array([[0, 0, 9, 10, 2]], np.float32)
    with overrides({'TRAIN.BG_THRESH_LO': 0.0, 'TRAIN.FG_FRACTION': 0.5}):
        rois, labels, targets, weights, _ = proposal_targets(rois, gt, 3, 4, cfg.TRAIN)
    assert sorted(rois[:2, 4].tolist()) == [9, 10]  # the object is a RoI too
    assert rois[2].tolist() == [0, 50, 50, 59, 59]
    assert labels.tolist() == [2, 2, 0]
    row = rois[:2, 4].tolist().index(9)
    np.testing.assert_allclose(targets[row], [0] * 8 + [0, 0.05, 0, np.log(1.1)], atol=1e-6)
    assert weights[:2, 8:].all() and weights.sum() == 8


def test_proposal_targets_of_an_image_without_objects():
    rois = np.array([[0, 0, 0, 9, 9]], np.float32)
    with overrides({'TRAIN.USE_EMPTY': True}):
        rois, labels, targets, weights, _ = proposal_targets(
            rois, np.zeros((0, 5), np.float32), 3, 4, cfg.TRAIN
        )
    assert labels.tolist() == [0] and not targets.any() and not weights.any()


def test_proposal_targets_know_no_partial_annotation(tmp_path):
    with overrides({'TRAIN.NO_POS_SAMPLES_ON_TRAIN': True}), pytest.raises(ValueError, match='alternating'):
        one_layer_net(
            tmp_path,
            'rpn.proposal_target_layer',
            'ProposalTargetLayer',
            list('rltio'),
            "'num_classes': 3",
            rois=(1, 5),
            gt_boxes=(1, 5),
        )


def test_anchor_targets_of_levels_and_images_against_one_at_a_time():
    sizes = {16: (4, 4), 32: (2, 2)}
    levels = [
        (generate_anchors(base_size=stride, ratios=[1], scales=[1]), stride, size)
        for stride, size in sizes.items()
    ]
    grids = np.vstack([anchor_grid(anchors, *size, stride) for anchors, stride, size in levels])
    gt = [
        np.array([[16, 16, 31, 35, 1]], np.float32),
        np.array([[0, 0, 31, 31, 1], [40, 40, 50, 50, 1]], np.float32),
    ]
    im_info = np.array([[64, 64, 1, 0.01], [60, 64, 1, 0]])
    np.random.seed(3)
    levels = level_targets(levels, gt, im_info, cfg.TRAIN)
    np.random.seed(3)
    for i in range(2):
        alone = anchor_targets(grids, gt[i], im_info[i], cfg.TRAIN, bg_times=im_info[i, 3])
        for kind, values in enumerate(alone):
            rows = [np.moveaxis(level[kind][i], 0, 2).reshape(-1, *values.shape[1:]) for level in levels]
            np.testing.assert_array_equal(np.concatenate(rows), values)
    assert levels[1][0].shape == (2, 1, 2, 2) and levels[1][1].shape == (2, 4, 2, 2)
    assert levels[1][0][1, 0, 0, 0] == 1  # the 32 pixels' object is the second level's


IMAGES = np.array([[64, 80, 2], [40, 80, 1], [64, 41, 1]])  # sizes of three images; maps of (4, 5) cells
CELLS = (4, 5), (3, 5), (4, 3)
OBJECTS = np.array(
    [[16, 16, 47, 47, 1, 0], [33, 10, 79, 50, 2, 0], [0, 0, 30, 31, 2, 1], [5, 9, 40, 63, 1, 2]], np.float32
)


@pytest.mark.parametrize('border', [0, 24])
@pytest.mark.parametrize('most', [8, 1000])
def test_targets_of_a_padded_image_are_those_it_has_alone(tmp_path, border, most):
    """With most of 8 anchors are drawn: those of the first image, which draws as it does alone, are compared."""
    what = 'rpn.anchor_target_layer', 'AnchorTargetLayer', list('ltio')
    param = rf"'feat_stride': 16\n'scales': [1, 2]\n'ratios': [0.5, 1]\n'allowed_border': {border}"

    def targets(scores, gt, info):
        return run_layer(
            tmp_path, *what, param, s=scores, gt=gt, info=info, data=np.zeros((len(info), 3, 64, 80))
        )

    with overrides({'TRAIN.RPN_BATCHSIZE': most}):
        labels, *others = together = targets(np.zeros((3, 8, 4, 5)), OBJECTS, IMAGES)
        assert labels.shape == (3, 1, 16, 5) and others[0].shape == (3, 16, 4, 5)
        for i, (h, w) in enumerate(CELLS if most > 8 else CELLS[:1]):
            objects = OBJECTS[OBJECTS[:, 5] == i, :5]
            alone = targets(np.zeros((1, 8, h, w)), objects, IMAGES[i : i + 1])
            for values, wanted, elsewhere in zip(together, alone, (-1, 0, 0, 0)):
                values = values[i].reshape(-1, 4, 5)
                np.testing.assert_array_equal(values[:, :h, :w], wanted.reshape(-1, h, w))
                assert (values[:, h:] == elsewhere).all() and (values[:, :, w:] == elsewhere).all()
            assert (alone[0] == 1).any() and (alone[0] == 0).any()


def test_ground_truth_of_several_images_says_whose_it_is(tmp_path):
    shapes = dict(scores=(2, 4, 4, 4), im_info=(2, 3), data=(2, 3, 64, 64))
    what = 'rpn.anchor_target_layer', 'AnchorTargetLayer', list('ltio')
    param = r"'feat_stride': 16\n'scales': [1, 2]\n'ratios': [1]"
    for changed, message in (
        ({'gt': (1, 5)}, 'gt_boxes of 2 images want columns box, class and image, 6; got 5'),
        ({'gt': (1, 6), 'im_info': (1, 3)}, 'scores and im_info are of 2 and 1 images'),
    ):
        bottoms = {**shapes, **changed}
        bottoms = {name: bottoms[name] for name in ('scores', 'gt', 'im_info', 'data')}
        with pytest.raises(ValueError, match=message):
            one_layer_net(tmp_path, *what, param, **bottoms).forward()


def test_proposal_target_layer_of_several_images(tmp_path):
    """A quarter of the RoIs of a real batch of four images comes from each, two a pass or one."""
    rng = np.random.RandomState(0)
    rois = np.hstack([np.repeat([[0], [1], [2]], 20, 0), np.sort(rng.rand(60, 4) * 64)[:, [0, 1, 2, 3]]])
    what = 'rpn.proposal_target_layer', 'ProposalTargetLayer', list('rltio'), "'num_classes': 3"
    settings = {'TRAIN.BATCH_SIZE': 4 * 40, 'TRAIN.REAL_BATCH_SIZE': 4, 'TRAIN.BG_THRESH_LO': 0.0}

    def rows(values):
        return sorted(map(tuple, np.hstack([v.reshape(len(v), -1) for v in values]).tolist()))

    with overrides({**settings, 'TRAIN.IMS_PER_BATCH': 3}):
        together = run_layer(tmp_path, *what, rois=rois, gt=OBJECTS)
        assert (np.diff(together[0][:, 0]) >= 0).all()
        for i in range(3):
            gt = OBJECTS[OBJECTS[:, 5] == i, :5]
            alone = run_layer(tmp_path, *what, rois=rois[rois[:, 0] == i] * [0, 1, 1, 1, 1], gt=gt)
            alone[0][:, 0] = i
            assert rows([values[together[0][:, 0] == i] for values in together]) == rows(alone)
            assert (alone[1] > 0).any() and (alone[1] == 0).any()
        with overrides({'TRAIN.IMS_PER_BATCH': 2, 'TRAIN.REAL_BATCH_SIZE': 0, 'TRAIN.BATCH_SIZE': 16}):
            found = run_layer(tmp_path, *what, rois=rois[:40], gt=OBJECTS[:3])[0]
            assert np.bincount(found[:, 0].astype(int)).tolist() == [8, 8]


def test_proposal_targets_of_images_against_one_at_a_time():
    rng = np.random.RandomState(0)
    rois = np.array([[i % 2, 10 * i, 0, 10 * i + 20, 30] for i in range(20)], np.float32) + 0.0
    gt = [np.array([[0, 0, 20, 30, 2]], np.float32), np.array([[90, 0, 110, 30, 1]], np.float32)]
    rois = rois[rng.permutation(20)]
    with overrides({'TRAIN.BG_THRESH_LO': 0.0}):
        np.random.seed(3)
        together = image_targets(rois, gt, 3, 6, cfg.TRAIN)
        np.random.seed(3)
        alone = [proposal_targets(rois[rois[:, 0] == i], gt[i], 3, 6, cfg.TRAIN, i) for i in range(2)]
    *together, objects = together
    for values, parts in zip(together, zip(*alone)):
        np.testing.assert_array_equal(values, np.concatenate(parts))
    assert set(together[0][:, 0]) == {0, 1}
    fg = together[1] > 0
    np.testing.assert_array_equal(objects[fg], together[0][fg, 0])  # image i has the object i alone
    with pytest.raises(ValueError, match='ground truth is of 1 images'):
        image_targets(rois, gt[:1], 3, 6, cfg.TRAIN)


def tensors(*values):
    return [torch.from_numpy(v) for v in values]


def like_arrays(of_tensors, of_arrays):
    """Both drew the same: tensors hold the arrays' numbers, to the rounding of logarithms."""
    (got, next_draw), (want, their_draw) = of_tensors, of_arrays
    assert next_draw == their_draw
    for ours, theirs in zip(got, want, strict=True):
        assert torch.is_tensor(ours) and ours.dtype == torch.float32
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-6)


def seeded(function, *args):
    """(the answer, what the global generator would give next)."""
    np.random.seed(3)
    return function(*args), np.random.rand()


def no_copies(monkeypatch):
    def refuse(*args):
        raise AssertionError('a tensor went to the host')

    for name in 'numpy', 'cpu', 'tolist':
        monkeypatch.setattr(torch.Tensor, name, refuse)


def test_targets_of_tensors_stay_there_and_draw_as_those_of_arrays(monkeypatch):
    rng = np.random.RandomState(0)
    grid = anchor_grid(generate_anchors(scales=[2, 4]), 9, 12, 16)
    corners = rng.rand(4, 2) * 90
    gt = np.hstack([corners, corners + 20 + rng.rand(4, 2) * 60, rng.randint(1, 4, (4, 1))]).astype(
        np.float32
    )
    info = np.float32([150, 190, 1])
    rois = np.hstack([np.zeros((50, 1)), np.abs(gt[rng.randint(0, 4, 50), :4] + rng.randn(50, 4) * 9)])
    rois = rois.astype(np.float32)
    settings = {'TRAIN.RPN_BATCHSIZE': 16, 'TRAIN.BG_THRESH_LO': 0.0, 'TRAIN.RPN_NORMALIZE_TARGETS': True}
    with overrides(settings):
        for objects in gt, gt[:0]:
            case = [grid, objects, info, cfg.TRAIN, 0]
            for weight, clobber in (-1, False), (0.3, True):
                with overrides({'TRAIN.RPN_POSITIVE_WEIGHT': weight, 'TRAIN.RPN_CLOBBER_POSITIVES': clobber}):
                    want = seeded(anchor_targets, *case)
                    with monkeypatch.context() as m:
                        on_device = tensors(grid, objects)
                        no_copies(m)
                        got = seeded(anchor_targets, *on_device, *case[2:])
                    like_arrays(got, want)
            for agnostic, precomputed in (False, True), (True, False):
                names = 'TRAIN.AGNOSTIC', 'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED', 'TRAIN.USE_EMPTY'
                with overrides(dict(zip(names, (agnostic, precomputed, True)))):
                    want = seeded(image_targets, rois, [objects], 4, 16, cfg.TRAIN)
                    with monkeypatch.context() as m:
                        on_device = tensors(rois, objects)
                        no_copies(m)
                        got = seeded(image_targets, on_device[0], [on_device[1]], 4, 16, cfg.TRAIN)
                    like_arrays(got, want)


def test_layers_of_targets_on_tensors_give_what_they_give_on_arrays(tmp_path, monkeypatch):
    rng = np.random.RandomState(0)
    gt = [[16, 16, 31, 35, 1], [30, 8, 60, 50, 2]]
    rois = np.hstack([np.zeros((9, 1)), np.sort(rng.rand(9, 4) * 64)[:, [0, 1, 2, 3]]])
    anchors = dict(
        scores=np.zeros((1, 4, 4, 4)), gt_boxes=gt, im_info=[[64, 64, 1]], data=np.zeros((1, 3, 64, 64))
    )
    for module, layer, tops, param_str, bottoms in (
        (
            'rpn.anchor_target_layer',
            'AnchorTargetLayer',
            'ltio',
            r"'feat_stride': 16\n'scales': [1, 2]\n'ratios': [1]",
            anchors,
        ),
        (
            'rpn.proposal_target_layer',
            'ProposalTargetLayer',
            'rltio',
            "'num_classes': 3",
            dict(rois=rois, gt=gt),
        ),
    ):
        args = tmp_path, module, layer, list(tops), param_str
        want = [top.copy() for top in run_layer(*args, **bottoms)]
        with monkeypatch.context() as m:
            m.setattr(f'{module}.values_of', lambda blob: blob.tensor)
            got = run_layer(*args, **bottoms)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_grid_of_tensors():
    anchors = generate_anchors(scales=[1, 2])
    grid = anchor_grid(torch.from_numpy(anchors), 2, 3, 16)
    np.testing.assert_array_equal(grid.numpy(), anchor_grid(anchors, 2, 3, 16))


def test_statistics_of_the_anchors_targets():
    """Each anchor inside that is some object's best, or overlaps one by 0.7, counts: a plain loop finds them."""
    anchors, rng = generate_anchors(scales=[2, 4]), np.random.RandomState(0)
    roidb = []
    for width, height in (160, 120), (90, 140):
        corners = rng.randint(0, 60, (3, 2))
        boxes = np.hstack([corners, corners + rng.randint(20, 60, (3, 2))]).astype(np.float32)
        roidb.append(
            {'width': width, 'height': height, 'boxes': boxes, 'gt_classes': np.array([1, 2, 0])}
        )  # the last is a proposal
    with overrides({'TRAIN.SCALES': [240], 'TRAIN.MAX_SIZE': 400}):
        means, stds = anchor_statistics(roidb, anchors, 16, cfg.TRAIN)
        with pytest.raises(ValueError, match='no anchor is positive'):
            anchor_statistics(roidb, 100 * anchors, 16, cfg.TRAIN)
    targets = []
    for entry in roidb:
        scale = 240 / min(entry['width'], entry['height'])
        width, height, objects = entry['width'] * scale, entry['height'] * scale, entry['boxes'][:2] * scale
        rows = [
            anchor + [x, y, x, y]
            for y in range(0, round(height), 16)
            for x in range(0, round(width), 16)
            for anchor in anchors
        ]
        inside = [r for r in rows if r[0] >= 0 and r[1] >= 0 and r[2] < round(width) and r[3] < round(height)]
        overlaps = np.array([bbox_overlaps(np.array([r]), objects.astype(float))[0] for r in inside])
        for anchor, row in zip(inside, overlaps):
            if row.max() >= 0.7 or (row == overlaps.max(0)).any():
                targets.append(bbox_transform(anchor[None], objects[row.argmax()][None])[0])
    np.testing.assert_allclose(means, np.mean(targets, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stds, np.std(targets, 0), rtol=1e-4, atol=1e-6)
