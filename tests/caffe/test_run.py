"""Running: backward in one piece, by steps, by ranges and again; tapes that are gone or out of date."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caffe
from helpers import data, layer, net_from

IP = 'inner_product_param { num_output: %d weight_filler { type: "gaussian" std: 1 } }'
CONV = (
    'convolution_param { num_output: 3 kernel_size: 3 pad: 1 '
    'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 } }'
)


def times(name, bottom, factor, more=''):
    return layer(name, 'Power', bottom, more=f'power_param {{ scale: {factor} }} {more}')


def fork(tmp_path):
    """loss = sum(2 a) + sum(3 a)."""
    return net_from(
        tmp_path,
        'force_backward: true\n'
        + data('a', 2)
        + times('p1', 'a', 2)
        + times('p2', 'a', 3)
        + layer('s', 'Eltwise', 'p1 p2', more='loss_weight: 1'),
    )


def by_steps(net):
    for i in range(len(net.layers) - 1, -1, -1):
        net._backward(i, i)


def by_ranges(net):
    net.backward(end='p2')
    net.backward(start='p1')


@pytest.mark.parametrize('run', [by_steps, by_ranges, lambda net: net.backward(), caffe.Net.forward_backward])
def test_a_fork_sums_its_readers_however_backward_is_called(tmp_path, run):
    net = fork(tmp_path)
    for _ in range(2):
        net.forward()
        run(net)
        assert net.blobs['a'].diff.tolist() == [5, 5]


def test_a_reader_run_again_replaces_its_own_part(tmp_path):
    net = fork(tmp_path)
    net.forward()
    net.backward()
    for p, total in (('p1', 2 * 10 + 3), ('p2', 2 * 10 + 3 * 10)):
        net.blobs[p].diff[...] = 10
        i = net._layer_names.index(p)
        net._backward(i, i)
        assert net.blobs['a'].diff.tolist() == [total, total]
    net.backward()
    assert net.blobs['a'].diff.tolist() == [5, 5]


def test_a_diff_written_by_hand_counts_until_a_reader_runs(tmp_path):
    net = net_from(
        tmp_path,
        'force_backward: true\n'
        + data('a', 2)
        + times('b', 'a', 7)
        + times('p1', 'b', 2)
        + times('p2', 'b', 3)
        + layer('s', 'Eltwise', 'p1 p2', more='loss_weight: 1'),
    )
    net.forward()
    net.backward()
    net.blobs['b'].diff[...] = 1
    assert net.backward(start='b')['a'].tolist() == [7, 7]
    assert net.backward(start='p1')['a'].tolist() == [35, 35]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 3)), max_size=8))
def test_any_order_of_readers_sums_what_each_wrote_last(tmp_path_factory, runs):
    """Against the plain model of Caffe's Split: a part for each reader, zero at first."""
    factors = 2, 3, 5
    readers = ''.join(times(f'p{k}', 'a', f) for k, f in enumerate(factors))
    net = net_from(tmp_path_factory.mktemp('net'), 'force_backward: true\n' + data('a', 1) + readers)
    net.forward()
    parts = [0, 0, 0]
    for k, value in runs:
        net.blobs[f'p{k}'].diff[...] = value
        net._backward(1 + k, 1 + k)
        parts[k] = factors[k] * value
        assert net.blobs['a'].diff.tolist() == [sum(parts)]


class Residual:
    """A random net: each layer reads blobs made before, some write in place, where nobody has read before."""

    def __init__(self, draw):
        self.text, names, unread = 'force_backward: true\n' + data('b0', 2, 3), ['b0'], ['b0']
        for i in range(1, draw(st.integers(2, 9))):
            kind = draw(st.sampled_from(['Power', 'Eltwise', 'InnerProduct', 'ReLU']))
            kind = 'Power' if kind == 'ReLU' and not unread else kind
            known = unread if kind == 'ReLU' else names
            bottoms = [draw(st.sampled_from(known)) for _ in range(1 + (kind == 'Eltwise'))]
            top = bottoms[0] if kind == 'ReLU' else f'b{i}'
            loss = 'loss_weight: %g' % draw(st.sampled_from([0, 0, 0.5]))
            more = {'Power': 'power_param { scale: -1.5 }', 'InnerProduct': IP % 3}.get(kind, '')
            self.text += layer(
                f'l{i}', kind, ' '.join(bottoms), top, f'{more} {loss if kind != "ReLU" else ""}'
            )
            names += [top] * (top not in names)
            unread = [name for name in unread if name not in (*bottoms, top)] + [top]
        self.text += layer('end', 'Concat', ' '.join(names)) + layer(
            'loss', 'Reduction', 'end', more='loss_weight: 1'
        )


