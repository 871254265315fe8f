"""sums: a residual sum lies where its branch lay, and whoever looks sees the branch as Caffe shows it."""

import numpy as np
import pytest
import torch

import caffe
from helpers import data, layer, net_from

CONV = """param { lr_mult: %d } convolution_param { num_output: 4 kernel_size: 1 bias_term: false
    weight_filler { type: "gaussian" std: 0.7 } }"""
STILL = 'batch_norm_param { use_global_stats: true }'


def block(name, bottom, shortcut, learns=1):
    """conv -> ReLU -> conv -> BatchNorm, added to the shortcut, -> ReLU; as tops name/a, name/b, name."""
    a, b = name + '/a', name + '/b'
    return (
        layer(a, 'Convolution', bottom, more=CONV % learns)
        + layer(a + '/relu', 'ReLU', a, a)
        + layer(b, 'Convolution', a, more=CONV % learns)
        + layer(b + '/bn', 'BatchNorm', b, b, STILL)
        + layer(name, 'Eltwise', f'{shortcut} {b}')
        + layer(name + '/relu', 'ReLU', name, name)
    )


def blocks(learns=1):
    """Two blocks, the first with a convolution as its shortcut; the sums s1 and s2."""
    return (
        layer('sc', 'Convolution', 'x', more=CONV % learns)
        + block('s1', 'x', 'sc', learns)
        + block('s2', 's1', 's1')
    )


NET = data('x', 1, 4, 5, 6) + blocks()
TRAINED = (
    layer(
        'x',
        'DummyData',
        more='dummy_data_param { shape { dim: 2 dim: 4 dim: 5 dim: 6 } data_filler { type: "gaussian" } }',
    )
    + '%s'
    + layer('square', 'Power', 's2', more='power_param { power: 2 }')
    + layer('loss', 'Reduction', 'square', more='loss_weight: 1e-3')
)


def pair(tmp_path, text=NET, phase=caffe.TEST):
    """The net twice, with the same weights; the second keeps all its blobs, because views of them are out."""
    nets = [net_from(tmp_path, text, phase) for _ in range(2)]
    return *nets, alike(*nets)


def alike(net, other):
    rng = np.random.RandomState(0)
    for name, blobs in net.params.items():
        for a, b in zip(blobs, other.params[name]):
            a.data[...] = b.data[...] = (
                rng.rand(*a.shape) + 0.5 if name.endswith('bn') else rng.randn(*a.shape)
            )
    return {name: blob.data for name, blob in other.blobs.items()}


def image(seed=1):
    return np.random.RandomState(seed).randn(1, 4, 5, 6).astype(np.float32)


def gone(net):
    return [name for name, blob in net.blobs.items() if blob._data.recall]


def lies_in(blob):
    return blob._data.raw.untyped_storage().data_ptr()


def test_a_sum_takes_the_branchs_memory(tmp_path, monkeypatch):
    made, convolve = [], caffe.types.conv.convolve
    monkeypatch.setattr(caffe.types.conv, 'convolve', lambda *args: made.append(convolve(*args)) or made[-1])
    net, _, _ = pair(tmp_path)
    made.clear()
    net.run_forward()
    assert gone(net) == ['s1/b', 's2/b']
    memory = [t.untyped_storage().data_ptr() for t in made]  # of sc, s1/a, s1/b, s2/a, s2/b
    assert [lies_in(net.blobs[name]) for name in ('sc', 's1', 's2')] == [memory[0], memory[2], memory[4]]


