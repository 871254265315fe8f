"""The short form of tests/kill_test.py: one round, killed twice; and what it calls the same."""

import numpy as np
import pytest
from caffe.format.weights import write_weights
from kill_test import Run, compare, kill_test, options
from tool_runs import copy_project


def test_a_killed_recipe_ends_with_the_same_bytes(tmp_path):
    words = ['--kills', '2', '--iters', '2', '--stages', '1', '--loaders', '0', '--least-ap', '0']
    assert kill_test(copy_project(tmp_path), options().parse_args(words)).total() == 2


def test_what_counts_as_the_same(tmp_path):
    paths = [tmp_path / f'{i}.caffemodel' for i in range(4)]
    for path, value in zip(paths, (1, 1, 1 + 1e-4, 1.1)):
        write_weights(str(path), [('ip', 'InnerProduct', [np.full(3, value, np.float32)], [], [])])
    whole, same, near, far = paths
    assert compare((whole, 0.6), (same, 0.6), True) == 'the same bytes, mean AP 0.6'
    assert compare((whole, 0.6), (near, 0.605), False).startswith('weights within 1.0e-04')
    for ended, exact in (
        ((near, 0.6), True),
        ((far, 0.6), False),
        ((same, 0.605), True),
        ((near, 0.65), False),
    ):
        with pytest.raises(AssertionError, match='differ by|mean AP'):
            compare((whole, 0.6), ended, exact)


def test_what_a_process_is(monkeypatch):
    """By its command line, its rank and its parent's."""
    recipe, spawn = 'python tools/recipe.py x', 'python -c spawn_main'
    ended = Run.__new__(Run)
    monkeypatch.setattr(ended, 'processes', lambda: {
        1: (0, None, recipe), 2: (1, None, 'tee -a log'), 3: (1, '0', recipe), 4: (1, '1', recipe),
        5: (3, '0', f'{spawn} 5'), 6: (5, '0', f'{spawn} 5'), 7: (4, '1', recipe),
    }, raising=False)  # fmt: skip
    assert ended.working() == {
        1: 'the command', 3: 'worker 0', 4: 'worker 1', 5: "a stage's process of worker 0",
        6: 'a reader of worker 0', 7: 'a reader of worker 1',
    }  # fmt: skip
