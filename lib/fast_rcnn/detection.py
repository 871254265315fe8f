"""Detection: images through a net, and what is kept of its answers, both as the net's family of boxes (fpn.boxes) has it.

N images of a pass, S scales of each, R RoIs of one, K classes; boxes x1 y1 x2 y2 in pixels of the original image,
scores (R, K), boxes (R, 4K), or (R, 8) of a class-agnostic net: columns 4 to 7 are then the box whatever the class.
"""

import dataclasses
import functools

import numpy as np
import torch

from fast_rcnn.config import cfg
from fast_rcnn.ensemble import members
from fast_rcnn.inputs import CAFFE, forward, given_blobs, looked_at_image, proposing_blobs
from fast_rcnn.judging import judged, wanted
from fast_rcnn.masks import pasted
from fast_rcnn.net_classes import of_classes
from fpn.boxes import Caffe, family_of_net
from fpn.levels import has_levels
from mask.passes import has_masks, kept_rois, masks_of
from nms.soft_nms import soft_nms
from nms.voting import vote
from utils.arrays import leaving


# ---------------------------------------------------------------------------------------------- what a net answers
@dataclasses.dataclass
class Answer:
    """Of an image of this shape: scores (R, K) of RoIs (R, 4), which lie in an image of `size` (None: in this one), and
    deltas (R, 4K or 8) by which these move, in a family's arithmetic; None: they stay where they are (cfg.TEST.BBOX_REG is
    off)."""

    shape: tuple
    scores: np.ndarray
    rois: np.ndarray
    deltas: np.ndarray | None
    family: Caffe = CAFFE
    size: tuple = None

    def __post_init__(self):
        self.size = self.size or self.shape

    def boxes(self):
        """All of them (R, 4K or 8), in the image's pixels."""
        if self.deltas is None:
            boxes = np.tile(self.rois, (1, 2 if cfg.TEST.AGNOSTIC else self.scores.shape[1]))
        else:
            boxes = self.family.moved(self.rois, self.deltas, self.size)
        return self.family.back(boxes, self.size, self.shape)

    def boxes_of(self, rows, classes):
        """Of RoI rows[i] the box of class classes[i] (n, 4), where RoIs lie: those of boxes(), the others not computed."""
        if self.deltas is None:
            return self.rois[rows]
        deltas = of_classes(self.deltas, self.scores.shape[1], rows, classes)
        return self.family.moved(self.rois[rows], deltas, self.size)

    def best(self, max_per_image, thresh):
        """What is kept of them: those of all classes (n, 5) x1 y1 x2 y2 score, in the image's pixels, class by class; the
        class of each (n,)."""
        dets, classes = best(self.scores, self.boxes_of, max_per_image, thresh, self.family)
        return np.hstack([self.family.back(dets[:, :4], self.size, self.shape), dets[:, 4:]]), classes


class Settled(Answer):
    """One whose `rois` are the boxes of all classes (R, 4K or 8), in the image's pixels."""

    def boxes(self):
        return self.rois

    def boxes_of(self, rows, classes):
        return of_classes(self.rois, self.scores.shape[1], rows, classes)


@dataclasses.dataclass
class Kept:
    """What is kept of an Answer: dets (D, 5) x1 y1 x2 y2 score in the image's pixels, class by class, the class of each (D,),
    and of a net with masks these, (D, M, M) of the boxes' cells in 0..1."""

    answer: Answer
    dets: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None

    def rles(self):
        """The masks in the image, D RLEs, where there are masks."""
        edges = self.dets[:, :4] + np.float32([0, 0, 1, 1]) * self.answer.family.offset
        return pasted(self.masks, edges, *self.answer.shape[:2])


def find(net, images, max_per_image, thresh, boxes=None):
    """As ask; a function that gives the Kept of each: above thresh, after NMS, of all classes together the max_per_image best
    (0: all). A net with masks is asked again for those of the boxes that are kept, so that these are waited for."""
    answers = ask(net, images, boxes)

    def found():
        return [Kept(answer, *answer.best(max_per_image, thresh)) for answer in answers()]

    if not any(map(has_masks, members(net))):
        return found
    kept = found()
    masks, ends = _masks_of_all(net, images, kept), np.cumsum([len(one.dets) for one in kept])[:-1]
    return lambda: [dataclasses.replace(one, masks=part) for one, part in zip(kept, np.split(masks(), ends))]


