"""Evaluation over an imdb: every image detected on, the detections kept on disk, mean average precision."""

import os

import numpy as np

from fast_rcnn.config import cfg, get_output_dir
from fast_rcnn.detection import detections, im_detect, suppressed
from fast_rcnn.drawing import listed, show
from utils.blob import read_image
from utils.progress import progress
from utils.proposals import save_detections

VIS_THRESH = 0.3  # the least score that is shown


def test_net(net, imdb, max_per_image=100, thresh=0.05, vis=False):
    """Detect on every image of imdb, write detections.npz (with cfg.TEST.DETECTIONS_PKL, detections.pkl too) to
    its output folder, evaluate -> mean AP.

    Kept per image: scores > thresh, after NMS within each class the max_per_image best (0: all). vis shows
    each image's detections with matplotlib.
    """
    check_classes(net, imdb)
    roidb = None if cfg.TEST.HAS_RPN else imdb.roidb
    all_boxes = [[None] * imdb.num_images for _ in range(imdb.num_classes)]
    for i in progress(range(imdb.num_images), f'detection on {imdb.name}'):
        im = read_image(imdb.image_path_at(i))
        given = None if roidb is None else roidb[i]['boxes'][roidb[i]['gt_classes'] == 0]
        found = detections(*im_detect(net, im, given), max_per_image, thresh)
        for of_class, boxes in zip(all_boxes, found, strict=True):
            of_class[i] = boxes
        if vis:
            show(im, listed(found, imdb.classes, VIS_THRESH), imdb.classes)
    output_dir = get_output_dir(imdb, net)
    for extension in ('npz', 'pkl') if cfg.TEST.DETECTIONS_PKL else ('npz',):
        save_detections(os.path.join(output_dir, f'detections.{extension}'), all_boxes)
    return imdb.evaluate_detections(all_boxes, output_dir)


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
