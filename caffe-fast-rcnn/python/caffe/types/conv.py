"""Layers that multiply by a learned matrix: Convolution, Deconvolution, InnerProduct, Embed; and Im2col, the
bare rearrangement.

Shapes: N batch, C channels of the bottom, O num_output, G group, k kernel_size; spatial axes of any number
follow the channel axis.
"""

import math

import torch
import torch.nn.functional as F

from ..registry import layer
from ..tape import TorchLayer
from . import packed
from .helpers import as_index, canonical_axis, per_axis

GEOMETRY = (
    'kernel_size',
    'kernel_h',
    'kernel_w',
    'stride',
    'stride_h',
    'stride_w',
    'pad',
    'pad_h',
    'pad_w',
    'dilation',
)


def geometry(field, n):
    """(kernel, stride, pad, dilation), each with a number for each of n spatial axes. field(name) reads a
    ConvolutionParameter."""
    pair = lambda name: (field(name + '_h'), field(name + '_w'))
    return (
        per_axis('kernel_size', field('kernel_size'), pair('kernel'), n),
        per_axis('stride', field('stride'), pair('stride'), n, 1),
        per_axis('pad', field('pad'), pair('pad'), n, 0),
        per_axis('dilation', field('dilation'), (), n, 1),
    )


class _Linear(TorchLayer):
    """A head of chains: weight, whose axis out_axis runs over the outputs, and with bias_term bias (O,)."""

    is_head, out_axis = True, 0

    @property
    def absorbs(self):
        return self.field('axis') == 1

    @property
    def itemwise(self):
        return self.axis == 1

    def products(self, bottom, top):
        return sum(t.count for t in top) * self.blobs[0].count // self.field('num_output')

    def absorb(self, weights, factor, shift):
        """The weights after y -> y factor + shift, (O,) each or None."""
        weight, bias = weights if len(weights) == 2 else (weights[0], None)
        if factor is not None:
            along = [-1 if i == self.out_axis else 1 for i in range(weight.dim())]
            weight, bias = weight * factor.reshape(along), None if bias is None else bias * factor
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return [weight] if bias is None else [weight, bias]


class _Filters(_Linear):
    """What Convolution and Deconvolution share. Several bottoms give as many tops, by the same filters."""

    fields = GEOMETRY + ('num_output', 'bias_term', 'group', 'weight_filler', 'bias_filler', 'axis')

    def setup(self, bottom, top):
        shape = bottom[0].shape
        self.axis = canonical_axis(self.field('axis'), len(shape))
        channels, outputs, self.group = shape[self.axis], self.field('num_output'), self.field('group')
        if not outputs:
            raise ValueError('num_output must be given and positive')
        if not self.group or channels % self.group or outputs % self.group:
            raise ValueError(
                f'group {self.group} does not divide both the {channels} channels and num_output {outputs}'
            )
        kernel, self.stride, self.pad, self.dilation = geometry(self.field, len(shape) - self.axis - 1)
        self.add_blob(self.filter_shape(channels, outputs) + kernel, self.field('weight_filler'))
        if self.field('bias_term'):
            self.add_blob((outputs,), self.field('bias_filler'))

    @property
    def itemwise(self):
        return self.axis == 1 and 1 <= len(self.stride) <= 3  # im2col wants items

    def compute(self, *xs):
        weight, bias = self.weights[0], self.weights[1] if len(self.weights) > 1 else None
        tops = []
        for x in xs:
            lead, rest = x.shape[: self.axis], x.shape[self.axis :]
            y = self.apply(x if self.axis == 1 else x.reshape(math.prod(lead), *rest), weight, bias)
            tops.append(y if self.axis == 1 else y.reshape(lead + y.shape[1:]))
        return tuple(tops)


@layer('Convolution', half='starts')
class Convolution(_Filters):
    """Bottom (N, C, ...) to top (N, O, ...); filters (O, C / G, k...), bias (O,)."""

    channels_last = True

    def filter_shape(self, channels, outputs):
        return outputs, channels // self.group

    def packs(self, bottoms):
        shape = self.blobs[0].shape
        return self.axis == 1 and all(
            packed.pays(x, shape, self.stride, self.pad, self.dilation, self.group) for x in bottoms
        )

    def pack(self, weights, relu):
        return [packed.Packed(weights[0], weights[1] if len(weights) > 1 else None, relu)]

    def apply(self, x, weight, bias):
        if isinstance(weight, packed.Packed):
            return weight(x, self.pad)
        return convolve(x, weight, bias, self.stride, self.pad, self.dilation, self.group)


@layer('Deconvolution', 'convolution_param', half='starts')
class Deconvolution(_Filters):
    """The transpose of Convolution: bottom (N, C, ...) to top (N, O, stride (size - 1) + extent - 2 pad);
    filters (C, O / G, k...), bias (O,)."""

    out_axis = 1

    @property
    def absorbs(self):
        return super().absorbs and self.group == 1

    def products(self, bottom, top):
        return sum(b.count for b in bottom) * self.blobs[0].count // self.blobs[0].shape[0]

    def filter_shape(self, channels, outputs):
        return channels, outputs // self.group

    def apply(self, x, weight, bias):
        return deconvolve(x, weight, bias, self.stride, self.pad, self.dilation, self.group)


