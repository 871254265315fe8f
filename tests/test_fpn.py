"""Detection on a pyramid: box families, anchors, proposals, levels, detections, on cases a person can check."""

import math
import types

import numpy as np
import pytest
import torch
from layer_runs import run_in_order

from fast_rcnn.config import overrides
from fast_rcnn.detection import Answer
from fast_rcnn.inputs import Scaled, given_blobs, proposing_blobs, scaled_image
from fpn.anchors import Pyramid, in_maps, in_rows, logits
from fpn.boxes import FAMILIES, family_of, family_of_net
from fpn.images import resized, scaled_size
from fpn.levels import has_levels, split
from fpn.proposals import Level, propose
from rpn.proposals import Limits

CAFFE, TORCHVISION = FAMILIES['caffe'], FAMILIES['torchvision']
both = pytest.mark.parametrize('family', [CAFFE, TORCHVISION], ids=['caffe', 'torchvision'])


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


# Families


def test_a_width_counts_its_last_pixel_or_not():
    """10 x 10 and the 5 x 10 on its left: IoU 1/2 by whole pixels; by edges 9 x 9 and 4 x 9."""
    one, other = boxes([0, 0, 9, 9]), boxes([0, 0, 4, 9])
    assert CAFFE.overlaps(one, other).item() == 0.5
    assert TORCHVISION.overlaps(one, other).item() == pytest.approx(4 / 9)
    assert CAFFE.sides(other).tolist() == [[5, 10]] and TORCHVISION.sides(other).tolist() == [[4, 9]]
    assert CAFFE.nms(torch.cat([one, other]), 0.49).tolist() == [0]
    assert TORCHVISION.nms(torch.cat([one, other]), 0.49).tolist() == [0, 1]


def test_codes_by_hand():
    """A box of 10 x 20 to one of 20 x 20, five to the right of its centre."""
    codes = TORCHVISION.encode(boxes([0, 0, 10, 20]), boxes([0, 0, 20, 20]))
    np.testing.assert_allclose(codes, [[0.5, 0, math.log(2), 0]], rtol=1e-6)
    codes = CAFFE.encode(boxes([0, 0, 9, 19]), boxes([0, 0, 19, 19]))
    np.testing.assert_allclose(codes, [[0.5, 0, math.log(2), 0]], rtol=1e-6)
    codes = TORCHVISION.encode(boxes([0, 0, 10, 20]), boxes([0, 0, 20, 20]), TORCHVISION.roi_weights)
    np.testing.assert_allclose(codes, [[5, 0, 5 * math.log(2), 0]], rtol=1e-6)


@both
def test_codes_and_back(family):
    rng = np.random.RandomState(0)
    corners, more = rng.rand(2, 20, 2) * 50, 1 + rng.rand(2, 20, 2) * 50
    some, others = torch.from_numpy(np.concatenate([corners, corners + more], 2).astype(np.float32))
    codes = family.encode(some, others, family.roi_weights)
    back = family.decode(some, torch.cat([codes, codes], 1), family.roi_weights)
    wanted = others + boxes(
        [0, 0, family.offset, family.offset]
    )  # Caffe's decoding does not take it off again
    np.testing.assert_allclose(back, torch.cat([wanted, wanted], 1), atol=1e-3)


def test_huge_codes():
    """torchvision's boxes grow 62.5-fold at most; every box is cut to the image, to the last pixel or the edge."""
    box = boxes([10, 10, 20, 20])
    moved = TORCHVISION.decode(box, boxes([0, 0, 9, -9]))
    np.testing.assert_allclose(moved[0, [0, 2]], [15 - 312.5, 15 + 312.5], rtol=1e-5)
    assert TORCHVISION.clip(moved, (30, 50))[0, [0, 2]].tolist() == [0, 50]
    assert CAFFE.clip(CAFFE.decode(box, boxes([0, 0, 9, 9])), (30, 50)).tolist() == [[0, 0, 49, 29]]


def test_torchvision_anchors_are_centred_and_rounded():
    """Of 32 pixels: 45.25 x 22.63, 32 x 32, 22.63 x 45.25; halves of sides, rounded."""
    anchors = TORCHVISION.anchors(4, [8], [0.5, 1, 2])
    assert anchors.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    two = TORCHVISION.anchors(8, [1, 2], [1])
    assert two.tolist() == [[-4, -4, 4, 4], [-8, -8, 8, 8]]


