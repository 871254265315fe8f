"""The CUDA kernels: their own source, compiled for the host, against the plain torch versions; and by nvcc, where there
is one, compiled at all. tests/cuda_check.py holds them against each other on a GPU.

Both orders of the host's loops must give the same bits: on a GPU there is no order.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe import kernels
from caffe.types import boxes as box_lib, deformable, roi
from rpn.generate_anchors import generate_anchors
from rpn.proposals import Level, Limits, propose
from test_pooling import random_rois

SOURCES = sorted(Path(kernels.PATH).parent.glob('*.cu*'))
BUILD = Path(__file__).parents[2] / 'build' / 'kernels'
KERNELS = [
    f'{kind}_{way}'
    for kind in (
        'roi_pooling',
        'roi_align',
        'roi_corners',
        'psroi_pooling',
        'psroi_align',
        'moved',
        'shifted',
    )
    for way in ('forward', 'backward')
]
HOST = shutil.which(os.environ.get('CXX', 'c++'))
NVCC = shutil.which(os.environ.get('NVCC', 'nvcc'))


def built(*command):
    """The library that this compiler command makes of the sources; compiled when they or it have changed."""
    digest = hashlib.sha256(repr(command).encode() + b''.join(p.read_bytes() for p in SOURCES)).hexdigest()[
        :16
    ]
    path = BUILD / f'{digest}.so'
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f'.{os.getpid()}.so')
        units = [p for p in SOURCES if p.suffix == '.cu']
        subprocess.run([*command, '-std=c++17', '-shared', *units, '-o', part], check=True, cwd=BUILD)
        part.rename(path)
    return path


@pytest.fixture(params=[0, 1], ids=['forwards', 'backwards'])
def host(request, monkeypatch):
    """Lets the kernels, compiled for the host, serve the CPU's tensors while `host.on` is called."""
    if HOST is None:
        pytest.skip('needs a C++ compiler')
    library = kernels.load(str(built(HOST, '-O2', '-ffp-contract=off', '-fPIC', '-x', 'c++')))
    library.set_backwards(request.param)

    def on(function, *args, **keywords):
        with monkeypatch.context() as m:
            m.setattr(kernels, 'DEVICE', 'cpu')
            m.setattr(kernels, 'compiled', lambda: library)
            return function(*args, **keywords)

    return types.SimpleNamespace(on=on, compiled=library)


def random_boxes(count, seed=0, round_to=None):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0, 40, (count, 2))]).astype(np.float32)
    return torch.from_numpy(boxes if round_to is None else boxes.round(round_to))


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_overlaps(host, dtype, offset):
    a, b = random_boxes(70, 1).to(dtype), random_boxes(31, 2).to(dtype)
    a[3], a[4, 2:], b[5] = torch.nan, a[4, :2] - 7, torch.tensor([3.0, 3, 3, 3])
    for rows in 70, 0:
        want = box_lib.overlaps(a[:rows], b, offset)
        assert torch.equal(host.on(box_lib.overlaps, a[:rows], b, offset), want)
    assert want.shape == (0, 31)


@pytest.mark.parametrize('count', [0, 1, 63, 64, 65, 700])
def test_nms(host, count, monkeypatch):
    monkeypatch.setattr(kernels, 'MASK_BYTES', 11 * 8 * 128)  # two words of rows at a time, of the largest
    for seed, threshold in enumerate([0.1, 0.5, 0.7, 1 / 3]):
        boxes = random_boxes(count, seed, seed % 2)  # whole coordinates: ties with the threshold
        boxes[3:5], boxes[9:10, 2:] = torch.nan, boxes[9:10, :2] - 5
        for offset, limit in (0, None), (1, None), (1, 1), (1, 20), (0, 64):
            want = box_lib.nms(boxes, threshold, offset, limit=limit)
            assert host.on(box_lib.nms, boxes, threshold, offset, limit=limit).tolist() == want.tolist()
    assert count < 65 or 1 < len(want) < count


def test_nms_at_equality(host):
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]])  # IoU 50 / 100
    assert host.on(box_lib.nms, boxes, 0.5, 1).tolist() == [0, 1]
    assert host.on(box_lib.nms, boxes, 0.499, 1).tolist() == [0]


