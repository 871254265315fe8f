"""Nets as pictures: by Graphviz where its program `dot` is installed, plainly by matplotlib where it is not.
pydot is for get_pydot_graph alone."""

import collections
import io
import os
import re
import shutil
import subprocess

import numpy as np

from .format.files import atomic_write
from .format.upgrade import upgrade_net
from .net_spec import param_name_dict
from .proto import caffe_pb2

LAYER_STYLE_DEFAULT = {'shape': 'record', 'fillcolor': '#6495ED', 'style': 'filled'}
NEURON_LAYER_STYLE = {'shape': 'record', 'fillcolor': '#90EE90', 'style': 'filled'}
BLOB_STYLE = {'shape': 'octagon', 'fillcolor': '#E0E0E0', 'style': 'filled'}


def get_pooling_types_dict():
    """Pooling method number -> name."""
    return {number: name for name, number in caffe_pb2.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer):
    """What an edge from the layer to its top says: how many outputs it makes."""
    if layer.type == 'Data':
        return f'Batch {layer.data_param.batch_size}'
    if layer.type in ('Convolution', 'Deconvolution'):
        return str(layer.convolution_param.num_output)
    if layer.type == 'InnerProduct':
        return str(layer.inner_product_param.num_output)
    return ''


def get_layer_lr_mult(layer):
    """Learning-rate multipliers of a layer with weights: first blob's, and '/' its second's; else None."""
    if layer.type not in ('Convolution', 'Deconvolution', 'InnerProduct'):
        return None
    return '/'.join(f'{spec.lr_mult:g}' for spec in layer.param[:2]) or '1'


def _window(param):
    """Kernel, stride and pad of a convolution or pooling, as text."""

    def value(field, plain, default):
        h, w = (getattr(param, f'{field}_{side}') for side in 'hw')
        if h or w:
            return f'{h}x{w}'
        plain = getattr(param, plain)
        return 'x'.join(map(str, plain)) or default if hasattr(plain, 'extend') else str(plain or default)

    return [
        f'kernel size: {value("kernel", "kernel_size", "?")}',
        f'stride: {value("stride", "stride", "1")}',
        f'pad: {value("pad", "pad", "0")}',
    ]


def get_layer_label(layer, rankdir, display_lrm=False):
    """Name, type and, where it has one, the window of a layer; on one line if drawn top to bottom."""
    label = [layer.name, f'({layer.type})']
    message = param_name_dict().get(layer.type)
    if layer.type in ('Convolution', 'Deconvolution'):
        label += _window(layer.convolution_param)
    elif layer.type == 'Pooling':
        label[1] = f'({get_pooling_types_dict()[layer.pooling_param.pool]} {layer.type})'
        label += ['global'] if layer.pooling_param.global_pooling else _window(layer.pooling_param)
    elif message == 'inner_product':
        label.append(f'outputs: {layer.inner_product_param.num_output}')
    lr_mult = get_layer_lr_mult(layer) if display_lrm else None
    if lr_mult is not None:
        label.append(f'lr mult: {lr_mult}')
    return (' ' if rankdir in ('TB', 'BT') else '\\n').join(label)


def choose_color_by_layertype(layertype):
    """The fill colour of a layer: convolutions and pooling stand out."""
    colors = {
        'Convolution': '#FF5050',
        'Deconvolution': '#FF5050',
        'Pooling': '#FF9900',
        'InnerProduct': '#CC33FF',
    }
    return colors.get(layertype, LAYER_STYLE_DEFAULT['fillcolor'])


def _quote(text):
    return '"' + text.replace('"', '\\"') + '"'


def _node(name, label, style):
    if style['shape'] == 'record':
        label = re.sub(r'([{}|<>])', r'\\\1', label)  # they would divide the record
    attributes = ', '.join(f'{key}={_quote(value)}' for key, value in {'label': label, **style}.items())
    return f'  {_quote(name)} [{attributes}];'


def _graph(caffe_net, rankdir, label_edges, phase, display_lrm):
    """(net name, {node: (label, style)}, [(node, node, label)]); layers come after the blobs they read."""
    net = caffe_pb2.NetParameter()
    net.CopyFrom(caffe_net)
    upgrade_net(net)
    if phase is not None:
        net = _only_phase(net, phase)
    nodes, edges = {}, []
    for i, layer in enumerate(net.layer):
        name = f'{layer.name}_{layer.type}_{i}'
        in_place = list(layer.bottom[:1]) == list(layer.top)
        own_style = {**LAYER_STYLE_DEFAULT, 'fillcolor': choose_color_by_layertype(layer.type)}
        style = NEURON_LAYER_STYLE if in_place else own_style
        nodes[name] = get_layer_label(layer, rankdir, display_lrm), style
        nodes.update((f'{blob}_blob', (blob, BLOB_STYLE)) for blob in (*layer.bottom, *layer.top))
        label = get_edge_label(layer) if label_edges else ''
        edges += [(f'{bottom}_blob', name, '') for bottom in layer.bottom]
        edges += [(name, f'{top}_blob', label) for top in layer.top]
    return net.name or 'Net', nodes, edges


