"""Detector: a model, pictures in, what is found in them out: the same as tools/predict.py writes.

n detections of a picture (H, W).
"""

import contextlib
import itertools
import os
from typing import NamedTuple

import caffe
import numpy as np
import torch
from pycocotools import mask as coco_mask

from fast_rcnn.config import DEFAULTS, cfg, overrides
from fast_rcnn.detection import detect_all
from fast_rcnn.drawing import listed
from fast_rcnn.evaluation import check_classes
from fast_rcnn.packs import opened
from fast_rcnn.pictures import EXTENSIONS, VIDEOS, Frame, frames, pictures
from fast_rcnn.sidecar import read_sidecar
from fpn.boxes import family_of_net
from pipeline.settings import use_device

THRESH = 0.5


class Detections(NamedTuple):
    """Best first: boxes (n, 4) x1 y1 x2 y2 in pixels, which end at edges; scores (n,); labels, n names; masks (n, H, W) bool,
    None of a net without masks."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: list
    masks: np.ndarray | None


class Detector:
    """path: a .frcnn that tools/pack.py made, or a .caffemodel with its files beside it. device: 'cpu' or the number of a GPU
    (None: a GPU where there is one). batch: pictures in a pass of the net. thresh: the least score. settings: over the
    model's own, {'TEST.NMS': 0.5}. threads: of the CPU (None: as torch has it).

    Settings and threads hold while it is asked, and are then as before; the engine stays on the device. Errors: a file is missing or makes
    no sense (OSError, ValueError); a device is missing (RuntimeError).
    """

    def __init__(self, path, device=None, batch=1, thresh=THRESH, settings=None, threads=None):
        if device is None:
            device = 0 if torch.cuda.is_available() else 'cpu'
        for name, number in ('batch', batch), ('threads', threads):
            if number is not None and number < 1:
                raise ValueError(f'{name}: wanted 1 or more, got {number}')
        self.device, self.batch, self.thresh, self.threads = device, batch, thresh, threads
        with opened(os.fspath(path)) as model:
            known = read_sidecar(model)
            usual = {f'TEST.{key}': value for key, value in DEFAULTS['TEST'].items()}
            self.settings = {**usual, **known.cfg, 'TEST.HAS_RPN': True, **(settings or {})}
            self.classes = known.classes
            with self._settled():
                self.net = caffe.Net(known.prototxt, model, caffe.TEST)
        self.net.name = os.path.splitext(os.path.basename(path))[0]
        check_classes(self.net, known)
        if 'im_info' not in self.net.blobs:
            raise ValueError(f'{path}: this net wants proposals; wanted one that makes its own')

    def __call__(self, images, every=1):
        """images: a picture, (H, W, 3) uint8 BGR or a file's path -> its Detections; a list of these, a folder, a pattern or a
        video, of which each `every`th frame -> a list, one of each picture. A camera, '0', has no end: see each."""
        one = isinstance(images, np.ndarray) or _is_picture(images)
        found = [detections for _, detections in self.each([images] if one else images, every)]
        return found[0] if one else found

    def each(self, images, every=1):
        """As a call with a list, folder, pattern or video, one after the other: pairs of a Frame and its Detections."""
        seen = _frames(images, every)
        while together := list(itertools.islice(seen, self.batch)):
            with self._settled():
                images = [frame.image for frame in together]
                found = detect_all(self.net, images, cfg.TEST.MAX_PER_IMAGE, self.thresh)
            for frame, (boxes, rles) in zip(together, found, strict=True):
                listing = at_edges(self.net, listed(boxes, self.classes, self.thresh, rles))
                yield frame, _detections(listing, frame.image, rles is not None)

    @contextlib.contextmanager
    def _settled(self):
        threads = torch.get_num_threads()
        try:
            with overrides(self.settings):
                torch.set_num_threads(self.threads or threads)
                use_device([self.device])
                yield
        finally:
            torch.set_num_threads(threads)


def at_edges(net, listing):
    """What drawing.listed gives of a net's boxes, their x2 and y2 where they end at edges."""
    last = family_of_net(net).offset  # pixels that a box has beyond its x2 and y2
    return [
        (name, score, (x1, y1, x2 + last, y2 + last), *mask)
        for name, score, (x1, y1, x2, y2), *mask in listing
    ]


def _is_picture(images):
    return isinstance(images, (str, os.PathLike)) and (
        os.path.isfile(images) and not os.fspath(images).lower().endswith(VIDEOS)
    )


def _frames(images, every):
    """The Frames of a path, or of arrays and paths; arrays have no path."""
    for image in [images] if isinstance(images, (str, os.PathLike)) else images:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f'wanted a picture (H, W, 3) uint8, blue first; got {image.shape} {image.dtype}'
                )
            yield Frame('', None, image)
        else:
            for path in pictures([os.fspath(image)], EXTENSIONS + VIDEOS):
                yield from frames(path, every)


def _detections(listing, image, masks):
    """The Detections of what at_edges gives; masks: whether the net has them."""
    labels, scores, boxes, *rles = zip(*listing) if listing else ((), (), ())
    pixels = np.zeros((0, *image.shape[:2]), bool)
    if listing and masks:
        pixels = coco_mask.decode(list(rles[0])).transpose(2, 0, 1).astype(bool)
    numbers = [np.array(values, np.float32) for values in (boxes, scores)]
    return Detections(numbers[0].reshape(-1, 4), numbers[1], list(labels), pixels if masks else None)
