"""SSD's layers: PriorBox, DetectionOutput. P priors, K classes; boxes are relative to the image: 0..1."""

import numpy as np

from export.boxes import join, nms, part
from export.table import exports
from fpn.boxes import FAMILIES

EDGES = FAMILIES['torchvision']  # boxes end at edges
FAR_APART = 2**32  # more than there are detections


@exports('PriorBox')
def prior_box(x, image, *, offset, clip, at):
    """For one map: its size, and that of the image, may vary."""
    graph, layer = at.graph, at.layer
    cells = [x.dim(axis).cast(np.float32) for axis in (2, 3)]
    size = (
        [graph.const([float(n)]) for n in layer.image]
        if layer.image
        else [image.dim(axis).cast(np.float32) for axis in (2, 3)]
    )
    steps = layer.step or [whole / count for whole, count in zip(size, cells)]
    rows, columns = ((graph.arange(x.dim(axis)) + offset) * step for axis, step in zip((2, 3), steps))
    full = graph.size(x.dim(2), x.dim(3), 1, 1)
    centre = join(
        columns.reshape(1, -1, 1, 1).op('Expand', full), rows.reshape(-1, 1, 1, 1).op('Expand', full)
    )
    half = np.float32(layer.shapes) / 2
    boxes = join(centre - half, centre + half) / graph.join([*size[::-1], *size[::-1]], 0)
    boxes = boxes.op('Clip', 0, 1) if clip else boxes
    rows = boxes.reshape(1, -1)
    variances = boxes * 0 + np.float32(layer.variance)
    return graph.join([rows, variances.reshape(1, -1)], 0).unsqueeze(0)


@exports('DetectionOutput', one_image=True)
def detection_output(loc, conf, prior, *, num_classes, share_location, background_label_id, code_type, at):
    """Of one image; where nothing is found, no rows."""
    if at.shapes[0][0] != 1:
        raise ValueError(f'detections are exported for one image; the net takes {at.shapes[0][0]}')
    layer, graph, how = at.layer, at.graph, at.layer.param.nms_param
    if how.eta < 1:
        raise ValueError(f'nms_param.eta {how.eta}: the threshold of ONNX stays as it is')
    priors, variances = (prior.cut(1, i, i + 1).reshape(-1, 1, 4) for i in range(2))
    codes = loc.reshape(-1, 1 if share_location else num_classes, 4)
    codes = codes if layer.field('variance_encoded_in_target') else codes * variances
    boxes = _decoded(codes, priors, code_type).transpose(1, 0, 2)  # (K or 1, P, 4)
    scores = conf.reshape(-1, num_classes).transpose(1, 0)
    labels = [k for k in range(num_classes) if k != background_label_id]
    scores = scores.take(graph.const(labels, np.int64))
    full = graph.size(len(labels), boxes.dim(1), 4)
    boxes = boxes.op('Expand', full) if share_location else boxes.take(graph.const(labels, np.int64))
    return _rows(boxes, scores, labels, at)


def _decoded(codes, priors, code_type):
    """See caffe.types.boxes.decode; codes are times their variances."""
    size = part(priors, 2, 4) - part(priors, 0, 2)
    if code_type == 'CORNER':
        return codes + priors
    if code_type == 'CORNER_SIZE':
        return codes * join(size, size) + priors
    centre = (part(priors, 2, 4) + part(priors, 0, 2)) / 2 + part(codes, 0, 2) * size
    half = size * part(codes, 2, 4).op('Exp') / 2
    return join(centre - half, centre + half)


def _rows(boxes, scores, labels, at):
    """Boxes (K, P, 4), scores (K, P) -> (1, 1, D, 7), by class and falling score."""
    layer, graph, how = at.layer, at.graph, at.layer.param.nms_param
    least, most = layer.field('confidence_threshold'), layer.field('keep_top_k')
    if how.HasField('top_k') and how.top_k >= 0:
        scores, places = scores.top(scores.dim(1).minimum(how.top_k), 1)
        boxes = boxes.op('GatherND', places.unsqueeze(2), batch_dims=1)
    kept = nms(EDGES, boxes, scores, how.nms_threshold, least=least)
    found, boxes = scores.op('GatherND', kept), boxes.op('GatherND', kept)
    number = kept.cut(1, 0, 1).squeeze(1)
    if most >= 0:
        _, order = found.top(found.dim(0).minimum(most))
        rank = number.take(order) * FAR_APART + graph.arange(order.dim(0), np.int64)
        _, by_class = (rank * -1).top(rank.dim(0))
        order = order.take(by_class)
        number, found, boxes = (value.take(order) for value in (number, found, boxes))
    label = graph.const(labels).take(number)
    head = [value.unsqueeze(1) for value in (label * 0, label, found)]
    return graph.join([*head, boxes], 1).unsqueeze(0, 1)
