"""sums: the sum of two bottoms is written over one of them, where a chain makes that for the sum alone: a residual
net's branch.

No backward reads the branch, but somebody may look at its values: then the chain runs again (see Blob's recall), and
whoever has looked once finds them kept from then on.
"""

import collections


class Over:
    """A sum that may be written over what a chain makes. node: of the layer that adds; place: the number of its bottom;
    sources: the chain's bottoms."""

    def __init__(self, node, place, chain, sources):
        self._node, self._place, self.chain, self.sources = node, place, chain, sources
        self._memory = None

    def possible(self):
        """Whether nobody looks, or has looked, at the branch."""
        memory = self._branch._data
        return memory.view is None and not memory.recalled

    @property
    def _branch(self):
        return self._node.bottoms[self._place]

    def run(self, unit, recall):
        """Run the layer that adds by `unit`; recall() gives the branch's values again."""
        self._node.layer.over = self._place
        try:
            unit.forward_in_net(self._node.bottoms, self._node.tops)
        finally:
            self._node.layer.over = None
        self.let_go(recall)

    def let_go(self, recall):
        """Keep no branch; recall() gives its values again."""
        self._branch._data.let_go(recall)


def find(nodes, chains):
    """{index of a layer that adds: Over} for a net's nodes and its chains."""
    readers = collections.Counter(version for node in nodes for version in node.bottom_versions)
    last = {name: v for node in nodes for name, v in zip(node.top_names, node.top_versions)}
    makers = {}  # version -> the chain that makes it
    for chain in chains.values():
        first = nodes[chain.first]
        unchanged = all(last[name] == v for name, v in zip(first.bottom_names, first.bottom_versions))
        weighs = any(any(layer.loss_weights) for layer in chain.layers)
        if len(first.tops) == 1 and chain.head.absorbs and not (chain.activation or weighs) and unchanged:
            makers[nodes[chain.last].top_versions[0]] = chain
    found = {}
    for i, node in enumerate(nodes):
        if getattr(node.layer, 'adds', False) and node.tops[0] not in node.bottoms:
            made = [
                (makers[v].first, k)
                for k, v in enumerate(node.bottom_versions)
                if v in makers and readers[v] == 1
            ]
            if made:
                first, place = max(made)  # what was made last may still be in the processor's cache
                found[i] = Over(node, place, chains[first], nodes[first].bottoms)
    return found
