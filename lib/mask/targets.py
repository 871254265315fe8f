"""Which cells of a RoI are its object's (Mask R-CNN, section 3.1): the object's true mask, cut to the RoI, in M x M cells.

F RoIs with an object, G objects; masks are 0 or 1 in the pixels that a net sees.
"""

import torch
from caffe.types.roi import roi_align, taps, weights


def mask_targets(rois, objects, masks, size, family):
    """rois (F, 5: image, box), the row of the object of each (F,), masks (G, H, W) -> (F, M, M), M = size: a cell's value is
    the mean over points a pixel apart, as torchvision has it (models/detection/roi_heads.py, project_masks_on_boxes)."""
    x1, y1, x2, y2 = rois[:, 1], rois[:, 2], rois[:, 3] + family.offset, rois[:, 4] + family.offset
    if masks.is_cuda:
        regions = torch.stack([objects.to(rois.dtype), x1, y1, x2, y2], 1)
        how = {'pooled_h': size, 'pooled_w': size, 'spatial_scale': 1.0, 'sampling_ratio': 0}
        return roi_align(masks[:, None], regions, **how)[:, 0]
    cells = masks.new_zeros(len(rois), size, size)
    if len(rois):
        down, across = (
            weights(*taps(*ends, size, side, 1.0, 0, False), side)
            for ends, side in zip(((y1, y2), (x1, x2)), masks.shape[1:])
        )
        for i in objects.long().unique():  # of large RoIs so many points are better not looked up one by one
            mine = objects == i
            cells[mine] = down[mine] @ masks[i] @ across[mine].transpose(1, 2)
    return cells
