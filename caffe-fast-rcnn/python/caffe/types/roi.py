"""Grids of values from regions of a feature map: ROIPooling (maxima), ROIAlign (interpolated means), ROICrop
(interpolated points), PSROIPooling and PSROIAlign (the means of a channel for each bin).

Shapes: N images, C channels, (H, W) feature map, R regions, (p, q) grid. For ROIPooling bin_edges holds all
the rounding; the compiled CPU version and the plain torch version start from its bins and agree exactly, and so does
the CUDA kernel, which finds the same bins itself.
"""

import functools

import torch
import torch.nn.functional as F

from .. import kernels
from ..checks import refuse
from ..registry import layer
from .helpers import as_index

try:
    from . import roi_pooling_cpu
except ImportError:  # not built: the torch version serves
    roi_pooling_cpu = None


def check_regions(rois, pooled_h, pooled_w):
    if not pooled_h or not pooled_w:
        raise ValueError(f'pooled_h and pooled_w must be positive; got {pooled_h} and {pooled_w}')
    if rois.shape[1:].numel() != 5:
        raise ValueError(f'rois must be rows of 5 numbers; got the shape {tuple(rois.shape)}')


def regions(x, rois):
    """rois as (image (R,) int64, x1 y1 x2 y2 (R, 4)). ValueError for an image that x lacks or a coordinate
    that is not finite."""
    rois = rois.reshape(-1, 5)
    image = as_index(rois[:, 0], len(x), 'image number of a RoI')
    wild = ~torch.isfinite(rois)
    if refuse(wild, lambda: 'a RoI has a coordinate that is not finite'):
        rois = torch.where(wild, 0, rois)
    return image, rois[:, 1:]


def by_kernel(x, rois):
    """Whether a CUDA kernel pools these: it counts the cells of a map in 32 bits."""
    return kernels.serve(x, rois) and 0 < x.numel() and x.shape[2] * x.shape[3] < 2**31


@layer('ROIPooling', nondiff=(1,), strict=False, half='keeps')
def roi_pooling(x, rois, *, pooled_h, pooled_w, spatial_scale):
    """The maximum of each bin. Girshick, Fast R-CNN, 2015, section 2.1. x (N, C, H, W) and rois (R, 5: image,
    x1, y1, x2, y2 in image pixels, ends included) to (R, C, pooled_h, pooled_w). No gradient to rois."""
    check_regions(rois, pooled_h, pooled_w)
    if x.is_meta:
        return x.new_empty(len(rois), x.shape[1], pooled_h, pooled_w)
    image, rois = regions(x, rois)
    if by_kernel(x, rois):
        grid = x.shape[1], pooled_h, pooled_w
        return kernels.Regions.apply(x, image, rois, 'roi_pooling', spatial_scale, *grid)
    rows = bin_edges(rois[:, 1], rois[:, 3], spatial_scale, pooled_h, x.shape[2])
    columns = bin_edges(rois[:, 0], rois[:, 2], spatial_scale, pooled_w, x.shape[3])
    compiled = roi_pooling_cpu is not None and x.device.type == 'cpu' and x.dtype == torch.float32
    return (_Compiled if compiled else _Torch).apply(x, image, rows, columns)


def bin_edges(start, end, scale, bins, size):
    """First cell of each bin and the first behind it, (R, bins, 2) int32, clipped to 0..size; equal where a
    bin is empty.

    start, end (R,) are multiplied by scale and rounded, halves away from zero; a region is at least 1 long;
    bin b covers floor(b step) to ceil((b + 1) step) of it with step = length / bins, all in float32. An edge that is
    too far to be a number is 0.
    """
    first, last = (round_half_away(v * scale) for v in (start, end))
    step = parts((last - first + 1).clamp(min=1), bins)[:, None]
    b = torch.arange(bins, device=start.device, dtype=start.dtype)
    edges = torch.stack([torch.floor(b * step), torch.ceil((b + 1) * step)], 2) + first[:, None, None]
    edges = edges.nan_to_num(0.0).clamp(0, size).int()
    edges[..., 1] = edges.amax(2)
    return edges


def parts(length, count):
    """length / count, rounded once on any device: by a number of the host a GPU multiplies with its inverse."""
    return length / torch.full_like(length, count)


def round_half_away(x):
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0.0)


CHANNELS = 64  # that the torch version takes at a time, to bound its memory


