"""Layers that look where the net tells them to: ConvolutionDeformable (also DeformableConvolution, and with a mask
ModulatedDeformableConvolution) and DeformablePSROIPooling.

Shapes: N images, C channels, (H, W) feature map; O num_output, (h, w) output, k kernel_h kernel_w taps, D
deformable_group; R regions, p pooled_size, g group_size, t part_size, K classes of shifts.
"""

import torch

from .. import kernels
from ..registry import layer
from .conv import GEOMETRY, _Filters, weigh
from .roi import between, by_kernel, check_regions, fading, parts, regions, round_half_away, sums


@layer('DeformableConvolution', 'deformable_convolution_param', half='keeps')
@layer('ConvolutionDeformable', 'deformable_convolution_param', half='keeps')
class ConvolutionDeformable(_Filters):
    """Convolution whose taps each move, anew at every output position. Dai et al., Deformable Convolutional Networks, 2017,
    section 2.1; with a mask, Zhu et al., Deformable ConvNets v2, 2019, section 3.2.

    Bottoms: x (N, C, H, W), offset (N, D 2 k, h, w) and, optionally, mask (N, D k, h, w); top (N, O, h, w); filters
    (O, C / group, kernel_h, kernel_w), bias (O,). Tap t of the channels' part d is moved by offset channels 2 (d k + t)
    down and 2 (d k + t) + 1 to the right, in cells; what lies there, interpolated bilinearly and 0 outside, is
    multiplied by mask channel d k + t. A mask is taken as it is (v2's nets put a sigmoid before it).
    """

    fields = (
        *GEOMETRY,
        'num_output',
        'bias_term',
        'group',
        'deformable_group',
        'weight_filler',
        'bias_filler',
        'axis',
    )

    def setup(self, bottom, top):
        if len(bottom) not in (2, 3) or len(bottom[0].shape) != 4:
            raise ValueError(
                f'wanted bottoms x (4 axes), offset and at most a mask; got {[tuple(b.shape) for b in bottom]}'
            )
        super().setup(bottom, top)
        channels, parts = bottom[0].shape[1], self.field('deformable_group')
        if self.axis != 1 or not parts or channels % parts:
            raise ValueError(
                f'axis must be 1 and deformable_group must divide the {channels} channels; got {self.axis} and {parts}'
            )

    def filter_shape(self, channels, outputs):
        return outputs, channels // self.group

    def compute(self, x, offset, mask=None):
        weight, *bias = self.weights
        geometry = (
            tuple(weight.shape[2:]),
            self.stride,
            self.pad,
            self.dilation,
            self.field('deformable_group'),
        )
        columns = moved_columns(x, offset, mask, *geometry)
        return weigh(columns, weight, bias[0] if bias else None, self.group)


@layer('ModulatedDeformableConvolution', 'modulated_deformable_convolution_param', half='keeps')
class ModulatedDeformableConvolution(ConvolutionDeformable):
    """ConvolutionDeformable under the name that v2's nets have for it."""


