"""Open Images' metric: cases worked by hand, and a plain loop."""

import os

import numpy as np
import pytest

import replay_metrics
from replays import cases_of
from datasets.evaluators.open_images import Wanted, average_precision, class_aps

RECORDED = os.path.join(os.path.dirname(__file__), 'golden', 'metrics', 'open_images.npz')
# Boxes of a 10 x 10 image; OBJECT and OTHER lie side by side in CROWD, HALF is a half of OBJECT and CORNER a third of it
OBJECT, OTHER, CROWD = [0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 8, 4]
HALF, CORNER, AWAY = [0, 0, 4, 2], [0, 0, 4, 4 / 3], [6, 6, 9, 9]


def ap(detections, objects, weight=1.0):
    """detections: (image, box, score); objects: (image, box, whether a group)."""
    images, boxes, scores = zip(*detections) if detections else ([], [], [])
    of, corners, groups = zip(*objects) if objects else ([], [], [])
    return average_precision(images, boxes, scores, of, corners, groups, weight)


CHALLENGE, V2 = 1.0, 0.0
BY_HAND = {
    'an overlap of exactly a half matches': ([(0, HALF, 0.9)], [(0, OBJECT, False)], CHALLENGE, 1),
    'a smaller one does not': ([(0, CORNER, 0.9)], [(0, OBJECT, False)], CHALLENGE, 0),
    'a second detection of an object is wrong; its recall is there already': (
        [(0, OBJECT, 0.9), (0, OBJECT, 0.8), (1, OBJECT, 0.7)],
        [(0, OBJECT, False), (1, OBJECT, False)],
        CHALLENGE,
        (1 + 2 / 3) / 2,
    ),
    'a group that is hit is one right detection': ([(0, OBJECT, 0.9)], [(0, CROWD, True)], CHALLENGE, 1),
    'of several in a group the best counts, no other': (
        [(0, OBJECT, 0.5), (0, OTHER, 0.9), (0, HALF, 0.7), (1, AWAY, 0.6)],
        [(0, CROWD, True), (1, OBJECT, False)],
        CHALLENGE,
        1 / 2,  # right at .9, wrong at .6
    ),
    'a group that is missed is one object missed': (
        [(0, OBJECT, 0.9)],
        [(0, OBJECT, False), (1, CROWD, True)],
        CHALLENGE,
        1 / 2,
    ),
    'two boxes in a group, an object in it: the object first, what is left is in the group': (
        [(0, OBJECT, 0.9), (0, OTHER, 0.8)],
        [(0, OBJECT, False), (0, CROWD, True)],
        CHALLENGE,
        1,
    ),
    'the second find of an object that lies in a group is no fault': (
        [(0, OBJECT, 0.9), (0, OBJECT, 0.8), (0, AWAY, 0.7)],
        [(0, OBJECT, False), (0, CROWD, True)],
        CHALLENGE,
        1,
    ),
    'a box that holds the group, and more, is wrong: less than half of it lies in the group': (
        [(0, [0, 0, 8, 10], 0.9), (0, OBJECT, 0.8)],
        [(0, CROWD, True)],
        CHALLENGE,
        1 / 2,  # wrong at .9, right at .8
    ),
    'just half of it in the group is enough': ([(0, [0, 0, 8, 8], 0.9)], [(0, CROWD, True)], CHALLENGE, 1),
    'of two groups a box is in that which has more of it, and finds no other': (
        [(0, OBJECT, 0.9)],
        [(0, CROWD, True), (0, HALF, True)],
        CHALLENGE,
        1 / 2,
    ),
    'a group found with the score 0 is not found, and that detection does not count': (
        [(0, OBJECT, 0.0), (1, OBJECT, 0.5)],
        [(0, CROWD, True), (1, OBJECT, False)],
        CHALLENGE,
        1 / 2,
    ),
    'V2: what is in a group counts neither way, nor does the group': (
        [(0, OTHER, 0.9), (1, OBJECT, 0.5)],
        [(0, CROWD, True), (1, OBJECT, False)],
        V2,
        1,
    ),
    'V2: with groups alone there is no AP': ([(0, OTHER, 0.9)], [(0, CROWD, True)], V2, np.nan),
    'a group of half the weight': (
        [(0, OBJECT, 0.9), (1, AWAY, 0.7)],
        [(0, CROWD, True), (1, OBJECT, False)],
        0.5,
        (0.5 / 1.5) * 1,
    ),
    'a class without boxes has no AP': ([(0, OBJECT, 0.9)], [], CHALLENGE, np.nan),
    'a class without detections has the AP 0': ([], [(0, OBJECT, False)], CHALLENGE, 0),
    'a box without area is no detection': (
        [(0, [0, 0, 4, 0], 0.9), (0, OBJECT, 0.8)],
        [(0, OBJECT, False)],
        CHALLENGE,
        1,
    ),
    'of equals in an image the later one finds the object, and the earlier is ranked before it': (
        [(0, HALF, 0.9), (0, OBJECT, 0.9)],
        [(0, OBJECT, False)],
        CHALLENGE,
        1 / 2,
    ),
    'of equals in two images that of the later one is ranked first': (
        [(0, OBJECT, 0.9), (1, AWAY, 0.9)],
        [(0, OBJECT, False)],
        CHALLENGE,
        1 / 2,
    ),
    'a detection looks at the first of two objects that it overlaps alike': (
        [(0, OBJECT, 0.9), (0, OBJECT, 0.8)],
        [(0, OBJECT, False), (0, OBJECT, False)],
        CHALLENGE,
        1 / 2,
    ),
    'an object of another image is not found': ([(1, OBJECT, 0.9)], [(0, OBJECT, False)], CHALLENGE, 0),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_by_hand(name):
    detections, objects, weight, wanted = BY_HAND[name]
    assert ap(detections, objects, weight) == pytest.approx(wanted, nan_ok=True, abs=1e-12)


def test_detections_of_what_is_not_known_of_an_image_do_not_count():
    """Of four images only 0 and 1 are known to have, or not to have, the class: 0 by its object, 1 by its label."""
    wanted = Wanted(*map(np.array, ([0], [1], [OBJECT], [False])))
    rows = [np.array([[*OBJECT, score]]) for score in (0.5, 0.6, 0.9, 0.8)]
    nothing = [np.zeros((0, 5))] * 4
    classes = '__background__', 'cat', 'dog'
    verified = np.array([1, 2]), np.array([1, 2])
    assert class_aps([nothing, rows, rows], wanted, classes, verified) == {'cat': 1 / 2}
    assert class_aps([nothing, rows, rows], wanted, classes) == {'cat': 1 / 4}
    assert class_aps([nothing, rows, rows], wanted, classes, (np.array([]), np.array([]))) == {'cat': 1}


def area(box):
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def common(a, b):
    return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def plain(detections, objects, weight):
    """The metric as one reads it, image by image and detection by detection."""
    ranked = []
    for image in sorted({d[0] for d in detections}):
        mine = sorted(
            [d[1:] for d in detections if d[0] == image and area(d[1]) > 0][::-1], key=lambda d: -d[1]
        )
        singles = [box for of, box, group in objects if of == image and not group]
        groups = [box for of, box, group in objects if of == image and group]
        taken, best = set(), [0] * len(groups)
        for box, score in mine:
            overlaps = [common(box, g) / (area(box) + area(g) - common(box, g)) for g in singles]
            g = int(np.argmax(overlaps)) if singles else None
            if singles and overlaps[g] >= 0.5 and g not in taken:
                taken.add(g)
                ranked.append((score, 1))
                continue
            shares = [common(box, g) / area(box) for g in groups]
            if groups and max(shares) >= 0.5:
                g = int(np.argmax(shares))
                best[g] = max(best[g], score)
            else:
                ranked.append((score, 0))
        ranked += [(score, weight) for score in best if score > 0 and weight > 0]
    ranked = sorted(ranked[::-1], key=lambda one: -one[0])
    total = sum(weight if group else 1 for _, _, group in objects)
    right = np.cumsum([hit for _, hit in ranked])
    precision = right / (right + np.cumsum([hit <= 0 for _, hit in ranked]))
    recalls = np.append(0, right / total)
    return sum((recalls[i + 1] - recalls[i]) * max(precision[i:]) for i in range(len(ranked)))


@pytest.mark.parametrize('weight', [CHALLENGE, V2, 0.5])
@pytest.mark.parametrize('seed', range(4))
def test_agrees_with_a_plain_loop(seed, weight):
    """Of 40 objects and 200 detections near them, many with equal scores."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 30, (40, 2))
    boxes = np.hstack([corners, corners + rng.integers(5, 20, (40, 2))])
    of, groups, source = rng.integers(0, 8, 40), rng.random(40) < 0.3, rng.integers(0, 40, 200)
    objects = list(zip(of.tolist(), boxes.tolist(), groups.tolist()))
    moved = (boxes[source] + rng.integers(-4, 5, (200, 4))).tolist()
    detections = list(zip(of[source].tolist(), moved, (rng.integers(0, 60, 200) / 60).tolist()))
    detections = sorted(detections, key=lambda one: one[0])
    wanted = plain(detections, objects, weight)
    assert 0.05 < wanted < 1
    assert ap(detections, objects, weight) == pytest.approx(wanted, abs=1e-12)


def test_the_recorded_answers(capsys):
    cases = cases_of(RECORDED)
    assert [replay_metrics.replay(name, case) for name, case in cases.items()] == [False]
    assert capsys.readouterr().out.count('14 of 14 hold') == 2


def test_a_wrong_answer_is_told(capsys):
    case = cases_of(RECORDED)['b']
    case['v2_ap'] = case['v2_ap'] + 1e-8
    assert replay_metrics.replay('b', case)
    assert 'v2_ap 2: ' in capsys.readouterr().out
    case['challenge_ap'] = np.nan_to_num(case['challenge_ap'])  # an AP where there is none
    assert replay_metrics.replay('b', case)
