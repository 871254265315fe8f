"""Boxes as regression targets and back (Fast R-CNN, section 2.3; R-CNN, appendix C).

Boxes are x1 y1 x2 y2 in pixels, inclusive: width = x2 - x1 + 1; with offset 0 they end at edges: width = x2 - x1.
N boxes, K classes. The functions take numpy arrays or tensors, and give the same.
"""

import numpy as np
import torch

from utils.arrays import library


def bbox_transform(ex_rois, gt_rois, offset=1):
    """Targets (N, 4) from ex_rois (N, 4) to gt_rois (N, 4): dx dy in widths and heights, log ratios dw dh."""
    lib = library(ex_rois)
    ex_w, ex_h, ex_x, ex_y = _size_and_centre(ex_rois, offset)
    gt_w, gt_h, gt_x, gt_y = _size_and_centre(gt_rois, offset)
    moves = [(gt_x - ex_x) / ex_w, (gt_y - ex_y) / ex_h, lib.log(gt_w / ex_w), lib.log(gt_h / ex_h)]
    return lib.stack(moves, 1)


def bbox_transform_inv(boxes, deltas, offset=1):
    """boxes (N, 4) moved by deltas (N, 4K) -> (N, 4K)."""
    lib = library(deltas)
    boxes = boxes.to(deltas.dtype) if lib is torch else boxes.astype(deltas.dtype, copy=False)
    widths, heights, ctr_x, ctr_y = (values[:, None] for values in _size_and_centre(boxes, offset))
    pred_x = deltas[:, 0::4] * widths + ctr_x
    pred_y = deltas[:, 1::4] * heights + ctr_y
    with np.errstate(over='ignore'):
        half_w = 0.5 * (lib.exp(deltas[:, 2::4]) * widths)
        half_h = 0.5 * (lib.exp(deltas[:, 3::4]) * heights)
    moved = lib.stack([pred_x - half_w, pred_y - half_h, pred_x + half_w, pred_y + half_h], 2)
    return moved.reshape(deltas.shape)


def clip_boxes(boxes, im_shape, offset=1):
    """boxes (N, 4K) cut to an image of im_shape (height, width, ...), in place; returned."""
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, im_shape[1] - offset)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, im_shape[0] - offset)
    return boxes


def _size_and_centre(boxes, offset):
    widths = boxes[:, 2] - boxes[:, 0] + float(offset)
    heights = boxes[:, 3] - boxes[:, 1] + float(offset)
    return widths, heights, boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights
