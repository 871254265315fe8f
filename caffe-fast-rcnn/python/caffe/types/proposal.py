"""Proposal: regions from an RPN, in the engine itself, as PVANET's and other forks of Caffe have it.

Ren et al., Faster R-CNN, 2015, section 3.
Shapes: N images, A = ratios x scales anchors per position, (H, W) feature map.
"""

import torch

from ..registry import layer
from ..tape import TorchLayer
from .boxes import decode, nms


@layer('Proposal', nondiff=(0, 1, 2), strict=False)
class Proposal(TorchLayer):
    """scores (N, 2 A, H, W: background, then foreground), deltas (N, 4 A, H, W) and im_info (N or 1, 3:
    height, width, scale; or 4 with a scale for heights and one for widths) to regions (R, 5: image, x1, y1,
    x2, y2 in pixels, ends included) and scores (R,).

    1. anchors moved by deltas and clipped to the image; smaller than min_size x scale on a side: score 0
    2. the pre_nms_topn best of each image
    3. dropped: those that overlap a better one by more than nms_thresh
    4. the post_nms_topn best of each image
    """

    fields = (
        'feat_stride',
        'base_size',
        'min_size',
        'ratio',
        'scale',
        'pre_nms_topn',
        'post_nms_topn',
        'nms_thresh',
    )

    def setup(self, bottom, top):
        if not self.field('ratio') or not self.field('scale'):
            raise ValueError('ratio and scale must be given')
        self.anchors = anchors(self.field('base_size'), self.field('ratio'), self.field('scale'))

    def reshape(self, bottom, top):
        for blob, width in zip(top, ((5,), ())):
            blob.reshape(bottom[0].shape[0] * self.field('post_nms_topn'), *width)

    def compute(self, scores, deltas, info):
        count, height, width = len(self.anchors), *scores.shape[2:]
        if scores.shape[1] != 2 * count or deltas.shape != (len(scores), 4 * count, height, width):
            raise ValueError(
                f'{count} anchors want scores (N, {2 * count}, H, W) and deltas (N, {4 * count}, H, W)'
            )
        info = info.reshape(len(info) if info.dim() > 1 else 1, -1).expand(len(scores), -1)
        grid = anchor_grid(self.anchors.to(scores), height, width, self.field('feat_stride'))
        found = [self.propose(s, d, i, grid) for s, d, i in zip(scores[:, count:], deltas, info)]
        regions, kept_scores = zip(*found)
        image = torch.cat([r.new_full((len(r), 1), n) for n, r in enumerate(regions)])
        return (torch.cat([image, torch.cat(regions)], 1), torch.cat(kept_scores))[: self.num_tops]

    def propose(self, scores, deltas, info, grid):
        """Regions (R, 4) and scores (R,) from scores (A, H, W), deltas (4 A, H, W), grid (H W A, 4)."""
        scores = scores.permute(1, 2, 0).reshape(-1)
        deltas = deltas.reshape(-1, 4, *deltas.shape[1:]).permute(2, 3, 0, 1).reshape(-1, 4)
        boxes = decode(deltas, grid + grid.new_tensor([0, 0, 1, 1]), 1, 'CENTER_SIZE')  # x2 + 1: its edge
        size = info[:2].flip(0).repeat(2)
        boxes = torch.minimum(boxes, size - 1).clamp(min=0)
        least = self.field('min_size') * (info[2:4].flip(0) if len(info) > 3 else info[2])
        scores = scores * (boxes[:, 2:] - boxes[:, :2] + 1 >= least).all(1)
        order = scores.argsort(descending=True, stable=True)[: self.field('pre_nms_topn')]
        boxes, scores = boxes[order], scores[order]
        kept = nms(boxes, self.field('nms_thresh'), 1, limit=self.field('post_nms_topn'))
        return boxes[kept], scores[kept]


def anchors(base_size, ratios, scales):
    """(A, 4) around the box 0, 0, base_size - 1, base_size - 1: for each ratio (height over width) its area,
    with whole sides, times each scale."""
    centre, rows = (base_size - 1) / 2, []
    for ratio in ratios:
        width = int((base_size**2 / ratio) ** 0.5 + 0.5)
        height = int(width * ratio + 0.5)
        for scale in scales:
            half_w, half_h = (width * scale - 1) / 2, (height * scale - 1) / 2
            rows.append((centre - half_w, centre - half_h, centre + half_w, centre + half_h))
    return torch.tensor(rows)


def anchor_grid(anchors, height, width, stride):
    """The anchors at every position, row by row: (H W A, 4)."""
    y, x = (torch.arange(n, device=anchors.device, dtype=anchors.dtype) * stride for n in (height, width))
    y, x = torch.meshgrid(y, x, indexing='ij')
    return (torch.stack([x, y, x, y], 2)[:, :, None] + anchors).reshape(-1, 4)
