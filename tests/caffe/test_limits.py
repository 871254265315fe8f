"""What the machine can do, and what layers ask of it."""

import pytest

import caffe
from caffe.limits import flops, limits
from helpers import data, layer, net_from

RECURRENT = 'recurrent_param { num_output: 3 }'
ASKED = {  # kind -> (shapes of its bottoms, its parameters, products of one forward pass)
    'Convolution': (  # 2 images, 3 x 5 places, 6 filters of 3 x 3 over half of 4 channels
        [(2, 4, 6, 10)],
        'convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 }',
        2 * 15 * 6 * 9 * 2,
    ),
    'ConvolutionDepthwise': (  # each of 4 channels has its filter
        [(1, 4, 5, 5)],
        'convolution_param { num_output: 4 kernel_size: 3 bias_term: false }',
        9 * 4 * 9,
    ),
    'Deconvolution': (  # each of 5 x 6 numbers in each of 4 channels spreads over 2 x 2 of 3
        [(2, 4, 5, 6)],
        'convolution_param { num_output: 3 kernel_size: 2 stride: 2 }',
        2 * 30 * 4 * 4 * 3,
    ),
    'InnerProduct': ([(3, 4, 2)], 'inner_product_param { num_output: 5 axis: -1 }', 12 * 2 * 5),
    'RNN': ([(7, 2, 4), (7, 2)], RECURRENT, 7 * 2 * 3 * (4 + 3 + 3)),  # from input, state; to output
    'LSTM': (  # four gates; the constant input is looked at once
        [(7, 2, 4), (7, 2), (2, 5)],
        RECURRENT,
        2 * 4 * 3 * (7 * (4 + 3) + 5),
    ),
    'Pooling': ([(1, 1, 4, 4)], 'pooling_param { kernel_size: 2 }', 0),
}


@pytest.mark.parametrize('kind', ASKED)
def test_operations_are_products_and_sums(kind, tmp_path):
    shapes, more, products = ASKED[kind]
    names = [f'b{i}' for i in range(len(shapes))]
    text = ''.join(data(name, *shape) for name, shape in zip(names, shapes))
    node = net_from(tmp_path, text + layer('L', kind, ' '.join(names), more=more))._nodes[-1]
    assert flops(node.layer, node.bottoms, node.tops) == 2 * products


def test_a_chain_asks_what_its_head_does(tmp_path):
    """10 x 6 places, 4 filters of 3 x 3 over 2 channels."""
    text = data('x', 1, 2, 10, 6) + layer(
        'c', 'Convolution', 'x', more='convolution_param { num_output: 4 kernel_size: 3 pad: 1 }'
    )
    net = net_from(tmp_path, text + layer('r', 'ReLU', 'c', 'c'))
    (chain,) = net._runner.chains.values()
    assert len(chain.layers) == 2
    assert flops(chain, net._nodes[1].bottoms, net._nodes[1].tops) == 2 * 60 * 4 * 18


def test_what_has_no_tensors_asks_nothing():
    assert flops(caffe.Layer(), [], []) == 0


@pytest.mark.parametrize('precision', ['float32', 'bf16'])
def test_a_machine_has_limits(precision, monkeypatch):
    """One run of each is measured."""
    monkeypatch.setattr('caffe.limits.SECONDS', 1e-6)
    monkeypatch.setattr('caffe.limits.SHAPES', [(8, 8, 3, 16)])
    measured = limits(precision)
    assert list(measured) == ['conv', 'matmul', 'copy'] and all(0 < v < 1e7 for v in measured.values())
