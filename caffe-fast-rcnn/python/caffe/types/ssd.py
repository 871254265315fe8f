"""Layers of SSD nets: Permute, Normalize, PriorBox, DetectionOutput. The loss is in multibox.

Liu et al., SSD: Single Shot MultiBox Detector, 2016. Shapes: N images, K classes, P priors, L = 1 box per
prior with share_location, else K. Boxes are rows x1 y1 x2 y2 relative to the image: 0..1.
"""

import torch

from ..registry import layer
from ..tape import TorchLayer
from ..proto import caffe_pb2
from .boxes import decode, nms
from .detections import SavedDetections


@layer('Permute', half='follows')
def permute(x, *, order):
    """The axes of x in the given order; those that it does not name follow as they were."""
    if len(set(order)) < len(order) or any(axis >= x.dim() for axis in order):
        raise ValueError(f'order {order} must name different axes of a bottom that has {x.dim()}')
    return x.permute(*order, *(axis for axis in range(x.dim()) if axis not in order))


@layer('Normalize')
class Normalize(TorchLayer):
    """x over its Euclidean length sqrt(sum x^2 + eps), of the sample (across_spatial) or of the channels at
    each place, times a learned scale per channel, (C,), or one for all (channel_shared), (). Liu et al.,
    ParseNet, 2015."""

    fields = ('across_spatial', 'scale_filler', 'channel_shared', 'eps')

    def setup(self, bottom, top):
        filler = (
            self.param.scale_filler
            if self.param.HasField('scale_filler')
            else caffe_pb2.FillerParameter(type='constant', value=1)
        )
        self.add_blob(() if self.field('channel_shared') else bottom[0].shape[1:2], filler)

    def compute(self, x):
        axes = tuple(range(1, x.dim())) if self.field('across_spatial') else 1
        length = (x.square().sum(axes, keepdim=True) + self.field('eps')).sqrt()
        return x / length * self.weights[0].reshape(-1, *[1] * (x.dim() - 2))


@layer('PriorBox', nondiff=(0, 1), strict=False)
class PriorBox(TorchLayer):
    """Priors on an image (., ., height, width), the second bottom, for a feature map (., ., H, W), the first:
    (1, 2, H W A 4), boxes and then variances. Of the bottoms only the sizes are read.

    For each min_size, in pixels: a square of it; one of sqrt(min_size max_size); for each aspect_ratio r
    other than 1, and with flip for 1 / r, the box min_size sqrt(r) x min_size / sqrt(r). Centres lie at
    (i + offset) step. Fractional sizes stay as they are (SSD's own code cuts them to whole pixels).
    """

    fields = (
        'min_size',
        'max_size',
        'aspect_ratio',
        'flip',
        'clip',
        'variance',
        'img_size',
        'img_h',
        'img_w',
        'step',
        'step_h',
        'step_w',
        'offset',
    )

    def setup(self, bottom, top):
        least, most, variance = self.field('min_size'), self.field('max_size'), self.field('variance')
        larger = not most or len(most) == len(least) and all(a < b for a, b in zip(least, most))
        if not least or min(least) <= 0 or not larger:
            raise ValueError(
                f'min_size must be given and positive, max_size larger, one for each or none; '
                f'got {least} and {most}'
            )
        if len(variance) not in (0, 1, 4) or any(v <= 0 for v in variance):
            raise ValueError(f'variance must be given once or four times, each positive; got {variance}')
        self.variance = (variance or (0.1,)) * (1 if len(variance) == 4 else 4)
        self.image, self.step = self.pair('img_size', 'img_h', 'img_w'), self.pair('step', 'step_h', 'step_w')
        self.shapes = self.prior_shapes(least, most)

    def pair(self, both, vertical, horizontal):
        """(vertical, horizontal) from one field or two; None when none is given."""
        one, pair = self.field(both), [self.field(vertical), self.field(horizontal)]
        values = pair if one is None else [one, one]
        if values == [None, None]:
            return None
        if one is not None and pair != [None, None] or not all(v and v > 0 for v in values):
            raise ValueError(
                f'{both}, or {vertical} and {horizontal}, must be positive; got {one} and {pair}'
            )
        return values

    def prior_shapes(self, least, most):
        """(width, height) in pixels of the priors at each place."""
        ratios = []
        for ratio in self.field('aspect_ratio'):
            for r in (ratio, 1 / ratio) if self.field('flip') else (ratio,):
                if all(abs(r - other) >= 1e-6 for other in [1, *ratios]):
                    ratios.append(r)
        shapes = []
        for i, size in enumerate(least):
            shapes.append((size, size))
            if most:
                shapes.append(((size * most[i]) ** 0.5,) * 2)
            shapes += [(size * r**0.5, size / r**0.5) for r in ratios]
        return shapes

    def compute(self, x, image):
        height, width = self.image or image.shape[2:]
        step_y, step_x = self.step or (height / x.shape[2], width / x.shape[3])
        options = {'dtype': torch.float64, 'device': x.device}
        rows, columns = (
            (torch.arange(n, **options) + self.field('offset')) * step
            for n, step in zip(x.shape[2:], (step_y, step_x))
        )
        centre = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), 2)[:, :, None]  # (H, W, 1, 2)
        half = torch.tensor(self.shapes, **options) / 2
        boxes = torch.cat([centre - half, centre + half], 3) / torch.tensor([width, height] * 2, **options)
        boxes = boxes.clamp(0, 1) if self.field('clip') else boxes
        variances = torch.tensor(self.variance, **options).expand_as(boxes)
        return torch.stack([boxes, variances]).reshape(1, 2, -1).to(x.dtype)


