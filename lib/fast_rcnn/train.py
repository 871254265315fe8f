"""Training: a roidb, a solver prototxt and initial weights become snapshots.

Beside them, <prefix>_log.jsonl gets a line per iteration: iteration, lr, smoothed_loss, the mean of each loss output
over the iteration's real batch by name, seconds.

Several workers, that have joined before (caffe.parallel), train as one does that makes all their passes.
"""

import contextlib
import logging
import os

import caffe
import numpy as np
import torch
from caffe.watch import beat, busy
from caffe.parallel import NCCL

from fast_rcnn.config import cfg
from fast_rcnn.hooks import Checkpoints, Display, Log, Snapshots
from fast_rcnn.losses import Losses
from fast_rcnn.resume import States, training_mark
from fast_rcnn.net_classes import check_classes
from fast_rcnn.schedule import iterations_of, scheduled
from fast_rcnn.solver_options import with_options
from fpn.boxes import family_of_net
from roi_data_layer import roidb as rdl_roidb
from roi_data_layer.roidb import filter_roidb
from utils.timer import Timer

log = logging.getLogger(__name__)


@busy('annotations')
def get_training_roidb(imdb):
    """imdb's roidb, prepared to train on, with flipped images if cfg.TRAIN.USE_FLIPPED."""
    images, mirrored = imdb.num_images, ''
    if cfg.TRAIN.USE_FLIPPED:
        imdb.append_flipped_images()
        mirrored = f', {imdb.num_images} with their mirror images'
    log.info('%s: %d images%s', imdb.name, images, mirrored)
    rdl_roidb.prepare_roidb(imdb)
    return imdb.roidb


def train_net(
    solver_prototxt, roidb, output_dir, pretrained_model=None, max_iters=None, resume=True, hooks=None
):
    """Train to iteration max_iters (by default cfg.TRAIN.EPOCHS, or 40000) -> paths of the snapshots written, the final one
    last.

    resume: go on where the same training (settings, nets, initial weights, roidb) was interrupted, if it was; it
    then ends as if it had not been. hooks: see fast_rcnn.hooks; default a Display.
    """
    roidb = filter_roidb(roidb)
    max_iters = max_iters or iterations_of(solver_prototxt, cfg.TRAIN, len(roidb))
    os.makedirs(output_dir, exist_ok=True)
    solver_prototxt = scheduled(solver_prototxt, cfg.TRAIN, len(roidb), max_iters, output_dir)
    solver = SolverWrapper(solver_prototxt, roidb, output_dir, pretrained_model, resume)
    solver.hooks = [Display()] if hooks is None else hooks
    return solver.train_model(max_iters)


def iter_size(real_batch_size, ims_per_batch, workers):
    """Forward passes per update and worker that make a real batch. ValueError, naming the numbers of workers that do,
    where it has no whole share for each."""
    passes, rest = divmod(real_batch_size, ims_per_batch)
    if rest or not passes or passes % workers:
        good = [] if rest else [str(n) for n in range(1, passes + 1) if passes % n == 0]
        raise ValueError(
            f'TRAIN.REAL_BATCH_SIZE {real_batch_size} is no multiple of {ims_per_batch} images '
            f'(TRAIN.IMS_PER_BATCH) x {workers} workers'
            + f'; it is with {", ".join(good)} workers'
            * bool(good)
        )
    return passes // workers