@pytest.mark.host
def test_who_looks_sees_the_branch_and_finds_it_kept_from_then_on(tmp_path):
    net, full, views = pair(tmp_path)
    for seed in 1, 2:
        net.forward(x=image(seed)), full.forward(x=image(seed))
        assert gone(full) == [] and gone(net) == (['s1/b', 's2/b'] if seed == 1 else [])
        for name in views:
            np.testing.assert_allclose(net.blobs[name].data, views[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.host
def test_the_branch_is_that_of_its_pass_whatever_is_written_since(tmp_path):
    """Into the net's input, a blob between, or the weights."""
    net, full, views = pair(tmp_path)
    net.forward(x=image()), full.forward(x=image())
    for blob in net.blobs['x'], net.blobs['s2/a'], net.params['s1/b'][0], net.params['s2/b/bn'][1]:
        blob.data[...] = 7
    for name in 's1/b', 's2/b':
        np.testing.assert_allclose(net.blobs[name].data, views[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert (net.blobs['x'].data == 7).all() and (net.blobs['s2/a'].data == 7).all()
    net.run_forward()
    assert np.allclose(net.blobs['s1/b'].data[0, :, 0, 0], net.blobs['s1/b'].data[0, :, 1, 1])  # the new ones


def test_a_range_that_begins_at_the_sum_reads_the_branch(tmp_path):
    net, full, views = pair(tmp_path)
    net.forward(x=image()), full.forward(x=image())
    net.forward(start='s2'), full.forward(start='s2')
    np.testing.assert_allclose(net.blobs['s2'].data, views['s2'], rtol=1e-5, atol=1e-6)
    by_hand = net.blobs['s2/b'].data
    by_hand[...] = -3
    top = net.forward(start='s2')['s2']
    np.testing.assert_allclose(top, np.maximum(net.blobs['s1'].data - 3, 0), rtol=1e-6)
    assert (by_hand == -3).all()


@pytest.mark.host
def test_hooks_and_reshapes_find_the_branch(tmp_path):
    net, full, views = pair(tmp_path)
    net.forward(x=image()), full.forward(x=image())
    net.blobs['s2/b'].reshape(1, 4, 2, 3)
    assert (net.blobs['s2/b'].data.ravel() == views['s2/b'].ravel()[:24]).all()
    seen = {}
    net.after_forward(lambda i: seen.update({i: net.blobs['s1/b'].tensor.clone()}))
    net.forward(x=image())
    last = net._layer_names.index('s1')
    np.testing.assert_allclose(seen[last], views['s1/b'], rtol=1e-5, atol=1e-6)


def test_branches_that_are_read_elsewhere_or_weighed_stay(tmp_path):
    for more, kept in (
        (layer('too', 'Power', 's2/b'), 's2/b'),
        (layer('sum', 'Eltwise', 's2 s2/b', more='eltwise_param { coeff: 1 coeff: -1 }'), 's2/b'),
    ):
        net = net_from(tmp_path, NET + more)
        net.run_forward()
        assert kept not in gone(net) == ['s1/b']
    for change in ('operation: PROD', 'coeff: 1 coeff: -1', 'operation: MAX'):
        text = data('x', 1, 4, 5, 6) + layer('sc', 'Convolution', 'x', more=CONV % 1)
        net = net_from(tmp_path, text + layer('s', 'Eltwise', 'x sc', more=f'eltwise_param {{ {change} }}'))
        net.run_forward()
        assert gone(net) == []


def test_a_backward_by_hand_has_its_branch(tmp_path):
    net, full, views = pair(
        tmp_path, 'force_backward: true\n' + NET + layer('l', 'Reduction', 's2', more='loss_weight: 1')
    )
    for n in (net, full):
        n.forward(x=image())
        n.backward()
    assert gone(net) == []  # a backward pass may come
    np.testing.assert_allclose(net.blobs['x'].diff, full.blobs['x'].diff, rtol=1e-4, atol=1e-5)


def solver(tmp_path, learns):
    (tmp_path / 'net').write_text(TRAINED % blocks(learns))
    (tmp_path / 'solver').write_text(
        f'train_net: "{tmp_path}/net" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1 snapshot: 0'
    )
    return caffe.SGDSolver(str(tmp_path / 'solver'))


@pytest.mark.host
@pytest.mark.parametrize('learns', [0, 1])
def test_a_solvers_pass_gives_the_same_weights_and_shows_the_branch_of_its_weights(tmp_path, learns):
    lean, full = (solver(tmp_path, learns) for _ in range(2))
    views = alike(lean.net, full.net)
    for s in (lean, full):
        caffe.set_random_seed(5)
        s.step(2)
    assert {'s1/b', 's2/b'} <= set(gone(lean.net)) and gone(full.net) == []
    for a, b in zip(lean.net.learnable_params, full.net.learnable_params):
        np.testing.assert_array_equal(a.tensor, b.tensor)
        np.testing.assert_array_equal(a.grad, b.grad)
    before = [b.data.copy() for b in lean.net.learnable_params]
    for name in reversed(views):
        np.testing.assert_allclose(lean.net.blobs[name].data, views[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert all((b.data == was).all() for b, was in zip(lean.net.learnable_params, before))
    for name, blob in full.net.blobs.items():
        np.testing.assert_allclose(lean.net.blobs[name].diff, blob.diff, rtol=1e-3, atol=1e-6, err_msg=name)
    lean.step(1)
    assert gone(lean.net) == []


@pytest.mark.host
def test_in_half_precision(tmp_path):
    caffe.set_precision('bf16')
    try:
        net, full, views = pair(tmp_path)
        for n in (net, full):
            n.forward(x=image())
        assert gone(net) == ['s1/b', 's2/b']
        for name in views:
            np.testing.assert_allclose(net.blobs[name].data, views[name], rtol=0.02, atol=0.02, err_msg=name)
    finally:
        caffe.set_precision('float32')


def test_gradients_of_a_sum_over_its_bottom():
    """Those of the sum beside it; a hook on the sum sees the gradient before the ReLU that follows in place."""
    from caffe.types.reduction import _SumOver

    a, b = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    want = torch.autograd.grad(torch.relu(a + b).square().sum(), [a, b])
    leaf, held = a.detach().clone().requires_grad_(), []
    top = _SumOver.apply(0, leaf, b)
    assert top.data_ptr() == leaf.data_ptr()
    top.register_hook(held.append)
    got = torch.autograd.grad(torch.relu_(top).square().sum(), [leaf, b])
    assert all(torch.equal(x, y) for x, y in zip([*got, *held], [*want, want[0]]))
