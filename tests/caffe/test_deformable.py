"""types.deformable and PSROIAlign against plain loops and what torchvision answered (record_deformable.py)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe.types import conv, deformable, roi

# as record_deformable.py has them: kernel, stride, pad, dilation, group, deformable groups
CONVOLUTIONS = {
    'v1': ((3, 2), (2, 1), (1, 2), (1, 2), 2, 2),
    'v2': ((3, 3), (1, 1), (1, 1), (1, 1), 1, 3),
}


def golden(case):
    with np.load(Path(__file__).parents[1] / 'golden' / 'deformable.npz') as f:
        return {k.split('/')[1]: torch.from_numpy(f[k]) for k in f.files if k.startswith(f'{case}/')}


def convolved(t, kernel, stride, pad, dilation, group, parts):
    columns = deformable.moved_columns(
        t['x'], t['offset'], t.get('mask'), kernel, stride, pad, dilation, parts
    )
    return conv.weigh(columns, t['weight'], t['bias'], group)


def check_recorded(case, function):
    want = golden(case)
    learned = [k.removesuffix('_grad') for k in want if k.endswith('_grad') and k != 'top_grad']
    t = {k: v.requires_grad_(k in learned) for k, v in want.items()}
    top = function(t)
    torch.testing.assert_close(top, want['top'], rtol=1e-5, atol=1e-5)
    for k, grad in zip(learned, torch.autograd.grad(top, [t[k] for k in learned], want['top_grad'])):
        torch.testing.assert_close(grad, want[f'{k}_grad'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('case', CONVOLUTIONS)
def test_convolution_as_torchvision(case):
    check_recorded(case, lambda t: convolved(t, *CONVOLUTIONS[case]))


@pytest.mark.parametrize('samples', [0, 2])
def test_ps_roi_align_as_torchvision(samples):
    numbers = dict(spatial_scale=0.06, output_dim=2, group_size=3, sampling_ratio=samples)
    check_recorded(f'align{samples}', lambda t: roi.psroi_align(t['x'], t['rois'], **numbers))


def interpolated(image, y, x):
    """Bilinear, 0 outside; image[y][x]."""
    total = 0.0
    for i in math.floor(y), math.floor(y) + 1:
        for j in math.floor(x), math.floor(x) + 1:
            if 0 <= i < len(image) and 0 <= j < len(image[0]):
                total += image[i][j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def test_convolution_by_a_loop():
    kernel, stride, pad, dilation, group, parts = CONVOLUTIONS['v2']
    t = {k: v.double() for k, v in golden('v2').items()}
    got, mask = convolved(t, *CONVOLUTIONS['v2']), t['mask']
    for n, o, y, x in [(0, 0, 0, 0), (1, 3, 5, 6), (0, 2, 3, 1), (1, 1, 0, 4)]:
        want = t['bias'][o].item()
        for c in range(6):
            for tap in range(9):
                move = c // 2 * 9 + tap
                down, right = t['offset'][n, 2 * move : 2 * move + 2, y, x].tolist()
                value = interpolated(t['x'][n, c].tolist(), y - 1 + tap // 3 + down, x - 1 + tap % 3 + right)
                want += value * mask[n, move, y, x].item() * t['weight'][o, c, tap // 3, tap % 3].item()
        assert got[n, o, y, x].item() == pytest.approx(want, abs=1e-9)


def test_without_moves_it_is_a_convolution():
    t = golden('v1')
    t['offset'] = torch.zeros_like(t['offset'])
    want = conv.convolve(t['x'], t['weight'], t['bias'], *CONVOLUTIONS['v1'][1:5])
    torch.testing.assert_close(convolved(t, *CONVOLUTIONS['v1']), want, rtol=1e-5, atol=1e-5)


def mean_of_bin(x, box, shift, scale, std, samples, group, bins, channel, i, j):
    """One number of DeformablePSROIPooling; shift (2,): to the right and down."""
    along = []
    for axis, b, size in (1, i, x.shape[1]), (0, j, x.shape[2]):
        start, end = (
            math.floor(box[axis] + 0.5) * scale - 0.5,
            (math.floor(box[axis + 2] + 0.5) + 1) * scale - 0.5,
        )
        length = max(end - start, 0.1)
        first = start + b * length / bins + shift[axis] * std * length
        at = [first + k * length / bins / samples for k in range(samples)]
        along.append([min(max(v, 0), size - 1) for v in at if -0.5 <= v <= size - 0.5])
    image = x[(channel * group + i * group // bins) * group + j * group // bins].tolist()
    values = [interpolated(image, y, z) for y in along[0] for z in along[1]]
    return sum(values) / len(values) if values else 0.0


def test_deformable_pooling_by_a_loop():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 7, 6, generator=random, dtype=torch.float64)
    rois = torch.tensor(
        [[0, 0, 0, 61, 40], [1, 16, 8, 90, 70], [1, 300, 300, 400, 400], [0, 21, 7, 24, 41]]
    ).double()
    shifts = torch.randn(4, 4, 3, 3, generator=random, dtype=torch.float64)
    numbers = dict(
        spatial_scale=0.06, output_dim=4, group_size=2, pooled_size=5, part_size=3, sample_per_part=3
    )
    got = deformable.deformable_psroi_pooling(x, rois, shifts, **numbers, trans_std=0.2, no_trans=False)
    assert got.shape == (4, 4, 5, 5)
    for r, c, i, j in np.ndindex(*got.shape):
        shift = shifts[r, 2 * (c // 2) : 2 * (c // 2) + 2, i * 3 // 5, j * 3 // 5].tolist()
        box = rois[r, 1:].tolist()
        want = mean_of_bin(x[int(rois[r, 0])], box, shift, 0.06, 0.2, 3, 2, 5, c, i, j)
        assert got[r, c, i, j].item() == pytest.approx(want, abs=1e-9)
    assert (got == 0).any() and (got != 0).float().mean() > 0.5


@pytest.mark.parametrize(
    'change, wanted',
    [
        (
            dict(offset=torch.zeros(2, 24, 7, 5)),
            r'offset must have the shape \(2, 24, 4, 8\); got \(2, 24, 7, 5\)',
        ),
        (dict(mask=torch.zeros(2, 6, 4, 8)), r'mask must have the shape \(2, 12, 4, 8\); got \(2, 6, 4, 8\)'),
    ],
)
def test_shapes_that_do_not_fit(change, wanted):
    with pytest.raises(ValueError, match=wanted):
        convolved({**golden('v1'), **change}, *CONVOLUTIONS['v1'])


def test_shifts_that_do_not_fit():
    numbers = dict(spatial_scale=1, output_dim=2, group_size=1, pooled_size=2, part_size=0, sample_per_part=1)
    numbers.update(trans_std=0.1, no_trans=False)
    pool = lambda *more: deformable.deformable_psroi_pooling(
        torch.zeros(1, 2, 3, 3), torch.zeros(1, 5), *more, **numbers
    )
    for shifts in [], [torch.zeros(1, 2, 3, 3)]:
        with pytest.raises(ValueError, match=r'shifts must be \(R, 2 K, 2, 2\) for 1 regions'):
            pool(*shifts)
    with pytest.raises(ValueError, match='3 classes'):
        pool(torch.zeros(1, 6, 2, 2))
