"""The GPU rule of non-maximum suppression, in torch: float32, dropped at IoU > thresh. Runs on any device."""

import numpy as np
import torch

BLOCK = 1024  # boxes decided at a time: bounds the memory of the IoU matrix to BLOCK x kept


def gpu_nms(dets, thresh, device_id=0, limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0; on CUDA
    device `device_id`, or the CPU without one."""
    dets = np.ascontiguousarray(dets, np.float32)
    order = dets[:, 4].argsort()[::-1]
    device = torch.device('cuda', device_id) if torch.cuda.is_available() else torch.device('cpu')
    boxes = torch.from_numpy(dets[order, :4]).to(device)
    kept, keep = boxes[:0], []
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        alive = ~(_overlaps(block, kept) > thresh).any(1)
        chosen = _greedy((_overlaps(block, block) > thresh).cpu().numpy(), alive.cpu().numpy())
        keep += [int(order[start + i]) for i in chosen]
        if limit and len(keep) >= limit:
            return keep[:limit]
        kept = torch.cat([kept, block[torch.as_tensor(chosen, dtype=torch.long, device=device)]])
    return keep


def _greedy(drops, alive):
    """drops (B, B): row i removes column j. -> indices of the rows that survive, in order."""
    chosen = []
    for i in range(len(alive)):
        if alive[i]:
            chosen.append(i)
            alive &= ~drops[i]
    return chosen


def _overlaps(a, b):
    """IoU (A, B) of inclusive boxes."""
    area_a, area_b = ((x[:, 2] - x[:, 0] + 1) * (x[:, 3] - x[:, 1] + 1) for x in (a, b))
    corner = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2]) + 1
    inter = corner.clamp(min=0).prod(2)
    return inter / (area_a[:, None] + area_b[None] - inter)
