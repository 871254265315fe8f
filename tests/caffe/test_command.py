"""The caffe command: train, test, time, with their flags, in this process."""

import logging
import os
import re
import signal
import subprocess
import sys

import pytest

import caffe
from caffe.__main__ import main
from helpers import layer

CONSTANT = 'dummy_data_param { shape { dim: 2 dim: %d } data_filler { value: %d } }'
NET = (
    layer('data', 'DummyData', more=CONSTANT % (3, 1))
    + layer('ip', 'InnerProduct', 'data', more='inner_product_param { num_output: 1 }')
    + layer('twice', 'Power', 'ip', 'ip', more='power_param { scale: 2 } include { stage: "double" }')
    + layer('deep', 'Power', 'ip', 'ip', more='power_param { scale: 3 } include { min_level: 1 }')
    + layer('four', 'DummyData', more=CONSTANT % (1, 4))
    + layer('loss', 'EuclideanLoss', 'ip four')
)
SOLVER = '''net: "net.prototxt" base_lr: 0.125 momentum: 0.5 lr_policy: "fixed" max_iter: 4
            snapshot: 2 snapshot_prefix: "out"'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, caplog):
    """Each test in an empty folder with net.prototxt and solver.prototxt of 4 iterations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'net.prototxt').write_text(NET)
    (tmp_path / 'solver.prototxt').write_text(SOLVER)
    caplog.set_level(logging.INFO, 'caffe')


def bias(path):
    return float(caffe.Net('net.prototxt', path, caffe.TEST).params['ip'][1].data[0])


def test_a_training_that_is_resumed_ends_as_one_that_was_not():
    main(['train', '--solver=solver.prototxt'])
    whole = bias('out_iter_4.caffemodel')
    os.remove('out_iter_4.caffemodel')
    main(['train', '-solver', 'solver.prototxt', '-snapshot', 'out_iter_2.solverstate'])
    assert bias('out_iter_4.caffemodel') == whole != bias('out_iter_2.caffemodel')


LIMITS = {'conv': 100.0, 'matmul': 100.0, 'copy': 10.0}


@pytest.mark.parametrize('command', ['train', 'test', 'time'])
def test_the_precision_is_a_flag(command, caplog, monkeypatch):
    monkeypatch.setattr('caffe.limits.limits', lambda: LIMITS)  # they take their time
    caffe.Net('net.prototxt', caffe.TRAIN).save('w.caffemodel')
    words = {
        'train': ['-solver', 'solver.prototxt'],
        'test': ['-model', 'net.prototxt', '-weights', 'w.caffemodel', '-iterations', '1'],
        'time': ['-model', 'net.prototxt', '-iterations', '1'],
    }[command]
    try:
        main([command, *words, '-precision', 'bf16'])
        assert caffe.precision() == 'bf16' and 'Computing in bf16' in caplog.text
        main([command, *words])
        assert caffe.precision() == 'float32'
    finally:
        caffe.set_precision('float32')


def test_training_starts_from_weights(tmp_path):
    net = caffe.Net('net.prototxt', caffe.TRAIN)
    net.params['ip'][0].data[...] = 1
    net.params['ip'][1].data[...] = 1  # 3 1 + 1 = 4: nothing to learn
    net.save('right.caffemodel')
    main(['train', '-solver', 'solver.prototxt', '-weights', 'right.caffemodel'])
    assert bias('out_iter_4.caffemodel') == 1
    with pytest.raises(SystemExit, match='one of them'):
        main(['train', '-solver', 'solver.prototxt', '-weights', 'a', '-snapshot', 'b'])


@pytest.mark.parametrize(
    'number, flag, effect, files',
    [
        (signal.SIGINT, 'sigint_effect', 'stop', ['out_iter_1']),  # stops, and snapshots as it ends
        (signal.SIGINT, 'sigint_effect', 'snapshot', ['out_iter_1', 'out_iter_2', 'out_iter_4']),
        (signal.SIGHUP, 'sighup_effect', 'none', ['out_iter_2', 'out_iter_4']),
    ],
)
def test_signals_have_their_effect(number, flag, effect, files, monkeypatch):
    """The signal comes during the first iteration."""

    def train_and_signal(path):
        solver = get_solver(path)
        solver.add_callback(lambda: None, lambda: solver.iter or os.kill(os.getpid(), number))
        return solver

    get_solver = caffe.get_solver
    monkeypatch.setattr(caffe, 'get_solver', train_and_signal)
    before = signal.getsignal(number)
    main(['train', '-solver', 'solver.prototxt', f'-{flag}', effect])
    assert sorted(f[:-12] for f in os.listdir() if f.endswith('solverstate')) == files
    assert signal.getsignal(number) is before


def test_two_processes_train_and_stop_together(tmp_path):
    """SIGHUP asks them for a snapshot, Ctrl-C ends them; the weights are those of one process with the same batches."""
    endless = SOLVER.replace('max_iter: 4', 'max_iter: 1000000').replace('snapshot: 2', 'display: 1')
    (tmp_path / 'solver.prototxt').write_text(endless)
    command = [sys.executable, '-m', 'caffe', 'train', '-solver', 'solver.prototxt', '-gpu', 'cpu:2']
    env = {**os.environ, 'PYTHONPATH': os.path.dirname(os.path.dirname(caffe.__file__))}
    world = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    said, written = [], []
    for line in world.stderr:
        said.append(line)
        if 'Iteration 3, lr' in line:
            world.send_signal(signal.SIGHUP)
        if 'Snapshotting' in line:
            written.append(re.search(r'out_iter_(\d+)\.caffemodel', line))
            if len(written) == 1:
                world.send_signal(signal.SIGINT)
    assert world.wait(60) == 0 and len(written) == 2 and 'stopped early' in said[-1], said
    assert sum('Iteration 3, lr' in line for line in said) == 1  # rank 0 alone tells
    together = bias(written[0][0])
    (tmp_path / 'solver.prototxt').write_text(SOLVER.replace('max_iter: 4', f'max_iter: {written[0][1]}'))
    main(['train', '-solver', 'solver.prototxt'])
    assert bias(written[0][0]) == together


@pytest.mark.parametrize(
    'flags, loss', [([], 2 * 16 / 4), (['-stage', 'double'], 0), (['-level', '1'], 2 * 4 / 4)]
)
def test_the_mean_score_over_batches(flags, loss, caplog):
    """ip is 0, 4 with stage double, 6 with level 1; four is 4."""
    net = caffe.Net('net.prototxt', caffe.TRAIN)
    net.params['ip'][1].data[...] = 2 if flags else 0
    net.save('w.caffemodel')
    main(['test', '-model', 'net.prototxt', '-weights', 'w.caffemodel', '-iterations', '3', *flags])
    said = caplog.messages
    assert sum(m.startswith('Batch ') for m in said) == 3 and said[-1].startswith(f'loss = {loss:g}')


def test_time_tells_of_each_layer(tmp_path, caplog, capsys, monkeypatch):
    """In a table, and as Caffe does, where what a chain absorbs takes no time of its own."""
    monkeypatch.setattr('caffe.limits.limits', lambda: LIMITS)
    ip = layer('ip', 'InnerProduct', 'data', more='inner_product_param { num_output: 1 }')
    (tmp_path / 'net.prototxt').write_text(NET.replace(ip, ip + layer('relu', 'ReLU', 'ip', 'ip')))
    main(['time', '-model', 'net.prototxt', '-iterations', '2', '-phase', 'TEST'])
    line = re.compile(r' *(\w+)\t(\w+): ([\d.e-]+) ms\.$')
    told = [match.groups() for m in caplog.messages if (match := line.match(m))]
    names = ('data', 'ip', 'relu', 'four', 'loss')
    assert [m[:2] for m in told] == [(name, way) for name in names for way in ('forward', 'backward')]
    total = [
        float(m.split()[-2]) for m in caplog.messages if m.startswith(('Average Forward-Ba', 'Total Time'))
    ]
    assert total[1] == pytest.approx(2 * total[0], rel=1e-3) and total[0] > 0
    table = capsys.readouterr().out
    assert 'loss   EuclideanLoss' in table and 'at 100 GFLOP/s in convolutions' in table


@pytest.mark.parametrize(
    'argv, wanted',
    [(['train'], '-solver is needed'), (['test', '-model', 'net.prototxt'], '-weights is needed')],
)
def test_what_is_missing_is_named(argv, wanted):
    with pytest.raises(SystemExit, match=wanted):
        main(argv)


def test_flags_may_come_first():
    main(['-solver=solver.prototxt', 'train'])
    assert os.path.exists('out_iter_4.caffemodel')