def convolve(x, weight, bias, stride, pad, dilation, group):
    """Convolution over any number of spatial axes: torch's own for 1 to 3, by im2col otherwise."""
    n = weight.dim() - 2
    if 1 <= n <= 3:
        return (F.conv1d, F.conv2d, F.conv3d)[n - 1](x, weight, bias, stride, pad, dilation, group)
    return weigh(im2col(x, weight.shape[2:], stride, pad, dilation), weight, bias, group)


def weigh(columns, weight, bias, group):
    """What im2col gives, (N, C k..., out...), times the filters: (N, O, out...)."""
    (n, _, *out), outputs = columns.shape, len(weight)
    columns = columns.reshape(n, group, weight[0].numel(), math.prod(out))
    y = torch.einsum('gok,ngkl->ngol', weight.reshape(group, outputs // group, -1), columns)
    y = y.reshape(n, outputs, *out)
    return y if bias is None else y + bias.reshape(-1, *[1] * len(out))


def deconvolve(x, weight, bias, stride, pad, dilation, group):
    """The transpose of convolve: torch's own for 1 to 3 spatial axes; otherwise a convolution of x, spread
    out by stride, with mirrored filters."""
    n, kernel = weight.dim() - 2, weight.shape[2:]
    if 1 <= n <= 3:
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
        return transposed(x, weight, bias, stride, pad, 0, group, dilation)
    spread = x.new_zeros(*x.shape[:2], *[s * (d - 1) + 1 for s, d in zip(stride, x.shape[2:])])
    spread[(..., *[slice(None, None, s) for s in stride])] = x
    rims = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, pad)]
    spread = F.pad(spread, [r for rim in reversed(rims) for r in (rim, rim)])
    mirrored = weight.reshape(group, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    mirrored = mirrored.flip(tuple(range(2, n + 2)))
    return convolve(spread, mirrored, bias, (1,) * n, (0,) * n, dilation, group)


def im2col(x, kernel, stride, pad, dilation):
    """(N, C, size...) -> (N, C k..., out...): under each output position the patch that a convolution would
    weigh, channel by channel."""
    n = len(kernel)
    x = F.pad(x, [p for p in reversed(pad) for _ in range(2)])
    for i in range(n):
        extent = dilation[i] * (kernel[i] - 1) + 1
        if extent > x.shape[2 + i]:
            raise ValueError(
                f'kernel of extent {extent} is larger than the padded bottom, {x.shape[2 + i]}, '
                f'on spatial axis {i}'
            )
        x = x.unfold(2 + i, extent, stride[i])[..., :: dilation[i]]
    x = x.permute(0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
    return x.reshape(x.shape[0], math.prod(x.shape[1 : 2 + n]), *x.shape[2 + n :])


@layer('Im2col', 'convolution_param')
class Im2col(TorchLayer):
    """Bottom (N, C, ...) to top (N, C k..., out...), the columns of Convolution. All axes after `axis` are
    spatial."""

    fields = GEOMETRY + ('axis',)

    def compute(self, x):
        axis = canonical_axis(self.field('axis'), x.dim())
        lead = x.shape[:axis]
        y = im2col(x.reshape(math.prod(lead), *x.shape[axis:]), *geometry(self.field, x.dim() - axis - 1))
        return y.reshape(lead + y.shape[1:])


@layer('InnerProduct', half='starts')
class InnerProduct(_Linear):
    """Flattens the axes from `axis` on to K and gives (..., O) = bottom weight^T + bias; weight (O, K), or
    (K, O) with transpose."""

    fields = ('num_output', 'bias_term', 'weight_filler', 'bias_filler', 'axis', 'transpose')

    def setup(self, bottom, top):
        outputs = self.field('num_output')
        if not outputs:
            raise ValueError('num_output must be given and positive')
        shape = bottom[0].shape
        self.axis = canonical_axis(self.field('axis'), len(shape))
        self.out_axis = int(self.field('transpose'))
        inputs = math.prod(shape[self.axis :])
        shape = (inputs, outputs) if self.field('transpose') else (outputs, inputs)
        self.add_blob(shape, self.field('weight_filler'))
        if self.field('bias_term'):
            self.add_blob((outputs,), self.field('bias_filler'))

    def compute(self, x):
        weight, *bias = self.weights
        return F.linear(x.flatten(self.axis), weight.t() if self.field('transpose') else weight, *bias)


@layer('Embed', nondiff=(0,))
class Embed(TorchLayer):
    """Row weight[i] (+ bias) for each whole number i of the bottom: (...) -> (..., O); weight (input_dim, O).
    No gradient to the bottom."""

    fields = ('num_output', 'input_dim', 'bias_term', 'weight_filler', 'bias_filler')

    def setup(self, bottom, top):
        outputs, inputs = self.field('num_output'), self.field('input_dim')
        if not outputs or not inputs:
            raise ValueError(
                f'num_output and input_dim must be given and positive; got {outputs} and {inputs}'
            )
        self.add_blob((inputs, outputs), self.field('weight_filler'))
        if self.field('bias_term'):
            self.add_blob((outputs,), self.field('bias_filler'))

    def compute(self, x):
        weight, *bias = self.weights
        y = F.embedding(as_index(x, len(weight), 'input'), weight)
        return y + bias[0] if bias else y
