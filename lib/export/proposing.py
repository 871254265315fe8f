"""Layers that make regions, of one image: an RPN's on one map, on a pyramid, the engine's own; those between the heads of a
cascade.

A anchors per position of a map (H, W), n boxes.
"""

import numpy as np

from export.boxes import below, clip, decode, encode, grid, in_scaled, join, nms, part, sides, strides, window
from export.table import exports
from fast_rcnn.config import cfg
from fpn.anchors import Pyramid
from fpn.boxes import FAMILIES, family_of
from fpn.cascade import OBJECT
from fpn.proposals import MOST
from rpn.generate_anchors import anchors_of
from rpn.proposals import Limits
from utils.param_str import parse_param_str

CAFFE = FAMILIES['caffe']


class Info:
    """im_info (1, 3: height, width, scale), as sizes in float32. ValueError for more than one image."""

    def __init__(self, im_info, shape):
        if shape[0] != 1:
            raise ValueError(f'a detector is exported for one image; the net takes {shape[0]}')
        self.height, self.width, self.scale = (im_info.reshape(-1).cut(0, i, i + 1) for i in range(3))


def in_rows(maps, width):
    """(1, A width, H, W), anchor slowest -> (H W A, width)."""
    return maps.transpose(0, 2, 3, 1).reshape(-1, width)


def rois_of(boxes):
    """Boxes (n, 4) of the first image -> (n, 5)."""
    return boxes.op('Pad', boxes.graph.size(0, 1, 0, 0))


def suppressed(family, boxes, scores, thresh, most):
    """Boxes (n, 4), scores (n,), best first -> those left, at most `most` (<= 0: all)."""
    kept = nms(family, boxes.unsqueeze(0), scores.unsqueeze(0), thresh, most if most > 0 else None)
    kept = kept.cut(1, 1, 2).squeeze(1)
    return boxes.take(kept), scores.take(kept)


def best(scores, most):
    """The `most` (<= 0: all) highest of scores (n,): these, and their places."""
    count = scores.dim(0)
    return scores.top(count.minimum(most) if most > 0 else count)


def too_small(family, boxes, least):
    """Places of boxes (n, 4) that are not."""
    return (sides(boxes, family).min(1) >= least).where_true()


@exports('rpn.proposal_layer.ProposalLayer', one_image=True)
def proposals(probs, deltas, im_info, *, at):
    """See rpn.proposals; by the CPU's rule boxes drop at an overlap of the threshold itself."""
    anchors, stride = anchors_of(parse_param_str(at.layer.param_str))
    limits, info, count = Limits.of(cfg.TEST), Info(im_info, at.shapes[0]), len(anchors)
    shape = probs.dim(2), probs.dim(3)
    # 1. anchors moved by their deltas, cut to the image
    everywhere = grid(anchors, shape, (stride, stride), at.graph)
    boxes = clip(CAFFE, decode(CAFFE, everywhere, in_rows(deltas, 4)), info.height, info.width)
    scores = in_rows(probs.cut(1, count, 2 * count), 1).squeeze(1)
    # 2. without those that are too small
    large = too_small(CAFFE, boxes, info.scale * limits.min_size)
    # 3. the highest scores
    scores, order = best(scores.take(large), limits.pre_nms_top_n)
    boxes = boxes.take(large).take(order)
    # 4. less near-duplicates, 5. the highest scores again
    boxes, scores = suppressed(CAFFE, boxes, scores, below(limits.nms_thresh), limits.post_nms_top_n)
    return [rois_of(boxes), scores.unsqueeze(1)][: at.num_tops]


