"""released: what a solver's pass does not keep, and how it comes back when somebody looks.

Values that no backward reads, those of the layers below all that learns, go once their last reader has run; the diff
of a blob between layers goes once the layer that made the blob has used it. Values come back by running their
layers again in file order, from what their bottoms hold by then; diffs by another backward, on the weights that the
pass had; a branch over which a sum was written (sums.py), likewise. What somebody holds a view of never goes, and
whoever has looked once finds everything kept from then on.
"""

import contextlib
import functools

from . import common
from .blob import settle
from .tape import TorchLayer


class Released:
    """Lets go for a Runner."""

    def __init__(self, runner):
        self._runner, self._nodes = runner, runner.nodes
        self._values = self._diffs = True  # whether they still go
        self.updated = (
            False  # the parameters have taken their updates, which their diffs hold, since the pass
        )
        self._reached = 0  # the layer down to which a pass has come backward
        self._units = {}  # index of a layer whose values may go -> what runs it
        self._after = {}  # index of a layer -> [(blob, index of its maker)] that it reads last
        self.between = {
            blob
            for node in self._nodes
            if node.need_backward
            for blob, version, p in zip(node.bottoms, node.bottom_versions, node.propagate_down)
            if p and version not in runner.graph.version_losses
        }
        self._all = [blob for node in self._nodes for blob in self._made_by(node)]
        touching = {}  # blob -> indices of the layers that make or read it
        for i, node in enumerate(self._nodes):
            for blob in dict.fromkeys([*node.tops, *node.bottoms]):
                touching.setdefault(blob, []).append(i)
        for blob, indices in touching.items():
            self._plan(blob, indices)

    def _plan(self, blob, touching):
        """Note whether a blob's values may go, and when."""
        chain = self._runner.chains.get(touching[0])
        unit, end = (chain, chain.last) if chain else (self._nodes[touching[0]].layer, touching[0])
        readers = [i for i in touching if i > end]
        plain = all(
            not self._nodes[i].need_backward
            and not self._nodes[i].layer.shares
            and not any(self._nodes[i].layer.loss_weights)
            for i in touching
        )
        again = isinstance(unit, TorchLayer) and not any(
            n.layer.draws for n in self._nodes[touching[0] : end + 1]
        )
        if plain and again and readers and not any(blob in self._nodes[i].tops for i in readers):
            self._units[touching[0]] = unit
            self._after.setdefault(readers[-1], []).append((blob, touching[0]))

    def keeps_no_diffs(self):
        """Whether nobody has looked at a diff between layers."""
        return self._diffs

    def begin(self):
        """A solver's pass begins."""
        self.updated, self._scale = False, common.loss_scale()

    def after_forward(self, first, last):
        """Layers first..last ran in a solver's pass."""
        for i in range(first, last + 1) if self._values else ():
            for blob, maker in self._after.get(i, ()):
                blob._data.let_go(functools.partial(self._values_again, maker))

    def _values_again(self, last, _):
        """Compute what went and is made by layer `last` or before."""
        self._values = False
        for i in filter(lambda i: i <= last, self._units):
            node = self._nodes[i]
            if any(top._data.empty for top in node.tops):
                outputs = self._units[i].record_again([b.held for b in node.bottoms])
                for top, output in zip(node.tops, outputs):
                    top.take(output, node.bottoms)

    def branch_again(self, over):
        """What gives the values again of a branch over which a sum was written in a solver's pass."""
        return functools.partial(self._branch_again, over)

    def _branch_again(self, over, memory):
        with self._weights_of_the_pass() if self.updated else contextlib.nullcontext():
            (output,) = over.chain.record_again([b.held for b in over.sources])
        memory.set(output.detach())

    def after_backward(self, node, first):
        """Layer `first`, that of `node`, or a chain that begins there, ran backward in a solver's pass."""
        self._reached = first
        for blob in self._made_by(node) if self._diffs else ():
            blob._diff.let_go(self._diffs_again)

    def after_all_backward(self):
        """All layers ran backward under one tape in a solver's pass."""
        self._reached = 0
        for blob in self._all:
            blob._diff.let_go(self._diffs_again)

    def _made_by(self, node):
        """The blobs of `node` whose diffs go once it has used them."""
        return [blob for blob in node.tops if blob in self.between and blob not in node.bottoms]

    def _diffs_again(self, _):
        """Run the pass's layers backward once more, for the diffs of blobs alone."""
        self._diffs = False
        for blob in self.between:
            if blob._diff.recall is not None:
                blob.clear_grad()
        with self._weights_of_the_pass(), self._runner.without_hooks(), common.scaled(self._scale):
            self._runner.backward(len(self._nodes) - 1, self._reached)
        settle()

    @contextlib.contextmanager
    def _weights_of_the_pass(self):
        """Within, the parameters are those that the pass had, and their diffs begin as zeros."""
        kept = [
            (blob, blob.tensor.clone(), blob.grad.clone()) for blob in self._runner.graph.learnable_params
        ]
        updated, self.updated = self.updated, False
        for blob, values, diff in kept:
            blob.clear_grad()
            if updated:
                blob.fill(values + diff)
        try:
            yield
        finally:
            for blob, values, diff in kept:
                blob.take_grad(diff, own=True)
                blob.fill(values)
            self.updated = updated
