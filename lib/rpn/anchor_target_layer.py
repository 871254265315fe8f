"""The Python layer that trains an RPN: labels and box targets of its anchors."""

import caffe
import numpy as np

from fast_rcnn.config import cfg
from rpn.generate_anchors import anchor_grid, anchors_of
from rpn.targets import anchor_statistics, level_targets
from utils.arrays import beside, fill, library, values_of
from utils.param_str import parse_param_str


class AnchorTargetLayer(caffe.Layer):
    """Bottoms: RPN scores (1, 2A, H, W) for their shape, gt_boxes (G, 5), im_info (1, 3; a fourth number is
    rpn.targets.subsample's bg_times), data.
    Tops: labels (1, 1, A * H, W) in 1, 0, -1; box targets, inside, outside weights (1, 4A, H, W).
    No gradient.
    param_str: feat_stride, scales, ratios, allowed_border (pixels an anchor may leave the image by; 0).
    """

    def setup(self, bottom, top):
        params = parse_param_str(self.param_str)
        self._anchors, self._feat_stride = anchors_of(params)
        self._border = params.get('allowed_border', 0)

    def statistics(self, roidb):
        """Of the targets of this layer's anchors: see rpn.targets.anchor_statistics."""
        return anchor_statistics(roidb, self._anchors, self._feat_stride, cfg.TRAIN)

    def reshape(self, bottom, top):
        num_anchors, (height, width) = len(self._anchors), bottom[0].shape[-2:]
        top[0].reshape(1, 1, num_anchors * height, width)
        for blob in top[1:]:
            blob.reshape(1, num_anchors * 4, height, width)

    def forward(self, bottom, top):
        images, _, height, width = bottom[0].shape
        if images != 1:
            raise ValueError(f'gt_boxes do not say of which image they are: wanted one image, got {images}')
        gt_boxes = values_of(bottom[1])
        grid = anchor_grid(beside(gt_boxes, self._anchors, np.float64), height, width, self._feat_stride)
        (results,) = level_targets([grid], [gt_boxes], bottom[2].data, cfg.TRAIN, self._border)
        for blob, values in zip(top, results):
            maps = library(values).moveaxis(values.reshape(height, width, -1), 2, 0)
            fill(blob, maps.reshape(blob.shape))

    def backward(self, top, propagate_down, bottom):
        pass