def split_priors(prior):
    """A bottom of PriorBoxes (1, 2, P 4) as boxes and variances, each (P, 4)."""
    if prior.dim() < 3 or prior.shape[1] != 2 or prior.numel() % 8:
        raise ValueError(f'priors must have the shape (1, 2, 4 P); got {tuple(prior.shape)}')
    return prior[0].reshape(2, -1, 4)


def split_predictions(loc, conf, count, classes, shared):
    """Predicted codes (N, P, L, 4) and scores (N, P, K) for P = count priors."""
    if not classes:
        raise ValueError('num_classes must be given and positive')
    images, per_prior = len(loc), 1 if shared else classes
    if loc.numel() != images * count * per_prior * 4 or conf.numel() != images * count * classes:
        raise ValueError(
            f'{count} priors and {classes} classes want {images} x {count * per_prior * 4} '
            f'locations and {images} x {count * classes} scores; got the shapes '
            f'{tuple(loc.shape)} and {tuple(conf.shape)}'
        )
    return loc.reshape(images, count, per_prior, 4), conf.reshape(images, count, classes)


@layer('DetectionOutput', nondiff=(0, 1, 2))
class DetectionOutput(TorchLayer):
    """Codes (N, P L 4), scores (N, P K) and priors (1, 2, P 4) to detections (1, 1, D, 7): image, class,
    score, x1, y1, x2, y2, ordered by image, class and falling score. Without any: N rows, -1 but the image.

    For each class but background_label_id: scores above confidence_threshold, the nms_param.top_k best,
    non-maximum suppression; then the keep_top_k best of all classes. -1 or nothing: all.
    """

    fields = (
        'num_classes',
        'share_location',
        'background_label_id',
        'nms_param',
        'code_type',
        'keep_top_k',
        'variance_encoded_in_target',
        'confidence_threshold',
        'save_output_param',
        'visualize',
    )

    def setup(self, bottom, top):
        if self.param.visualize:
            raise ValueError('visualize: this layer shows nothing; take the detections from its top')
        save, self.saved = self.field('save_output_param'), None
        if save.output_directory:
            self.saved = SavedDetections(save, self.param.num_classes, self.field('background_label_id'))
        eta = self.param.nms_param.eta
        if not 0 < eta <= 1:
            raise ValueError(f'nms_param.eta must be above 0 and at most 1; got {eta}')

    def reshape(self, bottom, top):
        top[0].reshape(1, 1, 1, 7)

    def compute(self, loc, conf, prior):
        priors, variances = split_priors(prior)
        codes, scores = split_predictions(
            loc, conf, len(priors), self.param.num_classes, self.param.share_location
        )
        variances = 1 if self.field('variance_encoded_in_target') else variances[:, None]
        boxes = decode(codes, priors[:, None], variances, self.field('code_type'))
        rows = [self.detect(n, b, s) for n, (b, s) in enumerate(zip(boxes.cpu(), scores.cpu()))]
        rows = torch.cat(rows)
        if self.saved:
            self.saved.add(rows.numpy(), len(boxes))
        if not len(rows):
            rows = torch.full((len(boxes), 7), -1.0)
            rows[:, 0] = torch.arange(len(boxes))
        return rows.to(loc).reshape(1, 1, -1, 7)

    def detect(self, image, boxes, scores):
        """Detections (D, 7) of one image from boxes (P, L, 4) and scores (P, K)."""
        found = [torch.empty(0, 7)]
        for label in range(scores.shape[1]):
            if label != self.field('background_label_id'):
                own = boxes[:, 0 if boxes.shape[1] == 1 else label]
                kept = self.keep(own, scores[:, label])
                head = torch.tensor([[image, label]], dtype=scores.dtype).expand(len(kept), 2)
                found.append(torch.cat([head, scores[kept, label, None], own[kept]], 1))
        found, most = torch.cat(found), self.field('keep_top_k')
        if 0 <= most < len(found):
            found = found[found[:, 2].argsort(descending=True, stable=True)[:most]]
            found = found[found[:, 1].argsort(stable=True)]
        return found

    def keep(self, boxes, scores):
        """Indices of the detections of one class."""
        how, least = self.param.nms_param, self.field('confidence_threshold')
        above = torch.arange(len(scores)) if least is None else (scores > least).nonzero()[:, 0]
        order = scores[above].argsort(descending=True, stable=True)
        above = above[order[: how.top_k] if how.HasField('top_k') and how.top_k >= 0 else order]
        return above[nms(boxes[above], how.nms_threshold, eta=how.eta)]
