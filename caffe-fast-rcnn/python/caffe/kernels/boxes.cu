// Overlaps of boxes and greedy non-maximum suppression. Boxes are rows x1 y1 x2 y2; offset 0: coordinates of edges,
// 1: whole pixels, ends included. The plain torch versions are in types/boxes.py.
#include "grid.cuh"

template <class T>
struct Least;  // the least normal number
template <>
struct Least<float> {
    static constexpr float value = 1.17549435e-38f;
};
template <>
struct Least<double> {
    static constexpr double value = 2.2250738585072014e-308;
};

template <class T>
BOTH T extent(T start, T end, T offset) {
    T length = end - start + offset;
    return length < 0 ? 0 : length;
}

template <class T>
BOTH T area(const T* box, T offset) {
    return extent(box[0], box[2], offset) * extent(box[1], box[3], offset);
}

// Intersection over union; 0 where it is not a number.
template <class T>
BOTH T iou(const T* a, const T* b, T offset) {
    T shared = extent(a[0] > b[0] ? a[0] : b[0], a[2] < b[2] ? a[2] : b[2], offset) *
               extent(a[1] > b[1] ? a[1] : b[1], a[3] < b[3] ? a[3] : b[3], offset);
    T together = area(a, offset) + area(b, offset) - shared;
    T result = shared / (together < Least<T>::value ? Least<T>::value : together);
    return result == result ? result : 0;
}

// a (count, 4), b (columns, 4) -> top (count, columns)
template <class T>
struct Overlaps {
    const T *a, *b;
    int64_t columns;
    T offset;
    T* top;

    BOTH void operator()(int64_t i) const { top[i] = iou(a + 4 * (i / columns), b + 4 * (i % columns), offset); }
};

#ifdef __CUDACC__
EXPORT const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// 0 where this library has code for the device.
EXPORT int can_run(int64_t device) {
    if (cudaError_t error = cudaSetDevice(int(device))) return error;
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, each_kernel<Overlaps<float>>);
    cudaGetLastError();  // so that no later launch finds this one's
    return error;
}
#else
EXPORT const char* error_text(int) { return "the host has no such error"; }
EXPORT int can_run(int64_t) { return 0; }
EXPORT void set_backwards(int on) { backwards = on; }
#endif

EXPORT int overlaps_float(const float* a, const float* b, int64_t rows, int64_t columns, double offset, float* top,
                          int64_t device, void* stream) {
    return each({device, stream}, rows * columns, Overlaps<float>{a, b, columns, float(offset), top});
}

EXPORT int overlaps_double(const double* a, const double* b, int64_t rows, int64_t columns, double offset, double* top,
                           int64_t device, void* stream) {
    return each({device, stream}, rows * columns, Overlaps<double>{a, b, columns, offset, top});
}

// Greedy suppression goes through the boxes, which come best first, in strips of `rows`. Of each strip first every box
// that is left finds the later boxes it would drop (Drops: bits of a row of `mask`, 64 to a word), then one block takes
// the strip's boxes in their order (Take), and sets in `gone` what each box taken drops. The next strip's boxes that
// are gone by then cost nothing more.
struct Suppression {
    const float* boxes;
    int64_t count;
    float threshold, offset;
    int64_t limit, words;  // most boxes taken; words of a row: one for each 64 boxes
    uint64_t *gone, *mask;
    int64_t *taken, *number;  // indices taken so far, and how many

    BOTH bool left(int64_t i) const { return !(gone[i / 64] >> (i % 64) & 1); }
};

struct Drops {
    Suppression s;
    int64_t start, rows;

    // Neighbours take neighbouring rows and the same word: they read the same boxes at once.
    BOTH void operator()(int64_t i) const {
        int64_t row = start + i % rows, word = start / 64 + i / rows;
        if (*s.number >= s.limit || word < row / 64 || !s.left(row)) return;
        int64_t first = 64 * word, end = first + 64 < s.count ? first + 64 : s.count;
        float box[4];
        for (int k = 0; k < 4; ++k) box[k] = s.boxes[4 * row + k];
        uint64_t bits = 0;
        for (int64_t j = first > row ? first : row + 1; j < end; ++j)
            if (iou(box, s.boxes + 4 * j, s.offset) > s.threshold) bits |= uint64_t(1) << (j - first);
        s.mask[(row - start) * s.words + word] = bits;
    }
};

