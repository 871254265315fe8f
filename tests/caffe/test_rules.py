"""Update rules against plain loops over numbers, and clipping and decay."""

import math
import types

import numpy as np
import pytest
import torch

from caffe import rules
from caffe.blob import Blob
from caffe.proto import caffe_pb2

P = types.SimpleNamespace(momentum=0.9, momentum2=0.99, rms_decay=0.8, delta=1e-3)


def by_hand(kind, t, rate, g, h, u):
    """(update, h, u) of one number."""
    m = P.momentum
    if kind == 'SGD':
        h = m * h + rate * g
        return h, h, u
    if kind == 'Nesterov':
        new = m * h + rate * g
        return (1 + m) * new - m * h, new, u
    if kind == 'AdaGrad':
        h = h + g * g
        return rate * g / (math.sqrt(h) + P.delta), h, u
    if kind == 'RMSProp':
        h = P.rms_decay * h + (1 - P.rms_decay) * g * g
        return rate * g / (math.sqrt(h) + P.delta), h, u
    if kind == 'AdaDelta':
        h = m * h + (1 - m) * g * g
        v = g * math.sqrt((P.delta + u) / (P.delta + h))
        return rate * v, h, m * u + (1 - m) * v * v
    if kind != 'Adam':
        raise KeyError(f'what the rule {kind!r} gives is to be written here, for one number')
    h, u = m * h + (1 - m) * g, P.momentum2 * u + (1 - P.momentum2) * g * g
    correction = math.sqrt(1 - P.momentum2 ** (t + 1)) / (1 - m ** (t + 1))
    return rate * correction * h / (math.sqrt(u) + P.delta), h, u


@pytest.mark.parametrize('kind', rules.RULES)
def test_three_updates(kind):
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (4,), ()]
    rule = rules.RULES[kind]
    histories = [[torch.zeros(s) for s in shapes] for _ in range(rule.histories)]
    wanted = {}
    for t in range(3):
        grads = [rng.normal(size=s).astype('f') for s in shapes]
        updates = rule(P, t, 0.1, [torch.tensor(g) for g in grads], *histories)
        for k, grad in enumerate(grads):
            for place in np.ndindex(grad.shape):
                _, h, u = wanted.get((k, place), (0, 0, 0))
                wanted[k, place] = by_hand(kind, t, 0.1, float(grad[place]), h, u)
                assert float(updates[k][place]) == pytest.approx(wanted[k, place][0], rel=1e-4, abs=1e-7)


@pytest.mark.host
def test_clipping_takes_the_norm_of_all():
    blobs = Blob(1), Blob(1, 1)
    blobs[0].diff[...], blobs[1].diff[...] = 3, 4
    assert rules.clip_scale(blobs, 2.5) == pytest.approx(0.5)
    assert rules.clip_scale(blobs, 6) == rules.clip_scale(blobs, -1) == rules.clip_scale([], 1) == 1


def test_clipping_on_a_device_gives_the_same_bits_and_looks_at_nothing():
    for norm in (0.0, 3.0, 3.3, 7.7, 1e30, float('nan')):
        factor = rules.clip_factor(torch.tensor(norm), 3.3) / 3
        number = (3.3 / float(torch.tensor(norm)) if norm > 3.3 else 1.0) / 3
        many = [[torch.randn(5, generator=torch.Generator().manual_seed(1))] for _ in range(2)]
        rules.multiply(many[0], factor), rules.multiply(many[1], number)
        assert torch.equal(*(m[0] for m in many)), norm
    whole = torch.tensor([1 / 3, -0.0, 1e-45, torch.inf])
    copy = whole.clone()
    rules.multiply([copy], rules.clip_factor(torch.tensor(2.0), 2.0))
    assert whole.numpy().tobytes() == copy.numpy().tobytes()
    grads = [torch.ones(3, device='meta')]  # whose values nobody can tell
    rules.multiply(grads, rules.clip_factor(grads[0].norm(), 2.0) / 3)


@pytest.mark.parametrize('kind, wanted', [('L2', [1 + 0.1 * -2, 2]), ('L1', [1 - 0.1, 2])])
def test_decay(kind, wanted):
    grads = [torch.tensor([1.0, 2.0])]
    rules.decay(grads, [torch.tensor([-2.0, 0.0])], 0.1, kind)
    np.testing.assert_allclose(grads[0], wanted, rtol=1e-6)


def test_a_rate_falls_by_a_cosine():
    p = caffe_pb2.SolverParameter(
        base_lr=0.4, lr_policy='cosine', max_iter=8, rampup_interval=2, rampup_lr=0.1
    )
    rates = [rules.learning_rate(p, it) for it in (0, 1, 2, 4, 6, 8, 9)]
    root = 0.4 * math.sqrt(0.5)
    assert rates == pytest.approx([0.1, 0.25, 0.2 + root / 2, 0.2, 0.2 - root / 2, 0, 0])
