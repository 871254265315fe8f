"""From ground truth to what an RPN is to answer at its anchors (Faster R-CNN, section 3.1.2), and a head for the
proposals, end to end (section 3.2).

I anchors inside the image, G ground-truth boxes; R RoIs in, S sampled RoIs out, K classes. Draws come from numpy's
global generator, positive or foreground ones first.
"""

import numpy as np
import numpy.random as npr

from fast_rcnn.bbox_transform import bbox_transform
from fast_rcnn.roi_sampling import background_from, expand_bbox_targets, sample_rois
from rpn.generate_anchors import anchor_grid
from utils.blob import im_scale_for
from utils.cython_bbox import bbox_overlaps

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def label_anchors(overlaps, positive_overlap, negative_overlap, clobber_positives):
    """overlaps (I, G) -> labels (I,) float32.

    Positive: each object's best anchors (ties too; where nothing meets an object at all, every anchor is such
    a tie, as in the original), and overlap >= positive_overlap. Negative: overlap with all objects below
    negative_overlap. clobber_positives lets negative win where both hold. No object: all negative.
    """
    labels = np.full(overlaps.shape[0], IGNORED, np.float32)
    if overlaps.size == 0:
        labels[:] = NEGATIVE
        return labels
    highest = overlaps.max(1)
    negative = highest < negative_overlap
    labels[negative] = NEGATIVE
    labels[(overlaps == overlaps.max(0)).any(1)] = POSITIVE
    labels[highest >= positive_overlap] = POSITIVE
    if clobber_positives:
        labels[negative] = NEGATIVE
    return labels


def subsample(labels, batch_size, fg_fraction, bg_times=None):
    """Ignore, in place, all but batch_size labels, at most fg_fraction of them positive; these draw first.

    bg_times: instead of what positive ones leave, so many times 1 - fg_fraction of the batch are negative.
    """
    for kind in POSITIVE, NEGATIVE:
        if kind == POSITIVE:
            most = int(fg_fraction * batch_size)
        elif bg_times is None:
            most = batch_size - np.sum(labels == POSITIVE)
        else:
            most = int(bg_times * (1 - fg_fraction) * batch_size)
        inds = np.where(labels == kind)[0]
        if len(inds) > most:
            labels[npr.choice(inds, size=int(len(inds) - most), replace=False)] = IGNORED


def outside_weights(labels, positive_weight):
    """The weight of every anchor's box loss (I, 4): 1 / examples each, or positive_weight shared by the
    positive ones and 1 - positive_weight by the negative ones."""
    positive, negative = labels == POSITIVE, labels == NEGATIVE
    if positive_weight < 0:
        of_positive = of_negative = 1.0 / max(np.sum(labels >= 0), 1)
    else:
        of_positive = positive_weight / max(np.sum(positive), 1)
        of_negative = (1.0 - positive_weight) / max(np.sum(negative), 1)
    weights = np.zeros((len(labels), 4), np.float32)
    weights[positive] = of_positive
    weights[negative] = of_negative
    return weights


def _labelled(grid, gt_boxes, im_info, train, border):
    """Which anchors of the grid are inside the image (I,), their overlaps (I, G), their labels (I,)."""
    inside = np.where(
        (grid[:, :2] >= -border).all(1)
        & (grid[:, 2] < im_info[1] + border)
        & (grid[:, 3] < im_info[0] + border)
    )[0]
    overlaps = bbox_overlaps(grid[inside], gt_boxes[:, :4])
    labels = label_anchors(
        overlaps, train.RPN_POSITIVE_OVERLAP, train.RPN_NEGATIVE_OVERLAP, train.RPN_CLOBBER_POSITIVES
    )
    return inside, overlaps, labels


