"""Replays a recorded alternating optimization with the library's own training, proposal and test functions.

    python tests/replay_e2e.py DIR

DIR: devkit, prototxt files, initial weights, golden.json and what each stage of the original left. Each stage
is trained in full from the recorded weights and proposals that it started from (RUN); its first iterations
are held against the recorded ones, and the nets that come out go through both final tests. Exit status 0 if
images and labels are equal, losses within LOSS over the first ITERATIONS, stage 1's proposals met to
PROPOSALS, and both mean APs within AP, or RECORDED_AP when tested with the recorded weights.
"""

import argparse
import collections
import glob
import json
import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ('caffe-fast-rcnn/python', 'lib', 'tests')]

import caffe  # noqa: E402
import numpy as np  # noqa: E402
from caffe_random import CaffeRandom, caffe_fillers  # noqa: E402
from datasets.imagenet import imagenet  # noqa: E402
from fast_rcnn.config import overrides  # noqa: E402
from fast_rcnn.test import test_net as detect  # noqa: E402
from fast_rcnn.train import SolverWrapper, filter_roidb, get_training_roidb  # noqa: E402
from rpn.generate import write_proposals  # noqa: E402
from utils.cython_bbox import bbox_overlaps  # noqa: E402
from utils.progress import progress  # noqa: E402
from utils.proposals import load_proposals  # noqa: E402

ITERATIONS = 20
LOSS, PROPOSALS, AP, RECORDED_AP = 1e-3, 0.95, 0.05, 0.005
TRAIN, TEST = 'trainval1_woextra', 'val2'

# stage -> recorded weights it starts from, stage whose recorded proposals it trains on (None: it has an RPN)
RUN = {
    'stage1_rpn': ('init', None),
    'stage1_fast_rcnn': ('init', 'stage1_rpn'),
    'stage2_rpn': ('stage1_fast_rcnn', None),
    'stage2_fast_rcnn': ('stage2_rpn', 'stage2_rpn'),
}

Seen = collections.namedtuple('Seen', 'images labels losses')


class Replay:
    """A recording, and the folder for what we make of it. Paths in prototxt files start at the recording."""

    def __init__(self, recording, out, iterations=None):
        self.out, self.iterations = out, iterations
        os.chdir(recording)
        with open('golden.json') as stream:
            self.golden = json.load(stream)
        (self.models,) = glob.glob('models/*/faster_rcnn_alt_opt')
        used = self.golden['cfg_used']
        self.settings = {key: value for key, value in used.items() if not isinstance(value, dict)}
        self.settings.update({'ROOT_DIR': out, 'TRAIN.USE_EMPTY': False})
        self.stream = CaffeRandom(self.golden['RNG_SEED'])

    def scope(self, section, **more):
        used = {key: value for key, value in self.golden['cfg_used'][section].items() if '.' in key}
        more = {key.replace('__', '.'): value for key, value in more.items()}
        return overrides({**self.settings, **used, **more})

    def imdb(self, split):
        return imagenet(split, devkit_path=os.path.abspath('ImageNet2015'))

    def net(self, prototxt, weights=None):
        args = [weights] if weights else []
        return caffe.Net(os.path.join(self.models, prototxt), *args, caffe.TEST)

    def train(self, stage, weights, proposals):
        """-> what was Seen, path of the final snapshot."""
        has_rpn, full = proposals is None, len(self.golden[stage]['losses'])
        iterations = min(self.iterations or full, full)
        with self.scope(
            'rpn stages' if has_rpn else 'fast_rcnn stages',
            TRAIN__HAS_RPN=has_rpn,
            TRAIN__BBOX_REG=not has_rpn,
        ):
            imdb = self.imdb(TRAIN)
            imdb.set_proposal_method('gt' if has_rpn else 'rpn')
            imdb.config['rpn_file'] = proposals
            roidb = filter_roidb(get_training_roidb(imdb))
            np.random.seed(self.golden['RNG_SEED'])
            (solver,) = glob.glob(f'{self.models}/{stage}_solver*.pt')
            wrapper = SolverWrapper(solver, roidb, os.path.join(self.out, stage), weights)
            drawn = self.stream.drawn
            seen = self.watch(wrapper, self.golden[stage]['names'], iterations, stage)
            per_iteration = (self.stream.drawn - drawn) // iterations  # what DummyData takes
            self.stream.normal(per_iteration * (full - iterations))
            return seen, wrapper.snapshot()

    @staticmethod
    def watch(wrapper, loss_names, iterations, stage):
        seen, data, blobs = Seen([], [], []), wrapper.data_layer, wrapper.solver.net.blobs
        labels_name = 'rpn_labels' if 'rpn_labels' in blobs else 'labels'
        before_draw = data.before_draw

        def note_images():
            before_draw()
            if data.drawn:
                seen.images.append(data.drawn)

        data.before_draw = note_images
        for _ in progress(range(iterations), stage):
            wrapper.step()
            labels = blobs[labels_name].data.ravel()
            fg, bg = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)
            seen.labels.append(
                {'fg': len(fg), 'bg': len(bg), 'fg_index_sum': int(fg.sum()), 'bg_index_sum': int(bg.sum())}
            )
            seen.losses.append([float(blobs[name].data) for name in loss_names])
        seen.images.append(data.drawn)
        return seen

    def propose(self, net, split, name):
        """Proposals by an RPN test net -> the file they are written to."""
        with self.scope('proposals'):
            path = os.path.join(self.out, f'proposals_{name}_{split}.json')
            return write_proposals(net, self.imdb(split), path)

    def mean_ap(self, prototxt, weights, name, proposals=None):
        """The final test of one net, or of the second of two."""
        used = self.golden['cfg_used']['final test']
        with self.scope('final test', EXP_DIR=name, TEST__HAS_RPN=proposals is None):
            imdb = self.imdb(TEST)
            if proposals is not None:
                imdb.config['rpn_file'] = proposals
                imdb.set_proposal_method('rpn')
            return detect(self.net(prototxt, weights), imdb, used['max_per_image'], used['score_thresh'])


