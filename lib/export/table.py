"""The table of layer types that can be exported: @exports('Type') on a function.

Its positional parameters are the bottoms, Values; its keyword-only ones are fields of the layer, as in caffe.registry, or
`at`, the Site. It returns the top, or a list of them. A Python layer's type is its class with its module in front. ValueError
says why a layer has no form in ONNX; who called adds which it was.
"""

import inspect

WRITERS = {}
ONE_IMAGE = set()  # types that are exported for a batch of one


def exports(*types, one_image=False):
    def register(function):
        ONE_IMAGE.update(types if one_image else ())
        for name in types:
            if name in WRITERS:
                raise KeyError(f'layer type {name!r} is exported twice')
            WRITERS[name] = function
        return function

    return register


class Site:
    """A layer in its place: graph, layer, num_tops, and the shapes of the bottoms, as the net has them now: all axes but that of
    the channels may vary. weight(i): the Value of its blob i."""

    def __init__(self, graph, node, weight):
        self.graph, self.layer, self.weight = graph, node.layer, weight
        self.shapes, self.num_tops = [b.shape for b in node.bottoms], len(node.tops)

    @property
    def weights(self):
        return [self.weight(i) for i in range(len(self.layer.blobs))]

    @property
    def ndim(self):
        """Of the first bottom."""
        return len(self.shapes[0])

    def axis(self, number):
        """Of the first bottom, counted from its front."""
        return number % self.ndim if self.ndim else 0

    def array(self, i):
        """The values of blob i."""
        return self.layer.blobs[i].tensor.detach().cpu().numpy()


def type_of(layer):
    """The name under which a layer is in the table."""
    if layer.type != 'Python':
        return layer.type
    param = layer.layer_param.python_param
    return f'{param.module}.{param.layer}'


def written(graph, node, bottoms, weight):
    """The tops of a node of a net, a list. ValueError names the layer, its type and why."""
    layer = node.layer
    try:
        kind = type_of(layer)
        if kind not in WRITERS:
            raise ValueError('there is no form of this type in ONNX here; ' + _hint(layer))
        function, site = WRITERS[kind], Site(graph, node, weight)
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        tops = function(*bottoms, **{name: site if name == 'at' else layer.field(name) for name in names})
    except ValueError as error:
        raise ValueError(f'layer {layer.name!r} ({type_of(layer)}): {error}') from None
    return list(tops) if isinstance(tops, (list, tuple)) else [tops]


def _hint(layer):
    if layer.loss or layer.type in ('Accuracy', 'DetectionEvaluate'):
        return 'losses and scores belong to training: export the test net, or name the outputs that you want'
    return 'name outputs before it'
