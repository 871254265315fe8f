"""What the training loop does besides iterating: the log, the display, snapshots, and states to go on from.

A hook has any of on_start(loop), on_step(loop, record), on_end(loop) (all iterations are done) and on_exit(loop)
(however it ended). loop: the SolverWrapper, with solver, data_layer, prefix, max_iters, and pace, seconds per
iteration. record: a line of the log, as a dict.
"""

import json
import logging
import os
import signal
import sys
import threading
import time

import caffe
from tqdm import tqdm

from fast_rcnn import resume
from utils.files import atomic_path
from utils.progress import span

log = logging.getLogger(__name__)


class Log:
    """Appends each iteration's record to <prefix>_log.jsonl, behind those before the first iteration done now."""

    def on_start(self, loop):
        self.path = f'{loop.prefix}_log.jsonl'
        lines = open(self.path).readlines() if os.path.exists(self.path) else []
        if caffe.solver_rank() == 0:
            with atomic_path(self.path) as temporary, open(temporary, 'w') as stream:
                stream.writelines(lines[: loop.solver.iter])

    def on_step(self, loop, record):
        if caffe.solver_rank() == 0:
            with open(self.path, 'a') as stream:
                stream.write(json.dumps(record) + '\n')


class Display:
    """One line every `display` iterations of the solver file (and of the first and last one): how far, the smoothed
    loss, the rate, the pace and the time left; on a terminal also a bar. verbose: Caffe's lines as well.

    title: what is trained, e.g. 'stage 2 of 6'. after(loop): seconds that the work behind this training will
    take, where that is known; the line then has the time left in all. began: when all of it began (time.time()).
    """

    def __init__(self, title='', after=None, verbose=False, began=None):
        self.title, self.after, self.verbose, self.began = title, after, verbose, began

    def on_start(self, loop):
        self.every = loop.solver.param.display
        if not self.verbose:
            loop.solver.param.display = 0
        self.first = loop.solver.iter + 1
        self.bar = tqdm(
            total=loop.max_iters,
            initial=loop.solver.iter,
            disable=not sys.stderr.isatty(),
            desc=self.title or os.path.basename(loop.prefix),
        )

    def on_step(self, loop, record):
        self.bar.update()
        iteration = record['iteration']
        due = self.every and iteration % self.every == 0
        if due or iteration in (self.first, loop.max_iters):
            with tqdm.external_write_mode(file=sys.stderr):
                log.info('%s', self.line(loop, record))

    def line(self, loop, record):
        """The display's line for a record."""
        left = (loop.max_iters - record['iteration']) * loop.pace
        words = [
            f'iteration {record["iteration"]}/{loop.max_iters}',
            f'loss {record["smoothed_loss"]:.4g}',
            f'lr {record["lr"]:g}',
            f'{loop.pace:.3g} s/iter',
            f'{span(left)} left',
        ]
        if self.after:
            words.append(f'{span(left + self.after(loop))} left in all')
        if self.began:
            words.append(f'{span(time.time() - self.began)} so far')
        return ', '.join(([self.title] if self.title else []) + words)

    def on_exit(self, loop):
        loop.solver.param.display = self.every
        self.bar.close()


class Snapshots:
    """Snapshots every so many iterations, and at the end; paths: those written."""

    def __init__(self, every):
        self.every, self.paths = every, []

    def on_step(self, loop, record):
        if record['iteration'] % self.every == 0 and record['iteration'] < loop.max_iters:
            self.paths.append(loop.snapshot())

    def on_end(self, loop):
        self.paths.append(loop.snapshot())


class Interrupted(KeyboardInterrupt):
    """The training was stopped by a signal, and goes on from there. status: the exit status that says so."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


class Resume:
    """Writes the state that an interrupted training goes on from: every so many minutes, with every snapshot, and on
    SIGINT and SIGTERM, which then end it (Interrupted) after the iteration; the second signal ends it at once."""

    def __init__(self, mark, minutes, snapshot_iters):
        self.mark, self.seconds, self.snapshot_iters = mark, 60 * minutes, snapshot_iters
        self.signal, self.before = None, {}

    def on_start(self, loop):
        self.saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in signal.SIGINT, signal.SIGTERM:
                if signal.getsignal(number) is not signal.SIG_IGN:  # what a parent had ignored stays so
                    self.before[number] = signal.signal(number, self._note)

    def _note(self, number, frame):
        if self.signal:
            raise Interrupted('stopped at once; the last state written stands', number)
        self.signal = number

    def on_step(self, loop, record):
        iteration = record['iteration']
        due = self.seconds and time.monotonic() - self.saved >= self.seconds
        due = due or iteration % self.snapshot_iters == 0
        if self.signal or due and iteration < loop.max_iters:
            resume.save(loop.solver, loop.data_layer, loop.prefix, self.mark)
            self.saved = time.monotonic()
        if self.signal:
            raise Interrupted(
                f'stopped after iteration {iteration} of {loop.max_iters}; the same command goes on from there',
                self.signal,
            )

    def on_end(self, loop):
        resume.remove(loop.prefix)

    def on_exit(self, loop):
        for number, handler in self.before.items():
            signal.signal(number, handler)