def compare(recorded, seen):
    """Report line of a stage's first iterations, and whether it holds."""
    images = min(len(seen.images), len(recorded['roidb_indices']))
    same_images = seen.images[:images] == recorded['roidb_indices'][:images]
    same_labels = seen.labels[: len(recorded['label_stats'])] == recorded['label_stats']
    ours, theirs = (np.array(losses[:ITERATIONS]) for losses in (seen.losses, recorded['losses']))
    loss = float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-4)).max())  # recorded to 1e-7
    line = (
        f'images {"equal" if same_images else "DIFFER"} ({images}), '
        f'labels {"equal" if same_labels else "DIFFER"}, losses within {loss:.1e}'
    )
    return line, same_images and same_labels and loss < LOSS


def share_met(recorded, ours):
    """Share of recorded boxes that one of ours meets at IoU > 0.9, over all images."""
    met = [
        bbox_overlaps(theirs[:, :4], boxes[:, :4]).max(1) > 0.9
        for theirs, boxes in zip(load_proposals(recorded), load_proposals(ours))
        if len(theirs)
    ]
    return float(np.concatenate(met).mean())


def warn_unless_drawn_alike(net, weights):
    """The recorder drew init.caffemodel from a new net, right after seeding: if ours differs, so will the
    weights that later stages draw."""
    ours = {name: blobs[0].data.copy() for name, blobs in net.params.items()}
    net.copy_from(weights)
    if not any(
        np.ptp(values) and np.array_equal(values, net.params[name][0].data) for name, values in ours.items()
    ):
        print(f'note: {weights} was not drawn from this seed; weights that no file gives will differ')


def replay(run):
    """Replay everything, printing -> whether all holds."""
    golden, holds, own = run.golden, [], {}
    warn_unless_drawn_alike(run.net('faster_rcnn_test.pt'), 'init.caffemodel')
    for stage, (start, source) in RUN.items():
        proposals = source and f'proposals_{source[:6]}_{TRAIN}'
        seen, own[stage] = run.train(stage, f'{start}.caffemodel', proposals)
        line, good = compare(golden[stage], seen)
        net = run.net('rpn_test.pt', own[stage]) if source is None else None
        if net and not run.iterations:
            share = share_met(f'proposals_{stage[:6]}_{TRAIN}', run.propose(net, TRAIN, stage))
            line += f', {share:.4f} of the recorded proposals met'
            good &= share >= PROPOSALS or stage != 'stage1_rpn'
        print(f'{stage}: {line}', flush=True)
        holds.append(good)
    holds += test_both(run, 'recorded weights', '{}.caffemodel'.format, RECORDED_AP)
    if not run.iterations:
        holds += test_both(run, 'our training', own.get, AP)
    return all(holds)


def test_both(run, what, weights, within):
    """The recipe's two tests with the weights of each stage."""
    test_proposals = run.propose(run.net('rpn_test.pt', weights('stage1_rpn')), TEST, what.replace(' ', '_'))
    one_net, second_net = weights('stage2_fast_rcnn'), weights('stage1_fast_rcnn')
    results = {
        'ap': run.mean_ap('faster_rcnn_test.pt', one_net, what),
        'ap_two_nets': run.mean_ap('fast_rcnn_test.pt', second_net, what, test_proposals),
    }
    for key, ours in results.items():
        theirs = np.mean(list(run.golden[key].values()))
        print(f'{what}: {key} {ours:.4f}, recorded {theirs:.4f}', flush=True)
        yield abs(ours - theirs) <= within


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('recording', metavar='DIR')
    parser.add_argument(
        '--iterations',
        type=int,
        metavar='N',
        help='train each stage for N iterations only, and do not test what comes out',
    )
    args = parser.parse_args()
    caffe.set_mode_cpu()
    with tempfile.TemporaryDirectory() as out:
        run = Replay(args.recording, out, args.iterations)
        with caffe_fillers(run.stream):
            good = replay(run)
    print('replay holds' if good else 'replay DOES NOT HOLD')
    sys.exit(0 if good else 1)


if __name__ == '__main__':
    main()
