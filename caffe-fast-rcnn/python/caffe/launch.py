"""Worlds of workers: a process per device, each with torchrun's variables, and a watch in each.

Inside a world each process has RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, whether
launch() started it or torchrun. What the ranks say to each other outside of collectives goes through the store at
MASTER_ADDR:MASTER_PORT. With one process everything here does nothing.

The watch: a rank whose process is silent, or whose beats stop though it is neither busy nor waiting, ends all ranks;
so does the first that fails, whose report is the one that is told.
"""

import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from . import parallel

log = logging.getLogger(__name__)

PERIOD = 1  # seconds between two looks of the watch
SILENT = float(os.environ.get('CAFFE_WATCH_SECONDS', 20))  # without a sign of life, a process counts as dead
STALLED = 3 * SILENT  # without a beat, at least; and
SLOW = 20  # times the slowest step
FIRST = 15 * SILENT  # without a second beat
SAME = 3  # seconds in which a second signal is the first one, come by another way
LAUNCHER = 'CAFFE_LAUNCHER'  # the process that started this one by launch()


class LaunchError(RuntimeError):
    """A worker failed; the message names its rank, where it was, and why, with its traceback."""


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal, and goes on from there. status: the exit status that says so."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


# ---------------------------------------------------------------------------------------------- who I am
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


# ---------------------------------------------------------------------------------------------- the store
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


# ---------------------------------------------------------------------------------------------- launching
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
        before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGQUIT)}
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
        kill = received and time.monotonic() - received[0][1] > SAME
        if kill or not received:
            log.info('%s', 'killed' if kill else 'stops; once more kills it')
            send(signal.SIGKILL if kill else signal.SIGTERM)
        received.append((number, time.monotonic()))

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
        report = _first(shared)
        if report and result is None and report['kind'] == 'hung':  # it would not heed a SIGTERM
            time.sleep(PERIOD)
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers.pids()[report['rank']], signal.SIGKILL)
    if not result.is_failed():
        return
    report = _first(shared)
    if report is None:
        failure = min(result.failures.values(), key=lambda one: one.timestamp)
        report = {
            **_last_seen(shared, failure.local_rank),
            'kind': 'failed',
            'rank': failure.local_rank,
            'count': world,
            'text': ending(failure.exitcode),
            'traceback': '',
        }
    if received or report['kind'] == 'stopped':
        text = report['text'] if report['kind'] == 'stopped' else 'stopped; the same command goes on'
        raise Interrupted(text, received[0][0] if received else signal.SIGTERM)
    raise LaunchError(describe(report))


def ending(code):
    """How a process ended that reported nothing, in words."""
    if code >= 0:
        return f'its process ended with exit code {code} and no result'
    try:
        which = signal.Signals(-code).name
    except ValueError:
        which = f'signal {-code}'
    return f'its process was killed by {which}' + (' (out of memory?)' if which == 'SIGKILL' else '')


