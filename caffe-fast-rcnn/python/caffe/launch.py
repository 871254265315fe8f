"""Starts worlds of workers, a process per device, each with torchrun's variables, and sees them out."""

import contextlib
import logging
import os
import re
import signal
import tempfile
import time

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

from . import watch
from .world import LAUNCHER, inside, local_rank

log = logging.getLogger(__name__)

KILL = getattr(signal, 'SIGKILL', signal.SIGTERM)  # on Windows SIGTERM ends a process at once
SAME = 3  # seconds in which a second signal is the first one, come by another way


class LaunchError(RuntimeError):
    """A worker failed; the message names its rank, where it was, and why, with its traceback."""


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal, and goes on from there. status: the exit status that says so."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


def parse_devices(text):
    """'0,1' -> [0, 1], 'all' -> all that torch sees, 'cpu' -> ['cpu'], 'cpu:2' -> ['cpu', 'cpu']. ValueError."""
    if text == 'all':
        found = list(range(torch.cuda.device_count()))
        if not found:
            raise ValueError(f'all: torch {torch.__version__} sees no GPU')
        return found
    cpus = re.fullmatch(r'cpu(?::([1-9]\d*))?', text)
    if cpus:
        return ['cpu'] * int(cpus[1] or 1)
    ids = text.split(',')
    if not all(re.fullmatch('[0-9]+', one) for one in ids) or len(set(ids)) < len(ids):
        raise ValueError(f"wanted cpu, cpu:N, a GPU's number, different ones as 0,1, or all; got {text!r}")
    return [int(one) for one in ids]


def my_device(devices):
    """This process's one of `devices`, which name those of a machine. RuntimeError: it has too few, or not these."""
    there = torch.cuda.device_count()
    wrong = [str(one) for one in devices if one != 'cpu' and not 0 <= one < there]
    if wrong:
        raise RuntimeError(
            f'GPU {", ".join(wrong)} was asked for, but torch {torch.__version__} sees {there} CUDA '
            f'device{"s" * (there != 1)}; compute on the CPU: --gpu cpu, or in a recipe cpu in place of the number'
        )
    if set(devices) == {'cpu'}:
        return 'cpu'
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1)) if inside() else 1
    if processes > len(devices):
        raise RuntimeError(
            f'{processes} processes run on this machine, and {len(devices)} of its GPUs are named: '
            f'{", ".join(map(str, devices))}; name one for each, or all'
        )
    return devices[local_rank()]


def launch(command, devices, served=()):
    """Runs `command` (program and arguments) once per device, in a world; returns when all have ended well.

    devices: only their number counts here. served: signals that the workers get as they are. Errors: LaunchError
    when one fails: the others are ended; Interrupted when a signal has stopped them.
    """
    logging.getLogger('torch.distributed.elastic').setLevel(
        logging.CRITICAL
    )  # what it says comes by LaunchError
    server = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    world = len(devices)
    name = f'launch-{os.getpid()}'
    threads = max(1, (os.cpu_count() or 1) // world) if 'cpu' in devices else 1
    common = {
        'WORLD_SIZE': world,
        'LOCAL_WORLD_SIZE': world,
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': server.port,
        'TORCHELASTIC_RUN_ID': name,
        'TORCHELASTIC_RESTART_COUNT': 0,
        'TORCHELASTIC_USE_AGENT_STORE': True,
        'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', threads),
        LAUNCHER: os.getpid(),
    }
    envs = {
        place: {key: str(value) for key, value in {**common, 'RANK': place, 'LOCAL_RANK': place}.items()}
        for place in range(world)
    }
    log.info('%d workers start, on %s', world, ', '.join(map(str, devices)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = {place: tuple(command[1:]) for place in range(world)}
        kept = [getattr(signal, name) for name in ('SIGHUP', 'SIGQUIT') if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in kept}
        workers = start_processes('worker', command[0], arguments, envs, DefaultLogsSpecs(log_dir=folder))
        for number, handler in before.items():  # what nohup had ignored stays so
            signal.signal(number, handler)
        received = pass_on(workers.pids().values(), served)
        _await(workers, dist.PrefixStore(f'{name}/0', server), world, received)


def pass_on(pids, served=()):
    """From now on SIGINT and SIGTERM go to these processes as SIGTERM, and later ones kill them -> a list of those
    that came, with their time. One within SAME seconds of the first is the first, come by another way: Ctrl-C at a
    terminal reaches every process in the foreground, and may be passed on to them as well. Those in `served` go to
    them as they are."""
    received = []

    def stop(number, frame):
        came = number, time.monotonic()
        received.append(came)  # first of all: the next may come while this one is told of
        kill = came[1] - received[0][1] > SAME
        if kill or received[0] is came:
            log.info('%s', 'killed' if kill else 'stops; once more kills it')
            send(KILL if kill else signal.SIGTERM)

    def send(number, frame=None):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in {signal.SIGINT, signal.SIGTERM, *served}:
        signal.signal(number, send if number in served else stop)
    return received


def _await(workers, shared, world, received):
    """Sees the workers out."""
    result = None
    while result is None:
        result = workers.wait(timeout=0.5, period=0.25)
        report = watch.first_report(shared)
        if report and result is None and report['kind'] == 'hung':  # it would not heed a SIGTERM
            time.sleep(watch.PERIOD)
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers.pids()[report['rank']], KILL)
    if not result.is_failed():
        return
    report = watch.first_report(shared)
    if report is None:
        failure = min(result.failures.values(), key=lambda one: one.timestamp)
        report = {
            **watch.last_seen(shared, failure.local_rank),
            'kind': 'failed',
            'rank': failure.local_rank,
            'count': world,
            'text': ending(failure.exitcode),
            'traceback': '',
        }
    if received or report['kind'] == 'stopped':
        text = report['text'] if report['kind'] == 'stopped' else 'stopped; the same command goes on'
        raise Interrupted(text, received[0][0] if received else signal.SIGTERM)
    raise LaunchError(watch.describe(report))


def ending(code):
    """How a process ended that reported nothing, in words."""
    if code >= 0:
        return f'its process ended with exit code {code} and no result'
    try:
        which = signal.Signals(-code).name
    except ValueError:
        which = f'signal {-code}'
    return f'its process was killed by {which}' + (' (out of memory?)' if which == 'SIGKILL' else '')
