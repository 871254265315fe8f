"""Pooling of regions, and the Python layers that say which regions are pooled where.

x (N, C, H, W), rois (R, 5: image, box).
"""

import numpy as np

from export.boxes import level_of
from export.table import exports
from fpn.boxes import family_of
from utils.param_str import parse_param_str


def images_and_boxes(rois):
    """Images (R,) int64, boxes (R, 4)."""
    rois = rois.reshape(-1, 5)
    return rois.cut(1, 0, 1).squeeze(1).cast(np.int64), rois.cut(1, 1, 5)


@exports('ROIPooling')
def roi_pooling(x, rois, *, pooled_h, pooled_w, spatial_scale):
    """onnxruntime's MaxRoiPool rounds as Caffe does: halves away from zero, bins by floor and ceil in float32."""
    shape = {'pooled_shape': [pooled_h, pooled_w], 'spatial_scale': float(spatial_scale)}
    return x.op('MaxRoiPool', rois.reshape(-1, 5), **shape)


@exports('ROIAlign')
def roi_align(x, rois, *, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned, corners):
    if not corners:
        return _align(x, rois, (pooled_h, pooled_w), spatial_scale, sampling_ratio, aligned)
    images, boxes = images_and_boxes(rois)
    rows = _corners(boxes, 1, pooled_h, x.dim(2), spatial_scale)
    columns = _corners(boxes, 0, pooled_w, x.dim(3), spatial_scale)
    return _mean_of_taps(x, images, rows, columns).op('AveragePool', kernel_shape=[2, 2])


def _align(x, rois, bins, scale, samples, aligned):
    images, boxes = images_and_boxes(rois)
    return x.op(
        'RoiAlign',
        boxes,
        images,
        coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
        output_height=bins[0],
        output_width=bins[1],
        sampling_ratio=samples,
        spatial_scale=float(scale),
    )


def _corners(boxes, axis, bins, size, scale):
    """caffe.types.roi.corners_of_bins: along axis 0 (x) or 1 (y) of boxes, a list of two (cells (R, bins + 1), weights)."""
    start, end = boxes.cut(1, axis, axis + 1) * scale, boxes.cut(1, axis + 2, axis + 3)
    length = ((end - boxes.cut(1, axis, axis + 1)) * scale + 1).maximum(0)
    at = start + length / bins * np.arange(bins + 1, dtype=np.float32)
    limit = size.cast(np.float32)
    at = at.maximum(-1).minimum(limit)
    low = at.op('Floor').maximum(0).minimum((limit - 2).maximum(0))
    there = ((at >= 0) & (at < limit)).cast(np.float32)
    high, part = (low + 1).minimum(limit - 1), at - low
    return [(low.cast(np.int64), (1 - part) * there), (high.cast(np.int64), part * there)]


def _mean_of_taps(x, images, rows, columns):
    """The sums (R, C, p, q) over the cells of rows and columns, each a list of (cells (R, p), weights (R, p))."""
    graph, height, width = x.graph, x.dim(2), x.dim(3)
    cells = x.transpose(0, 2, 3, 1).reshape(-1, x.dim(1))
    total = None
    for row, row_weight in rows:
        begin = ((images.unsqueeze(1) * height + row) * width).unsqueeze(2)
        for column, column_weight in columns:
            weight = (row_weight.unsqueeze(2) * column_weight.unsqueeze(1)).unsqueeze(3)
            part = cells.take(begin + column.unsqueeze(1)) * weight
            total = part if total is None else total + part
    return graph.op('Transpose', total, perm=[0, 3, 1, 2])


@exports('ROICrop')
def roi_crop(x, rois, *, pooled_h, pooled_w, spatial_scale, max_pool):
    images, boxes = images_and_boxes(rois)
    times = 2 if max_pool else 1
    rows = _points(boxes, 1, times * pooled_h, x.dim(2), spatial_scale)
    columns = _points(boxes, 0, times * pooled_w, x.dim(3), spatial_scale)
    top = _mean_of_taps(x, images, rows, columns)
    return top.op('MaxPool', kernel_shape=[2, 2], strides=[2, 2]) if max_pool else top


def _points(boxes, axis, count, size, scale):
    """caffe.types.roi.points, as _corners gives them."""
    start, end = (boxes.cut(1, i, i + 1) * scale for i in (axis, axis + 2))
    share = np.linspace(0, 1, count, dtype=np.float32) if count > 1 else np.float32([0.5])
    at, limit = start + (end - start) * share, size.cast(np.float32)
    low = at.op('Floor').maximum(-2).minimum(limit + 1)
    part = (at - low).maximum(0).minimum(1)
    taps = []
    for cell, weight in (low, 1 - part), (low + 1, part):
        there = ((cell >= 0) & (cell < limit)).cast(np.float32)
        taps.append((cell.maximum(0).minimum(limit - 1).cast(np.int64), weight * there))
    return taps


