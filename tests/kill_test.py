#!/usr/bin/env python3
"""Alternating optimization on drawn shapes, killed again and again: any process, at any moment, in every stage. The same
command must each time go on, and end with what the undisturbed run ended with: on one process the same bytes of the
final weights, on several the same weights but for rounding; and the same mean AP.

    python tests/kill_test.py [--kills 20] [--gpu cpu|cpu:2] [--iters 6] [--stages 1|2] [--seed 0] [--folder F]

Linux only. F (default: a temporary folder) gets a copy of the project, and keeps what every run printed.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ('tests', 'data', 'tools', 'lib', 'caffe-fast-rcnn/python')]

SMALL = ['TRAIN.SCALES', '[60]', 'TEST.SCALES', '[60]', 'TEST.RPN_POST_NMS_TOP_N', '20']
STATES = [
    'TRAIN.CHECKPOINT_MINUTES',
    '0.0001',
]  # one after every iteration: many kills hit the writing of one
END = 600  # seconds in which a command comes to its end, after a kill too
STARTS = re.compile(r'(stage\w+): starts, log')


class Run:
    """The recipe in a copy of the project, running; its processes carry a mark in their environment."""

    def __init__(self, project, name, args):
        from tool_runs import ENVIRONMENT

        self.mark, self.path = f'KILL_TEST={uuid.uuid4().hex}', project / f'{name}.{time.monotonic_ns()}.txt'
        words = ['experiments/scripts/faster_rcnn_alt_opt.sh', args.gpu, 'ResNet-10', 'data/toy/toy.yml']
        words += ['--max_iters', str(args.iters), '--stages', str(args.stages)]
        settings = [*SMALL, *STATES, 'TRAIN.LOADER_WORKERS', str(args.loaders), 'EXP_DIR', name]
        with open(self.path, 'w') as out:
            self.process = subprocess.Popen(
                [*words, '--set', *settings],
                cwd=project,
                env={**ENVIRONMENT, **dict([self.mark.split('=')])},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self):
        return self.path.read_text(errors='replace')

    @property
    def over(self):
        return self.process.poll() is not None

    def processes(self):
        """{process id: its command line} of all that this command started and that are still there."""
        found = {}
        for folder in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):  # it ended just now
                if self.mark.encode() in (folder / 'environ').read_bytes():
                    found[int(folder.name)] = (folder / 'cmdline').read_text().replace('\0', ' ')
        return found

    def wait_for(self, condition, seconds):
        """Whether condition() came to hold in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def ends(self):
        """The exit status, once no process is left."""
        if not self.wait_for(lambda: self.over and not self.processes(), END):
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f'still there after {END} s: {left}; {self.path}:\n{self.output[-3000:]}')
        return self.process.returncode


def finished(run):
    """(the final weights' file, the mean AP) of a run that must end well."""
    status, output = run.ends(), run.output
    assert status == 0, f'{run.path}: exit status {status}\n{output[-3000:]}'
    assert 'not gone on from' not in output or 'cut off' in output, f'{run.path}:\n{output[-3000:]}'
    final = re.findall(r'Final model: (.*)', output)[-1]
    return Path(final), re.findall(r'Mean AP = (.*)', output)[-1]


def kill_once(run, rng, stage, seconds):
    """Kills one process of a run at a random moment, within `seconds` of the beginning of the first stage that is not
    before `stage` -> words for what was killed, or None: the run was over before. Of its processes the tracker of shared
    memory and the one that keeps the log do no work: these live."""
    started = lambda: [name for name in STARTS.findall(run.output) if name >= stage]  # noqa: E731
    run.wait_for(lambda: run.over or started(), 10 * END)
    time.sleep(rng.uniform(0, seconds))
    working = {
        pid: words for pid, words in run.processes().items() if re.search('recipe.py|spawn_main', words)
    }
    if run.over or not working:
        return None
    pid = rng.choice(sorted(working))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    run.ends()
    where = (STARTS.findall(run.output) or ['before the first stage'])[-1]
    return (
        where,
        'a child' if 'spawn_main' in working[pid] else 'the command itself',
        f'{time.monotonic() - began:.1f} s until all had ended',
    )


def same(first, second, exact):
    """Whether two files of weights are the same, to rounding unless exact."""
    if exact:
        return first.read_bytes() == second.read_bytes()
    import numpy as np
    from caffe.format.weights import read_weights

    pairs = zip(read_weights(first), read_weights(second), strict=True)
    return all(np.allclose(a, b, 1e-3, 1e-5) for (*_, x), (*_, y) in pairs for a, b in zip(x, y, strict=True))


def kill_test(project, args):
    """The whole test in a copy of the project -> number of kills that hit."""
    rng, kills, round_number = random.Random(args.seed), 0, 0
    began = time.monotonic()
    undisturbed = Run(project, 'undisturbed', args)
    final, mean_ap = finished(undisturbed)
    stages = STARTS.findall(undisturbed.output)
    seconds = (time.monotonic() - began) / (len(stages) + 1)
    print(
        f'undisturbed: {len(stages)} stages, {time.monotonic() - began:.0f} s, mean AP {mean_ap}', flush=True
    )
    while kills < args.kills:
        name, round_number = f'killed{round_number}', round_number + 1
        while kills < args.kills:
            run = Run(project, name, args)
            killed = kill_once(run, rng, stages[kills * len(stages) // args.kills], 1.3 * seconds)
            if killed is None:
                break
            kills += 1
            print(f'kill {kills}: {", ".join(killed)}', flush=True)
        ended, ap = finished(Run(project, name, args))
        assert same(final, ended, args.gpu == 'cpu'), f'{final} and {ended} differ'
        assert ap == mean_ap, f'mean AP {ap}, undisturbed {mean_ap}'
        print(f'{name}: the same weights, mean AP {ap}', flush=True)
    return kills


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--gpu', default='cpu', help='cpu, or cpu:N: so many workers')
    parser.add_argument('--iters', type=int, default=6, help='of each training stage')
    parser.add_argument('--stages', type=int, default=2, help='1: ends after the first round')
    parser.add_argument('--loaders', type=int, default=1, help="processes that make a worker's minibatches")
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder')
    return parser


def main():
    from tool_runs import copy_project

    args = options().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(args.folder or folder) / 'project'
        project.mkdir(parents=True)
        kill_test(copy_project(project), args)


if __name__ == '__main__':
    main()