def net_to_dot(caffe_net, rankdir='LR', label_edges=True, phase=None, display_lrm=False):
    """The net in Graphviz's language: layers and blobs are nodes; layers that work in place look different.

    caffe_net: NetParameter, of any age. phase: only the layers of TRAIN or TEST; None: all.
    """
    name, nodes, edges = _graph(caffe_net, rankdir, label_edges, phase, display_lrm)
    lines = [f'digraph {_quote(name)} {{', f'  rankdir={rankdir};']
    lines += [_node(node, *how) for node, how in nodes.items()]
    for start, end, label in edges:
        label = f' [label={_quote(label)}]' if label else ''
        lines.append(f'  {_quote(start)} -> {_quote(end)}{label};')
    return '\n'.join([*dict.fromkeys(lines), '}', ''])


def _places(nodes, edges, rankdir):
    """{node: (x, y)}: a layer lies behind the farthest blob that it reads, a blob behind its maker."""
    rank, count = {}, collections.Counter()
    for start, end, _ in edges:
        rank.setdefault(start, 0)
        if not end.endswith('_blob'):
            rank[end] = max(rank.get(end, 0), rank[start] + 1)
        rank.setdefault(end, rank[start] + 1)
    places = {}
    for node in nodes:
        along, across = rank.get(node, 0), count[rank.get(node, 0)]
        count[along] += 1
        along = -along if rankdir in ('RL', 'TB') else along
        places[node] = (along * 1.5, -across) if rankdir in ('LR', 'RL') else (across * 2, along)
    return places


def _plot(caffe_net, rankdir, ext, phase, display_lrm):
    """The picture by matplotlib, as bytes."""
    from matplotlib.figure import Figure  # slow to import, and seldom wanted

    _, nodes, edges = _graph(caffe_net, rankdir, True, phase, display_lrm)
    places = _places(nodes, edges, rankdir)
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    for start, end, label in edges:
        axes.annotate('', places[end], places[start], arrowprops=dict(arrowstyle='->', color='gray'))
        axes.text(*np.mean([places[start], places[end]], 0), label, fontsize=5, ha='center')
    for node, (label, style) in nodes.items():
        shape = 'round' if style is BLOB_STYLE else 'square'
        axes.text(
            *places[node],
            label.replace('\\n', '\n'),
            fontsize=5,
            ha='center',
            va='center',
            parse_math=False,
            bbox=dict(boxstyle=shape, facecolor=style['fillcolor']),
        )
    corners = np.array(list(places.values()) or [(0, 0)])
    low, high = corners.min(0) - 1, corners.max(0) + 1
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    figure.set_size_inches(high - low)
    picture = io.BytesIO()
    figure.savefig(picture, format=ext, dpi=min(100, 60000 / max(high - low)))
    return picture.getvalue()


def _only_phase(net, phase):
    """Layers whose include and exclude rules allow the phase, whatever level and stages they ask for."""
    kept = caffe_pb2.NetParameter(name=net.name)
    for layer in net.layer:
        rules = [not rule.HasField('phase') or rule.phase == phase for rule in layer.include]
        included = not rules or any(rules)
        if included and not any(r.HasField('phase') and r.phase == phase for r in layer.exclude):
            kept.layer.append(layer)
    return kept


def get_pydot_graph(caffe_net, rankdir, label_edges=True, phase=None, display_lrm=False):
    """The net as a pydot.Dot. ImportError where pydot is not installed."""
    import pydot

    return pydot.graph_from_dot_data(net_to_dot(caffe_net, rankdir, label_edges, phase, display_lrm))[0]


def draw_net(caffe_net, rankdir, ext='png', phase=None, display_lrm=False):
    """The picture as bytes; ext 'dot' gives Graphviz's own text. Without Graphviz: png, jpg, pdf, svg.

    RuntimeError where that fails.
    """
    text = net_to_dot(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).encode()
    if ext == 'dot':
        return text
    if shutil.which('dot') is not None:
        done = subprocess.run(['dot', f'-T{ext}'], input=text, capture_output=True)
        if done.returncode:
            raise RuntimeError(f'dot -T{ext} failed: {done.stderr.decode().strip()}')
        return done.stdout
    if ext not in ('png', 'jpg', 'pdf', 'svg'):
        raise RuntimeError(
            f"to draw a net as {ext!r} Graphviz's program 'dot' has to be on the path; png, "
            'jpg, pdf, svg and dot need none'
        )
    return _plot(caffe_net, rankdir, ext, phase, display_lrm)


def draw_net_to_file(caffe_net, filename, rankdir='LR', phase=None, display_lrm=False):
    """Write the picture; the suffix of the file name chooses the format."""
    picture = draw_net(caffe_net, rankdir, os.path.splitext(filename)[1][1:] or 'png', phase, display_lrm)
    with atomic_write(filename) as path, open(path, 'wb') as f:
        f.write(picture)
