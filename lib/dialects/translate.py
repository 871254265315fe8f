"""A net in the words of a dialect: translate gives its parts, write puts them into files.

A layer that cannot go ends a part: what it gives is an input of the next one. Blobs have keys, so that each writing of a
blob's name is another one, as layers in place write it: (name, how often it was written).
"""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from caffe.format.prototxt import filter_net, read_net
from caffe.format.weights import write_weights
from caffe.proto import caffe_pb2
from caffe.registry import layer_class
from google.protobuf import text_format

from dialects import DIALECTS, PLAIN, foreign_fields
from dialects.rewrites import REWRITES, Site, Stuck
from utils.files import atomic_path
from utils.param_str import parse_param_str


@dataclass
class Row:
    """A layer to write: its arrays, the keys of its blobs."""

    layer: caffe_pb2.LayerParameter
    blobs: list
    bottoms: list
    tops: list


@dataclass
class Part:
    """inputs: {key: shape}."""

    rows: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)


class Left(NamedTuple):
    """A layer that cannot go."""

    name: str
    kind: str
    why: str
    todo: str
    bottoms: list
    tops: list


@dataclass
class Translation:
    """parts: in their order; one, where all can go. rewritten: [(layer's name, type, types in its place)]. stuck: [Left].
    names: {key: the blob's name in the files}, shown: {name in the net: key}."""

    name: str
    dialect: str
    parts: list = field(default_factory=list)
    rewritten: list = field(default_factory=list)
    stuck: list = field(default_factory=list)
    names: dict = field(default_factory=dict)
    shown: dict = field(default_factory=dict)

    @property
    def whole(self):
        return not self.stuck


def translate(prototxt, net, dialect='bvlc'):
    """The Translation of a net (a caffe.Net of that file, at TEST, with its weights)."""
    if dialect not in DIALECTS:
        raise ValueError(f'unknown dialect {dialect!r}; known: {", ".join(DIALECTS)}')
    param = filter_net(read_net(prototxt), caffe_pb2.NetState(phase=caffe_pb2.TEST))
    walk = Walk(net, Translation(param.name, dialect))
    for layer, ours in zip(param.layer, net.layers, strict=True):
        walk.take(layer, [np.array(blob.data) for blob in ours.blobs])
    return walk.end()


class Walk:
    """Goes through a net's layers, in their order."""

    def __init__(self, net, found):
        self.net, self.found = net, found
        self.depths, self.shapes = (
            {},
            {},
        )  # of blobs: how many layers that cannot go are before it, one behind the other
        self.parts = {}  # depth -> Part

    def take(self, layer, blobs):
        found = self.found
        bottoms = [found.shown[name] for name in layer.bottom]
        tops = [(name, found.shown.get(name, (name, 0))[1] + 1) for name in layer.top]
        found.shown.update(zip(layer.top, tops))
        self.shapes.update((key, tuple(self.net.blobs[key[0]].shape)) for key in tops)
        depth = max((self.depths[key] for key in bottoms), default=0)
        self.depths.update(dict.fromkeys(tops, depth))
        if layer.type == 'Input':
            return
        try:
            rows = _rows(self.site(layer, blobs, bottoms, tops, depth))
        except Stuck as stuck:
            found.stuck.append(Left(layer.name, _kind(layer), stuck.why, stuck.todo, layer.bottom, layer.top))
            self.depths.update(dict.fromkeys(tops, depth + 1))
            return
        kinds = [row.layer.type for row in rows]
        if kinds != [layer.type]:
            found.rewritten.append((layer.name, layer.type, kinds))
        self.parts.setdefault(depth, Part()).rows += rows

    def site(self, layer, blobs, bottoms, tops, depth):
        shapes = [[self.shapes[key] for key in keys] for keys in (bottoms, tops)]
        return Site(
            layer,
            blobs,
            bottoms,
            tops,
            *shapes,
            DIALECTS[self.found.dialect],
            depth == 0,
            lambda: self.values(layer),
        )

    def values(self, layer):
        """What a layer gives today."""
        return self.net.forward(start=layer.name, end=layer.name)[layer.top[0]].copy()

    def end(self):
        self.found.parts = [self.parts[depth] for depth in sorted(self.parts)]
        for part in self.found.parts:
            made = {key for row in part.rows for key in row.tops}
            read = dict.fromkeys(key for row in part.rows for key in row.bottoms)
            part.inputs = {key: self.shapes[key] for key in read if key not in made}
        self.found.names = _names(self.found.parts)
        return self.found


def _kind(layer):
    of = layer.python_param
    return f'Python {of.module}.{of.layer}' if layer.type == 'Python' else layer.type


