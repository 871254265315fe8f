/* Convolutions of float32 with the channels last and filters in panels of COLUMNS outputs: see packed.py.

   The innermost product keeps ROWS x COLUMNS sums in the 16 registers that AVX2 has. A thread takes some rows of the
   result (pointwise) or tiles (winograd) through all steps, in scratch memory of its own that its cache holds. */
#include <stddef.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
enum { THREADED = 1 };
#else
#define omp_get_thread_num() 0
enum { THREADED = 0 };
#endif

#if defined(__x86_64__)
#define FAST __attribute__((target("avx2,fma")))
#else
#define FAST
#endif
#define INLINE static inline __attribute__((always_inline)) FAST

enum { LANES = 8, ROWS = 6, COLUMNS = 2 * LANES };
enum { DEPTH = 256 };           /* channels whose filters stay in the first cache */
enum { PATCH = 6, SIDE = 4 };   /* a tile's bottom and top */
enum { PLANES = PATCH * PATCH };
enum { GAP = 16 };              /* between rows in scratch, so that those of 2^n numbers do not share a place in caches */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES)));

INLINE int least(int a, int b) { return a < b ? a : b; }

INLINE vec get(const float *from, int n)
{
    vec v = {0};
    if (n >= LANES)
        return *(const vec *)from;
    memcpy(&v, from, n * sizeof(float));
    return v;
}

INLINE void put(float *to, vec v, int n)
{
    if (n >= LANES)
        *(vec *)to = v;
    else
        memcpy(to, &v, n * sizeof(float));
}

/* What is below zero becomes zero; NaN stays. */
INLINE vec rectified(vec v) { return (vec)((mask)v & ~(v < 0)); }

/* What becomes of a sum: it begins with what is there (more) or 0; at the end come bias (or NULL) and ReLU. */
typedef struct {
    int more, relu;
    const float *bias;
} ends;

