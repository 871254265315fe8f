"""Evaluation over an imdb: every image detected on, the detections kept on disk, mean average precision."""

import hashlib
import os

import caffe
import numpy as np
from caffe.launch import busy, waiting
from caffe.parallel import share

from fast_rcnn.config import cfg, get_output_dir
from fast_rcnn.detection import detections, im_detect, suppressed
from fast_rcnn.drawing import listed, show
from fast_rcnn.each_image import each_image
from utils.proposals import save_detections
from utils.shards import open_shards, remove_shards

VIS_THRESH = 0.3  # the least score that is shown


def test_net(net, imdb, max_per_image=100, thresh=0.05, vis=False):
    """Detect on every image of imdb, each rank on its own, write detections.npz (with cfg.TEST.DETECTIONS_PKL,
    detections.pkl too) to its output folder, evaluate -> mean AP, on every rank. Goes on where it stopped.

    Kept per image: scores > thresh, after NMS within each class the max_per_image best (0: all). vis shows
    each image's detections with matplotlib.
    """
    check_classes(net, imdb)
    given = (lambda i: None) if cfg.TEST.HAS_RPN else (lambda i: _given_boxes(imdb.roidb[i]))

    def answer(i, im):
        found = detections(*im_detect(net, im, given(i)), max_per_image, thresh)
        if vis:
            show(im, listed(found, imdb.classes, VIS_THRESH), imdb.classes)
        return np.column_stack([np.repeat(range(len(found)), list(map(len, found))), np.vstack(found)])

    output_dir, digest, mean_ap = get_output_dir(imdb, net), hashlib.sha256(), None
    for i in () if cfg.TEST.HAS_RPN else range(caffe.solver_rank(), imdb.num_images, caffe.solver_count()):
        digest.update(given(i).tobytes())
    stem, title = os.path.join(output_dir, 'detections'), f'detection on {imdb.name}'
    each_image(net, imdb, stem, answer, 6, max_per_image, title, max_per_image, thresh, digest.hexdigest())
    if caffe.solver_rank() == 0:
        with busy('evaluation'):
            all_boxes = _by_class(
                open_shards(stem, 6, caffe.solver_count(), imdb.num_images), imdb.num_classes
            )
            for extension in ('npz', 'pkl') if cfg.TEST.DETECTIONS_PKL else ('npz',):
                save_detections(f'{stem}.{extension}', all_boxes)
            mean_ap = imdb.evaluate_detections(all_boxes, output_dir)
        remove_shards(stem)
    with waiting():
        return share(mean_ap)


def _given_boxes(entry):
    """The boxes of a roidb entry that are no objects."""
    return entry['boxes'][entry['gt_classes'] == 0]


def _by_class(rows, num_classes):
    """rows: of each image (n, 6) class x1 y1 x2 y2 score -> all_boxes[class][image], (n, 5)."""
    nothing = np.zeros((0, 5), np.float32)
    all_boxes = [[nothing] * len(rows) for _ in range(num_classes)]
    for i, of_image in enumerate(rows):
        for j in np.unique(of_image[:, 0]).astype(int):
            all_boxes[j][i] = of_image[of_image[:, 0] == j, 1:]
    return all_boxes


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
    return [[_suppressed(dets, thresh) for dets in of_class] for of_class in all_boxes]


def _suppressed(dets, thresh):
    dets = np.asarray(dets, np.float32).reshape(-1, 5)
    return suppressed(dets[(dets[:, 2] > dets[:, 0]) & (dets[:, 3] > dets[:, 1])], thresh)
