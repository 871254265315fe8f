"""From ground truth to what an RPN is to answer at its anchors (Faster R-CNN, section 3.1.2), and a head for the
proposals, end to end (section 3.2).

I anchors inside the image, G ground-truth boxes; R RoIs in, S sampled RoIs out, K classes. Draws come from numpy's
global generator, positive or foreground ones first. Grids, RoIs and ground truth are arrays, or tensors on one device,
and so is what comes of them; only counts and what is drawn cross to the host and back. float32 but for the overlaps.
"""

import numpy as np
from caffe.types import boxes as box_lib

from fast_rcnn.bbox_transform import bbox_transform
from fast_rcnn.roi_sampling import expand_bbox_targets, normalized, sample_by
from roi_data_layer.roidb import kept_sums, moments
from rpn.generate_anchors import anchor_grid, own_cells
from utils.arrays import beside, draw, library, zeros
from utils.blob import im_scale_for
from utils.cython_bbox import bbox_overlaps

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def label_anchors(overlaps, positive_overlap, negative_overlap, clobber_positives, unmet_objects=True):
    """overlaps (I, G) -> labels (I,) float32.

    Positive: each object's best anchors (ties too; where nothing meets an object at all, every anchor is such
    a tie, as in the original, or with unmet_objects False none), and overlap >= positive_overlap. Negative: overlap with all objects below
    negative_overlap. clobber_positives lets negative win where both hold. No object: all negative.
    """
    lib, labels = library(overlaps), zeros(overlaps, len(overlaps)) + NEGATIVE
    if 0 in overlaps.shape:
        return labels
    highest = lib.amax(overlaps, 1)
    negative = highest < negative_overlap
    labels[~negative] = IGNORED
    best = overlaps == lib.amax(overlaps, 0)
    labels[(best if unmet_objects else best & (overlaps > 0)).any(1)] = POSITIVE
    labels[highest >= positive_overlap] = POSITIVE
    if clobber_positives:
        labels[negative] = NEGATIVE
    return labels


def subsample(labels, batch_size, fg_fraction, bg_times=None, refills=True):
    """Ignore, in place, all but batch_size labels, at most fg_fraction of them positive; these draw first.

    bg_times: instead of what positive ones leave, so many times 1 - fg_fraction of the batch are negative. refills: what
    they leave is counted after those that were too many are ignored, not before.
    """
    found = 0 if refills else int((labels == POSITIVE).sum())
    positive = _at_most(int(fg_fraction * batch_size), labels, POSITIVE)
    if bg_times is None:
        negative = max(0, batch_size - max(positive, found))
    else:
        negative = int(bg_times * (1 - fg_fraction) * batch_size)
    _at_most(negative, labels, NEGATIVE)


def _at_most(most, labels, kind):
    """Ignore, in place, what exceeds this number of labels of a kind; how many are left."""
    inds = library(labels).where(labels == kind)[0]
    if len(inds) <= most:
        return len(inds)
    labels[draw(inds, len(inds) - most)] = IGNORED
    return most


def outside_weights(labels, positive_weight):
    """The weight of every anchor's box loss (I, 4): 1 / examples each, or positive_weight shared by the
    positive ones and 1 - positive_weight by the negative ones."""
    lib, positive, negative = library(labels), labels == POSITIVE, labels == NEGATIVE
    if positive_weight < 0:
        of_positive = of_negative = 1.0 / _number(labels >= 0)
    else:
        of_positive = positive_weight / _number(positive)
        of_negative = (1.0 - positive_weight) / _number(negative)
    weights = zeros(labels, len(labels), 4)
    weights[:] = lib.where(positive, of_positive, lib.where(negative, of_negative, 0.0))[:, None]
    return weights


def _number(marks):
    """How many are true, at least 1; in float64, as a scalar on their device."""
    return marks.sum(dtype=library(marks).float64).clip(1)


def _overlaps(boxes, objects):
    """IoU (N, K) float64 of boxes (N, 4) and objects (K, 4)."""
    if library(boxes) is np:
        return bbox_overlaps(boxes, objects)
    return box_lib.overlaps(boxes.double(), objects.double(), offset=1)


def _labelled(grid, gt_boxes, im_info, train, border):
    """Which anchors of the grid are inside the image (I,), their overlaps (I, G), their labels (I,)."""
    height, width = float(im_info[0]), float(im_info[1])
    inside = library(grid).where(
        (grid[:, :2] >= -border).all(1) & (grid[:, 2] < width + border) & (grid[:, 3] < height + border)
    )[0]
    overlaps = _overlaps(grid[inside], gt_boxes[:, :4])
    labels = label_anchors(
        overlaps, train.RPN_POSITIVE_OVERLAP, train.RPN_NEGATIVE_OVERLAP, train.RPN_CLOBBER_POSITIVES
    )
    return inside, overlaps, labels


