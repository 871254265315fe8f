"""A manifest of what is done of a long job in steps, to go on where it stopped.

A step is a function `function(job)` that writes one file and returns its path. `job` holds plain values; a
`File` among them names a file that the step reads, and counts by what is in it. A step is skipped when the
manifest has it as done with the same job and its file is still the one that it wrote.
"""

import hashlib
import json
import logging
import os
import time

from caffe import world

from pipeline.child import StageError, run_in_child
from utils.files import atomic_path

log = logging.getLogger(__name__)


class File(str):
    """The path of a file that a step reads: when the file changes, the step's settings have changed."""


class Manifest:
    """What is done of one job, kept as JSON in `path` and replaced in one piece after every step.

    ignore: dotted names of the values in a job that do not decide its result. assumed: {dotted name: value} of those
    that a job had before there was such a name.
    A step's log is named after `path` and the step: `<path less .json>_<step>.log`.
    """

    def __init__(self, path, ignore=(), assumed=None):
        self.path = path
        self.ignore = ignore
        self.assumed = dict(_flat(assumed or {}))
        self.done = {}
        if os.path.exists(path):
            with open(path) as f:
                self.done = _parse(path, f.read())

    def run(self, name, function, job):
        """The file that step `name` writes: the one already there, or that of `function(job)` in a child. In a world
        of workers rank 0 decides, and keeps the manifest; each rank has a child of its own."""
        settings, done, start = None, None, time.time()
        if world.rank() == 0:
            settings = {key: value for key, value in _flat(job) if key not in self.ignore}
            done = self._standing(name, settings)
        done = world.agree(f'{name} is done', done)
        if done:
            return done
        result = run_in_child(name, function, job, f'{os.path.splitext(self.path)[0]}_{name}.log')
        world.meet(f'{name} ends')
        if world.rank() == 0:
            entry = {'result': result, 'file': _stamp(result), 'settings': settings}
            self._write({**self.done, name: {**entry, 'seconds': round(time.time() - start, 1)}})
        return world.agree(f'{name} made', result)

    def _standing(self, name, settings):
        """The file of step `name` if it stands as it is; else the step is noted as not done."""
        changed = self._changed(name, settings)
        if changed is None:
            log.info('%s: done before, %s', name, self.done[name]['result'])
            return self.done[name]['result']
        if changed:
            log.info('%s: done before, but again now, since this changed: %s', name, ', '.join(changed))
        self._write({step: entry for step, entry in self.done.items() if step != name})
        return None

    def _changed(self, name, settings):
        """None where step `name` stands as it is, else what changed since (nothing: it never was done)."""
        if name not in self.done:
            return []
        entry = self.done[name]
        if _stamp(entry['result']) != entry['file']:
            return [f'{entry["result"]} (missing or rewritten)']
        assumed = {name: value for name, value in self.assumed.items() if name in settings}
        return _differences({**assumed, **entry['settings']}, settings) or None

    def _write(self, done):
        self.done = done
        with atomic_path(self.path) as temporary, open(temporary, 'w') as f:
            json.dump(done, f, indent=1)


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