class SolverWrapper:
    """A caffe.SGDSolver fed with a roidb: the training loop. Its net's first layer is the RoIDataLayer.

    Regression targets are normalised while training; snapshots hold a bbox_pred (R-FCN: rfcn_bbox) and rpn_bbox_pred
    that predict plain targets. hooks: see fast_rcnn.hooks.
    """

    def __init__(self, solver_prototxt, roidb, output_dir, pretrained_model=None, resume=False):
        os.makedirs(output_dir, exist_ok=True)
        self.output_dir, self.hooks, self.max_iters, self.ended = output_dir, [], 0, False
        self.bbox_means = self.bbox_stds = None
        check_statistics(cfg.TRAIN)
        self.solver = caffe.get_solver(with_options(solver_prototxt, cfg.TRAIN, output_dir))
        if cfg.TRAIN.BBOX_REG:
            self._prepare_targets(roidb)
        self.solver_param = self.solver.param
        net_file = self.solver_param.train_net or self.solver_param.net
        check_classes(self.solver.net, num_classes_of(roidb), cfg.TRAIN.AGNOSTIC, net_file)
        divide_by_images(self.solver.net, cfg.TRAIN.IMS_PER_BATCH)
        if cfg.TRAIN.RPN_NORMALIZE_TARGETS and not any(cfg.TRAIN.RPN_NORMALIZE_STDS):
            self._measure_anchors(roidb)
        if cfg.TRAIN.REAL_BATCH_SIZE:
            self.solver_param.iter_size = iter_size(
                cfg.TRAIN.REAL_BATCH_SIZE, cfg.TRAIN.IMS_PER_BATCH, caffe.solver_count()
            )
        if pretrained_model is not None:
            log.info('Loading pretrained weights from %s', pretrained_model)
            self.solver.net.copy_from(pretrained_model)
        if caffe.solver_count() > 1:
            self._link_workers()
        self.timer = Timer()
        infix = cfg.TRAIN.SNAPSHOT_INFIX
        self.prefix = os.path.join(
            output_dir, self.solver_param.snapshot_prefix + (f'_{infix}' if infix else '')
        )
        self._feed(roidb)
        self.states = None
        if resume and hasattr(self.data_layer, 'sampler'):
            files = [solver_prototxt, net_file, pretrained_model]
            self.states = States(self.prefix, training_mark(files, self.data_layer.sampler))

    def _link_workers(self):
        """Let all workers begin with the weights of the first, and every update be that of all."""
        link = NCCL(self.solver)
        link.bcast()
        self.solver.add_callback(link)
        if self.solver_param.layer_wise_reduce:
            self.solver.net.after_backward(link)

    def _feed(self, roidb):
        """The data layer gets the roidb, and the losses are kept."""
        self.data_layer = self.solver.net.layers[0]
        check_families(self.solver.net)
        self.data_layer.set_roidb(roidb)
        if hasattr(self.data_layer, 'sampler'):
            sampler = self.data_layer.sampler
            sampler.real_batch = sampler.images * sampler.count * self.solver_param.iter_size
        self.losses = Losses(self.solver, getattr(self.data_layer, 'images', list))
        self.data_layer.before_draw = self._before_draw

    def _before_draw(self):
        self.losses.keep()
        beat(os.path.basename(self.prefix), self.losses.expect())

    def _prepare_targets(self, roidb):
        with busy('statistics of box targets'):
            self.bbox_means, self.bbox_stds = rdl_roidb.add_bbox_regression_targets(
                roidb, family_of_net(self.solver.net)
            )

    def _measure_anchors(self, roidb):
        """Sets RPN_NORMALIZE_MEANS and STDS to those of the targets of the net's anchors."""
        for layer in self.solver.net.layers:
            if hasattr(layer, 'statistics'):
                with busy("statistics of anchors' targets"):
                    means, stds = layer.statistics(roidb)
                cfg.TRAIN.RPN_NORMALIZE_MEANS, cfg.TRAIN.RPN_NORMALIZE_STDS = tuple(means), tuple(stds)
                log.info("anchors' targets have the means %s and the deviations %s", means, stds)

    @property
    def pace(self):
        """Seconds per iteration."""
        return self.timer.average_time

    def train_model(self, max_iters):
        """Step to iteration max_iters -> snapshots' paths: every cfg.TRAIN.SNAPSHOT_ITERS, and at the end."""
        train, self.max_iters = cfg.TRAIN, max_iters
        snapshots = Snapshots(train.SNAPSHOT_ITERS)
        hooks = [Log(), *self.hooks, snapshots]
        if self.states:
            self.states.restore(self)
            hooks.append(Checkpoints(train.CHECKPOINT_MINUTES, train.SNAPSHOT_ITERS))
        with contextlib.ExitStack() as stack:
            for hook in hooks:
                stack.callback(getattr(hook, 'on_exit', _nothing), self)
                getattr(hook, 'on_start', _nothing)(self)
            while self.solver.iter < max_iters and not self.ended:
                record = self.step()
                for hook in hooks:
                    getattr(hook, 'on_step', _nothing)(self, record)
            for hook in hooks:
                getattr(hook, 'on_end', _nothing)(self)
        return snapshots.paths

    def step(self):
        """One iteration -> its record. Its losses are added to it by the time that they are read, which may be some
        iterations later: see Losses. FloatingPointError for one that is not finite."""
        record = {'iteration': self.solver.iter + 1, 'lr': self.solver.learning_rate()}
        self.timer.tic()
        self.solver.step(1)
        self.losses.close(record)
        record['seconds'] = round(self.timer.toc(average=False), 4)
        iteration = self.solver.iter
        if self.solver.action or iteration == self.max_iters or iteration % cfg.TRAIN.SNAPSHOT_ITERS == 0:
            self.losses.read()
        return record

    def checkpoint(self, keep=2):
        """Write the state that this training goes on from; of earlier ones the last keep - 1 stay."""
        self._check_weights()
        self.states.save(self, keep)

    def snapshot(self):
        """Write <snapshot_prefix>[_<infix>]_iter_<N>.caffemodel to the output folder -> its path."""
        path = f'{self.prefix}_iter_{self.solver.iter}.caffemodel'
        self._check_weights()
        if caffe.solver_rank() == 0:
            with busy('snapshot'), plain_predictions(self.solver.net, self._normalisations()):
                self.solver.net.save(path)
            log.info('Wrote snapshot to: %s', path)
        return path

    def _check_weights(self):
        """FloatingPointError for weights that are not finite, which nobody wants to keep."""
        for name, blobs in self.solver.net.params.items():
            if not all(torch.isfinite(blob.tensor).all() for blob in blobs):
                raise FloatingPointError(
                    f'iteration {self.solver.iter}: weights of layer {name} are not finite; none are written'
                )

    def _normalisations(self):
        """{layer: (means, stds) of its targets, one per output channel, or per group of channels that follow}"""
        train, found = cfg.TRAIN, {}
        if self.bbox_means is not None and train.BBOX_NORMALIZE_TARGETS:
            boxes = 'bbox_pred', 'bbox_pred_image', 'rfcn_bbox'
            found = dict.fromkeys(boxes, (self.bbox_means, self.bbox_stds))
        if train.RPN_NORMALIZE_TARGETS and 'rpn_bbox_pred' in self.solver.net.params:
            anchors = self.solver.net.params['rpn_bbox_pred'][1].count // 4
            values = train.RPN_NORMALIZE_MEANS, train.RPN_NORMALIZE_STDS
            found['rpn_bbox_pred'] = [np.tile(value, anchors) for value in values]
        return found


