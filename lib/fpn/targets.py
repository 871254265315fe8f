"""What the anchors of a pyramid's levels, and the RoIs, are to answer for the ground truth.

N images, I anchors of all levels of an image, G objects of an image, R RoIs in, S sampled RoIs out, K classes. Draws come
from numpy's global generator, positive or foreground ones first. Tensors go in and come out.
"""

import torch

from fast_rcnn.roi_sampling import expand_bbox_targets, normalized, sample_by
from rpn.targets import IGNORED, POSITIVE, label_anchors, rows_of_all, subsample


def anchor_targets(grid, objects, im_info, family, train):
    """Labels (N, I) in 1, 0, -1, targets, inside weights and outside weights (N, I, 4) of anchors grid (I, 4), which all
    images have; objects: (G, 4+) of each; train: settings cfg.TRAIN.

    An example's outside weight is the family's; by Caffe's and torchvision's a loss that is divided by N is divided by the
    examples.
    """
    parts = [
        _of_image(grid, gt[:, :4], info, family, train) for gt, info in zip(objects, im_info, strict=True)
    ]
    labels, targets = (torch.stack(values) for values in zip(*parts))
    inside = (labels == POSITIVE)[..., None] * grid.new_tensor(train.RPN_BBOX_INSIDE_WEIGHTS)
    examples = (labels != IGNORED)[..., None].expand(targets.shape).float()
    return labels, targets, inside, examples * family.example_weight(labels)


def _of_image(grid, objects, info, family, train):
    labels, targets = grid.new_full((len(grid),), IGNORED), torch.zeros_like(grid)
    rows = family.inside(grid, info).nonzero()[:, 0]
    overlaps = family.overlaps(grid[rows], objects)
    mine = label_anchors(
        overlaps,
        train.RPN_POSITIVE_OVERLAP,
        train.RPN_NEGATIVE_OVERLAP,
        train.RPN_CLOBBER_POSITIVES,
        family.unmet_objects,
    )
    subsample(mine, train.RPN_BATCHSIZE, train.RPN_FG_FRACTION, refills=family.refills)
    labels[rows] = mine
    positive = (mine == POSITIVE).nonzero()[:, 0] if len(objects) else rows[:0]
    targets[rows[positive]] = family.encode(
        grid[rows[positive]], objects[overlaps[positive].argmax(1)] if len(objects) else objects
    )
    return labels, targets


def roi_targets(rois, objects, num_classes, num_rois, family, train, weights=None, agnostic=False):
    """Sample num_rois of each image's rois (R, 5: image, box) joined by its objects (G, 5: box, class), by the settings
    cfg.TRAIN -> rois (S, 5), labels (S,), targets and inside weights (S, 4K), image after image; the row (S,) of the object
    that each is matched with, of all images' one after the other, 0 where there is none. weights: of codes, in place of the
    family's and of what the settings normalise by. agnostic: one box for all classes, (S, 8)."""
    parts = [
        _sampled(rois[rois[:, 0] == i], gt, i, num_rois, family, train, weights)
        for i, gt in enumerate(objects)
    ]
    rois, targets, matched = zip(*parts)
    rois, targets, matched = map(torch.cat, (rois, targets, rows_of_all(matched, objects)))
    expanded = expand_bbox_targets(targets, num_classes, train.BBOX_INSIDE_WEIGHTS, agnostic)
    return rois, targets[:, 0], *expanded, matched


def _sampled(rois, objects, image, num_rois, family, train, weights):
    """-> rois (S, 5), targets (S, 5: class, codes), objects (S,), 0 where there is none."""
    own = torch.cat([torch.full_like(objects[:, :1], image), objects[:, :4]], 1)
    rois = torch.cat([rois, own])
    overlaps = family.overlaps(rois[:, 1:], objects[:, :4])
    highest = overlaps.amax(1) if len(objects) else overlaps.new_zeros(len(rois))
    keep, num_fg = sample_by(train, highest, num_rois, len(objects), repeats=family.repeats_rois)
    targets, fg = rois.new_zeros(len(keep), 5), keep[:num_fg]
    matched = rois.new_zeros(len(keep))
    if num_fg:
        best = overlaps[fg].argmax(1)
        matched[:num_fg], best = best, objects[best]
        targets[:num_fg, 0] = best[:, 4]
        targets[:num_fg, 1:] = family.encode(rois[fg, 1:], best[:, :4], weights or family.roi_weights)
    if not weights:
        targets[:num_fg, 1:] = normalized(targets[:num_fg, 1:], train)
    return rois[keep], targets, matched
