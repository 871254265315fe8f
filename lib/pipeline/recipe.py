"""Everything from a dataset's name to the mean AP: the nets, the initial weights, training, the test."""

import atexit
import logging
import multiprocessing.resource_tracker
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import caffe
from caffe import parallel, world
from caffe.format.prototxt import read_net, read_solver
from caffe.watch import busy

from datasets.factory import describe, get_imdb, is_path, register
from fast_rcnn.config import cfg, cfg_from_list, get_output_dir
from fast_rcnn.net_classes import SCORES, classes_of
from fast_rcnn.sidecar import note_metrics
from fast_rcnn.test import test_net
from netgen.backbones import BACKBONES, weights_of
from netgen.files import generate
from pipeline.advice import advice
from pipeline.fit import fitted
from pipeline.methods import METHODS
from pipeline.settings import cfg_files, preset_files, seed, settle, use_device
from pipeline.stages import Training, given_proposals, net_file
from rpn.generate import SETTINGS, write_proposals
from utils.proposals import proposal_file

log = logging.getLogger(__name__)

# An own dataset that names no anchors gets those for objects of 32 to 512 pixels: it may have small ones
OWN_ANCHORS = {'scales': [2, 4, 8, 16, 32], 'ratios': [0.5, 1, 2]}
MOST = 80000, 40000  # iterations of an RPN and of a detector that an own dataset gets by its images


