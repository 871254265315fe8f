"""MultiBoxLoss, the loss of SSD: matching of priors and objects, choice of hard examples, loss of locations
and classes.

Liu et al., SSD: Single Shot MultiBox Detector, 2016, section 2.2. Shapes: N images, K classes, P priors, T
objects of all images, M matches, L = 1 box per prior with share_location, else K. Boxes are rows x1 y1 x2 y2
relative to the image: 0..1.

Which prior goes with which object is decided in numpy, outside autograd; the loss of the chosen is one
expression in torch.
"""

import typing

import numpy as np
import torch
import torch.nn.functional as F

from ..registry import layer
from .boxes import decode, encode, nms, overlaps
from .helpers import as_index, floor_value
from .loss import LOG_FLT_MIN, NormalizedLoss
from .ssd import split_predictions, split_priors

NOBODY, IGNORED = -1, -2  # for an object's index: a prior without one; one that is no negative either


class Batch(typing.NamedTuple):
    """What a net and its data say of a batch."""

    codes: torch.Tensor  # (N, P, L, 4)
    scores: torch.Tensor  # (N, P, K)
    priors: torch.Tensor  # (P, 4)
    variances: torch.Tensor  # (P, 4)
    truth: torch.Tensor  # (T, 8)


@layer('MultiBoxLoss', 'multibox_loss_param', 'loss_param', loss=True, nondiff=(2, 3))
class MultiBoxLoss(NormalizedLoss):
    """Codes (N, P L 4), scores (N, P K), priors (1, 2, P 4) and objects (1, 1, T, 8: image, class, -, x1, y1,
    x2, y2, difficult; image -1: none) to (loc_weight * location loss + class loss) / normalizer: the number
    of matches (VALID), N P (FULL), N (BATCH_SIZE) or 1 (NONE).

    1. match: each object takes the prior (or predicted box) that overlaps it most; PER_PREDICTION: further
       priors the object that they overlap most, from overlap_threshold on
    2. mine by loss: MAX_NEGATIVE neg_pos_ratio negatives for each match, among priors that overlap every
       object less than neg_overlap; HARD_EXAMPLE the sample_size priors of the image with the largest
       location and class loss, others drop out; NONE all priors
    3. sum the location loss of matches and the class loss of matches and negatives
    A loss whose propagate_down is false does not count. An image without objects has no negatives, but with
    NONE. The gradient is that of this sum, also with encode_variance_in_target.
    """

    fields = (
        'loc_loss_type',
        'conf_loss_type',
        'loc_weight',
        'num_classes',
        'share_location',
        'match_type',
        'overlap_threshold',
        'use_prior_for_matching',
        'background_label_id',
        'use_difficult_gt',
        'do_neg_mining',
        'neg_pos_ratio',
        'neg_overlap',
        'code_type',
        'encode_variance_in_target',
        'map_object_to_agnostic',
        'ignore_cross_boundary_bbox',
        'bp_inside',
        'mining_type',
        'nms_param',
        'sample_size',
        'use_prior_for_nms',
        'normalization',
        'normalize',
        'pre_fixed_normalizer',
    )

    refuses_zeros = True  # no object has the class of the background

    def setup(self, bottom, top):
        param, mining = self.param, self.field('mining_type')
        if not param.num_classes:
            raise ValueError('num_classes must be given and positive')
        if param.HasField('do_neg_mining') and param.do_neg_mining != (mining != 'NONE'):
            raise ValueError(f'do_neg_mining {param.do_neg_mining} contradicts mining_type {mining}')
        if mining != 'NONE' and not param.share_location:
            raise ValueError(f'mining_type {mining} wants share_location')
        if mining == 'HARD_EXAMPLE' and param.sample_size <= 0:
            raise ValueError(f'sample_size must be positive; got {param.sample_size}')
        if param.map_object_to_agnostic and param.num_classes != 2:
            raise ValueError(f'map_object_to_agnostic wants num_classes 2; got {param.num_classes}')
        self.counted = list(self.layer_param.propagate_down)[:2] or [True, True]

    def compute(self, loc, conf, prior, truth):
        priors, variances = split_priors(prior)
        codes, scores = split_predictions(
            loc, conf, len(priors), self.param.num_classes, self.param.share_location
        )
        if truth.shape[-1] != 8:
            raise ValueError(f'objects must be rows of 8 numbers; got the shape {tuple(truth.shape)}')
        if loc.is_meta:
            return loc.new_zeros(())
        batch = Batch(codes, scores, priors, variances, self.objects(truth.reshape(-1, 8), len(loc)))
        with torch.no_grad():
            match, most = self.match(batch)
            used = self.mine(batch, match, most)
        loss = loc.new_zeros(())
        if self.counted[0]:
            loss = loss + self.param.loc_weight * self.location_terms(batch, match).sum()
        if self.counted[1]:
            loss = loss + self.class_terms(scores, self.labels(batch, match))[used].sum()
        return loss / self.normalizer(len(loc), len(priors), torch.from_numpy(match >= 0).to(loc.device))

    def objects(self, truth, images):
        """The rows of `truth` that count. ValueError names one that cannot be."""
        truth = truth[truth[:, 0] >= 0]
        if not self.param.use_difficult_gt:
            truth = truth[truth[:, 7] == 0]
        image, label = truth[:, :2].cpu().T  # on the host, where matching takes them
        as_index(image, images, 'image number of an object')
        if (as_index(label, 2**31, 'class of an object') == self.param.background_label_id).any():
            raise ValueError(f'an object has the class of the background, {self.param.background_label_id}')
        return truth

    # 1. matching

    def match(self, batch):
        """The object of each prior, an index into batch.truth, NOBODY or IGNORED; and its overlap with that
        object, or the most with any: numpy, (N, P, L)."""
        image, label = batch.truth[:, :2].cpu().numpy().astype(int).T
        match, most = np.full(batch.codes.shape[:3], NOBODY), np.zeros(batch.codes.shape[:3])
        for n in range(len(match)):
            here = np.flatnonzero(image == n)
            once = self.assign(batch.priors, batch, here) if self.param.use_prior_for_matching else None
            for l in range(match.shape[2]):
                own = here if self.param.share_location else here[label[here] == l]
                boxes = None if once else self.decode(batch, batch.codes[n, :, l])
                found, most[n, :, l] = once or self.assign(boxes, batch, own)
                match[n, :, l] = np.where((found < 0) | np.isin(found, own), found, NOBODY)
        return match, most

    def assign(self, boxes, batch, objects):
        """Match `boxes` (P, 4) with the truth's rows `objects`, alone in their image."""
        found, most = np.full(len(boxes), NOBODY), np.zeros(len(boxes))
        if not len(objects):
            return found, most
        common = overlaps(boxes, batch.truth[objects, 3:7]).cpu().numpy()
        if self.param.ignore_cross_boundary_bbox:
            outside = ((boxes < 0) | (boxes > 1)).any(1).cpu().numpy()
            found[outside], common[outside] = IGNORED, 0
        most, best = common.max(1), common.argmax(1)
        pool = np.where(common > 1e-6, common, -1)
        while pool.max() > 0:
            p, o = np.unravel_index(pool.argmax(), pool.shape)
            found[p], most[p] = objects[o], pool[p, o]
            pool[p] = pool[:, o] = -1
        if self.field('match_type') == 'PER_PREDICTION':
            more = (found == NOBODY) & (most > 1e-6) & (most >= self.param.overlap_threshold)
            found[more] = objects[best[more]]
        return found, most

    def decode(self, batch, codes):
        """Boxes (P, 4) from codes (P, 4)."""
        variances = 1 if self.param.encode_variance_in_target else batch.variances
        return decode(codes, batch.priors, variances, self.field('code_type'))

    # 2. mining

    def mine(self, batch, match, most):
        """Which priors the class loss counts, (N, P). HARD_EXAMPLE takes matches away."""
        kind = self.field('mining_type')
        if kind == 'NONE':
            return torch.ones_like(batch.scores[:, :, 0], dtype=torch.bool)
        loss = self.class_terms(batch.scores, self.labels(batch, match)).cpu().numpy()
        if kind == 'HARD_EXAMPLE':
            loss[match[:, :, 0] >= 0] += self.location_terms(batch, match).sum(1).cpu().numpy()
        negative = np.zeros(loss.shape, bool)
        for n in batch.truth[:, 0].unique().long().tolist():
            mine, chosen = match[n, :, 0], np.zeros(loss.shape[1], bool)
            chosen[self.hardest(batch, n, loss[n], mine, most[n, :, 0])] = True
            negative[n] = chosen & (mine == NOBODY)
            if kind == 'HARD_EXAMPLE':
                mine[(mine >= 0) & ~chosen] = NOBODY
        return torch.from_numpy(negative | (match[:, :, 0] >= 0)).to(batch.scores.device)

    def hardest(self, batch, n, loss, match, most):
        """Indices of the priors of image n that mining chooses, matched ones among them with HARD_EXAMPLE."""
        if self.field('mining_type') == 'HARD_EXAMPLE':
            eligible, limit = np.arange(len(loss)), self.param.sample_size
        else:
            eligible = np.flatnonzero((match == NOBODY) & (most < self.param.neg_overlap))
            limit = int((match >= 0).sum() * self.param.neg_pos_ratio)
        order = eligible[np.argsort(-loss[eligible], kind='stable')]
        how = self.param.nms_param
        if self.param.HasField('nms_param') and how.nms_threshold > 0:
            if how.HasField('top_k') and how.top_k >= 0:
                order = order[: how.top_k]
            boxes = batch.priors if self.param.use_prior_for_nms else self.decode(batch, batch.codes[n, :, 0])
            order = order[nms(boxes[order].cpu(), how.nms_threshold, eta=how.eta, limit=limit)]
        return order[:limit]

    # 3. losses

    def labels(self, batch, match):
        """The class (N, P) of each prior: its object's, or the background."""
        classes = batch.truth[:, 1].long()
        if self.param.map_object_to_agnostic:
            classes = torch.full_like(classes, self.param.background_label_id + 1)
        labels = torch.full_like(batch.scores[:, :, 0], self.param.background_label_id, dtype=torch.long)
        for l in range(match.shape[2]):  # the last location's object counts
            n, p = (match[:, :, l] >= 0).nonzero()
            labels[n, p] = classes[match[n, p, l]]
        return labels

    def class_terms(self, scores, labels):
        """The class loss of each prior: scores (N, P, K), labels (N, P) to (N, P)."""
        labels = as_index(labels, self.param.num_classes, 'class of an object')[..., None]
        if self.field('conf_loss_type') == 'SOFTMAX':
            return -floor_value(F.log_softmax(scores, -1).gather(-1, labels), LOG_FLT_MIN)[..., 0]
        target = torch.zeros_like(scores).scatter(-1, labels, 1.0)
        return F.binary_cross_entropy_with_logits(scores, target, reduction='none').sum(-1)

    def location_terms(self, batch, match):
        """The location loss of the four codes of each match, (M, 4)."""
        n, p, l = (match >= 0).nonzero()
        codes, priors, variances = batch.codes[n, p, l], batch.priors[p], batch.variances[p]
        target = encode(batch.truth[match[n, p, l], 3:7], priors, variances, self.field('code_type'))
        scale = variances if self.param.encode_variance_in_target else 1
        difference = codes / scale - target
        if self.param.bp_inside:
            boxes = priors
            if not self.param.use_prior_for_matching:
                boxes = decode(codes, priors, variances / scale, self.field('code_type'))
            difference = torch.where((boxes >= 0) & (boxes <= 1), difference, 0.0)
        if self.field('loc_loss_type') == 'L2':
            return difference.square() / 2
        return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction='none')
