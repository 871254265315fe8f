"""Images, roidbs, detections: made up, the same each time."""

import os

import cv2
import numpy as np

from datasets.imdb import imdb
from datasets.readers.truth import Truth
from datasets.record import Record

OBJECTS, NEAR = 5, 40  # of an image; proposals near each object


def image(width, height, random):
    """BGR uint8 (height, width, 3): noise over a smooth picture, as large a JPEG as a photograph's."""
    smooth = cv2.resize(random.randint(0, 256, (9, 15, 3)).astype(np.float32), (width, height))
    return np.clip(smooth + random.randint(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def images(folder, number, width, height):
    """Paths of that many JPEGs in a folder, which are written where they are not there."""
    paths = [os.path.join(folder, f'{width}x{height}_{i}.jpg') for i in range(number)]
    for i, path in enumerate(paths):
        if not os.path.exists(path):
            cv2.imwrite(path, image(width, height, np.random.RandomState(i)))
    return paths


def boxes(number, width, height, random):
    """(number, 4), up to half as large as the image."""
    size = np.array([width, height])
    low = random.rand(number, 2) * 0.5 * size
    return np.hstack([low, low + (0.1 + 0.4 * random.rand(number, 2)) * size - 1])


def proposals(objects, number, width, height, random):
    """(number, 4): NEAR ones moved a little from each object, the others anywhere."""
    near = np.repeat(objects, NEAR, 0)[:number]
    near = near + (random.rand(len(near), 4) - 0.5) * 0.1 * [width, height, width, height]
    anywhere = boxes(number - len(near), width, height, random)
    return np.vstack([near, anywhere]).clip(0, [width - 1, height - 1] * 2)


def records(paths, width, height, num_classes, number=2000):
    """A Record of each image: OBJECTS objects, which fill their boxes, so many proposals."""
    found = []
    for i, path in enumerate(paths):
        random = np.random.RandomState(i)
        objects = boxes(OBJECTS, width, height, random)
        given = proposals(objects, number, width, height, random)
        masks = [[box[[0, 1, 2, 1, 2, 3, 0, 3]].tolist()] for box in objects]
        classes = random.randint(1, num_classes, OBJECTS)
        found.append(
            Record(
                objects,
                classes,
                num_classes,
                image=path,
                width=width,
                height=height,
                proposals=given,
                segms=masks,
            )
        )
    return found


class Images(imdb):
    """An imdb of these images."""

    def __init__(self, paths, num_classes, roidb=()):
        super().__init__('bench')
        self._image_index, self._roidb = paths, list(roidb)
        self._classes = ('__background__', *(f'class {k}' for k in range(1, num_classes)))

    def image_path_at(self, i):
        return self._image_index[i]

    def evaluate_detections(self, all_boxes, output_dir=None):
        return 0.0


def scores(rois, num_classes, random):
    """(rois, num_classes), rows sum to 1: half are background, the others lie on two classes or three."""
    logits = random.rand(rois, num_classes) * 2
    logits[np.arange(rois), np.where(random.rand(rois) < 0.5, 0, random.randint(1, 30, rois))] += 8
    logits[np.arange(rois), random.randint(1, 30, rois)] += 7
    powers = np.exp(logits)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def detections(images, num_classes, each, random):
    """all_boxes[class][image], (n, 5): `each` of an image, classes by chance; and the Truth of OBJECTS objects of each
    image, of which as many detections lie near one."""
    size = 500, 400
    objects = boxes(images * OBJECTS, *size, random).astype(np.float32)
    classes = random.randint(1, num_classes, images * OBJECTS)
    found = np.hstack([boxes(images * each, *size, random), random.rand(images * each, 1)]).astype(np.float32)
    of_class = random.randint(1, num_classes, (images, each))
    found = found.reshape(images, each, 5)
    found[:, :OBJECTS, :4] = objects.reshape(images, OBJECTS, 4) + 3
    of_class[:, :OBJECTS] = classes.reshape(images, OBJECTS)
    nothing = np.zeros((0, 5), np.float32)
    all_boxes = [[nothing] * images for _ in range(num_classes)]
    for i in range(images):
        for k in np.unique(of_class[i]):
            all_boxes[k][i] = found[i, of_class[i] == k]
    starts = np.arange(images + 1) * OBJECTS
    truth = Truth(
        np.repeat(np.arange(images), OBJECTS), classes.astype(np.int32), objects, np.zeros(len(objects), bool),
        objects, starts, np.tile(size, (images, 1)), np.zeros(images, int),
    )  # fmt: skip
    return all_boxes, truth
