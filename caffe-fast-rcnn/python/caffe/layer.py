"""layer: what a Net runs, and its words.

bottom, top    Blobs that a layer reads and fills, in the prototxt's order; each has data and diff
blobs          the layer's parameters, Blobs as well; a Net's params gives them by the layer's name
weights        these as tensors, while a TorchLayer computes (tape.py)
phase          TRAIN or TEST, fixed when the Net is made
propagate_down per bottom: whether its diff is asked for; param_propagate_down likewise per blob
loss_weights   per top: its factor in the net's loss, 0 for most; a loss layer's first top has 1 by default
nondiff        bottoms by number that take no gradient (labels, RoIs)
strict         whether asking for one of theirs is an error, as in Caffe's losses, or gives zero
shares         whether the tops' values are the first bottom's memory, in other shapes
draws          whether forward draws random numbers, which a backward may need again
half           what a built-in layer does in half precision: None, 'keeps', 'follows' or 'starts' (tape.py)

A Net knows four calls, which a user's Python layer implements directly:
    setup(bottom, top)                          once: read parameters, make blobs
    reshape(bottom, top)                        whenever bottoms may have changed shape: shape the tops
    forward(bottom, top)                        fill the tops
    backward(top, propagate_down, bottom)       fill the diffs of the bottoms for which propagate_down is true;
                                                add to the blobs' diffs
Built-in types that compute give one function of tensors instead: see tape.py for how it runs and registry.py
for how it gets its name.
"""

from .blob import BlobVec
from .common import Phase
from .proto import caffe_pb2


class Layer:
    """pycaffe's base class for Python layers, and ours for layers that move data rather than compute."""

    loss = False  # the first top has loss weight 1 unless the prototxt says otherwise
    nondiff = ()  # bottoms that take no gradient
    strict = True  # asking for theirs raises; otherwise it is zero
    shares = False  # the tops' values are the first bottom's memory
    draws = False  # forward draws random numbers
    half = None  # in half precision it computes in float32 all the same
    messages = ()  # names of LayerParameter's fields that hold this type's parameters
    fields = ()  # names of these messages' fields that the layer honours

    def __init__(self, layer_param=None):
        self.layer_param = caffe_pb2.LayerParameter() if layer_param is None else layer_param
        self.name, self.type = self.layer_param.name, self.layer_param.type
        self.phase = Phase(self.layer_param.phase)
        self.blobs = BlobVec()
        self.param_str = self.param_str_ = self.layer_param.python_param.param_str
        self.loss_weights = []  # one per top; the Net sets them
        self.propagate_down = []  # one per bottom; the Net sets them
        self.param_propagate_down = []  # one per blob; the Net sets them

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        raise TypeError(f'layer {self.name!r} ({type(self).__name__}) has no forward(bottom, top)')

    def backward(self, top, propagate_down, bottom):
        pass

    def forward_in_net(self, bottom, top):
        """What a Net calls: as in Caffe, reshape comes before every forward."""
        self.reshape(bottom, top)
        self.forward(bottom, top)
