"""Online hard example mining as R-FCN trains with it. Shrivastava et al., 2016; Dai et al., R-FCN, 2016.

SoftmaxWithLossOHEM and SmoothL1LossOHEM give per-region losses, an Eltwise adds them, BoxAnnotatorOHEM keeps
the labels and weights of the largest, and those feed the losses that train.
Shapes: R regions, C numbers per region. Blobs of regions may have spatial axes; then each place is one.
"""

import math

import torch
import torch.nn.functional as F

from ..registry import layer
from .helpers import alike
from .loss import NormalizedLoss, SoftmaxWithLoss


@layer('BoxAnnotatorOHEM', nondiff=(0, 1, 2, 3), strict=False)
def box_annotator_ohem(rois, loss, labels, weights, *, roi_per_img, ignore_label):
    """rois (R, 5), loss (R,), labels (R,), weights (R, C) to labels and weights of the same shapes: those of
    the roi_per_img regions of each image with the largest loss as they were, the others' labels ignore_label
    and their weights 0. Of equal losses the first wins."""
    if not roi_per_img:
        raise ValueError('roi_per_img must be given and positive')
    count = loss.numel()
    if rois.numel() != 5 * count or labels.numel() != count or weights.numel() % max(count, 1):
        raise ValueError(
            f'{count} losses want as many rois (of 5 numbers) and labels, and a multiple of '
            f'weights; got the shapes {tuple(rois.shape)}, {tuple(labels.shape)}, '
            f'{tuple(weights.shape)}'
        )
    if loss.is_meta:
        return labels.clone(), weights.clone()
    image = rois.reshape(len(rois), 5, -1)[:, 0].reshape(-1).long()
    order = loss.reshape(-1).argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]  # by image, in each by falling loss
    sorted_image = image[order].contiguous()
    rank = torch.arange(count, device=loss.device) - torch.searchsorted(sorted_image, sorted_image)
    chosen = torch.empty(count, dtype=torch.bool, device=loss.device)
    chosen[order] = rank < roi_per_img
    each = chosen.reshape(len(rois), 1, -1)
    return (
        torch.where(chosen.reshape(labels.shape), labels, float(ignore_label)),
        torch.where(each, weights.reshape(len(rois), -1, each.shape[2]), 0.0).reshape(weights.shape),
    )


@layer('SoftmaxWithLossOHEM', 'softmax_param', 'loss_param', loss=True, nondiff=(1,))
class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss whose third top, shaped like the labels, receives the term of each place. That top
    passes no gradient on."""

    def compute(self, x, label):
        loss, scores, terms = self.evaluate(x, label)
        return (loss, scores.detach().exp(), terms.detach().reshape(label.shape))[: self.num_tops]


@layer('SmoothL1LossOHEM', 'loss_param', loss=True, nondiff=(2,), strict=False)
class SmoothL1LossOHEM(NormalizedLoss):
    """Sum of f(w (x - target)) over the normalizer, f(d) = d^2 / 2 where |d| < 1, else |d| - 1/2; w the
    optional third bottom. The second top (R, 1, ...) receives the sum over axis 1 for each place, and passes
    no gradient on.

    normalization counts R as outer and the places behind axis 1 as inner; there is no sigma but 1. The
    gradient holds w once, as that of the sum does (the original leaves it out: the same for 0 and 1).
    """

    fields = ('normalization', 'normalize', 'pre_fixed_normalizer')

    def compute(self, x, target, weight=None):
        d = x - alike(x, target)[0]
        if weight is not None:
            d = alike(x, weight)[0] * d
        terms = F.smooth_l1_loss(d, torch.zeros_like(d), reduction='none')
        loss = terms.sum() / self.normalizer(x.shape[0], math.prod(x.shape[2:]), None)
        return (loss, terms.detach().sum(1, keepdim=True))[: self.num_tops]
