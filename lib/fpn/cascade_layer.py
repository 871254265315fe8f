"""The Python layers between the heads of a cascade, see fpn.cascade. R RoIs, none of these layers has a gradient.

param_str of all: boxes, the family; weights, of the codes that the layer reads or makes.
"""

import caffe

from fast_rcnn.config import cfg
from fpn.boxes import family_of
from fpn.cascade import refined, stage_targets, whole_way
from rpn.targets import boxes_of_images
from utils.arrays import fill
from utils.param_str import parse_param_str


class _StageLayer(caffe.Layer):
    """What they share."""

    shapes = ()  # of the tops, before the first pass

    def setup(self, bottom, top):
        self.params = parse_param_str(self.param_str)
        self.family, self.weights = family_of(self.params['boxes']), self.params['weights']
        for blob, shape in zip(top, self.shapes):
            blob.reshape(*shape)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        for blob, values in zip(top, self.values(*bottom), strict=True):
            fill(blob, values)

    def backward(self, top, propagate_down, bottom):
        pass


class RefineLayer(_StageLayer):
    """Bottoms: rois (R, 5), codes (R, 8), im_info (N, 3). Top: rois (R, 5), moved by them."""

    shapes = ((1, 5),)

    def values(self, rois, codes, im_info):
        return [refined(rois.tensor, rows(codes), im_info.tensor, self.family, self.weights)]


class StageTargetLayer(_StageLayer):
    """Bottoms: rois (R, 5), gt_boxes (G, 5, of several images 6: the image's index last), im_info (N, 3).
    Tops: labels (R,), box targets, inside weights, outside weights (R, 8).
    param_str: overlap, the least of a RoI with its object."""

    shapes = ((1,), (1, 8), (1, 8), (1, 8))

    def values(self, rois, gt_boxes, im_info):
        labels, targets, inside = stage_targets(
            rois.tensor,
            boxes_of_images(gt_boxes.tensor, im_info.shape[0]),
            self.params['overlap'],
            self.family,
            self.weights,
            cfg.TRAIN.BBOX_INSIDE_WEIGHTS,
        )
        return labels, targets, inside, inside > 0


class WholeWayLayer(_StageLayer):
    """Bottoms: the first head's rois (R, 5), the last one's (R, 5), its codes (R, 8), im_info (N, 3). Top: codes (R, 8) that
    move the first to where these move the last."""

    shapes = ((1, 8),)

    def values(self, first, last, codes, im_info):
        return [whole_way(first.tensor, last.tensor, rows(codes), im_info.tensor, self.family, self.weights)]


def rows(blob):
    """(R, 8) or (R, 8, 1, 1) as (R, 8)."""
    return blob.tensor.reshape(len(blob.tensor), 8)
