// Grids of values from regions of a feature map: ROI pooling, ROI align, position-sensitive ROI pooling, forward and
// backward. types/roi.py says what they compute, and has the plain torch versions.
//
// One element each: a cell (i, j) of the grid (p, q) of one channel of one region. Backward adds, for many elements at
// once, into cells that they have in common, in whole numbers, as units.cuh says.
#include "units.cuh"

struct Regions {
    const int64_t* image;  // (count): of which image each region is
    const float* boxes;    // (count, 4): x1 y1 x2 y2 in pixels of the image
    double scale;          // cells of the map to a pixel
    int64_t count, channels, tops;  // regions; channels of the map, of the grids
    int height, width, p, q, samples, aligned;

    Regions(const int64_t* image, const float* boxes, double scale, const int64_t* size)
        : image(image), boxes(boxes), scale(scale), count(size[0]), channels(size[1]), tops(size[2]),
          height(int(size[3])), width(int(size[4])), p(int(size[5])), q(int(size[6])), samples(int(size[7])),
          aligned(int(size[8])) {}

    int64_t elements() const { return count * tops * p * q; }
};

struct Element {
    int64_t region, channel;
    int i, j;
    const float* box;

    BOTH Element(int64_t e, const Regions& g) {
        j = int(e % g.q);
        i = int(e / g.q % g.p);
        channel = e / (int64_t(g.q) * g.p) % g.tops;
        region = e / (int64_t(g.q) * g.p * g.tops);
        box = g.boxes + 4 * region;
    }

    // Where the map of a channel under this region begins.
    BOTH int64_t map(const Regions& g, int64_t channel) const {
        return (g.image[region] * g.channels + channel) * g.height * g.width;
    }
};

struct Span {
    int first, end;

    BOTH bool empty() const { return first >= end; }
};

BOTH inline int cut(float at, int size) { return int(fminf(fmaxf(at, 0.f), float(size))); }

// ROI pooling

BOTH inline Span pooled(float start, float end, float scale, int bins, int b, int size) {
    float first = roundf(start * scale), last = roundf(end * scale);
    float step = fmaxf(last - first + 1, 1.f) / bins;
    return {cut(floorf(b * step) + first, size), cut(ceilf((b + 1) * step) + first, size)};
}

struct PoolForward {
    Regions g;
    const float* x;
    float* top;
    int* where;

    BOTH void operator()(int64_t e) const {
        Element at(e, g);
        Span rows = pooled(at.box[1], at.box[3], float(g.scale), g.p, at.i, g.height);
        Span columns = pooled(at.box[0], at.box[2], float(g.scale), g.q, at.j, g.width);
        const float* map = x + at.map(g, at.channel);
        float best = -3.4028234663852886e38f;
        int found = -1;
        for (int y = rows.first; y < rows.end; ++y)
            for (int cell = y * g.width + columns.first; cell < y * g.width + columns.end; ++cell)
                if (map[cell] > best) {
                    best = map[cell];
                    found = cell;
                }
        top[e] = rows.empty() || columns.empty() ? 0 : best;
        where[e] = found;
    }
};

struct PoolBackward {
    Regions g;
    const float* grad;
    Units units;
    const int* where;
    int64_t* sum;

    BOTH void operator()(int64_t e) const {
        if (where[e] < 0 || !units.finite()) return;
        Element at(e, g);
        add(sum + at.map(g, at.channel) + where[e], llrintf(grad[e] * units.factor()));
    }
};

// ROI align

struct Tap {
    int low, high;
    float of_low, of_high;
};

// The points of one bin along one axis, in the arithmetic T.
template <class T>
struct Points {
    T origin, step, count, from;
    int64_t looked_at;  // of `count` points those, from number `from` on, that can lie on the map
    int size;

    BOTH Points(T start, T end, const Regions& g, int bins, int b, int size) : size(size) {
        T scale = T(g.scale), begin = start * scale - T(g.aligned ? 0.5 : 0), length = (end - start) * scale;
        int samples = g.samples;
        step = (length < 1 && !g.aligned ? 1 : length) / bins;
        origin = begin + b * step;
        count = samples ? samples : ceil(step);
        int64_t window = 2 * int64_t(size) + 6;  // points are half a cell apart at least, unless samples says
        from = 0;
        if (!samples && count > window) {
            from = floor((-1 - begin - b * step) * count / step - 1);
            from = from > 0 ? from : 0;
        }
        looked_at = samples || count < window ? int64_t(count) : window;
    }

