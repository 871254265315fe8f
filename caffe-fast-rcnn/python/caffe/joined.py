"""joined: a solver's pass under one tape.

Layer by layer, each with a tape of its own, a pass costs the host more than a GPU needs to compute it. Where nobody is
to see the diffs between layers, the layers that learn hang on one tape instead, and torch runs all of them backward in
one call. Blobs get the values that they would have; the diffs between layers come back when somebody looks (released.py),
and from then on passes run layer by layer, as they do with hooks and with layers whose backward is not torch's.
"""

import dis

import torch

from . import common
from .blob import storage
from .tape import TorchLayer

DEVICES = {'cuda'}  # types of those where it pays


def _nothing(self, top, propagate_down, bottom):
    pass


def _passes_nothing(layer):
    """Whether a user's layer has a backward without a statement: no gradient passes it."""
    function = type(layer).backward
    return hasattr(function, '__code__') and _does(function) == _does(_nothing)


def _does(function):
    return [(step.opname, step.argval) for step in dis.get_instructions(function)]


class Joined:
    """What a Runner's passes under one tape need."""

    def __init__(self, nodes, losses):
        self._nodes = [node for node in nodes if node.need_backward]
        self._torch = all(isinstance(n.layer, TorchLayer) or _passes_nothing(n.layer) for n in self._nodes)
        self._ends = not any(losses.keys() & set(n.bottom_versions) for n in self._nodes)  # at its losses
        self._hangs = {}  # version -> its tensor on the tape
        self._leaves = {}  # id of a memory -> (the learned blob, its tensor on the tape)
        self._roots = []  # (tensor of a loss, its weight)

    def possible(self, released):
        """Whether the next pass may run so."""
        diffs = released.keeps_no_diffs() and not any(b._diff.view is not None for b in released.between)
        return common.device().type in DEVICES and self._torch and self._ends and diffs

    def begin(self):
        self._hangs, self._leaves, self._roots = {}, {}, []

    def run(self, unit, node, last):
        """Run a layer, or a chain, that begins at `node` and ends at the node `last`."""
        if not isinstance(unit, TorchLayer):
            unit.forward_in_net(node.bottoms, node.tops)
            return
        inputs = [self._hangs.get(v) for v in node.bottom_versions]
        inputs = [b.held if x is None else x for b, x in zip(node.bottoms, inputs)]
        outputs = unit.forward_joined(node.bottoms, node.tops, inputs, self._leaf)
        self._hangs.update(zip(last.top_versions, outputs))
        for output, weight in zip(outputs, node.layer.loss_weights):
            if weight and output.requires_grad:
                self._roots.append((output, weight))

    def _leaf(self, blob):
        key = id(blob._data)
        if key not in self._leaves:
            self._leaves[key] = blob, blob.tensor.detach().requires_grad_()
        return self._leaves[key][1]

    def backward(self):
        """Add the gradients to the learned blobs' diffs."""
        leaves, roots, scale = list(self._leaves.values()), self._roots, common.loss_scale()
        self.begin()
        if not roots or not leaves:
            return
        weights = [torch.full_like(y, weight * scale) for y, weight in roots]
        grads = torch.autograd.grad([y for y, _ in roots], [x for _, x in leaves], weights, allow_unused=True)
        places = [None if g is None else storage(g) for g in grads]
        for (blob, _), grad, place in zip(leaves, grads, places):
            if grad is not None:
                blob.add_grad(grad if scale == 1 else grad / scale, shared=places.count(place) > 1)
