"""plan: chains, and what they keep."""

import weakref

import numpy as np
import pytest
import torch

import caffe
from caffe.blob import Memory, is_channels_last
from caffe.types.norm import BatchNorm
from helpers import data, layer, net_from

CONV = 'convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } }'


def test_kept_weights_follow_memory_that_is_given_anew(tmp_path):
    """Each reshape frees the parameter's memory, so the next one may well lie at an old address."""
    net = net_from(tmp_path, data('x', 1, 3, 1, 1) + layer('c', 'Convolution', 'x', more=CONV))
    weight = net.params['c'][0]
    for i in range(300):
        for shape in ((7,), (2, 3, 1, 1)) * (1 + i % 3):
            weight.reshape(*shape)
        weight.fill(torch.full((2, 3, 1, 1), float(i)))
        assert (net.forward(x=np.ones((1, 3, 1, 1)))['c'] == 3 * i).all(), i


CHAIN = (
    data('x', 2, 4, 5, 6)
    + layer('c', 'Convolution', 'x', more=CONV.replace('num_output: 2', 'num_output: 4'))
    + layer('bn', 'BatchNorm', 'c', 'c', 'batch_norm_param { use_global_stats: true }')
    + layer(
        'scale',
        'Scale',
        'c',
        'c',
        'param { lr_mult: 0 } param { lr_mult: 0 } scale_param { bias_term: true }',
    )
    + layer('relu', 'ReLU', 'c', 'c')
    + layer('loss', 'Reduction', 'c', more='loss_weight: 1')
)


def chain_net(tmp_path, kind, phase):
    net = net_from(tmp_path, CHAIN.replace('Convolution', kind, 1), phase)
    rng = np.random.RandomState(0)
    for name in ('bn', 'scale'):
        for blob in net.params[name]:
            blob.data[...] = rng.rand(*blob.shape) + 0.5
    return net


@pytest.mark.parametrize('phase', [caffe.TRAIN, caffe.TEST])
@pytest.mark.parametrize('kind', ['Convolution', 'DepthwiseConvolution', 'ConvolutionDepthwise'])
def test_chains_of_every_convolution_equal_their_layers(tmp_path, kind, phase):
    net, plain = (chain_net(tmp_path, kind, phase) for _ in range(2))
    seen = []
    plain.after_forward(seen.append)  # layers that somebody watches run one by one
    x = np.random.RandomState(1).randn(2, 4, 5, 6)
    for n in (net, plain):
        n.forward(x=x)
        n.backward()
    np.testing.assert_allclose(net.blobs['c'].data, plain.blobs['c'].data, rtol=1e-5, atol=1e-5)
    for a, b in zip(net.params['c'], plain.params['c']):
        np.testing.assert_allclose(a.diff, b.diff, rtol=1e-4, atol=1e-4)
    assert len(seen) == 6 and [len(c.layers) for c in net._runner.chains.values()] == [4]


def test_a_pass_reads_no_weights_whose_product_is_kept(tmp_path, monkeypatch):
    net, read, tensor = chain_net(tmp_path, 'Convolution', caffe.TEST), [], Memory.tensor
    net.no_backward()
    net.forward(x=np.ones((2, 4, 5, 6)))
    monkeypatch.setattr(Memory, 'tensor', lambda memory, *a: read.append(memory) or tensor(memory, *a))
    weights = {b._data for layer in net.layers for b in layer.blobs}
    net.run_forward()
    assert read and not weights & set(read)
    before = net.blobs['c'].data.copy()
    net.params['scale'][0].data[...] *= 2
    net.run_forward()
    after = net.blobs['c'].data.copy()
    assert weights & set(read) and not np.allclose(before, after)
    (chain,) = (c for c in net._runner.chains.values() if len(c.layers) > 1)
    monkeypatch.setattr(chain.head, 'packs', lambda bottoms: True)  # from now on the product is another one
    monkeypatch.setattr(chain.head, 'pack', lambda weights, rectifies: weights)
    monkeypatch.setattr(chain, 'activation', torch.relu)
    net.run_forward()
    np.testing.assert_allclose(net.blobs['c'].data, after, rtol=1e-5)