class _Torch(torch.autograd.Function):
    """On any device, without a loop over regions or cells: the maxima of windows of 2^a x 2^b cells are found
    once for the whole map, and four windows cover a bin (a sparse table: Bender and Farach-Colton, The LCA
    problem revisited, 2000, section 3, along both axes)."""

    @staticmethod
    def forward(ctx, x, image, rows, columns):
        (n, channels, height, width), (p, q) = x.shape, (rows.shape[1], columns.shape[1])
        down, tops = span(rows, height)
        across, lefts = span(columns, width)
        empty = (rows[..., 0] == rows[..., 1])[:, :, None] | (columns[..., 0] == columns[..., 1])[:, None]
        cell = torch.full((len(image), p, q, channels), -1, dtype=torch.int32, device=x.device)
        counts = torch.stack([down.max(), across.max()]).add(1).tolist() if cell.numel() else (0, 0)
        table = (down[:, :, None] * counts[1] + across[:, None]) * n + image[:, None, None]  # (R, p, q)
        corners = [(table * height + y[:, :, None]) * width + left[:, None] for y in tops for left in lefts]
        for c in range(0, channels if cell.numel() else 0, CHANNELS):
            cells = sparse_table(ranked(x[:, c : c + CHANNELS].permute(0, 2, 3, 1)), *counts).flatten(0, -2)
            rank = functools.reduce(torch.maximum, (cells[corner] for corner in corners))
            cell[..., c : c + CHANNELS] = cell_of(rank)
        value = x.permute(0, 2, 3, 1).reshape(-1, channels).gather(0, _place(image, cell, height * width))
        value = value.view(cell.shape).masked_fill_(cell < 0, torch.finfo(torch.float32).min)
        ctx.save_for_backward(image, cell.masked_fill_(empty[..., None], -1))
        ctx.shape = x.shape
        return value.masked_fill_(empty[..., None], 0.0).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    def backward(ctx, grad):
        image, cell = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        place = _place(image, cell, height * width)
        grad = torch.where(cell < 0, 0.0, grad.permute(0, 2, 3, 1))
        bottom = grad.new_zeros(n * height * width, channels)
        bottom.scatter_add_(0, place, grad.reshape(-1, channels))
        return bottom.reshape(n, height, width, channels).permute(0, 3, 1, 2), None, None, None


def _place(image, cell, size):
    """Rows of the cells (R, p, q, C) in all images' cells, `size` an image: (R p q, C) int64."""
    return (image[:, None, None, None] * size + cell.clamp(min=0)).flatten(0, 2)


def span(edges, size):
    """Along one axis, the level a (R, bins) of each bin, 2^a at most its length, and the first cells of the two
    windows of 2^a cells that cover it. edges as bin_edges gives them; an empty bin becomes some cell."""
    first, last = edges.long().unbind(2)
    level = torch.frexp((last - first).clamp(min=1).float()).exponent.long() - 1
    return level, (first.clamp(max=size - 1), (last - 2**level).clamp(min=0))


def sparse_table(cells, down, across):
    """(N, H, W, C) -> (down, across, N, H, W, C): [a, b] holds the maxima over 2^a x 2^b cells from each cell on,
    cut at the border."""
    rows = [cells]
    for a in range(1, down):
        rows.append(_pairs(rows[-1], 2 ** (a - 1), 1))
    table = [rows]
    for b in range(1, across):
        table.append([_pairs(level, 2 ** (b - 1), 2) for level in table[-1]])
    return torch.stack([torch.stack(levels) for levels in zip(*table)])


def _pairs(cells, shift, axis):
    """The maximum of each cell and the one `shift` further on."""
    count = max(cells.shape[axis] - shift, 0)
    result = cells.clone()
    result.narrow(axis, 0, count).copy_(
        torch.maximum(cells.narrow(axis, 0, count), cells.narrow(axis, cells.shape[axis] - count, count))
    )
    return result


def ranked(x):
    """(N, H, W, C) float32 -> int64 whose order is that of the values and, where they are equal, the reverse
    order of the cells. What is not above the least finite value ranks lowest."""
    lowest = torch.finfo(torch.float32).min
    bits = (
        torch.where(x > lowest, x.float() + 0.0, lowest).contiguous().view(torch.int32).long()
    )  # + 0.0: no -0
    bits = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    cell = torch.arange(x[0, ..., 0].numel(), device=x.device).reshape(*x.shape[1:3], 1)
    return bits * 2**32 + (2**31 - 1 - cell)


def cell_of(rank):
    """The cells y W + x of ranked; -1 for the lowest value."""
    lowest = -0x7F7FFFFF  # the bits of the least finite float
    return torch.where(rank >> 32 > lowest, 2**31 - 1 - (rank & 0xFFFFFFFF), -1).int()


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