def anchor_statistics(roidb, anchors, stride, train):
    """Means and standard deviations (4,) of the plain box targets of every positive anchor, over the images of
    a prepared roidb, scaled as settings cfg.TRAIN have it (to the first of SCALES)."""
    found = [np.zeros((0, 4), np.float32)]
    for entry in roidb:
        scale = im_scale_for((entry['height'], entry['width']), train.SCALES[0], train.MAX_SIZE)
        height, width = (round(entry[side] * scale) for side in ('height', 'width'))
        grid = anchor_grid(anchors, -(-height // stride), -(-width // stride), stride)
        objects = entry['boxes'][np.asarray(entry['gt_classes']) > 0] * scale
        inside, overlaps, labels = _labelled(grid, objects, (height, width), train, 0)
        if overlaps.size:
            rows = np.where(labels == POSITIVE)[0]
            found.append(bbox_transform(grid[inside[rows]], objects[overlaps[rows].argmax(1)]))
    targets = np.vstack(found).astype(np.float64)
    if not len(targets):
        raise ValueError('no anchor is positive in any image: their targets have no mean')
    return targets.mean(0), targets.std(0)


def anchor_targets(grid, gt_boxes, im_info, train, border=0, bg_times=None):
    """Labels and box targets of the whole grid (H * W * A, 4), by gt_boxes (G, 4+) and settings cfg.TRAIN.

    Anchors that leave the image by more than border pixels are ignored; bg_times: as in subsample.
    -> labels (H * W * A,), targets, inside weights, outside weights (H * W * A, 4), float32
    """
    inside, overlaps, labels = _labelled(grid, gt_boxes, im_info, train, border)
    subsample(labels, train.RPN_BATCHSIZE, train.RPN_FG_FRACTION, bg_times)
    targets = np.zeros((len(inside), 4), np.float32)
    if overlaps.size:
        targets[:] = bbox_transform(grid[inside], gt_boxes[overlaps.argmax(1), :4])
        if train.RPN_NORMALIZE_TARGETS:
            targets = (targets - np.float32(train.RPN_NORMALIZE_MEANS)) / np.float32(train.RPN_NORMALIZE_STDS)
    inside_weights = np.zeros((len(inside), 4), np.float32)
    inside_weights[labels == POSITIVE] = train.RPN_BBOX_INSIDE_WEIGHTS
    return (
        _unmap(labels, len(grid), inside, IGNORED),
        *(
            _unmap(values, len(grid), inside, 0)
            for values in (targets, inside_weights, outside_weights(labels, train.RPN_POSITIVE_WEIGHT))
        ),
    )


def level_targets(grids, gt_boxes, im_info, train, border=0):
    """anchor_targets of several levels, whose anchors are drawn from together, and several images in their order.

    grids: (n, 4) of each level; gt_boxes: (G, 4+) of each image; im_info (N, 3, or 4: the fourth is bg_times)
    -> for each level labels (N, n), targets, inside weights, outside weights (N, n, 4)
    """
    grid, ends = np.vstack(grids), np.cumsum([len(grid) for grid in grids])[:-1]
    images = [
        anchor_targets(grid, gt, info, train, border, info[3] if len(info) > 3 else None)
        for gt, info in zip(gt_boxes, im_info, strict=True)
    ]
    return list(zip(*(np.split(np.stack(values), ends, axis=1) for values in zip(*images))))


def _unmap(values, count, inds, fill):
    """Values of some rows -> values of all `count` rows, fill elsewhere."""
    every = np.full((count,) + values.shape[1:], fill, np.float32)
    every[inds] = values
    return every


def image_targets(rois, gt_boxes, num_classes, num_rois, train):
    """proposal_targets of several images in their order, one after the other: rois (R, 5), gt_boxes (G, 5) of each."""
    if not np.isin(rois[:, 0], np.arange(len(gt_boxes))).all():
        raise ValueError(
            f'ground truth is of {len(gt_boxes)} images, RoIs are of {sorted(set(rois[:, 0].tolist()))}'
        )
    images = [
        proposal_targets(rois[rois[:, 0] == i], gt, num_classes, num_rois, train, i)
        for i, gt in enumerate(gt_boxes)
    ]
    return [np.concatenate(values) for values in zip(*images)]


def proposal_targets(rois, gt_boxes, num_classes, num_rois, train, image=0):
    """Sample one image's rois (R, 5: image, box) joined by gt_boxes (G, 5: box, class), by the settings cfg.TRAIN.

    -> rois (S, 5), labels (S,), targets (S, 4K; AGNOSTIC: (S, 8)), inside weights, the same
    """
    rois = np.vstack([rois, np.insert(gt_boxes[:, :4], 0, image, axis=1)])
    overlaps = bbox_overlaps(rois[:, 1:5], gt_boxes[:, :4])
    best = overlaps.argmax(1) if len(gt_boxes) else np.zeros(len(rois), np.int64)
    highest = overlaps.max(1) if len(gt_boxes) else np.zeros(len(rois))
    keep, num_fg = sample_rois(
        highest,
        num_rois,
        train.FG_FRACTION,
        train.FG_THRESH,
        train.BG_THRESH_HI,
        background_from(train, len(gt_boxes)),
    )
    targets = np.zeros((len(keep), 5), np.float32)
    fg = keep[:num_fg]
    targets[:num_fg, 0] = gt_boxes[best[fg], 4]
    targets[:num_fg, 1:] = bbox_transform(rois[fg, 1:5], gt_boxes[best[fg], :4])
    if train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        targets[:num_fg, 1:] = (targets[:num_fg, 1:] - train.BBOX_NORMALIZE_MEANS) / train.BBOX_NORMALIZE_STDS
    expanded = expand_bbox_targets(targets, num_classes, train.BBOX_INSIDE_WEIGHTS, train.AGNOSTIC)
    return (rois[keep], targets[:, 0], *expanded)
