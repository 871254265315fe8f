"""The clock: contenders take turns, so that what else the machine does hits all alike; memory is that of a process."""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Callable, NamedTuple

import torch
from caffe import common


class LeftOut(Exception):
    """A contender that cannot run here: why."""


class Contender(NamedTuple):
    """call(): what is timed; it may return a Spent. answer(): {name: array} that all contenders should agree on; it is
    called once, before. close(): afterwards."""

    call: Callable
    answer: Callable = None
    close: Callable = None
    alike: float = 1e-3
    images: int = 1


class Spent(NamedTuple):
    """What a call says of itself: the seconds that count (None: those of the clock), and of what they are made."""

    seconds: float = None
    parts: dict = {}


@dataclass
class Times:
    """seconds, and of this process's processor, of each call; parts {name: seconds of each}; how far the answer is
    from ours, as a share of its largest number; bytes that a process of its own takes; why it was left out."""

    seconds: list = field(default_factory=list)
    processor: list = field(default_factory=list)
    parts: dict = field(default_factory=dict)
    difference: float = None
    memory: int = None
    left_out: str = ''

    @property
    def median(self):
        return statistics.median(self.seconds) if self.seconds else None


def synchronize():
    """Waits for what the device was given to do."""
    if common.device().type == 'cuda':
        torch.cuda.synchronize()


def interleaved(contenders, rounds, warm=1, seconds=math.inf):
    """{who: Times} of calls in turn, `rounds` of each after `warm` that do not count; where those that count have taken
    so many seconds, no other round begins."""
    times, end = {who: Times() for who in contenders}, math.inf
    for turn in range(warm + rounds):
        if turn == warm:
            end = time.perf_counter() + seconds
        elif time.perf_counter() > end:
            break
        for who, contender in contenders.items():
            synchronize()
            start, processor = time.perf_counter(), time.process_time()
            spent = contender.call()
            synchronize()
            passed, processor = time.perf_counter() - start, time.process_time() - processor
            passed, processor = passed / contender.images, processor / contender.images
            if turn >= warm:
                note(times[who], spent if isinstance(spent, Spent) else Spent(), passed, processor)
    return times


def note(times, spent, seconds, processor):
    times.seconds.append(seconds if spent.seconds is None else spent.seconds)
    times.processor.append(processor)
    for name, value in spent.parts.items():
        times.parts.setdefault(name, []).append(value)


def difference(answer, other):
    """How far another answer is from ours: the largest difference of a blob over the largest number in it; None
    where they have no blob in common."""
    found = []
    for name in answer.keys() & other.keys():
        a, b = (torch.as_tensor(x[name]).double() for x in (answer, other))
        found.append(float((a - b.reshape(a.shape)).abs().max() / a.abs().max().clamp(min=1e-30)))
    return max(found, default=None)


def peak_memory():
    """The most bytes that this process has taken: of the GPU where it computes there, else of memory of its own."""
    if common.device().type == 'cuda':
        return torch.cuda.max_memory_allocated()
    with open('/proc/self/status') as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))


def in_process(*words):
    """What a program with these words prints last, read as JSON."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f'{" ".join(words)}: {done.stderr.strip()[-500:]}')
    return json.loads(done.stdout.splitlines()[-1])
