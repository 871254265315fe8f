"""The watch over a world of workers: a part of it in each process, by the store that all ranks share.

A rank whose process is silent, or whose beats stop though it is neither busy nor waiting, ends all ranks; so does the
first that fails, whose report is the one that is told. With one process everything here does nothing.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from . import parallel
from .world import LAUNCHER, count, die_with, launched, rank, store

log = logging.getLogger(__name__)

PERIOD = 1  # seconds between two looks of the watch
SILENT = float(os.environ.get('CAFFE_WATCH_SECONDS', 20))  # without a sign of life, a process counts as dead
STALLED = 3 * SILENT  # without a beat, at least; and
SLOW = 20  # times the slowest step
FIRST = 15 * SILENT  # without a second beat

_watch = None


def begin(stage=''):
    """From now on this process is watched, and watches the other ranks. stage: what is done here, by its name."""
    global _watch
    if count() > 1:
        if not stage and launched():
            die_with(int(os.environ[LAUNCHER]))
        _watch = Watch(stage)
        parallel.waiting = waiting


def done():
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


def failed(error, stage='', text=''):
    """To be called when `error` ends this rank's work -> the report of what ended the world first, which may be this;
    None where there is no watch.

    Where it only says that another rank was lost, this waits for what the watch finds out about that one. stage:
    whose process it was, if it died without a word and this one speaks for it. text: the error in better words.
    """
    if not _watch:
        return None
    _watch.ending.set()
    until = time.monotonic() + SILENT + 5 * PERIOD
    while _is_lost(error) and not _watch.first and time.monotonic() < until:
        time.sleep(PERIOD / 4)
    place = last_seen(_watch.store, rank(), stage) if stage else _watch.place()
    text = text or (str(error) if ' ' in str(error) else f'{type(error).__name__}: {error}')
    _watch.store.set(f'failed/{_watch.stage}/{rank()}', text)
    first = _post(
        _watch.store,
        {
            **place,
            'kind': 'stopped' if isinstance(error, KeyboardInterrupt) else 'failed',
            'text': text,
            'traceback': '' if stage else ''.join(traceback.format_exception(error)),
        },
    )
    if first['rank'] == rank() and first['kind'] == 'failed' and first['iteration'] is None and not stage:
        first = _marked_if_alike(first)
    path = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if first['rank'] == rank() and path and not os.path.exists(path):
        get_error_handler().record_exception(error)
    return first


def _marked_if_alike(first):
    """This rank's report of what ended it before its first iteration; marked where all ranks end with the same, for
    which it waits a little."""
    keys = [f'failed/{_watch.stage}/{place}' for place in range(count())]
    until = time.monotonic() + 3 * PERIOD
    while not _watch.store.check(keys) and time.monotonic() < until:
        time.sleep(PERIOD / 10)
    if _watch.store.check(keys) and len(set(_watch.store.multi_get(keys))) == 1:
        first = {**first, 'alike': True}
        _watch.store.set('first', json.dumps(first))
    return first


def told(report):
    """What this process is to say of what ended the world; nothing where another one says it."""
    return describe(report) if report['rank'] == rank() and not launched() else ''


def describe(report):
    """A report in words: which rank (unless it says that all ended so), where it was, what happened; its traceback
    where it was at work by then."""
    iteration = report['iteration']
    place = f' in {report["what"]}' * bool(report['what']) + f' after iteration {iteration}' * (
        iteration is not None
    )
    verb = {'hung': 'hangs', 'failed': 'failed', 'stopped': 'stopped'}[report['kind']]
    trace = report['traceback'].rstrip() if place else ''
    who = f'rank {report["rank"]} of {report["count"]} ' * (not report.get('alike'))
    head = f'{who}{verb}{place}: ' if who else f'{report["what"]} {verb}: ' * bool(place)
    return f'{head}{report["text"]}' + f'\n{trace}' * bool(trace)


def _is_lost(error):
    """Whether an error says no more than that the connection to another rank was lost."""
    return isinstance(error, dist.DistError) or bool(
        re.search(r'gloo/|NCCL|Connection (closed|reset)', str(error))
    )


def first_report(shared):
    """The report of what ended the world first, or None."""
    return json.loads(shared.get('first')) if shared.check(['first']) else None


def _post(shared, report):
    """Posts a report, unless there is one -> that which stands."""
    report = {'rank': rank(), 'count': count(), **report}
    return json.loads(shared.compare_set('first', '', json.dumps(report)))


def last_seen(shared, place, stage=''):
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
        self.first = self.first or first_report(self.store)
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
                self.first = _post(self.store, {**report, **last_seen(self.store, report['rank'], stage)})
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
