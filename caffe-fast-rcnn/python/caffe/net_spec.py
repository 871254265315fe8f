"""Nets written as Python: pycaffe's NetSpec.

    n = caffe.NetSpec()
    n.data = layers.DummyData(shape=dict(dim=[1, 3, 8, 8]))
    n.conv = layers.Convolution(n.data, num_output=4, kernel_size=3, weight_filler=dict(type='xavier'))
    n.relu = layers.ReLU(n.conv, in_place=True)
    n.to_proto()

`layers.X(*bottoms, **fields)` gives the Top (a tuple of them with ntop=2, the Function itself with ntop=0). A
keyword that ends in 'param' is a field of the layer, any other a field of the message of X where it has one
(`params.Pooling.MAX` names enum values), else of the layer. Tops without a name of their own are named by
type and number: Convolution1.
"""

import collections

from .names import did_you_mean
from .proto import caffe_pb2
from .registry import layer_type_list


def param_name_dict():
    """Layer type -> name of its parameter field less '_param', from the schema: {'ReLU': 'relu', ...}."""
    return {
        f.message_type.name.removesuffix('Parameter'): f.name.removesuffix('_param')
        for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields
        if f.name.endswith('_param')
    }


_param_names = param_name_dict()


def to_proto(*tops):
    """The NetParameter of all layers needed for these tops, named automatically."""
    return _net_proto(tops, {})


def _net_proto(tops, names):
    layers, counts = collections.OrderedDict(), collections.Counter()
    for top in tops:
        (top if isinstance(top, Function) else top.fn)._to_proto(layers, names, counts)
    return caffe_pb2.NetParameter(layer=layers.values())


def assign_proto(proto, name, val):
    """Set a field: a dict fills a message, a list a repeated field, one value a repeated field of one."""
    field = getattr(proto, name)
    if hasattr(field, 'extend'):
        for item in val if isinstance(val, (list, tuple)) else [val]:
            if isinstance(item, dict):
                _fill(field.add(), item)
            else:
                field.append(item)
    elif isinstance(val, dict):
        _fill(field, val)
    elif hasattr(field, 'CopyFrom'):
        field.CopyFrom(val)
    else:
        setattr(proto, name, val)


def _fill(message, values):
    for name, value in values.items():
        assign_proto(message, name, value)


class Top:
    """One output of a Function; to be given as a bottom to others."""

    def __init__(self, fn, n):
        self.fn = fn
        self.n = n

    def to_proto(self):
        return to_proto(self)

    def _update(self, params):
        self.fn._update(params)

    def _to_proto(self, layers, names, autonames):
        return self.fn._to_proto(layers, names, autonames)


class Function:
    """A layer to be: type, bottoms and parameters."""

    def __init__(self, type_name, inputs, params):
        self.type_name = type_name
        for i, top in enumerate(inputs):
            if not isinstance(top, Top):
                raise TypeError(f'{type_name} input {i} is not a Top (type is {type(top)})')
        self.inputs = inputs
        self.params = dict(params)
        self.ntop = self.params.pop('ntop', 1)
        self.in_place = self.params.pop('in_place', False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def _update(self, params):
        self.params.update(params)

    def _auto_name(self, thing, names, autonames):
        if thing not in names:
            autonames[self.type_name] += 1
            names[thing] = self.type_name + str(autonames[self.type_name])
        return names[thing]

    def _to_proto(self, layers, names, autonames):
        if self in layers:
            return
        layer = caffe_pb2.LayerParameter(type=self.type_name)
        for top in self.inputs:
            top.fn._to_proto(layers, names, autonames)
            layer.bottom.append(layers[top.fn].top[top.n])
        if self.in_place:
            layer.top.extend(layer.bottom)
        else:
            layer.top.extend(self._auto_name(top, names, autonames) for top in self.tops)
        layer.name = self._auto_name(self.tops[0] if self.tops else self, names, autonames)
        for name, value in self.params.items():
            self._assign(layer, name, value)
        layers[self] = layer

    def _assign(self, layer, name, value):
        own = None if name.endswith('param') else _param_names.get(self.type_name)
        message = layer if own is None else getattr(layer, own + '_param')
        if own is not None and name not in message.DESCRIPTOR.fields_by_name:
            message = layer
        if name not in message.DESCRIPTOR.fields_by_name:
            known = layer_type_list()
            if self.type_name not in known:
                near = did_you_mean(self.type_name, known)
                raise AttributeError(f'unknown layer type {self.type_name}, given {name!r}{near}')
            raise AttributeError(f'{self.type_name} has no parameter {name!r}, nor has LayerParameter')
        assign_proto(message, name, value)


class NetSpec:
    """Named tops, set as attributes or items; to_proto() gives the net that makes them."""

    def __init__(self):
        super().__setattr__('tops', collections.OrderedDict())

    def __setattr__(self, name, value):
        self.tops[name] = value

    def __getattr__(self, name):
        if name == 'tops' or name not in self.tops:
            raise AttributeError(f'no top {name!r} in this NetSpec')
        return self.tops[name]

    def __setitem__(self, key, value):
        self.tops[key] = value

    def __getitem__(self, item):
        return self.tops[item]

    def __delitem__(self, name):
        del self.tops[name]

    def __delattr__(self, name):
        del self.tops[name]

    def update(self, name, params):
        """Change or add parameters of the layer that makes the top `name`."""
        self.tops[name]._update(params)

    def to_proto(self):
        return _net_proto(self.tops.values(), {top: name for name, top in self.tops.items()})


class Layers:
    """layers.X makes a function layers.X(*bottoms, **fields) for any type name X."""

    def __getattr__(self, name):
        def layer_fn(*args, **kwargs):
            fn = Function(name, args, kwargs)
            return fn if fn.ntop == 0 else fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer_fn


class Parameters:
    """params.X.Y is the value Y of an enum of message XParameter."""

    def __getattr__(self, name):
        class Param:
            def __getattr__(self, param_name):
                return getattr(getattr(caffe_pb2, name + 'Parameter'), param_name)

        return Param()


layers = Layers()
params = Parameters()