def test_detnet_anchors_are_centred():
    """Of 32 pixels; half as wide as high, and so on."""
    high, square, wide = FAMILIES['detnet'].anchors(4, [8], [0.5, 1, 2])
    np.testing.assert_allclose(wide, [-22.627, -11.314, 22.627, 11.314], atol=1e-3)
    assert square.tolist() == [-16, -16, 16, 16] and torch.equal(high, wide[[1, 0, 3, 2]])


def test_sizes_of_each_level():
    pyramid = Pyramid("'boxes': detnet \n'strides': [8, 8] \n'scales': [[2], [3]] \n'ratios': [1]")
    assert [anchors.tolist() for anchors in pyramid.anchors] == [[[-8, -8, 8, 8]], [[-12, -12, 12, 12]]]


def test_pairs_of_scores():
    pairs = torch.tensor([1.0, 2, 10, 20]).reshape(1, 4, 1, 1)
    assert logits(pairs, [0, 1]).flatten().tolist() == [9, 18]
    assert logits(pairs, range(4)) is pairs
    with pytest.raises(ValueError, match='3 anchors want 3 or 6 scores a position; got 4'):
        logits(pairs, range(3))


def test_caffe_anchors_are_those_of_one_level():
    assert CAFFE.anchors(16, [8], [1]).tolist() == [[-56, -56, 71, 71]]


def test_levels():
    """Level 4 from 224 pixels on, one more for twice that; torchvision's edge is a little lower."""
    sides = [112, 223.99, 224, 447, 448, 20, 2000]
    squares = boxes(*([0, 0, side, side] for side in sides))
    assert TORCHVISION.levels(squares).tolist() == [3, 3, 4, 4, 5, 0, 7]
    assert CAFFE.levels(squares - boxes([0, 0, 1, 1])).tolist() == [3, 3, 4, 4, 5, 0, 7]
    just_below = boxes([0, 0, 224 * (1 - 5e-7), 224])
    assert (TORCHVISION.levels(just_below).item(), family_of('torchvision')) == (4, TORCHVISION)


def test_what_a_head_says_moves_rois():
    """torchvision's codes are ten times a move, and the edge is the image's width."""
    rois, codes = np.float32([[10, 10, 20, 20]]), np.float32([[5, 0, 0, 0, 0, 9, 0, 0]])
    assert TORCHVISION.moved(rois, codes, (18, 50, 3)).tolist() == [[15, 10, 25, 18, 10, 18, 20, 18]]
    assert CAFFE.moved(rois, codes[:, :4] / 10, (18, 50, 3)).tolist() == [[15.5, 10, 26.5, 17]]


def net_of(*families):
    """One with a Python layer of somebody's own, and a layer for each of these families."""
    layers = [python_layer('mine', 'of: no: form')]
    layers += [python_layer('fpn.level_layer', f"'boxes': {name}") for name in families]
    return types.SimpleNamespace(name='n', layers=layers)


def python_layer(module, param_str):
    param = types.SimpleNamespace(module=module, param_str=param_str)
    return types.SimpleNamespace(layer_param=types.SimpleNamespace(python_param=param))


def test_the_family_of_a_net():
    assert family_of_net(net_of()) is CAFFE
    assert family_of_net(net_of('torchvision', 'torchvision')) is TORCHVISION
    with pytest.raises(ValueError, match="'n' has layers of several families of boxes: caffe, torchvision"):
        family_of_net(net_of('torchvision', 'caffe'))


def test_a_family_that_is_none():
    with pytest.raises(ValueError, match="caffe or detnet or torchvision or .*; got 'mine'"):
        family_of('mine')


# Anchors


def test_grids_against_a_loop():
    """A map of 3 cells for 160 rows of pixels: anchors are 53 apart in torchvision's arithmetic, 64 in Caffe's."""
    for name, down in ('torchvision', 53), ('caffe', 64):
        pyramid = Pyramid(f"'boxes': {name} \n'strides': [64] \n'scales': [1, 2] \n'ratios': [1]")
        (grid,) = pyramid.grids([(3, 2)], (160, 128))
        loop = [
            anchor + torch.tensor([64 * x, down * y, 64 * x, down * y])
            for y in range(3)
            for x in range(2)
            for anchor in pyramid.anchors[0]
        ]
        assert torch.equal(grid, torch.stack(loop))


def test_an_input_that_is_not_padded():
    """75 pixels make maps of 19, 10, 5, 3 and 2 cells: 4, 8, 16 and 32 pixels apart, and the last 48, of 96."""
    strides, cells = [4, 8, 16, 32, 64], [19, 10, 5, 3, 2]
    found = [TORCHVISION.strides(stride, (n, n), (75, 75))[0] for stride, n in zip(strides, cells)]
    assert found == [4, 8, 16, 32, 48]


