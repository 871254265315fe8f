"""The Python layer that turns the answers of an RPN on the levels of a pyramid into RoIs."""

from fast_rcnn.config import cfg
from fpn.anchors import Pyramid, logits
from fpn.proposals import Level, propose
from rpn import proposal_layer
from rpn.proposals import Limits


class ProposalLayer(proposal_layer.ProposalLayer):
    """Bottoms: scores of each level (N, A, H, W: logits, or 2A: background, then object), then deltas of each
    (N, 4A, H, W), im_info (N, 3), data.
    Tops: rois (R, 5) with the image's index first, and, if asked for, their probabilities (R, 1). No gradient.
    param_str: see fpn.anchors.Pyramid.
    """

    def read_anchors(self, bottom):
        self._pyramid = Pyramid(self.param_str)
        self._pyramid.check((len(bottom) - 2) / 2)

    def proposals(self, bottom):
        *maps, im_info, data = bottom
        maps = [blob.tensor for blob in maps]
        scores, deltas = maps[: len(maps) // 2], maps[len(maps) // 2 :]
        grids = self._pyramid.grids([s.shape[2:] for s in scores], data.shape[2:], scores[0].device)
        scores = [logits(*level) for level in zip(scores, self._pyramid.anchors)]
        levels = [Level(*level) for level in zip(scores, deltas, grids)]
        proposals = propose(levels, im_info.data, self._pyramid.family, Limits.of(cfg[str(self.phase)]))
        return [(boxes, scores[:, None].sigmoid()) for boxes, scores in proposals]
