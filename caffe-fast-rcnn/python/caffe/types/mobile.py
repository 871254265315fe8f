"""Layers of compact nets: depthwise convolutions, ShuffleNet's ShuffleChannel, SENet's Axpy, activations."""

import torch.nn.functional as F

from ..registry import layer
from .conv import Convolution
from .helpers import canonical_axis


@layer('ConvolutionDepthwise', 'convolution_param', half='starts')
@layer('DepthwiseConvolution', 'convolution_param', half='starts')
class DepthwiseConvolution(Convolution):
    """Convolution with as many groups as the bottom has channels, unless group is given. Howard et al.,
    MobileNets, 2017."""

    def setup(self, bottom, top):
        if not self.param.HasField('group'):
            shape = bottom[0].shape
            self.param.group = shape[canonical_axis(self.field('axis'), len(shape))]
        super().setup(bottom, top)


@layer('ShuffleChannel', half='follows')
def shuffle_channel(x, *, group):
    """Channels as (group, C / group), transposed. Zhang et al., ShuffleNet, 2017."""
    if not group or x.shape[1] % group:
        raise ValueError(f'group {group} does not divide {x.shape[1]} channels')
    return x.unflatten(1, (group, -1)).transpose(1, 2).flatten(1, 2)


@layer('Axpy', half='keeps')
def axpy(scale, x, y):
    """scale x + y with scale (N, C) or (N, C, 1, ...), x and y (N, C, ...). Hu et al., SENet, 2017."""
    if x.shape != y.shape or scale.shape[:2] != x.shape[:2] or scale.numel() != scale.shape[:2].numel():
        raise ValueError(
            f'Axpy wants a scale (N, C) and two bottoms (N, C, ...) of one shape; got '
            f'{tuple(scale.shape)}, {tuple(x.shape)} and {tuple(y.shape)}'
        )
    return scale.reshape(scale.shape[:2] + (1,) * (x.dim() - 2)) * x + y


@layer('ReLU6', half='follows')
def relu6(x):
    """x held to [0, 6]."""
    return F.relu6(x)


@layer('HardSwish', half='keeps')
@layer('HSwish', half='keeps')
def hard_swish(x):
    """x relu6(x + 3) / 6. Howard et al., MobileNetV3, 2019."""
    return F.hardswish(x)


@layer('Mish', half='keeps')
def mish(x):
    """x tanh(log(1 + exp(x))). Misra, 2019."""
    return F.mish(x)
