"""How a solver changes parameters: the learning rate by policy, and on lists of parameters clipping, decay and
the six update rules.

A new rule is one function under @rule, rule(p, t, rate, grads, *histories), for parameters of one learning rate:

    p          the SolverParameter
    t          updates done before
    rate       the learning rate of these parameters
    grads      one gradient per parameter: clipped, averaged, decayed; may be written over
    histories  as many lists as the decorator says, each one array per parameter, zeros at first, changed in place

It returns what is subtracted, one array per parameter; one of the lists given will do.
"""

import math

import torch

# The learning rate after `it` updates, by lr_policy; p is the SolverParameter.
POLICIES = {
    'fixed': lambda p, it: p.base_lr,
    'step': lambda p, it: p.base_lr * p.gamma ** (it // p.stepsize),
    'exp': lambda p, it: p.base_lr * p.gamma**it,
    'inv': lambda p, it: p.base_lr * (1 + p.gamma * it) ** -p.power,
    'multistep': lambda p, it: p.base_lr * p.gamma ** sum(it >= s for s in p.stepvalue),
    'poly': lambda p, it: p.base_lr * (1 - it / p.max_iter) ** p.power,
    'cosine': lambda p, it: p.base_lr * (1 + math.cos(math.pi * min(it / p.max_iter, 1))) / 2,
    'sigmoid': lambda p, it: p.base_lr / (1 + math.exp(-p.gamma * (it - p.stepsize))),
}


def learning_rate(p, it):
    """That after `it` updates: by the policy, once rampup_interval of them, in which it rises evenly, are done."""
    if it < p.rampup_interval:
        return p.rampup_lr + (p.base_lr - p.rampup_lr) * it / p.rampup_interval
    return POLICIES[p.lr_policy](p, it)


POLICY_NEEDS = {
    'step': ['gamma', 'stepsize'],
    'exp': ['gamma'],
    'inv': ['gamma', 'power'],
    'multistep': ['gamma'],
    'poly': ['power', 'max_iter'],
    'cosine': ['max_iter'],
    'sigmoid': ['gamma', 'stepsize'],
}
DECAYS = ('L2', 'L1')  # regularization_type

RULES = {}  # {solver type: rule}


def rule(kind, histories=1):
    """Register the update rule of the solver type `kind`, which keeps `histories` arrays per parameter."""

    def register(function):
        function.histories = histories
        RULES[kind] = function
        return function

    return register


def clip_scale(blobs, limit):
    """The factor that brings the norm of the diffs of all blobs together down to `limit`, 1 where it is no more; below
    0: no limit. On a GPU a tensor, for which nobody waits."""
    if limit < 0 or not blobs:
        return 1.0
    factor = clip_factor(torch.stack(torch._foreach_norm([blob.grad for blob in blobs])).norm(), limit)
    return float(factor) if factor.device.type == 'cpu' else factor


def clip_factor(norm, limit):
    """limit / norm where that is below 1, else 1, for a tensor (): a tensor of float64."""
    norm = norm.double()
    return torch.where(norm > limit, limit / norm, 1.0)


def multiply(grads, scale):
    """grads *= scale, a number or a tensor ()."""
    if torch.is_tensor(scale):
        torch._foreach_mul_(grads, scale.float())
    elif scale != 1:
        torch._foreach_mul_(grads, scale)


def decay(grads, weights, rate, kind):
    """grads += rate * weights (L2), or rate * the weights' signs (L1)."""
    if rate:
        torch._foreach_add_(grads, weights if kind == 'L2' else torch._foreach_sign(weights), alpha=rate)


@rule('SGD')
def sgd(p, t, rate, grads, h):
    """h = momentum h + rate g; update h (Caffe's classic momentum: the rate is inside the history)."""
    torch._foreach_mul_(h, p.momentum)
    torch._foreach_add_(h, grads, alpha=rate)
    return h


@rule('Nesterov')
def nesterov(p, t, rate, grads, h):
    """h' = momentum h + rate g; update (1 + momentum) h' - momentum h."""
    update = torch._foreach_mul(h, -p.momentum)
    torch._foreach_add_(update, sgd(p, t, rate, grads, h), alpha=1 + p.momentum)
    return update


@rule('AdaGrad')
def adagrad(p, t, rate, grads, h):
    """h = h + g^2; update rate g / (sqrt(h) + delta)."""
    torch._foreach_addcmul_(h, grads, grads)
    return _over_root(grads, rate, h, p.delta)


@rule('RMSProp')
def rmsprop(p, t, rate, grads, h):
    """h = d h + (1 - d) g^2, d = rms_decay; update rate g / (sqrt(h) + delta)."""
    _mean_of_squares(h, grads, p.rms_decay)
    return _over_root(grads, rate, h, p.delta)


@rule('AdaDelta', histories=2)
def adadelta(p, t, rate, grads, h, u):
    """h = m h + (1 - m) g^2; v = g sqrt((delta + u) / (delta + h)); u = m u + (1 - m) v^2; update rate v;
    m = momentum."""
    _mean_of_squares(h, grads, p.momentum)
    ratio = torch._foreach_add(u, p.delta)
    torch._foreach_div_(ratio, torch._foreach_add(h, p.delta))
    torch._foreach_sqrt_(ratio)
    torch._foreach_mul_(grads, ratio)
    _mean_of_squares(u, grads, p.momentum)
    torch._foreach_mul_(grads, rate)
    return grads


@rule('Adam', histories=2)
def adam(p, t, rate, grads, m, v):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; update rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v)
    + delta), t counted from 1."""
    b1, b2 = p.momentum, p.momentum2
    torch._foreach_mul_(m, b1)
    torch._foreach_add_(m, grads, alpha=1 - b1)
    _mean_of_squares(v, grads, b2)
    torch._foreach_copy_(grads, m)
    return _over_root(grads, rate * math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1)), v, p.delta)


def _mean_of_squares(h, values, keep):
    """h = keep h + (1 - keep) values^2."""
    torch._foreach_mul_(h, keep)
    torch._foreach_addcmul_(h, values, values, value=1 - keep)


def _over_root(values, rate, h, delta):
    """values = rate values / (sqrt(h) + delta), returned."""
    root = torch._foreach_sqrt(h)
    torch._foreach_add_(root, delta)
    torch._foreach_mul_(values, rate)
    torch._foreach_div_(values, root)
    return values