def test_rows_and_maps():
    maps = torch.arange(2 * 4 * 3 * 5).reshape(8, 3, 5)
    rows = in_rows(maps, 4)
    assert rows[(1 * 5 + 2) * 2 + 1].tolist() == maps[4:, 1, 2].tolist()
    assert torch.equal(in_maps(rows, (3, 5)), maps)


# Proposals


def level(scores, family, stride, deltas=None):
    """One square anchor of a stride at every position; scores (H, W), deltas 0 or (4, H, W)."""
    scores = torch.tensor(scores, dtype=torch.float32)[None, None]
    deltas = torch.zeros(1, 4, *scores.shape[2:]) if deltas is None else deltas[None]
    pyramid = Pyramid(f"'boxes': torchvision \n'strides': [{stride}] \n'scales': [1] \n'ratios': [1]")
    size = [stride * side for side in scores.shape[2:]]
    return Level(scores, deltas, *pyramid.grids([scores.shape[2:]], size))


def test_the_best_of_each_level_then_of_all():
    fine = level([[1, 2], [3, 4]], TORCHVISION, 8)
    coarse = level([[2.5]], TORCHVISION, 32)
    limits = Limits(pre_nms_top_n=2, post_nms_top_n=2, nms_thresh=0.7, min_size=0)
    ((found, scores),) = propose([fine, coarse], torch.tensor([[40, 40, 1.0]]), TORCHVISION, limits)
    assert scores.tolist() == [4, 3] and found.tolist() == [[4, 4, 12, 12], [0, 4, 4, 12]]
    limits.post_nms_top_n = 0
    ((found, scores),) = propose([fine, coarse], torch.tensor([[40, 40, 1.0]]), TORCHVISION, limits)
    assert scores.tolist() == [4, 3, 2.5] and found[2].tolist() == [0, 0, 16, 16]


def test_suppression_is_within_a_level_and_after_the_choice():
    """The second of the level takes part in the two best, although it falls to the first; the other level's equal box
    does not fall."""
    push = torch.zeros(4, 1, 3)
    push[0] = torch.tensor([[0.0, -1, 0]])  # the second moves onto the first
    fine = level([[3, 2, 1]], TORCHVISION, 8, push)
    same = level([[2.5, -9, -9]], TORCHVISION, 8)
    limits = Limits(pre_nms_top_n=2, post_nms_top_n=9, nms_thresh=0.7, min_size=0)
    ((found, scores),) = propose([fine, same], torch.tensor([[8, 24, 1.0]]), TORCHVISION, limits)
    assert scores.tolist() == [3, 2.5, -9] and found[0].tolist() == found[1].tolist()


def test_of_a_large_level_the_best_2000():
    """Where the setting says no number; none of these 2116 meets another. Of levels that compete, all."""
    fine = level(np.arange(46 * 46).reshape(46, 46).tolist(), TORCHVISION, 8)
    limits = Limits(pre_nms_top_n=-1, post_nms_top_n=0, nms_thresh=0.7, min_size=0)
    info = torch.tensor([[368, 368, 1.0]])
    for family, least in (TORCHVISION, 116), (FAMILIES['detnet'], 0):
        ((_, scores),) = propose([fine], info, family, limits)
        assert scores.tolist() == list(range(46 * 46 - 1, least - 1, -1))


def test_levels_that_compete():
    """Of all boxes together the best two, of which the coarser falls to the finer one that it covers."""
    fine, coarse = level([[3, 1]], TORCHVISION, 16), level([[2]], TORCHVISION, 32)
    coarse = coarse._replace(grid=fine.grid[:1])
    limits = Limits(pre_nms_top_n=2, post_nms_top_n=9, nms_thresh=0.7, min_size=99)
    ((_, scores),) = propose([fine, coarse], torch.tensor([[32, 32, 1.0]]), FAMILIES['detnet'], limits)
    assert scores.tolist() == [3]


def test_what_is_too_small():
    """An anchor wholly outside the image has no size once it is cut; Caffe's least side grows with the scale."""
    shift = torch.zeros(4, 1, 2)
    shift[0, 0, 1] = 9
    limits = Limits(pre_nms_top_n=0, post_nms_top_n=0, nms_thresh=0.7, min_size=4)
    info = torch.tensor([[16, 16, 2.0]])
    for family, least in (TORCHVISION, 1e-3), (CAFFE, 8):
        ((found, _),) = propose([level([[1, 2]], family, 16, shift)], info, family, limits)
        assert len(found) == 1 and family.least_side(4, 2.0) == least


