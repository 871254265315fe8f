"""Layers that combine bottoms element by element, or reduce axes: Eltwise, Reduction, ArgMax."""

import torch

from ..registry import layer
from ..tape import TorchLayer
from .helpers import alike, canonical_axis


@layer('Eltwise', half='follows')
class Eltwise(TorchLayer):
    """SUM (weighted by coeff), PROD or MAX of bottoms of one shape (but for ones at its end). Where the first
    two tie for MAX the second gets the gradient; a later one gets it only where it is larger."""

    fields = ('operation', 'coeff')
    itemwise = True

    def setup(self, bottom, top):
        self.is_head = len(bottom) > 1  # the result of one may be the bottom itself
        self.adds = self.field('operation') == 'SUM' and set(self.field('coeff')) <= {1} and len(bottom) == 2

    def compute(self, *xs):
        operation, coeff = self.field('operation'), self.field('coeff')
        if coeff and (operation != 'SUM' or len(coeff) != len(xs)):
            raise ValueError(
                f'coeff is for SUM, one for each of {len(xs)} bottoms; got {len(coeff)} for {operation}'
            )
        first, *rest = xs
        rest = alike(first, *rest)
        if self.over is not None and xs[0].shape == xs[1].shape:
            return _SumOver.apply(self.over, *xs)
        if operation == 'SUM':
            coeff = coeff or (1,) * len(xs)
            top = first if coeff[0] == 1 else first * coeff[0]
            for x, c in zip(rest, coeff[1:]):
                top = torch.add(top, x, alpha=c)
            return top
        if operation == 'PROD':
            for x in rest:
                first = first * x
            return first
        for i, x in enumerate(rest):
            first = torch.where(first > x if i == 0 else first >= x, first, x)
        return first


class _SumOver(torch.autograd.Function):
    """The sum of two tensors, written over the one of number `place`."""

    @staticmethod
    def forward(ctx, place, *xs):
        return xs[place].detach().add_(xs[1 - place])

    @staticmethod
    def backward(ctx, grad):
        return None, grad, grad


@layer('Reduction')
def reduction(x, *, operation, axis, coeff):
    """coeff times the SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN over all axes from `axis`
    on."""
    flat = x.reshape(1, -1) if x.dim() == 0 else x.flatten(canonical_axis(axis, x.dim()))
    lead = x.shape[: canonical_axis(axis, x.dim())] if x.dim() else ()
    reduced = {
        'SUM': lambda t: t.sum(-1),
        'ASUM': lambda t: t.abs().sum(-1),
        'SUMSQ': lambda t: t.square().sum(-1),
        'MEAN': lambda t: t.mean(-1),
    }[operation](flat)
    return reduced.reshape(lead) * coeff


@layer('ArgMax', nondiff=(0,))
def arg_max(x, *, out_max_val, top_k, axis):
    """Positions of the top_k largest, the largest first, of equal ones the last first.

    With axis: along it, and with out_max_val the values instead. Without: of each sample as a whole, (N, 1,
    top_k), and with out_max_val (N, 2, top_k), positions and values.
    """
    flat = x.flatten(1) if axis is None else x
    along = 1 if axis is None else canonical_axis(axis, x.dim())
    size = flat.shape[along]
    if not 1 <= top_k <= size:
        raise ValueError(f'top_k {top_k} is not in 1..{size}')
    values, index = flat.flip(along).sort(dim=along, descending=True, stable=True)
    values, index = (t.narrow(along, 0, top_k) for t in (values, size - 1 - index))
    if axis is not None:
        return values.detach() if out_max_val else index.to(x.dtype)
    top = torch.stack([index.to(x.dtype), values.detach()][: 2 if out_max_val else 1], 1)
    return top.reshape(top.shape + (1,) * (x.dim() - 3))
