// Samples where the net says: the columns of deformable convolution, and deformable position-sensitive ROI pooling, forward
// and backward. types/deformable.py says what they compute, and has the plain torch versions.
//
// Forward has a thread for each number it makes. Backward adds into the map as units.cuh says; the gradients of what
// moves the samples are sums that one thread each makes in order.
#include "units.cuh"

// A point on an axis of `size` cells, between cell `low` and the next; a cell that the axis lacks counts as 0.
struct Between {
    int low;
    float part;
    bool has_low, has_high;

    BOTH Between(float at, int size) {
        float cell = floorf(at == at ? fminf(fmaxf(at, -2.f), size + 1.f) : 0.f);
        low = int(cell);
        part = at - cell;
        part = part < 0 ? 0 : part > 1 ? 1 : part;  // not a number stays so
        has_low = low >= 0 && low < size;
        has_high = low + 1 >= 0 && low + 1 < size;
    }
    BOTH bool has(int far) const { return far ? has_high : has_low; }
    BOTH float weight(int far) const { return far ? part : 1 - part; }
};

// Bilinear interpolation of a map `width` wide, and its derivatives down and to the right.
struct Sample {
    Between y, x;
    int width;

    BOTH float cell(const float* map, int m, int n) const {
        return y.has(m) && x.has(n) ? map[int64_t(y.low + m) * width + x.low + n] : 0;
    }
    BOTH float value(const float* map) const {
        float sum = 0;
        for (int m = 0; m < 2; ++m)
            for (int n = 0; n < 2; ++n) sum += cell(map, m, n) * (y.weight(m) * x.weight(n));
        return sum;
    }
    BOTH float down(const float* map) const {
        return (cell(map, 1, 0) - cell(map, 0, 0)) * x.weight(0) + (cell(map, 1, 1) - cell(map, 0, 1)) * x.weight(1);
    }
    BOTH float right(const float* map) const {
        return (cell(map, 0, 1) - cell(map, 0, 0)) * y.weight(0) + (cell(map, 1, 1) - cell(map, 1, 0)) * y.weight(1);
    }
    BOTH void spread(int64_t* map, float amount) const {
        for (int m = 0; m < 2; ++m)
            for (int n = 0; n < 2; ++n)
                if (y.has(m) && x.has(n))
                    add(map + int64_t(y.low + m) * width + x.low + n, llrintf(amount * (y.weight(m) * x.weight(n))));
    }
};

// Deformable convolution

struct Moves {
    int64_t images, channels;
    int height, width, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
    const float* offset;  // (images, groups, taps, 2, outs)
    const float* mask;    // (images, groups, taps, outs), or null

    Moves(const int64_t* size, const float* offset, const float* mask)
        : images(size[0]), channels(size[1]), height(int(size[2])), width(int(size[3])), out_h(int(size[4])),
          out_w(int(size[5])), kernel_h(int(size[6])), kernel_w(int(size[7])), stride_h(int(size[8])),
          stride_w(int(size[9])), pad_h(int(size[10])), pad_w(int(size[11])), dilation_h(int(size[12])),
          dilation_w(int(size[13])), groups(int(size[14])), offset(offset), mask(mask) {}

    BOTH int taps() const { return kernel_h * kernel_w; }
    BOTH int64_t outs() const { return int64_t(out_h) * out_w; }
    BOTH int64_t map(int64_t image, int64_t channel) const { return (image * channels + channel) * height * width; }
    BOTH int64_t moves(int64_t image, int64_t group, int tap) const { return (image * groups + group) * taps() + tap; }

    BOTH float weight(int64_t move, int64_t out) const { return mask ? mask[move * outs() + out] : 1; }
    BOTH Sample sample(int64_t move, int tap, int64_t out) const {
        const float* down = offset + 2 * move * outs() + out;
        float y = float(int(out / out_w) * stride_h - pad_h + tap / kernel_w * dilation_h) + down[0];
        float x = float(int(out % out_w) * stride_w - pad_w + tap % kernel_w * dilation_w) + down[outs()];
        return {Between(y, height), Between(x, width), width};
    }
};

// Number e of the columns (images, channels, taps, outs).
struct Entry {
    int64_t image, channel, out, move;
    int tap;

    BOTH Entry(int64_t e, const Moves& g) {
        out = e % g.outs();
        tap = int(e / g.outs() % g.taps());
        channel = e / (g.outs() * g.taps()) % g.channels;
        image = e / (g.outs() * g.taps() * g.channels);
        move = g.moves(image, channel / (g.channels / g.groups), tap);
    }
};

struct MovedForward {
    Moves g;
    const float* x;
    float* top;

    BOTH void operator()(int64_t e) const {
        Entry at(e, g);
        Sample sample = g.sample(at.move, at.tap, at.out);
        top[e] = sample.value(x + g.map(at.image, at.channel)) * g.weight(at.move, at.out);
    }
};

struct MovedToMap {
    Moves g;
    const float* grad;
    Units units;
    int64_t* sum;

