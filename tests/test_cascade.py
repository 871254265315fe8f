"""Heads in a cascade against a plain loop: what they judge, what they are to answer, what a net says in the end."""

import math

import caffe
import numpy as np
import pytest
import torch
from caffe.format.prototxt import parse_net
from layer_runs import entry, run_in_order, write_image

from fast_rcnn.config import overrides
from fast_rcnn.detection import im_detect
from fpn.boxes import FAMILIES
from fpn.cascade import refined, stage_targets
from netgen.files import end2end_text, files

CAFFE, TORCHVISION = FAMILIES['caffe'], FAMILIES['torchvision']
WEIGHTS = [10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15]
NET, CLASSES, SCALE = 'ResNet-10-FPN-GN-Cascade', 4, 1.5
SETTINGS = {
    'TRAIN.HAS_RPN': True,
    'TRAIN.SCALES': [60],
    'TRAIN.IMS_PER_BATCH': 2,
    'TRAIN.BATCH_SIZE': 64,
    'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': True,
    'TEST.HAS_RPN': True,
    'TEST.SCALES': [60],
    'TEST.RPN_POST_NMS_TOP_N': 20,
}


def moved(box, code, weights, offset):
    """A box by what a head says of it, in plain numbers."""
    x1, y1, x2, y2 = box
    dx, dy, dw, dh = (value / weight for value, weight in zip(code, weights))
    width, height = x2 - x1 + offset, y2 - y1 + offset
    x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    width, height = width * math.exp(dw), height * math.exp(dh)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def cut(box, height, width, offset):
    x1, y1, x2, y2 = box
    return [
        *(min(max(x1, 0), width - offset), min(max(y1, 0), height - offset)),
        *(min(max(x2, 0), width - offset), min(max(y2, 0), height - offset)),
    ]