def diffs(net):
    """Of the input and the parameters."""
    blobs = {'b0': net.blobs['b0'], **{name: blobs[0] for name, blobs in net.params.items()}}
    return {name: blob.diff.copy() for name, blob in blobs.items()}


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_ranges_of_a_random_net_give_what_one_pass_gives(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp('net')
    text = Residual(chosen.draw).text
    net, other = net_from(folder, text), net_from(folder, text)
    x = np.random.RandomState(0).randn(2, 3)
    for _ in range(2):
        net.clear_param_diffs(), other.clear_param_diffs()
        net.blobs['b0'].data[...] = x
        net.forward_backward()
        other.forward(b0=x)
        i = len(net.layers) - 1
        while i >= 0:
            end = max(0, i - chosen.draw(st.integers(0, 3)))
            other._backward(i, end)
            i = end - 1
        want, got = diffs(net), diffs(other)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-4, err_msg=name)


def trained(tmp_path, middle):
    solver = tmp_path / 'solver.prototxt'
    net = tmp_path / 'train.prototxt'
    net.write_text(
        'force_backward: true\n'
        + layer(
            'data',
            'DummyData',
            more='dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } data_filler { type: "gaussian" } }',
        )
        + layer('conv', 'Convolution', 'data', more=CONV)
        + middle
        + layer('ip', 'InnerProduct', 'conv', more=IP % 2)
        + layer('label', 'DummyData', more='dummy_data_param { shape { dim: 2 dim: 2 } }')
        + layer('loss', 'EuclideanLoss', 'ip label')
    )
    solver.write_text(
        f'train_net: "{net}" base_lr: 0.01 lr_policy: "fixed" snapshot_prefix: "{tmp_path}/s" snapshot_after_train: false'
    )
    caffe.set_random_seed(3)
    return caffe.SGDSolver(str(solver))


IN_PLACE = layer('bn', 'BatchNorm', 'conv', 'conv') + layer('drop', 'Dropout', 'conv', 'conv')