    BOTH void operator()(int64_t e) const {
        if (!units.finite()) return;
        Entry at(e, g);
        Sample sample = g.sample(at.move, at.tap, at.out);
        float amount = grad[e] * g.weight(at.move, at.out) * units.factor();
        sample.spread(sum + g.map(at.image, at.channel), amount);
    }
};

// Number e of the moves (images, groups, taps, outs): the gradients of its two offsets and its mask.
struct MovedToMoves {
    Moves g;
    const float* grad;
    const float* x;
    float* moves;
    float* masks;

    BOTH void operator()(int64_t e) const {
        int64_t out = e % g.outs(), move = e / g.outs();
        int tap = int(move % g.taps());
        int64_t image = move / g.taps() / g.groups, each = g.channels / g.groups;
        int64_t first = move / g.taps() % g.groups * each;
        Sample sample = g.sample(move, tap, out);
        float down = 0, right = 0, value = 0;
        for (int64_t channel = first; channel < first + each; ++channel) {
            const float* map = x + g.map(image, channel);
            float mine = grad[((image * g.channels + channel) * g.taps() + tap) * g.outs() + out];
            down += mine * sample.down(map);
            right += mine * sample.right(map);
            value += mine * sample.value(map);
        }
        moves[2 * move * g.outs() + out] = down * g.weight(move, out);
        moves[(2 * move + 1) * g.outs() + out] = right * g.weight(move, out);
        if (masks) masks[e] = value;
    }
};

// x (images, channels, height, width), and Moves' numbers as `size` in the host's memory -> top
// (images, channels taps, out_h, out_w)
EXPORT int moved_forward(const float* x, const float* offset, const float* mask, const int64_t* size, float* top,
                         int64_t device, void* stream) {
    Moves g(size, offset, mask);
    return each({device, stream}, g.images * g.channels * g.taps() * g.outs(), MovedForward{g, x, top});
}

// grad as top, most (1): its largest size times the mask's; sum: as x, zeros to add up in -> bottom, moves, masks (or
// null), as x, offset, mask
EXPORT int moved_backward(const float* grad, const float* most, const float* x, const float* offset, const float* mask,
                          const int64_t* size, int64_t* sum, float* bottom, float* moves, float* masks, int64_t device,
                          void* stream) {
    Moves g(size, offset, mask);
    Queue queue{device, stream};
    Units units(most, g.taps() * g.outs());
    int64_t count = g.images * g.channels * g.taps() * g.outs();
    if (int error = each(queue, count, MovedToMap{g, grad, units, sum})) return error;
    int64_t cells = g.images * g.channels * g.height * g.width;
    if (int error = each(queue, cells, FromUnits{units, sum, bottom})) return error;
    return each(queue, g.images * g.groups * g.taps() * g.outs(), MovedToMoves{g, grad, x, moves, masks});
}

// Deformable position-sensitive ROI pooling

struct Shifts {
    int64_t count, channels, tops;
    int height, width, group, p, part, samples, classes;
    const int64_t* image;  // (count)
    const float* boxes;    // (count, 4): x1 y1 x2 y2 in pixels of the image
    const float* shifts;   // (count, classes, 2, part, part), or null
    float scale, std;

    Shifts(const int64_t* size, const int64_t* image, const float* boxes, const float* shifts, double scale, double std)
        : count(size[0]), channels(size[1]), tops(size[4]), height(int(size[2])), width(int(size[3])),
          group(int(size[5])), p(int(size[6])), part(int(size[7])), samples(int(size[8])), classes(int(size[9])),
          image(image), boxes(boxes), shifts(shifts), scale(float(scale)), std(float(std)) {}

    BOTH int64_t shift(int64_t region, int64_t cls, int axis, int i, int j) const {
        return (((region * classes + cls) * 2 + axis) * part + i) * part + j;
    }
};

// Samples along one axis of a bin: those from `first` on that count as on the map.
struct Line {
    float first, step, length;
    int size;

    BOTH Line(float start, float end, float scale, int bins, int b, int samples, float shift, int size) : size(size) {
        float from = roundf(start) * scale - 0.5f, to = (roundf(end) + 1) * scale - 0.5f;
        length = fmaxf(to - from, 0.1f);
        step = length / bins;
        first = b * step + from + shift * length;
        step = step / samples;
    }
    BOTH float at(int k) const { return first + k * step; }
    BOTH bool on(int k) const { return at(k) >= -0.5f && at(k) <= size - 0.5f; }
    // Whether a move moves sample k: on the rim it does not.
    BOTH bool inside(int k) const { return at(k) >= 0 && at(k) < size - 1; }
    BOTH Between beside(int k) const { return Between(fminf(fmaxf(at(k), 0.f), size - 1.f), size); }
};

// Bin (i, j) of output `channel` of a region.
struct ShiftedBin {
    Line rows, columns;
    int64_t map;
    int width, samples;

    BOTH ShiftedBin(const Shifts& g, int64_t region, int64_t channel, int i, int j)
        : rows(line(g, region, channel, i, j, 1, g.height)), columns(line(g, region, channel, i, j, 0, g.width)),
          map((g.image[region] * g.channels + (channel * g.group + i * g.group / g.p) * g.group + j * g.group / g.p) *
              g.height * g.width),
          width(g.width), samples(g.samples) {}

