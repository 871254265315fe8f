"""The GPU rule of non-maximum suppression: float32, dropped at IoU > thresh. Runs on any device."""

import numpy as np
import torch
from caffe.types import boxes as box_lib


def gpu_nms(dets, thresh, device_id=0, limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0; on CUDA
    device `device_id` (by the compiled kernel, where it is built), or the CPU without one."""
    dets = np.ascontiguousarray(dets, np.float32)
    order = dets[:, 4].argsort()[::-1]
    device = torch.device('cuda', device_id) if torch.cuda.is_available() else torch.device('cpu')
    return order[suppress(torch.from_numpy(dets[order, :4]).to(device), thresh, limit).cpu().numpy()].tolist()


def suppress(boxes, thresh, limit=0):
    """boxes (N, 4), best first -> indices kept, at most `limit` unless that is 0, a tensor on their device."""
    return box_lib.nms(boxes, thresh, 1, limit=limit or None)
