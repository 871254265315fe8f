"""What the training loop does besides iterating: the log, the display, snapshots, and states to go on from.

A hook has any of on_start(loop), on_step(loop, record), on_end(loop) (all iterations are done) and on_exit(loop)
(however it ended). loop: the SolverWrapper, with solver, data_layer, prefix, max_iters, and pace, seconds per
iteration. record: a line of the log, as a dict; it has its losses from the time on that they are read, with the
display at the latest (fast_rcnn.losses). All workers call the same hooks; the first one writes.
"""

import itertools
import json
import logging
import os
import signal
import sys
import threading
import time

import caffe
from caffe.launch import SAME, Interrupted
from caffe.parallel import barrier as meet
from caffe.parallel import gather
from tqdm import tqdm

from fast_rcnn.board import summary_writer
from fast_rcnn.draws import generators, set_generators
from utils.files import atomic_path
from utils.progress import span

log = logging.getLogger(__name__)


class Log:
    """Appends each iteration's record to <prefix>_log.jsonl, behind those before the first iteration done now. The log
    of an earlier training stays, as <prefix>_log.jsonl.1, .2 ..."""

    def on_start(self, loop):
        self.path, self.waiting = f'{loop.prefix}_log.jsonl', []
        if caffe.solver_rank() == 0 and os.path.exists(self.path):
            with open(self.path) as stream:
                lines = list(stream)
            if not loop.solver.iter:
                os.rename(self.path, _unused(self.path))
            elif len(lines) > loop.solver.iter:
                with atomic_path(self.path) as temporary, open(temporary, 'w') as stream:
                    stream.writelines(lines[: loop.solver.iter])

    def on_step(self, loop, record):
        self.waiting.append(record)
        if 'smoothed_loss' in record:
            self._write()

    def on_exit(self, loop):
        self._write()

    def _write(self):
        records, self.waiting = self.waiting, []
        if caffe.solver_rank() == 0:
            try:
                with open(self.path, 'a') as stream:
                    stream.writelines(json.dumps(r) + '\n' for r in records if 'smoothed_loss' in r)
            except OSError as error:  # a full disk's names no file
                raise OSError(error.errno, error.strerror, self.path) from error


class Board:
    """Writes the log's numbers for TensorBoard, to <prefix>_board: losses as loss/<name>, lr, seconds. A training that goes on
    hides what an earlier one wrote of the iterations after that. Without the package tensorboard a line says so."""

    def on_start(self, loop):
        self.writer, self.waiting = None, []
        if caffe.solver_rank() == 0:
            self.writer = summary_writer(f'{loop.prefix}_board', purge_step=loop.solver.iter + 1)

    def on_step(self, loop, record):
        if self.writer:
            self.waiting.append(record)
            if 'smoothed_loss' in record:
                self._write()

    def on_exit(self, loop):
        if self.writer:
            self._write()
            self.writer.close()

    def _write(self):
        records, self.waiting = self.waiting, []
        for record in records:
            if 'smoothed_loss' in record:
                for name, value in record.items():
                    if name != 'iteration':
                        tag = name if name in ('lr', 'seconds') else f'loss/{name}'
                        self.writer.add_scalar(tag, value, record['iteration'])


def _unused(path):
    """path.1, or the first such that is free."""
    return next(name for name in (f'{path}.{n}' for n in itertools.count(1)) if not os.path.exists(name))


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
            disable=caffe.solver_rank() > 0 or not sys.stderr.isatty(),
            desc=self.title or os.path.basename(loop.prefix),
        )

    def on_step(self, loop, record):
        self.bar.update()
        iteration = record['iteration']
        due = self.every and iteration % self.every == 0
        if caffe.solver_rank() == 0 and (due or iteration in (self.first, loop.max_iters)):
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