def check_statistics(train):
    """ValueError where the settings cfg.TRAIN ask for statistics of what is not there yet."""
    measured = train.BBOX_NORMALIZE_TARGETS and not train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED
    if train.HAS_RPN and train.BBOX_REG and measured:
        raise ValueError(
            'with an RPN the proposals to take statistics of are not there yet: set '
            'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED (an RPN alone: TRAIN.BBOX_REG False)'
        )


def check_families(net):
    """ValueError unless the images and boxes that a RoIDataLayer serves are as the net's other layers take them."""
    wanted, data_layer = family_of_net(net), net.layers[0]
    if getattr(data_layer, 'family', wanted) != wanted:
        raise ValueError(
            f"layer {data_layer.layer_param.name} serves boxes of {data_layer.family.name}, those of the net's other "
            f"layers are of {wanted.name}: its param_str wants the 'boxes' that theirs have; --force writes the nets anew"
        )


def divide_by_images(net, images):
    """R-FCN's nets divide loss_bbox by a fixed number, of the RoIs that learn in an image: here by those of all images of
    a pass."""
    for layer in net.layers:
        loss = layer.layer_param.loss_param
        if layer.type == 'SmoothL1LossOHEM' and loss.normalization == loss.PRE_FIXED:
            loss.pre_fixed_normalizer *= images


def _nothing(*args):
    """For a hook that lacks a method."""


def num_classes_of(roidb):
    """K, with the background, of a roidb's entries."""
    return roidb[0]['gt_overlaps'].shape[1]


@contextlib.contextmanager
def plain_predictions(net, normalisations):
    """Within, those layers of the net that are named predict plain targets: weights times stds, biases, where they have
    them, times stds plus means. normalisations: as SolverWrapper._normalisations gives."""
    kept = []
    for name, (means, stds) in normalisations.items():
        if name in net.params:
            weights, *biases = net.params[name][:2]
            kept += [(blob, blob.data.copy()) for blob in (weights, *biases)]
            group = weights.shape[0] // len(stds)
            means, stds = np.repeat(means, group), np.repeat(stds, group)
            weights.data[...] = weights.data * stds.reshape(-1, *[1] * (len(weights.shape) - 1))
            for bias in biases:
                bias.data[...] = bias.data * stds + means
    try:
        yield
    finally:
        for blob, values in kept:
            blob.data[...] = values
