# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Greedy non-maximum suppression on the CPU, for all rules: see boxes.py and lib/nms."""
import numpy as np

cdef extern from *:
    """
    #include <stddef.h>
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
    #define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define FOR_EACH_PROCESSOR
    #endif

    /* Whether one of `count` boxes overlaps the box x1 y1 x2 y2 of this area by more than thresh. kept: rows x1, y1, x2,
       y2, area, of `room` numbers each. No branches within a block: the compiler vectorises it. */
    FOR_EACH_PROCESSOR
    static int overlapped(const float *kept, ptrdiff_t room, ptrdiff_t count, float x1, float y1, float x2, float y2,
                          float area, float offset, float thresh) {
        const float *kept_y1 = kept + room, *kept_x2 = kept_y1 + room, *kept_y2 = kept_x2 + room;
        const float *kept_area = kept_y2 + room;
        for (ptrdiff_t start = 0; start < count; start += 64) {
            ptrdiff_t end = start + 64 < count ? start + 64 : count;
            int found = 0;
            for (ptrdiff_t k = start; k < end; ++k) {
                float left = kept[k] > x1 ? kept[k] : x1, right = kept_x2[k] < x2 ? kept_x2[k] : x2;
                float top = kept_y1[k] > y1 ? kept_y1[k] : y1, bottom = kept_y2[k] < y2 ? kept_y2[k] : y2;
                float width = right - left + offset, height = bottom - top + offset;
                width = width > 0 ? width : 0;
                height = height > 0 ? height : 0;
                float inter = width * height;
                found |= inter / (kept_area[k] + area - inter) > thresh;
            }
            if (found) return 1;
        }
        return 0;
    }
    """
    bint overlapped(const float* kept, Py_ssize_t room, Py_ssize_t count, float x1, float y1, float x2, float y2,
                    float area, float offset, float thresh) noexcept nogil


cdef float extent(float start, float end, float offset, bint clamped) noexcept nogil:
    cdef float length = end - start + offset
    return 0 if clamped and length < 0 else length


cdef Py_ssize_t of_class(const float[:, ::1] boxes, Py_ssize_t begin, Py_ssize_t end, float thresh, float offset,
                         bint clamped, Py_ssize_t limit, float[:, ::1] kept, Py_ssize_t* taken) noexcept nogil:
    """taken: of boxes begin..end-1, best first, the indices of those kept, up to `limit`; their number. kept is room."""
    cdef Py_ssize_t i, k, count = 0
    cdef float area
    for i in range(begin, end):
        area = extent(boxes[i, 0], boxes[i, 2], offset, clamped) * extent(boxes[i, 1], boxes[i, 3], offset, clamped)
        if overlapped(&kept[0, 0], kept.shape[1], count, boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], area,
                      offset, thresh):
            continue
        for k in range(4):
            kept[k, count] = boxes[i, k]
        kept[4, count] = area
        taken[count] = i
        count += 1
        if count == limit:
            break
    return count


def suppress(const float[:, ::1] boxes, starts, float thresh, float offset, bint clamped, Py_ssize_t limit):
    """boxes (N, 4), class k's from starts[k] up to starts[k + 1], best first -> indices kept (intp), in their order, of
    each class at most `limit` unless that is 0. Dropped: float32 IoU above thresh. Widths are x2 - x1 + offset;
    clamped: areas have none below 0."""
    cdef const Py_ssize_t[::1] bounds = np.ascontiguousarray(starts, np.intp)
    cdef Py_ssize_t k, count = 0
    taken = np.empty(len(boxes) + 1, np.intp)
    cdef Py_ssize_t[::1] into = taken
    cdef float[:, ::1] kept = np.empty((5, max(1, int(np.diff(starts).max(initial=0)))), np.float32)
    with nogil:
        for k in range(bounds.shape[0] - 1):
            count += of_class(boxes, bounds[k], bounds[k + 1], thresh, offset, clamped, limit, kept, &into[count])
    return taken[:count]