class Validation:
    """Every so many iterations and at the end, a snapshot and test(its path) -> a figure, the same at all workers. best: the
    path of the snapshot with the highest, the first of equals; others' are removed. Ends the training when `patience`
    figures in a row (0: any number) were no better. What was found is kept in <prefix>_validation.json, for a training that
    goes on. Draws of the training are those that it has without tests."""

    def __init__(self, every, patience, test):
        self.every, self.patience, self.test = every, patience, test

    def on_start(self, loop):
        self.path, self.found = f'{loop.prefix}_validation.json', []
        if loop.solver.iter and os.path.exists(self.path):
            with open(self.path) as stream:
                found = json.load(stream)
            self.found = [one for one in found if one['iteration'] <= loop.solver.iter]
        loop.ended = self._is_over()

    @property
    def best(self):
        return max(self.found, key=lambda one: one['figure'])['snapshot']

    def _is_over(self):
        figures = [one['figure'] for one in self.found]
        return (
            bool(self.patience and figures)
            and len(figures) - 1 - figures.index(max(figures)) >= self.patience
        )

    def on_step(self, loop, record):
        if record['iteration'] % self.every == 0 and record['iteration'] < loop.max_iters:
            self._look(loop)

    def on_end(self, loop):
        if not self.found or self.found[-1]['iteration'] < loop.solver.iter:
            self._look(loop)

    def _look(self, loop):
        path, draws = loop.snapshot(), generators()
        meet()  # the first worker has written it
        figure = float(self.test(path))
        set_generators(draws)
        before = {one['snapshot'] for one in self.found}
        self.found.append({'iteration': loop.solver.iter, 'figure': figure, 'snapshot': path})
        loop.ended = self._is_over()
        if caffe.solver_rank() == 0:
            log.info('iteration %d: %.4f, the best is %s', loop.solver.iter, figure, self.best)
            if loop.ended:
                log.info('the last %d were no better: training ends', self.patience)
            with atomic_path(self.path) as temporary, open(temporary, 'w') as stream:
                json.dump(self.found, stream, indent=1)
            for old in filter(os.path.exists, {*before, path} - {self.best}):
                os.remove(old)


class Checkpoints:
    """Writes the state that this training goes on from: every so many minutes, with every snapshot, at the end, and on
    SIGINT and SIGTERM at any worker, which then end it (Interrupted) at all of them after the same iteration; the
    second signal, if it is not the first one come by another way, ends a worker at once."""

    def __init__(self, minutes, snapshot_iters):
        self.seconds, self.snapshot_iters = 60 * minutes, snapshot_iters
        self.signal, self.since, self.before = None, 0, {}

    def on_start(self, loop):
        self.saved = time.monotonic()
        loop.solver.requested_action = self._request
        if threading.current_thread() is threading.main_thread():
            for number in signal.SIGINT, signal.SIGTERM:
                if signal.getsignal(number) is not signal.SIG_IGN:  # what a parent had ignored stays so
                    self.before[number] = signal.signal(number, self._note)

    def _note(self, number, frame):
        if self.signal and time.monotonic() - self.since > SAME:
            raise Interrupted('stopped at once; the last state written stands', number)
        if not self.signal:
            self.signal, self.since = number, time.monotonic()

    def _request(self):
        """Asked in each iteration; the solvers of all workers do what one of them answers."""
        due = self.seconds and time.monotonic() - self.saved >= self.seconds
        return 'stop' if self.signal else 'checkpoint' if due else None

    def on_step(self, loop, record):
        iteration = record['iteration']
        last = iteration == loop.max_iters
        if not (loop.solver.action or last or iteration % self.snapshot_iters == 0):
            return
        signals = [number for number in gather(self.signal) if number]
        if signals or not last:
            loop.checkpoint()
            self.saved = time.monotonic()
        if signals:
            raise Interrupted(
                f'stopped after iteration {iteration} of {loop.max_iters}; the same command goes on from there',
                signals[0],
            )

    def on_end(self, loop):
        loop.checkpoint(keep=1)

    def on_exit(self, loop):
        loop.solver.requested_action = lambda: None
        for number, handler in self.before.items():
            signal.signal(number, handler)