def _masks_of_all(net, images, kept):
    """Masks of what is kept of N Scaled: a function that gives them all (D, M, M)."""
    family = family_of_net(net)
    rois = [kept_rois(one.dets[:, :4], i, image, family) for i, (one, image) in enumerate(zip(kept, images))]
    if wanted(net):  # what the net has looked at last may be another look
        forward(net, proposing_blobs(images, family))
    return masks_of(net, np.concatenate(rois), np.concatenate([one.classes for one in kept]))


def detect(net, im, max_per_image, thresh):
    """What a net that proposes finds in im (H, W, 3) BGR: see detections."""
    return detect_masks(net, im, max_per_image, thresh)[0]


def detect_masks(net, im, max_per_image, thresh):
    """As detect, and by class the RLEs (pycocotools') of those boxes' masks in the image; None of a net without masks."""
    return detect_all(net, [im], max_per_image, thresh)[0]


def detect_all(net, ims, max_per_image, thresh):
    """As detect_masks, of N images in one pass: N pairs."""
    family, pairs = family_of_net(net), []
    for found in find(net, [looked_at_image(im, family) for im in ims], max_per_image, thresh)():
        count = found.answer.scores.shape[1]
        dets = by_number(found.dets, found.classes, count)
        pairs.append((dets, None if found.masks is None else by_number(found.rles(), found.classes, count)))
    return pairs


def im_detect(net, im, boxes=None, masks=False):
    """Scores (R, K) and boxes (R, 4K or 8) of im (H, W, 3) BGR, these in the terms of the net's family.

    boxes (R, 4): the RoIs, as datasets have them, unless cfg.TEST.HAS_RPN: then the net proposes them. masks: a third, those of
    the box of each RoI's best class, (R, M, M) of its cells in 0..1; what is kept after NMS has them pasted into the image by
    detect_masks.
    """
    scores, found = ims_detect(net, [im], None if boxes is None else [boxes])[0]
    if not masks:
        return scores, found
    if not any(map(has_masks, members(net))):
        raise ValueError(f'net {net.name!r} has no masks: it reads no mask_rows')
    image = looked_at_image(im, family_of_net(net))
    classes = scores[:, 1:].argmax(1) + 1
    best_boxes = of_classes(found, scores.shape[1], np.arange(len(found)), classes)
    kept = Kept(None, best_boxes, classes)
    return scores, found, _masks_of_all(net, [image], [kept])()


def ims_detect(net, ims, boxes=None):
    """As im_detect, of N images in one pass -> N pairs (scores, boxes). boxes: N arrays (R, 4). The images are padded to
    the largest: the more alike their shapes, the less is computed in vain."""
    family = family_of_net(net)
    answers = ask(net, [looked_at_image(im, family) for im in ims], boxes)
    return [(answer.scores, answer.boxes()) for answer in answers()]


def ask(net, images, boxes=None):
    """A pass of the net over N Scaled, and N arrays of boxes (R, 4) unless cfg.TEST.HAS_RPN -> a function that gives
    their Answers: any thread may call it, whatever the net does by then. More than a pass where cfg.TEST asks for it, or
    where the net is an Ensemble: see fast_rcnn.judging."""
    family = family_of_net(net)
    if not cfg.TEST.HAS_RPN and boxes is None:
        raise ValueError('im_detect wants boxes, unless cfg.TEST.HAS_RPN')
    if wanted(net):
        given = None if cfg.TEST.HAS_RPN else [family.own(of_image) for of_image in boxes]
        found = zip(images, judged(net, images, family, given), strict=True)
        settled = [Settled(image.shape, *answers, None, family) for image, answers in found]
        return lambda: settled
    if cfg.TEST.HAS_RPN:
        forward(net, proposing_blobs(images, family))
        parts = functools.partial(rois_by_image, leaving(net.blobs['rois']), images, family)
    else:
        step = 0 if has_levels(net) else None  # RoIs of a pyramid are not rounded to one map's cells
        blobs, given = given_blobs(images, [family.own(of_image) for of_image in boxes], family, step)
        forward(net, blobs)
        parts = functools.partial(iter, [(rows, rois, None) for rows, rois in given])
    scores = leaving(net.blobs['cls_score' if cfg.TEST.SVM else 'cls_prob'])
    deltas = leaving(net.blobs['bbox_pred']) if cfg.TEST.BBOX_REG else None

    def answers():
        moves = _rows(deltas()) if deltas else None
        return [
            Answer(image.shape, _rows(scores())[rows], rois, moves[rows] if deltas else None, family, size)
            for image, (rows, rois, size) in zip(images, parts(), strict=True)
        ]

    return answers


