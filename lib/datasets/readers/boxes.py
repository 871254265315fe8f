"""The one rule for annotated boxes, whatever the format of the files."""

import numpy as np


def clean_boxes(boxes, width, height, base):
    """The rule for annotated boxes, for all datasets alike.

    1. base (0 or 1), the number of the first pixel in the file, is subtracted.
    2. A box whose corners are swapped (inverted) is swapped back.
    3. A box beyond the image is dropped (outside), one partly beyond is cut at 0 and width - 1 or height - 1
       (clipped).
    4. A box that then has x1 == x2 or y1 == y2 is dropped (zero area).

    boxes (n, 4) as written; width, height: numbers, or one per box.
    Returns boxes (n, 4) float32 x1 y1 x2 y2, inclusive, and the faults: {'inverted', 'clipped', 'outside',
    'zero area'} -> (n,) bool. Boxes that are outside or of zero area are the caller's to leave out.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4) - base
    last = np.stack(np.broadcast_arrays(width, height), -1).astype(np.float32) - 1
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    inverted = (boxes[:, :2] > boxes[:, 2:]).any(1)
    outside = (high < 0).any(1) | (low > last).any(1)
    cut_low, cut_high = np.clip(low, 0, last), np.clip(high, 0, last)
    zero = ~outside & (cut_low == cut_high).any(1)
    clipped = ~outside & ~zero & ((cut_low != low) | (cut_high != high)).any(1)
    faults = {'inverted': inverted, 'clipped': clipped, 'outside': outside, 'zero area': zero}
    return np.hstack([cut_low, cut_high]), faults


def guess_base(boxes):
    """0 if some coordinate lies in [0, 1), which is no pixel where they count from 1; else 1."""
    return 0 if np.any((boxes >= 0) & (boxes < 1)) else 1
