"""Training and proposing as stages, each in a process of its own, and a method's stages one after the other.

A stage is a function of its job, a dict of plain values that says all it needs, and returns the file it made.
"""

import hashlib
import logging
import os
import shutil
import time
from dataclasses import dataclass, field

import caffe
from caffe import parallel, world
from caffe.format.prototxt import read_solver
from datasets.factory import get_imdb
from datasets.joined import joined
from datasets.imdb import imdb
from fast_rcnn.board import iteration_of
from fast_rcnn.config import DEFAULTS, cfg, cfg_restore, cfg_values, get_output_dir, overrides
from fast_rcnn.each_image import HARMLESS
from fast_rcnn.evaluation import test_net
from fast_rcnn.hooks import Board, Display, Validation
from fast_rcnn.schedule import iterations_in, iterations_of
from fast_rcnn.sidecar import write_sidecar
from fast_rcnn.train import get_training_roidb, train_net
from pipeline.manifest import File, Manifest
from pipeline.schedule import follow
from pipeline.settings import dataset_of, seed, use_device
from roi_data_layer.roidb import filter_roidb, roidb_digest
from rpn.generate import write_proposals
from utils.files import atomic_path
from utils.progress import span
from utils.proposals import proposal_file

log = logging.getLogger(__name__)

INITIAL = '--weights'
# What no stage's result depends on
IGNORE = ('gpu', 'output_dir', 'title', 'iterations_after', 'images_after', 'began', 'verbose') + tuple(
    f'cfg.{key}'
    for key in (
        *HARMLESS,
        'TRAIN.USE_PREFETCH',
        'TRAIN.LOADER_WORKERS',
        'TRAIN.SNAPSHOT_ITERS',
        'TRAIN.CHECKPOINT_MINUTES',
    )
)


# -------------------------------------------------------------------------------------------- in the child
def train(job):
    """Trains to the end; returns the file of the weights."""
    _begin(job)
    roidb = filter_roidb(training_data(job['imdb'], job['proposals'])[1])
    max_iters = job['max_iters'] or iterations_of(job['net'], cfg.TRAIN, len(roidb))
    solver = job['net']
    if not any(cfg.TRAIN.EPOCH_STEPS):
        solver = follow(solver, job['planned'], max_iters, f'{job["stem"]}_solver.prototxt')
    validations = []
    if cfg.TRAIN.VALIDATE:
        every = iterations_in(job['net'], cfg.TRAIN, len(roidb), cfg.TRAIN.VALIDATE_EPOCHS)
        validations.append(Validation(every, cfg.TRAIN.PATIENCE, lambda path: validated(job, path)))
    *earlier, last = train_net(
        solver,
        roidb,
        job['output_dir'],
        pretrained_model=job['weights'],
        max_iters=max_iters,
        hooks=[
            Display(job['title'], lambda loop: later(job, loop), job['verbose'], job['began']),
            *([Board()] if cfg.TENSORBOARD else []),
            *validations,
        ],
    )
    last = validations[0].best if validations else last
    for path in earlier if job['only_last'] and caffe.solver_rank() == 0 else ():
        os.remove(path)
    parallel.leave()
    return last


def validated(job, weights):
    """The mean AP of a snapshot on the validation split."""
    data = get_imdb(job['validate'])
    if not cfg.TEST.HAS_RPN:
        data.set_proposal_method(cfg.TEST.PROPOSAL_METHOD)
    net = caffe.Net(job['test_net'], weights, caffe.TEST)
    net.name = f'{job["name"]}_validation'
    return test_net(net, data, step=iteration_of(weights))


def later(job, loop):
    """About how many seconds the work after this stage takes, by its own pace: an image that is only looked at
    takes a third of one that is learned from."""
    images = cfg.TRAIN.IMS_PER_BATCH * max(loop.solver.param.iter_size, 1)
    return loop.pace * (job['iterations_after'] + job['images_after'] / (3 * images))


def propose(job):
    """Writes an RPN's proposals for the images; returns their file."""
    _begin(job)
    net = caffe.Net(job['net'], job['weights'], caffe.TEST)
    path = write_proposals(net, get_imdb(job['imdb']), proposal_file(job['output_dir'], job['name']))
    parallel.leave()
    return path


def _begin(job):
    """Settings, device, the other workers, seeds."""
    cfg_restore(job['cfg'])
    use_device(job['gpu'])
    parallel.join(job['stem'])
    seed(cfg.RNG_SEED)


