"""Average precision against a sum done by hand and against a plain loop."""

import numpy as np
import pytest

from datasets.evaluators.average_precision import average_precision, flat, voc_ap


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(area) - width * height)


def plain_eval(det_images, det_boxes, scores, gt_images, gt_boxes, gt_difficult, use_07_metric):
    """The metric as one reads it: detection by detection, then threshold by threshold."""
    taken, hits = set(), []
    for d in sorted(range(len(scores)), key=lambda d: -scores[d]):
        mine = [g for g in range(len(gt_images)) if gt_images[g] == det_images[d]]
        best = max(mine, key=lambda g: iou(det_boxes[d], gt_boxes[g]), default=None)
        if best is None or not iou(det_boxes[d], gt_boxes[best]) > 0.5:
            hits.append(False)
        elif not gt_difficult[best]:
            hits.append(best not in taken)
            taken.add(best)
    total = sum(not flag for flag in gt_difficult)
    points = [(sum(hits[:n]) / total, sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]
    if use_07_metric:
        return sum(max([p for r, p in points if r >= t], default=0) for t in np.arange(0, 1.1, 0.1)) / 11
    recalls = sorted({r for r, _ in points if r > 0})
    return sum(
        (r - before) * max(p for r2, p in points if r2 >= r) for before, r in zip([0.0] + recalls, recalls)
    )


def test_ap_by_hand():
    """Of three objects two are found, at the 1st and the 3rd place: precision 1, 1/2, 2/3 at recall 1/3, 1/3,
    2/3."""
    gt_boxes = [[0, 0, 9, 9], [20, 0, 29, 9], [0, 0, 9, 9]]
    det_boxes = [[0, 0, 9, 9], [40, 0, 49, 9], [20, 0, 29, 9]]
    rec, prec, ap = average_precision([0, 0, 0], det_boxes, [0.9, 0.8, 0.7], [0, 0, 1], gt_boxes, [False] * 3)
    np.testing.assert_allclose(rec, [1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(prec, [1, 1 / 2, 2 / 3])
    assert ap == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # recall 0 .1 .2 .3: precision 1; .4 .5 .6: 2/3; .7 to 1: 0
    assert voc_ap(rec, prec, use_07_metric=True) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_wrong():
    prec = average_precision([0, 0], [[0, 0, 9, 9]] * 2, [0.9, 0.8], [0], [[0, 0, 9, 9]], [False])[1]
    np.testing.assert_allclose(prec, [1, 1 / 2])


def test_a_difficult_object_counts_neither_way():
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9]]
    rec, prec, ap = average_precision([0, 0], boxes, [0.9, 0.8], [0, 0], boxes, [True, False])
    np.testing.assert_allclose(rec, [0, 1])
    np.testing.assert_allclose(prec, [0, 1])
    assert ap == 1


def test_an_overlap_of_exactly_a_half_does_not_match():
    """10 pixels of 20: IoU 1/2."""
    assert average_precision([0], [[0, 0, 9, 0]], [1], [0], [[0, 0, 19, 0]], [False])[2] == 0
    assert average_precision([0], [[0, 0, 10, 0]], [1], [0], [[0, 0, 19, 0]], [False])[2] == 1


def test_without_objects_or_detections():
    assert np.isnan(average_precision([0], [[0, 0, 9, 9]], [1], [], np.zeros((0, 4)), [])[2])
    assert average_precision([], np.zeros((0, 4)), [], [0], [[0, 0, 9, 9]], [False])[2] == 0
    assert (
        average_precision([], np.zeros((0, 4)), [], [0], [[0, 0, 9, 9]], [False], use_07_metric=True)[2] == 0
    )


@pytest.mark.parametrize('use_07_metric', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_agrees_with_a_plain_loop(seed, use_07_metric):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 60, (30, 2))
    gt_boxes = np.hstack([corners, corners + rng.integers(10, 40, (30, 2))])
    gt_images, gt_difficult = rng.integers(0, 6, 30), rng.random(30) < 0.2
    source = rng.integers(0, 30, 150)
    det_boxes = gt_boxes[source] + rng.integers(-7, 8, (150, 4))
    det_images, scores = gt_images[source], rng.permutation(150) / 150
    arguments = det_images, det_boxes, scores, gt_images, gt_boxes, gt_difficult
    expected = plain_eval(*arguments, use_07_metric)
    assert 0.1 < expected < 1
    assert average_precision(*arguments, use_07_metric=use_07_metric)[2] == pytest.approx(expected, abs=1e-12)


def test_detections_of_a_class_are_joined_whatever_holds_them():
    images, rows = flat(
        [[], np.zeros((0, 5), 'f'), np.full((2, 5), 0.1, 'f'), [[1, 2, 3, 4, 5]], [1, 2, 3, 4, 6]]
    )
    assert images.tolist() == [2, 2, 3, 4] and rows.dtype == float
    assert rows[:2].tolist() == [[np.float32(0.1).item()] * 5] * 2 and rows[2:, 4].tolist() == [5, 6]
    images, rows = flat([[], []])
    assert images.shape == (0,) and rows.shape == (0, 5)
