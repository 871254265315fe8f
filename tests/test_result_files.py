"""Result files: what is written is read back, whatever the classes are called."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.evaluators.result_files import class_file, read_results, write_results
from devkits import write

CLASSES = ('__background__', 'cat', 'a/b', 'x y')
IDS = ['1', 'folder/2', 'an id']


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([0, 1]))
def test_round_trip(tmp_path_factory, data, base):
    number = st.integers(0, 500).map(lambda n: n / 10)
    row = st.tuples(number, number, number, number, st.integers(0, 1000).map(lambda n: n / 1000))
    boxes = st.lists(row, max_size=3).map(lambda rows: np.array(rows, float).reshape(-1, 5))
    all_boxes = [[np.zeros((0, 5))] * 3] + [[data.draw(boxes) for _ in IDS] for _ in CLASSES[1:]]
    template = str(tmp_path_factory.mktemp('results') / 'comp4_det_{:s}.txt')
    write_results(template, all_boxes, CLASSES, IDS, base)
    for wanted, got in zip(all_boxes, read_results(template, CLASSES, IDS, base)):
        assert len(got) == len(IDS)
        for a, b in zip(wanted, got):
            np.testing.assert_allclose(a, b, atol=1e-9)


def test_names_that_no_file_may_have():
    assert (
        class_file('r/{}.txt', 'a/b%') == 'r/a%2Fb%25.txt' and class_file('r/{:s}.txt', 'cat') == 'r/cat.txt'
    )


def test_wrong_files_are_named(tmp_path):
    template = str(tmp_path / '{}.txt')
    with pytest.raises(FileNotFoundError, match='cat.txt: no such result file'):
        read_results(template, CLASSES[:2], IDS, 1)
    write(tmp_path / 'cat.txt', '1 0.5 1 2 3\n')
    with pytest.raises(ValueError, match='cat.txt: wanted lines `image score x1 y1 x2 y2`'):
        read_results(template, CLASSES[:2], IDS, 1)
    write(tmp_path / 'cat.txt', '3 0.5 1 2 3 4\n')
    with pytest.raises(ValueError, match='cat.txt: 3 is none of the 3 images'):
        read_results(template, CLASSES[:2], IDS, 1)