@exports('fpn.proposal_layer.ProposalLayer', one_image=True)
def pyramid_proposals(*bottoms, at):
    """See fpn.proposals."""
    *maps, im_info, data = bottoms
    pyramid, limits, info = Pyramid(at.layer.param_str), Limits.of(cfg.TEST), Info(im_info, at.shapes[0])
    family, half = pyramid.family, len(maps) // 2
    levels = []
    for scores, deltas, shape, anchors, stride in zip(
        maps[:half], maps[half:], at.shapes[:half], pyramid.anchors, pyramid.strides, strict=True
    ):
        cells = scores.dim(2), scores.dim(3)
        steps = strides(family, stride, cells, (data.dim(2), data.dim(3)))
        scores = _logits(scores, shape[1], len(anchors))
        everywhere = grid(anchors, cells, steps, at.graph)
        levels.append((in_rows(scores, 1).squeeze(1), in_rows(deltas, 4), everywhere))
    if family.levels_compete:
        levels = [tuple(at.graph.join(values, 0) for values in zip(*levels))]
    elif limits.pre_nms_top_n <= 0:
        limits.pre_nms_top_n = MOST
    boxes, scores = zip(*(_of_level(*level, info, family, limits) for level in levels))
    scores, order = best(at.graph.join(scores, 0), limits.post_nms_top_n)
    boxes = at.graph.join(boxes, 0).take(order)
    return [rois_of(boxes), scores.op('Sigmoid').unsqueeze(1)][: at.num_tops]


def _logits(scores, channels, anchors):
    if channels == anchors:
        return scores
    return scores.cut(1, anchors, 2 * anchors) - scores.cut(1, 0, anchors)


def _of_level(scores, deltas, everywhere, info, family, limits):
    scores, order = best(scores, limits.pre_nms_top_n)
    boxes = decode(family, everywhere.take(order), deltas.take(order))
    boxes = clip(family, boxes, *window(family, info.height, info.width))
    large = too_small(family, boxes, family.least_side(limits.min_size, info.scale))
    return suppressed(family, boxes.take(large), scores.take(large), limits.nms_thresh, limits.post_nms_top_n)


@exports('Proposal', one_image=True)
def proposal(scores, deltas, im_info, *, pre_nms_topn, post_nms_topn, nms_thresh, min_size, feat_stride, at):
    """caffe.types.proposal: boxes that are too small have a score of 0."""
    info, count = Info(im_info, at.shapes[0]), len(at.layer.anchors)
    shape = scores.dim(2), scores.dim(3)
    everywhere = grid(at.layer.anchors, shape, (feat_stride, feat_stride), at.graph)
    boxes = clip(CAFFE, decode(CAFFE, everywhere, in_rows(deltas, 4)), info.height, info.width)
    size, wide = sides(boxes, CAFFE), im_info.reshape(-1)
    least = at.graph.join([wide.cut(0, 3, 4), info.scale], 0) if at.shapes[2][-1] > 3 else info.scale
    large = (size - least * min_size).min(1) >= 0
    scores = in_rows(scores.cut(1, count, 2 * count), 1).squeeze(1) * large.cast(np.float32)
    scores, order = best(scores, pre_nms_topn)
    boxes, scores = suppressed(CAFFE, boxes.take(order), scores, nms_thresh, post_nms_topn)
    return [rois_of(boxes), scores][: at.num_tops]


# ---------------------------------------------------------------------------------------------- cascades


def _stage(at):
    params = parse_param_str(at.layer.param_str)
    return family_of(params['boxes']), [float(w) for w in params['weights']]


@exports('fpn.cascade_layer.RefineLayer', one_image=True)
def refine(rois, codes, im_info, *, at):
    family, weights = _stage(at)
    info, rois = Info(im_info, at.shapes[2]), rois.reshape(-1, 5)
    boxes = decode(family, part(rois, 1, 5), _object(codes), weights)
    boxes = clip(family, boxes, *window(family, info.height, info.width))
    return at.graph.join([rois.cut(1, 0, 1), boxes], 1)


@exports('fpn.cascade_layer.WholeWayLayer', one_image=True)
def whole_way(first, last, codes, im_info, *, at):
    family, weights = _stage(at)
    info = Info(im_info, at.shapes[3])
    begin, end = (part(rois.reshape(-1, 5), 1, 5) for rois in (first, last))
    if not in_scaled(family):
        begin, end = begin / info.scale, end / info.scale
    boxes = decode(family, end, _object(codes), weights)
    beyond = decode(family, begin, begin * 0) - begin
    way = encode(family, begin, boxes - beyond, list(family.roi_weights))
    return join(way * 0, way)


def _object(codes):
    return codes.reshape(-1, 8).cut(1, OBJECT.start, OBJECT.stop)
