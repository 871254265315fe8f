#!/usr/bin/env python3
"""Alternating optimization on drawn shapes, killed again and again: any process, at any moment, in every stage. The same
command must each time go on, and end with what the undisturbed run ended with: on one process the same bytes of the
final weights, on several the same weights but for rounding; and the same mean AP, which is well above 0.

    python tests/kill_test.py [--kills 20] [--gpu cpu|cpu:2] [--iters 40] [--stages 1|2] [--seed 0] [--folder F]

The kills are spread over the beginning, all stages and the test, at random moments of each; of the kinds of processes
at work by then (the command, its workers, their stages' processes, the readers of images forked by these) the one is killed
that was hit least. A line for each says what was hit. Exit status 0: all held. `--kills 20 --gpu cpu:2` took
14 minutes on two cores that other work used too; the first line says how long the undisturbed run took.

Linux only. F (default: a temporary folder) gets a copy of the project, and keeps what every run printed.
"""

import argparse
import collections
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

SIDE = 96  # pixels of an image: one block on a dark ground, which 40 iterations are enough to find
YAML = f"""\
name: drawn
format: voc
root: .
classes: [block]
splits: {{train: ImageSets/Main/train.txt, val: ImageSets/Main/val.txt}}
train: train
test: val
anchors: {{scales: [2, 3], ratios: [1]}}
cfg:
  TRAIN: {{SCALES: [{SIDE}], RPN_MIN_SIZE: 8, RPN_BATCHSIZE: 32, BATCH_SIZE: 32, RPN_POST_NMS_TOP_N: 50}}
  TEST: {{SCALES: [{SIDE}], RPN_MIN_SIZE: 8, RPN_POST_NMS_TOP_N: 20}}
"""
STATES = ['TRAIN.CHECKPOINT_MINUTES', '0.01']  # so often that many kills hit the writing of one
END = 600  # seconds in which a command comes to its end, after a kill too
BEGIN, MARK = 'the beginning', re.compile(r'(stage\w+): starts, log|(test) on ')
ROUNDING = 1e-3  # of a blob's largest weight
AP_ROUNDING = 0.01


def write_shapes(folder, train=12, val=8):
    """A devkit of images with a block in each, and drawn.yml to train by."""
    import cv2
    import numpy as np
    from devkits import obj, write, write_xml

    rng = np.random.default_rng(1)
    (folder / 'JPEGImages').mkdir(parents=True)
    for split, count in ('train', train), ('val', val):
        names = [f'{split}{i}' for i in range(count)]
        for name in names:
            w, h = (int(side) for side in rng.integers(32, 61, 2))
            x, y = (int(rng.integers(0, SIDE - side)) for side in (w, h))
            image = rng.normal(60, 10, (SIDE, SIDE, 3))
            image[y : y + h, x : x + w] += 120
            cv2.imwrite(str(folder / 'JPEGImages' / f'{name}.png'), np.clip(image, 0, 255).astype(np.uint8))
            write_xml(
                folder / 'Annotations' / f'{name}.xml', [obj('block', x + 1, y + 1, x + w, y + h)], SIDE, SIDE
            )
        write(folder / 'ImageSets' / 'Main' / f'{split}.txt', '\n'.join(names) + '\n')
    write(folder / 'drawn.yml', YAML)


class Run:
    """The recipe in a copy of the project, running; its processes carry a mark in their environment.

    seen: {moment: when its line was first seen}, BEGIN first."""

    def __init__(self, project, name, args):
        from tool_runs import ENVIRONMENT

        self.mark, self.path = f'KILL_TEST={uuid.uuid4().hex}', project / f'{name}.{time.monotonic_ns()}.txt'
        words = ['experiments/scripts/faster_rcnn_alt_opt.sh', args.gpu, 'ResNet-10', 'drawn/drawn.yml']
        words += ['--max_iters', str(args.iters), '--stages', str(args.stages)]
        settings = [*STATES, 'TRAIN.LOADER_WORKERS', str(args.loaders), 'EXP_DIR', name]
        self.seen = {BEGIN: time.monotonic()}
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

    def look(self):
        """The moments that it has come to, the last one last."""
        for stage, test in MARK.findall(self.output):
            self.seen.setdefault(stage or test, time.monotonic())
        return list(self.seen)

    def processes(self):
        """{process id: (parent's id, rank or None, its command line)} of all that this command started and that are
        still there."""
        found = {}
        for folder in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):  # it ended just now
                environment = (folder / 'environ').read_text(errors='replace').split('\0')
                if self.mark in environment:
                    rank = dict(one.split('=', 1) for one in environment if '=' in one).get('RANK')
                    parent = (folder / 'stat').read_text().rpartition(')')[2].split()[1]
                    words = (folder / 'cmdline').read_text().replace('\0', ' ')
                    found[int(folder.name)] = int(parent), rank, words
        return found

    def working(self):
        """{process id: what it is} of those that do the work; the tracker of shared memory and the one that keeps the
        log live through all."""
        found, kinds = self.processes(), {}
        for pid, (parent, rank, words) in found.items():
            of = f' of worker {rank}' * (rank is not None)
            if found.get(parent, ())[1:] == (rank, words):  # forked
                kinds[pid] = f'a reader{of}'
            elif 'spawn_main' in words:
                kinds[pid] = f"a stage's process{of}"
            elif 'recipe.py' in words:
                kinds[pid] = f'worker {rank}' if rank is not None else 'the command'
        return kinds

    def wait_for(self, condition, seconds):
        """Whether condition() came to hold in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.05)
        return False

    def ends(self):
        """The exit status, once no process is left."""
        if not self.wait_for(lambda: self.look() and self.over and not self.processes(), END):
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
    return Path(final), float(re.findall(r'Mean AP = (.*)', output)[-1])


def kill_once(run, rng, hits, later, seconds):
    """Kills one process of a run, `seconds` after it has come to one of the moments `later`, and counts it in `hits`,
    {what: number} -> words for what was killed and when, or None: the run was over before."""
    run.wait_for(lambda: run.over or set(later) & set(run.look()), 10 * END)
    run.wait_for(lambda: run.look() and run.over, seconds)
    run.wait_for(lambda: run.over or run.working(), END)
    working = run.working()
    if run.over or not working:
        run.ends()
        return None
    pid = min(sorted(working), key=lambda pid: (hits[working[pid]], rng.random()))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    moment, now = run.look()[-1], time.monotonic()
    after = now - run.seen[moment]
    hits[working[pid]] += 1
    run.ends()
    return f'{working[pid]}, {after:.1f} s into {moment}, {time.monotonic() - now:.1f} s until all had ended'


def apart(first, second):
    """How far two files of weights are apart: by the largest weight of a blob; 0: their bytes are the same."""
    if first.read_bytes() == second.read_bytes():
        return 0
    from world_training import weights_apart

    return weights_apart(first, second) or sys.float_info.min


def compare(undisturbed, ended, exact):
    """Words that say how (weights, mean AP) of a run that was killed agree with the undisturbed one's."""
    distance = apart(undisturbed[0], ended[0])
    assert distance <= (0 if exact else ROUNDING), f'{undisturbed[0]} and {ended[0]} differ by {distance}'
    assert abs(ended[1] - undisturbed[1]) <= (AP_ROUNDING if distance else 0), (
        f'mean AP {ended[1]}, undisturbed {undisturbed[1]}'
    )
    return f'{f"weights within {distance:.1e}" if distance else "the same bytes"}, mean AP {ended[1]}'


def kill_test(project, args):
    """The whole test in a copy of the project -> {what was killed: how often}."""
    write_shapes(project / 'drawn')
    rng, hits, rounds = random.Random(args.seed), collections.Counter(), 0
    run = Run(project, 'undisturbed', args)
    undisturbed = finished(run)
    times = [*run.seen.values(), time.monotonic()]
    moments = {name: end - start for name, start, end in zip(run.seen, times, times[1:])}
    told = ', '.join(f'{name} {seconds:.0f} s' for name, seconds in moments.items())
    print(f'undisturbed: {told}; mean AP {undisturbed[1]}', flush=True)
    assert undisturbed[1] >= args.least_ap, f'mean AP {undisturbed[1]}: to compare that says nothing'
    while hits.total() < args.kills:
        name, rounds = f'killed{rounds}', rounds + 1
        while hits.total() < args.kills:
            later = list(moments)[(2 * hits.total() + 1) * len(moments) // (2 * args.kills) :]
            seconds = rng.uniform(0, 0.9 * moments[later[0]])
            killed = kill_once(Run(project, name, args), rng, hits, later, seconds)
            if killed is None:
                break
            print(f'kill {hits.total()}: {killed}', flush=True)
        print(
            f'{name}: {compare(undisturbed, finished(Run(project, name, args)), args.gpu == "cpu")}',
            flush=True,
        )
    return hits


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--gpu', default='cpu', help='cpu, or cpu:N: so many workers')
    parser.add_argument('--iters', type=int, default=40, help='of each training stage')
    parser.add_argument('--stages', type=int, default=2, help='1: ends after the first round')
    parser.add_argument('--loaders', type=int, default=1, help="processes that make a worker's minibatches")
    parser.add_argument('--least-ap', type=float, default=0.1, help='that the undisturbed run must reach')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder')
    return parser


def main():
    from tool_runs import copy_project

    args, began = options().parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(args.folder or folder) / 'project'
        if project.exists():
            sys.exit(f'--folder {args.folder}: {project} is there already, from an earlier test')
        project.mkdir(parents=True)
        try:
            hits = kill_test(copy_project(project), args)
        except AssertionError as error:
            sys.exit(f'this does not hold: {error}')
    told = ', '.join(f'{what} {count}' for what, count in sorted(hits.items()))
    print(f'all held after {hits.total()} kills, in {time.monotonic() - began:.0f} s: {told}')


if __name__ == '__main__':
    main()
