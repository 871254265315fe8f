"""Fillers: how a parameter blob gets its first values (FillerParameter).

In the formulas fan_in = count / shape[0] and fan_out = count / shape[1], as in Caffe, and
n = fan_in, fan_out or their mean (variance_norm). All draws come from torch's global CPU generator.
"""

import difflib
import math

import torch

from .proto import caffe_pb2


def _fan(shape, filler):
    count = math.prod(shape)
    if not count:
        raise ValueError(
            f'filler {filler.type!r}: a blob of the shape {shape} has no inputs or outputs to scale by'
        )
    fan_in = count / shape[0] if shape else 1
    fan_out = count / shape[1] if len(shape) > 1 else count
    norm = caffe_pb2.FillerParameter.VarianceNorm.Name(filler.variance_norm)
    return {'FAN_IN': fan_in, 'FAN_OUT': fan_out, 'AVERAGE': (fan_in + fan_out) / 2}[norm]


def constant(shape, filler):
    return torch.full(shape, filler.value)


def uniform(shape, filler):
    return torch.empty(shape).uniform_(filler.min, filler.max)


def gaussian(shape, filler):
    """N(mean, std); with sparse >= 0 a value is kept with probability sparse / shape[0], else zero."""
    values = torch.empty(shape).normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        values *= torch.rand(shape) < filler.sparse / shape[0]
    return values


def positive_unitball(shape, filler):
    """Uniform in [0, 1], then each shape[0] slice is divided by its sum."""
    values = torch.rand(shape)
    return (values.flatten(1) / values.flatten(1).sum(1, keepdim=True)).reshape(shape)


def xavier(shape, filler):
    """U(-a, a), a = sqrt(3 / n). Glorot and Bengio 2010."""
    a = math.sqrt(3 / _fan(shape, filler))
    return torch.empty(shape).uniform_(-a, a)


def msra(shape, filler):
    """N(0, sqrt(2 / n)). He et al. 2015."""
    return torch.empty(shape).normal_(0, math.sqrt(2 / _fan(shape, filler)))


def bilinear(shape, filler):
    """The kernel of bilinear upsampling by f = ceil(width / 2), for all pairs of channels; (.., .., k, k)."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ValueError(f"filler 'bilinear' wants a blob of four axes with height = width, got {shape}")
    k = shape[3]
    f = math.ceil(k / 2)
    centre = (2 * f - 1 - f % 2) / (2 * f)
    ramp = 1 - (torch.arange(k) / f - centre).abs()
    return torch.outer(ramp, ramp).expand(shape).clone()


FILLERS = {f.__name__: f for f in (constant, uniform, gaussian, positive_unitball, xavier, msra, bilinear)}


def fill(shape, filler):
    """A float32 CPU tensor of `shape` filled as the FillerParameter says.

    Raises ValueError for an unknown type, for `sparse` with anything but gaussian, and for a shape the filler
    cannot fill.
    """
    shape = tuple(int(d) for d in shape)
    if filler.type not in FILLERS:
        near = difflib.get_close_matches(filler.type, FILLERS, 1)
        raise ValueError(
            f'unknown filler type {filler.type!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
            + f' Known: {", ".join(FILLERS)}'
        )
    if filler.sparse != -1 and (filler.type != 'gaussian' or filler.sparse < 0):
        raise ValueError(f'filler {filler.type!r}: sparse {filler.sparse}, but only gaussian knows it')
    return FILLERS[filler.type](shape, filler)
