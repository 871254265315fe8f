"""Work done ahead of time, in threads or in processes, and handed out in its order.

The processes are a torch DataLoader's. What they make comes back in memory that they share with this process: a slot
for each piece of work under way, since fresh pages for every image cost more than the rest of the way.
"""

import collections
import concurrent.futures
import functools
import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
from multiprocessing.util import Finalize

import caffe
import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from utils.ahead import ahead
from utils import processes
from utils.processes import begin_worker, starting

AHEAD = 2  # pieces of work under way for each worker


class Loader:
    """make(job): a result, which may hold arrays; it raises OSError where it cannot be made. job(key): what make is
    given for a key, asked for in this process when the work begins; its `paths` name it in errors. workers: processes,
    that begin with the first work, or where there is no fork so many threads; 0: two threads. room: bytes of a result's arrays; larger ones take longer to come.
    """

    def __init__(self, make, job, workers, room):
        self._make, self._job, self._workers, self._room = make, job, workers, room
        self._under_way = collections.deque()  # (key, paths)
        self._begin = self._results = None

    def take(self, keys):
        """The result for the first of the keys; work is begun for those that follow. It is kept if they are the first
        ones in the next calls, and done for nothing otherwise.

        RuntimeError where a process dies, with the paths that it may have been at.
        """
        keys = iter(keys)
        key = next(keys)
        if not self._under_way or self._under_way[0][0] != key:
            self._under_way.clear()
            self._begin = self._begin or self._started()
            self._results = self._begin(self._jobs(itertools.chain([key], keys)))
        try:
            result = next(self._results)
        except (RuntimeError, EOFError) as error:
            if not self._workers:
                raise
            paths = ', '.join(path for _, paths in self._under_way for path in paths)
            raise RuntimeError(
                f'a process that reads images failed ({error}); it may have been at {paths}'
            ) from error
        self._under_way.popleft()
        if isinstance(result, OSError):
            raise result
        return result

    def _started(self):
        make = functools.partial(_result_or_error, self._make)
        if self._workers and processes.FORKS:
            return _Processes(make, self._workers, self._room)
        return _Threads(make, self._workers or 2)

    def _jobs(self, keys):
        for key in keys:
            job = self._job(key)
            self._under_way.append((key, job.paths))
            yield job


def _result_or_error(make, job):
    try:
        return make(job)
    except OSError as error:
        return error


class _Threads:
    """Called with an iterator of jobs, an iterator of results."""

    def __init__(self, make, threads):
        self._make, self._threads = make, threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)

    def __call__(self, jobs):
        return ahead(self._make, jobs, self._pool, AHEAD * self._threads + 1)


class _Processes:
    """Called with an iterator of jobs, an iterator of results. A job is pickled here, its result there."""

    def __init__(self, make, workers, room):
        number = AHEAD * workers + 1  # the one more is for the result that is being taken
        memory = memoryview(mmap.mmap(-1, number * room))
        self._slots = [memory[i * room : (i + 1) * room] for i in range(number)]
        self._stream = _Stream()
        self._loader = DataLoader(
            _Slots(make, self._slots),
            batch_size=None,
            sampler=self._stream,
            num_workers=workers,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            multiprocessing_context='fork',
            worker_init_fn=functools.partial(_begin_worker, os.getpid()),
            generator=torch.Generator(),  # it draws; the engine's draws are for the net
        )
        self._processes = None

    def __call__(self, jobs):
        slots = itertools.cycle(range(len(self._slots)))
        self._stream.items = ((slot, pickle.dumps(job)) for slot, job in zip(slots, jobs))
        results = iter(self._loader) if self._processes else self._first()
        return self._taken(results)

    def _taken(self, results):
        while True:
            dead = [f'process {p.pid}: {p.exitcode}' for p in self._processes if not p.is_alive()]
            if dead:
                raise RuntimeError('exit code of ' + ', '.join(dead))
            slot, packed = next(results)
            yield _unpacked(self._slots[slot], *packed)

    def _first(self):
        before = multiprocessing.active_children()
        with starting(signal.SIGINT, signal.SIGTERM):
            results = iter(self._loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in before]
        Finalize(self, _kill, (self._processes,), exitpriority=1)
        return results


class _Stream:
    """What the DataLoader takes for a sampler: `items`, an iterator that is set anew."""

    def __iter__(self):
        return self.items


class _Slots(Dataset):
    """(slot, job) -> (slot, the result as _packed has it)"""

    def __init__(self, make, slots):
        self._make, self._slots = make, slots

    def __getitem__(self, item):
        slot, job = item
        return slot, _packed(self._slots[slot], self._make(pickle.loads(job)))


def _packed(slot, result):
    """The pickle of a result, and where in the slot its arrays are, [(begin, end)]; None: there is no room for them, so
    that the pickle has them."""
    buffers, places, end = [], [], 0
    data = pickle.dumps(result, 5, buffer_callback=buffers.append)
    for raw in (buffer.raw() for buffer in buffers):
        begin = -(-end // 64) * 64
        end = begin + raw.nbytes
        if end > len(slot):
            return pickle.dumps(result, 5), None
        slot[begin:end] = raw
        places.append((begin, end))
    return data, places


def _unpacked(slot, data, places):
    return pickle.loads(data, buffers=[_copied(slot[begin:end]) for begin, end in places or []])


def _copied(raw):
    """The bytes, where the net computes on a GPU in pinned memory."""
    copy = torch.empty(raw.nbytes, dtype=torch.uint8, pin_memory=caffe.common.device().type == 'cuda').numpy()
    copy[:] = raw
    return copy


def _begin_worker(parent, worker):
    """As begin_worker; OpenCV's threads, which are in the parent alone, are not asked for."""
    begin_worker(parent, worker)
    cv2.setNumThreads(0)


def _kill(processes):
    for process in processes:
        process.kill()
