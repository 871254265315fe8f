"""Boxes (n, 4), helpers of datasets: x1 y1 x2 y2, the last pixel included."""

import numpy as np


def unique_boxes(boxes, scale=1.0):
    """Indices, rising, of the first of all boxes that are equal when scaled and rounded."""
    return np.sort(np.unique(np.round(boxes * scale), axis=0, return_index=True)[1])


def xywh_to_xyxy(boxes):
    """x y width height -> x1 y1 x2 y2"""
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4] - 1])


def xyxy_to_xywh(boxes):
    """x1 y1 x2 y2 -> x y width height"""
    return np.hstack([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2] + 1])


def validate_boxes(boxes, width=0, height=0):
    """AssertionError naming the first box with x1 > x2 or y1 > y2, or not inside width x height pixels."""
    wrong = (boxes[:, :2] < 0) | (boxes[:, 2:4] < boxes[:, :2]) | (boxes[:, 2:4] >= [width, height])
    if wrong.any():
        first = np.flatnonzero(wrong.any(1))[0]
        raise AssertionError(f'box {first}, {boxes[first].tolist()}, is no box of {width} x {height} pixels')


def filter_small_boxes(boxes, min_size):
    """Indices of the boxes with x2 - x1 at least min_size and y2 - y1 above it."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.where((width >= min_size) & (height > min_size))[0]
