"""Fillers: ranges, moments and exact values."""

import math

import pytest
import torch

from caffe.filler import fill
from caffe.proto import caffe_pb2


def filled(shape, **fields):
    torch.manual_seed(1)
    values = fill(shape, caffe_pb2.FillerParameter(**fields))
    assert values.dtype == torch.float32 and values.shape == torch.Size(shape) and values.device.type == 'cpu'
    return values


def test_constant_is_the_default_type():
    assert (filled((2, 3)) == 0).all()
    assert (filled((2, 3), value=1.5) == 1.5).all()
    assert filled((), value=2) == 2


def test_uniform_fills_its_range():
    values = filled((100, 100), type='uniform', min=-2, max=6)
    assert -2 <= values.min() < -1.9 and 5.9 < values.max() <= 6
    assert abs(values.mean() - 2) < 0.1


def test_gaussian_has_its_moments():
    values = filled((100, 100), type='gaussian', mean=3, std=0.5)
    assert abs(values.mean() - 3) < 0.02 and abs(values.std() - 0.5) < 0.02


def test_sparse_gaussian_keeps_as_many_per_output():
    """A column of 50 values (shape[0] = 50) keeps 5 on average: a share of 5 / 50."""
    values = filled((50, 400), type='gaussian', sparse=5)
    assert abs((values != 0).float().mean() - 0.1) < 0.01
    assert (filled((50, 4), type='gaussian', sparse=0) == 0).all()


def test_positive_unitball_sums_to_one():
    values = filled((6, 3, 4), type='positive_unitball')
    assert (values >= 0).all()
    torch.testing.assert_close(values.sum((1, 2)), torch.ones(6))


# shape (20, 10, 3, 3): fan_in 90, fan_out 180, mean 135
@pytest.mark.parametrize('norm, n', [('FAN_IN', 90), ('FAN_OUT', 180), ('AVERAGE', 135)])
def test_xavier_and_msra_scale_with_the_fan(norm, n):
    norm = caffe_pb2.FillerParameter.VarianceNorm.Value(norm)
    values = filled((20, 10, 3, 3), type='xavier', variance_norm=norm)
    bound = math.sqrt(3 / n)
    assert 0.98 * bound < values.abs().max() <= bound
    values = filled((20, 10, 3, 3), type='msra', variance_norm=norm)
    assert abs(values.std() / math.sqrt(2 / n) - 1) < 0.05


def test_bilinear_upsamples_a_ramp():
    """The 4x4 kernel for factor 2 is the outer product of 1/4 3/4 3/4 1/4."""
    values = filled((2, 1, 4, 4), type='bilinear')
    side = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(values[1, 0], torch.outer(side, side))
    side = torch.tensor([1, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(filled((1, 1, 5, 5), type='bilinear')[0, 0], torch.outer(side, side))


def test_the_seed_decides():
    for kind in ('uniform', 'gaussian', 'xavier', 'msra', 'positive_unitball'):
        assert torch.equal(filled((3, 4), type=kind), filled((3, 4), type=kind))


def test_a_vector_can_be_filled_by_fan():
    assert filled((7,), type='xavier').abs().max() <= math.sqrt(3)


@pytest.mark.parametrize(
    'shape, fields, wanted',
    [
        ((2, 2), dict(type='guassian'), "guassian.*'gaussian'.*Known: constant, uniform"),
        ((2, 2, 3, 4), dict(type='bilinear'), 'bilinear.*height = width.*3, 4'),
        ((4, 4), dict(type='bilinear'), 'bilinear.*four axes'),
        ((2, 2), dict(type='uniform', sparse=1), 'sparse 1'),
        ((0, 2), dict(type='xavier'), 'xavier.*0, 2'),
    ],
)
def test_errors_name_the_filler(shape, fields, wanted):
    with pytest.raises(ValueError, match=wanted):
        filled(shape, **fields)