def code(box, target, weights, offset):
    """What is to be said of a box for `moved` to make the target of it (but for the offset)."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, target
    width, height, wide, high = (
        end - begin + offset for begin, end in ((x1, x2), (y1, y2), (u1, u2), (v1, v2))
    )
    x, y = (u1 + wide / 2 - x1 - width / 2) / width, (v1 + high / 2 - y1 - height / 2) / height
    values = x, y, math.log(wide / width), math.log(high / height)
    return [value * weight for value, weight in zip(values, weights)]


def overlap(a, b, offset):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    area = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return both / (sum(area) - both)


def boxes(rng, count, size):
    corners = rng.uniform(0, size, (count, 2, 2))
    return np.hstack([corners.min(1), corners.max(1) + 2]).astype(np.float32)


def scene(rng):
    """RoIs around objects of two images, and objects (G, 6: box, class, image); a third has none."""
    objects = np.array([[5, 5, 30, 25, 2, 0], [20, 10, 50, 45, 1, 0], [8, 8, 40, 40, 3, 1]], np.float32)
    near = np.repeat(objects[:, :4], 12, 0) + rng.uniform(-6, 6, (36, 4)).astype(np.float32)
    image = np.repeat(objects[:, 5:], 12, 0)
    far = np.hstack([np.float32([[0]] * 4 + [[1]] * 4 + [[2]] * 4), boxes(rng, 12, 50)])
    return np.vstack([np.hstack([image, near]), far]).astype(np.float32), objects


@pytest.mark.parametrize('family', [CAFFE, TORCHVISION], ids=lambda family: family.name)
@pytest.mark.parametrize('least, weights', [(0.6, WEIGHTS[1]), (0.7, WEIGHTS[2])])
def test_stage_targets_against_a_loop(tmp_path, family, least, weights):
    rois, objects = scene(np.random.default_rng(0))
    param = f"'boxes': {family.name} \n'weights': {weights} \n'overlap': {least}"
    bottoms = [rois, objects, np.zeros((3, 3))]
    kind = 'fpn.cascade_layer.StageTargetLayer'
    labels, targets, inside, outside = run_in_order(tmp_path, kind, param, bottoms, 4)
    found = set()
    for roi, label, *rows in zip(rois, labels, targets, inside, outside):
        mine = [gt for gt in objects if gt[5] == roi[0]]
        best = max(mine, key=lambda gt: overlap(roi[1:], gt, family.offset), default=None)
        if best is None or overlap(roi[1:], best, family.offset) < least:
            assert label == 0 and not np.any(rows)
            continue
        found.add(label)
        assert label == best[4]
        want = [0] * 4 + code(roi[1:], best[:4], weights, family.offset)
        np.testing.assert_allclose(rows[0], want, rtol=1e-4, atol=1e-4)
        assert rows[1].tolist() == rows[2].tolist() == [0] * 4 + [1] * 4
    assert found == {1, 2, 3} and (labels == 0).sum() > 12


@pytest.mark.parametrize('family', [CAFFE, TORCHVISION], ids=lambda family: family.name)
def test_boxes_are_moved_and_cut_to_their_own_image(tmp_path, family):
    rng = np.random.default_rng(1)
    rois = np.hstack([rng.integers(0, 2, (20, 1)), boxes(rng, 20, 40)])
    codes, info = rng.normal(0, 3, (20, 8)), np.array([[30, 50, 1], [45, 35, 1]])
    param = f"'boxes': {family.name} \n'weights': {WEIGHTS[1]}"
    kind = 'fpn.cascade_layer.RefineLayer'
    (got,) = run_in_order(tmp_path, kind, param, [rois, codes, info], 1)
    for roi, values, new in zip(rois, codes, got):
        height, width, _ = info[int(roi[0])]
        want = cut(moved(roi[1:], values[4:], WEIGHTS[1], family.offset), height, width, family.offset)
        np.testing.assert_allclose(new, [roi[0], *want], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('name', ['caffe', 'detnet', 'torchvision', 'tensorpack', 'detectron'])
def test_a_net_says_the_whole_way(tmp_path, name):
    """What it says of the first RoIs makes the boxes that the last head makes of the last ones; Caffe's families move boxes
    in the image before it was scaled."""
    family, rng = FAMILIES[name], np.random.default_rng(2)
    first = np.hstack([np.zeros((9, 1)), boxes(rng, 9, 60)]).astype(np.float32)
    last = first + np.hstack([np.zeros((9, 1)), rng.uniform(-1, 1, (9, 4))]).astype(np.float32)
    codes, info = rng.normal(0, 2, (9, 8)).astype(np.float32), np.float32([[90, 90, SCALE]])
    param = f"'boxes': {name} \n'weights': {WEIGHTS[2]}"
    kind = 'fpn.cascade_layer.WholeWayLayer'
    (way,) = run_in_order(tmp_path, kind, param, [first, last, codes, info], 1)
    scale = SCALE if name in ('caffe', 'detectron') else 1
    got = family.decode(
        torch.from_numpy(first[:, 1:] / scale), torch.from_numpy(way[:, 4:]), family.roi_weights
    )
    want = [
        moved(box / scale, values[4:], WEIGHTS[2], family.offset) for box, values in zip(last[:, 1:], codes)
    ]
    want = np.array(want) - ([0, 0, 1, 1] if name == 'detectron' else 0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@pytest.fixture
def cascade():
    """One whose heads move boxes."""
    caffe.set_mode_cpu()
    caffe.set_random_seed(3)
    net = caffe.Net.from_param(parse_net(end2end_text(NET, CLASSES, 'test.prototxt')), caffe.TEST)
    for stage in 1, 2, 3:
        net.params[f'stage{stage}_bbox_pred'][0].data[...] *= 30
        net.params[f'stage{stage}_cls_score'][0].data[...] *= 10
    return net


def test_a_test_net_against_a_loop(cascade):
    """Scores are the mean over the heads, each of its own RoIs, boxes those of the last, of one kind for all classes."""
    im = np.random.default_rng(4).integers(0, 255, (40, 52, 3), np.uint8)
    with overrides(SETTINGS):
        scores, found = im_detect(cascade, im)
    values = {name: blob.data.copy() for name, blob in cascade.blobs.items()}
    height, width, scale = values['im_info'][0]
    rois, probs, far = values['rois'][:, 1:], [], 0
    for stage, weights in enumerate(WEIGHTS, 1):
        exp = np.exp(values[f'stage{stage}_cls_score'])
        probs.append(exp / exp.sum(1, keepdims=True))
        codes = values[f'stage{stage}_bbox_pred'][:, 4:]
        if stage == 3:  # as a net's last boxes are: in the image itself
            rois, height, width = rois / scale, *im.shape[:2]
        now = [cut(moved(*pair, weights, 1), height, width, 1) for pair in zip(rois, codes)]
        if stage < 3:
            np.testing.assert_allclose(values[f'stage{stage + 1}_rois'][:, 1:], now, rtol=1e-4, atol=2e-3)
            far = max(far, np.abs(now - rois).max())
        rois = np.array(now)
    assert far > 1
    np.testing.assert_allclose(scores, np.mean(probs, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[:, 4:], rois, rtol=1e-4, atol=2e-3)


def test_a_cascade_judges_again_with_other_looks(cascade):
    im = np.random.default_rng(5).integers(0, 255, (40, 52, 3), np.uint8)
    with overrides({**SETTINGS, 'TEST.REFINE': 1, 'TEST.FLIP': True}):
        scores, found = im_detect(cascade, im)
    assert len(scores) == len(found) > 0 and np.isfinite(found).all()
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


def test_a_training_net(tmp_path):
    """Each head learns of the boxes of the one before, by its own overlap; the features get a third of its gradient."""
    roidb = []
    for i in range(2):
        image = write_image(tmp_path / f'{i}.png', seed=i)
        roidb.append(entry(image, [[5, 5, 35, 30], [30, 8, 55, 36]], [1, 3 - i], num_classes=CLASSES))
    caffe.set_mode_cpu()
    caffe.set_random_seed(1)
    np.random.seed(1)
    with overrides(SETTINGS):
        net = caffe.Net.from_param(parse_net(end2end_text(NET, CLASSES, 'train.prototxt')), caffe.TRAIN)
        for stage in 1, 2:
            net.params[f'stage{stage}_bbox_pred'][0].data[...] *= 30
        net.layers[0].set_roidb(roidb)
        losses = net.forward()
        net.backward()
    heads = {f'stage{stage}_loss_{kind}' for stage in (1, 2, 3) for kind in ('cls', 'bbox')}
    assert set(losses) == heads | {'rpn_loss_cls', 'rpn_loss_bbox'}
    assert all(np.isfinite(loss) for loss in losses.values())
    rois, info, gt = (net.blobs[name].tensor for name in ('rois', 'im_info', 'gt_boxes'))
    objects = [gt[gt[:, 5] == i] for i in (0, 1)]
    for stage, least in (2, 0.6), (3, 0.7):
        rois = refined(rois, net.blobs[f'stage{stage - 1}_bbox_pred'].tensor, info, CAFFE, WEIGHTS[stage - 2])
        torch.testing.assert_close(net.blobs[f'stage{stage}_rois'].tensor, rois)
        labels, targets, _ = stage_targets(rois, objects, least, CAFFE, WEIGHTS[stage - 1], (1, 1, 1, 1))
        torch.testing.assert_close(net.blobs[f'stage{stage}_labels'].tensor, labels)
        torch.testing.assert_close(net.blobs[f'stage{stage}_bbox_targets'].tensor, targets)
        assert 0 < (labels > 0).sum() < len(labels)
    for name in (f'stage{stage}_{part}' for stage in (1, 2, 3) for part in ('fc6', 'cls_score', 'bbox_pred')):
        assert np.abs(net.params[name][0].diff).max() > 0, name
    for stage, blob in (1, 'roi_pool'), (3, 'stage3_roi_pool'):
        whole = net.blobs[f'stage{stage}_fc6'].diff @ net.params[f'stage{stage}_fc6'][0].data
        diff = net.blobs[blob].diff
        np.testing.assert_allclose(diff.reshape(len(diff), -1), whole / 3, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(net.blobs[f'stage{stage}_share'].data, net.blobs[blob].data, rtol=1e-6)


def test_the_first_head_learns_in_the_cascades_weights(tmp_path):
    """Not in the family's, nor by the settings' deviations."""
    objects = np.float32([[10, 10, 29, 29, 3]])
    rois = np.float32([[0, 12, 10, 31, 29]])
    param = "'boxes': caffe \n'num_classes': 4 \n'agnostic': true \n'weights': [10, 10, 5, 5]"
    kind = 'fpn.proposal_target_layer.ProposalTargetLayer'
    with overrides({**SETTINGS, 'TRAIN.BBOX_NORMALIZE_STDS': (0.5, 0.5, 0.5, 0.5)}):
        tops = run_in_order(tmp_path, kind, param, [rois, objects, np.float32([[60, 60, 1]])], 5)
    assert tops[2].shape == (2, 8) and tops[1].tolist() == [3, 3]
    found = sorted(tops[2][:, 4:].tolist())
    np.testing.assert_allclose(found, [[-1, 0, 0, 0], [0, 0, 0, 0]], atol=1e-6)


def test_a_cascade_has_the_methods_that_know_objects():
    methods = {path.parts[-2] for path in files('own', NET, CLASSES)}
    assert methods == {'faster_rcnn_end2end', 'mask_rcnn_end2end'}
