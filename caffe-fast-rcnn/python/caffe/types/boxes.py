"""Box arithmetic that layers share: overlaps, non-maximum suppression, SSD's codes of boxes.

Boxes are rows x1 y1 x2 y2. offset 0: coordinates of edges, width x2 - x1; 1: whole pixels, ends included,
width x2 - x1 + 1.
"""

import numpy as np
import torch

from .. import kernels

try:
    from . import nms_cpu
except ImportError:  # not compiled
    nms_cpu = None

BLOCK = 1024  # boxes decided at a time: bounds the memory of their overlaps


def overlaps(a, b, offset=0):
    """Intersection over union (A, B) of boxes a (A, 4) and b (B, 4); 0 for a box of no or infinite area."""
    if kernels.serve(a, b, dtypes=(torch.float32, torch.float64)):
        return kernels.overlaps(a, b, offset)
    ax1, ay1, ax2, ay2 = a.T.contiguous()[:, :, None]
    bx1, by1, bx2, by2 = b.T.contiguous()
    area_a, area_b = (_extent(x[:, 0], x[:, 2], offset) * _extent(x[:, 1], x[:, 3], offset) for x in (a, b))
    shared = _extent(torch.maximum(ax1, bx1), torch.minimum(ax2, bx2), offset)
    shared *= _extent(torch.maximum(ay1, by1), torch.minimum(ay2, by2), offset)
    union = (area_a[:, None] + area_b).sub_(shared).clamp_(min=torch.finfo(a.dtype).tiny)
    return shared.div_(union).nan_to_num_(0.0)


def _extent(start, end, offset):
    return (end - start + offset).clamp_(min=0)


def nms(boxes, threshold, offset=0, eta=1.0, limit=None):
    """Indices kept of boxes (N, 4), which come best first, at most `limit`, as a tensor beside them. Dropped: those
    whose overlap with a kept one is above threshold; eta < 1 multiplies a threshold above 0.5 after each box kept."""
    if eta >= 1 and kernels.serve(boxes):
        return kernels.nms(boxes, threshold, offset, limit)
    if eta >= 1 and _compiled(boxes):
        return _suppress(boxes, (0, len(boxes)), threshold, offset, limit)
    kept = _greedy(boxes, np.float32(threshold), offset, eta, limit)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def class_nms(boxes, starts, threshold, offset=0):
    """As nms, of boxes (N, 4) of several classes, of which class k has those from starts[k] up to starts[k + 1], best
    first: indices kept, in their order."""
    if kernels.serve(boxes):
        return kernels.class_nms(boxes, starts, threshold, offset)
    if _compiled(boxes):
        return _suppress(boxes, starts, threshold, offset)
    kept = [begin + nms(boxes[begin:end], threshold, offset) for begin, end in zip(starts[:-1], starts[1:])]
    return torch.cat([torch.zeros(0, dtype=torch.long, device=boxes.device), *kept])


def _compiled(boxes):
    return nms_cpu is not None and boxes.device.type == 'cpu' and boxes.dtype == torch.float32


def _suppress(boxes, starts, threshold, offset, limit=None):
    boxes = boxes.detach().contiguous().numpy()
    return torch.from_numpy(nms_cpu.suppress(boxes, starts, threshold, offset, True, limit or 0))


def _greedy(boxes, threshold, offset, eta, limit):
    kept = []
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        most = overlaps(block, boxes[kept], offset).amax(1).cpu().numpy() if kept else np.zeros(len(block))
        among = overlaps(block, block, offset).cpu().numpy()
        for i in range(len(block)):
            if len(kept) == limit:
                return kept
            if most[i] <= threshold:
                kept.append(start + i)
                most = np.maximum(most, among[i])
                if eta < 1 and threshold > 0.5:
                    threshold *= eta
    return kept


def sizes(boxes):
    """Width and height (..., 2)."""
    return boxes[..., 2:] - boxes[..., :2]


def centres(boxes):
    return (boxes[..., 2:] + boxes[..., :2]) / 2


def encode(boxes, priors, variances, code_type):
    """What a net shall predict (..., 4) so that decode gives boxes; all broadcast."""
    if code_type == 'CENTER_SIZE':
        size = sizes(priors)
        code = torch.cat([(centres(boxes) - centres(priors)) / size, torch.log(sizes(boxes) / size)], -1)
    else:
        code = (boxes - priors) / _unit(priors, code_type)
    return code / variances


def decode(code, priors, variances, code_type):
    """Boxes (..., 4) from predictions. CORNER: corners move by code * variance; CORNER_SIZE: by that times
    the prior's size; CENTER_SIZE: so does the centre, and the size is multiplied by exp(code * variance)."""
    code = code * variances
    if code_type != 'CENTER_SIZE':
        return priors + code * _unit(priors, code_type)
    centre = centres(priors) + code[..., :2] * sizes(priors)
    half = sizes(priors) * torch.exp(code[..., 2:]) / 2
    return torch.cat([centre - half, centre + half], -1)


def _unit(priors, code_type):
    return torch.cat([sizes(priors)] * 2, -1) if code_type == 'CORNER_SIZE' else torch.ones_like(priors)
