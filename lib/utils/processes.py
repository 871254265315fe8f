"""Forked processes that work for this one, by torch's DataLoader; they inherit what they need. Where processes cannot be forked
(Windows), or not in safety (macOS, whose libraries have threads of their own), this one does the work.
"""

import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import time

from utils.progress import progress

FORKS = sys.platform not in ('win32', 'darwin')


def cores():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def in_processes(function, count, processes=None):
    """function(0) ... function(count - 1), in that order, computed in so many processes; one: in this one.

    processes: default one a core that this process may use, at most 16. An OSError or ValueError of the function is
    raised here as it is; a process that dies raises RuntimeError. No draws from any generator of this process.
    """
    processes = min(processes or cores(), 16, count)
    if processes < 2 or not FORKS:
        yield from map(function, range(count))
    else:
        yield from _forked(function, count, processes)


def apart(function):
    """function(), computed in a process of its own: where that dies, RuntimeError is raised here."""
    return next(_forked(lambda i: function(), 1, 1)) if FORKS else function()


def _forked(function, count, processes):
    import torch.utils.data  # where it is needed: it takes seconds

    failed = []
    loader = torch.utils.data.DataLoader(
        _Calls(function),
        sampler=(i for i in range(count) if not failed),
        batch_size=None,
        collate_fn=_same,
        num_workers=processes,
        multiprocessing_context='fork',
        worker_init_fn=functools.partial(begin_worker, os.getpid()),
        generator=torch.Generator(),
    )
    with starting(signal.SIGINT):
        results = iter(loader)
    for result, error in results:
        if error is not None and not failed:
            failed.append(error)
        if not failed:
            yield result
    if failed:
        raise failed[0]


def in_shares(function, items, desc, share):
    """function(items[:share]), function(items[share : 2 * share]) ..., in that order, by several processes where there
    are several shares; desc: of the progress that is then shown."""
    begins = range(0, len(items), share)
    results = in_processes(lambda i: function(items[begins[i] : begins[i] + share]), len(begins))
    return progress(results, f'{desc}, {share} at a time', len(begins)) if len(begins) > 1 else results


class _Calls:
    """A data set of a function's results and errors."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, i):
        try:
            return self.function(i), None
        except (OSError, ValueError) as error:
            return None, error


def _same(sample):
    return sample


@contextlib.contextmanager
def starting(*signals):
    """While a DataLoader starts its processes, which never get these signals: those that go to all are this process's
    affair. Without garbage collection, lest they collect what is this process's, its other loaders for instance; and
    without torch's signal handler, which raises a worker's death wherever the program is."""
    collects, handler = gc.isenabled(), signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    gc.disable()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if collects:
            gc.enable()
        if signal.getsignal(signal.SIGCHLD) != handler:
            signal.signal(signal.SIGCHLD, handler)


def begin_worker(parent, worker):
    """In a worker, first of all. It ends with the process `parent`. What it has from there is neither collected nor, by
    the collector's bookkeeping, copied."""
    gc.freeze()
    gc.enable()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
