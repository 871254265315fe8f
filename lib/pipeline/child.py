"""Work in a process of its own: its memory goes with it, its end is reported, it never outlives its parent.

Ctrl-C or SIGTERM at the parent is passed on as SIGTERM, and waited for: the work may save what it has.
"""

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing import connection

from fast_rcnn.hooks import Interrupted

log = logging.getLogger(__name__)


class StageError(RuntimeError):
    """A step failed or its process died; the message names the step, the cause and the log."""


def run_in_child(name, function, job, log_path):
    """`function(job)` in a process of its own. log_path: what it logs, besides the terminal.

    Errors: StageError when the function raises, and when the process dies without a word; Interrupted after a
    signal here.
    """
    log.info('%s: starts, log %s', name, log_path)
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, function, job, log_path), name=name)
    start = time.time()
    with _started(child) as received:
        theirs.close()
        try:
            result, error = _wait(ours, child)
        finally:
            _end(child)
            ours.close()
    if error and received:
        stopped = f'stopped; the same command goes on from {name}'  # what it reports itself says more
        raise Interrupted(stopped if child.exitcode else f'{name}: {error}', received[0])
    if error:
        raise StageError(
            f'{name} failed after {time.time() - start:.0f} s: {error}. Its log: {log_path}. '
            f'The same command goes on from {name}'
        )
    return result


@contextlib.contextmanager
def _started(child):
    """Starts the child; SIGINT and SIGTERM then go to it as SIGTERM, the second time as SIGKILL: a list of
    those that came. Itself it ignores SIGINT, which a terminal sends to both on Ctrl-C."""
    received = []

    def pass_on(number, frame):
        received.append(number)
        os.kill(child.pid, signal.SIGTERM if len(received) == 1 else signal.SIGKILL)
        log.info('%s: %s', child.name, 'stops; once more kills it' if len(received) == 1 else 'killed')

    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        child.start()
        signal.signal(signal.SIGINT, pass_on)
        signal.signal(signal.SIGTERM, pass_on)
        yield received
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _wait(ours, child):
    """(result, error) of a child: what it reported, or what ended it."""
    connection.wait([ours, child.sentinel])
    try:
        if ours.poll():
            return ours.recv()
    except EOFError:
        pass
    child.join()
    return None, _ending(child.exitcode)


def _ending(code):
    """How a process ended that reported nothing, in words."""
    if code >= 0:
        return f'its process ended with exit code {code} and no result'
    try:
        which = signal.Signals(-code).name
    except ValueError:
        which = f'signal {-code}'
    return f'its process was killed by {which}' + (' (out of memory?)' if which == 'SIGKILL' else '')


def _end(child, seconds=30):
    """Sees a child out: one that has reported gets `seconds` to tidy up."""
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()


def _child(theirs, function, job, log_path):
    """Runs in the child: the log, the work, the report."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with open(log_path, 'w') as log_file:
        faulthandler.enable(log_file)
        logging.basicConfig(
            level=logging.INFO,
            format='%(asctime)s %(message)s',
            datefmt='%H:%M:%S',
            handlers=[logging.StreamHandler(), logging.StreamHandler(log_file)],
        )
        try:
            report = function(job), None
        except KeyboardInterrupt as e:
            report = None, str(e) or 'interrupted'
        except Exception as e:  # whatever it is, the parent is told and raises
            log_file.write(traceback.format_exc())
            report = None, f'{type(e).__name__}: {e}'
        theirs.send(report)
        faulthandler.disable()


def _die_with_parent():
    """No step outlives the command that started it."""
    multiprocessing.parent_process().join()
    os._exit(1)
