"""Layers of a caffe.Net, one after another, into a graph: all, or those that some blobs need."""

from export.table import written


class Writer:
    """values: {version of a blob: its Value}, of what has been written so far. A version is one writing of a blob, as
    caffe.graph has it."""

    def __init__(self, graph, net):
        self.graph, self.net, self.values = graph, net, {}
        self._weights = {}  # memory of a blob -> its Value
        self._last = {n: v for node in net._nodes for n, v in zip(node.top_names, node.top_versions)}

    def version(self, name):
        """Of a blob as the whole net leaves it. ValueError: the net has none of this name."""
        if name not in self._last:
            raise ValueError(f'net {self.net.name!r} has no blob {name!r}; it has {", ".join(self._last)}')
        return self._last[name]

    def put(self, name, value):
        """Lets an input blob have this value."""
        self.values[self.version(name)] = value

    def get(self, *names):
        """The Values of blobs; the layers that make them are written where they are not yet."""
        wanted = [self.version(name) for name in names]
        for node in self.needed(wanted):
            self.write(node)
        return [self.values[v] for v in wanted]

    def again(self, changed, *names):
        """As get, where blobs have other values, {name: Value}: what depends on them is written a second time."""
        for name, value in changed.items():
            self.values[self.version(name)] = value
        stale = {self.version(name) for name in changed}
        for node in self.net._nodes:
            if stale & set(node.bottom_versions):
                stale.update(node.top_versions)
                for version in node.top_versions:
                    self.values.pop(version, None)
        return self.get(*names)

    def needed(self, versions):
        """The nodes that are to be written for these versions of blobs, in order."""
        wanted, found = {v for v in versions if v not in self.values}, []
        for node in reversed(self.net._nodes):
            if wanted & set(node.top_versions):
                found.append(node)
                wanted.update(v for v in node.bottom_versions if v not in self.values)
        return found[::-1]

    def write(self, node):
        layer = node.layer
        if not node.bottoms and not layer.blobs:
            raise ValueError(f'layer {layer.name!r} ({layer.type}): blob {node.top_names[0]!r} has no value')
        bottoms = [self.values[v] for v in node.bottom_versions]
        tops = written(self.graph, node, bottoms, lambda i: self.weight(layer, i))
        self.values.update(zip(node.top_versions, tops, strict=True))

    def weight(self, layer, i):
        """Blob i of a layer, named as in net.params; where layers share one, there is one."""
        blob = layer.blobs[i]
        if blob._data not in self._weights:
            array = blob.tensor.detach().float().cpu().numpy()
            self._weights[blob._data] = self.graph.const(array, name=f'{layer.name}.{i}')
        return self._weights[blob._data]
