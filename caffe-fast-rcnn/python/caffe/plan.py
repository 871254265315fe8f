"""plan: what a Net rewrites before it runs.

A chain is a Convolution, Deconvolution, InnerProduct or Eltwise followed in place by layers that its result
can absorb: BatchNorm with global statistics, Scale and Bias (per channel), and last a ReLU. The affine ones
become a factor f and a shift s of the head's weights: y = ReLU((x * W + b) f + s) = ReLU(x * (W f) + (b f +
s)). While the parameters neither change nor need a gradient the product is kept; otherwise autograd goes
through it. All layers of a chain write one blob, so whoever looks at a blob sees what Caffe shows.

On the CPU 4-d convolutions run in channels-last order, which oneDNN computes without reordering.
"""

import torch

from . import common
from .tape import TorchLayer

_HEADS = ('Convolution', 'Deconvolution', 'InnerProduct', 'Eltwise')
_AFFINE = ('BatchNorm', 'Scale', 'Bias')


class Chain(TorchLayer):
    """Layers first..last of a net, run as one; its blobs are all of theirs."""

    def __init__(self, layers, first):
        self.head, *self.tail = self.layers = layers
        self.first, self.last = first, first + len(layers) - 1
        super().__init__(self.head.layer_param)
        self.relu = self.layers[-1].type == 'ReLU'
        self._kept = None, None  # state of the blobs, folded weights
        for layer in layers:
            self.blobs.extend(layer.blobs)

    def refresh(self):
        """Take over what the Net decided for the layers."""
        self.propagate_down = self.head.propagate_down
        self.param_propagate_down = [
            p and layer.type != 'BatchNorm' for layer in self.layers for p in layer.param_propagate_down
        ]

    def compute(self, *bottoms):
        if self.head.type == 'Convolution' and common.device().type == 'cpu':
            bottoms = [_channels_last(b) for b in bottoms]
        self.head.weights = self._folded()
        output = self.head.compute(*bottoms)
        self.head.weights = []
        if not self.relu:
            return output
        if isinstance(output, tuple):
            (output,) = output
        return torch.relu(output) if self.head.type == 'Eltwise' else torch.relu_(output)

    def _folded(self):
        if any(w.requires_grad for w in self.weights):
            return self._fold()
        device = common.device()
        state = tuple(b.state for b in self.blobs), device
        if None in state[0] or self._kept[0] != state:
            folded = self._fold()
            self._kept = state, [_channels_last(w) for w in folded] if device.type == 'cpu' else folded
        return self._kept[1]

    def _fold(self):
        weights = iter(self.weights)
        folded = [next(weights) for _ in self.head.blobs]
        for layer in self.tail:
            if layer.type in _AFFINE:
                folded = _absorb(
                    self.head, folded, *_factor_and_shift(layer, [next(weights) for _ in layer.blobs])
                )
        return folded


def _channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _is_affine(layer, bottoms):
    """Whether the layer is a fixed factor and shift per channel."""
    if layer.type == 'BatchNorm':
        stated = layer.field('use_global_stats')
        return layer.phase == common.TEST if stated is None else stated
    return (
        layer.type in ('Scale', 'Bias')
        and len(bottoms) == 1
        and layer.field('axis') == 1
        and layer.field('num_axes') == 1
    )


def _factor_and_shift(layer, weights):
    """Per-channel factor and shift of an affine layer; None where there is none."""
    if layer.type == 'BatchNorm':
        mean, variance, count = weights
        count = torch.where(count == 0, 0, 1 / count)
        factor = (variance * count + layer.field('eps')).rsqrt()
        return factor, -mean * count * factor
    if layer.type == 'Bias':
        return None, weights[0]
    return weights[0], weights[1] if len(weights) > 1 else None


def _absorb(head, weights, factor, shift):
    """The head's [weight, bias] after y -> y factor + shift."""
    weight, bias = weights if len(weights) == 2 else (weights[0], None)
    if factor is not None:
        axis = (
            1
            if head.type == 'Deconvolution' or head.type == 'InnerProduct' and head.field('transpose')
            else 0
        )
        weight = weight * factor.reshape([-1 if i == axis else 1 for i in range(weight.dim())])
        bias = None if bias is None else bias * factor
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return [weight] if bias is None else [weight, bias]


def chains(nodes):
    """{index of the first layer: Chain} for a net's nodes."""
    consumers = {}
    for node in nodes:
        for version in node.bottom_versions:
            consumers[version] = consumers.get(version, 0) + 1
    found, i = {}, 0
    while i < len(nodes):
        last = _chain_end(nodes, i, consumers)
        if last > i or nodes[i].layer.type == 'Convolution':
            found[i] = Chain([node.layer for node in nodes[i : last + 1]], i)
        i = last + 1
    return found


def _chain_end(nodes, first, consumers):
    """Index of the last layer that the layer at `first` absorbs (first itself: none)."""
    head = nodes[first]
    if (
        head.layer.type not in _HEADS
        or len(head.tops) != 1
        or any(head.layer.loss_weights)
        or head.tops[0] in head.bottoms
    ):
        return first
    foldable = (
        head.layer.type != 'Eltwise'
        and head.layer.field('axis') == 1
        and (head.layer.type != 'Deconvolution' or head.layer.field('group') == 1)
    )
    last = first
    for i in range(first + 1, len(nodes)):
        node, before = nodes[i], nodes[last]
        in_place = node.bottom_versions[:1] == before.top_versions and node.top_names == before.top_names
        if not in_place or consumers[node.bottom_versions[0]] > 1 or any(node.layer.loss_weights):
            break
        if node.layer.type == 'ReLU' and not node.layer.field('negative_slope'):
            return i
        if not foldable or not _is_affine(node.layer, node.bottoms):
            break
        last = i
    return last
