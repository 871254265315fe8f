"""run: forward and backward over ranges of a graph's layers, by chains where plan has some.

A range is two indices of layers, both inclusive. Hooks are called with a layer's index; while there are any,
layers run one by one.
"""

import collections
import contextlib
import functools

import torch

from . import checks, plan, sums
from .blob import settle
from .graph import weigh
from .joined import Joined
from .released import Released
from .tape import TorchLayer


class Forks:
    """Diffs of versions of blobs that several layers read.

    As the tops of Caffe's Split layers do, this keeps a part from each reader: one that runs backward again
    replaces its own part alone, whatever calls lie between. The diff is the sum of the parts, made when the
    layer below runs or the range ends; what a user writes into it then counts until a reader runs again. A loss
    weight on the version is one more part.
    """

    def __init__(self, nodes, losses):
        readers = collections.Counter(version for node in nodes for _, version in _propagated(node))
        self._losses = losses
        self._parts = {v: {} for v, count in readers.items() if count + (v in losses) > 1}
        self._open = {}  # version -> its blob, whose sum is still to be made

    def take(self, node):
        """Keep what node's backward wrote into the diffs of its bottoms."""
        for blob, version in _propagated(node):
            if version in self._parts:
                part, factor = blob.held_grad
                self._parts[version][node] = part.clone() if blob._diff.own else part, factor
                self._open[version] = blob

    def close(self, versions, free):
        """Make the sums of these versions where one is due. free: and forget the parts, so that a sum may be written
        over the gradient that comes from a product, which is new and in no other place."""
        for version in versions:
            if version in self._open:
                blob = self._open.pop(version)
                taken = [(n, p) for n, p in self._parts[version].items() if p[0].shape == blob.shape]
                parts = [part for _, part in taken]
                ours = [free and getattr(node.layer, 'absorbs', False) for node, _ in taken]
                if version in self._losses:
                    weight = torch.full_like(parts[0][0], self._losses[version], dtype=torch.float32)
                    parts.append((weight, None))
                    ours.append(True)
                blob.take_grads(parts, ours)
                if free:
                    self._parts[version].clear()

    def close_all(self, free):
        self.close(list(self._open), free)

    def forget(self):
        for parts in self._parts.values():
            parts.clear()


def _propagated(node):
    """{(bottom, its version)} of those that node propagates to."""
    return {(b, v) for b, v, p in zip(node.bottoms, node.bottom_versions, node.propagate_down) if p}


