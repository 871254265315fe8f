"""pipeline.fit: sizes of images and epochs by a dataset's images."""

import types

import numpy as np

from fast_rcnn.config import cfg
from pipeline.fit import fitted, short_side


def a_set(size, *objects):
    """100 images of this size, each with these objects: class, side of a square."""
    boxes = np.array([[0, 0, side - 1, side - 1] for _, side in objects], np.float32).reshape(-1, 4)
    entry = {'boxes': boxes, 'gt_classes': np.array([k for k, _ in objects], int)}
    return types.SimpleNamespace(
        num_images=100,
        num_classes=3,
        roidb=[entry] * 100,
        image_size_at=lambda i: size,
        set_proposal_method=lambda name: None,
    )


def test_the_smallest_class_says_how_large_images_are():
    cfg.TRAIN.FIT, cfg.TRAIN.USE_FLIPPED = 100, False
    # at a short side of 352 of 480, 44 pixels are 32.3; at 320, 29.3
    settings = fitted(a_set((640, 480), (1, 200), (2, 44)))
    assert settings['TRAIN.SCALES'] == settings['TEST.SCALES'] == (352,)
    assert settings['TRAIN.MAX_SIZE'] == settings['TEST.MAX_SIZE'] == 587
    # 100 images of 469.3 x 352 pixels are 16.5 million
    assert settings['TRAIN.EPOCHS'] == 12  # at least; 100 / 16.5 = 6
    cfg.TRAIN.FIT = 500
    assert fitted(a_set((640, 480), (2, 44)))['TRAIN.EPOCHS'] == 30
    cfg.TRAIN.USE_FLIPPED = True
    assert fitted(a_set((640, 480), (2, 44)))['TRAIN.EPOCHS'] == 15
    cfg.TRAIN.FIT = 0
    assert fitted(None) == {}


def test_large_objects_small_ones_none():
    sizes = np.array([[640, 480]] * 100, float)
    sides = [
        short_side(sizes, a_set((640, 480), *objects).roidb, 3) for objects in ([(1, 300)], [(1, 9)], [])
    ]
    assert sides == [256, 640, 256]


def test_a_long_image_is_scaled_by_its_long_side():
    # 1500 x 300 is 427 x 85 at a short side of 256; 150 pixels are 42.7
    assert short_side(np.array([[1500, 300]] * 100, float), a_set((1500, 300), (1, 150)).roidb, 3) == 256
    assert short_side(np.array([[1500, 300]] * 100, float), a_set((1500, 300), (1, 100)).roidb, 3) == 288
