"""Layer: what a Net runs. TorchLayer: a Layer made of one function of tensors. The registry of types.

A Net knows four calls, which a user's Python layer implements directly:
    setup(bottom, top)                          once: read parameters, make blobs
    reshape(bottom, top)                        whenever bottoms may have changed shape: shape the tops
    forward(bottom, top)                        fill the tops
    backward(top, propagate_down, bottom)       fill the diffs of the bottoms for which propagate_down is true;
                                                add to the blobs' diffs

Built-in types give one `compute(*bottom tensors)` instead. It runs under autograd in forward, on meta tensors in
reshape; backward is one torch.autograd.grad over that call. @layer('Type') on a function or class registers it; see
`layer` for how parameters reach it.
"""

import difflib
import inspect

import torch

from . import filler
from .blob import BlobVec
from .common import Phase
from .proto import caffe_pb2


class Layer:
    """pycaffe's base class for Python layers, and ours for layers that move data rather than compute."""

    loss = False  # the first top has loss weight 1 unless the prototxt says otherwise
    nondiff = ()  # bottoms that take no gradient
    strict = True  # asking for theirs raises; otherwise it is zero
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


def message_value(message, name):
    """A field as layers see it: None when unset without a default, enums by name, repeated as tuples."""
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    enum = field.enum_type
    if repeated(field):
        return tuple(enum.values_by_number[v].name if enum else v for v in value)
    if field.message_type is not None:
        return value
    if not field.has_default_value and not message.HasField(name):
        return None
    return enum.values_by_number[value].name if enum else value


def repeated(field):
    """Whether a field descriptor is repeated, whatever protobuf calls that this year."""
    return field.is_repeated if hasattr(field, 'is_repeated') else field.label == field.LABEL_REPEATED


class TorchLayer(Layer):
    """A layer that is one function of tensors.

    Subclasses give compute(*bottoms) -> tensor or tuple, and where they have blobs, setup(); inside compute the blobs are
    self.weights.
    """

    def __init__(self, layer_param=None):
        super().__init__(layer_param)
        self.num_tops = max(1, len(self.layer_param.top))
        self.weights = []
        self._inferred = None
        self._tape = None

    @property
    def param(self):
        return getattr(self.layer_param, self.messages[0])

    def field(self, name):
        """The value of a parameter; see message_value."""
        for message in self.messages:
            if name in getattr(self.layer_param, message).DESCRIPTOR.fields_by_name:
                return message_value(getattr(self.layer_param, message), name)
        raise KeyError(f'{self.type}: no field {name!r} in {", ".join(self.messages)}')

    def add_blob(self, shape, filler_param=None):
        self.blobs.add_blob(*shape)
        self.blobs[-1].fill(
            filler.fill(tuple(shape), filler_param) if filler_param is not None else torch.zeros(tuple(shape))
        )

    def compute(self, *bottoms):
        raise TypeError(f'{type(self).__name__} has no compute(*bottoms)')

    def reshape(self, bottom, top):
        shapes = [b.shape for b in bottom]
        if self._inferred is None or self._inferred[0] != shapes:
            self.weights = [torch.empty(b.shape, device='meta') for b in self.blobs]
            with torch.no_grad():
                tops = self._run([torch.empty(s, device='meta') for s in shapes])
            self._inferred = shapes, [tuple(t.shape) for t in tops]
        for blob, shape in zip(top, self._inferred[1]):
            blob.reshape(*shape)

    def forward(self, bottom, top):
        for blob, output in zip(top, self._record(bottom)):
            blob.tensor = output

    def _record(self, bottom):
        """The outputs for these bottoms; keeps the tape that backward needs."""
        needs = self.propagate_down or [False] * len(bottom)
        param_needs = self.param_propagate_down or [False] * len(self.blobs)
        inputs = [
            _leaf(b.tensor, need and i not in self.nondiff) for i, (b, need) in enumerate(zip(bottom, needs))
        ]
        self.weights = weights = [_leaf(b.tensor, need) for b, need in zip(self.blobs, param_needs)]
        record = any(needs) or any(param_needs)
        with torch.set_grad_enabled(record):
            outputs = self._run(inputs)
        self._tape = (inputs, weights, outputs) if record else None
        self.weights = []
        return outputs

    def forward_in_net(self, bottom, top):
        self.forward(bottom, top)  # gives the tops their shapes by itself

    def backward(self, top, propagate_down, bottom):
        if self._tape is None:  # no forward came before: take the bottoms as they are
            self._record(bottom)
        if self._tape is None:  # nothing here takes a gradient
            return
        inputs, weights, outputs = self._tape
        for i in self.nondiff:
            if self.strict and i < len(bottom) and propagate_down[i]:
                raise ValueError(
                    f'layer {self.name!r} ({self.type}) cannot propagate a gradient to its bottom {i}'
                )
        roots = [(y, t.grad) for y, t in zip(outputs, top) if y.requires_grad]
        takes = [p and i not in self.nondiff for i, p in enumerate(propagate_down)]
        wanted = [x for x, t in zip(inputs, takes) if t] + [w for w in weights if w.requires_grad]
        grads = [None] * len(wanted)
        if roots and wanted:
            ys, dys = zip(*roots)
            grads = torch.autograd.grad(ys, wanted, dys, retain_graph=True, allow_unused=True)
        grads = iter(grads)
        done = set()
        for blob, wants, take in zip(bottom, propagate_down, takes):
            if wants:
                grad = next(grads) if take else None
                if id(blob) in done:
                    blob.grad = blob.grad if grad is None else blob.grad + grad
                elif grad is None:
                    blob.clear_grad()
                else:
                    blob.grad = grad
                done.add(id(blob))
        for blob, weight in zip(self.blobs, weights):
            if weight.requires_grad:
                grad = next(grads)
                if grad is not None:
                    blob.add_grad(grad)

    def _run(self, tensors):
        try:
            outputs = self.compute(*tensors)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            shapes = ', '.join(str(tuple(t.shape)) for t in tensors)
            raise ValueError(
                f'layer {self.name!r} ({self.type}), bottom shapes {shapes or "none"}: {error}'
            ) from error
        return outputs if isinstance(outputs, tuple) else (outputs,)


