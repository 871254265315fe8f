"""The short form of tests/kill_test.py: one round, killed twice."""

from kill_test import kill_test, options
from tool_runs import copy_project


def test_a_killed_recipe_ends_with_the_same_bytes(tmp_path):
    words = ['--kills', '2', '--iters', '2', '--stages', '1', '--loaders', '0']
    assert kill_test(copy_project(tmp_path), options().parse_args(words)) == 2
