"""The GPU rule of non-maximum suppression: float32, dropped at IoU > thresh. Runs on any device."""

import numpy as np
import torch
from caffe.types import boxes as box_lib

from nms.py_cpu_nms import best_first


def gpu_nms(dets, thresh, device_id=0, limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0; on CUDA
    device `device_id` (by the compiled kernel, where it is built), or the CPU without one."""
    boxes, order = _sorted(dets, (0, len(dets)), device_id)
    return order[suppress(boxes, thresh, limit).cpu().numpy()].tolist()


def gpu_class_nms(dets, starts, thresh, device_id=0):
    """As gpu_nms, of dets (N, 5) of several classes, of which class k has those from starts[k] up to starts[k + 1] ->
    indices kept, class by class, best first."""
    starts = np.asarray(starts).tolist()
    boxes, order = _sorted(dets, starts, device_id)
    return order[box_lib.class_nms(boxes, starts, thresh, 1).cpu().numpy()]


def _sorted(dets, starts, device_id):
    """The boxes of dets (N, 5), those of each class best first, where they are suppressed; that order."""
    dets = np.ascontiguousarray(dets, np.float32)
    order = best_first(dets[:, 4], starts)
    device = torch.device('cuda', device_id) if torch.cuda.is_available() else torch.device('cpu')
    return torch.from_numpy(dets[order, :4]).to(device), order


def suppress(boxes, thresh, limit=0):
    """boxes (N, 4), best first -> indices kept, at most `limit` unless that is 0, a tensor on their device."""
    return box_lib.nms(boxes, thresh, 1, limit=limit or None)
