# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The CPU rule of non-maximum suppression, compiled. nms/cpu_nms.py has the same in numpy."""
import numpy as np

from nms.py_cpu_nms import best_first

cdef extern from *:
    """
    #include <stddef.h>
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
    #define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define FOR_EACH_PROCESSOR
    #endif

    /* Whether one of `count` boxes overlaps the box x1 y1 x2 y2 of this area by thresh or more. kept: rows x1, y1, x2,
       y2, area, of `room` numbers each. No branches within a block: the compiler vectorises it. */
    FOR_EACH_PROCESSOR
    static int overlapped(const float *kept, ptrdiff_t room, ptrdiff_t count, float x1, float y1, float x2, float y2,
                          float area, float thresh) {
        const float *kept_y1 = kept + room, *kept_x2 = kept_y1 + room, *kept_y2 = kept_x2 + room;
        const float *kept_area = kept_y2 + room;
        for (ptrdiff_t start = 0; start < count; start += 64) {
            ptrdiff_t end = start + 64 < count ? start + 64 : count;
            int found = 0;
            for (ptrdiff_t k = start; k < end; ++k) {
                float left = kept[k] > x1 ? kept[k] : x1, right = kept_x2[k] < x2 ? kept_x2[k] : x2;
                float top = kept_y1[k] > y1 ? kept_y1[k] : y1, bottom = kept_y2[k] < y2 ? kept_y2[k] : y2;
                float width = right - left + 1, height = bottom - top + 1;
                width = width > 0 ? width : 0;
                height = height > 0 ? height : 0;
                float inter = width * height;
                found |= inter / (kept_area[k] + area - inter) >= thresh;
            }
            if (found) return 1;
        }
        return 0;
    }
    """
    bint overlapped(const float* kept, Py_ssize_t room, Py_ssize_t count, float x1, float y1, float x2, float y2,
                    float area, float thresh) noexcept nogil


cdef Py_ssize_t suppress(const float[:, ::1] boxes, Py_ssize_t begin, Py_ssize_t end, float thresh, Py_ssize_t limit,
                         float[:, ::1] kept, Py_ssize_t* taken) noexcept nogil:
    """taken: of boxes begin..end-1, best first, the indices of those kept, up to `limit`; their number. kept is room."""
    cdef Py_ssize_t i, k, count = 0
    cdef float area
    for i in range(begin, end):
        area = (boxes[i, 2] - boxes[i, 0] + 1) * (boxes[i, 3] - boxes[i, 1] + 1)
        if overlapped(&kept[0, 0], kept.shape[1], count, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], area, thresh):
            continue
        for k in range(4):
            kept[k, count] = boxes[i, k]
        kept[4, count] = area
        taken[count] = i
        count += 1
        if count == limit:
            break
    return count


def cpu_class_nms(dets, starts, double thresh, Py_ssize_t limit=0):
    """dets (N, 5) x1 y1 x2 y2 score, class k's from starts[k] up to starts[k + 1] -> indices kept, class by class, best
    first, of each at most `limit` unless that is 0.

    Dropped at IoU >= thresh (float32 IoU).
    """
    dets = np.asarray(dets, np.float32).reshape(-1, 5)
    order = best_first(dets[:, 4], starts)
    cdef const float[:, ::1] boxes = dets[order, :4]
    cdef const Py_ssize_t[::1] bounds = np.ascontiguousarray(starts, np.intp)
    cdef Py_ssize_t k, count = 0
    taken = np.empty(len(order) + 1, np.intp)
    cdef Py_ssize_t[::1] into = taken
    cdef float[:, ::1] kept = np.empty((5, max(1, int(np.diff(starts).max(initial=0)))), np.float32)
    cdef float bound = np.float32(thresh)
    if bound < thresh:          # the least float32 that is >= thresh: the comparison stays exact
        bound = np.nextafter(np.float32(bound), np.float32(np.inf))
    with nogil:
        for k in range(bounds.shape[0] - 1):
            count += suppress(boxes, bounds[k], bounds[k + 1], bound, limit, kept, &into[count])
    return order[taken[:count]]


def cpu_nms(dets, double thresh, Py_ssize_t limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0.

    Dropped at IoU >= thresh (float32 IoU).
    """
    return cpu_class_nms(dets, (0, len(dets)), thresh, limit).tolist()
