"""plan: what a Net rewrites before it runs.

A chain is a head followed in place by layers that its result can absorb: affine ones per channel, and last an
activation. Layers say what they are (see TorchLayer): a head's absorb(weights, f, s) gives [W f, b f + s], an affine
layer's factor_and_shift(weights) gives f and s: y = ReLU((x * W + b) f + s) = ReLU(x * (W f) + (b f + s)). While
the parameters neither change nor need a gradient the products are kept; otherwise autograd goes through them,
with one f and one s for all that is affine. All layers of a chain write one blob, so whoever looks at a blob sees
what Caffe shows.

On the CPU, and in half precision, 4-d convolutions run in channels-last order, which oneDNN and a GPU's matrix units
compute without reordering. A chain's weights are made narrow once they are folded, and its result is, where a later
product reads it.
"""

import contextlib
import functools

import torch

from . import common
from .blob import channels_last, storage
from .tape import TorchLayer, undoing


class Chain(TorchLayer):
    """Layers first..last of a net, run as one; its blobs are all of theirs."""

    def __init__(self, layers, first):
        self.head, *tail = self.layers = layers
        self.first, self.last = first, first + len(layers) - 1
        super().__init__(self.head.layer_param)
        self.half, self.narrow = self.head.half, layers[-1].narrow
        self.absorbs = self.head.absorbs
        self.affine = [layer for layer in tail if layer.is_affine]
        self.activation = layers[-1].activation
        self._factor = None  # of all that is affine, as last folded
        self._late = False  # the affine layers change the result, not the weights
        self._at_head = []  # the gradient before the activation, while backward runs
        self._took = 'weights'  # or 'packed': what the last run took
        self._kept = {}  # what -> (state of the blobs it was computed from, the result)
        for layer in layers:
            self.blobs.extend(layer.blobs)

    def refresh(self):
        """Take over what the Net decided for the layers."""
        self.propagate_down = self.head.propagate_down
        self.param_propagate_down = [p for layer in self.layers for p in layer.param_propagate_down]
        learned = zip(self.head.blobs, self.head.param_propagate_down)
        self._filters = [blob for blob, learns in learned if learns or not self.affine]

    def forward(self, bottom, top):
        if self.head.channels_last and _ordered():
            for blob in bottom + self._filters:
                blob.reorder()
        # In training, folded weights of frozen layers that make less than they weigh are not worth their memory
        frozen = not any(self.propagate_down) and not any(self.param_propagate_down)
        small = self.affine and top[0].count < self.blobs[0].count
        self._late = bool(small and frozen and self.phase == common.TRAIN)
        super().forward(bottom, top)

    def forward_joined(self, bottom, top, inputs, leaf):
        if self.head.channels_last and _ordered():
            for blob in self._filters:
                blob.reorder()
        self._late = False
        return super().forward_joined(bottom, top, inputs, leaf)

    def _joined_weights(self, leaf):
        """Those of the head alone where nothing else is learned: the rest is kept as a pair."""
        count = len(self.head.blobs)
        learned = any(self.param_propagate_down[count:])
        pairs = zip(self.blobs, self.param_propagate_down if learned else self.param_propagate_down[:count])
        return [leaf(b) if p else b.tensor for b, p in pairs]

    def compute(self, *bottoms):
        if self.head.channels_last and _ordered():
            bottoms = [channels_last(b) for b in bottoms]
        self._took = 'weights'
        if not self.blobs:
            return self._act(self.head.compute(*bottoms))
        if not self._late and not torch.is_grad_enabled() and self.head.packs(bottoms):
            self._took = 'packed'
            return self._compute_packed(bottoms)
        if self._late:
            self._kept.pop('weights', None)
            weights = self.weights[: len(self.head.blobs)]
            self.head.weights = self.head.narrowed(weights, bottoms[0].dtype)
        else:
            fold = lambda: self._fold(bottoms[0].dtype)
            self.head.weights = self._keep('weights', fold, self.blobs, self.weights)
        with self._without_products(self.head.weights, bottoms[0].dtype):
            output = self.head.compute(*bottoms)
        self.head.weights = []
        return self._act(output)

    def _act(self, output):
        """What the head gives, after the layers that are not folded into its weights."""
        if len(self.layers) == 1:
            return output
        if isinstance(output, tuple):
            (output,) = output
        if self._late:
            _apply(output, *self._pair())
        if not self.joined and output.requires_grad:
            self._at_head = []
            output.register_hook(self._at_head.append)
        return self.activation(output) if self.activation else output

    def _compute_packed(self, bottoms):
        """compute, from folded weights in another form, which are all that is kept of them."""
        rectifies = self.activation is torch.relu_
        pack = lambda: self.head.pack(self._fold(bottoms[0].dtype), rectifies)
        self.head.weights = self._keep('packed', pack, self.blobs, self.weights)
        outputs = self.head.compute(*bottoms)
        self.head.weights = []
        return outputs if rectifies or not self.activation else self.activation(*outputs)

    def narrowed(self, weights, dtype):
        """As they are: what is folded is made narrow."""
        return weights

    def backward(self, top, propagate_down, bottom):
        """As TorchLayer's. The top's diff is then that of the head's result, as layers in place leave it."""
        self._at_head.clear()
        super().backward(top, propagate_down, bottom)
        for grad in self._at_head:
            scaled = self._factor is not None and self.affine[0].propagate_down[0]
            outputs = self._tape[-1]
            factor, grad = undoing(outputs), grad.to(outputs[0].dtype)
            if scaled:
                factor = _per_channel(self._factor, grad) * (1 if factor is None else factor)
            top[0].take_grad(grad, bottom, factor)  # few look at it, so the product waits until one does
        self._at_head.clear()

    def as_now(self, bottoms):
        """What sets a memory to what the last run gave, whatever is written to these bottoms or to the weights by then;
        None where that would want copies, or a backward pass may come."""
        if self._tape or self._took not in self._kept or None in [b.state for b in [*bottoms, *self.blobs]]:
            return None
        inputs, weights = [b._data.lend(b.held) for b in bottoms], self._kept[self._took][1]
        for blob in self.head.blobs if self._took == 'weights' else ():
            weights = [blob._data.lend(w) for w in weights]
        return functools.partial(self._set, inputs, weights, *self._widths(inputs))

    def _set(self, inputs, weights, computes, makes, memory):
        self.head.weights = weights
        with torch.no_grad():
            (output,) = self._run([x.to(computes) for x in inputs], self.head.compute)
        self.head.weights = []
        memory.set(output.to(makes))

    def _keep(self, what, compute, blobs, weights):
        """compute(), or its result of before when no blob may have changed and none of their `weights` takes a
        gradient."""
        if any(w.requires_grad for w in weights):
            return compute()
        state = common.device(), common.precision(), *(b.state for b in blobs)
        if None in state or what not in self._kept or self._kept[what][0] != state:
            self._kept[what] = state, compute()
        return self._kept[what][1]

    def _leaves(self, needs):
        """As TorchLayer's; none where nothing is learned: what folds the blobs then reads them itself, as most passes
        need not."""
        return super()._leaves(needs) if any(needs) or self._late else []

    def _read(self, first, last):
        """Weights first..last - 1: as compute has got them, those that it has not as they are."""
        blobs = enumerate(self.blobs[first:last], first)
        return [self.weights[i] if i < len(self.weights) else blob.tensor for i, blob in blobs]

    def _fold(self, dtype):
        """The head's weights after all that is affine, for bottoms of this type; kept ones are in the order that
        convolutions like."""
        count = len(self.head.blobs)
        weights = self._read(0, count)
        if self.affine:
            factor, shift = self._pair()
            weights = self.head.absorb(weights, factor, shift)
            self._factor = None if factor is None else factor.detach()
        weights = self.head.narrowed(weights, dtype)
        if _ordered() and not any(w.requires_grad for w in weights):
            weights = [channels_last(w) for w in weights]
        return weights

    def _without_products(self, weights, dtype):
        """A context in which a tape does not keep these folded weights: backward computes them again."""
        if self.joined:
            return contextlib.nullcontext()
        places = {storage(w): i for i, w in enumerate(weights) if w.requires_grad}
        if not self.affine or not places:
            return contextlib.nullcontext()
        learned = [w.detach() for w in self.weights[: len(self.head.blobs)]]
        pair = [None if t is None else t.detach() for t in self._pair()]
        again = lambda: self.head.narrowed(self.head.absorb(learned, *pair), dtype)
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: places.get(storage(tensor), tensor),
            lambda kept: kept if torch.is_tensor(kept) else again()[kept],
        )

    def _pair(self):
        count = len(self.head.blobs)
        return self._keep('pair', self._factor_and_shift, self.blobs[count:], self.weights[count:])

    def _factor_and_shift(self):
        """The affine layers as one."""
        weights = iter(self._read(len(self.head.blobs), len(self.blobs)))
        factor = shift = None
        for layer in self.affine:
            f, s = layer.factor_and_shift([next(weights) for _ in layer.blobs])
            shift = shift if f is None or shift is None else shift * f
            shift = s if shift is None else shift if s is None else shift + s
            factor = f if factor is None else factor if f is None else factor * f
        return factor, shift


