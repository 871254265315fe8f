"""tests/replay_torchvision.py: a recorded detector of torchvision, its answers and how it learns."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import replay_torchvision as replay
from replays import cases_of, digest, off, share

RECORDED = Path(__file__).resolve().parent / 'golden' / 'torchvision' / 'recorded.npz'
pytestmark = pytest.mark.usefixtures('two_threads')


def test_a_recorded_detector():
    checks = replay.replay(cases_of(RECORDED)['faster_r34_one'])
    assert [check for check in checks if not check.holds] == []
    names = [check.what for check in checks]
    assert 'feature_pool' in names and 'detections of image 0' in names and 'loss_rpn_box_reg' in names
    learned = [name for name in names if name.startswith('grad/')]
    assert len([name for name in learned if name.endswith(', of the engine')]) == 59
    assert len(learned) == 118 and len(checks) == 141


def test_a_recorded_mask_rcnn():
    checks = replay.replay(cases_of(RECORDED)['mask_r18'])
    assert [check for check in checks if not check.holds] == []
    names = [check.what for check in checks]
    assert {'masks of image 1', 'areas of image 1', 'loss_mask'} <= set(names)
    learned = {f'mask_head.{i}.0' for i in range(4)} | {
        'mask_predictor.conv5_mask',
        'mask_predictor.mask_fcn_logits',
    }
    blobs = {f'grad/roi_heads.{name}.{blob}' for name in learned for blob in ('weight', 'bias')}
    assert blobs <= set(names) and len(checks) == 144


def test_boxes_that_are_not_met():
    one, other = np.array([[0, 0, 10, 10], [5, 5, 9, 9]]), np.array([[0, 0, 10, 10.01]])
    assert replay.unmet([one], [one]) == 0 and replay.unmet([one], [other]) == 0.5
    assert replay.unmet([one, [1, 2]], [one, [1, 2.01]]) == 0.5
    assert replay.unmet([one[:0]], [one[:0]]) == 0 and replay.unmet([one[:0]], [one]) == 1


def test_what_is_zero_must_be_zero():
    """As losses and gradients of boxes are where no image has an object."""
    assert (share(0, 0), share(1e-9, 0), share(1, 4)) == (0, np.inf, 0.25)
    nothing = digest(np.zeros(9))
    assert off(np.zeros(9), nothing) == 0 and off(np.full(9, 1e-9), nothing) == np.inf


def test_cases_that_no_net_is_for(tmp_path, monkeypatch, capsys):
    """Each is a line, and the status says that it does not hold; a case that is not there is refused."""
    kinds = {
        'deep': {'kind': 'mask', 'backbone': 'resnet200'},
        'wide': {'kind': 'faster', 'backbone': 'resnet152'},
    }
    path = str(tmp_path / 'r.npz')
    np.savez(path, **{f'{case}/settings': json.dumps(settings) for case, settings in kinds.items()})
    monkeypatch.setattr(sys, 'argv', ['replay', path])
    with pytest.raises(SystemExit, match='True'):
        replay.main()
    said = capsys.readouterr().out
    wanted = 'deep: resnet200 is no backbone of a net here\nwide: resnet152 is no backbone of a net here\n'
    assert said == wanted
    monkeypatch.setattr(sys, 'argv', ['replay', path, '--only', 'other'])
    with pytest.raises(SystemExit, match='2'):
        replay.main()
    assert 'has no case other; it has deep, wide' in capsys.readouterr().err
