"""The one non-maximum suppression that the library calls: the GPU's or the CPU's rule, by cfg and machine."""

import torch

from fast_rcnn.config import cfg
from nms.cpu_nms import cpu_class_nms, cpu_nms
from nms.gpu_nms import gpu_class_nms, gpu_nms, suppress
from utils.arrays import on_gpu


def nms(dets, thresh, force_cpu=False, limit=0):
    """dets (N, 5) x1 y1 x2 y2 score -> indices kept, best first, at most `limit` unless that is 0.

    GPU rule (dropped at IoU > thresh) if cfg.USE_GPU_NMS and there is a GPU, else the CPU rule (>=).
    """
    if dets.shape[0] == 0:
        return []
    if cfg.USE_GPU_NMS and not force_cpu and torch.cuda.is_available():
        return gpu_nms(dets, thresh, cfg.GPU_ID, limit)
    return cpu_nms(dets, thresh, limit)


def class_nms(dets, starts, thresh):
    """As nms of each class by itself: dets (N, 5), of which class k has those from starts[k] up to starts[k + 1] ->
    indices kept (n,), class by class, best first."""
    if cfg.USE_GPU_NMS and torch.cuda.is_available():
        return gpu_class_nms(dets, starts, thresh, cfg.GPU_ID)
    return cpu_class_nms(dets, starts, thresh)


def tensor_nms(boxes, scores, thresh, limit=0):
    """As nms, of tensors boxes (N, 4) and scores (N, 1), best first. By the GPU rule they stay on their device, where
    the indices then are."""
    if on_gpu(boxes) and cfg.USE_GPU_NMS:
        return suppress(boxes, thresh, limit)
    return nms(torch.cat([boxes, scores], 1).cpu().numpy(), thresh, limit=limit)
