"""registry: layer types by name.

@layer('Type') on a function or class registers it; see `layer` for how parameters reach it.
"""

import inspect

from .names import did_you_mean
from .proto import caffe_pb2
from .tape import FunctionLayer

_REGISTRY = {}
_SPECIAL = ('phase', 'num_tops')
_PARAM_OF_TYPE = {
    f.message_type.name[: -len('Parameter')]: f.name
    for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields
    if f.message_type is not None and f.message_type.name.endswith('Parameter') and f.name.endswith('_param')
}


def layer(
    type_name,
    *messages,
    loss=False,
    nondiff=(),
    strict=True,
    shares=False,
    draws=False,
    half=None,
    itemwise=False,
):
    """Register a layer type.

    On a class: the class. On a function: its positional parameters are the bottoms (`*xs`: any number; a default:
    optional), its keyword-only parameters are fields of the type's parameter message, read once at setup (`phase`
    and `num_tops` are the layer's own).
    messages: the LayerParameter fields to read, where they are not the one that the type's name gives ('ReLU' ->
    relu_param).
    loss: the first top has loss weight 1 by default. nondiff: bottoms that take no gradient; to ask for
    one raises if strict, as in Caffe's losses, and gives zero otherwise. shares: the tops' values are the first
    bottom's memory, in other shapes. draws: forward draws random numbers. half: what it does in half precision.
    itemwise: what comes of an item of a bottom, one index of axis 0, depends on that item alone.
    """
    messages = messages or tuple(filter(None, [_PARAM_OF_TYPE.get(type_name)]))

    def register(thing):
        if type_name in _REGISTRY:
            raise KeyError(f'layer type {type_name!r} is registered twice: {_REGISTRY[type_name]}, {thing}')
        cls = thing if inspect.isclass(thing) else _class_of(thing, type_name)
        cls.loss, cls.nondiff, cls.strict, cls.messages = loss, tuple(nondiff), strict, messages
        cls.shares, cls.draws, cls.half = shares, draws, half
        if itemwise:
            cls.itemwise = True
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
    """The class of a registered type. ValueError names the nearest known types."""
    if type_name not in _REGISTRY:
        raise ValueError(
            f'unknown layer type {type_name!r}{did_you_mean(type_name, _REGISTRY)} Known types: {", ".join(sorted(_REGISTRY))}'
        )
    return _REGISTRY[type_name]