@pytest.mark.parametrize('counts', [[], [0, 0], [1, 0, 63, 64, 0, 65, 2], [200]], ids=str)
def test_class_nms(host, counts):
    starts = np.cumsum([0, *counts]).tolist()
    for seed, threshold in enumerate([0.1, 0.5, 1 / 3]):
        boxes = random_boxes(starts[-1], seed, seed % 2)
        boxes[3:5], boxes[9:10, 2:] = torch.nan, boxes[9:10, :2] - 5
        for offset in 0, 1:
            want = box_lib.class_nms(boxes, starts, threshold, offset)
            got = host.on(box_lib.class_nms, boxes, starts, threshold, offset)
            assert got.dtype == torch.int64 and got.tolist() == want.tolist()
    assert len(boxes) < 50 or 20 < len(want) < len(boxes)


# Grids of regions


def shifted(x, rois, shifts, scale):
    numbers = dict(output_dim=2, group_size=3, pooled_size=4, part_size=2, sample_per_part=3, trans_std=0.2)
    return deformable.deformable_psroi_pooling(
        x, rois, shifts, spatial_scale=scale, **numbers, no_trans=shifts is None
    )


LAYERS = {
    'roi_pooling': lambda x, rois, scale: roi.roi_pooling(
        x, rois, pooled_h=3, pooled_w=2, spatial_scale=scale
    ),
    'roi_align': lambda x, rois, scale: roi.roi_align(
        x, rois, pooled_h=3, pooled_w=2, spatial_scale=scale, sampling_ratio=2
    ),
    'roi_align of any density': lambda x, rois, scale: roi.roi_align(
        x, rois, pooled_h=3, pooled_w=2, spatial_scale=scale, sampling_ratio=0
    ),
    'roi_align, aligned': lambda x, rois, scale: roi.roi_align(
        x, rois, pooled_h=3, pooled_w=2, spatial_scale=scale, sampling_ratio=3, aligned=True
    ),
    'roi_align, corners': lambda x, rois, scale: roi.roi_align(
        x, rois, pooled_h=3, pooled_w=2, spatial_scale=scale, sampling_ratio=0, corners=True
    ),
    'psroi_pooling': lambda x, rois, scale: roi.psroi_pooling(
        x, rois, spatial_scale=scale, output_dim=2, group_size=3
    ),
    'psroi_align': lambda x, rois, scale: roi.psroi_align(
        x, rois, spatial_scale=scale, output_dim=2, group_size=3, sampling_ratio=2
    ),
    'psroi_align of any density': lambda x, rois, scale: roi.psroi_align(
        x, rois, spatial_scale=scale, output_dim=2, group_size=3, sampling_ratio=0
    ),
    'deformable_psroi_pooling': lambda x, rois, scale: shifted(x, rois, None, scale),
}
kinds = pytest.mark.parametrize('kind', LAYERS)


def run(kind, x, rois, scale, grad=None):
    """(top, gradient of x)."""
    x = x.clone().requires_grad_()
    top = LAYERS[kind](x, rois, scale)
    grad = (
        torch.from_numpy(np.random.default_rng(1).standard_normal(top.shape).astype(np.float32))
        if grad is None
        else grad
    )
    if top.requires_grad:
        top.backward(grad)
    return top.detach(), torch.zeros_like(x) if x.grad is None else x.grad


def case(scale, count=40):
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.integers(-9, 9, (2, 18, 9, 12)).astype(np.float32))  # with ties
    rois = torch.from_numpy(random_rois(rng, count, 2, 12 / scale))
    rois[1, 1:], rois[2, 1:] = torch.tensor([-1e4, -9e3, 2e4, 1e4]), torch.tensor([500.0, 500, 500, 500])
    return x, rois, scale


