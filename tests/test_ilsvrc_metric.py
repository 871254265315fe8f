"""ILSVRC DET's official metric: cases worked by hand, and what the development kit answered."""

import os

import numpy as np
import pytest

import replay_metrics
from replays import cases_of
from datasets.evaluators.imagenet import official_average_precision, thresholds

RECORDED = os.path.join(os.path.dirname(__file__), 'golden', 'metrics', 'ilsvrc_det.npz')
LARGE, AWAY = [1, 1, 100, 100], [200, 200, 299, 299]
SMALL = [11, 11, 20, 20]  # 10 x 10: an IoU of 100 / 400


def ap(detections, objects, blacklisted=()):
    """detections: (image, box, score); objects: (image, box)."""
    images, boxes, scores = zip(*detections) if detections else ([], [], [])
    of, corners = zip(*objects) if objects else ([], [])
    return official_average_precision(images, boxes, scores, of, corners, blacklisted)


def test_thresholds():
    """w x h of 10 x 10, 20 x 5, 40 x 40 (0.64), 1 x 1."""
    boxes = np.array([SMALL, [0, 0, 19, 4], [0, 0, 39, 39], [5, 5, 5, 5]])
    assert thresholds(boxes) == pytest.approx([1 / 4, 100 / (30 * 15), 1 / 2, 1 / 121])


HALF = [1, 1, 100, 50]
BY_HAND = {
    'an overlap of exactly a half matches': ([(0, HALF, 0.9)], [(0, LARGE)], (), 1),
    'a row less does not': ([(0, [1, 1, 100, 49], 0.9)], [(0, LARGE)], (), 0),
    'a small object is found with a quarter': ([(0, [6, 6, 25, 25], 0.9)], [(0, SMALL)], (), 1),
    'and not with less': ([(0, [6, 6, 25, 26], 0.9)], [(0, SMALL)], (), 0),
    'a second detection of an object is wrong': (
        [(0, LARGE, 0.9), (0, LARGE, 0.8), (1, LARGE, 0.7)],
        [(0, LARGE), (1, LARGE)],
        (),
        (1 + 2 / 3) / 2,
    ),
    'it finds the next best object where that is not found yet': (
        [(0, LARGE, 0.9), (0, LARGE, 0.8)],
        [(0, LARGE), (0, [1, 1, 100, 90])],
        (),
        1,
    ),
    'of equals in an image the earlier one comes first': (
        [(0, LARGE, 0.9), (0, AWAY, 0.9)],
        [(0, LARGE)],
        (),
        1,
    ),
    'of equals in two images that of the first': ([(1, LARGE, 0.9), (0, AWAY, 0.9)], [(1, LARGE)], (), 1 / 2),
    'detections in a blacklisted image are not wrong, its objects not missed': (
        [(0, AWAY, 0.9), (0, LARGE, 0.8), (1, LARGE, 0.7)],
        [(0, LARGE), (0, SMALL), (1, LARGE)],
        [0, 0],
        1,
    ),
    'all objects blacklisted: no AP': ([(1, LARGE, 0.9)], [(0, LARGE)], [0], np.nan),
    'no object: no AP': ([(0, LARGE, 0.9)], [], (), np.nan),
    'no detection: 0': ([], [(0, LARGE)], (), 0),
    'all detections blacklisted: 0': ([(0, LARGE, 0.9)], [(1, LARGE)], [0], 0),
    'a box without pixels is wrong': ([(0, [50, 50, 40, 40], 0.9), (0, LARGE, 0.8)], [(0, LARGE)], (), 1 / 2),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_by_hand(name):
    *given, wanted = BY_HAND[name]
    assert ap(*given) == pytest.approx(wanted, nan_ok=True, abs=1e-12)


def test_the_recorded_answers(capsys):
    cases = cases_of(RECORDED)
    assert [replay_metrics.replay(name, case) for name, case in cases.items()] == [False, False]
    assert capsys.readouterr().out.count('7 of 7 hold') == 2


def test_a_wrong_answer_is_told(capsys):
    case = cases_of(RECORDED)['a']
    case['ap'] = case['ap'] + [0, 0, 1e-8, 0, 0, 0, 0]
    assert replay_metrics.replay('a', case)
    assert 'a: ap 3: ' in capsys.readouterr().out


def test_a_class_without_objects_is_0_or_nan_in_a_recording(capsys):
    case = dict(cases_of(RECORDED)['a'], K=np.array([9]))
    case['ap'] = np.append(case['ap'], [0, np.nan])
    assert not replay_metrics.replay('a', case)
    case['ap'][-1] = 0.5
    assert replay_metrics.replay('a', case)
