"""Batch normalisation by the statistics of all ranks' batches, whatever the size of each.

Every rank runs the same layers, in the same order: each pass forward is one message, each backward another, of a few
numbers per channel. x (N, C, ...), N of this rank, which may be 0.
"""

import torch
import torch.nn.functional as F

from .. import common, parallel


def statistics(x):
    """The means, biased variances (C,) of x in all ranks, and how many numbers of a channel () they are of, which are
    float64, as the count may be large."""
    rank, channels = common.solver_rank(), x.shape[1]
    table = x.new_zeros(common.solver_count(), 2 * channels + 1, dtype=torch.float64)
    if x.numel():
        var, mean = torch.var_mean(x.detach(), _axes(x), correction=0)
        table[rank] = torch.cat([mean, var, mean.new_full((1,), x.numel() // channels)])
    means, variances, counts = parallel.total(table).split([channels, channels, 1], 1)
    count = counts.sum()
    share = counts / count.clamp(min=1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean) ** 2)).sum(0), count


class Normalized(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps), whose gradient knows that mean and var (C,), of `count` numbers, depend on the x of all
    ranks: dx = (dy - E[dy] - y E[dy y]) / sqrt(var + eps), E over all of them."""

    @staticmethod
    def forward(ctx, x, mean, var, count, eps):
        ctx.save_for_backward(x, mean, var, count)
        ctx.eps = eps
        return F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), eps=eps)

    @staticmethod
    def backward(ctx, dy):
        x, mean, var, count = ctx.saved_tensors
        inverse = (var + ctx.eps).rsqrt()
        centred = x - _per_channel(mean, x)
        sums = torch.stack([dy.sum(_axes(x)), (dy * centred).sum(_axes(x))]).double()
        first, second = parallel.total(sums) / count.clamp(min=1)
        slope = _per_channel(second * inverse**2, x)
        return (
            (dy - _per_channel(first, x) - centred * slope) * _per_channel(inverse, x),
            None,
            None,
            None,
            None,
        )


def _axes(x):
    return [axis for axis in range(x.dim()) if axis != 1]


def _per_channel(values, x):
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
