# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Overlaps of boxes, compiled. utils/bbox.py is the same in numpy."""
import numpy as np


def bbox_overlaps(boxes, query_boxes):
    """IoU of every box (N, 4) with every query box (K, 4) -> (N, K) float64. x1 y1 x2 y2, inclusive."""
    cdef double[:, ::1] b = np.array(boxes, np.float64, order='C').reshape(-1, 4)
    cdef double[:, ::1] q = np.array(query_boxes, np.float64, order='C').reshape(-1, 4)
    result = np.zeros((b.shape[0], q.shape[0]))
    cdef double[:, ::1] overlaps = result
    cdef Py_ssize_t n, k
    cdef double width, height, inter, area, query_area
    with nogil:
        for k in range(q.shape[0]):
            query_area = (q[k, 2] - q[k, 0] + 1) * (q[k, 3] - q[k, 1] + 1)
            for n in range(b.shape[0]):
                width = min(b[n, 2], q[k, 2]) - max(b[n, 0], q[k, 0]) + 1
                height = min(b[n, 3], q[k, 3]) - max(b[n, 1], q[k, 1]) + 1
                if width > 0 and height > 0:
                    inter = width * height
                    area = (b[n, 2] - b[n, 0] + 1) * (b[n, 3] - b[n, 1] + 1)
                    overlaps[n, k] = inter / (area + query_area - inter)
    return result
