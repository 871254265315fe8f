"""tests/replay_detnet.py: DetNet-59 with FPN, its answers and how it learns; less the head, whose weights take longest."""

from pathlib import Path

import numpy as np
import pytest

import replay_detnet as replay

RECORDED = Path(__file__).resolve().parent / 'golden' / 'detnet' / 'recorded.npz'
pytestmark = pytest.mark.usefixtures('two_threads')


def test_the_recorded_detector():
    with np.load(RECORDED) as file:
        checks = replay.replay({key: file[key] for key in file.files}, head=False)
    assert [check for check in checks if not check.holds] == []
    names = [check.what for check in checks]
    assert {'c6', 'p2', 'score_4', 'deltas_0', 'fc', 'grad/conv1.weight'} <= set(names)
    assert len(names) == len(set(names)) == 244
