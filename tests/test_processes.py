"""Work shared among forked processes."""

import os

import pytest

from utils.processes import in_processes


def test_results_come_in_order_from_other_processes_that_inherit_the_function():
    results = list(in_processes(lambda i: (i, os.getpid()), 9, 2))
    assert [i for i, _ in results] == list(range(9))
    assert os.getpid() not in {process for _, process in results} and len({p for _, p in results}) == 2
    assert list(in_processes(lambda i: os.getpid(), 2, 1)) == [os.getpid()] * 2
    assert list(in_processes(lambda i: i, 0)) == []


def test_an_error_is_raised_as_it_is_and_a_death_is_noticed():
    def fails(i):
        if i == 1:
            raise FileNotFoundError('b.xml: no such file')
        return i

    results = in_processes(fails, 3, 2)
    assert next(results) == 0
    with pytest.raises(FileNotFoundError, match='^b.xml: no such file$'):
        next(results)
    with pytest.raises(RuntimeError, match='exited unexpectedly'):
        list(in_processes(lambda i: os._exit(1), 4, 2))
