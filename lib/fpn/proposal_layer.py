"""The Python layer that turns the answers of an RPN on the levels of a pyramid into RoIs."""

import caffe
import torch

from fast_rcnn.config import cfg
from fpn.anchors import Pyramid, logits
from fpn.proposals import Level, propose
from rpn.proposals import Limits
from utils.arrays import fill


class ProposalLayer(caffe.Layer):
    """Bottoms: scores of each level (N, A, H, W: logits, or 2A: background, then object), then deltas of each (N, 4A, H, W), im_info (N, 3), data.
    Tops: rois (R, 5) with the image's index first, and, if asked for, their probabilities (R, 1). No gradient.
    param_str: see fpn.anchors.Pyramid.
    """

    def setup(self, bottom, top):
        self._pyramid = Pyramid(self.param_str)
        self._pyramid.check((len(bottom) - 2) / 2)
        top[0].reshape(1, 5)
        if len(top) > 1:
            top[1].reshape(1, 1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        *maps, im_info, data = bottom
        maps = [blob.tensor for blob in maps]
        scores, deltas = maps[: len(maps) // 2], maps[len(maps) // 2 :]
        grids = self._pyramid.grids([s.shape[2:] for s in scores], data.shape[2:], scores[0].device)
        scores = [logits(*level) for level in zip(scores, self._pyramid.anchors)]
        levels = [Level(*level) for level in zip(scores, deltas, grids)]
        proposals = propose(levels, im_info.data, self._pyramid.family, Limits.of(cfg[str(self.phase)]))
        rois = [torch.cat([torch.full_like(b[:, :1], i), b], 1) for i, (b, _) in enumerate(proposals)]
        for blob, values in zip(top, [rois, [scores[:, None].sigmoid() for _, scores in proposals]]):
            fill(blob, torch.cat(values))

    def backward(self, top, propagate_down, bottom):
        pass
