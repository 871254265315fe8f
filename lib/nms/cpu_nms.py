"""The CPU rule of non-maximum suppression, compiled where lib/setup.py has been run, in numpy otherwise."""

import numpy as np

from nms.py_cpu_nms import class_by_class, greedy_nms


def numpy_cpu_nms(dets, thresh, limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0.

    Dropped at IoU >= thresh (float32 IoU).
    """
    return greedy_nms(np.asarray(dets, np.float32), lambda iou: iou.astype(np.float64) >= thresh, limit)


def numpy_class_nms(dets, starts, thresh):
    """As cpu_class_nms: dets (N, 5), class k's from starts[k] up to starts[k + 1] -> indices kept, class by class, best
    first."""
    return class_by_class(lambda of_class: numpy_cpu_nms(of_class, thresh), dets, starts)


try:
    from nms._cpu_nms import cpu_class_nms, cpu_nms
except ImportError:
    cpu_nms, cpu_class_nms = numpy_cpu_nms, numpy_class_nms

__all__ = ['cpu_class_nms', 'cpu_nms', 'numpy_class_nms', 'numpy_cpu_nms']