# Levels


def test_split_and_back():
    rois = boxes(*([0, 0, side, side] for side in (500, 30, 112, 225, 111, 2000, 60)))
    rows, order = split(rois, TORCHVISION, 2, 4)
    assert [r.tolist() for r in rows] == [[1, 4, 6], [2], [3], [0, 5]]
    assert torch.equal(rois[torch.cat(rows)][order], rois)


def test_boxes_given_to_a_pyramid_are_all_looked_at():
    """Two that are the same in cells of 16 pixels are not in cells of 4."""
    assert has_levels(net_of('caffe')) and not has_levels(net_of())
    image, given = (
        Scaled(np.zeros((1, 3, 64, 64)), np.ones(1), (64, 64, 3)),
        np.float32([[0, 0, 40, 40], [3, 0, 40, 40]]),
    )
    (blobs, ((rows, of_rows),)), (all_blobs, ((all_rows, _),)) = (
        given_blobs([image], [given], step=step) for step in (None, 0)
    )
    assert len(blobs['rois']) == 1 and rows.tolist() == [0, 0] and of_rows.tolist() == [given[0].tolist()] * 2
    assert all_blobs['rois'][:, 1:].tolist() == given.tolist() and all_rows.tolist() == [0, 1]


def test_the_layer_of_levels(tmp_path):
    rois = np.array([[1, 0, 0, 300, 300], [0, 5, 5, 25, 25], [0, 0, 0, 220, 220]])
    tops = run_in_order(
        tmp_path, 'fpn.level_layer.RoILevelsLayer', "'boxes': torchvision \n'first': 3", [rois], 3
    )
    assert tops[0].tolist() == rois[1:].tolist() and tops[1].tolist() == rois[:1].tolist()
    assert tops[2].tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match='one for the order; got 1'):
        run_in_order(
            tmp_path, 'fpn.level_layer.RoILevelsLayer', "'boxes': torchvision \n'first': 3", [rois], 1
        )


def test_the_layer_of_levels_in_cells(tmp_path):
    """Maps of 11 and 6 rows of 41 pixels; the level of a RoI goes by its pixels."""
    rois = [[0, 0, 0, 40, 20], [0, 0, 0, 300, 300]]
    bottoms = [rois, np.zeros((1, 2, 11, 16)), np.zeros((1, 2, 6, 8)), np.zeros((1, 3, 41, 61))]
    kind, param = 'fpn.level_layer.RoILevelsLayer', "'boxes': detnet \n'first': 3"
    tops = run_in_order(tmp_path, kind, param, bottoms, 3)
    np.testing.assert_allclose(tops[0], [[0, 0, 0, 40 * 11 / 41, 20 * 11 / 41]], rtol=1e-6)
    np.testing.assert_allclose(tops[1], [[0, 0, 0, 300 * 6 / 41, 300 * 6 / 41]], rtol=1e-6)
    with pytest.raises(ValueError, match='2 maps and data; got 3 bottoms'):
        run_in_order(tmp_path, kind, param, bottoms[:3], 3)


# Detections


def test_detnet_moves_boxes_in_the_scaled_image():
    """An image of 50 x 60 that was scaled twice; a box that moves by its width, 20 pixels of the scaled one, and to the rim."""
    image = Scaled(np.zeros((1, 3, 100, 120), np.float32), np.array([2.0]), (50, 60, 3))
    rois = boxes([10, 10, 29, 29]).numpy()
    rois, size = FAMILIES['detnet'].looked_at(rois, image)
    codes = np.zeros((1, 8), np.float32)
    codes[0, 4] = 1
    answer = Answer(image.shape, np.ones((1, 2)), rois, codes, FAMILIES['detnet'], size)
    np.testing.assert_allclose(answer.boxes(), [[5, 5, 15, 15, 15, 5, 25, 15]], rtol=1e-6)
    codes[0, 4] = 9
    np.testing.assert_allclose(answer.boxes()[0, [4, 6]], [59.5, 59.5])


