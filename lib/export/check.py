"""onnxruntime's answers beside ours: differences on a dataset's pictures, and the mean AP of both.

D detections of a picture: labels (D,), boxes (D, 4) as datasets have them, scores (D,), masks (D, H, W) or None.
"""

import contextlib
import io
import tempfile
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from fast_rcnn.config import cfg, overrides
from fast_rcnn.detection import by_number, find
from fast_rcnn.inputs import looked_at_image
from fpn.boxes import family_of_net
from rpn.generate import im_proposals
from utils.blob import read_image
from utils.progress import progress

NEAR = 1.0, 0.01  # pixels and score within which two detections are one
TIE = 1e-5  # so far apart are equal scores, once both have rounded


class Found(NamedTuple):
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None


def session(path, threads=0):
    """onnxruntime's session of a file, on the CPU. threads: 0 for as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


# ---------------------------------------------------------------------------------------------- one picture


def ours(net, im, given=None):
    """What the engine finds in im (H, W, 3); given (R, 4): the RoIs of a net without an RPN, as datasets have them."""
    family = family_of_net(net)
    if 'cls_prob' not in net.blobs:
        boxes, scores = im_proposals(net, im)
        return Found(np.ones(len(boxes), int), boxes, scores[:, 0])
    most, least = cfg.TEST.MAX_PER_IMAGE, cfg.TEST.SCORE_THRESH
    [kept] = find(net, [looked_at_image(im, family)], most, least, None if given is None else [given])()
    masks = None
    if kept.masks is not None:
        shape = (0, *im.shape[:2])
        masks = coco_mask.decode(kept.rles()).transpose(2, 0, 1) if len(kept.dets) else np.zeros(shape, bool)
    return Found(kept.classes, family.datasets(kept.dets[:, :4]), kept.dets[:, 4], masks)


def theirs(one, net, im, given=None):
    """The same of onnxruntime's session `one`."""
    family = family_of_net(net)
    feed = {'image': im}
    if 'data' in {i.name for i in one.get_inputs()}:
        scaled = looked_at_image(im, family)
        info = np.array([[*scaled.data.shape[2:], scaled.scales[0]]], np.float32)
        feed = {'data': scaled.data, 'im_info': info, 'im_size': np.float32([im.shape[:2]])}
    if given is not None:
        feed['rois'] = np.float32(given) + np.float32([0, 0, 1, 1])
    found = dict(zip((o.name for o in one.get_outputs()), one.run(None, feed)))
    boxes = found['boxes'] - np.float32([0, 0, 1, 1])  # datasets include the last pixel
    return Found(found.get('labels', np.ones(len(boxes), int)), boxes, found['scores'], found.get('masks'))


# ---------------------------------------------------------------------------------------------- differences


class Differences:
    """pairs of detections that are one, and how far these are apart at the most: pixels, score, and share of a mask's pixels.
    ties: of one class and score, but of other boxes: RoIs whose features are the same to the last bit, of which suppression keeps
    the one that was sorted first. alone: scores of those that only one of both has."""

    def __init__(self):
        self.pairs, self.ties, self.alone = 0, 0, []
        self.pixels = self.score = self.mask = 0.0

    def add(self, a, b):
        """Two Found of a picture."""
        left, single = set(range(len(b.labels))), []
        for i in np.argsort(-a.scores, kind='stable').tolist():
            near = [(self._apart(a, i, b, j), j) for j in left if b.labels[j] == a.labels[i]]
            (pixels, score), j = min(near, default=((np.inf, np.inf), -1))
            if pixels > NEAR[0] or score > NEAR[1]:
                single.append(i)
                continue
            left.remove(j)
            self.pairs += 1
            self.pixels, self.score = max(self.pixels, pixels), max(self.score, score)
            if a.masks is not None:
                self.mask = max(self.mask, _differing(a.masks[i], b.masks[j]))
        for i in single:
            same = [j for j in left if b.labels[j] == a.labels[i] and abs(a.scores[i] - b.scores[j]) < TIE]
            self.ties += bool(same)
            left -= set(same[:1])
            self.alone += [] if same else [float(a.scores[i])]
        self.alone += [float(b.scores[j]) for j in left]

    @staticmethod
    def _apart(a, i, b, j):
        return float(np.abs(a.boxes[i] - b.boxes[j]).max()), float(abs(a.scores[i] - b.scores[j]))

    def __str__(self):
        mask = f', {self.mask:.2%} of a mask' if self.mask else ''
        text = f'{self.pairs} detections of both; largest difference {self.pixels:.2g} pixels, score {self.score:.2g}{mask}'
        best = f', the best of them scored {max(self.alone):.3f}' if self.alone else ''
        return f'{text}; {self.ties} ties that fell the other way; {len(self.alone)} of one alone{best}'


def _differing(a, b):
    either = np.logical_or(a, b).sum()
    return float(np.logical_xor(a, b).sum() / either) if either else 0.0


# ---------------------------------------------------------------------------------------------- a dataset


def compare(net, one, data, given=None):
    """Both on all pictures of an imdb: the Differences, and the lists of Found, ours and theirs. given(i): the RoIs of image i."""
    differences, pairs = Differences(), []
    title = f'both on {data.name}'
    with overrides({'DEDUP_BOXES': 0.0}):
        for i in progress(range(data.num_images), title, data.num_images):
            im, rois = read_image(data.image_path_at(i)), None if given is None else given(i)
            pairs.append((ours(net, im, rois), theirs(one, net, im, rois)))
            differences.add(*pairs[-1])
    return differences, *map(list, zip(*pairs))


def mean_ap(data, found):
    """Of the Found of all pictures of an imdb."""
    number = data.num_classes
    rows = [np.column_stack([one.boxes, one.scores]).astype(np.float32) for one in found]
    order = [np.argsort(one.labels, kind='stable') for one in found]
    parts = [by_number(part[o], one.labels[o], number) for part, o, one in zip(rows, order, found)]
    more = {}
    if data.scores_masks and found[0].masks is not None:
        rles = [[_rle(mask) for mask in one.masks[o]] for one, o in zip(found, order)]
        of_images = [by_number(part, one.labels[o], number) for part, o, one in zip(rles, order, found)]
        more = {'masks': [list(of_class) for of_class in zip(*of_images)]}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        mean = data.evaluate_detections([list(of_class) for of_class in zip(*parts)], folder, **more)
    return mean, (data.reported[-1]['mean_ap'] if more else None)


def _rle(mask):
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


# ---------------------------------------------------------------------------------------------- a plain net


def compare_blobs(net, one, seed=0):
    """{output: the largest difference} of a net and a session on random inputs; where their sizes may vary, of twice the
    size as well."""
    random, names = np.random.default_rng(seed), [i.name for i in one.get_inputs()]
    free = {i.name: [isinstance(size, str) for size in i.shape] for i in one.get_inputs()}
    shapes, apart = {name: tuple(net.blobs[name].shape) for name in names}, {}
    for times in (1, 2) if any(map(any, free.values())) else (1,):
        for name, shape in shapes.items():
            net.blobs[name].reshape(*(n * times if vary else n for n, vary in zip(shape, free[name])))
            net.blobs[name].data[...] = random.standard_normal(net.blobs[name].shape)
        feed = {name: net.blobs[name].data.copy() for name in names}
        net.forward()
        for output, values in zip(one.get_outputs(), one.run(None, feed)):
            difference = float(np.abs(net.blobs[output.name].data - values).max(initial=0))
            apart[output.name] = max(apart.get(output.name, 0.0), difference)
    return apart
