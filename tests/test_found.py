"""utils.found.Found is to those who read it a list of lists of arrays."""

import numpy as np
import pytest

from datasets.evaluators.average_precision import flat
from utils.found import Found


def test_as_lists_of_lists():
    rng = np.random.default_rng(0)
    classes, images, rows = rng.integers(0, 4, 60), rng.integers(0, 7, 60), rng.random((60, 5))
    found = Found(classes, images, rows, 4, 7)
    wanted = [[rows[(classes == k) & (images == i)] for i in range(7)] for k in range(4)]
    assert len(found) == 4 and [len(of_class) for of_class in found] == [7] * 4
    for k, of_class in enumerate(found):
        for i, boxes in enumerate(of_class):
            np.testing.assert_array_equal(boxes, wanted[k][i])
        for whole, part in zip(flat(wanted[k][2:5]), flat(of_class[2:5])):
            np.testing.assert_array_equal(part, whole)
    np.testing.assert_array_equal(found[-1][-1], wanted[-1][-1])


def test_beyond_the_end():
    found = Found([], [], np.zeros((0, 5)), 2, 3)
    assert found[1][2].shape == (0, 5) and len(found[0][5:]) == 0
    with pytest.raises(IndexError, match='class 2 of 2'):
        found[2]
    with pytest.raises(IndexError, match='image 3 of 3'):
        found[0][3]