@layer('ROIAlign', nondiff=(1,), strict=False, half='keeps')
def roi_align(x, rois, *, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned=False, corners=False):
    """x (N, C, H, W) and rois (R, 5, as for ROIPooling) to (R, C, pooled_h, pooled_w): the mean of x at
    sampling_ratio^2 points laid evenly in each bin, interpolated bilinearly. Nothing is rounded. He et al.,
    Mask R-CNN, 2017, section 3.

    Edges as in Detectron: a region is at least one cell long, points up to one cell outside count as on the
    rim, those beyond as 0; sampling_ratio 0 takes as many points along each side as a bin has cells, rounded
    up. (Some forks take the maximum instead.) Of a region with bins larger than the map only the points on the
    map are looked at. aligned: a cell's value is that of its centre, so everything lies half a cell further up and
    left, and no region is too short (one without a size, adaptive, is 0).

    corners: of a region that is one cell longer, the mean at the four corners of each bin, as in longcw/RoIAlign.pytorch;
    a corner that is not on the map, 0 to its size, is 0, one beyond the middle of the last cell goes on as the last two do.
    Neither sampling_ratio nor aligned then counts.
    """
    check_regions(rois, pooled_h, pooled_w)
    if x.is_meta or not len(rois):
        return x.new_zeros(len(rois), x.shape[1], pooled_h, pooled_w)
    image, rois = regions(x, rois)
    if corners and by_kernel(x, rois):
        return kernels.Regions.apply(
            x, image, rois, 'roi_corners', spatial_scale, x.shape[1], pooled_h, pooled_w
        )
    if corners:
        rows = corners_of_bins(rois[:, 1], rois[:, 3], pooled_h, x.shape[2], spatial_scale)
        columns = corners_of_bins(rois[:, 0], rois[:, 2], pooled_w, x.shape[3], spatial_scale)
        return F.avg_pool2d(mean_of_taps(x, image, rows, columns), 2, 1)
    if by_kernel(x, rois):
        grid = x.shape[1], pooled_h, pooled_w, sampling_ratio, int(aligned)
        return kernels.Regions.apply(x, image, rois, 'roi_align', spatial_scale, *grid)

    return interpolated_means(x, image, rois, (pooled_h, pooled_w), spatial_scale, sampling_ratio, aligned)


def interpolated_means(x, image, rois, bins, scale, samples, aligned, sensitive=False):
    """ROIAlign's answer for regions as `regions` gives them. sensitive: PSROIAlign's, for which each bin has a channel of
    its own."""

    def rows_and_columns(rois):
        how = scale, samples, aligned
        return (
            taps(rois[:, 1], rois[:, 3], bins[0], x.shape[2], *how),
            taps(rois[:, 0], rois[:, 2], bins[1], x.shape[3], *how),
        )

    bin_size = (rois[:, 2:] - rois[:, :2]) * scale / rois.new_tensor(bins[::-1])
    large = (bin_size > rois.new_tensor([x.shape[3], x.shape[2]])).any(1)
    if samples or not large.any():
        return mean_of_taps(x, image, *rows_and_columns(rois), sensitive)
    small, large = (~large).nonzero()[:, 0], large.nonzero()[:, 0]
    channels = x.shape[1] // (bins[0] * bins[1] if sensitive else 1)
    top = x.new_zeros(len(rois), channels, *bins)
    if len(small):
        top = top.index_copy(
            0, small, mean_of_taps(x, image[small], *rows_and_columns(rois[small]), sensitive)
        )
    maps, axes = (x.unflatten(1, (-1, *bins)), 'cpqhw') if sensitive else (x, 'chw')
    for r in large.tolist():
        row, column = rows_and_columns(rois[r : r + 1].double())
        row, column = (weights(*t, size).to(x.dtype) for t, size in zip((row, column), x.shape[2:]))
        mean = torch.einsum(f'{axes},ph,qw->cpq', maps[image[r]], row[0], column[0])
        top = top.index_copy(0, image.new_tensor([r]), mean[None])
    return top


def mean_of_taps(x, image, rows, columns, sensitive=False):
    """(R, C, p, q): the sums over the cells that `taps` gives along both axes, each times its weights. sensitive: bin
    (i, j) of output c takes channel (c p + i) q + j of x."""
    (row, row_weight), (column, column_weight) = rows, columns
    bins = row.shape[1], column.shape[1]
    row, row_weight = row[:, :, None, :, None], row_weight[:, :, None, :, None]
    column, column_weight = column[:, None, :, None], column_weight[:, None, :, None]
    image = image[:, None, None, None, None]
    cell = (image * x.shape[2] + row) * x.shape[3] + column  # (R, p, q, taps, taps)
    count = bins[0] * bins[1] if sensitive else 1
    if sensitive:
        cell = cell * count + torch.arange(count, device=x.device).view(*bins, 1, 1)
    cells = x.unflatten(1, (-1, count)).permute(0, 3, 4, 2, 1).flatten(0, 3)  # (N H W count, C / count)
    return sums(cells, cell.flatten(3), (row_weight * column_weight).flatten(3)).permute(0, 3, 1, 2)