def test_fixed_factors_are_computed_once_in_training(tmp_path, monkeypatch):
    calls, original = [], BatchNorm.factor_and_shift
    monkeypatch.setattr(BatchNorm, 'factor_and_shift', lambda *a: calls.append(1) or original(*a))
    net = chain_net(tmp_path, 'Convolution', caffe.TRAIN)
    for _ in range(3):
        net.params['c'][0].data[...] += 1  # the head learns
        net.forward(x=np.ones((2, 4, 5, 6)))
        net.backward()
    assert len(calls) == 1
    before = net.blobs['c'].data.copy()
    net.params['bn'][1].data[...] *= 4
    net.forward()
    assert len(calls) == 2 and not np.allclose(net.blobs['c'].data, before)


def test_frozen_layers_that_make_less_than_they_weigh_keep_no_folded_weights(tmp_path):
    """In training; their values are those of the layers one by one, and follow the parameters."""
    text = CHAIN.replace(
        'top: "c" convolution', 'top: "c" param { lr_mult: 0 } param { lr_mult: 0 } convolution', 1
    )
    text = text.replace('kernel_size: 1', 'kernel_size: 5')  # 4 x 4 x 5 x 5 weights, 2 x 4 x 1 x 2 results
    text = text.replace('loss_weight: 1', '')
    net, plain = (net_from(tmp_path, text, caffe.TRAIN) for _ in range(2))
    plain.after_forward(lambda i: None)
    (chain,) = (c for c in net._runner.chains.values() if len(c.layers) > 1)
    rng = np.random.RandomState(0)
    for _ in range(2):
        for name in ('c', 'bn', 'scale'):
            for a, b in zip(net.params[name], plain.params[name]):
                a.data[...] = b.data[...] = rng.rand(*a.shape) + 0.5
        x = rng.randn(2, 4, 5, 6)
        net.forward(x=x), plain.forward(x=x)
        np.testing.assert_allclose(net.blobs['c'].data, plain.blobs['c'].data, rtol=1e-4, atol=1e-4)
    assert chain._late and list(chain._kept) == ['pair']


@pytest.mark.host
@pytest.mark.parametrize('held', [False, True])
def test_the_diff_of_a_chains_blob_is_multiplied_when_somebody_looks(tmp_path, held):
    net, plain = (chain_net(tmp_path, 'Convolution', caffe.TRAIN) for _ in range(2))
    plain.after_forward(lambda i: None)
    plain.after_backward(lambda i: None)
    view = net.blobs['c'].diff if held else None
    for n in (net, plain):
        n.forward(x=np.random.RandomState(1).randn(2, 4, 5, 6))
        n.backward()
    assert (net.blobs['c']._diff.factor is None) == held
    np.testing.assert_allclose(view if held else net.blobs['c'].diff, plain.blobs['c'].diff, rtol=1e-5)
    net.blobs['c'].clear_grad()
    assert (net.blobs['c'].diff == 0).all()


@pytest.mark.host
def test_a_bottom_is_put_in_order_once_for_all_its_readers(tmp_path):
    text = data('x', 1, 3, 4, 4) + ''.join(layer(n, 'Convolution', 'x', more=CONV) for n in 'ab')
    net = net_from(tmp_path, text)
    values = np.random.RandomState(0).randn(1, 3, 4, 4).astype(np.float32)
    net.blobs['x'].data[...] = values
    net.run_forward()
    assert net.blobs['x'].tensor.is_contiguous(memory_format=torch.channels_last)
    held = net.blobs['x'].data
    assert (held == values).all()
    net.run_forward()  # what somebody looks at stays where it is
    held[...] = 0
    assert (net.blobs['x'].tensor == 0).all()


