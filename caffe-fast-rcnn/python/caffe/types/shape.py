"""Layers that move elements without changing them."""

import math

import torch

from ..registry import layer
from ..tape import TorchLayer
from .helpers import as_index, canonical_axis


@layer('BatchReindex', nondiff=(1,))
def batch_reindex(x, index):
    """Sample index[i] of x at place i; samples may repeat or be left out."""
    return x[as_index(index.reshape(-1), len(x), 'index')]


@layer('Concat', half='follows')
def concat(*xs, axis, concat_dim):
    """Bottoms joined along axis (concat_dim in old files); their other axes agree. One with more axes than
    the first drops ones: (R, 1, C) joins (R, K), as an embedding does in bottom-up-attention."""
    axes = xs[0].dim()
    axis = canonical_axis(axis if concat_dim == 1 else concat_dim, axes)
    xs = list(xs)
    for i in range(1, len(xs)):
        while xs[i].dim() > axes and 1 in xs[i].shape:
            xs[i] = xs[i].squeeze(list(xs[i].shape).index(1))
    return torch.cat(xs, axis)


@layer('Crop', nondiff=(1,), strict=False, half='keeps')
def crop(x, like, *, axis, offset):
    """The part of x that has the size of `like` on the axes from `axis` on, starting at offset (none: 0, one
    for all, or one each)."""
    axis = canonical_axis(axis, x.dim())
    count = x.dim() - axis
    if like.dim() != x.dim() or len(offset) not in (0, 1, count):
        raise ValueError(
            f'crop wants a second bottom of {x.dim()} axes and no, one or {count} offsets; '
            f'got {like.dim()} axes, offsets {offset}'
        )
    offset = offset * count if len(offset) == 1 else offset or (0,) * count
    for i, start in enumerate(offset, axis):
        if start + like.shape[i] > x.shape[i]:
            raise ValueError(
                f'crop of axis {i} from {start} to {start + like.shape[i]} leaves the bottom, '
                f'which has {x.shape[i]}'
            )
        x = x.narrow(i, start, like.shape[i])
    return x


@layer('Filter')
class Filter(TorchLayer):
    """The samples of each bottom but the last for which the last, the selector (N,), is not zero. No gradient
    to the selector."""

    def setup(self, bottom, top):
        self.nondiff = (len(bottom) - 1,)
        self.seen = False  # before the first reshape the selector has no values yet
        if len(top) != len(bottom) - 1:
            raise ValueError(
                f'{len(bottom)} bottoms, the last the selector, want {len(bottom) - 1} tops; got {len(top)}'
            )

    def reshape(self, bottom, top):
        for b, t in zip(bottom, top):
            t.reshape(int((bottom[-1].tensor != 0).sum()) if self.seen else b.shape[0], *b.shape[1:])
        self.seen = True

    def compute(self, *xs):
        *xs, selector = xs
        if any(len(x) != selector.numel() for x in xs):
            raise ValueError(
                f'the selector has {selector.numel()} elements, the bottoms {[len(x) for x in xs]} samples'
            )
        chosen = selector.reshape(-1) != 0
        return tuple(x[chosen] for x in xs)


@layer('Flatten', shares=True, half='follows')
def flatten(x, *, axis, end_axis):
    """The axes `axis` to end_axis (inclusive) as one."""
    return x.flatten(canonical_axis(axis, x.dim()), canonical_axis(end_axis, x.dim(), 'end_axis'))


@layer('Reshape', shares=True, half='follows')
def reshape(x, *, shape, axis, num_axes):
    """num_axes axes (-1: all) from `axis` on become shape: 0 copies the bottom's axis at that place, one -1
    is inferred. A negative axis counts from behind the last one: -1 adds axes at the end."""
    start = axis if axis >= 0 else x.dim() + axis + 1
    end = x.dim() if num_axes == -1 else start + num_axes
    if not 0 <= start <= end <= x.dim():
        raise ValueError(f'axis {axis} and num_axes {num_axes} do not fit a bottom of {x.dim()} axes')
    dims = list(shape.dim)
    for i, d in enumerate(dims):
        if d < -1 or d == 0 and start + i >= x.dim():
            why = f'there is no axis {start + i} to copy' if d == 0 else 'wanted -1, 0 or a size'
            raise ValueError(f'dim {d} at place {i} of {list(shape.dim)}: {why}')
        dims[i] = x.shape[start + i] if d == 0 else d
    known = math.prod(d for d in dims if d != -1) * math.prod(x.shape[:start] + x.shape[end:])
    if dims.count(-1) == 1:
        if not known or x.numel() % known:
            raise ValueError(f'{x.numel()} elements cannot be spread over {list(shape.dim)}')
        dims[dims.index(-1)] = x.numel() // known
    elif known != x.numel() or -1 in dims:
        raise ValueError(
            f'{x.numel()} elements do not fit the shape {list(shape.dim)} in place of '
            f'{tuple(x.shape[start:end])}'
        )
    return x.reshape(x.shape[:start] + tuple(dims) + x.shape[end:])


@layer('Silence')
def silence(*xs):
    """Takes bottoms that nobody else wants, so that they are no outputs. Their gradient is 0."""
    return ()


@layer('Slice', half='follows')
def slice(x, *, axis, slice_dim, slice_point, num_tops):
    """x cut along axis (slice_dim in old files) at the slice_points, or into equal parts."""
    axis = canonical_axis(axis if slice_dim == 1 else slice_dim, x.dim())
    size = x.shape[axis]
    if not slice_point:
        if size % num_tops:
            raise ValueError(f'{size} along axis {axis} cannot be cut into {num_tops} equal parts')
        return x.split(size // num_tops, axis)
    edges = (0, *slice_point, size)
    if len(slice_point) != num_tops - 1 or any(a >= b for a, b in zip(edges, edges[1:])):
        raise ValueError(
            f'{num_tops} tops want {num_tops - 1} rising slice_points inside 0..{size}; got {slice_point}'
        )
    return x.split([b - a for a, b in zip(edges, edges[1:])], axis)


@layer('Split', shares=True, half='follows')
def split(x, *, num_tops):
    """The bottom as every top; gradients add up."""
    return tuple(x.view_as(x) for _ in range(num_tops))


@layer('Tile', half='follows')
def tile(x, *, axis, tiles):
    """x repeated `tiles` times along axis."""
    if not tiles or tiles < 1:
        raise ValueError(f'tiles must be given and positive; got {tiles}')
    return torch.cat([x] * tiles, canonical_axis(axis, x.dim()))
