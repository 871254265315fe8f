"""The Python layer that trains an RPN on the levels of a pyramid: labels and box targets of all its anchors."""

import caffe
import torch

from fast_rcnn.config import cfg
from fpn.anchors import Pyramid, in_maps
from fpn.targets import anchor_targets
from rpn.targets import boxes_of_images
from utils.arrays import fill


class AnchorTargetLayer(caffe.Layer):
    """Bottoms: scores of each level (N, A or 2A, H, W) for their shapes, gt_boxes (G, 5, of several images 6: the image's index
    last), im_info (N, 3), data.
    Tops: labels (N, I) in 1, 0, -1, I = A H W of the first level + ..., each as its scores lie; targets, inside and
    outside weights (N, 4 I), as deltas lie. No gradient. Examples are drawn of all levels of an image together.
    param_str: see fpn.anchors.Pyramid.
    """

    def setup(self, bottom, top):
        self._pyramid = Pyramid(self.param_str)
        self._pyramid.check(len(bottom) - 3)

    def reshape(self, bottom, top):
        cells = [blob.shape[2] * blob.shape[3] for blob in bottom[:-3]]
        count = sum(len(anchors) * n for anchors, n in zip(self._pyramid.anchors, cells))
        for blob, width in zip(top, (1, 4, 4, 4)):
            blob.reshape(bottom[0].shape[0], width * count)

    def forward(self, bottom, top):
        *scores, gt_boxes, im_info, data = bottom
        shapes, images = [blob.shape[2:] for blob in scores], data.shape[0]
        grids = self._pyramid.grids(shapes, data.shape[2:], gt_boxes.tensor.device)
        objects = boxes_of_images(gt_boxes.tensor, images)
        values = anchor_targets(
            torch.cat(grids), objects, im_info.data.tolist(), self._pyramid.family, cfg.TRAIN
        )
        for blob, of_anchors in zip(top, values):
            levels = of_anchors.split([len(grid) for grid in grids], 1)
            fill(blob, torch.stack([as_blobs([level[i] for level in levels], shapes) for i in range(images)]))

    def backward(self, top, propagate_down, bottom):
        pass


def as_blobs(levels, shapes):
    """Values of each level's anchors (H W A, or H W A, 4), as the grid has them -> in a row (n,) as blobs have them."""
    return torch.cat([in_maps(level, shape).flatten() for level, shape in zip(levels, shapes)])
