"""Losses, and Accuracy. The first bottom is a prediction, the second a label or target; the top is a scalar
(shape ()).

Labels stand for whole numbers; class scores lie along one axis, the axes before it are `outer`, those behind
it `inner`, and there is one label for each of outer x inner places. The gradient is scaled by the top's diff,
which holds the loss weight.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..format.weights import blobproto_to_array
from ..registry import layer
from ..tape import TorchLayer
from ..proto import caffe_pb2
from .helpers import alike, as_index, canonical_axis, floor_value, sqrt_by_hand

LOG_FLT_MIN = math.log(np.finfo(np.float32).tiny)
SMALLEST_PROBABILITY = 1e-20


class NormalizedLoss(TorchLayer):
    """What losses with a LossParameter share: which labels count, and what the sum is divided by."""

    default_normalization = 'VALID'

    def normalization(self):
        """FULL (all places), VALID (those with a label that counts), BATCH_SIZE (outer), PRE_FIXED
        (pre_fixed_normalizer) or NONE. The old `normalize` means VALID or BATCH_SIZE."""
        param = self.layer_param.loss_param
        if param.HasField('normalization'):
            return self.field('normalization')
        if param.HasField('normalize'):
            return 'VALID' if param.normalize else 'BATCH_SIZE'
        return self.default_normalization

    def normalizer(self, outer, inner, valid):
        """The divisor, at least 1. valid: for each place whether it counts, or None when all do."""
        mode = self.normalization()
        if mode == 'VALID' and valid is not None:
            return valid.sum().clamp(min=1)
        return max(
            1,
            {
                'FULL': outer * inner,
                'VALID': outer * inner,
                'BATCH_SIZE': outer,
                'NONE': 1,
                'PRE_FIXED': self.field('pre_fixed_normalizer'),
            }[mode],
        )

    def valid(self, label):
        """Whether each label counts: True but for ignore_label; None when there is no ignore_label."""
        ignore = self.field('ignore_label')
        return None if ignore is None else label.long() != ignore


def places(x, label, axis):
    """(axis, outer, inner) of scores x; ValueError when there is not one label for each place."""
    axis = canonical_axis(axis, x.dim())
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    if label.numel() != outer * inner:
        raise ValueError(
            f'scores of shape {tuple(x.shape)} along axis {axis} want {outer * inner} labels; '
            f'got {label.numel()}'
        )
    return axis, outer, inner


def class_index(label, valid, classes, ignore):
    """Labels as int64 in 0..classes-1, with 0 in place of the ignored."""
    index = as_index(label, classes, 'label', ignore)
    return index if valid is None else torch.where(valid, index, 0)


@layer('SoftmaxWithLoss', 'softmax_param', 'loss_param', loss=True, nondiff=(1,))
class SoftmaxWithLoss(NormalizedLoss):
    """- log softmax(x)[label], summed over the places whose label is not ignore_label, over the normalizer.
    No term exceeds -log of the smallest float. A second top receives the softmax. With weight_by_label_freqs
    (SegNet) each term is multiplied by class_weighting[label]. With label_smoothing e (arXiv 1512.00567, section 7) a term is
    1 - e of it and e of the mean of - log softmax(x) over the classes. Scores (R, K) may have several labels each, (R,
    L): a place's term is then the mean of those that count (bottom-up-attention)."""

    fields = (
        'axis',
        'ignore_label',
        'normalization',
        'normalize',
        'pre_fixed_normalizer',
        'weight_by_label_freqs',
        'class_weighting',
        'label_smoothing',
    )

    def compute(self, x, label):
        loss, scores, _ = self.evaluate(x, label)
        return (loss, scores.detach().exp()) if self.num_tops > 1 else loss

    def evaluate(self, x, label):
        """(loss, log softmax, the term of each place)."""
        axis, each = canonical_axis(self.field('axis'), x.dim()), 1
        if label.dim() == 2 and axis == 1 and len(label) == len(x) and x.shape[1:].numel() == x.shape[1]:
            each = label.shape[1]
        _, outer, inner = places(x, label[:, :1] if each > 1 else label, axis)
        label = label.reshape(x.shape[:axis] + (each,) + x.shape[axis + 1 :])
        valid = self.valid(label)
        scores = F.log_softmax(x, axis)
        index = class_index(label, valid, x.shape[axis], self.field('ignore_label'))
        terms = self.term(scores.gather(axis, index))
        if smoothing := self.field('label_smoothing'):
            terms = (1 - smoothing) * terms - smoothing * scores.mean(axis, keepdim=True)
        if self.field('weight_by_label_freqs'):
            weights = self.field('class_weighting')
            if len(weights) != x.shape[axis]:
                raise ValueError(f'{x.shape[axis]} classes want as many class_weighting; got {len(weights)}')
            terms = terms * x.new_tensor(weights)[index]
        if valid is not None:
            terms = torch.where(valid, terms, 0.0)
        if each > 1:
            count = each if valid is None else valid.sum(axis, keepdim=True).clamp(min=1)
            terms = terms.sum(axis, keepdim=True) / count
            valid = None if valid is None else valid.any(axis, keepdim=True)
        return terms.sum() / self.normalizer(outer, inner, valid), scores, terms

    def term(self, log_p):
        return -floor_value(log_p, LOG_FLT_MIN)


