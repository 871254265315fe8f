"""Greedy non-maximum suppression in numpy: the pure-Python rule, and what all rules share: the loop of those in numpy,
the order in which boxes are taken, and boxes of several classes."""

import numpy as np


def py_cpu_nms(dets, thresh):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first. Dropped at IoU > thresh, in dets' type."""
    return greedy_nms(np.asarray(dets), lambda iou: iou > thresh)


def greedy_nms(dets, drop, limit=0):
    """Takes boxes by falling score, up to `limit` unless that is 0; each removes those left whose IoU with it
    is such that drop(iou)."""
    x1, y1, x2, y2, scores = dets[:, :5].T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = falling(scores)
    keep = []
    while order.size and not (limit and len(keep) == limit):
        i, rest = order[0], order[1:]
        keep.append(int(i))
        width = np.maximum(0, np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]) + 1)
        height = np.maximum(0, np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]) + 1)
        inter = width * height
        order = rest[~drop(inter / (areas[i] + areas[rest] - inter))]
    return keep


def falling(scores):
    """Indices of scores (N,) by falling score, equal ones as they lie: of RoIs that are pooled alike, and so judged alike, the
    one that was proposed first is the better."""
    return (-scores).argsort(kind='stable')


def best_first(scores, starts):
    """Indices of scores (N,), of which class k has those from starts[k] up to starts[k + 1]: class by class, each by
    falling score, equal ones as they lie."""
    scores, order, starts = np.ascontiguousarray(scores), np.arange(len(scores)), np.asarray(starts).tolist()
    for begin, end in zip(starts[:-1], starts[1:]):
        if end - begin > 1:
            order[begin:end] = begin + falling(scores[begin:end])
    return order


def class_by_class(rule, dets, starts):
    """rule(dets of one class (n, 5)) -> indices kept, for classes that lie as best_first has them -> indices of dets."""
    kept = [begin + np.array(rule(dets[begin:end]), np.intp) for begin, end in zip(starts[:-1], starts[1:])]
    return np.concatenate([np.zeros(0, np.intp), *kept])
