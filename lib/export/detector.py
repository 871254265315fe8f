"""Whole detectors: from a picture to boxes, scores, labels, masks in its pixels, as fast_rcnn.detection finds them.

R RoIs, K classes with the background, D detections, M x M cells of a mask.
"""

import numpy as np

from export.boxes import back, below, clip, decode, in_scaled, join, nms, part, shown, sides
from export.graph import Graph
from export.images import picture_in, tensors_in
from export.model import check_phase, properties
from export.net import Writer
from export.proposing import best, rois_of
from fast_rcnn.config import cfg
from fast_rcnn.masks import THRESH
from fpn.boxes import LEAST_SIDE, Tensorpack, Torchvision, family_of_net
from mask.passes import ROIS, ROWS, has_masks

OUTPUTS = 'boxes', 'scores', 'labels', 'masks'
# Settings by which a picture is looked at more than once, or boxes are more than kept or dropped: {name: off}
OFF = {
    'SOFT_NMS': '',
    'VOTE': 0,
    'REFINE': 0,
    'FLIP': False,
    'REGION_SCALES': (0,),
    'JOIN_PROPOSALS': False,
}


class Detection:
    """A net's graph while it is written: the picture that goes in, its Sizes, the family of boxes."""

    def __init__(self, net, whole):
        check_phase(net)
        self.net, self.family, self.graph = net, family_of_net(net), Graph(OUTPUTS)
        self.writer = Writer(self.graph, net)
        data, im_info, self.image = (picture_in if whole else tensors_in)(self.graph, self.family)
        self.writer.put('data', data)
        if 'im_info' in net.inputs:
            self.writer.put('im_info', im_info)

    def out(self, value, name, shape, doc):
        self.graph.output(value, name, shape, doc)

    def edges(self, boxes):
        """Boxes (D, 4) of the family, which end at edges then."""
        offset = self.family.offset
        return boxes + np.float32([0, 0, offset, offset]) if offset else boxes

    def model(self, kind, classes, whole):
        doc = 'boxes x1 y1 x2 y2 end at edges, in pixels of the picture; labels number the classes of the metadata'
        told = properties(kind, classes, self.family, whole)
        return self.graph.model(self.net.name or kind, doc, told)


def detector_model(net, classes, whole=False):
    """A net with cls_prob, by cfg.TEST, as an onnx.ModelProto. whole: the input is a picture, else what the net reads. Outputs:
    boxes (D, 4), scores (D,), labels (D,), best first, and of a net with masks these (D, H, W). Without an RPN there is one
    more input, rois (R, 4), boxes as those that come out."""
    check_settings()
    it = Detection(net, whole)
    given = None if 'im_info' in net.inputs else _given(it)
    boxes, scores, labels = found(it, given)
    it.out(it.edges(boxes), 'boxes', ['D', 4], 'x1 y1 x2 y2, best first')
    it.out(scores, 'scores', ['D'], '')
    it.out(labels, 'labels', ['D'], 'numbers of classes, of which 0 is the background')
    if has_masks(net):
        it.out(masks(it, boxes, labels), 'masks', ['D', 'H', 'W'], 'pixels of the objects')
    return it.model('detector', classes, whole)


def rpn_model(net, classes, whole=False):
    """As detector_model, of a net that proposes: boxes (D, 4), scores (D,)."""
    it = Detection(net, whole)
    rois, scores = it.writer.get('rois', 'scores')
    boxes, _ = _judged(it, part(rois.reshape(-1, 5), 1, 5))
    it.out(it.edges(back(it.family, boxes, it.image)), 'boxes', ['D', 4], 'x1 y1 x2 y2, best first')
    it.out(scores.reshape(-1), 'scores', ['D'], '')
    return it.model('rpn', classes, whole)


def check_settings():
    """ValueError names a setting that has no form in a file that holds one pass."""
    for name, off in OFF.items():
        value = cfg.TEST[name]
        if (tuple(value) if isinstance(value, list) else value) != off:
            raise ValueError(
                f'TEST.{name} {value!r} cannot be exported; --set TEST.{name}={off!r} goes without'
            )
    if len(cfg.TEST.SCALES) != 1:
        raise ValueError(f'a file looks at one scale; TEST.SCALES is {cfg.TEST.SCALES}')


def _given(it):
    """The input rois, in the family's terms."""
    rois = it.graph.input('rois', 'float32', ['R', 4], 'boxes x1 y1 x2 y2 that end at edges, in the picture')
    offset = it.family.offset
    boxes = rois - np.float32([0, 0, offset, offset]) if offset else rois
    it.writer.put('rois', rois_of(boxes * it.image.scale))
    return boxes