def _leaf(tensor, need):
    return tensor.detach().requires_grad_(need)


class FunctionLayer(TorchLayer):
    """A TorchLayer from a function: positional parameters are bottoms, keyword-only ones the messages' fields."""

    function = None  # set by @layer

    def setup(self, bottom, top):
        special = {'phase': int(self.phase), 'num_tops': self.num_tops}
        self.keywords = {n: self.field(n) for n in self.fields}
        self.keywords.update((n, special[n]) for n in self.special)

    def compute(self, *bottoms):
        return type(self).function(*bottoms, **self.keywords)


# The registry

_REGISTRY = {}
_SPECIAL = ('phase', 'num_tops')
_PARAM_OF_TYPE = {
    f.message_type.name[: -len('Parameter')]: f.name
    for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields
    if f.message_type is not None and f.message_type.name.endswith('Parameter') and f.name.endswith('_param')
}


def layer(type_name, *messages, loss=False, nondiff=(), strict=True):
    """Register a layer type.

    On a class: the class. On a function: its positional parameters are the bottoms (`*xs`: any number; a default:
    optional), its keyword-only parameters are fields of the type's parameter message, read once at setup (`phase`
    and `num_tops` are the layer's own).
    messages: the LayerParameter fields to read, where they are not the one that the type's name gives ('ReLU' ->
    relu_param).
    loss: the first top has loss weight 1 by default. nondiff: bottoms that take no gradient; to ask for
    one raises if strict, as in Caffe's losses, and gives zero otherwise.
    """
    messages = messages or tuple(filter(None, [_PARAM_OF_TYPE.get(type_name)]))

    def register(thing):
        if type_name in _REGISTRY:
            raise KeyError(f'layer type {type_name!r} is registered twice: {_REGISTRY[type_name]}, {thing}')
        cls = thing if inspect.isclass(thing) else _class_of(thing, type_name)
        cls.loss, cls.nondiff, cls.strict, cls.messages = loss, tuple(nondiff), strict, messages
        _REGISTRY[type_name] = cls
        return thing

    return register


def _class_of(function, type_name):
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return type(
        type_name,
        (FunctionLayer,),
        {
            'function': staticmethod(function),
            '__doc__': function.__doc__,
            '__module__': function.__module__,
            'fields': tuple(n for n in names if n not in _SPECIAL),
            'special': tuple(n for n in names if n in _SPECIAL),
        },
    )


def layer_type_list():
    """The known type names, sorted."""
    return sorted(_REGISTRY)


def layer_class(type_name):
    """The class of a registered type. KeyError names the nearest known types."""
    if type_name not in _REGISTRY:
        near = difflib.get_close_matches(type_name, _REGISTRY, 3, 0.5)
        raise ValueError(
            f'unknown layer type {type_name!r}'
            + (f'; did you mean {" or ".join(near)}?' if near else '')
            + f' Known types: {", ".join(sorted(_REGISTRY))}'
        )
    return _REGISTRY[type_name]
