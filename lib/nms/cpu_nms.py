"""The CPU rule of non-maximum suppression, compiled where the engine's kernels are, in numpy otherwise."""

import numpy as np
from caffe.types.boxes import nms_cpu

from nms.py_cpu_nms import best_first, class_by_class, greedy_nms


def numpy_cpu_nms(dets, thresh, limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0.

    Dropped at IoU >= thresh (float32 IoU).
    """
    return greedy_nms(np.asarray(dets, np.float32), lambda iou: iou.astype(np.float64) >= thresh, limit)


def numpy_class_nms(dets, starts, thresh):
    """As cpu_class_nms: dets (N, 5), class k's from starts[k] up to starts[k + 1] -> indices kept, class by class, best
    first."""
    return class_by_class(lambda of_class: numpy_cpu_nms(of_class, thresh), dets, starts)


def compiled_cpu_nms(dets, thresh, limit=0):
    """As numpy_cpu_nms, by the engine's compiled loop."""
    return compiled_class_nms(dets, (0, len(dets)), thresh, limit).tolist()


def compiled_class_nms(dets, starts, thresh, limit=0):
    """As numpy_class_nms; of each class at most `limit` unless that is 0."""
    dets = np.asarray(dets, np.float32).reshape(-1, 5)
    order = best_first(dets[:, 4], starts)
    boxes = np.ascontiguousarray(dets[order, :4])
    return order[nms_cpu.suppress(boxes, starts, _below(thresh), 1, False, limit)]


def _below(thresh):
    """The largest float32 below thresh: what is above it is thresh or more."""
    bound = np.float32(thresh)
    return bound if bound < thresh else np.nextafter(bound, np.float32(-np.inf))


cpu_nms, cpu_class_nms = (
    (numpy_cpu_nms, numpy_class_nms) if nms_cpu is None else (compiled_cpu_nms, compiled_class_nms)
)

__all__ = ['cpu_class_nms', 'cpu_nms', 'numpy_class_nms', 'numpy_cpu_nms']
