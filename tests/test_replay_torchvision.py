"""tests/replay_torchvision.py: a recorded detector of torchvision, its answers and how it learns."""

from pathlib import Path

import numpy as np
import pytest

import replay_torchvision as replay

RECORDED = Path(__file__).resolve().parent / 'golden' / 'torchvision' / 'recorded.npz'


@pytest.fixture(scope='module')
def recorded():
    return replay.cases_of(RECORDED)['faster_r34_one']


def test_a_recorded_detector(recorded):
    checks = replay.replay(recorded)
    assert [check for check in checks if not check.holds] == []
    names = [check.what for check in checks]
    assert 'feature_pool' in names and 'detections of image 0' in names and 'loss_rpn_box_reg' in names
    assert len([name for name in names if name.startswith('grad/')]) == 59 and len(checks) == 82


def test_boxes_that_are_not_met():
    one, other = np.array([[0, 0, 10, 10], [5, 5, 9, 9]]), np.array([[0, 0, 10, 10.01]])
    assert replay.unmet([one], [one]) == 0 and replay.unmet([one], [other]) == 0.5
    assert replay.unmet([one, [1, 2]], [one, [1, 2.01]]) == 0.5
    assert replay.unmet([one[:0]], [one[:0]]) == 0 and replay.unmet([one[:0]], [one]) == 1