@dataclass
class Recipe:
    """method, net, dataset: by name, the dataset also the path of its YAML file. gpu: see settings.use_device.
    max_iters: one number or one per training stage, None: as published or by the number of images. stages: 1
    ends after the first round. single: settings, key, value ... preset: names, see
    settings.preset_files. Errors: KeyError, OSError, ValueError."""

    method: str
    net: str
    dataset: str
    gpu: list
    max_iters: list = None
    stages: int = None
    weights: str = None
    force: bool = False
    single: tuple = ()
    verbose: bool = False
    preset: tuple = ()

    def run(self):
        """Trains and tests; what was done before is not done again."""
        data = register(self.dataset) if is_path(self.dataset) else describe(self.dataset)
        family = getattr(BACKBONES.get(self.net), 'boxes', 'caffe')
        self.cfg_files = cfg_files(self.method, self.net, family, data.name) + preset_files(self.preset)
        method = METHODS[self.method]
        self.settle(data)
        use_device(self.gpu)
        if self.stages == 1 and not method.one_round:
            raise ValueError(f'--stages 1: {method.name} has no first round that stands for itself')
        # A net that is tested on another's proposals needs no second round
        if (self.stages or (2 if cfg.TEST.HAS_RPN else 1)) == 1 and method.one_round:
            method = method.one_round
        if world.rank() == 0:
            self.write_nets(data, method)
        world.meet('nets')
        proposing = cfg.TEST.HAS_RPN or method.proposer
        given_proposals(data.test_imdb, 'rpn' if proposing else cfg.TEST.PROPOSAL_METHOD)
        weights = self.weights or initial_weights(self.net)
        if world.rank() == 0:
            print('\n'.join(advice(get_imdb(data.train_imdb))))
        training = Training(
            method,
            self.net,
            data.train_imdb,
            self.gpu,
            *iterations(method, data.name, self.max_iters),
            weights,
            self.verbose,
            get_imdb(data.test_imdb).num_images * (2 if method.proposer else 1),
        )
        results = training.finish(training.run())
        for what, path in method.named(results) if world.rank() == 0 else ():
            print(f'{what}: {path}')
        parallel.join('test')
        mean_ap = self.test(method, results, data)
        if world.rank() == 0:
            report(training.manifest)
        world.meet('report')
        return mean_ap

    def settle(self, data):
        """Sets cfg for a described dataset; what follows from its images goes under its own settings and single ones."""
        settle(data.train_imdb, self.cfg_files, self.single)
        fit = fitted(get_imdb(data.train_imdb)) if cfg.TRAIN.FIT else {}
        if len(METHODS[self.method].trained) > 1:
            fit.pop('TRAIN.EPOCHS', None)  # of one training
        if fit:
            log.info('by the images: %s', ', '.join(f'{key} {value}' for key, value in fit.items()))
            cfg_from_list([word for setting in fit.items() for word in setting])
            settle(data.train_imdb, single=self.single)

    def write_nets(self, data, method):
        """Writes the nets and solvers that are missing."""
        own = data.name not in method.iterations
        anchors = data.anchors or (OWN_ANCHORS if own else None)
        if anchors and self.net in BACKBONES and BACKBONES[self.net].is_pyramid:
            anchors = (
                {'ratios': anchors['ratios']} if 'ratios' in anchors else None
            )  # sizes are its levels' own
        four = four_iterations(data) if own else None
        generate(data.name, self.net, data.num_classes, anchors=anchors, max_iters=four, force=self.force)
        folder = os.path.join(cfg.MODELS_DIR, self.net, method.nets)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'{folder}: {self.net} has no nets for {method.name}')
        for path in dict.fromkeys(self.net_files(method)):
            check_classes(path, data)

    def net_files(self, method):
        """The nets that a method trains and tests."""
        tested = [row[0] for row in (method.detector, method.proposer) if row]
        for name in [stage.net for stage in method.stages] + tested:
            path = net_file(self.net, method.nets, name)
            solver = read_solver(path) if 'solver' in name else None
            yield solver.train_net or solver.net if solver else path

    def test(self, method, results, described):
        """The mean AP on a described dataset's test images."""
        imdb = described.test_imdb
        if method.proposer:
            cfg_from_list([word for setting in SETTINGS.items() for word in setting])
            self.settle(described)  # whose nets they are
            log.info('proposals for %s', imdb)
            data, net = get_imdb(imdb), self.trained(method, method.proposer, results)
            seed(cfg.RNG_SEED)
            path = write_proposals(net, data, proposal_file(get_output_dir(data), net.name))
            if world.rank() == 0:
                print(f'Proposals: {path}')
            cfg.TEST.HAS_RPN, cfg.TEST.PROPOSAL_METHOD = False, 'rpn'
        log.info('test on %s', imdb)
        data = get_imdb(imdb)
        if not cfg.TEST.HAS_RPN:
            data.set_proposal_method(cfg.TEST.PROPOSAL_METHOD)
            data.config['rpn_file'] = method.proposer and path
        mean_ap = test_net(self.trained(method, method.detector, results), data)
        if world.rank() == 0:
            note_metrics(results[method.detector[1]], data)
        return mean_ap

    def trained(self, method, row, results):
        """A net for testing with the weights of the stage that trained it."""
        name, stage = row
        net = caffe.Net(net_file(self.net, method.nets, name), results[stage], caffe.TEST)
        net.name = os.path.splitext(os.path.basename(results[stage]))[0]
        return net


@busy('report')
def report(manifest):
    """Writes the page about a training. Whatever it fails of: the training is done, and counts."""
    try:
        from reporting.page import write_report  # matplotlib: a training does without

        print(f'Report: {write_report(manifest)}')
    except Exception as error:
        log.warning('no report was written: %s: %s', type(error).__name__, error)