def sums(rows, which, weight):
    """(..., C): the sums of the rows (., C) numbered by which (..., T), each times its weight (..., T)."""
    total = F.embedding_bag(which.flatten(0, -2), rows, mode='sum', per_sample_weights=weight.flatten(0, -2))
    return total.view(*which.shape[:-1], rows.shape[1])


def taps(start, end, bins, size, scale, samples, aligned):
    """The cells along one axis of `size` that make the mean over a bin, (R, bins, T) int64, and how much of each.
    Points half a cell apart at least (samples 0) are left out beyond the map where they are many."""
    start, length = start * scale - (0.5 if aligned else 0), (end - start) * scale
    step = parts(length if aligned else length.clamp(min=1), bins)[:, None, None]
    wanted = torch.full_like(step, samples) if samples else step.ceil()
    count = wanted.clamp(min=1)
    b = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    most, window = samples or int(count.max()), 2 * size + 6
    k = torch.arange(min(most, window) if not samples else most, device=start.device, dtype=start.dtype)
    if not samples and most > window:
        k = k + ((-1 - start[:, None, None] - b * step) * count / step - 1).floor().clamp(min=0)
    at = start[:, None, None] + b * step + (k + 0.5) * step / count
    return between(at, ((k < wanted) & (at >= -1) & (at <= size)) / count, size)


def corners_of_bins(start, end, bins, size, scale):
    """The two cells beside each end of the bins along one axis of `size`, (R, bins + 1, 2) int64, and their weights."""
    start, length = start * scale, ((end - start) * scale + 1).clamp(min=0)
    b = torch.arange(bins + 1, device=start.device, dtype=start.dtype)
    at = (start[:, None] + b * parts(length, bins)[:, None])[..., None].nan_to_num(-1.0).clamp(-1, size)
    low = at.floor().clamp(0, max(size - 2, 0))
    cell, part = torch.cat([low, (low + 1).clamp(max=size - 1)], 2).long(), at - low
    return cell, torch.cat([1 - part, part], 2) * ((at >= 0) & (at < size))


def between(at, weight, size):
    """Points (..., T) along an axis of `size` cells, each of a weight -> the two cells beside each and their
    weights, (..., 2 T). A point beyond the rim counts as on it."""
    at = at.nan_to_num(0.0).clamp(0, size - 1)
    low = at.floor()
    part = at - low
    cell = torch.cat([low, (low + 1).clamp(max=size - 1)], -1).long()
    return cell, torch.cat([(1 - part) * weight, part * weight], -1)


def weights(cell, weight, size):
    """The answer of `taps` as the weight of each cell of the axis, (R, bins, size)."""
    return weight.new_zeros(*cell.shape[:2], size).scatter_add(2, cell, weight)


@layer('ROICrop', nondiff=(1,), strict=False, half='keeps')
def roi_crop(x, rois, *, pooled_h, pooled_w, spatial_scale, max_pool):
    """x (N, C, H, W) and rois (R, 5, as for ROIPooling) to (R, C, pooled_h, pooled_w): x at points laid evenly from
    corner to corner of a region (times spatial_scale; both included), interpolated bilinearly; outside the map is 0.
    max_pool: twice as many along each side, and of every 2x2 the largest. Jaderberg et al., Spatial Transformer
    Networks, 2015, section 3, for an affine grid without rotation.
    """
    check_regions(rois, pooled_h, pooled_w)
    if x.is_meta or not len(rois):
        return x.new_zeros(len(rois), x.shape[1], pooled_h, pooled_w)
    image, rois = regions(x, rois)
    times = 2 if max_pool else 1
    rows = points(rois[:, 1] * spatial_scale, rois[:, 3] * spatial_scale, times * pooled_h, x.shape[2])
    columns = points(rois[:, 0] * spatial_scale, rois[:, 2] * spatial_scale, times * pooled_w, x.shape[3])
    top = mean_of_taps(x, image, rows, columns)
    return F.max_pool2d(top, 2) if max_pool else top


