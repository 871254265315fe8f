"""From an RPN's scores and deltas to proposals (Faster R-CNN, section 3.1), over levels and images, on tensors.

N images, A anchors per position of a level, feature map (H, W), n proposals.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fast_rcnn.bbox_transform import bbox_transform_inv, clip_boxes
from fast_rcnn.nms_wrapper import tensor_nms
from rpn.generate_anchors import anchor_grid, own_cells
from utils.arrays import beside


@dataclass
class Level:
    """An RPN's answer on one feature map: scores (N, A, H, W) of foreground, deltas (N, 4A, H, W), both tensors; its
    anchors (A, 4), and its stride in pixels."""

    scores: torch.Tensor
    deltas: torch.Tensor
    anchors: np.ndarray
    stride: float


@dataclass
class Limits:
    """Boxes of a level that enter NMS, boxes of an image that are left (<= 0: all), NMS's IoU, and the least side in
    pixels of the original image."""

    pre_nms_top_n: int
    post_nms_top_n: int
    nms_thresh: float
    min_size: float

    @classmethod
    def of(cls, settings):
        """Those of cfg.TRAIN or cfg.TEST."""
        names = 'PRE_NMS_TOP_N', 'POST_NMS_TOP_N', 'NMS_THRESH', 'MIN_SIZE'
        return cls(*(settings[f'RPN_{name}'] for name in names))


def propose(levels, im_info, limits):
    """im_info (N, 3: height, width, scale of the scaled image) -> for each image boxes (n, 4), scores (n, 1),
    best first. NMS works level by level. What maps say beyond an image's own size (own_cells) is not looked at."""
    cells = [own_cells(level.scores.shape[2:], im_info, level.stride) for level in levels]
    return [
        _of_image(levels, i, own, info, limits)
        for i, (*own, info) in enumerate(zip(*cells, im_info.tolist()))
    ]


def _of_image(levels, i, own, info, limits):
    """own: (rows, columns) of each level."""
    parts = [
        _of_level(level, level.scores[i, :, :h, :w], level.deltas[i, :, :h, :w], info, limits)
        for level, (h, w) in zip(levels, own)
    ]
    boxes, scores = (torch.cat(values) for values in zip(*parts))
    if len(parts) > 1:
        order = scores[:, 0].argsort(descending=True, stable=True)
        order = order[: limits.post_nms_top_n] if limits.post_nms_top_n > 0 else order
        boxes, scores = boxes[order], scores[order]
    return boxes, scores


def _of_level(level, scores, deltas, info, limits):
    """scores (A, H, W), deltas (4A, H, W) of one image -> boxes (n, 4), scores (n, 1)."""
    grid = anchor_grid(beside(scores, level.anchors, None), *scores.shape[1:], level.stride)
    scores = scores.permute(1, 2, 0).reshape(-1, 1)
    # 1. anchors moved by their deltas, cut to the image
    boxes = clip_boxes(bbox_transform_inv(grid, deltas.permute(1, 2, 0).reshape(-1, 4)), info)
    # 2. without those that are too small
    large = (boxes[:, 2:] - boxes[:, :2] + 1 >= limits.min_size * info[2]).all(1).nonzero()[:, 0]
    # 3. the highest scores
    order = large[scores[large, 0].argsort(descending=True, stable=True)]
    if limits.pre_nms_top_n > 0:
        order = order[: limits.pre_nms_top_n]
    boxes, scores = boxes[order], scores[order]
    # 4. less near-duplicates, 5. the highest scores again
    kept = tensor_nms(boxes, scores, limits.nms_thresh, limit=max(0, limits.post_nms_top_n))
    return boxes[kept], scores[kept]
