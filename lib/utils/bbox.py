"""Overlaps of boxes in numpy: the twin of the compiled _bbox, number for number."""

import numpy as np


def bbox_overlaps(boxes, query_boxes):
    """IoU of every box (N, 4) with every query box (K, 4) -> (N, K) float64. x1 y1 x2 y2, inclusive."""
    boxes = np.asarray(boxes, np.float64)[:, None, :]
    query = np.asarray(query_boxes, np.float64)[None]
    query_area = (query[..., 2] - query[..., 0] + 1) * (query[..., 3] - query[..., 1] + 1)
    area = (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
    width = np.minimum(boxes[..., 2], query[..., 2]) - np.maximum(boxes[..., 0], query[..., 0]) + 1
    height = np.minimum(boxes[..., 3], query[..., 3]) - np.maximum(boxes[..., 1], query[..., 1]) + 1
    inter = width * height
    meet = (width > 0) & (height > 0)
    return np.divide(inter, area + query_area - inter, out=np.zeros(meet.shape), where=meet)
