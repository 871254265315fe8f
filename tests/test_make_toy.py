"""The harder of the toy datasets."""

import os

import numpy as np

import make_toy
from datasets import own


def test_hard_images_have_small_objects_and_some_half_hidden():
    random, sides, shown = np.random.default_rng(3), [], []
    for _ in range(40):
        image, objects = make_toy.draw(random, make_toy.HARD)
        assert 1 <= len(objects) <= 10
        seen = np.zeros(image.shape[:2], int)
        for number, (_, _, mask) in enumerate(objects, 1):
            seen[mask > 0] = number
        for number, (_, (x1, y1, x2, y2), mask) in enumerate(objects, 1):
            shown.append((seen == number).sum() / mask.sum())
            sides.append(max(x2 - x1, y2 - y1))
    assert min(shown) >= 0.5 and np.mean(np.array(shown) < 0.9) > 0.05
    assert np.mean(np.array(sides) < 24) > 0.2 and max(sides) > 60


def test_hard_images_are_a_dataset_of_their_own(tmp_path):
    path, masks = make_toy.write(str(tmp_path / 'toy'), 2, 1, kind=make_toy.HARD)
    data = own.make(own.load(path), 'train')
    assert data.name == 'toy_hard_train' and data.num_images == 2
    assert os.path.isfile(tmp_path / 'selective_search_data' / 'toy_hard_train.mat')
    assert own.make(own.load(masks), 'val').num_images == 1