def _rows(site):
    """The rows in a site's place, without what says nothing of a test. Stuck: there are none."""
    layer = site.layer
    for name in ('include', 'exclude', 'phase', 'propagate_down', 'loss_weight'):
        layer.ClearField(name)
    asked = layer.type in REWRITES and (layer.type in PLAIN or not site.dialect.has(layer.type))
    if not asked or REWRITES[layer.type](site) is NotImplemented:
        _require(layer, site.dialect)
        return [Row(layer, site.blobs, site.bottoms, site.tops)]
    for made, blobs, *_ in site.rows:  # names of shared parameters stay with them
        if any(spec.name for spec in layer.param) and len(blobs) == len(site.blobs):
            made.param.extend(layer.param)
    return [Row(*row) for row in site.rows]


def _require(layer, dialect):
    """Stuck where the dialect has no such layer, or not what it says."""
    if layer.type == 'Python':
        return _require_python(layer, dialect)
    if not dialect.has(layer.type):
        others = [name for name, other in DIALECTS.items() if other.has(layer.type)]
        raise Stuck(f'{dialect.about} has no such layer', _todo(others, layer_class(layer.type).__module__))
    fields = foreign_fields(layer, dialect)
    if fields:
        raise Stuck(f'{dialect.about} does not know {", ".join(fields)}', 'train without it')


def _require_python(layer, dialect):
    module = layer.python_param.module
    kind = f'{module}.{layer.python_param.layer}'
    if kind not in dialect.python:
        others = [name for name, other in DIALECTS.items() if kind in other.python]
        raise Stuck(f'a Python layer, whose code is not with {dialect.about}', _todo(others, module))
    reads, fixed = dialect.python[kind]
    said = parse_param_str(layer.python_param.param_str)
    other = [key for key in said if key not in reads and tuple(np.ravel(said[key])) != fixed.get(key)]
    if other:
        raise Stuck(f'the layer of that name there does not read {", ".join(other)}', _todo((), module))


def _todo(dialects, module):
    instead = f'--dialect {" or ".join(dialects)}; or ' if dialects else ''
    return f'{instead}compute it between the parts, as {module} has it'


def _names(parts):
    """{key: a name}. Layers in place stay in place where nothing else reads what was there; else the earlier blob has its
    layer's name behind its own. The last one written keeps the name."""
    rows = [row for part in parts for row in part.rows]
    readers, makers = {}, {}
    for row in rows:
        for key in row.bottoms:
            readers[key] = readers.get(key, 0) + 1
        makers.update(dict.fromkeys(row.tops, row))
    keys = dict.fromkeys([*(key for part in parts for key in part.inputs), *makers])
    last = {}
    for key in keys:
        if isinstance(key, tuple):
            last[key[0]] = max(last.get(key[0], 0), key[1])
    names = {}
    for key in reversed(keys):
        if not isinstance(key, tuple):
            names[key] = key
            continue
        name, count = key
        after = makers.get((name, count + 1))
        if count == last[name]:
            names[key] = name
        elif after and after.bottoms == [key] and readers[key] == 1:
            names[key] = names[name, count + 1]
        else:
            names[key] = f'{name}_{makers[key].layer.name if key in makers else "input"}'
    return names


def write(found, folder, stem):
    """Writes <stem>.prototxt and <stem>.caffemodel, or of several parts <stem>_part1 ... -> paths of the prototxts."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for i, part in enumerate(found.parts, 1):
        name = stem if found.whole else f'{stem}_part{i}'
        path = os.path.join(folder, name)
        with atomic_path(path + '.prototxt') as temporary, open(temporary, 'w', encoding='utf-8') as stream:
            stream.write(text_format.MessageToString(param_of(found, part, found.name or stem)))
        layers = [
            (
                row.layer.name,
                row.layer.type,
                row.blobs,
                [found.names[key] for key in row.bottoms],
                [found.names[key] for key in row.tops],
            )
            for row in part.rows
        ]
        write_weights(path + '.caffemodel', layers, found.name)
        paths.append(path + '.prototxt')
    return paths


def param_of(found, part, name):
    """The NetParameter of a part."""
    param = caffe_pb2.NetParameter(name=name)
    for key, shape in part.inputs.items():
        top = found.names[key]
        param.layer.add(name=top, type='Input', top=[top], input_param={'shape': [{'dim': shape}]})
    for row in part.rows:
        layer = param.layer.add()
        layer.CopyFrom(row.layer)
        del layer.bottom[:], layer.top[:]
        layer.bottom.extend(found.names[key] for key in row.bottoms)
        layer.top.extend(found.names[key] for key in row.tops)
    return param