def training_sets(names):
    """The imdbs of one name, or of several as voc_2007_trainval+voc_2012_trainval; all have the same classes."""
    data = get_imdb(names)
    return data.parts if isinstance(data, joined) else [data]


def training_data(names, proposals=None):
    """(imdb, roidb) of the training sets together, each followed by its mirror images; proposals: an RPN's of them all,
    where cfg trains on these."""
    sets, roidb, first = training_sets(names), [], 0
    images = sum(one.num_images for one in sets)
    for one in sets:
        one.set_proposal_method(cfg.TRAIN.PROPOSAL_METHOD)
        one.config.update(rpn_file=proposals, rpn_first=first, rpn_images=images)
        first += one.num_images
        roidb = roidb + get_training_roidb(one)
    return (sets[0] if len(sets) == 1 else imdb(names)), roidb


# -------------------------------------------------------------------------------------------- all of them
@dataclass(frozen=True)
class Stage:
    """A row of a method. function: train or propose; net: the file of the solver, or of the net that
    proposes; weights, proposals: the stage that makes them; settings: what it sets over cfg."""

    name: str
    function: object
    net: str
    weights: str = INITIAL
    proposals: str = None
    settings: dict = field(default_factory=dict)

    @property
    def infix(self):
        """What tells its snapshots from those of another round."""
        head = self.name.split('_')[0]
        return head if head != self.name else ''


@dataclass
class Training:
    """A method's stages on the images of an imdb, cfg being settled.

    planned, max_iters: iterations of each training stage, as the solvers are written for, and as wanted (None, of one
    stage: cfg.TRAIN.EPOCHS).
    """

    method: object
    net: str
    imdb: str
    gpu: list
    planned: tuple
    max_iters: tuple
    weights: str = None
    verbose: bool = False
    images_after: int = 0  # that a test looks at afterwards

    def run(self):
        """{stage: its file}; what was done before and still holds is not done again."""
        sets = training_sets(self.imdb)
        self.classes = list(sets[0].classes)
        self.images = images_digest(sets) if world.rank() == 0 else None  # who keeps the manifest
        self.output_dir = get_output_dir(sets[0] if len(sets) == 1 else imdb(self.imdb))
        stem = os.path.join(self.output_dir, f'{self.net}_{self.method.name}')
        self.manifest = f'{stem}.json'
        manifest = Manifest(self.manifest, IGNORE, {'cfg': DEFAULTS})
        results = {None: None, INITIAL: self.weights}
        self.num_images, self.began = sum(data.num_images for data in sets), time.time()
        for stage in self.method.stages:
            job = self.job(stage, results, f'{stem}_{stage.name}')
            log.info('%s, %s; %s so far', job['title'], stage.name, span(time.time() - self.began))
            results[stage.name] = manifest.run(stage.name, stage.function, job)
        return results

    def job(self, stage, results, stem):
        """All that a stage is to know, and that decides whether it must be done again."""
        weights, proposals = results[stage.weights], results[stage.proposals]
        job = {
            'name': f'{self.net}_{stage.infix}' if stage.infix else self.net,
            'stem': stem,
            'cfg': stage_cfg(stage),
            'gpu': self.gpu,
            'output_dir': self.output_dir,
            'net': File(net_file(self.net, self.method.nets, stage.net)),
            'weights': weights and File(weights),
            'proposals': proposals and File(proposals),
            'imdb': self.imdb,
            'classes': self.classes,
            'images': self.images,
            'verbose': self.verbose,
            **self.place(stage),
        }
        if stage.function is train:
            solver, place = read_solver(job['net']), self.method.trained.index(stage)
            train_file = solver.train_net or solver.net
            if not os.path.exists(train_file):
                raise FileNotFoundError(f'{job["net"]}: train_net {train_file}: no such file')
            method = stage.settings.get('TRAIN.PROPOSAL_METHOD', cfg.TRAIN.PROPOSAL_METHOD)
            given = given_proposals(self.imdb, method).items()
            job.update(
                train_net=File(train_file),
                planned=self.planned[place],
                max_iters=self.max_iters[place],
                only_last=bool(self.method.finals),
                given={name: File(path) for name, path in given},
                **self.validation(),
            )
        return job

    def validation(self):
        """What a stage is to know to be tested on cfg.TRAIN.VALIDATE; ValueError where it cannot be."""
        split = cfg.TRAIN.VALIDATE
        if not split:
            return {}
        dataset = dataset_of(self.imdb)
        if len(self.method.trained) > 1 or not dataset or '+' in self.imdb:
            raise ValueError(
                f'TRAIN.VALIDATE {split!r}: wanted a method of one training and one training set, got {self.method.name} '
                f'and {self.imdb}'
            )
        imdb = f'{self.imdb.rpartition("_")[0]}_{split}'
        if imdb == self.imdb:
            raise ValueError(f'TRAIN.VALIDATE {split!r}: {imdb} is trained on')
        get_imdb(imdb)  # KeyError, before anything is done, where there is none
        test_net = File(net_file(self.net, self.method.nets, self.method.detector[0]))
        return {'validate': imdb, 'test_net': test_net}

    def place(self, stage):
        """Which of all stages this is, and what comes after it."""
        stages, place = self.method.stages, self.method.stages.index(stage)
        trained = sum(one.function is train for one in stages[: place + 1])
        proposing = sum(one.function is propose for one in stages[place + 1 :])
        return {
            'began': self.began,
            'title': f'stage {place + 1} of {len(stages)}',
            'iterations_after': sum(self.max_iters[trained : len(self.method.trained)]),
            'images_after': proposing * self.num_images + self.images_after,
        }

    def finish(self, results):
        """Copies what was trained to plain names, and writes the sidecars of the detector and of what proposes for it -> {stage: its file}."""
        finals = {
            stage: os.path.join(self.output_dir, f'{self.net}_{word}_final.caffemodel')
            for word, stage in self.method.finals
        }
        made = {**results, **finals}
        if world.rank() == 0:
            for stage, path in finals.items():
                with atomic_path(path) as temporary:
                    shutil.copyfile(results[stage], temporary)
            data = training_sets(self.imdb)[0]
            for name, stage in filter(None, (self.method.detector, self.method.proposer)):
                write_sidecar(made[stage], data, net_file(self.net, self.method.nets, name))
        world.meet('final files')
        return made