@exports('PSROIPooling')
def psroi_pooling(x, rois, *, spatial_scale, output_dim, group_size):
    """Means as products with the weight that each cell has in each bin; images lie one below the other."""
    images, boxes = images_and_boxes(rois)
    shape, g = (-1, output_dim, group_size, group_size), group_size
    maps = x.reshape(*shape, x.dim(2), x.dim(3)).transpose(1, 2, 3, 0, 4, 5)
    maps = maps.reshape(output_dim, g, g, -1, x.dim(3))  # (c, i, j, N H, W)
    rows = _bin_means(boxes, 1, spatial_scale, g, x.dim(2), images, x.dim(0))
    columns = _bin_means(boxes, 0, spatial_scale, g, x.dim(3))
    across = x.graph.op('Einsum', maps, columns, equation='cijhw,rjw->rcijh')
    return x.graph.op('Einsum', across, rows, equation='rcijh,rih->rcij')


def _bin_means(boxes, axis, scale, bins, size, images=None, count=None):
    """caffe.types.roi.bin_means, (R, bins, size); with the image of each region, of `count`: of all their axes in a row."""
    start, end = (_round(boxes.cut(1, i, i + 1)) for i in (axis, axis + 2))
    start, end, limit = start * scale, (end + 1) * scale, size.cast(np.float32)
    step = (end - start).maximum(0.1) / bins
    b = np.arange(bins, dtype=np.float32)
    first, last = (
        edge.maximum(0).minimum(limit).unsqueeze(2)
        for edge in ((step * b + start).op('Floor'), (step * (b + 1) + start).op('Ceil'))
    )
    length, cell = (last - first).maximum(1), boxes.graph.arange(size if images is None else size * count)
    if images is not None:
        begin = images.cast(np.float32).unsqueeze(1, 2) * limit
        first, last = first + begin, last + begin
    return ((cell >= first) & (cell < last)).cast(np.float32) / length


def _round(x):
    """Halves away from zero."""
    return x.op('Sign') * (x.op('Abs') + 0.5).op('Floor')


@exports('PSROIAlign')
def psroi_align(x, rois, *, spatial_scale, output_dim, group_size, sampling_ratio):
    """RoiAlign of all channels, of which each bin keeps its own."""
    bins = group_size**2
    pooled = _align(x, rois, (group_size, group_size), spatial_scale, sampling_ratio, True)
    own = pooled.reshape(-1, output_dim, bins, bins) * np.eye(bins, dtype=np.float32)
    return own.sum(3).reshape(-1, output_dim, group_size, group_size)


# ---------------------------------------------------------------------------------------------- Python layers


@exports('fpn.level_layer.RoILevelsLayer')
def roi_levels(rois, *maps, at):
    params = parse_param_str(at.layer.param_str)
    family, count, graph = family_of(params['boxes']), at.num_tops - 1, at.graph
    rois = rois.reshape(-1, 5)
    level = level_of(rois.cut(1, 1, 5), family, params['first'], count)
    rows = [level.equals(i).where_true() for i in range(count)]
    tops = [rois.take(mine) for mine in rows]
    if maps:
        heights = [blob.dim(2).cast(np.float32) for blob in maps]
        tops = [_scaled(top, height / heights[-1]) for top, height in zip(tops, heights)]
    everywhere = graph.join(rows, 0)
    order = everywhere.op('ScatterElements', everywhere, graph.arange(rois.dim(0), np.int64), axis=0)
    return [*tops, order.cast(np.float32)]


def _scaled(rois, scale):
    return rois.graph.join([rois.cut(1, 0, 1), rois.cut(1, 1, 5) * scale], 1)


@exports('fast_rcnn.context_layer.ContextLayer', one_image=True)
def context(rois, data, *, at):
    """Of one image."""
    graph, rois = at.graph, rois.reshape(-1, 5)
    offset = family_of(parse_param_str(at.layer.param_str)['boxes']).offset
    ends = [(data.dim(axis) - offset).cast(np.float32) for axis in (3, 2)]
    whole = graph.join([graph.const(np.zeros(3)), *ends], 0).reshape(1, 5)
    count = rois.dim(0).cast(np.float32)
    return [
        graph.join([rois, whole], 0),
        graph.arange(rois.dim(0)),
        rois.cut(1, 0, 1).squeeze(1) + count,
    ]
