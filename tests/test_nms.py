"""Non-maximum suppression: three rules, each against a plain loop; overlaps against a plain loop."""

import numpy as np
import pytest
import torch
from caffe.types import boxes as box_lib

from fast_rcnn.config import overrides
from fast_rcnn.nms_wrapper import class_nms, nms as wrapped_nms
from nms.cpu_nms import cpu_class_nms, cpu_nms, numpy_class_nms, numpy_cpu_nms
from nms.gpu_nms import gpu_class_nms, gpu_nms
from nms.py_cpu_nms import py_cpu_nms
from nms.soft_nms import soft_nms
from utils.bbox import bbox_overlaps as numpy_overlaps
from utils.cython_bbox import bbox_overlaps

compiled = pytest.mark.skipif(
    box_lib.nms_cpu is None, reason='kernels are not built (caffe-fast-rcnn/python/setup.py)'
)


def random_dets(count, seed, size=60):
    rng = np.random.RandomState(seed)
    corners = rng.randint(0, size, (count, 2)) + rng.rand(count, 2)
    return np.hstack(
        [corners, corners + rng.rand(count, 2) * 40, rng.permutation(count)[:, None] / count]
    ).astype(np.float32)


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
    inter = width * height
    area_a, area_b = ((x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b))
    return inter / (area_a + area_b - inter)


def loop_nms(dets, thresh, at_equality):
    keep = []
    for i in np.argsort(-dets[:, 4]):
        overlaps = [iou(dets[i].astype(float), dets[j].astype(float)) for j in keep]
        if not any(o > thresh or (at_equality and o == thresh) for o in overlaps):
            keep.append(i)
    return keep


@pytest.mark.parametrize(
    'rule, at_equality', [(cpu_nms, True), (numpy_cpu_nms, True), (gpu_nms, False), (py_cpu_nms, False)]
)
def test_against_a_loop(rule, at_equality):
    for seed, count in enumerate([0, 1, 2, 60, 200]):
        dets = random_dets(count, seed)
        assert list(rule(dets, 0.4)) == loop_nms(dets, 0.4, at_equality)


@pytest.mark.parametrize(
    'rule, kept', [(cpu_nms, [0]), (numpy_cpu_nms, [0]), (gpu_nms, [0, 1]), (py_cpu_nms, [0, 1])]
)
def test_at_equality(rule, kept):
    dets = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 4, 0.8]], np.float32)  # IoU 50 / 100
    assert list(rule(dets, 0.5)) == kept