@pytest.mark.parametrize('fixed', ['true', 'false'])
def test_a_batch_of_one_in_channels_last_order_has_the_gradients_of_any(tmp_path, fixed):
    norm = 'batch_norm_param { use_global_stats: %s }'
    text = (
        'force_backward: true\n'
        + data('x', 1, 4, 5, 6)
        + layer(
            'c',
            'Convolution',
            'x',
            more='convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } }',
        )
        + layer('a', 'AbsVal', 'c')
        + layer('b', 'BatchNorm', 'a', 'b', norm % 'true')
        + layer('d', 'BatchNorm', 'b', 'd', norm % fixed)
        + layer('s', 'Reduction', 'd', more='reduction_param { operation: SUMSQ } loss_weight: 1')
        + layer('p', 'Eltwise', 'd a', more='eltwise_param { operation: PROD } loss_weight: 1')
    )
    nets = [net_from(tmp_path, text, caffe.TRAIN) for _ in range(2)]
    nets[1]._runner.chains = {}
    for net in nets:
        for name in net.params.keys() - {'c'}:
            for blob in net.params[name]:
                blob.data[...] = 1
        net.forward(x=np.random.RandomState(0).randn(1, 4, 5, 6))
        net.backward()
    for name in 'xab':
        got, want = (net.blobs[name].diff for net in nets)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_tape_keeps_no_folded_weights(tmp_path, monkeypatch):
    net, plain, made = *(chain_net(tmp_path, 'Convolution', caffe.TRAIN) for _ in range(2)), []
    (chain,) = (c for c in net._runner.chains.values() if len(c.layers) > 1)
    absorb = chain.head.absorb

    def watched(*args):
        weights = absorb(*args)
        made.append(weakref.ref(weights[0].untyped_storage()))
        return weights

    monkeypatch.setattr(chain.head, 'absorb', watched)
    plain.after_forward(lambda i: None)
    for n in (net, plain):
        n.forward(x=np.random.RandomState(1).randn(2, 4, 5, 6))
    assert [made[0]()] == [None] and chain._tape
    for n in (net, plain):
        n.backward()
    assert len(made) == 2
    np.testing.assert_allclose(net.params['c'][0].diff, plain.params['c'][0].diff, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(net.blobs['c'].diff, plain.blobs['c'].diff, rtol=1e-4, atol=1e-4)


@pytest.mark.host
def test_learned_filters_lie_with_the_channels_last(tmp_path):
    """Diffs, histories and updates too, so that nothing is put into another order; a view ends it until it goes."""
    (tmp_path / 'net').write_text(
        layer('x', 'DummyData', more='dummy_data_param { shape { dim: 1 dim: 4 dim: 6 dim: 6 } }')
        + layer('c', 'Convolution', 'x', more=CONV.replace('kernel_size: 1', 'kernel_size: 3'))
        + layer('loss', 'Reduction', 'c', more='loss_weight: 1')
    )
    text = f'train_net: "{tmp_path}/net" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 snapshot: 0'
    (tmp_path / 'solver').write_text(text)
    solver = caffe.SGDSolver(str(tmp_path / 'solver'))
    blob, last = solver.net.params['c'][0], []
    before = blob.data.copy()
    for _ in range(3):
        solver.step(1)
        last.append([is_channels_last(t) for t in (blob.tensor, blob.grad, solver.history[0])])
        before -= blob.diff
        np.testing.assert_allclose(blob.data, before, rtol=1e-6)
    assert last == [[True] * 3] * 3
    view = blob.data
    solver.step(1)
    assert not is_channels_last(blob.tensor) and (view == before - blob.diff).all()


@pytest.mark.parametrize('tail', [('scale', 'relu'), ('scale',), ('bias', 'relu'), ('relu',)])
@pytest.mark.parametrize('affine', ['', 'affine: true'])
def test_group_norm_absorbs_what_follows_in_place(tmp_path, affine, tail):
    kinds = {
        'scale': layer(
            'scale', 'Scale', 'g', 'g', 'scale_param { filler { type: "gaussian" } bias_term: true }'
        ),
        'bias': layer('bias', 'Bias', 'g', 'g', 'bias_param { filler { type: "gaussian" } }'),
        'relu': layer('relu', 'ReLU', 'g', 'g'),
    }
    text = data('x', 2, 4, 5, 6) + layer(
        'c', 'Convolution', 'x', more=CONV.replace('num_output: 2', 'num_output: 4')
    )
    text += layer('g', 'GroupNorm', 'c', more=f'group_norm_param {{ group_num: 2 {affine} }}')
    text += ''.join(kinds[name] for name in tail) + layer('loss', 'Reduction', 'g', more='loss_weight: 1')
    net, plain = (net_from(tmp_path, text, caffe.TRAIN) for _ in range(2))
    plain.after_forward(lambda i: None)  # layers that somebody watches run one by one
    x = np.random.RandomState(1).randn(2, 4, 5, 6)
    for n in (net, plain):
        n.forward(x=x)
        n.backward()
    for name in ('g', 'c'):
        for what in ('data', 'diff'):
            got, want = (getattr(n.blobs[name], what) for n in (net, plain))
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=f'{name} {what}')
    for name, blobs in net.params.items():
        for a, b in zip(blobs, plain.params[name]):
            np.testing.assert_allclose(a.diff, b.diff, rtol=1e-4, atol=1e-4, err_msg=name)
    assert [len(c.layers) for c in net._runner.chains.values()] == [1, 1 + len(tail)]