def _judged(it, boxes):
    """RoIs (R, 4) of the net where its codes move them; what they then lie in: (height, width)."""
    if in_scaled(it.family):
        return boxes, (it.image.rows, it.image.columns)
    return boxes / it.image.scale, (it.image.height, it.image.width)


def found(it, given=None):
    """What is kept: boxes (D, 4) in the picture's pixels and the family's terms, scores (D,), labels (D,)."""
    writer, family, graph = it.writer, it.family, it.graph
    scores, codes = writer.get('cls_score' if cfg.TEST.SVM else 'cls_prob', 'bbox_pred')
    scores = scores.op('Flatten', axis=1).cut(1, 1, it.net.blobs['cls_prob'].shape[1]).transpose(1, 0)
    rois, size = given, (it.image.height, it.image.width)
    if given is None:
        rois, size = _judged(it, part(writer.get('rois')[0].reshape(-1, 5), 1, 5))
    boxes = rois.unsqueeze(0)
    if cfg.TEST.BBOX_REG:
        boxes = clip(family, decode(family, boxes, _codes(it, codes), family.roi_weights), *size)
    boxes = boxes.op('Expand', graph.size(scores.shape(), 4))
    by_edges = isinstance(family, Torchvision)
    if by_edges and not isinstance(family, Tensorpack):
        scores = (sides(boxes, family).min(2) >= LEAST_SIDE).where(scores, -1)
    thresh = cfg.TEST.NMS if by_edges else below(cfg.TEST.NMS)
    kept = nms(family, boxes, scores, thresh, least=cfg.TEST.SCORE_THRESH)
    scores, order = best(scores.op('GatherND', kept), cfg.TEST.MAX_PER_IMAGE)
    kept = kept.take(order)
    boxes = boxes.op('GatherND', kept)
    boxes = boxes if given is not None else back(family, boxes, it.image)
    return boxes, scores, kept.cut(1, 0, 1).squeeze(1) + 1


def _codes(it, codes):
    """bbox_pred -> (K - 1 or, whatever the class, 1, R, 4)."""
    columns, classes = it.net.blobs['bbox_pred'].shape[1] // 4, it.net.blobs['cls_prob'].shape[1]
    if columns not in (2, classes):
        raise ValueError(
            f'{classes} classes want {4 * classes} columns of bbox_pred, or 8; it has {4 * columns}'
        )
    return codes.reshape(-1, columns, 4).cut(1, 1, columns).transpose(1, 0, 2)


# ---------------------------------------------------------------------------------------------- masks


def masks(it, boxes, labels):
    """Of boxes (D, 4) that are kept (D, H, W) bool, by a second pass over the layers for masks."""
    classes, graph = it.net.blobs['mask_score'].shape[1], it.graph
    rois = rois_of(shown(it.family, boxes, it.image))
    rows = (graph.arange(labels.dim(0), np.int64) * classes + labels).cast(np.float32)
    graph.prefix = 'masks/'
    [probs] = it.writer.again({ROIS if ROIS in it.net.inputs else 'rois': rois, ROWS: rows}, 'mask_prob')
    return pasted(probs.squeeze(1), it.edges(boxes), it.image, it.net.blobs['mask_prob'].shape[-1])


def pasted(probs, boxes, image, cells):
    """fast_rcnn.masks.pasted, of all at once: each row and column of pixels is a mean of rows and columns of cells."""
    probs = probs.op('Pad', probs.graph.size(0, 1, 1, 0, 1, 1))
    centre = (part(boxes, 2, 4) + part(boxes, 0, 2)) * 0.5
    half = (part(boxes, 2, 4) - part(boxes, 0, 2)) * 0.5 * ((cells + 2) / cells)
    corners = join(centre - half, centre + half).cast(np.int64).cast(np.float32)
    across = _shares(corners, 0, image.width, cells + 2)
    down = _shares(corners, 1, image.height, cells + 2)
    return down.op('MatMul', probs).op('MatMul', across.transpose(0, 2, 1)) > THRESH


def _shares(corners, axis, size, cells):
    """Of each pixel along an axis (x 0, y 1) how much of each cell of the boxes' masks it is: (D, size, cells)."""
    graph = corners.graph
    start, end = corners.cut(1, axis, axis + 1), corners.cut(1, axis + 2, axis + 3)
    length = (end - start + 1).maximum(1)
    pixel = graph.arange(size.cast(np.int64)) - start  # (D, size)
    inside = ((pixel >= 0) & (pixel < length)).cast(np.float32)
    at = ((pixel + 0.5) * (float(cells) / length) - 0.5).maximum(0).minimum(cells - 1)
    share = 1 - (at.unsqueeze(2) - np.arange(cells, dtype=np.float32)).op('Abs')
    return share.maximum(0) * inside.unsqueeze(2)