    // Whether point number m of those looked at is on the map, and its cells.
    BOTH bool at(int64_t m, Tap& tap) const {
        T k = from + m, place = origin + (k + T(0.5)) * step / count;
        if (!(k < count && place >= -1 && place <= size)) return false;
        place = place < 0 ? 0 : place > size - 1 ? size - 1 : place;
        tap.low = int(place);
        tap.high = tap.low + 1 < size ? tap.low + 1 : size - 1;
        T part = place - tap.low, share = 1 / count;
        tap.of_low = float((1 - part) * share);
        tap.of_high = float(part * share);
        return true;
    }
};

// visit(cell, weight) for all cells of the map in the mean over bin (i, j).
template <class T, class F>
BOTH void visit_points(const Regions& g, const Element& at, F visit) {
    Points<T> rows(at.box[1], at.box[3], g, g.p, at.i, g.height);
    Points<T> columns(at.box[0], at.box[2], g, g.q, at.j, g.width);
    Tap row, column;
    for (int64_t m = 0; m < rows.looked_at; ++m) {
        if (!rows.at(m, row)) continue;
        for (int64_t n = 0; n < columns.looked_at; ++n) {
            if (!columns.at(n, column)) continue;
            visit(row.low * g.width + column.low, row.of_low * column.of_low);
            visit(row.low * g.width + column.high, row.of_low * column.of_high);
            visit(row.high * g.width + column.low, row.of_high * column.of_low);
            visit(row.high * g.width + column.high, row.of_high * column.of_high);
        }
    }
}

// In double where a bin is larger than the map and chooses its points itself: their numbers may be large.
template <class F>
BOTH void visit_mean(const Regions& g, const Element& at, F visit) {
    float scale = float(g.scale);
    bool large = (at.box[2] - at.box[0]) * scale / g.q > g.width || (at.box[3] - at.box[1]) * scale / g.p > g.height;
    if (large && !g.samples)
        visit_points<double>(g, at, visit);
    else
        visit_points<float>(g, at, visit);
}

// The mean over what Way::visit visits, of the map that begins at Way::map, and what its gradient adds there.
template <class Way>
struct MeanForward {
    Regions g;
    const float* x;
    float* top;

    BOTH void operator()(int64_t e) const {
        Element at(e, g);
        const float* map = x + Way::map(g, at);
        float mean = 0;
        Way::visit(g, at, [&](int cell, float weight) { mean += map[cell] * weight; });
        top[e] = mean;
    }
};

template <class Way>
struct MeanBackward {
    Regions g;
    const float* grad;
    Units units;
    int64_t* sum;

    BOTH void operator()(int64_t e) const {
        if (!units.finite()) return;
        Element at(e, g);
        int64_t* map = sum + Way::map(g, at);
        float mine = grad[e] * units.factor();
        Way::visit(g, at, [&](int cell, float weight) { add(map + cell, llrintf(mine * weight)); });
    }
};

struct Aligned {
    BOTH static int64_t map(const Regions& g, const Element& at) { return at.map(g, at.channel); }
    template <class F>
    BOTH static void visit(const Regions& g, const Element& at, F each) { visit_mean(g, at, each); }
};

// ROI align by the corners of bins

// Corner c of the bins along one axis: its two cells, and how much of each.
BOTH inline Tap corner(float start, float end, float scale, int bins, int c, int size) {
    float step = fmaxf((end - start) * scale + 1, 0.f) / bins, at = start * scale + c * step;
    if (!(at >= 0 && at < size)) return {0, 0, 0, 0};
    int low = int(at), last = size > 2 ? size - 2 : 0;
    low = low < last ? low : last;
    return {low, low + 1 < size ? low + 1 : size - 1, 1 - (at - low), at - low};
}

// visit(cell, weight) for all cells of the map in the mean over the four corners of bin (i, j).
template <class F>
BOTH void visit_corners(const Regions& g, const Element& at, F visit) {
    for (int m = 0; m < 2; ++m) {
        Tap row = corner(at.box[1], at.box[3], float(g.scale), g.p, at.i + m, g.height);
        for (int n = 0; n < 2; ++n) {
            Tap column = corner(at.box[0], at.box[2], float(g.scale), g.q, at.j + n, g.width);
            visit(row.low * g.width + column.low, row.of_low * column.of_low / 4);
            visit(row.low * g.width + column.high, row.of_low * column.of_high / 4);
            visit(row.high * g.width + column.low, row.of_high * column.of_low / 4);
            visit(row.high * g.width + column.high, row.of_high * column.of_high / 4);
        }
    }
}

struct Corners : Aligned {
    template <class F>
    BOTH static void visit(const Regions& g, const Element& at, F each) { visit_corners(g, at, each); }
};

// Position-sensitive ROI pooling