class Runner:
    """Runs a Graph."""

    def __init__(self, graph):
        self.graph, self.nodes = graph, graph.nodes
        plan.mark_narrow(self.nodes)
        self.chains = plan.chains(self.nodes)
        self._sums = sums.find(self.nodes, self.chains)
        self.refresh()
        self.before_forward, self.after_forward, self.before_backward, self.after_backward = [], [], [], []
        self._joined = Joined(self.nodes, graph.version_losses)
        self._joins = False  # whether the solver's pass that runs has one tape
        self._last_pass = None  # whose checks may still be looked at
        self._ran = {}  # index of a layer -> what ran it last, when it was a chain
        self._forks = Forks(self.nodes, graph.version_losses)
        last = {name: v for node in self.nodes for name, v in zip(node.top_names, node.top_versions)}
        self._makers = {  # version that a layer in place overwrites -> index of the layer that makes it
            v: i
            for i, node in enumerate(self.nodes)
            for name, v in zip(node.top_names, node.top_versions)
            if last[name] != v
        }

    @functools.cached_property
    def released(self):
        """Made by the first solver's pass: it holds the Runner, so that a net with it waits for the cycle collector."""
        return Released(self)

    def refresh(self):
        """Let the chains take over what the layers propagate."""
        for chain in self.chains.values():
            chain.refresh()

    def look(self):
        """ValueError for what a layer refused in the last pass, where that was not looked at."""
        last, self._last_pass = self._last_pass, None
        if last:
            last.look()

    def forward(self, start, end, solving=False):
        """Run layers start..end; returns the weighted sum of the losses met on the way, a tensor on the
        device.

        solving: a solver's pass. What layers refuse may be told by the next one, or look(), and values go that no
        later layer reads, forward or backward.
        """
        self.look()
        loss, i = torch.zeros(()), start
        self._joins = solving and not self._hooked() and self._joined.possible(self.released)
        if solving:
            self.released.begin()
            self._joined.begin()
        with checks.one_look(solving) as this_pass:
            while i <= end:
                chain = self._chain_at(i, end)
                last = chain.last if chain else i
                for hook in self.before_forward:
                    hook(i)
                node = self.nodes[i]
                over, recall = self._over(i, start, solving)
                if self._joins and self._learns(i, last):
                    self._joined.run(chain or node.layer, node, self.nodes[last])
                    if recall:
                        over.let_go(recall)
                elif recall:
                    over.run(chain or node.layer, recall)
                else:
                    (chain or node.layer).forward_in_net(node.bottoms, node.tops)
                self._forget_other_tapes(chain, i, last)
                loss = self._add_losses(loss, node)
                for hook in self.after_forward:
                    hook(i)
                if solving and not (self.before_forward or self.after_forward):
                    self.released.after_forward(i, last)
                i = last + 1
        self._last_pass = this_pass
        settle()
        return loss

    def _hooked(self):
        """Whether somebody wants a pass layer by layer. A hook after backward with `any_time` may as well be called once,
        for layer 0, when all have run."""
        late = all(getattr(hook, 'any_time', False) for hook in self.after_backward)
        return bool(self.before_forward or self.after_forward or self.before_backward or not late)

    def _learns(self, first, last):
        nodes = self.nodes
        return nodes[first].need_backward or any(nodes[k].need_backward for k in range(first + 1, last + 1))

    def _chain_at(self, i, end):
        """The chain that begins at layer i and can run as one, or None."""
        chain = self.chains.get(i)
        hooked = self.before_forward or self.after_forward
        whole = chain and chain.last <= end and not (chain.last > i and hooked)
        return chain if whole else None

    def _over(self, i, start, solving):
        """(Over, what gives its branch again) where layer i is to write over a bottom, which this pass made; else
        a pair without the latter."""
        over = self._sums.get(i)
        hooked = self.before_forward or self.after_forward
        if over is None or hooked or not over.possible():
            return over, None
        if over.chain.first < start or self._ran[over.chain.first] is not over.chain:
            return over, None
        return over, self.released.branch_again(over) if solving else over.chain.as_now(over.sources)

    def _add_losses(self, loss, node):
        for top, weight in zip(node.tops, node.layer.loss_weights):
            if weight:
                if top._diff.empty:
                    weigh(top, weight)
                loss = loss + weight * top.tensor.sum()
        return loss

    def _forget_other_tapes(self, chain, first, last):
        """Layers first..last run now, as `chain` or (None) one by one: what they kept as the other is old."""
        if self._ran.get(first, False) is chain:
            return
        for k in range(first, last + 1):
            before = self._ran.get(k)
            if chain is not None:
                self.nodes[k].layer.forget()
            elif before is not None:
                before.forget()
            self._ran[k] = chain

    def backward(self, start, end, free=False):
        """Run layers start..end (start >= end) backward from the tops' diffs; parameters' diffs add up.

        free: let go of each layer's tape and its tops' diffs once it has used them, and of the forks' parts. A
        later backward then computes the layer anew from its bottoms.
        """
        if free:
            self._forks.forget()
        if free and self._joins:
            self._backward_joined()
            return
        i = start
        while i >= end:
            unit, first = self._backward_unit(i, end)
            self._forks.close(self.nodes[i].top_versions, free)
            if self._learns(first, i):
                self._backward_one(unit, range(i, first - 1, -1))
            if free:
                if isinstance(unit, TorchLayer):
                    unit.forget()
                self.released.after_backward(self.nodes[first], first)
            i = first - 1
        self._forks.close_all(free)
        settle()

    def _backward_joined(self):
        self._joined.backward()
        self.released.after_all_backward()
        for hook in self.after_backward:
            hook(0)
        settle()

    def forget_diffs(self):
        """Drop the diffs that a backward pass writes, so that they need no memory until it does; not those that
        somebody looks at."""
        for node in self.nodes:
            if node.need_backward:
                for blob, _ in _propagated(node):
                    if blob._diff.view is None:
                        blob.clear_grad()

    def _backward_unit(self, i, end):
        """(what runs layer i backward, index of the first layer that this covers)."""
        chain = self._ran.get(i)
        if chain is None:
            return self.nodes[i].layer, i
        if chain.last == i and chain.first >= end:
            return chain, chain.first
        for k in range(chain.first, chain.last + 1):  # only some of its layers: from now on one by one
            self._record(k)
            self._ran[k] = None
        return self.nodes[i].layer, i

    def _backward_one(self, unit, indices):
        """Run one layer or chain backward; indices: the layers that it covers, last first."""
        node = self.nodes[indices[-1]]
        for k in indices:
            for hook in self.before_backward:
                hook(k)
        if not isinstance(unit, TorchLayer):  # a user's backward that writes no diff means zero
            for blob, p in zip(node.bottoms, node.propagate_down):
                if p and blob not in node.tops:
                    blob.clear_grad()
        elif unit.recorded() is None:
            self._record(indices[-1], unit)
        unit.backward(node.tops, node.propagate_down, node.bottoms)
        self._forks.take(node)
        for k in indices:
            for hook in self.after_backward:
                hook(k)

    def _record(self, i, unit=None):
        """Compute layer i, or the chain `unit` that begins there, once more for its tape alone; blobs stay as they
        are. Returns its tops as tensors."""
        node = self.nodes[i]
        bottoms = [self._seen(b, v) for b, v in zip(node.bottoms, node.bottom_versions)]
        return (unit or node.layer).record_again(bottoms)

    def _seen(self, blob, version):
        """What a layer sees as this version of the blob, as a tensor; computed anew where a layer in place has
        written over it."""
        maker = self._makers.get(version)
        if maker is None or not isinstance(self.nodes[maker].layer, TorchLayer):
            return blob.held
        node = self.nodes[maker]
        outputs = node.layer.recorded() or self._record(maker)
        return outputs[node.top_versions.index(version)]

    @contextlib.contextmanager
    def without_hooks(self):
        """Within, backward calls no hook."""
        hooks, self.before_backward, self.after_backward = (self.before_backward, self.after_backward), [], []
        try:
            yield
        finally:
            self.before_backward, self.after_backward = hooks

    def no_backward(self):
        """Give up backward passes, so that forward keeps nothing for them (a solver's test nets)."""
        for node in self.nodes:
            node.need_backward = False
            node.layer.propagate_down = [False] * len(node.bottoms)
            node.layer.param_propagate_down = [False] * len(node.layer.blobs)
        self.refresh()
