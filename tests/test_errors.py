"""Errors of a detector by kind, worked by hand, and tools/explain.py."""

import json
import os
from types import SimpleNamespace

import explain
import numpy as np
import pytest
from tool_runs import run_main, settings

from datasets import own
from datasets.evaluators.errors import KINDS, class_errors, sizes
from utils.proposals import save_detections

A, B, C = 1, 2, 3
# image 0: an A at 0..9, a B at 40..49, a C at 80..89; image 1: an A at 0..9, a difficult A at 40..49
TRUTH = SimpleNamespace(
    images=np.array([0, 0, 0, 1, 1]),
    classes=np.array([A, B, C, A, A]),
    boxes=np.array([[0, 0, 9, 9], [40, 0, 49, 9], [80, 0, 89, 9], [0, 0, 9, 9], [40, 0, 49, 9]], np.float32),
    difficult=np.array([False, False, False, False, True]),
)
DETECTIONS = [
    (0, [0, 0, 9, 9], 0.9, 'right'),
    (0, [0, 0, 9, 8], 0.8, 'localisation'),  # found before
    (0, [0, 0, 9, 3], 0.7, 'localisation'),  # IoU 0.4
    (0, [40, 0, 49, 3], 0.6, 'similar'),
    (0, [80, 0, 89, 9], 0.5, 'other'),
    (0, [0, 50, 9, 59], 0.4, 'background'),
    (0, [9, 9, 18, 18], 0.3, 'background'),  # IoU 1 / 199
    (1, [40, 0, 49, 9], 0.2, 'ignored'),
]


def boxes_of(detections, images=2):
    rows = [[[*box, score] for image, box, score, _ in detections if image == i] for i in range(images)]
    return [np.array(of_image, np.float32).reshape(-1, 5) for of_image in rows]


def test_kinds_of_errors():
    nothing = boxes_of([])
    all_boxes = [nothing, boxes_of(DETECTIONS[::-1]), nothing, nothing]
    errors = class_errors(all_boxes, TRUTH, A, similar={A, B})
    assert [KINDS[kind] for kind in errors.kinds] == [kind for *_, kind in DETECTIONS]
    assert errors.objects.tolist() == [0, 3] and errors.found.tolist() == [True, False]
    assert errors.shares() == dict.fromkeys(KINDS[:-1], 0) | {'right': 0.5, 'localisation': 0.5}
    assert errors.ap == 0.5 and errors.precision[-1] == pytest.approx(1 / 7)
    assert errors.by_size(sizes(TRUTH, errors)) == {'small': (2, 0.5)}


def test_ap_without_a_kind_of_errors():
    """An error, then a right one, then another error and another right one."""
    detections = [(0, [0, 50, 9, 59], 0.9, ''), (0, [0, 0, 9, 9], 0.8, '')]
    detections += [(1, [80, 0, 89, 3], 0.7, ''), (1, [0, 0, 9, 9], 0.6, '')]
    nothing = boxes_of([])
    errors = class_errors([nothing, boxes_of(detections), nothing, nothing], TRUTH, A)
    assert [KINDS[kind] for kind in errors.kinds] == ['background', 'right', 'background', 'right']
    assert errors.ap == 0.5 and errors.ap_without('background') == 1 and errors.ap_without('other') == 0.5


def test_explain(monkeypatch, tmp_path, capsys):
    import make_toy

    path, _ = make_toy.write(str(tmp_path / 'toy'), 1, 3, seed=4)
    data = own.make(own.load(path), 'val')
    monkeypatch.setattr('datasets.factory.get_imdb', lambda name: data)
    all_boxes = [[np.zeros((0, 5), np.float32)] * 3 for _ in range(5)]
    for image, k, box in zip(data.truth.images, data.truth.classes, data.truth.boxes):
        all_boxes[k][image] = np.vstack([all_boxes[k][image], [[*box, 0.9]]]).astype(np.float32)
    first = data.truth.classes[0]
    all_boxes[first] = [np.float32([[0, 0, 3, 3, 0.95]])] * 3  # nothing but errors
    save_detections(str(tmp_path / 'detections.npz'), all_boxes)
    words = ['--imdb', 'toy_val', '--out', tmp_path / 'out', '--worst', '2', '--similar', 'circle,square']
    run_main(monkeypatch, explain.main, tmp_path, *words, *settings(tmp_path))
    report = json.loads((tmp_path / 'out' / 'errors.json').read_text())
    name = data.classes[first]
    assert report[name]['missed'] == 1 and report[name]['best']['background'] == 1 and report[name]['ap'] == 0
    assert all(row['ap'] == 1 for other, row in report.items() if other not in (name, 'worst'))
    kinds = [row['kind'] for row in report['worst']]
    assert kinds.count('background') == 2 and 1 <= kinds.count('missed') <= 2
    names = {row['file'] for row in report['worst']} | {'errors.json', 'curves.png'}
    assert set(os.listdir(tmp_path / 'out')) == names
    assert name in capsys.readouterr().out
    with pytest.raises(ValueError, match='--similar circle,cube: no class cube; there are .*square'):
        explain.groups(['circle,cube'], {name: k for k, name in enumerate(data.classes)})
