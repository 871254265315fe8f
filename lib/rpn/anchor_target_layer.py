"""The Python layer that trains an RPN: labels and box targets of its anchors."""

import caffe
import numpy as np

from fast_rcnn.config import cfg
from rpn.generate_anchors import anchors_of
from rpn.targets import anchor_statistics, boxes_of_images, level_targets
from utils.arrays import beside, fill, values_of
from utils.param_str import parse_param_str


class AnchorTargetLayer(caffe.Layer):
    """Bottoms: RPN scores (N, 2A, H, W) for their shape, gt_boxes (G, 5, of several images 6: the image's index last),
    im_info (N, 3; a fourth number is rpn.targets.subsample's bg_times), data.
    Tops: labels (N, 1, A * H, W) in 1, 0, -1; box targets, inside, outside weights (N, 4A, H, W). No gradient.
    Each image has RPN_BATCHSIZE anchors and outside weights of its own; what lies beyond its size is ignored.
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
        num_anchors, (images, _, height, width) = len(self._anchors), bottom[0].shape
        top[0].reshape(images, 1, num_anchors * height, width)
        for blob in top[1:]:
            blob.reshape(images, num_anchors * 4, height, width)

    def forward(self, bottom, top):
        gt_boxes, im_info, images = values_of(bottom[1]), bottom[2].data, bottom[0].shape[0]
        if len(im_info) != images:
            raise ValueError(f'scores and im_info are of {images} and {len(im_info)} images')
        level = beside(gt_boxes, self._anchors, np.float64), self._feat_stride, bottom[0].shape[2:]
        boxes = boxes_of_images(gt_boxes, images)
        (results,) = level_targets([level], boxes, im_info, cfg.TRAIN, self._border)
        for blob, values in zip(top, results):
            fill(blob, values.reshape(blob.shape))

    def backward(self, top, propagate_down, bottom):
        pass
