"""Trains the recorded run's first RPN and Fast R-CNN in worlds of one, two and three CPU processes, which must agree.

    python tests/world_training.py [--iterations N] [--out DIR]

Real batches of six images: iter_size 6, 3 and 2. Each world's losses are held against those of one process within
LOSS, its weights within WEIGHTS of the largest of a blob. Exit status 0 if all holds. DIR keeps what was trained, in a
folder for each world, with what its workers said when one was stopped, and when one met a loss that is no number.
"""

import argparse
import contextlib
import glob
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ('caffe-fast-rcnn/python', 'lib', 'tests')]

import caffe  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from caffe import parallel  # noqa: E402
from caffe.format.weights import read_weights  # noqa: E402
from fast_rcnn.hooks import Interrupted  # noqa: E402
from fast_rcnn.train import get_training_roidb, train_net  # noqa: E402
from replay_e2e import TRAIN, Replay  # noqa: E402
from utils.files import atomic_path  # noqa: E402

RECORDING = os.path.join(ROOT, 'tests', 'golden', 'e2e')
REAL_BATCH, WORLDS = 6, (2, 3)
LOSS, WEIGHTS = 1e-4, 1e-5
STAGES = 'stage1_rpn', 'stage1_fast_rcnn'


class Drawn:
    """Writes the indices of each pass's images to <out>/drawn_<rank>.json."""

    def __init__(self, out):
        self.path, self.indices = f'{out}/drawn_{caffe.solver_rank()}.json', []

    def on_start(self, loop):
        layer = loop.data_layer
        draw = layer._get_next_minibatch_inds

        def noted():
            indices = draw()
            self.indices += [int(i) for i in indices]
            return indices

        layer._get_next_minibatch_inds = noted

    def on_exit(self, loop):
        with open(self.path, 'w') as stream:
            json.dump(self.indices, stream)


class Stop:
    """SIGTERM comes to the last worker, in an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_step(self, loop, record):
        if record['iteration'] == self.iteration and caffe.solver_rank() == caffe.solver_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Spoil:
    """The last worker's targets are no numbers from the second iteration on. image: of the first such."""

    image = None

    def on_step(self, loop, record):
        if record['iteration'] == 1 and caffe.solver_rank() == caffe.solver_count() - 1:
            layer = loop.data_layer
            make = layer._get_next_minibatch

            def spoiled():
                blobs = make()
                self.image = self.image or layer.images()[0]
                return {**blobs, 'bbox_targets': blobs['bbox_targets'] + np.nan}

            layer._get_next_minibatch = spoiled


def slower(solver, path):
    """A solver of a tenth of the rate, written to path. At 0.02 the last bit decides within 50 iterations: one process
    that begins with weights changed by 1e-7 of their size is off by 3e-4 in its losses from iteration 43 on."""
    with open(solver) as stream:
        text = stream.read()
    with atomic_path(path) as temporary, open(temporary, 'w') as stream:
        stream.write(text.replace('base_lr: 0.02', 'base_lr: 0.002'))
    return path


def train(run, stage, out, iterations, *hooks, **settings):
    """Train a stage of the recorded run -> the path of its last snapshot."""
    has_rpn = stage.endswith('rpn')
    settings = {
        'TRAIN__BATCH_SIZE': 32 * REAL_BATCH,
        'TRAIN__REAL_BATCH_SIZE': REAL_BATCH,
        'TRAIN__SEED_EACH_IMAGE': True,
        'TRAIN__USE_PREFETCH': False,
        'TRAIN__HAS_RPN': has_rpn,
        'TRAIN__BBOX_REG': not has_rpn,
        **settings,
    }
    with run.scope('rpn stages' if has_rpn else 'fast_rcnn stages', **settings):
        imdb = run.imdb(TRAIN)
        imdb.set_proposal_method('gt' if has_rpn else 'rpn')
        imdb.config['rpn_file'] = None if has_rpn else f'proposals_stage1_{TRAIN}'
        np.random.seed(caffe.solver_rank())
        caffe.set_random_seed(3 + caffe.solver_rank())
        solver = os.path.join(run.models, f'{stage}_solver{"60k80k" if has_rpn else "30k40k"}.pt')
        if not has_rpn:
            solver = slower(solver, f'{out}/solver.prototxt')
        return train_net(solver, get_training_roidb(imdb), out, 'init.caffemodel', iterations, hooks=hooks)[
            -1
        ]


