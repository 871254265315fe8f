"""A cascade of heads (Cai and Vasconcelos, Cascade R-CNN, 2018, arXiv 1712.00726, section 4): each judges the boxes that the
one before has moved, and learns from those that overlap an object well enough for it. One box for all classes.

N images, G objects of an image, R RoIs (image, box), codes (R, 8), of which columns 4 to 7 are an object's. Each stage has
weights of its own that codes are multiplied by. Tensors go in and come out.
"""

import torch

from fast_rcnn.roi_sampling import expand_bbox_targets

OBJECT = slice(4, 8)  # the columns of an object's box


def refined(rois, codes, im_info, family, weights):
    """rois (R, 5) moved by what a head says of them, cut to their images; im_info (N, 3: height, width, scale)."""
    boxes, moved = family.decode(rois[:, 1:], codes[:, OBJECT], weights), rois.clone()
    for i, info in enumerate(im_info.tolist()):
        rows = rois[:, 0] == i
        moved[rows, 1:] = family.clip(boxes[rows], family.window(info))
    return moved


def stage_targets(rois, objects, overlap, family, weights, inside_weights):
    """What a head is to answer for all of rois (R, 5), of objects (G, 5: box, class) of each image: labels (R,), the class of
    the object that overlaps most, if at least by `overlap`, else 0; targets and inside weights (R, 8)."""
    targets = rois.new_zeros(len(rois), 5)
    for i, gt in enumerate(objects):
        rows = (rois[:, 0] == i).nonzero()[:, 0]
        if len(gt) and len(rows):
            overlaps = family.overlaps(rois[rows, 1:], gt[:, :4])
            found = overlaps.amax(1) >= overlap
            rows, best = rows[found], gt[overlaps.argmax(1)[found]]
            targets[rows, 0] = best[:, 4]
            targets[rows, 1:] = family.encode(rois[rows, 1:], best[:, :4], weights)
    return targets[:, 0], *expand_bbox_targets(targets, 2, inside_weights, agnostic=True)


def whole_way(first, last, codes, im_info, family, weights):
    """Codes (R, 8) in the family's own weights that move RoIs `first` (R, 5) to where the last head, by its codes, moves
    `last` (R, 5): what a net says that has one head. The family says in which pixels boxes are moved."""
    scales = im_info[:, 2][first[:, 0].long()][:, None]
    begin, end = (family.judged(rois[:, 1:], scales) for rois in (first, last))
    boxes = family.decode(end, codes[:, OBJECT], weights)
    beyond = family.decode(begin, torch.zeros_like(begin)) - begin  # a pixel, or none, that decoding adds
    way = torch.zeros_like(codes)
    way[:, OBJECT] = family.encode(begin, boxes - beyond, family.roi_weights)
    return way
