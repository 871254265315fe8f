"""joined: a solver's passes under one tape train as those layer by layer do, and show the same to who looks."""

import re
import sys
import types

import numpy as np
import pytest

import caffe
from caffe import joined
from helpers import layer

CONV = """param { lr_mult: %d } param { lr_mult: %d } convolution_param { num_output: 4 kernel_size: 3 pad: 1
    weight_filler { type: "msra" } }"""
STILL = 'batch_norm_param { use_global_stats: true eps: 1 }'
PYTHON = 'python_param { module: "joined_layers" layer: "%s" }'
NET = (
    'force_backward: %s\n'
    + layer(
        'x',
        'DummyData',
        more='dummy_data_param { shape { dim: 2 dim: 4 dim: 6 dim: 5 } data_filler { type: "gaussian" } }',
    )
    + layer('still', 'Convolution', 'x', more=CONV % (0, 0))
    + layer('a', 'Convolution', 'still', more=CONV % (1, 2))
    + layer('bn', 'BatchNorm', 'a', 'a', STILL)
    + layer('scale', 'Scale', 'a', 'a', 'scale_param { bias_term: true }')
    + layer('relu', 'ReLU', 'a', 'a')
    + layer('b', 'Convolution', 'a', more=CONV % (1, 0))
    + layer('bn2', 'BatchNorm', 'b', 'b', 'batch_norm_param { use_global_stats: false }')
    + layer('sum', 'Eltwise', 'a b')
    + layer('sum/relu', 'ReLU', 'sum', 'sum')
    + layer('drop', 'Dropout', 'sum', 'sum')
    + layer('seen', 'Python', 'sum', more=PYTHON % 'Seen')
    + layer('flat', 'Flatten', 'sum')
    + layer(
        'left', 'InnerProduct', 'flat', more='param { name: "w" } inner_product_param { num_output: 3 %s }'
    )
    + layer(
        'right', 'InnerProduct', 'flat', more='param { name: "w" } inner_product_param { num_output: 3 %s }'
    )
    + layer('cut', 'Slice', 'left', 'cut0 cut1', 'slice_param { axis: 1 slice_point: 1 }')
    + layer('loss', 'Reduction', 'cut0', more='loss_weight: 0.5 reduction_param { operation: SUMSQ }')
    + layer('loss2', 'EuclideanLoss', 'left right', more='loss_weight: 2')
    + layer('part', 'Power', 'cut1', more='loss_weight: 0.1 power_param { shift: 1 power: 2 }')
)
FILLED = 'bias_term: false weight_filler { type: "xavier" }'


class Seen(caffe.Layer):
    """Reads and makes something, through which no gradient goes."""

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data.sum()

    def backward(self, top, propagate_down, bottom):
        """Nothing comes back."""
        pass


class Zero(Seen):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0


@pytest.fixture(autouse=True)
def _python_layers(monkeypatch):
    module = types.ModuleType('joined_layers')
    module.Seen, module.Zero = Seen, Zero
    monkeypatch.setitem(sys.modules, 'joined_layers', module)


def solver(tmp_path, text=NET, force='false', more=''):
    (tmp_path / 'net').write_text(text % (force, FILLED, FILLED))
    (tmp_path / 'solver').write_text(
        f'train_net: "{tmp_path}/net" base_lr: 0.002 momentum: 0.9 lr_policy: "fixed" random_seed: 1 {more}'
    )
    return caffe.SGDSolver(str(tmp_path / 'solver'))


def steps(one, count=3):
    """Iterations with the same draws each time; how many passes had one tape."""
    runner, passes = one.net._runner, []
    backward = runner._joined.backward
    runner._joined.backward = lambda: passes.append(1) or backward()
    caffe.set_random_seed(5)
    one.step(count)
    del runner._joined.backward
    return len(passes)


@pytest.fixture
def both(monkeypatch):
    """both(...): the net trained layer by layer and under one tape."""

    def run(*args, count=3, **more):
        nets = []
        for devices, wanted in (set(), 0), ({'cpu', 'cuda'}, count * more.pop('size', 1)):
            monkeypatch.setattr(joined, 'DEVICES', devices)
            nets.append(solver(*args, **more))
            assert steps(nets[-1], count) == wanted
        return [one.net for one in nets], nets

    return run


