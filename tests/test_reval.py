"""tools/reval.py: detections of either form are evaluated anew, with NMS or Soft-NMS if asked for."""

import pickle

import numpy as np
import pytest
import reval
from tool_runs import VAL, run_main, settings

from datasets.imagenet import imagenet
from utils.proposals import save_detections

BOX = [10, 10, 60, 60]


@pytest.fixture
def evaluated(monkeypatch):
    """What evaluate_detections was given: (all_boxes, config)."""
    calls = []
    monkeypatch.setattr(
        imagenet, 'evaluate_detections', lambda self, boxes, folder: calls.append((boxes, dict(self.config)))
    )
    return calls


@pytest.mark.parametrize('form', ['npz', 'pkl', 'original'])
def test_either_form(monkeypatch, tmp_path, evaluated, form):
    dets = np.array([[*BOX, 0.9], [*BOX, 0.5]], np.float32)
    all_boxes = [[[]], [dets]]
    if form == 'original':  # written by Python 2
        (tmp_path / 'detections.pkl').write_bytes(pickle.dumps(all_boxes, 2))
    else:
        save_detections(str(tmp_path / f'detections.{form}'), all_boxes)
    words = [tmp_path, '--imdb', VAL]
    run_main(monkeypatch, reval.main, *words, *settings(tmp_path))
    run_main(monkeypatch, reval.main, *words, '--nms', '--comp', *settings(tmp_path))
    soft = settings(tmp_path, 'TEST.SOFT_NMS', 'gaussian')
    run_main(monkeypatch, reval.main, *words, '--nms', '--matlab', *soft)
    scores = [boxes[1][0][:, 4].tolist() for boxes, _ in evaluated]
    assert scores == [pytest.approx([0.9, 0.5]), pytest.approx([0.9]), pytest.approx([0.9, 0.5 * np.exp(-2)])]
    assert [(config['competition'], config['matlab_eval']) for _, config in evaluated] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_the_flags_of_the_original():
    args = reval.parse_args(['out', '--matlab', '--comp', '--nms'])
    assert (args.output_dir, args.imdb, args.matlab, args.comp, args.nms) == (
        'out',
        'voc_2007_test',
        True,
        True,
        True,
    )