struct Take {
    Suppression s;
    int64_t start, rows;

    BOTH void operator()(uint64_t* shared) const {
        int64_t before = *s.number, number = before;
        for (int64_t first = start; first < start + rows && number < s.limit; first += 64) {
            const uint64_t* drops = s.mask + (first - start) * s.words;
            int64_t word = first / 64, end = first + 64 < s.count ? 64 : s.count - first;
            each_thread(end, [&](int64_t t) { shared[t] = s.left(first + t) ? drops[t * s.words + word] : 0; });
            each_thread(1, [&](int64_t) { take(first, end, number, shared); });
            uint64_t chosen = shared[64];
            number = int64_t(shared[65]);
            each_thread(s.words - word - 1, [&](int64_t t) {
                uint64_t all = 0;
#pragma unroll 8  // so that several loads are under way at once
                for (int64_t b = 0; b < end; ++b)
                    if (chosen >> b & 1) all |= drops[b * s.words + word + 1 + t];
                if (all) s.gone[word + 1 + t] |= all;
            });
        }
        if (number > before) each_thread(1, [&](int64_t) { *s.number = number; });
    }

    // Of the `end` boxes from `first` on, by what they drop among themselves (shared[0..63]): shared[64] becomes the
    // bits of those taken, shared[65] the number taken so far.
    BOTH void take(int64_t first, int64_t end, int64_t number, uint64_t* shared) const {
        uint64_t lost = s.gone[first / 64], chosen = 0;
        for (int64_t b = 0; b < end && number < s.limit; ++b) {
            if (lost >> b & 1) continue;
            chosen |= uint64_t(1) << b;
            lost |= shared[b];
            s.taken[number++] = first + b;
        }
        shared[64] = chosen;
        shared[65] = uint64_t(number);
    }
};

// boxes (count, 4), best first -> taken (count): the indices of those kept, *number of them. Dropped is what overlaps a
// box taken by more than threshold. gone (words) and number (1) come as zeros; mask has room for `rows` rows of words,
// words = count / 64 and rows = a multiple of 64.
EXPORT int nms(const float* boxes, int64_t count, double threshold, double offset, int64_t limit, uint64_t* gone,
               uint64_t* mask, int64_t rows, int64_t* taken, int64_t* number, int64_t device, void* stream) {
    int64_t words = (count + 63) / 64;
    Queue queue{device, stream};
    Suppression s{boxes, count, float(threshold), float(offset), limit, words, gone, mask, taken, number};
    for (int64_t start = 0; start < count; start += rows) {
        int64_t here = start + rows < count ? rows : count - start;
        if (int error = each(queue, here * (words - start / 64), Drops{s, start, here})) return error;
        if (int error = one_block(queue, Take{s, start, here})) return error;
    }
    return 0;
}

// The same for several classes at once, a block for each: class k has the boxes from starts[k] up to starts[k + 1].
struct TakeOfClass {
    const float* boxes;
    const int64_t* starts;
    float threshold, offset;
    uint8_t* gone;

    BOTH void operator()(int64_t k) const {
        for (int64_t i = starts[k], end = starts[k + 1]; i + 1 < end; ++i) {
            if (gone[i]) continue;
            each_thread(end - i - 1, [&](int64_t t) {
                int64_t j = i + 1 + t;
                if (!gone[j] && iou(boxes + 4 * i, boxes + 4 * j, offset) > threshold) gone[j] = 1;
            });
        }
    }
};

// boxes (starts[classes], 4), in each class best first -> gone, which comes as zeros: 1 for those that a better one of
// their class, itself kept, overlaps by more than threshold.
EXPORT int class_nms(const float* boxes, const int64_t* starts, int64_t classes, double threshold, double offset,
                     uint8_t* gone, int64_t device, void* stream) {
    return a_block_each({device, stream}, classes, TakeOfClass{boxes, starts, float(threshold), float(offset), gone});
}