def die_with(parent):
    """From now on this process is killed when its parent, whose number is `parent`, ends. On Linux."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


# ---------------------------------------------------------------------------------------------- the watch
_watch = None


def watch(stage=''):
    """From now on this process is watched, and watches the other ranks. stage: what is done here, by its name."""
    global _watch
    if count() > 1:
        if not stage and launched():
            die_with(int(os.environ[LAUNCHER]))
        _watch = Watch(stage)
        parallel.waiting = waiting


def unwatch():
    """This process has done its work well."""
    if _watch:
        _watch.leave()


def beat(what, iteration):
    """This rank is alive and has come to `iteration` of `what`: to be called at each minibatch or image."""
    if _watch:
        _watch.beat(what, iteration)


@contextlib.contextmanager
def busy(what):
    """Around long work without beats (a snapshot, statistics): the others wait for it and nobody is hung."""
    with _marked('busy', what):
        yield


@contextlib.contextmanager
def waiting():
    """Around what waits for other ranks: if nothing comes, it is not this one that hangs."""
    with _marked('waiting', True):
        yield


@contextlib.contextmanager
def _marked(key, value):
    if not _watch:
        yield
        return
    before = _watch.state[key]
    _watch.state[key] = value
    try:
        yield
    finally:
        _watch.state[key] = before
        _watch.moved = time.monotonic()


def failed(error, stage=''):
    """To be called when `error` ends this rank's work -> the report of what ended the world first, which may be this;
    None where there is no watch.

    Where it only says that another rank was lost, this waits for what the watch finds out about that one. stage:
    whose process it was, if it died without a word and this one speaks for it.
    """
    if not _watch:
        return None
    _watch.ending.set()
    until = time.monotonic() + SILENT + 5 * PERIOD
    while _is_lost(error) and not _watch.first and time.monotonic() < until:
        time.sleep(PERIOD / 4)
    first = _post(
        _watch.store,
        {
            **(_last_seen(_watch.store, rank(), stage) if stage else _watch.place()),
            'kind': 'stopped' if isinstance(error, KeyboardInterrupt) else 'failed',
            'text': str(error) if ' ' in str(error) else f'{type(error).__name__}: {error}',
            'traceback': '' if stage else ''.join(traceback.format_exception(error)),
        },
    )
    path = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if first['rank'] == rank() and path and not os.path.exists(path):
        get_error_handler().record_exception(error)
    return first


def told(report):
    """What this process is to say of what ended the world; nothing where another one says it."""
    return describe(report) if report['rank'] == rank() and not launched() else ''


def describe(report):
    """A report in words: which rank, where it was, what happened; its traceback where it was at work by then."""
    iteration = report['iteration']
    place = f' in {report["what"]}' * bool(report['what']) + f' after iteration {iteration}' * (
        iteration is not None
    )
    verb = {'hung': 'hangs', 'failed': 'failed', 'stopped': 'stopped'}[report['kind']]
    trace = report['traceback'].rstrip() if place else ''
    return (
        f'rank {report["rank"]} of {report["count"]} {verb}{place}: {report["text"]}'
        + f'\n{trace}' * bool(trace)
    )


def _is_lost(error):
    """Whether an error says no more than that the connection to another rank was lost."""
    return isinstance(error, dist.DistError) or bool(
        re.search(r'gloo/|NCCL|Connection (closed|reset)', str(error))
    )


def _first(shared):
    """The report of what ended the world first, or None."""
    return json.loads(shared.get('first')) if shared.check(['first']) else None


def _post(shared, report):
    """Posts a report, unless there is one -> that which stands."""
    report = {'rank': rank(), 'count': count(), **report}
    return json.loads(shared.compare_set('first', '', json.dumps(report)))


def _last_seen(shared, place, stage=''):
    """{what, iteration} that a rank was at, as its watch said last; of the stage's process, or of its own."""
    for key in f'watch/{stage}/{place}', f'watch//{place}':
        if shared.check([key]):
            record = json.loads(shared.get(key))
            return {'what': stage or record['stage'] or record['what'], 'iteration': record['iteration']}
    return {'what': stage, 'iteration': None}


