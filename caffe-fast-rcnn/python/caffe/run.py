"""run: forward and backward over ranges of a graph's layers, by chains where plan has some.

A range is two indices of layers, both inclusive. Hooks are called with a layer's index; while there are any,
layers run one by one.
"""

import torch

from . import plan
from .graph import weigh
from .tape import TorchLayer


class Runner:
    """Runs a Graph."""

    def __init__(self, graph):
        self.graph, self.nodes = graph, graph.nodes
        self.chains = plan.chains(self.nodes)
        self.refresh()
        self.before_forward, self.after_forward, self.before_backward, self.after_backward = [], [], [], []
        self._ran = {}  # index of a layer -> what ran it last, when it was a chain

    def refresh(self):
        """Let the chains take over what the layers propagate."""
        for chain in self.chains.values():
            chain.refresh()

    def forward(self, start, end):
        """Run layers start..end; returns the weighted sum of the losses met on the way, a tensor on the
        device."""
        loss, i = torch.zeros(()), start
        while i <= end:
            chain = self.chains.get(i)
            if chain and (chain.last > end or chain.last > i and (self.before_forward or self.after_forward)):
                chain = None
            last = chain.last if chain else i
            for hook in self.before_forward:
                hook(i)
            node = self.nodes[i]
            (chain or node.layer).forward_in_net(node.bottoms, node.tops)
            self._ran.update((k, chain) for k in range(i, last + 1))
            for top, weight in zip(node.tops, node.layer.loss_weights):
                if weight:
                    if top._diff.empty:
                        weigh(top, weight)
                    loss = loss + weight * top.tensor.sum()
            for hook in self.after_forward:
                hook(i)
            i = last + 1
        self._settle()
        return loss

    def backward(self, start, end):
        """Run layers start..end (indices, start >= end) backward from the tops' diffs; parameters' diffs
        add up."""
        touched = set()  # versions whose diff is this pass's
        i = start
        while i >= end:
            runner, first = self._backward_unit(i, end)
            self._backward_one(runner, range(i, first - 1, -1), touched)
            i = first - 1
        self._settle()

    def _backward_unit(self, i, end):
        """(what runs layer i backward, index of the first layer that this covers)."""
        chain = self._ran.get(i)
        if chain is None:
            return self.nodes[i].layer, i
        if chain.last == i and chain.first >= end:
            return chain, chain.first
        for k in range(chain.first, chain.last + 1):  # only some of its layers: run them again, one by one
            self.nodes[k].layer.forward_in_net(self.nodes[k].bottoms, self.nodes[k].tops)
            self._ran[k] = None
        return self.nodes[i].layer, i

    def _backward_one(self, layer, indices, touched):
        """Run one layer or chain backward; indices: the layers that it covers, last first."""
        node = self.nodes[indices[-1]]
        if not any(self.nodes[k].need_backward for k in indices):
            return
        for k in indices:
            for hook in self.before_backward:
                hook(k)
        before = {}
        for blob, version, propagates in zip(node.bottoms, node.bottom_versions, node.propagate_down):
            if propagates and version in touched:
                before[blob] = blob.grad.clone()
            elif propagates and version in self.graph.version_losses:
                before[blob] = torch.full_like(blob.tensor, self.graph.version_losses[version])
        if not isinstance(layer, TorchLayer):  # a user's backward that writes no diff means zero
            for blob, p in zip(node.bottoms, node.propagate_down):
                if p and blob not in node.tops:
                    blob.clear_grad()
        layer.backward(node.tops, node.propagate_down, node.bottoms)
        for blob, grad in before.items():
            blob.grad = blob.grad + grad
        touched.update(v for v, p in zip(node.bottom_versions, node.propagate_down) if p)
        for k in indices:
            for hook in self.after_backward:
                hook(k)

    def _settle(self):
        for blob in self.graph.blobs.values():
            blob.settle()
        for blob in self.graph.learnable_params:
            blob.settle()

    def no_backward(self):
        """Give up backward passes, so that forward keeps nothing for them (a solver's test nets)."""
        for node in self.nodes:
            node.need_backward = False
            node.layer.propagate_down = [False] * len(node.bottoms)
            node.layer.param_propagate_down = [False] * len(node.layer.blobs)
        self.refresh()
