# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The convolutions of packed.h on arrays. See packed.py for shapes."""
cdef extern from "packed.h" nogil:
    int IS_THREADED "THREADED"
    ptrdiff_t pointwise_scratch(int rows)
    void pointwise_ "pointwise"(const float* x, int m, int C, const float* filters, const float* bias, int O, int onto,
                                int relu, float* y, int rows, float* scratch, int threads)
    ptrdiff_t winograd_scratch(int C, int panels, int tiles)
    void winograd_ "winograd"(const float* x, int N, int H, int W, int C, const float* filters, const float* bias,
                              int panels, int O, int pad_h, int pad_w, int relu, float* y, int tiles, float* scratch,
                              int threads)

THREADED = bool(IS_THREADED)


def scratch_of(int planes, int channels, int panels, int part):
    """Numbers that a thread needs beside."""
    return pointwise_scratch(part) if planes == 1 else winograd_scratch(channels, panels, part)


def pointwise(const float[:, ::1] x, const float[:, :, :, ::1] filters, const float[::1] bias, float[:, ::1] y,
              bint onto, bint relu, int rows, float[::1] scratch, int threads):
    cdef int m = x.shape[0], C = x.shape[1], O = y.shape[1]
    with nogil:
        pointwise_(&x[0, 0], m, C, &filters[0, 0, 0, 0], &bias[0], O, onto, relu, &y[0, 0], rows, &scratch[0], threads)


def winograd(const float[:, :, :, ::1] x, const float[:, :, :, ::1] filters, const float[::1] bias,
             float[:, :, :, ::1] y, int pad_h, int pad_w, bint relu, int tiles, float[::1] scratch, int threads):
    cdef int N = x.shape[0], H = x.shape[1], W = x.shape[2], C = x.shape[3], O = y.shape[3], panels = filters.shape[1]
    with nogil:
        winograd_(&x[0, 0, 0, 0], N, H, W, C, &filters[0, 0, 0, 0], &bias[0], panels, O, pad_h, pad_w, relu,
                  &y[0, 0, 0, 0], tiles, &scratch[0], threads)
