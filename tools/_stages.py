"""Long jobs in steps: each in a child process, with a manifest of what is done, to go on where it stopped.

A step is a function `function(job)` that writes one file and returns its path. `job` holds plain values; a
`File` among them names a file that the step reads, and counts by what is in it. A step is skipped when the
manifest has it as done with the same job and its file is still the one that it wrote.
"""

import faulthandler
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing import connection

log = logging.getLogger(__name__)


class StageError(RuntimeError):
    """A step failed or its process died; the message names the step, the cause and the log."""


class File(str):
    """The path of a file that a step reads: when the file changes, the step's settings have changed."""


class Manifest:
    """What is done of one job, kept as JSON in `path` and replaced in one piece after every step.

    ignore: dotted names of the values in a job that do not decide its result.
    A step's log is named after `path` and the step: `<path less .json>_<step>.log`.
    """

    def __init__(self, path, ignore=()):
        self.path = path
        self.ignore = ignore
        self.done = {}
        if os.path.exists(path):
            with open(path) as f:
                self.done = _parse(path, f.read())

    def run(self, name, function, job):
        """The file that step `name` writes: the one already there, or that of `function(job)` in a child."""
        settings = {key: value for key, value in _flat(job) if key not in self.ignore}
        changed = self._changed(name, settings)
        if changed is None:
            log.info('%s: done before, %s', name, self.done[name]['result'])
            return self.done[name]['result']
        if changed:
            log.info('%s: done before, but again now, since this changed: %s', name, ', '.join(changed))
        self._write({step: entry for step, entry in self.done.items() if step != name})
        start = time.time()
        result = run_in_child(name, function, job, f'{os.path.splitext(self.path)[0]}_{name}.log')
        self._write(
            {
                **self.done,
                name: {
                    'result': result,
                    'file': _stamp(result),
                    'settings': settings,
                    'seconds': round(time.time() - start, 1),
                },
            }
        )
        return result

    def _changed(self, name, settings):
        """None where step `name` stands as it is, else what changed since (nothing: it never was done)."""
        if name not in self.done:
            return []
        entry = self.done[name]
        if _stamp(entry['result']) != entry['file']:
            return [f'{entry["result"]} (missing or rewritten)']
        return _differences(entry['settings'], settings) or None

    def _write(self, done):
        self.done = done
        os.makedirs(os.path.dirname(self.path) or '.', exist_ok=True)
        temporary = f'{self.path}.{os.getpid()}.tmp'
        with open(temporary, 'w') as f:
            json.dump(done, f, indent=1)
        os.replace(temporary, self.path)


def run_in_child(name, function, job, log_path):
    """`function(job)` in a process of its own, whose memory goes with it.

    Raises StageError when the function raises, and when the process dies without a word; never waits for a
    dead one.
    """
    log.info('%s: starts, log %s', name, log_path)
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, function, job, log_path), name=name)
    start = time.time()
    child.start()
    theirs.close()
    try:
        result, error = _wait(ours, child)
    finally:
        _end(child)
        ours.close()
    if error:
        raise StageError(
            f'{name} failed after {time.time() - start:.0f} s: {error}\n'
            f'Its log: {log_path}\nThe same command goes on from {name}.'
        )
    return result


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
        except Exception as e:  # whatever it is, the parent is told and raises
            log.error('%s', traceback.format_exc())
            report = None, f'{type(e).__name__}: {e}'
        theirs.send(report)
        faulthandler.disable()


def _die_with_parent():
    """No step outlives the command that started it."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _flat(job, prefix=''):
    """(dotted name, value as JSON has it) of everything in a job; of a File also what is in it."""
    for key, value in job.items():
        if isinstance(value, dict):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield prefix + key, json.loads(json.dumps(value, default=lambda array: array.tolist()))
            if isinstance(value, File):
                yield f'{prefix}{key} (content)', _digest(value)


def _differences(old, new):
    """The names whose values differ, with old and new value."""
    return [
        f'{key} ({_change(old.get(key), new.get(key))})'
        for key in sorted(set(old) | set(new))
        if old.get(key) != new.get(key)
    ]


def _change(old, new):
    if isinstance(old, list) and isinstance(new, list):
        lost, come = [v for v in old if v not in new], [v for v in new if v not in old]
        if lost or come:
            return _short(', '.join([f'-{v}' for v in lost] + [f'+{v}' for v in come]))
    return f'{_short(old)} -> {_short(new)}'


def _short(value, most=40):
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + '...'


def _stamp(path):
    """Enough of a file's state to see that it was replaced: size and time; None where there is none."""
    return [os.path.getsize(path), os.stat(path).st_mtime_ns] if os.path.exists(path) else None


def _digest(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        for block in iter(lambda: f.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _parse(path, text):
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise StageError(
            f'{path} is not the JSON that this command writes ({e}); remove it to start over'
        ) from e
