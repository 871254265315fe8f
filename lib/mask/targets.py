"""Which cells of a RoI are its object's (Mask R-CNN, section 3.1): the object's true mask, cut to the RoI, in M x M cells.

F RoIs with an object, G objects; masks are 0 or 1 in the pixels that a net sees.
"""

import torch
from caffe.types.roi import roi_align


def mask_targets(rois, objects, masks, size, family):
    """rois (F, 5: image, box), the row of the object of each (F,), masks (G, H, W) -> (F, M, M), M = size: a cell's value is
    the mean over points a pixel apart, as torchvision has it (models/detection/roi_heads.py, project_masks_on_boxes)."""
    edges = torch.cat([objects[:, None].to(rois.dtype), rois[:, 1:3], rois[:, 3:5] + family.offset], 1)
    how = {'pooled_h': size, 'pooled_w': size, 'spatial_scale': 1.0, 'sampling_ratio': 0}
    return roi_align(masks[:, None], edges, **how)[:, 0]