@pytest.mark.parametrize('rule', [cpu_nms, numpy_cpu_nms, gpu_nms, py_cpu_nms])
def test_of_equal_scores_the_first_is_kept(rule):
    """As of RoIs that are pooled alike, best proposal first: in a sort that is not stable another one may win."""
    box = np.array([10, 10, 50, 50])
    dets = np.array([[*(box + i % 5 + 100 * (i // 5)), 0.25 + i // 50 * 0.5] for i in range(100)], np.float32)
    assert list(rule(dets, 0.4)) == [*range(50, 100, 5), *range(0, 50, 5)]


@compiled
def test_compiled_equals_numpy():
    for seed in range(20):
        dets = random_dets(300, seed)
        dets[:, :4] = dets[:, :4].round(seed % 3)  # makes exact ties of IoU and threshold
        dets[::7, 4] = dets[0, 4]
        for thresh in 0.3, 0.5, 0.7:
            assert cpu_nms(dets, thresh) == numpy_cpu_nms(dets, thresh)


@compiled
def test_a_limit_ends_where_it_is_met():
    for seed, count in enumerate([1, 64, 65, 128, 129, 700]):
        dets = random_dets(count, seed)
        kept = loop_nms(dets, 0.7, True)
        for limit in 0, 1, 63, 64, 65, 200:
            assert cpu_nms(dets, 0.7, limit) == kept[: limit or None]


@compiled
@pytest.mark.parametrize('offset', [0, 1])
def test_the_compiled_loop_gives_what_torch_does(monkeypatch, offset):
    strange = [[9, 9, 0, 0], [5, 5, 5, 5], [5, 5, 5, 5], [4, 9, 8, 9], [0, 0, np.inf, 9], [0, 0, np.nan, 9]]
    starts = [0, 150, 150, 300, 306]
    for seed in range(6):
        boxes = torch.from_numpy(random_dets(300, seed)[:, :4].round(seed % 3))
        boxes = torch.cat([boxes, torch.tensor(strange, dtype=torch.float32)])
        found = []
        for module in box_lib.nms_cpu, None:
            with monkeypatch.context() as patch:
                patch.setattr(box_lib, 'nms_cpu', module)
                kept = [
                    box_lib.nms(boxes, t, offset, limit=n) for t in (0.3, 0.5, 0.7) for n in (None, 1, 50)
                ]
                found.append([k.tolist() for k in [*kept, box_lib.class_nms(boxes, starts, 0.4, offset)]])
        assert found[0] == found[1] and min(map(len, found[0])) == 1


@pytest.mark.parametrize(
    'together, alone', [(cpu_class_nms, cpu_nms), (numpy_class_nms, numpy_cpu_nms), (gpu_class_nms, gpu_nms)]
)
def test_classes_in_one_call_are_what_each_is_by_itself(together, alone):
    for seed in range(6):
        starts = np.cumsum([0, 0, 1, 40, 0, 70, 2, 100, 0])
        dets = random_dets(starts[-1], seed)
        dets[:, :4] = dets[:, :4].round(seed % 3)
        dets[::5, 4] = 0.5  # equal scores: whose turn it is depends on the sort
        kept = together(dets, starts, 0.4)
        wanted = [begin + i for begin, end in zip(starts, starts[1:]) for i in alone(dets[begin:end], 0.4)]
        assert kept.dtype == np.intp and kept.tolist() == wanted and 20 < len(kept) < len(dets)
    assert together(dets[:0], [0], 0.4).tolist() == together(dets[:0], [0, 0, 0], 0.4).tolist() == []


def test_wrapper_takes_the_cpu_rule_where_asked():
    dets = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 4, 0.8]], np.float32)
    assert wrapped_nms(dets[:0], 0.5) == []
    assert wrapped_nms(dets, 0.5, force_cpu=True) == [0]
    with overrides({'USE_GPU_NMS': False}):
        assert wrapped_nms(dets, 0.5) == [0]
        assert class_nms(dets[[0, 1, 1]], [0, 2, 3], 0.5).tolist() == [0, 2]


@pytest.mark.parametrize('overlaps', [bbox_overlaps, numpy_overlaps])
def test_overlaps(overlaps):
    a, b = random_dets(40, 1)[:, :4], random_dets(30, 2)[:, :4]
    expected = [[iou(x, y) for y in b.astype(float)] for x in a.astype(float)]
    np.testing.assert_array_equal(overlaps(a, b), expected)
    assert overlaps(a[:0], b).shape == (0, 30) and overlaps(a, b[:0]).shape == (40, 0)
    assert overlaps([[0, 0, 9, 9]], [[10, 0, 19, 9]])[0, 0] == 0


def loop_soft_nms(dets, decay, thresh, sigma, least):
    left, kept = [list(map(float, row)) for row in dets], []
    while left:
        best = max(left, key=lambda row: row[4])
        left.remove(best)
        kept.append(best)
        for row in left:
            overlap = iou(best, row)
            if decay == 'gaussian':
                row[4] *= np.exp(-overlap * overlap / sigma)
            elif overlap > thresh:
                row[4] *= 1 - overlap
        left = [row for row in left if row[4] >= least]
    return kept


@pytest.mark.parametrize('decay', ['linear', 'gaussian'])
@pytest.mark.parametrize('count', [0, 1, 2, 60])
def test_soft_nms_against_a_loop(decay, count):
    dets = random_dets(count, count) + np.array([0, 0, 0, 0, 0.01], np.float32)
    for thresh, sigma, least in (0.3, 0.5, 0.001), (0.6, 0.1, 0.2):
        loop = loop_soft_nms(dets[dets[:, 4] >= least], decay, thresh, sigma, least)
        left = soft_nms(dets, decay, thresh, sigma, least)
        assert left.dtype == np.float32 and left.shape == (len(loop), 5)
        np.testing.assert_allclose(left, np.array(loop).reshape(-1, 5), rtol=1e-6)
    assert (dets == random_dets(count, count) + np.array([0, 0, 0, 0, 0.01], np.float32)).all()


def test_soft_nms_knows_two_decays():
    with pytest.raises(ValueError, match="linear.*gaussian.*'hard'"):
        soft_nms(random_dets(2, 0), 'hard')
