"""Settings that follow from a dataset's images, where cfg.TRAIN.FIT asks for it: how large its images are looked at, and how
often. K: classes with the background."""

import numpy as np

from fast_rcnn.config import cfg

OBJECT_SIDE = 32  # pixels that nine of ten objects of each class have at least, as a side of a square
SIDES = range(256, 641, 32)  # short sides of images
LONG = 5 / 3  # a long side at most, of the short one: 1000 of 600
EPOCHS = 12, 100  # at least, at most


def fitted(imdb):
    """{setting: value}: SCALES and MAX_SIZE of TRAIN and TEST, and TRAIN.EPOCHS, by which a training sees about cfg.TRAIN.FIT
    million pixels of an imdb's images, at the least size where OBJECT_SIDE holds. {} where FIT is 0."""
    if not cfg.TRAIN.FIT:
        return {}
    imdb.set_proposal_method('gt')
    sizes = np.array([imdb.image_size_at(i) for i in range(imdb.num_images)], float)
    side = short_side(sizes, imdb.roidb, imdb.num_classes)
    pixels = (sizes.prod(1) * scales(sizes, side) ** 2).sum() * (2 if cfg.TRAIN.USE_FLIPPED else 1)
    shown = {'SCALES': (side,), 'MAX_SIZE': round(side * LONG)}
    return {
        **{f'{phase}.{key}': value for phase in ('TRAIN', 'TEST') for key, value in shown.items()},
        'TRAIN.EPOCHS': float(np.clip(round(cfg.TRAIN.FIT * 1e6 / pixels), *EPOCHS)),
    }


def scales(sizes, side):
    """What images of these sizes (N, 2) are scaled by to a short side of so many pixels, less where the long side is too long."""
    return np.minimum(side / sizes.min(1), side * LONG / sizes.max(1))


def short_side(sizes, roidb, num_classes):
    """The least of SIDES, else the last, at which nine of ten objects of each class are OBJECT_SIDE or more."""
    sides = [[] for _ in range(num_classes)]  # at a scale of one pixel
    for one, entry in zip(scales(sizes, 1), roidb):
        extent = entry['boxes'][:, 2:] - entry['boxes'][:, :2] + 1.0
        for number, side in zip(entry['gt_classes'], np.sqrt(extent.prod(1)) * one):
            sides[number].append(side)
    smallest = min((np.quantile(of_class, 0.1) for of_class in sides if of_class), default=1)
    return next((side for side in SIDES if side * smallest >= OBJECT_SIDE), SIDES[-1])
