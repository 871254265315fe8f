"""Pooling, SPP and ROI pooling against plain loops over windows."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from caffe.types import pooling, roi

LOWEST = np.finfo(np.float32).min
HAS_COMPILED = roi.roi_pooling_cpu is not None


def count_windows(n, k, s, p, up):
    """Windows along one axis, by Caffe's rule."""
    c = int((np.ceil if up else np.floor)((n + 2 * p - k) / s)) + 1
    return c - 1 if p and (c - 1) * s >= n + p else c


def loop_pool(x, kernel, stride, pad, up, method):
    """(top, mask) of one map, window by window."""
    counts = [count_windows(n, k, s, p, up) for n, k, s, p in zip(x.shape, kernel, stride, pad)]
    top, mask = np.zeros(counts, np.float32), np.full(counts, -1.0)
    for at in np.ndindex(*counts):
        start = [a * s - p for a, s, p in zip(at, stride, pad)]
        end = [min(b + k, n + p) for b, k, n, p in zip(start, kernel, x.shape, pad)]
        size = np.prod([e - b for b, e in zip(start, end)])
        spans = (range(max(b, 0), min(e, n)) for b, e, n in zip(start, end, x.shape))
        cells = list(itertools.product(*spans))
        if method == 'AVE':
            top[at] = sum(x[c] for c in cells) / size if cells else 0
            continue
        top[at] = LOWEST
        for c in cells:
            if x[c] > top[at]:
                top[at], mask[at] = x[c], c[0] * x.shape[1] + c[1]
    return top, mask


axis = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 4)).filter(lambda t: t[2] < t[0])


@settings(max_examples=300, deadline=None)
@given(st.integers(3, 9), st.integers(3, 9), axis, axis, st.booleans(), st.integers(0, 99))
def test_pooling_agrees_with_a_loop(height, width, rows, columns, up, seed):
    x = np.random.default_rng(seed).integers(-4, 5, (height, width)).astype(np.float32)  # with many ties
    kernel, stride, pad = zip(rows, columns)
    if any(count_windows(n, k, s, p, up) < 1 for n, k, s, p in zip(x.shape, kernel, stride, pad)):
        return
    tensor = torch.from_numpy(x)[None, None]
    top, mask = pooling.max_pool(tensor, kernel, stride, pad, up, True)
    want, where = loop_pool(x, kernel, stride, pad, up, 'MAX')
    np.testing.assert_array_equal(top[0, 0], want)
    np.testing.assert_array_equal(mask[0, 0], where)
    np.testing.assert_array_equal(pooling.max_pool(tensor, kernel, stride, pad, up)[0, 0], want)
    want, _ = loop_pool(x, kernel, stride, pad, up, 'AVE')
    top = pooling.average_pool(tensor, kernel, stride, pad, up)
    np.testing.assert_allclose(top[0, 0], want, rtol=1e-5, atol=1e-6)


