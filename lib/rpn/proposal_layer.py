"""From the RPN's scores and deltas to RoIs (Faster R-CNN, section 3.1).

A anchors per position, feature map (H, W), N proposals.
"""

import caffe
import numpy as np

from fast_rcnn.bbox_transform import bbox_transform_inv, clip_boxes
from fast_rcnn.config import cfg
from fast_rcnn.nms_wrapper import nms
from rpn.generate_anchors import anchor_grid, anchors_of
from utils.param_str import parse_param_str


def propose(scores, deltas, anchors, stride, im_info, pre_nms_top_n, post_nms_top_n, nms_thresh, min_size):
    """Proposals of one image, best first -> boxes (N, 4), scores (N, 1).

    scores (A, H, W) of foreground; deltas (4A, H, W); im_info (height, width, scale) of the scaled image;
    min_size in pixels of the original image; a top_n <= 0 is no limit.
    """
    grid = anchor_grid(anchors, *scores.shape[1:], stride)
    scores = scores.transpose(1, 2, 0).reshape(-1, 1)
    # 1. anchors moved by their deltas, cut to the image
    boxes = bbox_transform_inv(grid, deltas.transpose(1, 2, 0).reshape(-1, 4))
    boxes = clip_boxes(boxes, im_info[:2])
    # 2. without those that are too small
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    large = np.where((sides >= min_size * im_info[2]).all(1))[0]
    # 3. the highest scores
    order = large[scores[large, 0].argsort()[::-1]]
    if pre_nms_top_n > 0:
        order = order[:pre_nms_top_n]
    # 4. less near-duplicates, 5. the highest scores again
    order = order[nms(np.hstack([boxes[order], scores[order]]), nms_thresh, limit=max(0, post_nms_top_n))]
    return boxes[order], scores[order]


class ProposalLayer(caffe.Layer):
    """Bottoms: foreground/background probabilities (1, 2A, H, W), deltas (1, 4A, H, W), im_info (1, 3).
    Tops: rois (N, 5) with batch index 0 first, and, if asked for, scores (N, 1). No gradient.
    param_str: feat_stride, and scales, ratios of the anchors.
    """

    def setup(self, bottom, top):
        self._anchors, self._feat_stride = anchors_of(parse_param_str(self.param_str))
        top[0].reshape(1, 5)
        if len(top) > 1:
            top[1].reshape(1, 1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        probs, deltas = bottom[0].data, bottom[1].data
        if probs.shape[0] != 1:
            raise ValueError(f'proposals are made of one image at a time, got {probs.shape[0]}')
        num_anchors = len(self._anchors)
        if (probs.shape[1], deltas.shape[1]) != (2 * num_anchors, 4 * num_anchors):
            raise ValueError(
                f'{num_anchors} anchors want {2 * num_anchors} scores and {4 * num_anchors} '
                f'deltas per position, got {probs.shape[1]} and {deltas.shape[1]}'
            )
        phase = cfg[str(self.phase)]
        if self.phase == caffe.TRAIN and phase.RPN_NORMALIZE_TARGETS:
            stds, means = phase.RPN_NORMALIZE_STDS, phase.RPN_NORMALIZE_MEANS
            stds, means = (np.tile(values, num_anchors)[:, None, None] for values in (stds, means))
            deltas = deltas * stds + means
        boxes, scores = propose(
            probs[0, num_anchors:],
            deltas[0],
            self._anchors,
            self._feat_stride,
            bottom[2].data[0],
            phase.RPN_PRE_NMS_TOP_N,
            phase.RPN_POST_NMS_TOP_N,
            phase.RPN_NMS_THRESH,
            phase.RPN_MIN_SIZE,
        )
        tops = [np.hstack([np.zeros((len(boxes), 1)), boxes]), scores]
        for blob, values in zip(top, tops):
            blob.reshape(*values.shape)
            blob.data[...] = values

    def backward(self, top, propagate_down, bottom):
        pass
