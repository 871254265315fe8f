"""Layers that map each element by itself, and Softmax. Bottom and top have the same shape; all run in place
as well."""

import math

import torch
import torch.nn.functional as F

from ..registry import layer
from ..tape import TorchLayer
from ..proto import caffe_pb2
from .helpers import canonical_axis


@layer('AbsVal', half='follows')
def abs_val(x):
    return x.abs()


@layer('BNLL')
def bnll(x):
    """log(1 + exp(x))."""
    return F.softplus(x)


@layer('Clip', half='follows')
def clip(x, *, min, max):
    """x held to [min, max]; the gradient passes at both ends."""
    return x.clamp(min, max)


@layer('Dropout', draws=True, half='follows', itemwise=True)
def dropout(x, *, dropout_ratio, scale_train, phase):
    """Zeros with probability dropout_ratio in training. The rest is scaled by 1 / (1 - dropout_ratio); with
    scale_train false it is not, and at test everything is scaled by 1 - dropout_ratio instead."""
    if not 0 <= dropout_ratio < 1:
        raise ValueError(f'dropout_ratio {dropout_ratio} is not in [0, 1)')
    keep = 1 - dropout_ratio
    if phase == caffe_pb2.TEST:
        return x.clone() if scale_train else x * keep
    y = F.dropout(x, dropout_ratio)
    return y if scale_train else y * keep


@layer('ELU', half='keeps')
def elu(x, *, alpha):
    """x above 0, alpha (exp(x) - 1) below. Clevert et al., 2016."""
    return F.elu(x, alpha)


def natural_log(base):
    """log(base), where -1 stands for e."""
    if base != -1 and base <= 0:
        raise ValueError(f'base {base} is neither positive nor -1 (for e)')
    return 1.0 if base == -1 else math.log(base)


@layer('Exp')
def exp(x, *, base, scale, shift):
    """base ^ (shift + scale x); base -1 is e."""
    return torch.exp((x * scale + shift) * natural_log(base))


@layer('Log')
def log(x, *, base, scale, shift):
    """log_base(shift + scale x); base -1 is e."""
    if base == 1:
        raise ValueError('there is no logarithm to base 1')
    return torch.log(x * scale + shift) / natural_log(base)


@layer('Power', half='keeps')
def power(x, *, power, scale, shift):
    """(shift + scale x) ^ power."""
    y = x * scale + shift
    return y if power == 1 else y**power


@layer('PReLU', half='keeps')
class PReLU(TorchLayer):
    """max(x, 0) + slope min(x, 0) with a learned slope per channel, or one for all (channel_shared); 0.25 at
    first. He et al., 2015."""

    fields = ('filler', 'channel_shared')
    itemwise = True

    def setup(self, bottom, top):
        shape = bottom[0].shape
        if len(shape) < 2:
            raise ValueError(f'PReLU wants a bottom of at least 2 axes, got the shape {shape}')
        given = self.param.HasField('filler')
        filler = self.param.filler if given else caffe_pb2.FillerParameter(type='constant', value=0.25)
        self.add_blob(() if self.field('channel_shared') else shape[1:2], filler)

    def compute(self, x):
        return F.prelu(x, self.weights[0])


@layer('ReLU', half='follows')
class ReLU(TorchLayer):
    """max(x, 0) + negative_slope min(x, 0)."""

    fields = ('negative_slope',)
    itemwise = True

    def setup(self, bottom, top):
        self.slope = self.field('negative_slope')
        self.activation = None if self.slope else torch.relu_

    def compute(self, x):
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)


@layer('Sigmoid', half='keeps', itemwise=True)
def sigmoid(x):
    return torch.sigmoid(x)


@layer('Softmax', itemwise=True)
def softmax(x, *, axis):
    """exp(x) over its sum along axis."""
    return F.softmax(x, canonical_axis(axis, x.dim()))


@layer('Swish', half='keeps')
def swish(x, *, beta):
    """x sigmoid(beta x). Ramachandran et al., 2017."""
    return x * torch.sigmoid(x * beta)


@layer('TanH', half='keeps', itemwise=True)
def tanh(x):
    return torch.tanh(x)


@layer('Threshold', nondiff=(0,))
def threshold(x, *, threshold):
    """1 where x > threshold, else 0. No gradient."""
    return (x > threshold).to(x.dtype)