def four_iterations(data):
    """Iterations of an own dataset's RPN and detector, both rounds: as its file has them, one or four, or by
    its images: each eight times, at least 2000, at most MOST; half of that for the second RPN."""
    given = data.max_iters
    if given:
        given = given if isinstance(given, list) else [given]
        return tuple(given * (4 // len(given)))
    rpn, detector = (min(max(2000, 8 * len(data.splits[data.train])), most) for most in MOST)
    return rpn, detector, rpn // 2, detector


def iterations(method, dataset, max_iters=None):
    """(those that the solvers are written for, those wanted) of each training stage. dataset: by name, None:
    unknown. max_iters: one number, or one a stage; None: as the solvers have them, or (None,) for cfg.TRAIN.EPOCHS."""
    if dataset is None or dataset in METHODS[method.name].iterations:
        planned = method.iterations[dataset or 'pascal_voc']
    else:
        planned = method.own(four_iterations(describe(dataset)))
    stages = len(method.trained)
    if max_iters is None and cfg.TRAIN.EPOCHS and stages > 1:
        raise ValueError(
            f'TRAIN.EPOCHS is the length of one training, and {method.name} has {stages}: --max_iters tells each'
        )
    if max_iters is None:
        return planned, (None,) if cfg.TRAIN.EPOCHS else planned
    if len(max_iters) not in (1, stages, len(planned)) or min(max_iters) < 1:
        raise ValueError(f'--max_iters wants one number or {stages}, at least 1; got {max_iters}')
    return planned, tuple(max_iters) * (len(planned) // len(max_iters))


def initial_weights(net):
    """The weights a net starts from; None for one that starts from nothing."""
    if net in BACKBONES and getattr(BACKBONES[net], 'scratch', False):
        return None
    own = weights_of(net)
    names = [os.path.join('data', 'imagenet_models', f'{own}{version}.caffemodel') for version in ('.v2', '')]
    for name in names:
        if os.path.exists(os.path.join(cfg.ROOT_DIR, name)):
            return os.path.join(cfg.ROOT_DIR, name)
    raise FileNotFoundError(
        f'{" or ".join(names)}: no such file. {net} starts from weights trained on '
        f"ImageNet: put its public .caffemodel there, or make one of torchvision's "
        f'weights with tools/fetch.py (--list: which), or of a file with tools/import_weights.py. ResNet-10 needs none'
    )


def check_classes(path, data):
    """ValueError for a net file with a layer that is made for other classes than the dataset has."""
    for layer in read_net(path).layer:
        found, agnostic = classes_of(layer), cfg.TRAIN.AGNOSTIC and layer.name not in SCORES
        if found not in (None, data.num_classes) and not (agnostic and found == 2):
            raise ValueError(
                f'{path}: layer {layer.name} is for {found:g} classes with the background, {data.name} has '
                f'{data.num_classes}: the net was edited, or kept from before; --force writes the nets anew'
            )


# What goes in comes out, and into a file as well, until there is no more; a terminal that goes away takes no file with it
TEE = """
import os, sys
with open(sys.argv[1], 'ab', buffering=0) as file:
    while text := os.read(0, 1 << 16):
        file.write(text)
        try:
            while text:
                text = text[os.write(1, text):]
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""


def copy_output(method, net, dataset):
    """From now on all that this process and its children print goes to a file in experiments/logs as well."""
    folder = os.path.join('experiments', 'logs')
    os.makedirs(os.path.join(cfg.ROOT_DIR, folder), exist_ok=True)
    moment = time.strftime('%Y-%m-%d_%H-%M-%S')
    path = os.path.join(folder, f'{method}_{net}_{os.path.basename(dataset)}.txt.{moment}')
    open(os.path.join(cfg.ROOT_DIR, path), 'a').close()
    print(f'Logging output to {path}', flush=True)
    if os.name != 'nt':  # before: it lives as long as this, and would hold the pipe
        multiprocessing.resource_tracker.ensure_running()
    words = [sys.executable, '-S', '-c', TEE, os.path.join(cfg.ROOT_DIR, path)]
    tee = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
    for stream in sys.stdout, sys.stderr:
        stream.flush()
        os.dup2(tee.stdin.fileno(), stream.fileno())
    tee.stdin.close()
    os.environ['PYTHONUNBUFFERED'] = '1'
    sys.stdout.reconfigure(line_buffering=True)
    atexit.register(_finish, tee)


def _finish(tee):
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in sys.stdout, sys.stderr:
        stream.flush()
        os.dup2(nothing, stream.fileno())
    tee.wait()
