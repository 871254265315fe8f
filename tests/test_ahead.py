"""Threads that work ahead: results in the order of the jobs, no more of them than asked for, errors in their place."""

import threading

import pytest

from utils.ahead import ahead, threads


def test_results_come_in_order_and_jobs_are_asked_for_late():
    asked, main, slow = [], threading.get_ident(), threading.Event()

    def jobs():
        for job in range(6):
            assert threading.get_ident() == main
            asked.append(job)
            yield job

    def make(job):
        assert threading.get_ident() != main
        if job == 0:
            assert slow.wait(30)  # job 1 is done before
        if job == 1:
            slow.set()
        return 10 * job

    with threads(2) as pool:
        taken = []
        for result in ahead(make, jobs(), pool, 3):
            taken.append(result)
            assert len(asked) == min(6, len(taken) + 2)
    assert taken == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize('kind', [OSError, RuntimeError, ValueError])
def test_an_error_comes_after_the_results_before_it(kind):
    def fails(job):
        if job == 3:
            raise kind('no more')
        return job

    for make, jobs in (fails, range(9)), (lambda job: job, map(fails, range(9))):
        taken = []
        with threads(2) as pool, pytest.raises(kind, match='no more'):
            for result in ahead(make, jobs, pool, 3):
                taken.append(result)
        assert taken == [0, 1, 2]


def test_what_was_not_begun_is_left_in_the_end():
    made, go, before = [], threading.Event(), set(threading.enumerate())

    def make(job):
        made.append(job)
        assert job == 0 or go.wait(30)

    with pytest.raises(KeyboardInterrupt), threads(1) as pool:
        next(ahead(make, range(9), pool, 5))
        end = threading.Timer(0.2, go.set)
        end.start()
        raise KeyboardInterrupt
    end.join()
    assert made in ([0], [0, 1]) and set(threading.enumerate()) <= before