@kinds
@pytest.mark.parametrize('scale', [1 / 16, 0.1])
def test_regions(host, kind, scale):
    inputs = case(scale)
    wanted, got = run(kind, *inputs), host.on(run, kind, *inputs)
    if kind == 'roi_pooling':
        assert torch.equal(got[0], wanted[0])
    for ours, theirs in zip(got, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    empty = kind == 'psroi_align of any density'  # a region that ends before it begins has no points
    assert (wanted[0] != 0).float().mean() > (0.1 if empty else 0.3)


@kinds
def test_no_region(host, kind):
    x, rois, scale = case(1 / 16)
    top, grad = host.on(run, kind, x, rois[:0], scale)
    assert top.shape == LAYERS[kind](x, rois[:0], scale).shape and not grad.any()


def test_values_that_are_no_numbers(host):
    x, rois, scale = case(1 / 16)
    x[:, :, 4], x[:, 1] = torch.nan, torch.nan
    wanted, got = run('roi_pooling', x, rois, scale), host.on(run, 'roi_pooling', x, rois, scale)
    assert torch.equal(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-5, atol=1e-5)


@kinds
@pytest.mark.parametrize('scale', [1 / 16, 1.0])
def test_far_regions(host, kind, scale, monkeypatch):
    """Coordinates beyond what a float's steps resolve, and sizes beyond its range."""
    x, rois, _ = case(1 / 16, 5)
    far = (
        [-3e38, -3e38, 3e38, 3e38],
        [3e38, 0, 3e38, 9],
        [-1e30, 5, 1e30, 9],
        [0, 0, 1e12, 9],
        [-1e9, -1e9, 20, 30],
    )
    rois[:, 1:] = torch.tensor(far)
    wanted, got = run(kind, x, rois, scale), host.on(run, kind, x, rois, scale)
    monkeypatch.setattr(roi, 'roi_pooling_cpu', None)
    for result in got, run(kind, x, rois, scale):
        for ours, theirs in zip(result, wanted):
            assert torch.isfinite(ours).all()
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@kinds
def test_gradients_are_the_same_in_any_order_and_precise(host, kind):
    """Thousands of terms in a cell, some 1e6 times as large as others: in the one order and the other."""
    x, rois, scale = case(1 / 16, 2000)
    top = LAYERS[kind](x, rois, scale)
    grad = torch.randn(top.shape, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.randint(
        -3, 4, top.shape
    )
    host.compiled.set_backwards(0)
    forwards = host.on(run, kind, x, rois, scale, grad)[1]
    host.compiled.set_backwards(1)
    backwards = host.on(run, kind, x, rois, scale, grad)[1]
    assert torch.equal(forwards, backwards)
    if kind == 'roi_pooling':
        wanted = run(kind, x.double(), rois.double(), scale, grad.double())[1]
        torch.testing.assert_close(forwards.double(), wanted, rtol=1e-7, atol=1e-7)


@kinds
@pytest.mark.parametrize('size', [1e-30, 1e-10, 1e30])
def test_gradients_of_any_size(host, kind, size):
    x, rois, scale = case(1 / 16, 9)
    grad = torch.rand(LAYERS[kind](x, rois, scale).shape) * size
    wanted, got = run(kind, x, rois, scale, grad)[1], host.on(run, kind, x, rois, scale, grad)[1]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-35)


@kinds
def test_a_gradient_that_is_not_finite_shows(host, kind):
    x, rois, scale = case(1 / 16)
    for wrong in torch.nan, torch.inf:
        grad = torch.ones(LAYERS[kind](x, rois, scale).shape)
        grad[5, 1, 1, 1] = wrong
        assert host.on(run, kind, x, rois, scale, grad)[1].isnan().all()


# What the net moves


def with_gradients(function, *tensors):
    """[the answer, the gradients of all tensors] for some gradient of the answer."""
    tensors = [t.clone().requires_grad_() for t in tensors]
    top = function(*tensors)
    grad = torch.randn(top.shape, generator=torch.Generator().manual_seed(2))
    return [top.detach(), *torch.autograd.grad(top, tensors, grad)]


def columns(x, offset, mask=None):
    return deformable.moved_columns(x, offset, mask, (3, 2), (2, 1), (1, 0), (1, 2), 2)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('far', [1, 10])
def test_deformable_convolution(host, masked, far):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, 9, 8, generator=random)
    offset = torch.randn(2, 24, 5, 6, generator=random) * far
    offset[:, :3, 2] = torch.tensor([0.0, 1, -2, 3, 1e30, -torch.inf])
    mask = [torch.randn(2, 12, 5, 6, generator=random) * 3] * masked
    wanted = with_gradients(columns, x, offset, *mask)
    for ours, theirs in zip(host.on(with_gradients, columns, x, offset, *mask), wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert wanted[0].shape == (2, 36, 5, 6)
    assert (wanted[0] != 0).float().mean() > 0.1
    offset[1, 3, 4, 5] = torch.nan
    for answer in columns(x, offset, *mask), host.on(columns, x, offset, *mask):
        assert answer.isnan().sum() == 3 and answer[1, :18].isnan().any()


@pytest.mark.parametrize('scale', [1 / 16, 1.0])
def test_deformable_pooling(host, scale):
    x, rois, _ = case(1 / 16)
    shifts = torch.randn(len(rois), 4, 2, 2, generator=torch.Generator().manual_seed(1))
    function = lambda x, shifts: shifted(x, rois, shifts, scale)
    wanted = with_gradients(function, x, shifts)
    for ours, theirs in zip(host.on(with_gradients, function, x, shifts), wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert wanted[2].abs().sum() > 1


# What lies on a GPU stays there


def test_proposals_stay_where_scores_are(host, monkeypatch):
    rng = np.random.RandomState(0)
    anchors, scores = generate_anchors(scales=[2, 4]), rng.permutation(6 * 80).reshape(1, 6, 8, 10) / 480
    deltas, info = rng.randn(1, 24, 8, 10) / 9, np.float32([[128, 160, 1]])
    level = Level(*(torch.from_numpy(v.astype(np.float32)) for v in (scores, deltas)), anchors, 16)
    limits = Limits(pre_nms_top_n=200, post_nms_top_n=60, nms_thresh=0.6, min_size=9)
    ((wanted, their_scores),) = propose([level], info, limits)

    def refuse(*args):
        raise AssertionError('a tensor went to the host')

    with monkeypatch.context() as m:
        m.setattr('fast_rcnn.nms_wrapper.on_gpu', lambda values: True)
        for name in 'numpy', 'cpu', 'tolist':
            m.setattr(torch.Tensor, name, refuse)
        ((boxes, scores),) = host.on(propose, [level], info, limits)
    assert torch.equal(boxes, wanted) and torch.equal(scores, their_scores) and len(boxes) == 60


# The library


def fake(monkeypatch, **functions):
    functions = {'error_text': lambda code: b'no such thing', 'can_run': lambda device: 0, **functions}
    monkeypatch.setattr(kernels, 'DEVICE', 'cpu')
    monkeypatch.setattr(kernels, 'compiled', lambda: types.SimpleNamespace(**functions))
    kernels.run_on.cache_clear()


def test_a_kernel_that_cannot_start_is_named(monkeypatch):
    fake(monkeypatch, overlaps_float=lambda *args: 98)
    with pytest.raises(
        RuntimeError, match=r'overlaps_float did not start on cpu: no such thing \(error 98\)'
    ):
        box_lib.overlaps(random_boxes(2), random_boxes(3))
    kernels.run_on.cache_clear()


def test_torch_serves_where_the_kernels_were_not_compiled_for_the_device(monkeypatch, caplog):
    want = box_lib.nms(random_boxes(50), 0.5)
    fake(monkeypatch, can_run=lambda device: 209)
    monkeypatch.setattr(kernels.log, 'propagate', True)
    for _ in range(2):
        assert torch.equal(box_lib.nms(random_boxes(50), 0.5), want)
    assert [r.getMessage() for r in caplog.records] == [
        'the compiled kernels are not for cpu (no such thing): torch does their work'
    ]
    kernels.run_on.cache_clear()


@pytest.mark.skipif(NVCC is None, reason='needs nvcc')
def test_nvcc_compiles_them_all():
    made = Path(kernels.PATH)
    if not made.exists() or made.stat().st_mtime < max(p.stat().st_mtime for p in SOURCES):
        flags = '-Xcompiler', '-fPIC,-fvisibility=hidden', '-gencode', 'arch=compute_90,code=sm_90'
        made = built(NVCC, '-O1', '-fmad=false', *flags)
    library = ctypes.CDLL(str(made))
    for name in ('nms', 'class_nms', 'overlaps_float', 'overlaps_double', 'can_run', 'error_text', *KERNELS):
        assert getattr(library, name)