def points(start, end, count, size):
    """`count` points from start to end (R,), a single one in the middle: the cells around each (R, count, 2), which
    fade to 0 over one cell outside, and how much of each."""
    share = torch.linspace(0, 1, count, device=start.device, dtype=start.dtype) if count > 1 else 0.5
    return fading((start[:, None] + (end - start)[:, None] * share).nan_to_num(-2.0), size)


def fading(at, size):
    """Points at (...) of an axis of `size` cells: the two cells beside each (..., 2) int64, and how much of each: none of
    one that the axis lacks."""
    at = at[..., None]
    low = at.detach().nan_to_num(0.0).clamp(-2, size + 1).floor()
    part = (at - low).clamp(0, 1)
    cell, weight = torch.cat([low, low + 1], -1), torch.cat([1 - part, part], -1)
    return cell.clamp(0, size - 1).long(), weight * ((cell >= 0) & (cell < size))


@layer('PSROIPooling', nondiff=(1,), strict=False, half='keeps')
def psroi_pooling(x, rois, *, spatial_scale, output_dim, group_size):
    """x (N, output_dim g g, H, W), g = group_size, and rois (R, 5, as for ROIPooling) to
    (R, output_dim, g, g): bin (i, j) of output c is the mean of channel (c g + i) g + j over the bin, 0
    where it is empty. Dai et al., R-FCN, 2016, section 2.

    Corners are rounded, halves away from zero; the end is included; a region is at least 0.1 cells long.
    """
    g = group_size
    check_sensitive(x, rois, spatial_scale, output_dim, g)
    if x.is_meta:
        return x.new_empty(len(rois), output_dim, g, g)
    image, rois = regions(x, rois)
    if by_kernel(x, rois):
        return kernels.Regions.apply(x, image, rois, 'psroi_pooling', spatial_scale, output_dim, g, g)
    rows = bin_means(rois[:, 1], rois[:, 3], spatial_scale, g, x.shape[2])
    columns = bin_means(rois[:, 0], rois[:, 2], spatial_scale, g, x.shape[3])
    maps = x.reshape(len(x), output_dim, g, g, *x.shape[2:])
    top = x.new_zeros(len(rois), output_dim, g, g)
    for n in image.unique():
        mine = (image == n).nonzero()[:, 0]
        across = torch.einsum('cijhw,rjw->rcijh', maps[n], columns[mine])
        top = top.index_copy(0, mine, torch.einsum('rcijh,rih->rcij', across, rows[mine]))
    return top


def check_sensitive(x, rois, spatial_scale, output_dim, group_size):
    check_regions(rois, group_size, group_size)
    if not output_dim or x.shape[1] != output_dim * group_size**2 or spatial_scale is None:
        raise ValueError(
            f'spatial_scale must be given, and a bottom of output_dim group_size^2 channels; '
            f'got {spatial_scale} and {x.shape[1]} channels for output_dim {output_dim}, '
            f'group_size {group_size}'
        )


@layer('PSROIAlign', nondiff=(1,), strict=False, half='keeps')
def psroi_align(x, rois, *, spatial_scale, output_dim, group_size, sampling_ratio):
    """As PSROIPooling, but each mean is that of ROIAlign, aligned: nothing is rounded, and a region is as small as it is.
    Li et al., Light-Head R-CNN, 2017, section 3.2."""
    g = group_size
    check_sensitive(x, rois, spatial_scale, output_dim, g)
    if x.is_meta or not len(rois):
        return x.new_zeros(len(rois), output_dim, g, g)
    image, rois = regions(x, rois)
    if by_kernel(x, rois):
        grid = output_dim, g, g, sampling_ratio, 1
        return kernels.Regions.apply(x, image, rois, 'psroi_align', spatial_scale, *grid)
    return interpolated_means(x, image, rois, (g, g), spatial_scale, sampling_ratio, True, sensitive=True)


def bin_means(start, end, scale, bins, size):
    """(R, bins, size): the weight that each cell has in each bin's mean along one axis."""
    start, end = round_half_away(start) * scale, (round_half_away(end) + 1) * scale
    step = parts((end - start).clamp(min=0.1), bins)[:, None]
    b = torch.arange(bins, device=start.device, dtype=start.dtype)
    first = torch.floor(b * step + start[:, None]).nan_to_num(0.0).clamp(0, size)[..., None]
    last = torch.ceil((b + 1) * step + start[:, None]).nan_to_num(0.0).clamp(0, size)[..., None]
    cell = torch.arange(size, device=start.device, dtype=start.dtype)
    return ((cell >= first) & (cell < last)) / (last - first).clamp(min=1)