def work(out, iterations):
    """What each worker of a world does."""
    run = Replay(RECORDING, out)
    for stage in STAGES:
        train(run, stage, f'{out}/{stage}', iterations, Drawn(f'{out}/{stage}'))
    if caffe.solver_count() == 1:
        return
    stop, fault, spoil = None, None, Spoil()
    try:
        train(run, STAGES[0], f'{out}/stopped', iterations, Stop(1))
    except Interrupted as error:
        stop = str(error)
    if caffe.solver_rank() == 0:
        shutil.copytree(f'{out}/stopped', f'{out}/again')
    parallel.barrier()
    train(run, STAGES[0], f'{out}/again', iterations)
    try:
        train(run, STAGES[1], f'{out}/spoiled', iterations, spoil, TRAIN__SNAPSHOT_ITERS=1)
    except FloatingPointError as error:
        fault = str(error)
    told = parallel.gather([stop, fault, spoil.image])
    if caffe.solver_rank() == 0:
        with open(f'{out}/told.json', 'w') as stream:
            json.dump(told, stream)


def worker(rank, count, port, work, *given):
    """A worker of a world, in a process of its own."""
    torch.set_num_threads(1)
    if count > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        parallel.join('training')
    work(*given)


def run_world(count, work, *given):
    """Have a world of so many workers do their work -> their exit codes."""
    port = caffe.NCCL.new_uid().decode().split(':')[-1]
    context = multiprocessing.get_context('fork')  # all is loaded already
    workers = [
        context.Process(target=worker, args=(rank, count, port, work, *given)) for rank in range(count)
    ]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    return [process.exitcode for process in workers]


def read_log(folder):
    (path,) = glob.glob(f'{folder}/*_log.jsonl')
    with open(path) as stream:
        return [json.loads(line) for line in stream]


def differences(folder, other, iterations):
    """Largest difference of the losses in two folders' logs, and of the weights, by the largest weight of a blob."""
    ours, theirs = read_log(folder), read_log(other)
    assert (
        [r['iteration'] for r in ours] == [r['iteration'] for r in theirs] == list(range(1, iterations + 1))
    )
    names = set(ours[0]) - {'seconds'}
    assert len(names) == 5 and all(set(record) - {'seconds'} == names for record in ours + theirs)
    loss = max(abs(a[name] - b[name]) for a, b in zip(ours, theirs) for name in names)
    return loss, weights_apart(
        *(glob.glob(f'{each}/*_iter_{iterations}.caffemodel')[0] for each in (folder, other))
    )


def weights_apart(path, other):
    """Largest difference of two files of weights, by the largest weight of a blob."""
    pairs = zip(read_weights(path), read_weights(other), strict=True)
    return max(
        float(np.abs(a - b).max() / np.abs(b).max())
        for (*_, blobs), (*_, others) in pairs
        for a, b in zip(blobs, others, strict=True)
        if b.any()
    )


def drawn(folder, rank):
    """Indices of the images that a worker drew."""
    with open(f'{folder}/drawn_{rank}.json') as stream:
        return json.load(stream)


def drawn_together(folder, count):
    """Those that a world drew, in the order of passes and workers."""
    return [int(i) for i in np.array([drawn(folder, rank) for rank in range(count)]).T.ravel()]


def compare(one, out, count, iterations):
    """Lines that say how a world's work agrees with one process's, each with whether it does."""
    for stage in STAGES:
        loss, weight = differences(f'{out}/{stage}', f'{one}/{stage}', iterations)
        images = drawn_together(f'{out}/{stage}', count)
        batches = np.array(images).reshape(iterations, REAL_BATCH)
        same = images == drawn_together(f'{one}/{stage}', 1) and all(
            len(set(b)) == REAL_BATCH for b in batches.tolist()
        )
        yield (
            f'{count} workers, {stage}, {iterations} iterations: images {"equal" if same else "DIFFER"}, losses within '
            f'{loss:.1e}, weights within {weight:.1e}',
            same and loss <= LOSS and weight <= WEIGHTS,
        )


def compare_worlds(out, iterations):
    """Train in all worlds, printing how they agree -> whether they do."""
    good = []
    for count in 1, *WORLDS:
        if any(codes := run_world(count, work, f'{out}/{count}', iterations)):
            sys.exit(f'exit codes of {count} workers: {codes}')
        for line, holds in compare(f'{out}/1', f'{out}/{count}', count, iterations) if count > 1 else ():
            print(line if holds else f'{line}: TOO MUCH', flush=True)
            good.append(holds)
    return all(good)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--iterations', type=int, default=50, metavar='N')
    parser.add_argument('--out', metavar='DIR')
    args = parser.parse_args()
    out = args.out and os.path.abspath(args.out)
    caffe.set_mode_cpu()
    torch.set_num_threads(1)
    os.chdir(RECORDING)
    caffe.Net(
        'models/Tiny/faster_rcnn_alt_opt/rpn_test.pt', caffe.TEST
    )  # loads what torch loads late, for all workers
    with contextlib.nullcontext(out) if out else tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if compare_worlds(folder, args.iterations) else 'the worlds DIFFER')


if __name__ == '__main__':
    main()