@layer('FocalLoss', 'focal_loss_param', 'softmax_param', 'loss_param', loss=True, nondiff=(1,))
class FocalLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss whose terms fade as the label's probability p grows; every class has the weight alpha.
    type ORIGIN: -alpha (1 - p)^gamma log p. LINEAR: -alpha log(sigmoid(gamma z + beta)) / gamma, z = log(p /
    (1 - p)). Lin et al., 2017, section 3 and appendix A."""

    fields = SoftmaxWithLoss.fields + ('type', 'alpha', 'gamma', 'beta')

    def term(self, log_p):
        alpha, gamma = self.field('alpha'), self.field('gamma')
        rest = (1 - log_p.exp()).clamp(min=torch.finfo(log_p.dtype).eps)
        if self.field('type') == 'LINEAR':
            return -alpha / gamma * F.logsigmoid(gamma * (log_p - rest.log()) + self.field('beta'))
        return alpha * rest**gamma * super().term(log_p)


@layer('InfogainLoss', 'infogain_loss_param', 'loss_param', loss=True, nondiff=(1, 2))
class InfogainLoss(NormalizedLoss):
    """- sum over classes k of H[label, k] log softmax(x)[k], over the normalizer; H (K x K values) is the
    third bottom or read from `source`, a binary BlobProto. A second top receives the softmax."""

    fields = ('source', 'axis', 'ignore_label', 'normalization', 'normalize', 'pre_fixed_normalizer')

    def setup(self, bottom, top):
        if len(bottom) > 2:
            return
        source = self.field('source')
        if source is None:
            raise ValueError('the matrix H must come from a third bottom or a source file')
        proto = caffe_pb2.BlobProto()
        with open(source, 'rb') as f:
            proto.ParseFromString(f.read())
        self.matrix = torch.from_numpy(np.array(blobproto_to_array(proto), np.float32))

    def compute(self, x, label, matrix=None):
        axis, outer, inner = places(x, label, self.field('axis'))
        classes = x.shape[axis]
        matrix = self.matrix.to(x.device) if matrix is None else matrix
        if matrix.numel() != classes * classes:
            raise ValueError(f'H must have {classes} x {classes} values; got the shape {tuple(matrix.shape)}')
        label = label.reshape(-1)
        valid = self.valid(label)
        scores = F.log_softmax(x, axis)
        index = class_index(label, valid, classes, self.field('ignore_label'))
        logs = floor_value(scores, math.log(SMALLEST_PROBABILITY)).movedim(axis, -1).reshape(-1, classes)
        terms = -matrix.reshape(classes, classes)[index] * logs
        if valid is not None:
            terms = torch.where(valid[:, None], terms, 0.0)
        loss = terms.sum() / self.normalizer(outer, inner, valid)
        return (loss, scores.detach().exp()) if self.num_tops > 1 else loss


@layer('SigmoidCrossEntropyLoss', 'loss_param', loss=True, nondiff=(1,))
class SigmoidCrossEntropyLoss(NormalizedLoss):
    """- t log s - (1 - t) log(1 - s) with s = sigmoid(x), summed where t is not ignore_label, over the
    normalizer (default BATCH_SIZE)."""

    fields = ('ignore_label', 'normalization', 'normalize', 'pre_fixed_normalizer')
    default_normalization = 'BATCH_SIZE'

    def compute(self, x, target):
        same_count(x, target)
        target = target.reshape(x.shape)
        valid = self.valid(target)
        terms = F.binary_cross_entropy_with_logits(x, target, reduction='none')
        if valid is not None:
            terms = torch.where(valid, terms, 0.0)
        outer = x.shape[0]
        return terms.sum() / self.normalizer(outer, math.prod(x.shape[1:]), valid)


def same_count(x, target):
    if x.numel() != target.numel():
        raise ValueError(
            'prediction and target must have as many elements; '
            f'got the shapes {tuple(x.shape)} and {tuple(target.shape)}'
        )


@layer('EuclideanLoss', loss=True)
def euclidean_loss(x, target):
    """Sum of (x - target)^2 over 2 N. Gradient to both bottoms."""
    same_count(x, target)
    return (x - target.reshape(x.shape)).square().sum() / (2 * len(x))


@layer('SmoothL1Loss', loss=True, nondiff=(2, 3), strict=False)
def smooth_l1_loss(x, target, inside=None, outside=None, *, sigma):
    """Sum of outside f(inside (x - target)) over N, f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d|
    - 1 / (2 sigma^2). Both weights or none. No gradient to the weights. Girshick, 2015, section 2.3."""
    if inside is not None and outside is None:
        raise ValueError('SmoothL1Loss wants 2 or 4 bottoms; got inside weights without outside weights')
    (target,) = alike(x, target)
    d = x - target
    if inside is not None:
        inside, outside = alike(x, inside, outside)
        d = inside.detach() * d
    terms = F.smooth_l1_loss(d, torch.zeros_like(d), reduction='none', beta=1 / sigma**2)
    return (terms if outside is None else outside.detach() * terms).sum() / len(x)


@layer('HingeLoss', loss=True, nondiff=(1,))
def hinge_loss(x, label, *, norm):
    """Sum over classes of max(0, 1 - s x), s = 1 for the label's class and -1 for others, to the power 1 (L1)
    or 2 (L2), over N."""
    count, classes = len(x), math.prod(x.shape[1:])
    if label.numel() != count:
        raise ValueError(f'{count} samples want as many labels; got {label.numel()}')
    index = as_index(label.reshape(-1, 1), classes, 'label')
    scores = x.reshape(count, classes)
    margins = F.relu(1 + scores * torch.ones_like(scores).scatter(1, index, -1.0))
    return (margins if norm == 'L1' else margins.square()).sum() / count


@layer('MultinomialLogisticLoss', loss=True, nondiff=(1,))
def multinomial_logistic_loss(p, label):
    """- log p[label], summed over N; p are probabilities, held to at least 1e-20."""
    if label.numel() != len(p):
        raise ValueError(f'{len(p)} samples want as many labels; got {label.numel()}')
    p = p.flatten(1)
    chosen = p.gather(1, as_index(label.reshape(-1, 1), p.shape[1], 'label'))
    return -floor_value(chosen, SMALLEST_PROBABILITY).log().sum() / len(p)


@layer('ContrastiveLoss', loss=True, nondiff=(2,), strict=False)
def contrastive_loss(a, b, similar, *, margin, legacy_version):
    """d^2 for similar pairs (label not 0), max(0, margin - d)^2 for others (legacy_version: max(0, margin -
    d^2)), summed over 2 N; d is the distance of the rows of a and b. Hadsell et al., 2006."""
    if a.shape != b.shape or similar.numel() != len(a):
        raise ValueError('ContrastiveLoss wants two bottoms of one shape (N, C) and N labels')
    squared = (a - b).flatten(1).square().sum(1)
    gap = margin - (squared if legacy_version else sqrt_by_hand(squared, 1e-4))
    apart = F.relu(gap) if legacy_version else F.relu(gap).square()
    return torch.where(similar.reshape(-1).long() != 0, squared, apart).sum() / (2 * len(a))


@layer('Accuracy', nondiff=(0, 1))
def accuracy(x, label, *, top_k, axis, ignore_label, num_tops):
    """The share of places where fewer than top_k other classes score at least as high as the label's; a
    second top receives it for each class. Labels equal to ignore_label do not count; nothing to count gives
    0."""
    axis, _, _ = places(x, label, axis)
    classes = x.shape[axis]
    if not 1 <= top_k <= classes:
        raise ValueError(f'top_k {top_k} is not in 1..{classes}')
    scores, label = x.movedim(axis, -1).reshape(-1, classes), label.reshape(-1)
    index = as_index(label, classes, 'label', ignore_label)
    valid = torch.ones_like(index, dtype=torch.bool) if ignore_label is None else index != ignore_label
    index = torch.where(valid, index, 0)
    others = (scores >= scores.gather(1, index[:, None])).sum(1) - 1
    right = ((others < top_k) & valid).to(x.dtype)
    overall = right.sum() / valid.sum().clamp(min=1)
    if num_tops == 1:
        return overall
    count = lambda what: x.new_zeros(classes).index_add(0, index, what.to(x.dtype))
    return overall, count(right) / count(valid).clamp(min=1)