@pytest.mark.parametrize('middle', ['', IN_PLACE, IN_PLACE + layer('relu', 'ReLU', 'conv', 'conv')])
def test_backward_after_a_step_uses_the_weights_of_now(tmp_path, middle):
    net = trained(tmp_path, middle)
    net.step(1)
    net = net.net
    before = {name: blob.data.copy() for name, blob in net.blobs.items()}
    averages = [b.data.copy() for b in net.params.get('bn', [])]
    net.clear_param_diffs()
    net.backward()
    top = net.blobs['ip'].diff
    np.testing.assert_allclose(
        net.params['ip'][0].diff, top.T @ before['conv'].reshape(2, -1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        net.blobs['conv'].diff.reshape(2, -1) if not middle else 0,
        top @ net.params['ip'][0].data if not middle else 0,
        rtol=1e-4,
        atol=1e-5,
    )
    for name in before:
        assert (net.blobs[name].data == before[name]).all(), name
    for old, blob in zip(averages, net.params.get('bn', [])):
        assert (old == blob.data).all()


def test_a_layer_computed_again_draws_what_it_drew(tmp_path):
    text = 'force_backward: true\n' + data('a', 50) + layer('d', 'Dropout', 'a', more='loss_weight: 1')
    net = net_from(tmp_path, text, caffe.TRAIN)
    net.blobs['a'].data[...] = 1
    net.forward_backward()
    first = net.blobs['a'].diff.copy()
    state = torch.get_rng_state()
    net.backward()
    assert (net.blobs['a'].diff == first).all() and 0 < (first == 0).sum() < 50
    assert (torch.get_rng_state() == state).all()


def test_a_pass_that_frees_keeps_no_tape(tmp_path):
    solver = trained(tmp_path, IN_PLACE)
    solver.step(1)
    runner = solver.net._runner
    assert all(
        unit._tape is None for unit in [*runner.chains.values(), *solver.net.layers] if hasattr(unit, '_tape')
    )
    solver.net.forward()
    assert any(unit._tape for unit in runner.chains.values())


def test_a_cut_chain_leaves_the_blobs_alone(tmp_path):
    """conv, bn and relu run as one; a backward through relu alone computes their middles, and no blob changes."""
    frozen = layer('bn', 'BatchNorm', 'conv', 'conv', 'batch_norm_param { use_global_stats: true }')
    text = (
        'force_backward: true\n'
        + data('data', 1, 2, 4, 4)
        + layer('conv', 'Convolution', 'data', more=CONV)
        + frozen
        + layer('relu', 'ReLU', 'conv', 'conv')
        + layer('loss', 'Reduction', 'conv', more='loss_weight: 1')
    )
    net = net_from(tmp_path, text)
    net.params['bn'][1].data[...] = net.params['bn'][2].data[...] = 1
    net.forward(data=np.random.RandomState(0).randn(1, 2, 4, 4))
    net.backward()
    whole = net.blobs['data'].diff.copy()
    net.blobs['conv'].data[...] = 7
    net.backward(start='loss', end='relu')
    assert (net.blobs['conv'].data == 7).all()
    net.backward(start='bn')
    assert (net.blobs['conv'].data == 7).all()
    np.testing.assert_allclose(net.blobs['data'].diff, whole, rtol=1e-4, atol=1e-5)


def test_a_solvers_pass_begins_without_the_diffs_of_the_last(tmp_path):
    """But for those that somebody looks at; after the pass all are there."""
    solver, seen = trained(tmp_path, ''), []
    net = solver.net
    held = net.blobs['ip'].diff
    net.before_forward(lambda i: seen.append([net.blobs[b]._diff.empty for b in ('conv', 'ip')]))
    solver.step(2)
    assert seen[0] == seen[-1] == [True, False]
    assert net.blobs['conv'].diff.any() and (held == net.blobs['ip'].diff).all() and held.any()


FROZEN = (
    'force_backward: false\n'
    + layer(
        'data',
        'DummyData',
        more='dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } data_filler { value: 0.1 } }',
    )
    + layer('f1', 'Convolution', 'data', more=CONV + ' param { lr_mult: 0 } param { lr_mult: 0 }')
    + layer('r1', 'ReLU', 'f1', 'f1')
    + layer('f2', 'Convolution', 'f1', more=CONV + ' param { lr_mult: 0 } param { lr_mult: 0 }')
    + layer('sum', 'Eltwise', 'f1 f2')
    + layer('a', 'Convolution', 'sum', more=CONV)
    + layer('b', 'Convolution', 'a', more=CONV)
    + layer('c', 'Eltwise', 'a b')
    + layer('r2', 'ReLU', 'c', 'c')
    + layer('d', 'Power', 'c', more='power_param { power: 2 }')
    + layer('loss', 'Reduction', 'd', more='loss_weight: 1e-6')
)


def frozen_solver(tmp_path):
    (tmp_path / 'net').write_text(FROZEN)
    (tmp_path / 'solver').write_text(
        f'train_net: "{tmp_path}/net" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 1'
    )
    return caffe.SGDSolver(str(tmp_path / 'solver'))


def gone(net, which):
    return [name for name, blob in net.blobs.items() if getattr(blob, which).recall]


@pytest.mark.host
def test_a_solvers_pass_lets_go_of_what_nobody_needs_and_it_comes_back(tmp_path):
    lean, full = frozen_solver(tmp_path), frozen_solver(tmp_path)
    views = {name: (blob.data, blob.diff) for name, blob in full.net.blobs.items()}  # what is held stays
    for solver in (lean, full):
        solver.step(2)
    net = lean.net
    assert gone(full.net, '_data') == gone(full.net, '_diff') == []
    assert gone(net, '_data') == ['f1', 'f2', 'b'] and gone(net, '_diff') == ['a', 'b', 'c', 'd']
    assert all(net.blobs[name]._data.empty for name in ('f1', 'f2'))
    values, updates = ([getattr(b, of).copy() for b in net.learnable_params] for of in ('data', 'diff'))
    for name in reversed(views):  # b's diff first: c's and d's come with it
        np.testing.assert_allclose(net.blobs[name].diff, views[name][1], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(net.blobs[name].data, views[name][0], rtol=1e-5, atol=1e-5, err_msg=name)
    for blob, value, update in zip(net.learnable_params, values, updates):
        assert (blob.data == value).all() and (blob.diff == update).all()
    for solver in (lean, full):
        solver.step(1)
    assert gone(net, '_data') == gone(net, '_diff') == []  # somebody has looked
    for a, b in zip(net.learnable_params, full.net.learnable_params):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-5)


def test_a_hook_may_look_at_a_diff_that_went(tmp_path):
    lean, full = frozen_solver(tmp_path), frozen_solver(tmp_path)
    seen = {lean: [], full: []}
    for solver in (lean, full):
        names = solver.net._layer_names
        look = {names.index('b'): 'd', names.index('a'): 'c'}
        held = [blob.diff for blob in full.net.blobs.values()]
        solver.net.after_backward(
            lambda i, s=solver, look=look: (
                seen[s].append(s.net.blobs[look[i]].diff.copy()) if i in look else None
            )
        )
        solver.step(1)
    for a, b in zip(seen[lean], seen[full]):
        assert a.any() and np.allclose(a, b, rtol=1e-4)
    for a, b in zip(lean.net.learnable_params, full.net.learnable_params):
        np.testing.assert_allclose(a.diff, b.diff, rtol=1e-4, atol=1e-7)
    assert held


def test_a_plain_forward_and_backward_keeps_all_but_a_branch_below_a_sum(tmp_path):
    net = frozen_solver(tmp_path).net
    net.forward()
    net.backward()
    assert gone(net, '_data') == ['f2'] and gone(net, '_diff') == [] and net.blobs['f1'].data.any()
