# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The CPU rule of non-maximum suppression, compiled. nms/cpu_nms.py has the same in numpy."""
import numpy as np


cdef void drop(const float* x1, const float* y1, const float* x2, const float* y2, const float* area,
               float thresh, Py_ssize_t count, unsigned char* dropped) noexcept nogil:
    """Mark boxes 1..count-1 whose IoU with box 0 is >= thresh. No branches: the compiler vectorises it."""
    cdef Py_ssize_t j
    cdef float width, height, inter, left, right, top, bottom
    for j in range(1, count):
        left = x1[0] if x1[0] > x1[j] else x1[j]
        top = y1[0] if y1[0] > y1[j] else y1[j]
        right = x2[0] if x2[0] < x2[j] else x2[j]
        bottom = y2[0] if y2[0] < y2[j] else y2[j]
        width = right - left + 1
        height = bottom - top + 1
        width = width if width > 0 else 0
        height = height if height > 0 else 0
        inter = width * height
        dropped[j] |= inter / (area[0] + area[j] - inter) >= thresh


def cpu_nms(dets, double thresh, Py_ssize_t limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0.

    Dropped at IoU >= thresh (float32 IoU).
    """
    dets = np.asarray(dets, np.float32).reshape(-1, 5)
    order = dets[:, 4].argsort()[::-1]
    cdef float[:, ::1] box = np.ascontiguousarray(dets[order, :4].T)
    cdef float[::1] area = (np.asarray(box[2]) - box[0] + 1) * (np.asarray(box[3]) - box[1] + 1)
    cdef Py_ssize_t i, count = area.shape[0]
    cdef unsigned char[::1] dropped = np.zeros(count, np.uint8)
    cdef float bound = np.float32(thresh)
    if bound < thresh:          # the least float32 that is >= thresh: the comparison stays exact
        bound = np.nextafter(np.float32(bound), np.float32(np.inf))
    kept = []
    for i in range(count):
        if not dropped[i]:
            kept.append(i)
            if len(kept) == limit:
                break
            drop(&box[0, i], &box[1, i], &box[2, i], &box[3, i], &area[i], bound, count - i, &dropped[i])
    return order[kept].tolist()
