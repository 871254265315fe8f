"""Which level of a pyramid each RoI is pooled from (Lin et al., 2017, equation 1), and the way back.

R RoIs.
"""

import torch


def split(boxes, family, first, count):
    """boxes (R, 4) over levels first ... first + count - 1 -> the rows of each level, and (R,) at which place of them all
    in a row each box then stands."""
    level = family.levels(boxes).clamp(first, first + count - 1) - first
    rows = [(level == i).nonzero()[:, 0] for i in range(count)]
    return rows, torch.cat(rows).argsort()


def has_levels(net):
    """Whether RoIs are pooled from several maps of a net."""
    return any(layer.layer_param.python_param.module == 'fpn.level_layer' for layer in net.layers)