def _ordered():
    """Whether channels are laid out last."""
    return common.half() is not None or common.device().type == 'cpu'


def _apply(output, factor, shift):
    """output = output factor + shift, in place."""
    if factor is not None:
        output.mul_(_per_channel(factor, output))
    if shift is not None:
        output.add_(_per_channel(shift, output))


def _per_channel(values, like):
    """values (C,), to be broadcast over (N, C, ...)."""
    return values.view(-1, *[1] * (like.dim() - 2))


def mark_narrow(nodes):
    """Let each layer know whether a product (half 'starts') reads its tops, itself or by way of layers that keep them
    as narrow as they are. What nothing reads is not narrow either."""
    wanted = set()  # versions
    for node in reversed(nodes):
        passes = any(version in wanted for version in node.top_versions)
        if isinstance(node.layer, TorchLayer):
            node.layer.narrow = passes
        if node.layer.half == 'starts' or node.layer.half and passes:
            wanted.update(node.bottom_versions)


def chains(nodes):
    """{index of the first layer: Chain} for a net's nodes."""
    consumers = {}
    for node in nodes:
        for version in node.bottom_versions:
            consumers[version] = consumers.get(version, 0) + 1
    found, i = {}, 0
    while i < len(nodes):
        last = _chain_end(nodes, i, consumers)
        if last > i or isinstance(nodes[i].layer, TorchLayer) and nodes[i].layer.channels_last:
            found[i] = Chain([node.layer for node in nodes[i : last + 1]], i)
        i = last + 1
    return found


def _chain_end(nodes, first, consumers):
    """Index of the last layer that the layer at `first` absorbs (first itself: none)."""
    head = nodes[first]
    if (
        not isinstance(head.layer, TorchLayer)
        or not head.layer.is_head
        or len(head.tops) != 1
        or any(head.layer.loss_weights)
        or head.tops[0] in head.bottoms
    ):
        return first
    last = first
    for i in range(first + 1, len(nodes)):
        node, before = nodes[i], nodes[last]
        in_place = node.bottom_versions == before.top_versions and node.top_names == before.top_names
        if not in_place or consumers[node.bottom_versions[0]] > 1 or any(node.layer.loss_weights):
            break
        if not isinstance(node.layer, TorchLayer):
            break
        if node.layer.activation:
            return i
        if not head.layer.absorbs or not node.layer.is_affine:
            break
        last = i
    return last
