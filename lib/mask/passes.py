"""A test net with masks runs twice over an image: for boxes, then for the masks of those that are kept, on the maps that
the first pass has left where they are.

Its layers for masks, whose names begin with `mask`, come last. They read mask_rows, and mask_rois, the boxes that are kept; where
a net has no such input, these take the place of `rois`, and what judges those runs again. D boxes that are kept, M x M cells.
"""

import numpy as np

from utils.arrays import leaving

ROWS, ROIS = 'mask_rows', 'mask_rois'


def has_masks(net):
    return ROWS in net.inputs


def box_inputs(net):
    """The inputs of the pass for boxes."""
    return [name for name in net.inputs if name not in (ROWS, ROIS)]


def last_for_boxes(net):
    """The last layer of the pass for boxes, an index; None: all are."""
    if not has_masks(net):
        return None
    return next(i for i, name in enumerate(net._layer_names) if name.startswith('mask')) - 1


def kept_rois(boxes, i, image, family):
    """boxes (D, 4) that are kept of image i of a pass, a fast_rcnn.inputs.Scaled, in its own pixels and the terms of the net's
    family -> rois (D, 5), as masks_of takes them."""
    seen = family.shown(boxes, image.shape, image.data.shape[2:], image.scales[0])
    return np.hstack([np.full((len(boxes), 1), i), seen]).astype(np.float32)


def masks_of(net, rois, classes):
    """The second pass. rois (D, 5): the image's index in the first, the box in pixels of `data`; classes (D,) -> a function
    that gives their masks, (D, M, M) in 0 to 1: any thread may call it, whatever the net does by then."""
    blobs, where = net.blobs, ROIS if ROIS in net.inputs else 'rois'
    if not len(rois):
        nothing = np.zeros((0, *blobs['mask_prob'].shape[2:]), np.float32)
        return lambda: nothing
    num_classes = blobs['mask_score'].shape[1]
    blobs[ROWS].put(np.float32(np.arange(len(rois)) * num_classes + classes))
    blobs[where].put(np.float32(rois))
    reads = (i for i, name in enumerate(net._layer_names) if where in net.bottom_names[name])
    net.run_forward(next(reads))
    found = leaving(blobs['mask_prob'])
    return lambda: found()[:, 0]
