"""The command's `time`: what runs as one, what it asks, how it compares to the machine's limits."""

import itertools

import pytest

import caffe
from caffe import timing
from helpers import data, layer, net_from

LIMITS = {'conv': 8.64e-6, 'matmul': 1e-6, 'copy': 1e-3}  # a ms: 8.64 operations, 1000 bytes


@pytest.fixture
def net(tmp_path):
    text = data('x', 1, 2, 10, 6) + data('t', 1, 4, 10, 6)
    text += layer('c', 'Convolution', 'x', more='convolution_param { num_output: 4 kernel_size: 3 pad: 1 }')
    text += layer('r', 'ReLU', 'c', 'c') + layer('loss', 'EuclideanLoss', 'c t')
    return net_from(tmp_path, text, caffe.TRAIN)


@pytest.fixture
def rows(net, monkeypatch):
    """Those of x, t, c with r, and loss, on a clock that strikes each time that one looks."""
    monkeypatch.setattr(timing, '_now', map(float, itertools.count()).__next__)
    rows, passes = timing.time_net(net, 3, LIMITS)
    assert 'forward_in_net' not in vars(net._runner.chains[2])  # nothing is watched any more
    # Each of the four units looks twice going forward, and two of them going back
    assert passes == {'forward': 1000 * 9, 'backward': 1000 * 5}
    return rows


def test_a_chain_is_a_row_with_its_layers(rows):
    assert [row.names for row in rows] == [['x'], ['t'], ['c', 'r'], ['loss']]
    assert [row.kind for row in rows] == ['Input', 'Input', 'Convolution + ReLU', 'EuclideanLoss']
    assert [row.ms['forward'] for row in rows] == [1000] * 4
    assert [row.ms['backward'] for row in rows] == [0, 0, 1000, 1000]


def test_a_row_says_what_is_multiplied(rows):
    """60 places, 4 filters of 18; x has no gradient, the weights have."""
    chain, loss = rows[2:]
    assert chain.flops == {'forward': 2 * 60 * 4 * 18, 'backward': 2 * 60 * 4 * 18}
    assert loss.flops == {'forward': 0, 'backward': 0}
    assert chain.rate('forward') == pytest.approx(8640 / 1e9)


def test_the_limit_is_that_of_products_or_of_memory(rows):
    """The loss reads 240 numbers twice and writes 1; going back it reads them again and writes a diff of 240."""
    assert [row.least for row in rows[:2]] == [0, 0]
    assert [row.least for row in rows[2:]] == pytest.approx([2 * 8640 / 8.64, 4 * (481 + 721) / 1000])


def test_memory_can_be_what_limits_a_chain(net):
    """x 120, c 240, the weights 76; and back again, with the diffs of these 76."""
    rows, _ = timing.time_net(net, 1, LIMITS | {'copy': 1e-6})
    assert rows[2].least == pytest.approx(4 * (436 + 512))


def test_the_table(rows):
    lines = [line.split() for line in timing.table(rows).splitlines()]
    assert lines[1] == 'x Input 1000.000 0.000 16.7%'.split()  # which has nothing to compute
    assert lines[3] == 'c Convolution + ReLU 1000.000 1000.000 0 0 100% 33.3%'.split()
    assert lines[4] == 'loss EuclideanLoss 1000.000 1000.000 0% 33.3%'.split()
    assert lines[5] == 'total 4000.000 2000.000 0 0 33% 100.0%'.split()


def test_rows_of_a_kind_are_summed_the_longest_first(rows):
    rows[3].ms['backward'] = 1500
    sums = timing.by_kind(rows)
    assert [(row.kind, row.count, row.total) for row in sums] == [
        ('EuclideanLoss', 1, 2500),
        ('Input', 2, 2000),
        ('Convolution + ReLU', 1, 2000),
    ]
    assert timing.table(sums).splitlines()[2].split()[:5] == ['2', 'x', 'Input', '2000.000', '0.000']
