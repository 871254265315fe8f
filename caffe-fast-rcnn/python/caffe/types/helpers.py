"""What several layer families share: axes, per-axis sizes, labels, and values whose gradient Caffe defines by
hand."""

import torch

from ..checks import refuse


def canonical_axis(axis, ndim, what='axis'):
    """`axis`, counted from the end when negative. ValueError outside -ndim..ndim-1."""
    if not -ndim <= axis < ndim:
        raise ValueError(f'{what} {axis} does not exist in a blob of {ndim} axes')
    return axis % ndim


def per_axis(name, values, pair, n, default=None):
    """One number for each of n spatial axes, from `values` (none, one for all, or n) or, for n = 2, from the
    pair name_h, name_w."""
    if n == 0:
        return ()
    if any(pair):
        if values or n != 2:
            stem = name.removesuffix('_size')
            raise ValueError(
                f'{stem}_h and {stem}_w are for 2 spatial axes and exclude {name}; '
                f'there are {n} axes, {name} is {values or "not given"}'
            )
        values = pair
    values = tuple(values) or (default,)
    if len(values) not in (1, n):
        raise ValueError(f'{name} has {len(values)} values for {n} spatial axes; wanted 1 or {n}')
    if any(v is None or v < (name != 'pad') for v in values):
        raise ValueError(f'{name} must be given and positive for each spatial axis; got {values}')
    return values * n if len(values) == 1 else values


def alike(first, *others):
    """`others` in the shape of `first`, from which theirs may differ by ones at the end, as (R, 4, 1, 1) from
    (R, 4): regions have such blobs in some libraries and not in others. ValueError for any other shape."""
    if all(other.shape == first.shape for other in others):
        return others
    for other in others:
        if _stem(other.shape) != _stem(first.shape):
            raise ValueError(
                f'all bottoms must have the shape of the first, {tuple(first.shape)}; '
                f'got {tuple(other.shape)}'
            )
    return [other.reshape(first.shape) for other in others]


def _stem(shape):
    shape = list(shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape


def as_index(values, count, what, ignore=None):
    """`values` as int64, each in 0..count-1 or equal to `ignore`. ValueError names the first that is
    neither; where that is told later (see checks) it is 0 until then."""
    index = values.long()
    if not index.is_meta:
        wrong = (index < 0) | (index >= count)
        if ignore is not None:
            wrong &= index != ignore
        allowed = f'0..{count - 1}' + ('' if ignore is None else f' and not the ignored {ignore}')
        if refuse(wrong, lambda: f'{what} {values[wrong][0].item():g} is not in {allowed}'):
            index = torch.where(wrong, 0, index)
    return index


def sqrt_by_hand(x, eps):
    """sqrt(x) whose gradient is 1 / (2 (sqrt(x) + eps)), finite at 0."""
    root = x.detach().sqrt()
    return root + (x - x.detach()) / (2 * (root + eps))


def floor_value(x, low):
    """max(x, low) whose gradient is that of x everywhere."""
    return x + (low - x).clamp(min=0).detach()
