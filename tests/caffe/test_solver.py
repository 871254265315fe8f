"""Solvers: the recorded runs of the original, snapshots, test nets, errors."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import caffe
from caffe.format.prototxt import parse_net
from caffe.proto import caffe_pb2
from helpers import data, layer

GOLDEN = Path(__file__).parents[1] / 'golden' / 'solver'
RUNS = sorted(p.name[: -len('.solver.prototxt')] for p in GOLDEN.glob('*.solver.prototxt'))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 + 1e-4 * np.abs(want).max())


# conv1's bias is followed by a BatchNorm that takes the mean away: its gradient is 0 but for rounding, and so are its update rules' answers where
# they divide by the gradient's size. There the recorded bias, and the mean that BatchNorm keeps of it, are rounding of the original's BLAS.
ROUNDING = {name: ('conv1/1', 'bn1/0') for name in ('adagrad_exp', 'adam_sigmoid', 'rmsprop_poly')}


def compare(net, run, prefix, name):
    keys = [k for k in run.files if k.startswith(prefix + '/') and not k.endswith(ROUNDING.get(name, ()))]
    assert len(keys) >= 9
    for key in keys:
        _, layer_name, index = key.split('/')
        close(net.params[layer_name][int(index)].data, run[key])


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A copy of the recorded runs as the current directory."""
    shutil.copytree(GOLDEN, tmp_path / 'work')
    monkeypatch.chdir(tmp_path / 'work')


@pytest.mark.parametrize('name', RUNS)
def test_recorded_run(work, name):
    run = np.load(name + '.npz')
    solver = caffe.get_solver(name + '.solver.prototxt')
    solver.net.copy_from('init.caffemodel')
    losses = []
    for i in range(1, 11):
        solver.step(1)
        losses.append(float(solver.net.blobs['loss'].data))
        if i in (1, 5, 10):
            compare(solver.net, run, f'iter{i}', name)
    close(losses, run['losses'])


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('snapshot', ['recorded', 'own', 'hdf5'])
def test_restore(work, name, snapshot):
    run, proto, state = np.load(name + '.npz'), name + '.solver.prototxt', name + '_iter_5.solverstate'
    if snapshot != 'recorded':
        os.remove(state)
        solver = caffe.get_solver(proto)
        solver.net.copy_from('init.caffemodel')
        if snapshot == 'hdf5':
            solver.param.snapshot_format = 0
            state += '.h5'
        solver.step(5)
        solver.snapshot()
    solver = caffe.get_solver(proto)
    solver.restore(state)
    assert solver.iter == 5
    solver.step(5)
    compare(solver.net, run, 'resumed10', name)


NET = (
    data('data', 4, 3)
    + data('label', 4, 1)
    + layer(
        'ip',
        'InnerProduct',
        'data',
        more='inner_product_param { num_output: 1 weight_filler { type: "xavier" } }',
    )
    + layer('loss', 'EuclideanLoss', 'ip label')
)


def write_solver(tmp_path, text='base_lr: 0.1 lr_policy: "fixed"'):
    (tmp_path / 'net.prototxt').write_text(NET)
    path = tmp_path / 'solver.prototxt'
    path.write_text(f'net: "{tmp_path}/net.prototxt" {text}')
    return str(path)


def test_callbacks_and_solve(tmp_path):
    solver = caffe.SGDSolver(
        write_solver(
            tmp_path, 'base_lr: 0.1 lr_policy: "fixed" max_iter: 3 snapshot_prefix: "%s/s"' % tmp_path
        )
    )
    calls = []
    solver.add_callback(lambda: calls.append('start'), lambda: calls.append('ready'))
    solver.net.blobs['data'].data[...] = 1
    solver.net.blobs['label'].data[...] = 2
    solver.solve()
    assert calls == ['start', 'ready'] * 3 and solver.iter == 3
    assert sorted(p.name for p in tmp_path.glob('s_*')) == ['s_iter_3.caffemodel', 's_iter_3.solverstate']
    assert solver.smoothed_loss == pytest.approx(float(solver.net.blobs['loss'].data))
    again = caffe.SGDSolver(
        write_solver(
            tmp_path, 'base_lr: 0.1 lr_policy: "fixed" max_iter: 5 snapshot_prefix: "%s/s"' % tmp_path
        )
    )
    again.solve(str(tmp_path / 's_iter_3.solverstate'))
    assert again.iter == 5


