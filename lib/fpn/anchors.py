"""The anchors of every level of a pyramid, as the layers that lay them out are told by their param_str.

A anchors per position, a level's map (H, W).
"""

import torch

from fpn.boxes import family_of
from utils.param_str import parse_param_str

SCALES, RATIOS = (8,), (0.5, 1, 2)


class Pyramid:
    """param_str: strides, of each level's map in pixels; boxes, the family; scales (of anchors' sides, in strides; 8; or a
    list of each level's) and ratios (height over width; 1/2, 1, 2)."""

    def __init__(self, param_str):
        params = parse_param_str(param_str)
        self.family, self.strides = family_of(params['boxes']), params['strides']
        scales, ratios = params.get('scales', SCALES), params.get('ratios', RATIOS)
        if not isinstance(scales[0], list):
            scales = [scales] * len(self.strides)
        self.anchors = [
            self.family.anchors(stride, of_level, ratios)
            for stride, of_level in zip(self.strides, scales, strict=True)
        ]

    def check(self, count):
        """ValueError unless there are as many maps as levels."""
        if count != len(self.strides):
            raise ValueError(f'{len(self.strides)} strides want as many maps; got {count}')

    def grids(self, shapes, size, device=None):
        """The anchors of all levels, of maps `shapes` (H, W) of an input of `size` (height, width): (H W A, 4) each,
        anchor fastest, then x, then y."""
        return [
            grid(anchors.to(device), shape, self.family.strides(stride, shape, size))
            for anchors, shape, stride in zip(self.anchors, shapes, self.strides)
        ]


def logits(scores, anchors):
    """Scores of A anchors (N, A, H, W), or of background, then of object (N, 2A, H, W) -> one each, a logit."""
    count = len(anchors)
    if scores.shape[1] not in (count, 2 * count):
        raise ValueError(
            f'{count} anchors want {count} or {2 * count} scores a position; got {scores.shape[1]}'
        )
    return scores if scores.shape[1] == count else scores[:, count:] - scores[:, :count]


def grid(anchors, shape, strides):
    """Anchors (A, 4) at every position of a map of this shape, `strides` (down, across) apart: (H W A, 4)."""
    down, across = (torch.arange(n, device=anchors.device) * s for n, s in zip(shape, strides))
    y, x = torch.meshgrid(down, across, indexing='ij')
    return (torch.stack([x, y, x, y], 2)[:, :, None] + anchors).reshape(-1, 4)


def in_rows(maps, width):
    """(A width, H, W), anchor slowest -> (H W A, width), in the order of the grid."""
    return maps.permute(1, 2, 0).reshape(-1, width)


def in_maps(rows, shape):
    """(H W A, width) -> (A width, H, W)."""
    return rows.reshape(*shape, -1).permute(2, 0, 1)