def anchor_statistics(roidb, anchors, stride, train):
    """Means and standard deviations (4,) of the plain box targets of every positive anchor, over the images of
    a prepared roidb, scaled as settings cfg.TRAIN have it (to the first of SCALES)."""
    names = 'MAX_SIZE', 'RPN_POSITIVE_OVERLAP', 'RPN_NEGATIVE_OVERLAP', 'RPN_CLOBBER_POSITIVES'
    settings = [np.asarray(anchors).tolist(), stride, train.SCALES[0], *(train[name] for name in names)]
    sums = kept_sums(
        roidb,
        f"anchors' targets: {settings}",
        lambda: roidb,
        lambda entries: sum(_anchor_sums(entry, anchors, stride, train) for entry in entries),
    )
    if not sums[0, 0]:
        raise ValueError('no anchor is positive in any image: their targets have no mean')
    means, stds = moments(sums)
    return means[0], stds[0]


def _anchor_sums(entry, anchors, stride, train):
    """Of the targets of an entry's positive anchors their number, sums and sums of squares (1, 9)."""
    scale = im_scale_for((entry['height'], entry['width']), train.SCALES[0], train.MAX_SIZE)
    height, width = (round(entry[side] * scale) for side in ('height', 'width'))
    grid = anchor_grid(anchors, -(-height // stride), -(-width // stride), stride)
    objects = entry['boxes'][np.asarray(entry['gt_classes']) > 0] * scale
    inside, overlaps, labels = _labelled(grid, objects, (height, width), train, 0)
    if not overlaps.size:
        return np.zeros((1, 9))
    rows = np.where(labels == POSITIVE)[0]
    moves = bbox_transform(grid[inside[rows]], objects[overlaps[rows].argmax(1)]).astype(np.float64)
    return np.hstack([np.ones((len(moves), 1)), moves, moves**2]).sum(0, keepdims=True)


def anchor_targets(grid, gt_boxes, im_info, train, border=0, bg_times=None):
    """Labels and box targets of the whole grid (H * W * A, 4), by gt_boxes (G, 4+) and settings cfg.TRAIN.

    Anchors that leave the image by more than border pixels are ignored; bg_times: as in subsample.
    -> labels (H * W * A,), targets, inside weights, outside weights (H * W * A, 4), float32
    """
    inside, overlaps, labels = _labelled(grid, gt_boxes, im_info, train, border)
    subsample(labels, train.RPN_BATCHSIZE, train.RPN_FG_FRACTION, bg_times)
    targets = zeros(grid, len(inside), 4)
    if 0 not in overlaps.shape:
        targets[:] = bbox_transform(grid[inside], gt_boxes[overlaps.argmax(1), :4])
        if train.RPN_NORMALIZE_TARGETS:
            means, stds = train.RPN_NORMALIZE_MEANS, train.RPN_NORMALIZE_STDS
            targets = (targets - beside(grid, means)) / beside(grid, stds)
    of_positive = beside(grid, train.RPN_BBOX_INSIDE_WEIGHTS)
    inside_weights = library(grid).where((labels == POSITIVE)[:, None], of_positive, 0)
    return (
        _unmap(labels, len(grid), inside, IGNORED),
        *(
            _unmap(values, len(grid), inside, 0)
            for values in (targets, inside_weights, outside_weights(labels, train.RPN_POSITIVE_WEIGHT))
        ),
    )


def level_targets(levels, gt_boxes, im_info, train, border=0):
    """anchor_targets of several levels, whose anchors are drawn from together, and several images in their order.

    levels: anchors (A, 4), stride and (H, W) of each; gt_boxes: (G, 4+) of each image; im_info (N, 3, or 4: the
    fourth is bg_times)
    -> for each level labels (N, A, H, W), targets, inside weights, outside weights (N, 4A, H, W); beyond an image's own
    part of a map (own_cells) labels are IGNORED, all else is 0
    """
    lib = library(levels[0][0])
    cells = zip(*(own_cells(size, im_info, stride) for _, stride, size in levels))
    images = [
        _image_maps(levels, own, gt, info, train, border)
        for own, gt, info in zip(cells, gt_boxes, im_info, strict=True)
    ]
    return [[lib.stack(values) for values in zip(*of_level)] for of_level in zip(*images)]


def _image_maps(levels, own, gt_boxes, info, train, border):
    """level_targets of one image, whose own are (h, w) cells of each level."""
    grids = [anchor_grid(anchors, *cells, stride) for (anchors, stride, _), cells in zip(levels, own)]
    ends = np.cumsum([0] + [len(grid) for grid in grids])
    times = info[3] if len(info) > 3 else None
    found = anchor_targets(library(grids[0]).concatenate(grids), gt_boxes, info, train, border, times)
    return [
        [_in_map(values[start:end], cells, size, fill) for values, fill in zip(found, (IGNORED, 0, 0, 0))]
        for start, end, cells, (*_, size) in zip(ends, ends[1:], own, levels)
    ]


def _in_map(values, cells, size, fill):
    """Values (h * w * A, ...) of a map's first (h, w) cells -> (A * ..., H, W), fill elsewhere."""
    height, width = cells
    maps = library(values).moveaxis(values.reshape(height, width, -1), 2, 0)
    if (height, width) == tuple(size):
        return maps
    whole = zeros(values, len(maps), *size) + fill
    whole[:, :height, :width] = maps
    return whole


def _unmap(values, count, inds, fill):
    """Values of some rows -> values of all `count` rows, fill elsewhere."""
    every = zeros(values, count, *values.shape[1:])
    if fill:
        every += fill
    every[inds] = values
    return every


def boxes_of_images(gt_boxes, images):
    """The data layer's gt_boxes (G, 5: box, class), or of several images (G, 6: the image's index last) -> (G, 5) of
    each."""
    if gt_boxes.shape[1] == 5 and images == 1:
        return [gt_boxes]
    if gt_boxes.shape[1] != 6:
        raise ValueError(
            f'gt_boxes of {images} images want columns box, class and image, 6; got {gt_boxes.shape[1]}'
        )
    return [gt_boxes[gt_boxes[:, 5] == i, :5] for i in range(images)]


def image_targets(rois, gt_boxes, num_classes, num_rois, train):
    """proposal_targets of several images in their order, one after the other: rois (R, 5), gt_boxes (G, 5) of each; objects
    are rows of all images' then."""
    parts = [rois[rois[:, 0] == i] for i in range(len(gt_boxes))]
    if sum(map(len, parts)) < len(rois):
        raise ValueError(
            f'ground truth is of {len(gt_boxes)} images, RoIs are of {sorted(set(rois[:, 0].tolist()))}'
        )
    images = [
        proposal_targets(part, gt, num_classes, num_rois, train, i)
        for i, (part, gt) in enumerate(zip(parts, gt_boxes))
    ]
    *parts, matched = zip(*images)
    return [library(rois).concatenate(values) for values in [*parts, rows_of_all(matched, gt_boxes)]]


def rows_of_all(rows, objects):
    """Rows of each image's objects -> the same as rows of all objects, one image's after another's."""
    starts = np.cumsum([0, *map(len, objects)])
    return [of_image + int(start) for of_image, start in zip(rows, starts)]


def proposal_targets(rois, gt_boxes, num_classes, num_rois, train, image=0):
    """Sample one image's rois (R, 5: image, box) joined by gt_boxes (G, 5: box, class), by the settings cfg.TRAIN.

    -> rois (S, 5), labels (S,), targets (S, 4K; AGNOSTIC: (S, 8)), inside weights, the same; the object that each is matched
    with (S,), 0 where it has none
    """
    lib = library(rois)
    objects = lib.concatenate([lib.full_like(gt_boxes[:, :1], image), gt_boxes[:, :4]], 1)
    rois = lib.concatenate([rois, objects])
    overlaps = _overlaps(rois[:, 1:5], gt_boxes[:, :4]) if len(gt_boxes) else lib.zeros_like(rois[:, :1])
    best, highest = overlaps.argmax(1), lib.amax(overlaps, 1)
    keep, num_fg = sample_by(train, highest, num_rois, len(gt_boxes))
    targets = zeros(rois, len(keep), 5)
    fg, matched = keep[:num_fg], zeros(rois, len(keep))
    matched[:num_fg] = best[fg]
    targets[:num_fg, 0] = gt_boxes[best[fg], 4]
    targets[:num_fg, 1:] = bbox_transform(rois[fg, 1:5], gt_boxes[best[fg], :4])
    targets[:num_fg, 1:] = normalized(targets[:num_fg, 1:], train)
    expanded = expand_bbox_targets(targets, num_classes, train.BBOX_INSIDE_WEIGHTS, train.AGNOSTIC)
    return (rois[keep], targets[:, 0], *expanded, matched)
