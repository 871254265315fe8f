"""Anchors: reference boxes around one point, and their grid over a feature map (Faster R-CNN, section 3.1.1).

A anchors per position, feature map (H, W).
"""

import numpy as np

from utils.arrays import beside, library


def generate_anchors(base_size=16, ratios=(0.5, 1, 2), scales=2 ** np.arange(3, 6)):
    """-> (A, 4) float64 x1 y1 x2 y2 around a cell of base_size pixels at the origin; ratio (height / width)
    by ratio, within each one scale by scale. Sides are rounded to whole pixels before they are scaled."""
    centre = (base_size - 1) / 2.0
    widths = np.round(np.sqrt(base_size * base_size / np.asarray(ratios, np.float64)))
    heights = np.round(widths * ratios)
    sizes = np.stack([widths, heights], 1)[:, None, :] * np.asarray(scales, np.float64)[None, :, None]
    half = (sizes.reshape(-1, 2) - 1) / 2
    return np.hstack([centre - half, centre + half])


def anchor_grid(anchors, height, width, stride):
    """Anchors (A, 4), an array or a tensor, at every position of an (H, W) map -> (H * W * A, 4), the same: anchor
    fastest, then x, then y."""
    lib = library(anchors)
    x, y = (beside(anchors, np.arange(count) * stride, None) for count in (width, height))
    x, y = lib.meshgrid(x, y, indexing='xy')
    shifts = lib.stack([x, y, x, y], 2).reshape(-1, 1, 4)
    return (anchors[None] + shifts).reshape(-1, 4)


def own_cells(size, im_info, stride):
    """The rows and columns [(h, w)] of an (H, W) map that are each image's own; beyond them it sees the image's padding.
    im_info (N, 3+: height, width, ...), in pixels; of size N.

    The map ends with the largest image of the pass: its own are all. A smaller one's are those that begin inside it.
    """
    sides = np.asarray(im_info)[:, :2]
    own = np.minimum(np.ceil(sides / stride), size)
    return np.where(sides == sides.max(0), size, own).astype(np.int64).tolist()


def anchors_of(params):
    """Anchors (A, 4) and feature stride that a layer's param_str asks for: feat_stride, and scales, ratios if
    other than the default."""
    shapes = {key: params[key] for key in ('scales', 'ratios') if key in params}
    return generate_anchors(**shapes), params['feat_stride']