def equal(nets, what, names=None, rtol=1e-4):
    plain, one = (
        {
            n: getattr(b, what).copy()
            for n, b in (*net.blobs.items(), *parameters(net))
            if not names or n in names
        }
        for net in nets
    )
    for name in plain:
        np.testing.assert_allclose(one[name], plain[name], rtol=rtol, atol=1e-5, err_msg=name)


def parameters(net):
    return [(f'{n}[{i}]', b) for n, blobs in net.params.items() for i, b in enumerate(blobs)]


@pytest.mark.parametrize('force', ['false', 'true'])
def test_the_same_weights_values_and_diffs(tmp_path, both, force):
    nets, solvers = both(tmp_path, force=force)
    assert float(solvers[0].loss) == pytest.approx(float(solvers[1].loss), rel=1e-5)
    assert nets[1].blobs['a']._diff.recall
    equal(nets, 'data', [name for name, _ in parameters(nets[0])])
    equal(nets, 'diff', [name for name, _ in parameters(nets[0])])
    equal(nets, 'data')
    equal(nets, 'diff', rtol=1e-3)


def test_who_has_looked_at_a_diff_finds_them_from_then_on(tmp_path, both):
    nets, solvers = both(tmp_path)
    nets[1].blobs['b'].diff
    assert steps(solvers[1]) == 0 and not nets[1].blobs['a']._diff.recall
    steps(solvers[0])
    equal(nets, 'diff', rtol=1e-3)
    equal(nets, 'data')


def test_passes_add_up(tmp_path, both):
    nets, _ = both(tmp_path, size=2, more='iter_size: 2')
    equal(nets, 'data')


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_in_half_precision(tmp_path, both, kind):
    small = re.sub(r'loss_weight: ([0-9.]+)', r'loss_weight: \1e-4', NET)  # no gradient overflows
    caffe.set_precision(kind)
    try:
        nets, solvers = both(tmp_path, small, count=1)
    finally:
        caffe.set_precision('float32')
    assert float(solvers[0].loss) == pytest.approx(float(solvers[1].loss), rel=1e-3)
    for (name, a), (_, b) in zip(*map(parameters, nets)):
        assert np.isfinite(a.diff).all()
        np.testing.assert_allclose(b.diff, a.diff, rtol=0.1, atol=0.02 * np.abs(a.diff).max(), err_msg=name)


def test_layer_by_layer_where_somebody_may_see(tmp_path, monkeypatch):
    """A backward in Python, a hook, a diff that is held; a loss that something reads."""
    monkeypatch.setattr(joined, 'DEVICES', {'cpu', 'cuda'})
    assert steps(solver(tmp_path, force='true')) == 3
    assert steps(solver(tmp_path, NET.replace('"Seen"', '"Zero"'), force='true')) == 0
    for hook in 'before_forward', 'after_forward', 'before_backward', 'after_backward':
        one = solver(tmp_path)
        getattr(one.net, hook)(lambda i: None)
        assert steps(one) == 0
    one = solver(tmp_path)
    held = one.net.blobs['sum'].diff
    assert steps(one) == 0
    seen = float(np.abs(held).sum())
    del held
    assert steps(one) >= 2 and seen > 0  # on the CPU the first finds it still there
    read = NET + layer('more', 'Reduction', 'part', more='loss_weight: 0.2')
    assert steps(solver(tmp_path, read)) == 0


def test_a_hook_for_any_time_is_called_when_all_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(joined, 'DEVICES', {'cpu', 'cuda'})
    one, seen = solver(tmp_path), []

    def hook(layer):
        seen.append((layer, bool(one.net.params['a'][0].grad.any())))

    hook.any_time = True
    one.net.after_backward(hook)
    assert steps(one, 2) == 2 and seen == [(0, True)] * 2


def test_a_backward_by_hand_after_it(tmp_path, both):
    nets, _ = both(tmp_path, force='true')
    for net in nets:
        net.clear_param_diffs()
        caffe.set_random_seed(3)
        net.forward()
        net.backward()
    equal(nets, 'diff', rtol=1e-3)