/* to (rows, COLUMNS) = a (rows, depth) b (depth, COLUMNS) */
INLINE void block(const int rows, int depth, const float *a, ptrdiff_t lda, const float *b, float *to, ptrdiff_t ldt,
                  ends e)
{
    vec s[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        s[r][0] = e.more ? get(to + r * ldt, LANES) : (vec){0};
        s[r][1] = e.more ? get(to + r * ldt + LANES, LANES) : (vec){0};
    }
    for (int k = 0; k < depth; k++, b += COLUMNS) {
        vec b0 = get(b, LANES), b1 = get(b + LANES, LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            s[r][0] += a[r * lda + k] * b0;
            s[r][1] += a[r * lda + k] * b1;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        for (int half = 0; half < 2; half++) {
            vec v = s[r][half];
            if (e.bias)
                v += get(e.bias + half * LANES, LANES);
            put(to + r * ldt + half * LANES, e.relu ? rectified(v) : v, LANES);
        }
}

/* to (m, panels COLUMNS) = a (m, depth) b (panels, depth, COLUMNS), of which b has step rows a panel */
static FAST void product(int m, int depth, int panels, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t step,
                         float *to, ptrdiff_t ldt, ends e)
{
    for (int p = 0; p < panels; p++, b += step * COLUMNS, to += COLUMNS) {
        for (int r = 0; r < m; r += ROWS) {
            const float *from = a + r * lda;
            float *at = to + r * ldt;
            switch (m - r) {
            case 1: block(1, depth, from, lda, b, at, ldt, e); break;
            case 2: block(2, depth, from, lda, b, at, ldt, e); break;
            case 3: block(3, depth, from, lda, b, at, ldt, e); break;
            case 4: block(4, depth, from, lda, b, at, ldt, e); break;
            case 5: block(5, depth, from, lda, b, at, ldt, e); break;
            default: block(ROWS, depth, from, lda, b, at, ldt, e);
            }
        }
        if (e.bias)
            e.bias += COLUMNS;
    }
}

/* Scratch numbers of a thread */
static ptrdiff_t pointwise_scratch(int rows) { return (ptrdiff_t)rows * (DEPTH + GAP); }

/* y (m, O) = x (m, C) filters (O / COLUMNS, C, COLUMNS) + bias, + y where onto; rows are of a thread at a time */
static FAST void pointwise(const float *x, int m, int C, const float *filters, const float *bias, int O, int onto,
                           int relu, float *y, int rows, float *scratch, int threads)
{
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int r = 0; r < m; r += rows) {
        float *a = scratch + omp_get_thread_num() * pointwise_scratch(rows);
        int count = least(rows, m - r);
        for (int k = 0; k < C; k += DEPTH) {
            int depth = least(DEPTH, C - k), last = k + depth == C;
            ends e = {onto || k, relu && last, last ? bias : NULL};
            for (int i = 0; i < count; i++)
                memcpy(a + i * (DEPTH + GAP), x + (ptrdiff_t)(r + i) * C + k, depth * sizeof(float));
            product(count, depth, O / COLUMNS, a, DEPTH + GAP, filters + (ptrdiff_t)k * COLUMNS, C,
                    y + (ptrdiff_t)r * O, O, e);
        }
    }
}

/* The sizes of a convolution 3x3, and of a thread's work: tiles at a time, in planes of these rows. */
typedef struct {
    int H, W, C, O, h, w, pad_h, pad_w, relu, tiles, panels;
    ptrdiff_t row_in, row_out;
} sizes;

/* t = B^T d, for the points 0, 1, -1, 2, -2 and infinity */
INLINE void forth(const vec d[PATCH], vec t[PATCH])
{
    vec p = d[4] - 4 * d[2], q = d[3] - 4 * d[1], u = d[4] - d[2], v = 2 * (d[3] - d[1]);
    t[0] = 4 * d[0] - 5 * d[2] + d[4];
    t[1] = p + q;
    t[2] = p - q;
    t[3] = u + v;
    t[4] = u - v;
    t[5] = 4 * d[1] - 5 * d[3] + d[5];
}

/* y = A^T m */
INLINE void back(const vec m[PATCH], vec y[SIDE])
{
    vec p = m[1] + m[2], q = m[1] - m[2], u = m[3] + m[4], v = m[3] - m[4];
    y[0] = m[0] + p + u;
    y[1] = q + 2 * v;
    y[2] = p + 4 * u;
    y[3] = q + 8 * v + m[5];
}

/* n channels of a patch, of which the rows top.. < bottom and columns left.. < right exist, into the planes */
INLINE void patch_in(const float *x, ptrdiff_t row, int step, int top, int bottom, int left, int right, int n, float *to,
                     ptrdiff_t plane)
{
    vec t[PATCH][PATCH];
    for (int j = 0; j < PATCH; j++) {
        vec d[PATCH], e[PATCH];
        for (int i = 0; i < PATCH; i++)
            d[i] = i >= top && i < bottom && j >= left && j < right ? get(x + i * row + j * step, n) : (vec){0};
        forth(d, e);
        for (int i = 0; i < PATCH; i++)
            t[i][j] = e[i];
    }
    for (int i = 0; i < PATCH; i++) {
        vec e[PATCH];
        forth(t[i], e);
        for (int j = 0; j < PATCH; j++)
            put(to + (PATCH * i + j) * plane, e[j], LANES);
    }
}

/* n channels of a tile from the planes: its first rows and columns */
INLINE void tile_out(const float *from, ptrdiff_t plane, vec bias, int relu, int rows, int columns, int n, float *y,
                     ptrdiff_t row, int step)
{
    vec t[SIDE][PATCH];
    for (int j = 0; j < PATCH; j++) {
        vec m[PATCH], e[SIDE];
        for (int i = 0; i < PATCH; i++)
            m[i] = get(from + (PATCH * i + j) * plane, LANES);
        back(m, e);
        for (int i = 0; i < SIDE; i++)
            t[i][j] = e[i];
    }
    for (int i = 0; i < rows; i++) {
        vec e[SIDE];
        back(t[i], e);
        for (int j = 0; j < columns; j++) {
            vec v = e[j] + bias;
            put(y + i * row + j * step, relu ? rectified(v) : v, n);
        }
    }
}

/* Where the tile g of all lies: image n, rows from i, columns from j of the top */
INLINE void place(const sizes *s, int g, int *n, int *i, int *j)
{
    int across = (s->w + SIDE - 1) / SIDE, down = (s->h + SIDE - 1) / SIDE;
    *n = g / (down * across);
    *i = SIDE * (g / across % down);
    *j = SIDE * (g % across);
}

static FAST void tiles_in(const sizes *s, const float *x, int first, int count, float *planes)
{
    ptrdiff_t row = (ptrdiff_t)s->W * s->C, plane = s->tiles * s->row_in;
    for (int t = 0; t < count; t++) {
        int n, i, j, c = 0;
        place(s, first + t, &n, &i, &j);
        i -= s->pad_h;
        j -= s->pad_w;
        int top = i < 0 ? -i : 0, bottom = least(PATCH, s->H - i), left = j < 0 ? -j : 0, right = least(PATCH, s->W - j);
        int whole = !top && !left && bottom == PATCH && right == PATCH;
        const float *from = x + (((ptrdiff_t)n * s->H + i) * s->W + j) * s->C;
        float *to = planes + t * s->row_in;
        for (; whole && c + LANES <= s->C; c += LANES)
            patch_in(from + c, row, s->C, 0, PATCH, 0, PATCH, LANES, to + c, plane);
        for (; c + LANES <= s->C; c += LANES)
            patch_in(from + c, row, s->C, top, bottom, left, right, LANES, to + c, plane);
        if (c < s->C)
            patch_in(from + c, row, s->C, top, bottom, left, right, s->C - c, to + c, plane);
    }
}

static FAST void tiles_out(const sizes *s, const float *planes, const float *bias, int first, int count, float *y)
{
    ptrdiff_t row = (ptrdiff_t)s->w * s->O, plane = s->tiles * s->row_out;
    for (int t = 0; t < count; t++) {
        int n, i, j, o = 0;
        place(s, first + t, &n, &i, &j);
        int rows = least(SIDE, s->h - i), columns = least(SIDE, s->w - j), whole = rows == SIDE && columns == SIDE;
        const float *from = planes + t * s->row_out;
        float *to = y + (((ptrdiff_t)n * s->h + i) * s->w + j) * s->O;
        for (; whole && o + LANES <= s->O; o += LANES)
            tile_out(from + o, plane, get(bias + o, LANES), s->relu, SIDE, SIDE, LANES, to + o, row, s->O);
        for (; o + LANES <= s->O; o += LANES)
            tile_out(from + o, plane, get(bias + o, LANES), s->relu, rows, columns, LANES, to + o, row, s->O);
        if (o < s->O)
            tile_out(from + o, plane, get(bias + o, LANES), s->relu, rows, columns, s->O - o, to + o, row, s->O);
    }
}

/* Numbers of a row of the planes: of the bottom's, of the top's */
static ptrdiff_t rows_in(int C) { return (C + LANES - 1) / LANES * LANES + GAP; }
static ptrdiff_t rows_out(int panels) { return panels * COLUMNS + GAP; }

/* Scratch numbers of a thread */
static ptrdiff_t winograd_scratch(int C, int panels, int tiles)
{
    return PLANES * tiles * (rows_in(C) + rows_out(panels));
}

/* y (N, h, w, O) from x (N, H, W, C), filters (PLANES, panels, C, COLUMNS), bias (panels COLUMNS): in each plane the
   product of all tiles, of which a thread takes so many at a time */
static FAST void winograd(const float *x, int N, int H, int W, int C, const float *filters, const float *bias, int panels,
                          int O, int pad_h, int pad_w, int relu, float *y, int tiles, float *scratch, int threads)
{
    int h = H + 2 * pad_h - 2, w = W + 2 * pad_w - 2;
    sizes s = {H, W, C, O, h, w, pad_h, pad_w, relu, tiles, panels, rows_in(C), rows_out(panels)};
    int all = N * ((h + SIDE - 1) / SIDE) * ((w + SIDE - 1) / SIDE);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int first = 0; first < all; first += tiles) {
        float *in = scratch + omp_get_thread_num() * winograd_scratch(C, panels, tiles);
        float *out = in + PLANES * tiles * s.row_in;
        int count = least(tiles, all - first);
        tiles_in(&s, x, first, count, in);
        for (int p = 0; p < PLANES; p++)
            for (int k = 0; k < C; k += DEPTH)
                product(count, least(DEPTH, C - k), panels, in + p * tiles * s.row_in + k, s.row_in,
                        filters + ((ptrdiff_t)p * panels * C + k) * COLUMNS, C, out + p * tiles * s.row_out, s.row_out,
                        (ends){k > 0, 0, NULL});
        tiles_out(&s, out, bias, first, count, y);
    }
}