def rois_by_image(rois, images, family=CAFFE):
    """rois: a function that gives what a net proposes for N Scaled, (R', 5) with the image's index first -> for each
    image which of them are its own, and these (R, 4) in an image of a size: see looked_at of a family."""
    rois = _rows(rois())
    for i, image in enumerate(images):
        rows = slice(None) if len(images) == 1 else np.flatnonzero(rois[:, 0] == i)
        yield rows, *family.looked_at(rois[rows, 1:5], image)


def _rows(values):
    """(R, n) or (R, n, 1, 1) as (R, n)."""
    return values.reshape(values.shape[:2])


# ---------------------------------------------------------------------------------------------- what is kept
def detections(scores, boxes, max_per_image, thresh):
    """im_detect's result, of a net of Caffe's family -> per class (background: none) (n, 5) x1 y1 x2 y2 score: above
    thresh, after NMS, of all classes together the max_per_image best (0: all)."""
    boxes_of = functools.partial(of_classes, boxes, scores.shape[1])
    return by_number(*best(scores, boxes_of, max_per_image, thresh), scores.shape[1])


def best(scores, boxes_of, max_per_image, thresh, family=CAFFE):
    """As detections, of scores (R, K) and a function that gives boxes as Answer.boxes_of does -> those of all classes
    (n, 5), class by class; the class of each (n,)."""
    classes, rows = np.nonzero(np.ascontiguousarray((scores[:, 1:] > thresh).T))
    classes += 1
    boxes = boxes_of(rows, classes)
    dets, large = np.hstack([boxes, scores[rows, classes][:, None]]), family.large(boxes)
    dets, classes = dets[large], classes[large]
    starts = np.searchsorted(classes, np.arange(scores.shape[1] + 1))
    dets, classes = suppressed(dets, starts, cfg.TEST.NMS, family)
    if 0 < max_per_image < len(dets):
        good = family.highest(dets[:, 4], max_per_image)
        dets, classes = dets[good], classes[good]
    return dets, classes


def suppressed(dets, starts, thresh, family=CAFFE):
    """dets (n, 5), of which class k has those from starts[k] up to starts[k + 1], each class after NMS at IoU thresh,
    or, by cfg.TEST.SOFT_NMS, with the scores it leaves, and moved by cfg.TEST.VOTE -> (m, 5), class by class, best first;
    the class of each (m,)."""
    dets = dets.astype(np.float32)
    if not cfg.TEST.SOFT_NMS:
        kept = family.class_nms(dets, starts, thresh)
        left, classes = dets[kept], np.searchsorted(starts, kept, 'right') - 1
    else:
        how = cfg.TEST.SOFT_NMS, thresh, cfg.TEST.SOFT_NMS_SIGMA, cfg.TEST.SOFT_NMS_MIN_SCORE
        parts = [soft_nms(dets[begin:end], *how) for begin, end in zip(starts, starts[1:])]
        left = np.concatenate([dets[:0], *parts])
        classes = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if cfg.TEST.VOTE:
        of_class = zip(by_number(left, classes, len(starts) - 1), starts, starts[1:])
        parts = [voted(kept, dets[begin:end], family) for kept, begin, end in of_class]
        left = np.concatenate([dets[:0], *parts])
    return left, classes


def voted(kept, dets, family=CAFFE):
    """kept (m, 5) of the dets (n, 5) of a class, each where those say that overlap it by at least cfg.TEST.VOTE."""
    overlaps = family.overlaps(torch.from_numpy(kept[:, :4]), torch.from_numpy(dets[:, :4]))
    return vote(kept, dets, cfg.TEST.VOTE, overlaps.numpy())


def by_number(rows, numbers, count):
    """rows (n, C), of which each belongs to one of `count` numbers that do not fall -> a list of those of each."""
    ends = np.searchsorted(numbers, np.arange(count + 1))
    return [rows[begin:end] for begin, end in zip(ends, ends[1:])]
