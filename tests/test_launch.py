"""caffe.launch: worlds of workers, what they agree on, and what ends them. The workers run `world` below."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caffe import launch

ROOT = Path(__file__).resolve().parent.parent
WATCH = 3  # CAFFE_WATCH_SECONDS


def world():
    """What each worker does; sys.argv: what rank 1 does at iteration 3, and where to say so."""
    what, folder = sys.argv[1:]
    from caffe import parallel

    parallel.join('world')
    agreed, rank = launch.agree('number', 7 if launch.rank() == 0 else None), launch.rank()
    for i in range(1, 6 if what == 'nothing' else 10000):
        launch.beat('counting', i)
        sum_of_ranks = sum(parallel.gather(rank))
        if i == 3 and rank == 1:
            Path(folder, 'there').write_text(str(os.getpid()))
            if what == 'fails':
                raise FloatingPointError('loss_cls is nan')
            if what == 'hangs':
                time.sleep(600)
        if what not in ('nothing', 'fails', 'hangs'):
            time.sleep(0.05)
    launch.meet('end')
    Path(folder, f'rank{rank}').write_text(
        f'{agreed} {sum_of_ranks} {launch.count()} {os.environ["OMP_NUM_THREADS"]}'
    )
    parallel.leave()


def start(folder, what, program=(), devices='cpu:3'):
    """The command that starts three workers."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *program, __file__, what, str(folder)],
        env={**os.environ, 'CAFFE_WATCH_SECONDS': str(WATCH), 'DEVICES': devices},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def worker(folder):
    """The number of rank 1's process once it has come to iteration 3."""
    there, until = folder / 'there', time.time() + 120
    while not there.exists() or not there.read_text():
        assert time.time() < until
        time.sleep(0.1)
    return int(there.read_text())


def test_a_world_agrees_and_ends(tmp_path):
    started = start(tmp_path, 'nothing')
    output = started.communicate(timeout=200)[0]
    assert started.returncode == 0, output
    assert [(tmp_path / f'rank{rank}').read_text()[:5] for rank in range(3)] == ['7 3 3'] * 3


def test_the_first_that_fails_is_named_with_its_traceback(tmp_path):
    started = start(tmp_path, 'fails')
    output = started.communicate(timeout=200)[0]
    assert started.returncode == 1
    assert 'rank 1 of 3 failed in counting after iteration 3: loss_cls is nan' in output
    assert output.count("raise FloatingPointError('loss_cls is nan')") == 1 and 'gloo' not in output, output


def test_a_stopped_worker_and_a_hanging_one_end_the_world(tmp_path):
    """SIGSTOP; a sleep with beats missing; SIGKILL. All at once, as each mostly waits."""
    runs = {what: start(tmp_path / what, what) for what in ('stops', 'hangs', 'dies')}
    os.kill(worker(tmp_path / 'stops'), signal.SIGSTOP)
    os.kill(worker(tmp_path / 'dies'), signal.SIGKILL)
    since = time.time()
    said = {what: run.communicate(timeout=200)[0] for what, run in runs.items()}
    assert time.time() - since < 60
    assert all(run.returncode == 1 for run in runs.values())
    assert re.search(
        r'rank 1 of 3 hangs in counting after iteration \d+: no sign of life for 3 s', said['stops']
    ), said
    assert re.search(
        r'rank 1 of 3 hangs in counting after iteration 3: nothing has moved .*\n', said['hangs']
    ), said
    assert 'time.sleep(600)' in said['hangs']
    assert re.search(r'rank 1 of 3 failed in counting after .* was killed by SIGKILL', said['dies']), said


def test_a_signal_stops_all_once(tmp_path):
    """Ctrl-C reaches the launcher and may come again at once by another way."""
    run = start(tmp_path, 'waits')
    pid = worker(tmp_path)
    os.killpg(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGTERM)
    output = run.communicate(timeout=100)[0]
    assert run.returncode == 128 + signal.SIGINT and 'Traceback' not in output and 'killed' not in output, (
        output
    )
    assert not os.path.exists(f'/proc/{pid}')


def test_torchrun_makes_the_same_world(tmp_path):
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '3']
    run = start(tmp_path, 'fails', torchrun, 'cpu')
    output = run.communicate(timeout=200)[0]
    assert run.returncode == 1
    assert (
        output.count('test_launch.py: rank 1 of 3 failed in counting after iteration 3: loss_cls is nan') == 1
    ), output
    assert re.search(r'Root Cause(.|\n)*rank *: 1 (.|\n)*FloatingPointError: loss_cls is nan', output), output


@pytest.mark.parametrize('devices, variables, message', [
    ([0, 9], {}, 'GPU .*9 was asked for'),
    (['cpu'], {'RANK': '3', 'WORLD_SIZE': '8', 'LOCAL_RANK': '3', 'LOCAL_WORLD_SIZE': '4'}, None),
    ([0, 1], {'RANK': '3', 'WORLD_SIZE': '8', 'LOCAL_RANK': '3', 'LOCAL_WORLD_SIZE': '4'}, '4 processes .* 2 of its'),
])  # fmt: skip
def test_which_device_is_mine(devices, variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if message is None:
        assert launch.my_device(devices) == 'cpu'
        return
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    with pytest.raises(RuntimeError, match=message):
        launch.my_device(devices)
    if variables:
        assert launch.my_device([1, 0, 1, 0]) == 0


if __name__ == '__main__':
    sys.path[:0] = [str(ROOT / 'tools')]
    import _command

    def main():
        _command.begin(_command.parse_gpu(os.environ['DEVICES']))
        world()

    _command.run(main)