class Watch:
    """This process's part of the watch: one thread says and hears the signs of life, another one judges them.

    state: what the others are told of this process. records: {rank: (what it said last, when that was heard)}.
    """

    def __init__(self, stage):
        self.stage, self.main = stage, threading.get_ident()
        self.state = {
            'stage': stage,
            'what': '',
            'iteration': None,
            'busy': None,
            'waiting': False,
            'left': False,
        }
        self.moved, self.slowest = time.monotonic(), None
        self.ending, self.left = threading.Event(), threading.Event()
        self.records, self.first, self.heard, self.calm = {}, None, time.monotonic(), time.monotonic()
        self.store, self.ticks = store(), 0
        self.exchange()
        for work in self.talk, self.judge:
            threading.Thread(target=work, daemon=True, name=f'watch {stage}').start()

    def beat(self, what, iteration):
        now = time.monotonic()
        if self.state['iteration'] is not None:
            self.slowest = max(self.slowest or 0, now - self.moved)
        self.moved = now
        self.state.update(what=what, iteration=iteration)

    def place(self):
        return {'what': self.stage or self.state['what'], 'iteration': self.state['iteration']}

    def leave(self):
        """Says that this process is done. Who serves the store stays until all are."""
        self.state['left'] = True
        self.left.set()
        until = time.monotonic() + SILENT
        with contextlib.suppress(dist.DistError, RuntimeError):  # who served it was done before
            while self.exchange() and parallel.kept and time.monotonic() < until:
                time.sleep(PERIOD / 4)

    def talk(self):
        while not self.left.wait(PERIOD):
            try:
                self.exchange()
            except (dist.DistError, RuntimeError):  # it is gone, or out of reach; the judge sees that
                return

    def exchange(self):
        """Says how things are here, and hears how they are elsewhere -> whether any other rank is still at work."""
        self.ticks += 1
        quiet = time.monotonic() - self.moved
        limit = FIRST if self.slowest is None else max(STALLED, SLOW * self.slowest)
        mine = {**self.state, 'tick': self.ticks, 'quiet': quiet, 'limit': limit}
        self.store.set(f'watch/{self.stage}/{rank()}', json.dumps(mine))
        keys = [f'watch/{self.stage}/{place}' for place in range(count())]
        known = [place for place, key in enumerate(keys) if place in self.records or self.store.check([key])]
        self.heard = time.monotonic()
        for place, text in zip(known, self.store.multi_get([keys[place] for place in known])):
            record = json.loads(text)
            if place not in self.records or record['tick'] != self.records[place][0]['tick']:
                self.records[place] = record, self.heard
        self.first = self.first or _first(self.store)
        return len(known) < count() or any(not r['left'] for p, (r, _) in self.records.items() if p != rank())

    def judge(self):
        while not self.left.wait(PERIOD) and not self.first:
            now = time.monotonic()
            if now - self.heard > SILENT:
                host = os.environ['MASTER_ADDR']
                log.error('rank %d ends: no word for %g s from %s, where all meet', rank(), SILENT, host)
                return self.end()
            report = self.verdict(now)
            if report:
                stage = self.stage or self.records[report['rank']][0]['busy'] or ''
                self.first = _post(self.store, {**report, **_last_seen(self.store, report['rank'], stage)})
                if self.first.get('by') == rank() and not launched():
                    log.error('%s', describe(self.first))
        if self.first:
            self.end()
        return None

    def verdict(self, now):
        """A report of the rank that is silent, or of the one whose beats stopped first; None: all is well."""
        working = {place: pair for place, pair in self.records.items() if not pair[0]['left']}
        for place, (_, heard) in working.items():
            if place != rank() and self.heard - heard > SILENT:  # not where it is the store that is silent
                return self.report(
                    place, f'no sign of life for {SILENT:g} s (stopped, or its machine is gone)'
                )
        if any(record['busy'] for record, _ in working.values()):
            self.calm = now
        stalled = [
            (record['quiet'], place)
            for place, (record, _) in working.items()
            if record['iteration'] is not None and not record['waiting']
            if min(record['quiet'], now - self.calm) > record['limit'] + 5 * PERIOD * (place != rank())
        ]
        if not stalled:
            return None
        quiet, place = max(stalled)
        return self.report(place, f'nothing has moved there for {quiet:.0f} s')

    def report(self, place, text):
        record = self.records[place][0]
        here = traceback.format_stack(sys._current_frames()[self.main]) if place == rank() else []
        return {
            'rank': place,
            'by': rank(),
            'kind': 'hung',
            'what': self.stage or record['what'],
            'iteration': record['iteration'],
            'text': text,
            'traceback': ''.join(here),
        }

    def end(self):
        """Ends this process and its children, unless the main thread does so by itself: it has 5 PERIODs to begin
        with that, longer while it is busy (a checkpoint is still written), and then twice SILENT."""
        began, mine = time.monotonic(), bool(self.first) and self.first['rank'] == rank()
        busy = 0 if mine and self.first['kind'] == 'hung' else 3 * SILENT
        while not self.left.is_set():
            passed = time.monotonic() - began
            grace = 2 * SILENT if self.ending.is_set() else 5 * PERIOD
            if passed > max(grace, busy if self.state['busy'] else 0):
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(1)
            time.sleep(PERIOD / 4)
