"""Worlds of two and three processes train as one does: the short form of world_training.py."""

import json
import os
import subprocess
import sys

import pytest
import world_training
from replay_e2e import Replay
from world_training import LOSS, RECORDING, STAGES, WEIGHTS, WORLDS, compare, differences

ITERATIONS = 3


@pytest.fixture(scope='module')
def worlds(tmp_path_factory):
    """The folder of what worlds of one, two and three did, one folder each."""
    out = tmp_path_factory.mktemp('worlds')
    command = [world_training.__file__, '--iterations', str(ITERATIONS), '--out', str(out)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize('count', WORLDS)
def test_workers_draw_and_learn_what_one_does(worlds, count):
    lines = list(compare(f'{worlds}/1', f'{worlds}/{count}', count, ITERATIONS))
    assert len(lines) == 2 and all(holds for _, holds in lines), lines


@pytest.mark.parametrize('count', WORLDS)
def test_a_signal_at_one_worker_stops_all_after_the_same_iteration(worlds, count):
    told = json.loads((worlds / f'{count}' / 'told.json').read_text())
    assert [stop for stop, _, _ in told] == [
        'stopped after iteration 2 of 3; the same command goes on from there'
    ] * count


@pytest.mark.parametrize('count', WORLDS)
def test_a_loss_that_is_not_finite_names_its_worker_and_the_last_state_stays(worlds, count):
    told = json.loads((worlds / f'{count}' / 'told.json').read_text())
    said = f'worker {count - 1}, iteration 2: loss_bbox is nan on {told[-1][2]}'
    assert [fault for _, fault, _ in told] == [said] * count
    left = [name for name in os.listdir(worlds / f'{count}' / 'spoiled') if 'resume' in name]
    assert sorted(left) == [
        f'tiny_fast_rcnn_resume_iter_1.{kind}' for kind in ('caffemodel', 'npz', 'solverstate')
    ]


@pytest.mark.parametrize('count', WORLDS)
def test_workers_go_on_where_they_stopped(worlds, count):
    loss, weight = differences(f'{worlds}/{count}/again', f'{worlds}/{count}/{STAGES[0]}', ITERATIONS)
    assert loss <= 1e-6 and weight <= 1e-6


@pytest.mark.parametrize('count', WORLDS)
def test_one_process_goes_on_with_what_several_began(worlds, count, monkeypatch, caplog):
    monkeypatch.chdir(RECORDING)
    caplog.set_level('INFO')
    stopped = f'{worlds}/{count}/stopped'
    run = Replay(RECORDING, str(worlds))
    world_training.train(run, STAGES[0], stopped, ITERATIONS, TRAIN__SEED_EACH_IMAGE=False)
    assert 'Going on from iteration 2' in caplog.messages
    loss, weight = differences(stopped, f'{worlds}/1/{STAGES[0]}', ITERATIONS)
    assert loss <= LOSS and weight <= WEIGHTS
