"""ROIPooling: a grid of maxima from each region of a feature map. Girshick, Fast R-CNN, 2015, section 2.1.

Shapes: N images, C channels, (H, W) feature map, R regions, (p, q) grid. bin_edges holds all the rounding;
the compiled CPU version and the plain torch version start from its bins and agree exactly.
"""
import torch

from ..layer import layer
from .helpers import as_index

try:
    from . import roi_pooling_cpu
except ImportError:         # not built: the torch version serves
    roi_pooling_cpu = None


@layer('ROIPooling', nondiff=(1,), strict=False)
def roi_pooling(x, rois, *, pooled_h, pooled_w, spatial_scale):
    """x (N, C, H, W) and rois (R, 5: image, x1, y1, x2, y2 in image pixels, ends included) to (R, C,
    pooled_h, pooled_w). No gradient to rois."""
    if not pooled_h or not pooled_w:
        raise ValueError(f'pooled_h and pooled_w must be positive; got {pooled_h} and {pooled_w}')
    if rois.shape[1:].numel() != 5:
        raise ValueError(f'rois must be rows of 5 numbers; got the shape {tuple(rois.shape)}')
    if x.is_meta:
        return x.new_empty(len(rois), x.shape[1], pooled_h, pooled_w)
    rois = rois.reshape(-1, 5)
    image = as_index(rois[:, 0], len(x), 'image number of a RoI')
    if not torch.isfinite(rois).all():
        raise ValueError('a RoI has a coordinate that is not finite')
    rows = bin_edges(rois[:, 2], rois[:, 4], spatial_scale, pooled_h, x.shape[2])
    columns = bin_edges(rois[:, 1], rois[:, 3], spatial_scale, pooled_w, x.shape[3])
    compiled = roi_pooling_cpu is not None and x.device.type == 'cpu' and x.dtype == torch.float32
    return (_Compiled if compiled else _Torch).apply(x, image, rows, columns)


def bin_edges(start, end, scale, bins, size):
    """First cell of each bin and the first behind it, (R, bins, 2) int32, clipped to 0..size; equal where a
    bin is empty.

    start, end (R,) are multiplied by scale and rounded, halves away from zero; a region is at least 1 long;
    bin b covers floor(b step) to ceil((b + 1) step) of it with step = length / bins, all in float32.
    """
    first, last = (round_half_away(v * scale) for v in (start, end))
    step = ((last - first + 1).clamp(min=1) / bins)[:, None]
    b = torch.arange(bins, device=start.device, dtype=start.dtype)
    edges = torch.stack([torch.floor(b * step), torch.ceil((b + 1) * step)], 2) + first[:, None, None]
    edges = edges.clamp(0, size).int()
    edges[..., 1] = edges.amax(2)
    return edges


def round_half_away(x):
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0.0)


class _Torch(torch.autograd.Function):
    """On any device: all bins look at their first cell at once, then at their second, and so on; a strictly
    larger one wins."""

    @staticmethod
    def forward(ctx, x, image, rows, columns):
        height, width = x.shape[2:]
        cells = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])               # (N H W, C)
        top, left = rows[:, :, None, 0], columns[:, None, :, 0]             # (R, p, 1), (R, 1, q)
        tall, wide = rows[:, :, None, 1] - top, columns[:, None, :, 1] - left
        shape = *torch.broadcast_shapes(top.shape, left.shape), x.shape[1]  # (R, p, q, C)
        best = x.new_full(shape, torch.finfo(x.dtype).min)
        where = torch.full(shape, -1, dtype=torch.int64, device=x.device)
        corner = (image[:, None, None] * height + top) * width + left
        for i in range(int(tall.max()) if tall.numel() else 0):
            for j in range(int(wide.max())):
                inside = (i < tall) & (j < wide)
                cell = torch.where(inside, corner + i * width + j, 0)
                value = cells[cell]
                better = (value > best) & inside[..., None]
                best = torch.where(better, value, best)
                where = torch.where(better, cell[..., None], where)
        best = torch.where(((tall > 0) & (wide > 0))[..., None], best, 0.0)
        ctx.save_for_backward(where)
        ctx.shape = x.shape
        return best.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def backward(ctx, grad):
        where, = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        where = where.reshape(-1, channels)
        grad = grad.permute(0, 2, 3, 1).reshape(-1, channels)
        cells = grad.new_zeros(n * height * width, channels)
        cells.scatter_add_(0, where.clamp(min=0), torch.where(where >= 0, grad, 0.0))
        return cells.reshape(n, height, width, channels).permute(0, 3, 1, 2), None, None, None


class _Compiled(torch.autograd.Function):
    """On the CPU, by roi_pooling_cpu; channels run in parallel."""

    @staticmethod
    def forward(ctx, x, image, rows, columns):
        ctx.shape, ctx.image = x.shape, image.int()
        top = x.new_empty(len(image), x.shape[1], rows.shape[1], columns.shape[1])
        ctx.where = torch.empty(top.shape, dtype=torch.int32)
        arrays = x, ctx.image, rows, columns, top, ctx.where
        roi_pooling_cpu.forward(*(t.contiguous().numpy() for t in arrays), torch.get_num_threads())
        return top

    @staticmethod
    def backward(ctx, grad):
        bottom = grad.new_zeros(ctx.shape)
        arrays = grad, ctx.image, ctx.where, bottom
        roi_pooling_cpu.backward(*(t.contiguous().numpy() for t in arrays), torch.get_num_threads())
        return bottom, None, None, None