// Where the map of the channel for an element's bin begins.
BOTH inline int64_t map_of_bin(const Regions& g, const Element& at) {
    return at.map(g, (at.channel * g.p + at.i) * g.q + at.j);
}

BOTH inline Span averaged(float start, float end, float scale, int bins, int b, int size) {
    float first = roundf(start) * scale, last = (roundf(end) + 1) * scale;
    float step = fmaxf(last - first, 0.1f) / bins;
    return {cut(floorf(b * step + first), size), cut(ceilf((b + 1) * step + first), size)};
}

// visit(cell) for all cells of bin (i, j); where the map of its channel begins.
struct Bin {
    Span rows, columns;
    int64_t map;
    int width;

    BOTH Bin(const Regions& g, const Element& at)
        : rows(averaged(at.box[1], at.box[3], float(g.scale), g.p, at.i, g.height)),
          columns(averaged(at.box[0], at.box[2], float(g.scale), g.q, at.j, g.width)),
          map(map_of_bin(g, at)), width(g.width) {}

    BOTH float cells() const {
        return rows.empty() || columns.empty() ? 1 : float(rows.end - rows.first) * float(columns.end - columns.first);
    }
    template <class F>
    BOTH void each(F visit) const {
        for (int y = rows.first; y < rows.end; ++y)
            for (int cell = y * width + columns.first; cell < y * width + columns.end; ++cell) visit(cell);
    }
};

struct SensitiveForward {
    Regions g;
    const float* x;
    float* top;

    BOTH void operator()(int64_t e) const {
        Bin bin(g, Element(e, g));
        const float* map = x + bin.map;
        float sum = 0;
        bin.each([&](int cell) { sum += map[cell]; });
        top[e] = sum / bin.cells();
    }
};

struct SensitiveBackward {
    Regions g;
    const float* grad;
    Units units;
    int64_t* sum;

    BOTH void operator()(int64_t e) const {
        if (!units.finite()) return;
        Bin bin(g, Element(e, g));
        int64_t* map = sum + bin.map;
        int64_t share = llrintf(grad[e] * units.factor() / bin.cells());
        bin.each([&](int cell) { add(map + cell, share); });
    }
};

// Position-sensitive ROI align

struct SensitiveAligned : Aligned {
    BOTH static int64_t map(const Regions& g, const Element& at) { return map_of_bin(g, at); }
};

// x (N, channels, height, width), image (count), boxes (count, 4), and the numbers of Regions, the last nine as
// `size` in the host's memory -> top (count, tops, p, q). where: of ROI pooling alone, like top: the cell of each
// maximum in its map, -1 where there is none.
#define FORWARD(name, ...)                                                                                         \
    EXPORT int name(const float* x, const int64_t* image, const float* boxes, double scale, const int64_t* size,      \
                    float* top, int* where, int64_t device, void* stream) {                                         \
        Regions g(image, boxes, scale, size);                                                                       \
        (void)where;                                                                                                \
        return each({device, stream}, g.elements(), __VA_ARGS__);                                                   \
    }

FORWARD(roi_pooling_forward, PoolForward{g, x, top, where})
FORWARD(roi_align_forward, MeanForward<Aligned>{g, x, top})
FORWARD(roi_corners_forward, MeanForward<Corners>{g, x, top})
FORWARD(psroi_pooling_forward, SensitiveForward{g, x, top})
FORWARD(psroi_align_forward, MeanForward<SensitiveAligned>{g, x, top})

// grad as top, most (1): its largest size -> bottom, as x, of `cells` numbers; sum: as many zeros to add up in.
#define BACKWARD(name, ...)                                                                                        \
    EXPORT int name(const float* grad, const float* most, const int64_t* image, const float* boxes, double scale,     \
                    const int64_t* size, const int* where, int64_t* sum, float* bottom, int64_t cells,              \
                    int64_t device, void* stream) {                                                                 \
        Regions g(image, boxes, scale, size);                                                                       \
        Units units(most, g.count * g.p * g.q);                                                                     \
        (void)where;                                                                                                \
        if (int error = each({device, stream}, g.elements(), __VA_ARGS__)) return error;                            \
        return each({device, stream}, cells, FromUnits{units, sum, bottom});                                        \
    }

BACKWARD(roi_pooling_backward, PoolBackward{g, grad, units, where, sum})
BACKWARD(roi_align_backward, MeanBackward<Aligned>{g, grad, units, sum})
BACKWARD(roi_corners_backward, MeanBackward<Corners>{g, grad, units, sum})
BACKWARD(psroi_pooling_backward, SensitiveBackward{g, grad, units, sum})
BACKWARD(psroi_align_backward, MeanBackward<SensitiveAligned>{g, grad, units, sum})
