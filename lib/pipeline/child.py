"""Work in a process of its own: its memory goes with it, its end is reported, it never outlives its parent.

Ctrl-C or SIGTERM at the parent is passed on as SIGTERM, and waited for: the work may save what it has. In a world of
workers each rank has such a process; the watch in it (caffe.watch) goes by the step's name.
"""

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import time
import traceback
from multiprocessing import connection

from caffe import launch, watch, world

from fast_rcnn.hooks import Interrupted

log = logging.getLogger(__name__)


class StageError(RuntimeError):
    """A step failed or its process died; the message names the step, the cause and the log. stage: the step."""

    def __init__(self, message, stage=''):
        super().__init__(message)
        self.stage = stage


def run_in_child(name, function, job, log_path):
    """`function(job)` in a process of its own. log_path: what it logs, besides the terminal; that of a rank beyond 0
    has the rank in its name, too.

    Errors: StageError when the function raises, and when the process dies without a word; Interrupted after a
    signal, here or there.
    """
    if world.rank():
        log_path = f'_rank{world.rank()}'.join(os.path.splitext(log_path))
    log.info('%s: starts, log %s', name, log_path)
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, function, job, log_path), name=name)
    start = time.time()
    with _started(child) as received:
        theirs.close()
        try:
            with watch.busy(name):
                result, error, status = _wait(ours, child)
        finally:
            _end(child)
            ours.close()
    if error and (received or status):
        stopped = f'stopped; the same command goes on from {name}'  # what it reports itself says more
        raise Interrupted(
            f'{name}: {error}' if status else stopped, received[0][0] if received else status - 128
        )
    if error:
        raise StageError(
            f'{name} failed after {time.time() - start:.0f} s: {error}. Its log: {log_path}. '
            f'The same command goes on from {name}',
            name,
        )
    return result


@contextlib.contextmanager
def _started(child):
    """Starts the child; SIGINT and SIGTERM then go to it (see launch.pass_on): a list of those that came. Itself it
    ignores SIGINT, which a terminal sends to both on Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        child.start()
        yield launch.pass_on([child.pid])
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _wait(ours, child):
    """(result, error, the exit status that says it was stopped) of a child: what it reported, or what ended it."""
    connection.wait([ours, child.sentinel])
    try:
        if ours.poll():
            return ours.recv()
    except EOFError:
        pass
    child.join()
    return None, launch.ending(child.exitcode), None


def _end(child, seconds=30):
    """Sees a child out: one that has reported gets `seconds` to tidy up."""
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()


def _child(theirs, function, job, log_path):
    """Runs in the child: the log, the work, the report."""
    world.die_with(multiprocessing.parent_process().pid)
    with open(log_path, 'w') as log_file:
        faulthandler.enable(log_file)
        terminal, rank = logging.StreamHandler(), world.rank()
        terminal.setLevel(logging.ERROR if rank else logging.INFO)
        logging.basicConfig(
            level=logging.INFO,
            format=f'%(asctime)s {f"rank {rank}: " if rank else ""}%(message)s',
            datefmt='%H:%M:%S',
            handlers=[terminal, logging.StreamHandler(log_file)],
        )
        try:
            watch.begin(multiprocessing.current_process().name)
            report = function(job), None, None
            watch.done()
        except KeyboardInterrupt as e:
            watch.failed(e)
            report = None, str(e) or 'interrupted', getattr(e, 'status', 130)
        except Exception as e:  # whatever it is, the parent is told and raises
            log_file.write(traceback.format_exc())
            watch.failed(e)
            report = None, f'{type(e).__name__}: {e}', None
        theirs.send(report)
        faulthandler.disable()
