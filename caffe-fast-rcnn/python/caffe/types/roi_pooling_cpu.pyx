# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ROIPooling on the CPU. Each thread takes whole channels, so that nothing is written twice. See roi.py for
shapes and bins.

where: position y W + x of each maximum within its map, -1 for an empty bin.
"""
from cython.parallel cimport prange

cdef float LOWEST = -3.4028234663852886e38


cdef void pool_map(const float* x, int width, const int* rows, int p, const int* columns, int q,
                   float* top, int* where) noexcept nogil:
    """One map (H, W) under one region -> its p x q grid."""
    cdef int i, j, y, c, at, found
    cdef float best
    for i in range(p):
        for j in range(q):
            best, found = LOWEST, -1
            for y in range(rows[2 * i], rows[2 * i + 1]):
                for c in range(columns[2 * j], columns[2 * j + 1]):
                    at = y * width + c
                    if x[at] > best:
                        best, found = x[at], at
            if rows[2 * i] >= rows[2 * i + 1] or columns[2 * j] >= columns[2 * j + 1]:
                best = 0
            top[i * q + j] = best
            where[i * q + j] = found


def forward(const float[:, :, :, ::1] x, const int[::1] image, const int[:, :, ::1] rows,
            const int[:, :, ::1] columns, float[:, :, :, ::1] top, int[:, :, :, ::1] where, int threads):
    cdef Py_ssize_t r, c, channels = x.shape[1], regions = image.shape[0]
    cdef int width = x.shape[3], p = rows.shape[1], q = columns.shape[1]
    if not regions or not x.size:
        return
    for c in prange(channels, nogil=True, num_threads=threads, schedule='static'):
        for r in range(regions):
            pool_map(&x[image[r], c, 0, 0], width, &rows[r, 0, 0], p, &columns[r, 0, 0], q,
                     &top[r, c, 0, 0], &where[r, c, 0, 0])


cdef void scatter_map(const float* grad, const int* where, Py_ssize_t cells, float* bottom) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(cells):
        if where[i] >= 0:
            bottom[where[i]] += grad[i]


def backward(const float[:, :, :, ::1] grad, const int[::1] image, const int[:, :, :, ::1] where,
             float[:, :, :, ::1] bottom, int threads):
    cdef Py_ssize_t r, c, channels = bottom.shape[1], regions = image.shape[0]
    cdef Py_ssize_t cells = grad.shape[2] * grad.shape[3]
    if not regions or not bottom.size:
        return
    for c in prange(channels, nogil=True, num_threads=threads, schedule='static'):
        for r in range(regions):
            scatter_map(&grad[r, c, 0, 0], &where[r, c, 0, 0], cells, &bottom[image[r], c, 0, 0])
