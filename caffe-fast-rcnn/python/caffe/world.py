"""The world of workers that this process is one of: which rank it has, and what the ranks agree on outside of
collectives.

Inside a world each process has RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, whether
launch() started it or torchrun. What the ranks say to each other goes through the store at MASTER_ADDR:MASTER_PORT.
With one process everything here does nothing.
"""

import ctypes
import json
import os
import signal
import sys
import time

import torch.distributed as dist

from . import parallel

LAUNCHER = 'CAFFE_LAUNCHER'  # the process that started this one by launch()


def inside():
    """Whether this process is one of a world's."""
    return 'RANK' in os.environ and 'WORLD_SIZE' in os.environ


def rank():
    return int(os.environ['RANK']) if inside() else 0


def count():
    return int(os.environ['WORLD_SIZE']) if inside() else 1


def local_rank():
    """The place of this process among those of its machine."""
    return int(os.environ.get('LOCAL_RANK', 0)) if inside() else 0


def launched():
    """Whether launch() started this process."""
    return LAUNCHER in os.environ


def die_with(parent):
    """From now on this process is killed when its parent, whose number is `parent`, ends. On Linux."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def store():
    """A new client of the store, for the keys of this run."""
    run = os.environ.get('TORCHELASTIC_RUN_ID', ''), os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    return dist.PrefixStore('/'.join(run), parallel.connect())


def agree(name, value=None):
    """Rank 0's `value`, JSON, for all ranks. name: of this agreement, used once. Signals are served meanwhile."""
    if count() == 1:
        return value
    shared, key = store(), f'agree/{name}'
    if rank() == 0:
        shared.set(key, json.dumps(value))
    while not shared.check([key]):
        time.sleep(0.1)
    return json.loads(shared.get(key))


def meet(name):
    """Returns once all ranks have come here. name: of this meeting, used once. Signals are served meanwhile."""
    if count() > 1:
        shared, key = store(), f'meet/{name}'
        shared.add(key, 1)
        while shared.add(key, 0) < count():
            time.sleep(0.1)
