"""Evaluation over an imdb: every image detected on, the detections kept on disk, mean average precision."""

import functools
import hashlib
import os

import caffe
import numpy as np
from caffe.watch import busy, waiting
from caffe.parallel import share

from fast_rcnn.board import iteration_of, write_test
from fast_rcnn.config import cfg, get_output_dir
from fast_rcnn.detection import by_number, find, suppressed
from fast_rcnn.drawing import listed, show
from fast_rcnn.ensemble import members
from fast_rcnn.inputs import looked_at_image
from fast_rcnn.each_image import Steps, each_image
from fast_rcnn.masks import COLUMNS, packed, unpacked
from fpn.boxes import family_of_net
from mask.passes import has_masks
from utils.proposals import save_detections
from utils.shards import open_shards, remove_shards

VIS_THRESH = 0.3  # the least score that is shown


def test_net(net, imdb, max_per_image=None, thresh=None, vis=False, step=None):
    """Detect on every image of imdb, each rank on its own, write detections.npz (with cfg.TEST.DETECTIONS_PKL,
    detections.pkl too) to its output folder, evaluate -> mean AP, on every rank. Goes on where it stopped. net: one, or an
    Ensemble.

    Kept per image: scores > thresh, after NMS within each class the max_per_image best (0: all). vis shows
    each image's detections with matplotlib. None: cfg.TEST.MAX_PER_IMAGE, cfg.TEST.SCORE_THRESH. step: what TensorBoard
    shows as the iteration, where cfg.TENSORBOARD is on; None: the one in the net's name.
    """
    max_per_image = cfg.TEST.MAX_PER_IMAGE if max_per_image is None else max_per_image
    thresh = cfg.TEST.SCORE_THRESH if thresh is None else thresh
    for member in members(net):
        check_classes(member, imdb)

    masks = any(map(has_masks, members(net)))

    def run(numbers, images):
        boxes = None if cfg.TEST.HAS_RPN else [_given_boxes(imdb, i) for i in numbers]
        return find(net, images, max_per_image, thresh, boxes)

    def finish(found):
        return [_rows(of_image) for of_image in found()]

    def shown(im, rows):
        rows, rles = unpacked(rows, *im.shape[:2]) if masks else (rows, None)
        parts = [
            by_number(part, rows[:, 0], imdb.num_classes) for part in (rows[:, 1:], rles) if part is not None
        ]
        show(im, listed(parts[0], imdb.classes, VIS_THRESH, *parts[1:]), imdb.classes)

    steps = Steps(
        functools.partial(looked_at_image, family=family_of_net(net)), run, finish, shown if vis else None
    )
    stem, title = os.path.join(get_output_dir(imdb, net), 'detections'), f'detection on {imdb.name}'
    decides = max_per_image, thresh, vis, _given_digest(imdb)
    each_image(net, imdb, stem, steps, COLUMNS, max_per_image, title, *decides)
    step = iteration_of(net.name) if step is None else step
    mean_ap = _evaluated(imdb, stem, step, masks) if caffe.solver_rank() == 0 else None
    with waiting():
        return share(mean_ap)


def _rows(found):
    """A Kept -> (n, 6) class x1 y1 x2 y2 score, by class; boxes as datasets have them. With masks: as fast_rcnn.masks packs
    them."""
    boxes, scores = found.answer.family.datasets(found.dets[:, :4]), found.dets[:, 4]
    rows = np.column_stack([found.classes, boxes, scores])
    return rows if found.masks is None else packed(rows, found.rles())


def _evaluated(imdb, stem, step, masks=False):
    """Joins all ranks' detections into the files that are kept -> mean AP."""
    with busy('evaluation'):
        rows, more = open_shards(stem, COLUMNS, caffe.solver_count(), imdb.num_images), {}
        if masks:
            sizes = [imdb.image_size_at(i)[::-1] for i in range(imdb.num_images)]
            rows, rles = zip(*(unpacked(of_image, *size) for of_image, size in zip(rows, sizes)))
            more = {'masks': _masks_by_class(rows, rles, imdb.num_classes)}
        all_boxes = _by_class(rows, imdb.num_classes)
        save_detections(f'{stem}.npz', all_boxes, **more)
        if cfg.TEST.DETECTIONS_PKL:
            save_detections(f'{stem}.pkl', all_boxes)
        given = more if masks and imdb.scores_masks else {}
        mean_ap = imdb.evaluate_detections(all_boxes, os.path.dirname(stem), **given)
        if cfg.TENSORBOARD:
            write_test(os.path.dirname(stem), step, imdb, all_boxes, mean_ap, **more)
    remove_shards(stem)
    return mean_ap


def _given_boxes(imdb, i):
    """The boxes of image i that are no objects (R, 4), for a net without an RPN."""
    entry = imdb.roidb[i]
    return entry['boxes'][entry['gt_classes'] == 0]


def _given_digest(imdb):
    """Of the boxes that are given to this rank's images."""
    digest = hashlib.sha256()
    if not cfg.TEST.HAS_RPN:
        for i in range(caffe.solver_rank(), imdb.num_images, caffe.solver_count()):
            digest.update(_given_boxes(imdb, i))
    return digest.hexdigest()


def _by_class(rows, num_classes):
    """rows: of each image (n, 6) class x1 y1 x2 y2 score, by class -> all_boxes[class][image], (n, 5)."""
    nothing = np.zeros((0, 5), np.float32)
    all_boxes = [[nothing] * len(rows) for _ in range(num_classes)]
    for i, of_image in enumerate(rows):
        classes, starts = np.unique(of_image[:, 0], return_index=True)
        for j, boxes in zip(classes.astype(int), np.split(of_image[:, 1:].copy(), starts[1:])):
            all_boxes[j][i] = boxes
    return all_boxes


def _masks_by_class(rows, rles, num_classes):
    """As _by_class, of the RLEs of those rows: lists."""
    parts = [by_number(found, of_image[:, 0], num_classes) for of_image, found in zip(rows, rles)]
    return [list(of_class) for of_class in zip(*parts)]


def check_classes(net, imdb):
    """ValueError unless the net scores as many classes as the imdb has."""
    if 'cls_prob' not in net.blobs:
        raise ValueError(f'net {net.name!r} is no detector: it has no blob cls_prob')
    scored = net.blobs['cls_prob'].shape[1]
    if scored != imdb.num_classes:
        raise ValueError(
            f'net {net.name!r} scores {scored} classes (background included), {imdb.name} has '
            f'{imdb.num_classes}: {", ".join(imdb.classes)}'
        )


def apply_nms(all_boxes, thresh):
    """NMS (cfg.TEST.SOFT_NMS: Soft-NMS) on all_boxes[class][image] (n, 5) -> the same, suppressed; boxes without
    area are dropped."""
    return [_suppressed(of_class, thresh) for of_class in all_boxes]


def _suppressed(of_images, thresh):
    of_images = [np.asarray(dets, np.float32).reshape(-1, 5) for dets in of_images]
    of_images = [dets[(dets[:, 2] > dets[:, 0]) & (dets[:, 3] > dets[:, 1])] for dets in of_images]
    starts = np.cumsum([0, *map(len, of_images)])
    dets, images = suppressed(np.concatenate([np.zeros((0, 5), np.float32), *of_images]), starts, thresh)
    return by_number(dets, images, len(of_images))
