"""From the scores and deltas of a pyramid's levels to proposals: the best of each level before non-maximum suppression,
which works level by level, and the best of all levels after it (Lin et al., 2017, section 4.1).

N images, A anchors per position of a level's map (H, W), n proposals.
"""

from dataclasses import replace
from typing import NamedTuple

import torch

from fpn.anchors import in_rows


MOST = 2000  # of a level's boxes enter suppression, as torchvision and Detectron train, where the setting says no number


class Level(NamedTuple):
    """An RPN's answer on one map: scores (N, A, H, W), the larger the likelier, deltas (N, 4A, H, W), and its anchors
    (H W A, 4)."""

    scores: torch.Tensor
    deltas: torch.Tensor
    grid: torch.Tensor


def propose(levels, im_info, family, limits):
    """im_info (N, 3: height, width, scale of the scaled image); limits as rpn.proposals.Limits -> for each image boxes
    (n, 4), scores (n,), best first."""
    return [_of_image(levels, i, info, family, limits) for i, info in enumerate(im_info.tolist())]


def _of_image(levels, i, info, family, limits):
    rows = [(in_rows(level.scores[i], 1)[:, 0], in_rows(level.deltas[i], 4), level.grid) for level in levels]
    if not family.levels_compete and limits.pre_nms_top_n <= 0:
        limits = replace(limits, pre_nms_top_n=MOST)
    if family.levels_compete:
        rows = [tuple(torch.cat(values) for values in zip(*rows))]
    parts = [_of_level(*level, info, family, limits) for level in rows]
    boxes, scores = (torch.cat(values) for values in zip(*parts))
    best = best_first(scores, limits.post_nms_top_n)
    return boxes[best], scores[best]


def _of_level(scores, deltas, grid, info, family, limits):
    """scores (n,), deltas and grid (n, 4)."""
    # 1. the highest scores
    best = best_first(scores, limits.pre_nms_top_n)
    # 2. anchors moved by their deltas, cut to the image
    boxes, scores = family.clip(family.decode(grid[best], deltas[best]), family.window(info)), scores[best]
    # 3. without those that are too small
    large = (family.sides(boxes) >= family.least_side(limits.min_size, info[2])).all(1)
    boxes, scores = boxes[large], scores[large]
    # 4. less near-duplicates
    kept = family.nms(boxes, limits.nms_thresh, limits.post_nms_top_n if limits.post_nms_top_n > 0 else None)
    return boxes[kept], scores[kept]


def best_first(scores, most):
    """Indices of the `most` (<= 0: all) highest scores (n,), best first, equal ones in their order."""
    order = scores.argsort(descending=True, stable=True)
    return order[:most] if most > 0 else order