def test_diffs_of_the_pass_before_take_no_memory_in_the_next_forward(tmp_path):
    """After a step they are there to be looked at, as in Caffe."""
    solver = caffe.SGDSolver(write_solver(tmp_path))
    blobs, seen = solver.net.blobs, []
    blobs['label'].data[...] = 2
    names = [
        n
        for i, n in enumerate(solver.net.bottom_names['loss'])
        if solver.net.layer_dict['loss'].propagate_down[i]
    ]
    solver.net.after_forward(lambda i: seen.append(all(blobs[n]._diff.empty for n in names)))
    for _ in range(2):
        solver.step(1)
        assert names and all((blobs[n].diff != 0).any() for n in names)
    assert all(seen)


def test_test_nets_share_the_weights(tmp_path, caplog):
    solver = caffe.SGDSolver(
        write_solver(tmp_path, 'base_lr: 0.1 lr_policy: "fixed" test_iter: 2 test_interval: 1 display: 1')
    )
    solver.net.blobs['data'].data[...] = 1
    solver.net.blobs['label'].data[...] = 2
    (test_net,) = solver.test_nets
    assert test_net.phase == caffe.TEST
    with caplog.at_level('INFO', 'caffe'):
        solver.step(2)
    assert (test_net.params['ip'][0].data == solver.net.params['ip'][0].data).all()
    assert (
        'Testing net (#0)' in caplog.text
        and 'Iteration 1' in caplog.text
        and 'Train net output #0: loss' in caplog.text
    )


def test_a_test_net_of_no_iterations_is_not_tested(tmp_path):
    text = 'base_lr: 0.1 lr_policy: "fixed" test_iter: 0 test_interval: 1 test_compute_loss: true'
    solver = caffe.SGDSolver(write_solver(tmp_path, text))
    solver.step(1)
    assert not solver.test_nets[0].blobs['ip'].data.any() and solver.iter == 1


def test_frozen_parameters_do_not_decay(tmp_path):
    path = write_solver(tmp_path, 'base_lr: 0.1 lr_policy: "fixed" weight_decay: 1')
    (tmp_path / 'net.prototxt').write_text(
        NET.replace('inner_product_param', 'param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param')
    )
    solver = caffe.SGDSolver(path)
    before = solver.net.params['ip'][0].data.copy()
    solver.step(2)
    assert solver.net.params['ip'][0]._diff.empty, 'it takes memory'
    assert (solver.net.params['ip'][0].data == before).all()