    BOTH static Line line(const Shifts& g, int64_t region, int64_t channel, int i, int j, int axis, int size) {
        const float* box = g.boxes + 4 * region + axis;
        int64_t cls = channel / (g.tops / g.classes);
        float shift = g.shifts ? g.shifts[g.shift(region, cls, axis, i * g.part / g.p, j * g.part / g.p)] * g.std : 0;
        return Line(box[0], box[2], g.scale, g.p, axis ? i : j, g.samples, shift, size);
    }
    BOTH int counted() const {
        int down = 0, right = 0;
        for (int k = 0; k < samples; ++k) {
            down += rows.on(k);
            right += columns.on(k);
        }
        return down * right > 0 ? down * right : 1;
    }
    // visit(m, n, sample) for all samples that count
    template <class F>
    BOTH void each(F visit) const {
        for (int m = 0; m < samples; ++m)
            for (int n = 0; n < samples && rows.on(m); ++n)
                if (columns.on(n)) visit(m, n, Sample{rows.beside(m), columns.beside(n), width});
    }
};

BOTH inline ShiftedBin bin_of(int64_t e, const Shifts& g) {
    int64_t bins = int64_t(g.p) * g.p;
    return ShiftedBin(g, e / (bins * g.tops), e / bins % g.tops, int(e / g.p % g.p), int(e % g.p));
}

struct ShiftedForward {
    Shifts g;
    const float* x;
    float* top;

    BOTH void operator()(int64_t e) const {
        ShiftedBin bin = bin_of(e, g);
        float sum = 0;
        bin.each([&](int, int, const Sample& sample) { sum += sample.value(x + bin.map); });
        top[e] = sum / bin.counted();
    }
};

struct ShiftedToMap {
    Shifts g;
    const float* grad;
    Units units;
    int64_t* sum;

    BOTH void operator()(int64_t e) const {
        if (!units.finite()) return;
        ShiftedBin bin = bin_of(e, g);
        float amount = grad[e] * units.factor() / bin.counted();
        bin.each([&](int, int, const Sample& sample) { sample.spread(sum + bin.map, amount); });
    }
};

// Number e of the places (count, classes, part, part) of shifts: the gradients of its two.
struct ShiftedToShifts {
    Shifts g;
    const float* grad;
    const float* x;
    float* moves;

    BOTH void operator()(int64_t e) const {
        int column = int(e % g.part), row = int(e / g.part % g.part);
        int64_t cls = e / (int64_t(g.part) * g.part) % g.classes;
        int64_t region = e / (int64_t(g.part) * g.part * g.classes), each = g.tops / g.classes;
        float right = 0, down = 0;
        for (int i = 0; i < g.p; ++i)
            for (int j = 0; j < g.p; ++j) {
                if (i * g.part / g.p != row || j * g.part / g.p != column) continue;
                for (int64_t channel = cls * each; channel < (cls + 1) * each; ++channel) {
                    ShiftedBin bin(g, region, channel, i, j);
                    float mine = grad[((region * g.tops + channel) * g.p + i) * g.p + j] / bin.counted() * g.std;
                    bin.each([&](int m, int n, const Sample& sample) {
                        if (bin.columns.inside(n)) right += mine * bin.columns.length * sample.right(x + bin.map);
                        if (bin.rows.inside(m)) down += mine * bin.rows.length * sample.down(x + bin.map);
                    });
                }
            }
        moves[g.shift(region, cls, 0, row, column)] = right;
        moves[g.shift(region, cls, 1, row, column)] = down;
    }
};

// x (., channels, height, width), and Shifts' numbers as `size` in the host's memory -> top (count, tops, p, p)
EXPORT int shifted_forward(const float* x, const int64_t* image, const float* boxes, const float* shifts, double scale,
                           double std, const int64_t* size, float* top, int64_t device, void* stream) {
    Shifts g(size, image, boxes, shifts, scale, std);
    return each({device, stream}, g.count * g.tops * g.p * g.p, ShiftedForward{g, x, top});
}

// grad as top, most (1): its largest size; sum: as x, `cells` zeros to add up in -> bottom, moves (or null), as x, shifts
EXPORT int shifted_backward(const float* grad, const float* most, const float* x, const int64_t* image, const float* boxes,
                            const float* shifts, double scale, double std, const int64_t* size, int64_t* sum,
                            float* bottom, int64_t cells, float* moves, int64_t device, void* stream) {
    Shifts g(size, image, boxes, shifts, scale, std);
    Queue queue{device, stream};
    Units units(most, g.count * g.p * g.p);
    if (int error = each(queue, g.count * g.tops * g.p * g.p, ShiftedToMap{g, grad, units, sum})) return error;
    if (int error = each(queue, cells, FromUnits{units, sum, bottom})) return error;
    if (!moves) return 0;
    return each(queue, g.count * g.classes * g.part * g.part, ShiftedToShifts{g, grad, x, moves});
}