def given_proposals(names, method):
    """{imdb: the file of its selective-search proposals} of one, or several with + between, where these are what `method`
    asks for."""
    folder = os.path.join(cfg.DATA_DIR, 'selective_search_data')
    asked = names.split('+') if method == 'selective_search' else []
    files = {name: os.path.join(folder, f'{name}.mat') for name in asked}
    for path in files.values():
        if not os.path.exists(path):
            raise FileNotFoundError(
                f'{path}: no such file. Fast R-CNN trains and tests on proposals that are given: data/README.md '
                f'says how selective search gives them'
            )
    return files


def images_digest(sets):
    """A digest of imdbs' images and their objects, as their files have them now."""
    digest = hashlib.sha256()
    for data in sets:
        data.set_proposal_method('gt')
        digest.update('\n'.join([*map(str, data.image_index), roidb_digest(data.roidb)]).encode())
    return digest.hexdigest()


def stage_cfg(stage):
    """A stage's settings, less the section it does not read: a training stage TEST, a proposing one TRAIN.

    TRAIN.REAL_BATCH_SIZE is the detector's; an RPN alone takes half of that, as in arXiv 1512.03385,
    appendix A (8 and 16), RPN_IMS_PER_BATCH a pass.
    """
    settings = dict(stage.settings)
    if stage.infix:
        settings['TRAIN.SNAPSHOT_INFIX'] = stage.infix
    if settings.get('TRAIN.HAS_RPN') and not settings.get('TRAIN.BBOX_REG', True):
        settings['TRAIN.IMS_PER_BATCH'] = cfg.TRAIN.RPN_IMS_PER_BATCH
        if cfg.TRAIN.REAL_BATCH_SIZE:
            settings['TRAIN.REAL_BATCH_SIZE'] = max(cfg.TRAIN.REAL_BATCH_SIZE // 2, 1)
            settings['TRAIN.VAL_PER_BATCH_SIZE'] = 1  # where val images are mixed in
    unread = 'TRAIN' if stage.function is propose else '' if cfg.TRAIN.VALIDATE else 'TEST'
    with overrides(settings):
        return {key: value for key, value in cfg_values().items() if key != unread}


def net_file(net, method, name):
    """A file of a net for a method, of those in cfg.MODELS_DIR."""
    path = os.path.join(cfg.MODELS_DIR, net, method, name)
    if not os.path.exists(path):
        known = sorted(os.listdir(cfg.MODELS_DIR)) if os.path.isdir(cfg.MODELS_DIR) else []
        raise FileNotFoundError(
            f'{path}: no such file. Nets in {cfg.MODELS_DIR}: {", ".join(known) or "none"}; '
            f'models/generate.py writes those of a dataset'
        )
    return path