@pytest.mark.parametrize(
    'text, message',
    [
        ('base_lr: 0.1 lr_policy: "stepp"', "unknown lr_policy 'stepp'; did you mean (.* or )?step"),
        ('base_lr: 0.1 lr_policy: "step" gamma: 0.1', "'step' needs stepsize"),
        ('base_lr: 0.1 lr_policy: "fixed" type: "Adamm"', "unknown solver type 'Adamm'; did you mean Adam"),
        ('base_lr: 0.1 lr_policy: "step" gamma: 0.1 stepsize: 0', r'solver.prototxt: stepsize is 0'),
        ('base_lr: 0.1 lr_policy: "fixed" iter_size: 0', r'solver.prototxt: iter_size is 0'),
        ('base_lr: 0.1 lr_policy: "poly" power: 1 max_iter: 0', r'solver.prototxt: max_iter is 0'),
        ('base_lr: 0.1 lr_policy: "fixed" train_net: "x"', 'one of net, net_param'),
        (
            'base_lr: 0.1 lr_policy: "fixed" test_iter: 1 test_state { stage: "a" } test_state { stage: "b" }',
            '2 test_state for 1',
        ),
    ],
)
def test_wrong_solvers(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        caffe.get_solver(write_solver(tmp_path, text))


def test_missing_folders_and_states(tmp_path):
    text = 'base_lr: 0.1 lr_policy: "fixed" snapshot: 1 snapshot_prefix: "%s/none/s"' % tmp_path
    with pytest.raises(FileNotFoundError, match='none .*does not exist'):
        caffe.SGDSolver(write_solver(tmp_path, text))
    solver = caffe.SGDSolver(write_solver(tmp_path))
    with pytest.raises(FileNotFoundError, match='no.solverstate'):
        solver.restore(str(tmp_path / 'no.solverstate'))
    solver.net.save(str(tmp_path / 'w.caffemodel'))
    with pytest.raises(ValueError, match='w.caffemodel'):
        solver.restore(str(tmp_path / 'w.caffemodel'))


def test_debug_info_tells_of_every_layer(tmp_path, caplog):
    """One InnerProduct without bias: x = 1, w = 1, target 4, so loss 9 / 2, diff -3, update 0.5 -3."""
    (tmp_path / 'net.prototxt').write_text("""
        layer { name: "x" type: "DummyData" top: "x" top: "t" dummy_data_param { shape { dim: 1 dim: 1 }
                data_filler { value: 1 } data_filler { value: 4 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1
                bias_term: false weight_filler { value: 1 } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }""")
    (tmp_path / 'solver.prototxt').write_text(f'''train_net: "{tmp_path}/net.prototxt" base_lr: 0.5
        lr_policy: "fixed" debug_info: true snapshot_prefix: "{tmp_path}/x"''')
    caplog.set_level('INFO', 'caffe')
    caffe.SGDSolver(str(tmp_path / 'solver.prototxt')).step(1)
    assert [m.strip() for m in caplog.messages if '[' in m] == [
        '[Forward] Layer x, top blob x data: 1',
        '[Forward] Layer x, top blob t data: 4',
        '[Forward] Layer ip, top blob y data: 1',
        '[Forward] Layer ip, param blob 0 data: 1',
        '[Forward] Layer loss, top blob loss data: 4.5',
        '[Backward] Layer loss, bottom blob y diff: 3',
        '[Backward] Layer ip, param blob 0 diff: 3',
        '[Backward] All net params (data, diff): L1 norm = (1, 3); L2 norm = (1, 3)',
        '[Update] Layer ip, param 0 data: 2.5; diff: 1.5',
    ]


@pytest.mark.parametrize('kind', ['SGD', 'Nesterov', 'Adam'])
def test_held_views_of_parameters_follow_the_update(tmp_path, kind):
    """The diff then holds what was subtracted."""
    text = f'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.1 type: "{kind}"'
    solver = caffe.get_solver(write_solver(tmp_path, text))
    solver.net.blobs['data'].data[...] = 1
    solver.net.blobs['label'].data[...] = 2
    blob = solver.net.params['ip'][0]
    data, diff = blob.data, blob.diff
    for _ in range(3):
        before = data.copy()
        solver.step(1)
        np.testing.assert_array_equal(data, blob.data)
        np.testing.assert_array_equal(diff, blob.diff)
        np.testing.assert_allclose(before - data, diff, rtol=1e-4, atol=1e-7)
        assert diff.any()


def test_the_train_state_is_of_the_train_net_alone():
    """Also of a net given within the solver's own file, which both nets are made of."""
    ip = 'name: "%s" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 }'
    text = data('data', 4, 3) + data('label', 4, 1)
    text += f'layer {{ {ip % "ip"} include {{ stage: "a" }} }} layer {{ {ip % "other"} exclude {{ stage: "a" }} }}'
    text += layer('loss', 'EuclideanLoss', 'ip label')
    param = caffe_pb2.SolverParameter(base_lr=0.1, lr_policy='fixed', test_iter=[1], test_interval=1)
    param.net_param.MergeFrom(parse_net(text))
    param.train_state.stage.append('a')
    before = param.SerializeToString()
    solver = caffe.SGDSolver(param)
    assert list(solver.net.params) == ['ip'] and list(solver.test_nets[0].params) == ['other']
    assert param.SerializeToString() == before
