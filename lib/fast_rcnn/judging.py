"""Regions judged by several looks: pooled again from where they were moved to, at several scales, on mirrored images, by
several nets, all by cfg.TEST (He et al. 2015, arXiv 1512.03385, appendix B).

A look is an image at one scale, mirrored or not; a net sees each once, and keeps the maps that regions are pooled from.
N images, R regions of all of them together, S scales; regions x1 y1 x2 y2 in pixels of the original image, K classes.
"""

import numpy as np
import torch

from fast_rcnn.config import cfg
from fast_rcnn.ensemble import Ensemble, members
from fast_rcnn.inputs import judging_scales, proposing_blobs, put, together
from fast_rcnn.net_classes import of_classes
from fast_rcnn.parts import ROIS, Parts, answers_of
from mask.passes import has_masks
from utils.arrays import fill

MERGES = 'maxout', 'mean', 'nearest'


def wanted(net):
    """Whether cfg.TEST, or the net itself, asks for more than one look at an image's regions."""
    test = cfg.TEST
    return bool(isinstance(net, Ensemble) or test.REFINE or test.FLIP or any(test.REGION_SCALES))


class Judge:
    """One net and N Scaled, of which it may be asked again and again."""

    def __init__(self, net, images, family):
        self.net, self.images, self.family, self.parts = net, images, family, Parts(net)
        self.scales, self.mirrors = judging_scales(), (False, True)[: 1 + cfg.TEST.FLIP]
        self.merge = cfg.TEST.REGION_MERGE if any(cfg.TEST.REGION_SCALES) else 'nearest'
        if self.merge not in MERGES:
            raise ValueError(f'TEST.REGION_MERGE is one of {", ".join(MERGES)}; got {self.merge!r}')
        if self.merge == 'maxout' and len(self.scales) > 1 and not self.parts.features:
            raise ValueError(
                f'net {net.name!r} has no features of regions, after pooling, that its answers depend on alone, so none '
                "whose largest could be taken: wanted TEST.REGION_MERGE 'mean' or 'nearest'"
            )
        self.present, self.kept = None, {}  # the look that the net's blobs are of; what they were of each

    def _look(self, short, mirrored, proposing=False):
        """Lets the net look so: at the image itself once, then at what is kept."""
        if self.present == (short, mirrored):
            return
        self._keep()
        self.present = short, mirrored
        if self.present in self.kept:
            self.parts.look_back(self.kept[self.present])
            return
        looks = [image.look(short, mirrored) for image in self.images]
        blobs = {'data': together(looks, self.family.divisor)}
        if cfg.TEST.HAS_RPN:
            blobs = proposing_blobs(looks, self.family)
        else:
            blobs[ROIS] = np.zeros((0, 5), np.float32)
        put(self.net, blobs)
        self.parts.run(sorted({*self.parts.maps, *(self.parts.proposing if proposing else ())}))

    def _keep(self):
        if self.present and self.present not in self.kept:
            self.kept[self.present] = self.parts.kept()

    def ready_for_masks(self):
        """Leaves the net, if it has masks to make, with the maps of what a Scaled's data shows."""
        if has_masks(self.net):
            self._look(cfg.TEST.SCALES[0], False)

    def proposals(self):
        """[regions (R_i, 4)] of the images, as the net proposes them."""
        looks = [(cfg.TEST.SCALES[0], False)]
        if cfg.TEST.JOIN_PROPOSALS:
            looks = [(short, mirrored) for short in self.scales for mirrored in self.mirrors]
        found = [self._proposed(*look) for look in looks]
        return [np.concatenate(of_image) for of_image in zip(*found)]

    def _proposed(self, short, mirrored):
        self._look(short, mirrored, proposing=True)
        rois, found = self.net.blobs[ROIS].tensor.cpu().numpy().reshape(-1, 5), []
        for i, image in enumerate(self.images):
            regions, size = self.family.looked_at(rois[rois[:, 0] == i, 1:], image.look(short, mirrored))
            regions = self.family.back(regions, size, image.shape)
            found.append(self._mirrored(regions, image.shape[1]) if mirrored else regions)
        return found

    def _mirrored(self, regions, width):
        """Regions (R, 4) in the mirror image, an array or a number for the width of each's image."""
        left = np.array(width - self.family.offset)[..., None] - regions[:, 2::-2]
        return np.column_stack([left[:, :1], regions[:, 1], left[:, 1:], regions[:, 3]]).astype(np.float32)

    def answers(self, regions):
        """Of the regions [(R_i, 4)] of the images -> scores (R, K), boxes (R, 4K or 8), means of the looks."""
        numbers = np.repeat(np.arange(len(regions)), list(map(len, regions)))
        regions = np.concatenate(regions).astype(np.float32)
        seen = [self._answers(regions, numbers, mirrored) for mirrored in self.mirrors]
        return [np.mean(values, 0, dtype=np.float32) for values in zip(*seen)]

    def _answers(self, regions, numbers, mirrored):
        widths = np.array([image.shape[1] for image in self.images])[numbers]
        placed = self._mirrored(regions, widths) if mirrored else regions
        factors = np.array([[i.look(s, mirrored).scales[0] for i in self.images] for s in self.scales])
        sides = np.sqrt(np.maximum(self.family.sides(regions), 0).prod(1)) * factors[:, numbers]  # (S, R)
        at = suiting(sides, self.merge)
        judge = self._by_features if self.merge == 'maxout' and len(self.scales) > 1 else self._by_answers
        scores, boxes = judge(placed, numbers, at, mirrored)
        if mirrored:
            back = self._mirrored(boxes.reshape(-1, 4), np.repeat(widths, boxes.shape[1] // 4))
            boxes = back.reshape(boxes.shape)
        return scores, boxes

    def _by_answers(self, placed, numbers, at, mirrored):
        """Means over the scales that suit each region."""
        sums = None
        for s, short in enumerate(self.scales):
            rows = np.flatnonzero(at[s])
            self._pool(placed[rows], numbers[rows], (short, mirrored), self.parts.outputs)
            found = self._found(placed[rows], numbers[rows], (short, mirrored))
            sums = sums or [np.zeros((len(placed), values.shape[1]), np.float32) for values in found]
            for total, values in zip(sums, found):
                total[rows] += values
        return [total / np.maximum(at.sum(0), 1).astype(np.float32)[:, None] for total in sums]

    def _by_features(self, placed, numbers, at, mirrored):
        """By the largest of each feature over the scales that suit each region."""
        largest = {}
        for s, short in enumerate(self.scales):
            rows = np.flatnonzero(at[s])
            self._pool(placed[rows], numbers[rows], (short, mirrored))
            for name in self.parts.features:
                values = self.net.blobs[name].tensor
                if name not in largest:
                    largest[name] = values.new_full((len(placed), *values.shape[1:]), -torch.inf)
                here = torch.from_numpy(rows).to(values.device)
                largest[name][here] = torch.maximum(largest[name][here], values)
        for name, values in largest.items():
            fill(self.net.blobs[name], values)
        self.parts.run(self.parts.outputs)
        return self._found(placed, numbers, (cfg.TEST.SCALES[0], False))

    def _pool(self, placed, numbers, look, then=()):
        """Lets the net look at these regions, and run what comes `then`, too."""
        self._look(*look)
        rois = np.column_stack([numbers, placed]).astype(np.float32)
        for i, image in enumerate(self.images):
            rois[numbers == i, 1:] = self._shown(placed[numbers == i], image, image.look(*look))
        self.net.blobs[ROIS].put(rois)
        self.parts.run(sorted([*self.parts.pooling, *then]))

    def _shown(self, placed, image, seen):
        """Regions (R, 4) of an image where a look at it shows them."""
        scale, size = seen.scales[0], seen.data.shape[2:]
        return self.family.shown(placed.astype(np.float64), image.shape, size, scale).astype(np.float32)

    def _found(self, placed, numbers, look):
        """What the net now answers of regions (R, 4): scores (R, K), boxes (R, 4K or 8), moved as in that look."""
        found = [self.net.blobs[name].tensor.cpu().numpy() for name in answers_of(self.net)]
        scores, *deltas = [values.reshape(values.shape[:2]) for values in found]
        if not deltas:
            return scores.copy(), np.tile(placed, (1, 2 if cfg.TEST.AGNOSTIC else scores.shape[1]))
        boxes = np.zeros_like(deltas[0])
        for i, image in enumerate(self.images):
            rows, seen = numbers == i, image.look(*look)
            rois, size = self.family.looked_at(self._shown(placed[rows], image, seen), seen)
            boxes[rows] = self.family.back(self.family.moved(rois, deltas[0][rows], size), size, image.shape)
        return scores.copy(), boxes


def suiting(sides, merge):
    """sides (S, R): of each region at each scale, ascending, in pixels -> at which it is looked at, (S, R) bool: see
    cfg.TEST.REGION_MERGE."""
    count, regions = sides.shape
    scales = np.arange(count)[:, None]
    if merge == 'nearest':
        return scales == np.abs(sides**2 - cfg.TEST.REGION_SIDE**2).argmin(0)
    lower = np.clip((sides < cfg.TEST.REGION_SIDE).sum(0) - 1, 0, max(count - 2, 0))
    return (scales == lower) | (scales == np.minimum(lower + 1, count - 1))


def judged(net, images, family, boxes=None):
    """N Scaled, with looks, and N arrays of boxes (R_i, 4) in the family's terms unless cfg.TEST.HAS_RPN -> of each image
    scores (R_i', K) and boxes (R_i', 4K or 8) by all nets, looks and refinements that cfg.TEST asks for, R_i' regions:
    with refinement the first ones, then, as many, those they were moved to."""
    if cfg.TEST.REFINE and not cfg.TEST.BBOX_REG:
        raise ValueError('TEST.REFINE pools from where boxes are moved to: it wants TEST.BBOX_REG')
    judges = [Judge(member, images, family) for member in members(net)]
    regions = boxes
    if cfg.TEST.HAS_RPN:
        regions = [np.concatenate(of_image) for of_image in zip(*(judge.proposals() for judge in judges))]
    found = []
    for _ in range(1 + cfg.TEST.REFINE):
        scores, moved = means(judge.answers(regions) for judge in judges)
        ends = np.cumsum([len(of_image) for of_image in regions])[:-1]
        found.append(list(zip(np.split(scores, ends), np.split(moved, ends))))
        regions = np.split(of_best_class(scores, moved), ends)
    for judge in judges:
        judge.ready_for_masks()
    return [tuple(map(np.concatenate, zip(*of_image))) for of_image in zip(*found)]


def means(answers):
    """Means of the scores and of the boxes that several nets give. ValueError where they are of different shapes."""
    answers = list(answers)
    shapes = {tuple(values.shape[1] for values in answer) for answer in answers}
    if len(shapes) > 1:
        raise ValueError(f'nets that are asked together have as many scores and box columns; got {shapes}')
    return [np.mean(values, 0, dtype=np.float32) for values in zip(*answers)]


def of_best_class(scores, boxes):
    """Of each region the box (R, 4) of its best class that is not the background."""
    return of_classes(boxes, scores.shape[1], np.arange(len(boxes)), scores[:, 1:].argmax(1) + 1)