def test_detections():
    """Classes by themselves, background never, the best of all together, no boxes without a side."""
    rois = boxes([0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [5, 5, 5, 9]).numpy()
    probs = boxes([0.1, 0.7, 0.2], [0.1, 0.6, 0.3], [0.5, 0.05, 0.45], [0, 1, 0]).numpy()
    answer = Answer((50, 120, 3), probs, rois, np.zeros((4, 12), np.float32), TORCHVISION, (25, 40))
    with overrides({'TEST.NMS': 0.5}):
        found, classes = answer.best(3, 0.1)
        assert [len(answer.best(most, 0.1)[0]) for most in (0, 1, 2, 9)] == [3, 1, 2, 3]
    np.testing.assert_allclose(found[:, 4], np.float32([0.7, 0.45, 0.3]))
    assert classes.tolist() == [1, 2, 2]
    assert found[:, :4].tolist() == [[0, 0, 30, 20], [60, 40, 90, 50], [3, 0, 33, 20]]
    assert answer.boxes()[0].tolist() == 3 * [0, 0, 30, 20]
    none, classes = Answer((9, 9), probs[:0], rois[:0], rois[:0].repeat(3, 1), TORCHVISION).best(3, 0.1)
    assert none.shape == (0, 5) and classes.shape == (0,)


def test_of_equal_scores_the_first_are_kept():
    scores = np.float32([0.5, 0.9, 0.5, 0.5, 0.1])
    assert TORCHVISION.highest(scores, 2).tolist() == [0, 1]
    assert CAFFE.highest(scores, 2).tolist() == [True, True, True, True, False]


# Images


def test_sizes_round_down_in_single_precision():
    """1 / 200 in float32, times 240, is just below 1.2."""
    assert scaled_size((200, 260), 240, 400)[0] == (239, 311)
    assert scaled_size((180, 150), 240, 400)[0] == (288, 240)
    assert scaled_size((97, 311, 3), 260, 260)[0] == (81, 259)


def test_a_batch_is_padded_to_32():
    images = [np.full((20, 30, 3), 7.0), np.full((30, 20, 3), [5.0, 6, 7])]
    settings = {'TEST.SCALES': [40], 'TEST.MAX_SIZE': 60, 'PIXEL_MEANS': [1.0, 2, 3]}
    with overrides(settings):
        scaled = [scaled_image(image, TORCHVISION) for image in images]
    data, info = proposing_blobs(scaled, TORCHVISION).values()
    assert proposing_blobs(scaled[:1], TORCHVISION)['data'].shape == (1, 3, 64, 64)
    assert data.shape == (2, 3, 64, 64) and info[0, :2].tolist() == list(scaled_size((20, 30), 40, 60)[0])
    height, width = info[1, :2].astype(int)
    np.testing.assert_allclose(data[1, 0, :height, :width], 4, rtol=1e-6)
    assert not data[1, :, height:].any() and not data[1, :, :, width:].any()
    assert resized(np.float32([[2, 4, 6, 8]]), (10, 10), (20, 5)).tolist() == [[1, 8, 3, 16]]


def test_a_dataset_counts_the_last_pixel_and_an_edge_lies_behind_it():
    """Pixels 2 to 5 of 10, enlarged twofold: 4 to 12 by edges; as Caffe's nets see it, 4 to 10."""
    box = np.float32([[2, 2, 5, 5]])
    assert TORCHVISION.seen(box, (10, 10), (20, 20), 2.0).tolist() == [[4, 4, 12, 12]]
    assert CAFFE.seen(box, (10, 10), (20, 20), 2.0).tolist() == [[4, 4, 10, 10]]
    assert TORCHVISION.datasets(TORCHVISION.own(box)).tolist() == box.tolist()


# The other layers


PYRAMID = "'boxes': torchvision \n'strides': [8, 16] \n'scales': [1]"


def test_the_layer_of_proposals(tmp_path):
    """Two images: each has the boxes of its own maps, with probabilities."""
    rng = np.random.RandomState(0)
    scores = [rng.randn(2, 3, side, side) for side in (4, 2)]
    deltas = [np.zeros((2, 12, side, side)) for side in (4, 2)]
    info, data = [[32, 32, 1], [32, 24, 1]], np.zeros((2, 3, 32, 32))
    with overrides({'TRAIN.RPN_POST_NMS_TOP_N': 5}):
        rois, probs = run_in_order(
            tmp_path, 'fpn.proposal_layer.ProposalLayer', PYRAMID, [*scores, *deltas, info, data], 2
        )
    assert rois[:, 0].tolist() == [0] * 5 + [1] * 5 and rois[5:, 3].max() <= 24
    best = max(s[0].max() for s in scores)
    assert probs[0, 0] == pytest.approx(1 / (1 + math.exp(-best)), rel=1e-5)
    with pytest.raises(ValueError, match='2 strides want as many maps'):
        run_in_order(
            tmp_path, 'fpn.proposal_layer.ProposalLayer', PYRAMID, [scores[0], deltas[0], info, data], 1
        )
