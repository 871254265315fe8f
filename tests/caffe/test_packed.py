"""packed: convolutions from filters in another order, against torch's own in double."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import caffe
from caffe.types import packed
from helpers import data, layer, net_from

HERE = torch.backends.cpu.get_cpu_capability()
pytestmark = [
    pytest.mark.skipif(packed.packed_cpu is None, reason='packed_cpu is not compiled'),
    pytest.mark.skipif(not HERE.startswith('AVX'), reason=f'the processor has no AVX2: {HERE}'),
]


@pytest.fixture(autouse=True)
def on_avx2(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def off(x, weight, bias, pad, relu):
    """How far the packed convolution is from the one in double, as a share of the largest."""
    wanted = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=pad)
    found = packed.Packed(weight, bias, relu)(x, pad)
    assert found.shape == wanted.shape and found.is_contiguous(memory_format=torch.channels_last)
    return ((found - (wanted.relu() if relu else wanted)).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(
    'images, channels, outputs, size, pad',
    [
        (1, 7, 19, (13, 9), (1, 1)),
        (2, 8, 16, (4, 4), (0, 0)),
        (3, 33, 5, (17, 6), (1, 0)),
        (1, 300, 33, (30, 41), (2, 1)),
        (5, 64, 64, (7, 7), (1, 1)),
        (1, 1, 1, (1, 1), (1, 1)),
    ],
)
def test_winograd(images, channels, outputs, size, pad):
    x, weight, bias = drawn(images, channels, *size), drawn(outputs, channels, 3, 3), drawn(outputs)
    for b, relu in (bias, True), (None, False):
        if images:
            assert off(x, weight, b, pad, relu) < 3e-5
        else:
            assert packed.Packed(weight, b, relu)(x, pad).shape == (0, outputs, *size)


@pytest.mark.parametrize('images, channels, outputs, size', [(1, 7, 16, (13, 9)), (2, 600, 48, (5, 4))])
def test_pointwise(images, channels, outputs, size):
    x, weight, bias = drawn(images, channels, *size), drawn(outputs, channels, 1, 1), drawn(outputs)
    for b, relu in (bias, True), (None, False):
        assert off(x, weight, b, (0, 0), relu) < 2e-6


def test_the_answer_does_not_depend_on_the_number_of_threads():
    x, weight = drawn(2, 24, 33, 29), drawn(32, 24, 3, 3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in 1, 2, 3:
            torch.set_num_threads(threads)
            found.append(packed.Packed(weight, None, True)(x, (1, 1)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


def test_what_is_no_number_stays_so():
    x = drawn(1, 16, 8, 8)
    x[0, 3, 2, 2] = torch.nan
    for kernel in 1, 3:
        y = packed.Packed(drawn(16, 16, kernel, kernel), None, True)(x, (kernel // 2, kernel // 2))
        assert y[0, :, 2, 2].isnan().all() and not y[0, :, 6, 6].isnan().any()


ONES = {'stride': (1, 1), 'pad': (1, 1), 'dilation': (1, 1), 'group': 1}


@pytest.mark.parametrize(
    'filters, more, answer',
    [
        ((64, 64, 3, 3), {}, True),
        ((64, 64, 3, 3), {'stride': (2, 2)}, False),
        ((64, 64, 3, 3), {'dilation': (2, 2)}, False),
        ((64, 32, 3, 3), {'group': 2}, False),
        ((64, 16, 3, 3), {}, False),
        ((64, 64, 5, 5), {'pad': (2, 2)}, False),
        ((64, 64, 1, 1), {'pad': (0, 0)}, True),
        ((64, 64, 1, 1), {}, False),
        ((72, 64, 1, 1), {'pad': (0, 0)}, False),
    ],
)
def test_what_it_is_used_for(filters, more, answer):
    x = torch.zeros(1, 64, 20, 30)
    assert packed.pays(x, filters, **{**ONES, **more}) is answer
    assert not packed.pays(x[:, :, :8, :8], filters, **{**ONES, **more})
    assert not packed.pays(x.bfloat16(), filters, **{**ONES, **more})


def test_processors_with_avx512_and_places_without_compiler_do_without(monkeypatch):
    x = torch.zeros(1, 64, 20, 30)
    assert packed.usable(x)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')
    assert not packed.usable(x)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')
    monkeypatch.setattr(packed, 'packed_cpu', None)
    assert not packed.usable(x)


CONV = 'convolution_param { num_output: 48 kernel_size: %d pad: %d weight_filler { type: "msra" } }'


def chains(phase, tmp_path, learns=0):
    """Two chains, one without a bias and one that is a convolution alone."""
    text = data('x', 1, 32, 21, 18)
    for name, kernel, bottom in ('a', 3, 'x'), ('b', 1, 'a'):
        frozen = 'param { lr_mult: %d } param { lr_mult: %d }' % (learns, learns)
        text += layer(name, 'Convolution', bottom, more=frozen + CONV % (kernel, kernel // 2))
    fixed = 'param { lr_mult: 0 } param { lr_mult: 0 }'
    text += layer('norm', 'BatchNorm', 'b', 'b', 'batch_norm_param { use_global_stats: true }')
    text += layer('scale', 'Scale', 'b', 'b', fixed + 'scale_param { bias_term: true }')
    text += layer('relu', 'ReLU', 'b', 'b') + layer('loss', 'Reduction', 'b', more='loss_weight: 1')
    net, rng = net_from(tmp_path, text, phase), np.random.RandomState(0)
    for blob in (*net.params['norm'], *net.params['scale']):
        blob.data[...] = rng.rand(*blob.shape) + 0.5
    return net


@pytest.mark.host
@pytest.mark.parametrize('phase', [caffe.TRAIN, caffe.TEST])
def test_nets_without_a_gradient_use_it_and_follow_their_weights(tmp_path, phase):
    net, plain = (chains(phase, tmp_path) for _ in range(2))
    plain.after_forward(lambda i: None)  # layers that somebody watches run one by one
    x = np.random.RandomState(1).randn(1, 32, 21, 18)
    for _ in range(2):
        for a, b in zip(net.params['a'], plain.params['a']):
            a.data[...] = b.data[...] = 2 * a.data + 0.1
        plain.params['b'][0].data[...] = net.params['b'][0].data
        for n in net, plain:
            n.forward(x=x)
        for name in 'ab':
            largest = np.abs(plain.blobs[name].data).max()
            assert np.abs(net.blobs[name].data - plain.blobs[name].data).max() < 2e-5 * largest
    for chain in net._runner.chains.values():
        assert 'packed' in chain._kept and 'weights' not in chain._kept


def test_what_takes_a_gradient_is_computed_as_before(tmp_path):
    net = chains(caffe.TRAIN, tmp_path, learns=1)
    net.forward(x=np.ones((1, 32, 21, 18)))
    assert not any('packed' in chain._kept for chain in net._runner.chains.values())


def test_a_residual_sum_is_written_over_a_packed_branch_that_comes_back(tmp_path):
    text = data('x', 1, 32, 21, 18)
    for name, kernel in ('a', 3), ('b', 1):
        text += layer(name, 'Convolution', 'x', more=CONV % (kernel, kernel // 2))
    text += layer('sum', 'Eltwise', 'a b') + layer('relu', 'ReLU', 'sum', 'sum')
    net, plain = (net_from(tmp_path, text) for _ in range(2))
    plain.after_forward(lambda i: None)
    for n in net, plain:
        n.blobs['x'].data[...] = np.random.RandomState(1).randn(1, 32, 21, 18)
        n.run_forward()
    assert [name for name in 'ab' if net.blobs[name]._data.recall] == ['b']
    for name in 'x', 'a', 'b', 'sum':
        np.testing.assert_allclose(net.blobs[name].data, plain.blobs[name].data, rtol=1e-4, atol=1e-4)