def test_spp_of_small_levels():
    """One bin of all nine pixels, then four of 2 x 2 with a padding of 1: row and column 0 fall alone into
    their bins."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    top = pooling.spp(x, pyramid_height=2, pool='MAX', phase=1)
    assert top.tolist() == [[8, 0, 2, 6, 8]]


def test_stochastic_pooling_draws_in_proportion():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).repeat(1, 1, 1, 8000)
    drawn = pooling.stochastic_pool(x, (2, 2), (2, 2), (0, 0), True, True)
    assert set(drawn.unique().tolist()) == {1, 3} and abs((drawn == 3).float().mean() - 0.75) < 0.02
    expected = pooling.stochastic_pool(x, (2, 2), (2, 2), (0, 0), True, False)
    torch.testing.assert_close(expected, torch.full_like(expected, (1 + 9) / 4))


# ROI pooling


def loop_roi(x, rois, size, scale):
    """(top, position of each maximum) by the rules, in float32 where the original rounds."""
    f = np.float32
    top = np.zeros((len(rois), x.shape[1], *size), f)
    where = np.full(top.shape, -1)
    away = lambda v: int(np.sign(v) * np.floor(np.abs(np.float64(v)) + 0.5))
    for r, (n, *box) in enumerate(rois.astype(f)):
        x1, y1, x2, y2 = (away(f(v) * f(scale)) for v in box)
        spans = []
        for first, last, bins, limit in ((y1, y2, size[0], x.shape[2]), (x1, x2, size[1], x.shape[3])):
            step = f(max(last - first + 1, 1)) / f(bins)
            edges = [(np.floor(f(b) * step), np.ceil(f(b + 1) * step)) for b in range(bins)]
            spans.append([[min(max(int(e) + first, 0), limit) for e in edge] for edge in edges])
        for c, i, j in np.ndindex(x.shape[1], *size):
            best = LOWEST
            for y, w in itertools.product(range(*spans[0][i]), range(*spans[1][j])):
                if x[int(n), c, y, w] > best:
                    best, where[r, c, i, j] = x[int(n), c, y, w], y * x.shape[3] + w
            top[r, c, i, j] = 0 if where[r, c, i, j] < 0 else best
    return top, where


def random_rois(rng, count, images, extent):
    """Ordinary, tiny, inverted, and outside; coordinates whose scaled value ends in .5 among them."""
    corners = rng.uniform(-0.3, 1.3, (count, 4)) * extent
    rois = np.column_stack([rng.integers(0, images, count), corners]).astype(np.float32)
    rois[::3, 1:] = np.round(rois[::3, 1:] / 8) * 8
    return rois


def pool(x, rois, size, scale, compiled, monkeypatch):
    monkeypatch.setattr(roi, 'roi_pooling_cpu', roi.roi_pooling_cpu if compiled else None)
    x = torch.from_numpy(x).requires_grad_()
    top = roi.roi_pooling(x, torch.from_numpy(rois), pooled_h=size[0], pooled_w=size[1], spatial_scale=scale)
    weights = torch.from_numpy(np.random.default_rng(1).standard_normal(top.shape).astype(np.float32))
    top.backward(weights)
    return top.detach().numpy(), x.grad.numpy(), weights.numpy()


compiled_only = pytest.mark.skipif(not HAS_COMPILED, reason='the compiled ROI pooling is not built')
both_versions = pytest.mark.parametrize(
    'compiled', [pytest.param(False, id='torch'), pytest.param(True, id='compiled', marks=compiled_only)]
)


@both_versions
@pytest.mark.parametrize(
    'size, scale', [((7, 7), 1 / 16), ((3, 2), 1 / 16), ((14, 14), 1 / 16), ((1, 1), 1 / 8), ((6, 6), 0.1)]
)
def test_roi_pooling_agrees_with_a_loop(size, scale, compiled, monkeypatch):
    rng = np.random.default_rng(int(sum(size)))
    x = rng.integers(-9, 9, (2, 3, 9, 12)).astype(np.float32)  # with ties
    rois = random_rois(rng, 25, 2, 12 / scale)
    want, where = loop_roi(x, rois, size, scale)
    top, grad, weights = pool(x, rois, size, scale, compiled, monkeypatch)
    np.testing.assert_array_equal(top, want)
    back = np.zeros_like(x)
    for r, c, i, j in np.ndindex(*where.shape):
        if where[r, c, i, j] >= 0:
            back[int(rois[r, 0]), c].flat[where[r, c, i, j]] += weights[r, c, i, j]
    np.testing.assert_allclose(grad, back, rtol=1e-5, atol=1e-5)


@compiled_only
def test_compiled_and_torch_roi_pooling_are_equal(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 38, 50)).astype(np.float32)
    rois = random_rois(rng, 64, 2, 700)
    with monkeypatch.context() as m:
        a = pool(x, rois, (14, 14), 1 / 16, True, m)
    with monkeypatch.context() as m:
        b = pool(x, rois, (14, 14), 1 / 16, False, m)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-5)


@both_versions
def test_no_rois(compiled, monkeypatch):
    x, rois = np.ones((1, 3, 4, 4), np.float32), np.zeros((0, 5), np.float32)
    top, grad, _ = pool(x, rois, (2, 2), 1 / 16, compiled, monkeypatch)
    assert top.shape == (0, 3, 2, 2) and (grad == 0).all()


def test_halves_are_rounded_away_from_zero():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 2.4999998, 3.0, -0.2])
    assert roi.round_half_away(x).tolist() == [1, 2, 3, -1, -2, 0, 2, 3, 0]


@pytest.mark.parametrize(
    'row, wanted',
    [
        ([1, 0, 0, 9, 9], 'image number of a RoI 1 is not in 0..0'),
        ([-1, 0, 0, 9, 9], 'RoI -1 is not in'),
        ([0, 0, 0, np.nan, 9], 'not finite'),
        ([0, 0, 0, np.inf, 9], 'not finite'),
    ],
)
def test_bad_rois(row, wanted):
    rois = torch.tensor([row], dtype=torch.float32)
    with pytest.raises(ValueError, match=wanted):
        roi.roi_pooling(torch.ones(1, 1, 4, 4), rois, pooled_h=2, pooled_w=2, spatial_scale=1.0)
