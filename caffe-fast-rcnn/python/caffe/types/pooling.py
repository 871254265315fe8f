"""Pooling and SPP, with Caffe's windows.

The number of windows per axis is rounded up, and a last window that would start beyond the image and its near
padding is dropped only if there is padding. Windows are clipped to the image; the divisor of AVE counts the
padding but not what lies beyond it. Torch's own pooling does the same in the common cases; elsewhere the
bottom is extended to whole windows first.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..registry import layer
from ..tape import TorchLayer
from ..proto import caffe_pb2
from .helpers import per_axis


@layer('Pooling', draws=True, half='follows')
class Pooling(TorchLayer):
    """Bottom (N, C, H, W) to top (N, C, windows down, windows across) by MAX, AVE or STOCHASTIC (Zeiler and
    Fergus, 2013).

    A second top of MAX receives the position y W + x of each maximum (the first of equal ones; -1 for a
    window with no pixel, whose maximum is the lowest float). round_mode: FLOOR and ceil_mode: false round the
    number of windows down.
    """

    fields = (
        'pool',
        'pad',
        'pad_h',
        'pad_w',
        'kernel_size',
        'kernel_h',
        'kernel_w',
        'stride',
        'stride_h',
        'stride_w',
        'global_pooling',
        'round_mode',
        'ceil_mode',
    )

    def setup(self, bottom, top):
        self.round_up = self.field('round_mode') == 'CEIL' and self.field('ceil_mode')
        if len(top) > 1 and self.field('pool') != 'MAX':
            raise ValueError(f'only MAX pooling has a second top, not {self.field("pool")}')
        if self.field('pool') != 'MAX':
            self.half = 'keeps'  # sums
        elif len(top) > 1:
            self.half = None  # a position may have more digits

    @property
    def itemwise(self):
        return self.field('pool') != 'STOCHASTIC'

    def compute(self, x):
        if x.dim() != 4:
            raise ValueError('pooling wants a bottom with 4 axes (N, C, H, W)')
        kernel, stride, pad = self.windows(x.shape[2:])
        method = self.field('pool')
        if method == 'MAX':
            return max_pool(x, kernel, stride, pad, self.round_up, self.num_tops > 1)
        if method == 'AVE':
            return average_pool(x, kernel, stride, pad, self.round_up)
        return stochastic_pool(x, kernel, stride, pad, self.round_up, self.phase == caffe_pb2.TRAIN)

    def windows(self, size):
        """(kernel, stride, pad), each (vertical, horizontal)."""
        stride, pad = per_side(self, 'stride', 1), per_side(self, 'pad', 0)
        if not self.field('global_pooling'):
            return per_side(self, 'kernel_size'), stride, pad
        kernel = [name for name in ('kernel_size', 'kernel_h', 'kernel_w') if self.param.HasField(name)]
        if kernel or stride != (1, 1) or pad != (0, 0):
            raise ValueError(
                'global_pooling excludes kernel_size, a stride other than 1 and a pad other than 0'
            )
        return tuple(size), stride, pad


def per_side(one, name, default=None):
    """kernel_size, stride or pad of the layer `one` as (vertical, horizontal)."""
    given = (getattr(one.param, name),) if one.param.HasField(name) else ()
    stem = name.removesuffix('_size')
    return per_axis(name, given, (one.field(stem + '_h'), one.field(stem + '_w')), 2, default)


def window_counts(size, kernel, stride, pad, round_up):
    """How many windows fit each axis."""
    counts = []
    for n, k, s, p in zip(size, kernel, stride, pad):
        if p >= k:
            raise ValueError(f'pad {p} must be smaller than the kernel, {k}')
        span = n + 2 * p - k
        count = (-(-span // s) if round_up else span // s) + 1
        count -= p > 0 and (count - 1) * s >= n + p
        if count < 1:
            raise ValueError(f'kernel {k} with pad {p} does not fit a bottom of {n}')
        counts.append(count)
    return counts


def as_torch_does(size, counts, kernel, stride, pad):
    """Whether torch's pooling lays the same windows: pad at most half a kernel, and no window that starts
    outside."""
    return all(
        2 * p <= k <= n + 2 * p and (c - 1) * s < n + p
        for n, c, k, s, p in zip(size, counts, kernel, stride, pad)
    )


def extend(x, counts, kernel, stride, pad, value):
    """x padded (or cut) so that `counts` whole windows cover it exactly."""
    far = [(c - 1) * s + k - n - p for n, c, k, s, p in zip(x.shape[2:], counts, kernel, stride, pad)]
    return F.pad(x, (pad[1], far[1], pad[0], far[0]), value=value)


def max_pool(x, kernel, stride, pad, round_up, with_mask=False):
    height, width = x.shape[2:]
    counts = window_counts((height, width), kernel, stride, pad, round_up)
    if as_torch_does((height, width), counts, kernel, stride, pad):
        pooled = F.max_pool2d(x, kernel, stride, pad, ceil_mode=round_up, return_indices=with_mask)
        return (pooled[0], pooled[1].to(x.dtype)) if with_mask else pooled
    wide = extend(x, counts, kernel, stride, pad, torch.finfo(x.dtype).min)
    top, where = F.max_pool2d(wide, kernel, stride, return_indices=True)
    row, column = where // wide.shape[3] - pad[0], where % wide.shape[3] - pad[1]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    mask = torch.where(inside, row * width + column, -1).to(x.dtype)
    return (top, mask) if with_mask else top


def average_pool(x, kernel, stride, pad, round_up):
    size = x.shape[2:]
    counts = window_counts(size, kernel, stride, pad, round_up)
    if as_torch_does(size, counts, kernel, stride, pad):
        return F.avg_pool2d(x, kernel, stride, pad, ceil_mode=round_up)
    extents = []
    for n, c, k, s, p in zip(size, counts, kernel, stride, pad):
        start = torch.arange(c, device=x.device) * s
        extents.append(((start + k).clamp(max=n + 2 * p) - start).clamp(min=1))
    sums = F.avg_pool2d(extend(x, counts, kernel, stride, pad, 0.0), kernel, stride, divisor_override=1)
    return sums / (extents[0][:, None] * extents[1])


def stochastic_pool(x, kernel, stride, pad, round_up, draw):
    """Draws one pixel of each window with a probability in proportion to its value (none may be negative), or
    gives the expected value."""
    if any(pad):
        raise ValueError('stochastic pooling has no padding')
    counts = window_counts(x.shape[2:], kernel, stride, pad, round_up)
    windows = F.unfold(extend(x, counts, kernel, stride, pad, 0.0), kernel, stride=stride)
    windows = windows.reshape(*x.shape[:2], kernel[0] * kernel[1], -1)
    if draw:
        sums = windows.detach().cumsum(2)
        index = (sums < torch.rand_like(sums[:, :, -1:]) * sums[:, :, -1:]).sum(2, keepdim=True)
        top = windows.gather(2, index)
    else:
        top = windows.square().sum(2) / (windows.sum(2) + np.finfo(np.float32).tiny)
    return top.reshape(*x.shape[:2], *counts)


@layer('SPP')
def spp(x, *, pyramid_height, pool, phase):
    """Pools to 1 x 1, 2 x 2, 4 x 4, ... bins and joins them: (N, C, H, W) -> (N, C (1 + 4 + 16 + ...)); one
    level stays (N, C, 1, 1). He et al., 2014."""
    if not pyramid_height:
        raise ValueError('pyramid_height must be given and positive')
    levels = []
    for level in range(pyramid_height):
        bins = 2**level
        kernel = [-(-n // bins) for n in x.shape[2:]]
        pad = [(k * bins - n + 1) // 2 for n, k in zip(x.shape[2:], kernel)]
        if pool == 'MAX':
            levels.append(max_pool(x, kernel, kernel, pad, True))
        elif pool == 'AVE':
            levels.append(average_pool(x, kernel, kernel, pad, True))
        else:
            levels.append(stochastic_pool(x, kernel, kernel, pad, True, phase == caffe_pb2.TRAIN))
    return levels[0] if pyramid_height == 1 else torch.cat([t.flatten(1) for t in levels], 1)
