"""Work that threads do ahead of the one that takes it, in its order."""

import collections
import concurrent.futures
import contextlib
import itertools


@contextlib.contextmanager
def threads(number, begin=None):
    """A pool of so many threads, which each call begin() first. In the end what is under way is waited for, and the
    rest not begun."""
    pool = concurrent.futures.ThreadPoolExecutor(number, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(make, jobs, pool, most):
    """make(job) of each of jobs, in their order. Up to `most` are under way or done in the pool before they are taken;
    the jobs are asked for in this thread, as late as that allows. Where no job comes but an error, that follows upon
    the results of those before."""
    errors = []
    results = (pool.submit(make, job) for job in _until_error(jobs, errors))
    coming = collections.deque(itertools.islice(results, most))
    while coming:
        yield coming.popleft().result()
        coming.extend(itertools.islice(results, 1))
    if errors:
        raise errors[0]


def _until_error(jobs, errors):
    try:
        yield from jobs
    except (OSError, RuntimeError, ValueError) as error:
        errors.append(error)
