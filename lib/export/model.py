"""The file: a net as it is, its blobs in and out; and what a file says of itself."""

import json

import numpy as np
import onnx

from caffe.proto import caffe_pb2
from export.graph import Graph
from export.net import Writer
from export.table import ONE_IMAGE, type_of
from fast_rcnn.config import cfg
from utils.files import atomic_path


def plain_model(net, outputs=None, fixed=False):
    """A net as an onnx.ModelProto: its inputs in, float32, its outputs (or these blobs) out, by their names. The batch may
    vary, and so may height and width where the net takes any; fixed: nothing may. ValueError names a layer that has no form in
    ONNX, and why."""
    check_phase(net)
    outputs = list(outputs or net.outputs)
    graph = Graph(outputs)
    writer = Writer(graph, net)
    nodes = writer.needed([writer.version(name) for name in outputs])
    fed = [node for node in nodes if not node.bottoms and not node.layer.blobs]
    names = [name for node in fed for name in node.top_names]
    free = {} if fixed else free_axes(net, names)
    if any(type_of(node.layer) in ONE_IMAGE for node in nodes):
        free = {key: word for key, word in free.items() if word != 'N'}
    for name in names:
        shape = [free.get((name, i), size) for i, size in enumerate(net.blobs[name].shape)]
        writer.put(name, graph.input(name, 'float32', shape))
    for name, value in zip(outputs, writer.get(*outputs)):
        graph.output(value, name, [f'{name}_{i}' for i in range(len(net.blobs[name].shape))])
    return graph.model(net.name or 'net', f'inputs: {", ".join(names)}', {'kind': 'net'})


def check_phase(net):
    if any(node.layer.phase != caffe_pb2.TEST for node in net._nodes):
        raise ValueError(f'net {net.name!r} is for training; wanted it in phase TEST')


def free_axes(net, names):
    """{(input, axis): name of a dimension} of those axes of inputs that may be of another size, as the net itself tells when
    it is asked to take twice as much: the batch, all inputs' together, and height and width of those with four axes."""
    shapes = {name: tuple(net.blobs[name].shape) for name in names}
    batch = {name: {0: 'N'} for name, shape in shapes.items() if len(shape)}
    whole = {name: {2: 'H', 3: 'W'} for name, shape in shapes.items() if len(shape) == 4}
    found = {}
    for axes in batch, whole:
        if axes and _takes(net, shapes, axes):
            found.update({(name, i): word for name, words in axes.items() for i, word in words.items()})
    return found


def _takes(net, shapes, axes):
    try:
        for name, shape in shapes.items():
            larger = [2 * size if i in axes.get(name, ()) else size for i, size in enumerate(shape)]
            net.blobs[name].reshape(*larger)
        net.reshape()
        return True
    except ValueError:
        return False
    finally:
        for name, shape in shapes.items():
            net.blobs[name].reshape(*shape)
        net.reshape()


def properties(kind, classes, family, whole):
    """What a detector's file says of itself: metadata_props, texts; those that are not words are JSON."""
    facts = {
        'classes': list(classes),
        'means': np.ravel(cfg.PIXEL_MEANS).tolist(),
        'short_side': int(cfg.TEST.SCALES[0]),
        'long_side': int(cfg.TEST.MAX_SIZE),
        'divisor': family.divisor,
        'thresh': float(cfg.TEST.SCORE_THRESH),
        'nms': float(cfg.TEST.NMS),
        'most': int(cfg.TEST.MAX_PER_IMAGE),
    }
    words = {'kind': kind, 'input': 'picture' if whole else 'data', 'channels': 'BGR', 'family': family.name}
    return words | {name: json.dumps(fact) for name, fact in facts.items()}


def kind_of(net):
    """detector, rpn, or net."""
    if {'cls_prob', 'bbox_pred', 'rois'} <= set(net.blobs) and 'data' in net.inputs:
        return 'detector'
    return 'rpn' if 'im_info' in net.inputs and {'rois', 'scores'} <= set(net.outputs) else 'net'


def write(model, path):
    """Writes a ModelProto."""
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
