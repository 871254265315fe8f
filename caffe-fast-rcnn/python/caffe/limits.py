"""limits: what this machine can do at most, and what a layer asks of it.

A multiply-add counts as two operations.
"""

import math
import time

import torch
import torch.nn.functional as F

from . import common
from .tape import TorchLayer

SHAPES = [(64, 64, 3, 150), (256, 256, 3, 38), (512, 512, 3, 32), (256, 1024, 1, 38)]  # C, O, kernel, H = W
SECONDS = 0.15  # that one measurement takes


def limits(precision=None):
    """{'conv': .., 'matmul': .., in GFLOP/s, 'copy': .. in GB/s, read and written}: the most that the engine's
    device reaches in about a second, with the present number of threads. conv is the fastest of SHAPES, channels
    last; the products are of numbers of `precision`, by default the engine's (common.set_precision)."""
    device, dtype = common.device(), common.HALVES.get(precision or common.precision(), torch.float32)
    images, side, floats = (2, 1024, 2**25) if device.type == 'cpu' else (64, 8192, 2**28)
    a, b = torch.rand(2, side, side, device=device).to(dtype)
    source, target = torch.ones(2, floats, device=device)
    with torch.no_grad():
        return {
            'conv': max(_convolution(images, *shape, device, dtype) for shape in SHAPES),
            'matmul': _rate(lambda: a @ b, 2 * side**3),
            'copy': _rate(lambda: target.copy_(source), 2 * source.numel() * source.element_size()),
        }


def _convolution(images, channels, outputs, kernel, side, device, dtype):
    """GFLOP/s of a convolution that keeps the size."""
    x = torch.rand(images, channels, side, side, device=device).to(dtype, memory_format=torch.channels_last)
    w = torch.rand(outputs, channels, kernel, kernel, device=device).to(
        dtype, memory_format=torch.channels_last
    )
    count = 2 * images * outputs * side**2 * channels * kernel**2
    return _rate(lambda: F.conv2d(x, w, padding=kernel // 2), count)


def _rate(work, amount):
    """The most that work(), of so many operations or bytes, reached a second, in billions."""
    work()  # the first finds kernels and memory
    timer, best, end = common.Timer(), math.inf, time.perf_counter() + SECONDS
    while best == math.inf or time.perf_counter() < end:
        timer.start()
        work()
        timer.stop()
        best = min(best, timer.ms)
    return amount / best / 1e6


def flops(unit, bottoms, tops):
    """Operations of a forward pass of a layer or chain from these Blobs to those: its products with matrices and
    filters. What a chain absorbs is free; layers of other kinds have 0.

    In a backward pass the gradient to the bottoms and that to the weights cost as much again, each.
    """
    layer = getattr(unit, 'head', unit)
    return 2 * layer.products(bottoms, tops) if isinstance(layer, TorchLayer) else 0
