# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The CPU rule of non-maximum suppression, compiled. nms/cpu_nms.py has the same in numpy."""
import numpy as np


def cpu_nms(dets, double thresh):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first. Dropped at IoU >= thresh (float32 IoU)."""
    cdef float[:, ::1] d = np.array(dets, np.float32, order='C').reshape(-1, 5)
    cdef Py_ssize_t[::1] order = np.ascontiguousarray(np.asarray(d)[:, 4].argsort()[::-1], np.intp)
    cdef unsigned char[::1] dropped = np.zeros(d.shape[0], np.uint8)
    cdef Py_ssize_t a, b, i, j, count = d.shape[0]
    cdef float area, width, height, inter
    keep = []
    for a in range(count):
        i = order[a]
        if dropped[i]:
            continue
        keep.append(i)
        area = (d[i, 2] - d[i, 0] + 1) * (d[i, 3] - d[i, 1] + 1)
        for b in range(a + 1, count):
            j = order[b]
            if dropped[j]:
                continue
            width = max(<float>0, min(d[i, 2], d[j, 2]) - max(d[i, 0], d[j, 0]) + 1)
            height = max(<float>0, min(d[i, 3], d[j, 3]) - max(d[i, 1], d[j, 1]) + 1)
            inter = width * height
            if inter / (area + (d[j, 2] - d[j, 0] + 1) * (d[j, 3] - d[j, 1] + 1) - inter) >= thresh:
                dropped[j] = 1
    return keep
