"""caffe.launch and caffe.world: workers, what they agree on, and what ends them. These run `work` below."""

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
WATCH = 8  # CAFFE_WATCH_SECONDS
PYTHONPATH = os.pathsep.join(str(ROOT / folder) for folder in ('caffe-fast-rcnn/python', 'lib', 'tools'))


def work():
    """What each worker does; sys.argv: what becomes of rank 1, and where to say so."""
    what, folder = sys.argv[1:]
    from caffe import parallel, watch, world

    parallel.join('world')
    rank = world.rank()
    agreed = world.agree('number', 7 if rank == 0 else None)
    for i in range(1, 10000):
        watch.beat('counting', i)
        Path(folder, f'rank{rank}').write_text(f'{agreed} {sum(parallel.gather(rank))} {world.count()}')
        if what == 'fails' and (i, rank) == (3, 1):
            raise FloatingPointError('loss_cls is nan')
        if (i, rank) == (40, 1):
            Path(folder, 'there').write_text(str(os.getpid()))
        time.sleep(0.05)


def start(folder, what, program=(), devices='cpu:2'):
    """The command that starts two workers."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *program, __file__, what, str(folder)],
        env={**os.environ, 'CAFFE_WATCH_SECONDS': str(WATCH), 'DEVICES': devices, 'PYTHONPATH': PYTHONPATH},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def worker(folder):
    """The number of rank 1's process once it has come to iteration 40."""
    there, until = folder / 'there', time.time() + 600
    while not there.exists() or not there.read_text():
        assert time.time() < until
        time.sleep(0.1)
    return int(there.read_text())


def test_a_stopped_worker_ends_the_world(tmp_path):
    run = start(tmp_path, 'stops')
    os.kill(worker(tmp_path), signal.SIGSTOP)
    since, output = time.time(), run.communicate(timeout=600)[0]
    assert time.time() - since < 60 and run.returncode == 1
    assert re.search(r'rank 1 of 2 hangs in counting after iteration \d+: no sign of life for 8 s', output), (
        output
    )
    assert (tmp_path / 'rank0').read_text() == '7 1 2'


def test_a_signal_stops_all_once(tmp_path):
    """Ctrl-C reaches the launcher and may come again at once by another way; which it sees first is the system's choice."""
    run = start(tmp_path, 'waits')
    pid = worker(tmp_path)
    os.killpg(run.pid, signal.SIGINT)
    os.kill(run.pid, signal.SIGTERM)
    output = run.communicate(timeout=600)[0]
    assert run.returncode - 128 in (signal.SIGINT, signal.SIGTERM), output
    assert output.count('stops; once more kills it') == 1, output
    assert 'Traceback' not in output and 'killed' not in output, output
    assert not os.path.exists(f'/proc/{pid}')


def test_a_signal_that_comes_while_another_is_told_of_is_the_same_one(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    said = []
    again = lambda *words: (os.kill(os.getpid(), signal.SIGTERM), said.append(words))  # noqa: E731
    monkeypatch.setattr(launch.log, 'info', again)
    try:
        received = launch.pass_on([])
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [number for number, _ in received] == [signal.SIGINT, signal.SIGTERM] and len(said) == 1


def test_torchrun_makes_the_same_world(tmp_path):
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    run = start(tmp_path, 'fails', torchrun, 'cpu')
    output = run.communicate(timeout=600)[0]
    assert run.returncode == 1
    assert (
        output.count('test_launch.py: rank 1 of 2 failed in counting after iteration 3: loss_cls is nan') == 1
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
    import _command

    def main():
        _command.begin(_command.parse_gpu(os.environ['DEVICES']))
        work()

    _command.run(main)
