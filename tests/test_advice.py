"""pipeline.advice: what a training set lets expect; the presets' files."""

import types

import numpy as np
import pytest

from fast_rcnn.config import cfg, cfg_from_file
from pipeline.advice import advice
from pipeline.settings import preset_files


def test_classes_are_counted_and_few_images_are_told():
    roidb = [{'gt_classes': np.array([1, 1])}] * 120 + [{'gt_classes': np.array([2])}] * 5
    data = types.SimpleNamespace(
        name='x_train',
        num_images=125,
        num_classes=3,
        classes=('__background__', 'cat', 'dog'),
        roidb=roidb,
        set_proposal_method=lambda name: None,
    )
    lines = advice(data)
    assert lines[:3] == [
        'x_train: 125 images, 2 classes, the fewest first',
        'dog 5 images, 5 objects',
        'cat 120 images, 240 objects',
    ]
    assert '1 of them have fewer than 100' in lines[3] and 'CLASS_AWARE' in lines[4]


def test_presets_are_files_of_settings():
    for path in preset_files(['augment', 'from_nothing', 'early_stop']):
        cfg_from_file(path)
    assert (cfg.TRAIN.FLIP_PROB, cfg.TRAIN.COSINE_LR, cfg.TRAIN.VALIDATE) == (0.5, True, 'val')
    with pytest.raises(KeyError, match='--preset augmnt: .*known: augment, early_stop, from_nothing'):
        preset_files(['augmnt'])
