"""Greedy non-maximum suppression in numpy: the pure-Python rule, and the loop that both numpy rules share."""

import numpy as np


def py_cpu_nms(dets, thresh):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first. Dropped at IoU > thresh, in dets' type."""
    return greedy_nms(np.asarray(dets), lambda iou: iou > thresh)


def greedy_nms(dets, drop, limit=0):
    """Takes boxes by falling score, up to `limit` unless that is 0; each removes those left whose IoU with it
    is such that drop(iou)."""
    x1, y1, x2, y2, scores = dets[:, :5].T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = scores.argsort()[::-1]
    keep = []
    while order.size and not (limit and len(keep) == limit):
        i, rest = order[0], order[1:]
        keep.append(int(i))
        width = np.maximum(0, np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]) + 1)
        height = np.maximum(0, np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]) + 1)
        inter = width * height
        order = rest[~drop(inter / (areas[i] + areas[rest] - inter))]
    return keep