def moved_columns(x, offset, mask, kernel, stride, pad, dilation, groups):
    """(N, C k, h, w): under each output position the patch that ConvolutionDeformable weighs, as im2col gives it."""
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    out = [(size + 2 * p - e) // s + 1 for size, p, e, s in zip(x.shape[2:], pad, extents, stride)]
    taps = kernel[0] * kernel[1]
    for name, bottom, each in ('offset', offset, 2), ('mask', mask, 1):
        wanted = len(x), groups * taps * each, *out
        if bottom is not None and bottom.shape != wanted:
            raise ValueError(f'the {name} must have the shape {wanted}; got {tuple(bottom.shape)}')
    columns = x.new_zeros(len(x), x.shape[1] * taps, *out)
    if x.is_meta or not columns.numel():
        return columns
    tensors = [x, offset] if mask is None else [x, offset, mask]
    if kernels.serve(*tensors) and x.shape[2] * x.shape[3] < 2**31:
        return kernels.Moved.apply(x, offset, mask, *out, *kernel, *stride, *pad, *dilation, groups)
    along = [
        torch.arange(o, device=x.device, dtype=x.dtype) * s
        - p
        + torch.arange(k, device=x.device)[:, None] * d
        for o, k, s, p, d in zip(out, kernel, stride, pad, dilation)
    ]  # (kernel_h, h) and (kernel_w, w)
    moves = offset.view(len(x), groups, *kernel, 2, *out)
    row, row_weight = fading(moves[:, :, :, :, 0] + along[0][:, None, :, None], x.shape[2])
    column, column_weight = fading(moves[:, :, :, :, 1] + along[1][:, None], x.shape[3])
    weight = (row_weight[..., None] * column_weight[..., None, :]).flatten(
        -2
    )  # (N, D, kernel_h, kernel_w, h, w, 4)
    if mask is not None:
        weight = weight * mask.view(len(x), groups, *kernel, *out, 1)
    image = torch.arange(len(x), device=x.device).view(-1, *[1] * 7)
    cell = (image * x.shape[2] + row[..., None]) * x.shape[3] + column[..., None, :]
    cell = cell.flatten(-2) * groups + torch.arange(groups, device=x.device).view(-1, *[1] * 5)
    found = sums(x.unflatten(1, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 3), cell, weight)
    return found.permute(0, 1, 6, 2, 3, 4, 5).reshape(columns.shape)


@layer('DeformablePSROIPooling', nondiff=(1,), strict=False, half='keeps')
def deformable_psroi_pooling(
    x,
    rois,
    shifts=None,
    *,
    spatial_scale,
    output_dim,
    group_size,
    pooled_size,
    part_size,
    sample_per_part,
    trans_std,
    no_trans,
):
    """x (N, output_dim g g, H, W), rois (R, 5, as for ROIPooling) and shifts (R, 2 K, t, t) to (R, output_dim, p, p): bin
    (i, j) of output c is the mean of channel (c g + i g // p) g + j g // p over sample_per_part^2 points, interpolated
    bilinearly. Dai et al., Deformable Convolutional Networks, 2017, section 2.2.

    Corners as for PSROIPooling, half a cell further up and left. The points of a bin begin at its corner and are
    moved by trans_std times the region's size times shifts channels 2 k (to the right) and 2 k + 1 (down) at
    (i t // p, j t // p), k = c K // output_dim. Points half a cell outside the map or less count as on its rim, those
    beyond are left out; 0 where none remains. Without shifts where no_trans; pooled_size 0 is g, part_size 0 is p.
    """
    g, p = group_size, pooled_size or group_size
    part = part_size or p
    check_regions(rois, p, p)
    classes = 1 if no_trans or shifts is None else shifts.shape[1] // 2
    fits = (
        output_dim and spatial_scale is not None and sample_per_part > 0 and x.shape[1] == output_dim * g * g
    )
    if not fits or not classes or output_dim % classes:
        raise ValueError(
            f'wanted spatial_scale, sample_per_part and output_dim, which the classes of shifts divide, and output_dim '
            f'group_size^2 channels; got {spatial_scale}, {sample_per_part}, {output_dim}, {classes} classes and '
            f'{x.shape[1]} channels for group_size {g}'
        )
    if no_trans:
        shifts = None
    elif shifts is None or shifts.shape != (len(rois), 2 * classes, part, part):
        got = None if shifts is None else tuple(shifts.shape)
        raise ValueError(f'shifts must be (R, 2 K, {part}, {part}) for {len(rois)} regions; got {got}')
    if x.is_meta or not len(rois):
        return x.new_zeros(len(rois), output_dim, p, p)
    image, rois = regions(x, rois)
    if by_kernel(x, rois) and (shifts is None or kernels.serve(shifts)):
        numbers = spatial_scale, trans_std, output_dim, g, p, part, sample_per_part, classes
        return kernels.Shifted.apply(x, image, rois, shifts, *numbers)
    return _shifted_means(x, image, rois, shifts, spatial_scale, trans_std, g, p, sample_per_part, classes)


def _shifted_means(x, image, rois, shifts, scale, std, g, p, samples, classes):
    """deformable_psroi_pooling by torch; x.shape[1] = output_dim g g."""
    bins = torch.arange(p, device=x.device)
    if shifts is None:
        down = right = x.new_zeros(len(rois), 1, p, p)
    else:
        where = bins * shifts.shape[2] // p
        right, down = shifts.unflatten(1, (classes, 2))[:, :, :, where][..., where].unbind(2)  # (R, K, p, p)
    rows = _points(rois[:, 1], rois[:, 3], bins[:, None], down * std, scale, samples, x.shape[2])
    columns = _points(rois[:, 0], rois[:, 2], bins, right * std, scale, samples, x.shape[3])
    (row, row_weight), (column, column_weight) = rows, columns  # (R, K, p, p, 2 samples)
    cell = (image.view(-1, 1, 1, 1, 1, 1) * x.shape[2] + row[..., None]) * x.shape[3] + column[..., None, :]
    group = bins * g // p
    cell = (cell * (g * g)).flatten(-2) + (group[:, None] * g + group)[:, :, None]
    cell = cell * classes + torch.arange(classes, device=x.device).view(-1, 1, 1, 1)
    table = (
        x.unflatten(1, (classes, -1, g * g)).permute(0, 4, 5, 3, 1, 2).flatten(0, 4)
    )  # (N H W g g K, output_dim / K)
    weight = (row_weight[..., None] * column_weight[..., None, :]).flatten(-2)
    return sums(table, cell, weight).permute(0, 1, 4, 2, 3).flatten(1, 2)


def _points(start, end, bins, shift, scale, samples, size):
    """The points of each bin along one axis of `size` cells: the two cells beside each, (R, K, p, p, 2 samples), and their
    shares of the mean. shift (R, K, p, p) in lengths of the region."""
    start = (round_half_away(start) * scale - 0.5).view(-1, 1, 1, 1)
    end = ((round_half_away(end) + 1) * scale - 0.5).view(-1, 1, 1, 1)
    length = (end - start).clamp(min=0.1)
    step = parts(length, max(bins.shape))
    first = bins * step + start + shift * length
    at = first[..., None] + torch.arange(samples, device=start.device) * parts(step, samples)[..., None]
    inside = (at >= -0.5) & (at <= size - 0.5)
    inside = inside.to(at.dtype)
    return between(at, inside / inside.sum(-1, keepdim=True).clamp(min=1), size)
