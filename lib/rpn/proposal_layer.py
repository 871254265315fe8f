"""The Python layer that turns an RPN's scores and deltas into RoIs."""

import caffe
import torch

from fast_rcnn.config import cfg
from rpn.generate_anchors import anchors_of
from rpn.proposals import Level, Limits, propose
from utils.arrays import beside, fill
from utils.param_str import parse_param_str


class ProposalLayer(caffe.Layer):
    """Bottoms: background/foreground probabilities (N, 2A, H, W), deltas (N, 4A, H, W; at TRAIN normalised by
    cfg.TRAIN.RPN_NORMALIZE_*), im_info (N, 3 or 4).
    Tops: rois (R, 5) with the image's index first, and, if asked for, scores (R, 1). No gradient.
    param_str: feat_stride, and scales, ratios of the anchors.
    """

    def setup(self, bottom, top):
        self.read_anchors(bottom)
        top[0].reshape(1, 5)
        if len(top) > 1:
            top[1].reshape(1, 1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        proposals = self.proposals(bottom)
        rois = [torch.cat([torch.full_like(b[:, :1], i), b], 1) for i, (b, _) in enumerate(proposals)]
        for blob, values in zip(top, [rois, [scores for _, scores in proposals]]):
            fill(blob, torch.cat(values))

    def backward(self, top, propagate_down, bottom):
        pass

    def read_anchors(self, bottom):
        self._anchors, self._feat_stride = anchors_of(parse_param_str(self.param_str))

    def proposals(self, bottom):
        """[boxes (n, 4), scores (n, 1)] of each image."""
        probs, deltas, im_info = bottom[0].tensor, bottom[1].tensor, bottom[2].data
        num_anchors = len(self._anchors)
        if (probs.shape[1], deltas.shape[1]) != (2 * num_anchors, 4 * num_anchors):
            raise ValueError(
                f'{num_anchors} anchors want {2 * num_anchors} scores and {4 * num_anchors} '
                f'deltas per position, got {probs.shape[1]} and {deltas.shape[1]}'
            )
        if not len(probs) == len(deltas) == len(im_info):
            raise ValueError(
                f'scores, deltas and im_info are of {len(probs)}, {len(deltas)} and {len(im_info)} images'
            )
        settings = cfg[str(self.phase)]
        if self.phase == caffe.TRAIN and settings.RPN_NORMALIZE_TARGETS:
            stds, means = settings.RPN_NORMALIZE_STDS, settings.RPN_NORMALIZE_MEANS
            stds, means = (
                beside(deltas, values).repeat(num_anchors)[:, None, None] for values in (stds, means)
            )
            deltas = deltas * stds + means
        level = Level(probs[:, num_anchors:], deltas, self._anchors, self._feat_stride)
        return propose([level], im_info, Limits.of(settings))
