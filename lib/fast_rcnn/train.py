"""Training: a roidb, a solver prototxt and initial weights become snapshots.

Beside them, <prefix>_log.jsonl gets a line per iteration: iteration, lr, smoothed_loss, each loss output of
the iteration's last image by name, seconds.
"""

import json
import logging
import math
import os
import sys

import caffe
import numpy as np
from tqdm import tqdm

from fast_rcnn import resume as resume_state
from fast_rcnn.config import cfg
from roi_data_layer import roidb as rdl_roidb
from roi_data_layer.roidb import filter_roidb
from utils.files import atomic_path
from utils.timer import Timer

log = logging.getLogger(__name__)


def get_training_roidb(imdb):
    """imdb's roidb, prepared to train on, with flipped images if cfg.TRAIN.USE_FLIPPED."""
    if cfg.TRAIN.USE_FLIPPED:
        imdb.append_flipped_images()
    rdl_roidb.prepare_roidb(imdb)
    return imdb.roidb


def train_net(solver_prototxt, roidb, output_dir, pretrained_model=None, max_iters=40000, resume=True):
    """Train to iteration max_iters -> paths of the snapshots written, the final one last.

    resume: go on from the last snapshot of the same training (settings, nets, initial weights, roidb) if it
    was interrupted; it then ends as if it had not been.
    """
    solver = SolverWrapper(solver_prototxt, filter_roidb(roidb), output_dir, pretrained_model, resume)
    return solver.train_model(max_iters)


def iter_size(real_batch_size, ims_per_batch, workers):
    """Forward passes per update and worker that make a real batch."""
    size, rest = divmod(real_batch_size, ims_per_batch * workers)
    if rest or not size:
        raise ValueError(
            f'TRAIN.REAL_BATCH_SIZE {real_batch_size} is no multiple of {ims_per_batch} images '
            f'(TRAIN.IMS_PER_BATCH) x {workers} workers'
        )
    return size


class SolverWrapper:
    """A caffe.SGDSolver fed with a roidb. Its net's first layer is the RoIDataLayer.

    Regression targets are normalised while training; snapshots hold a bbox_pred that predicts plain targets.
    """

    def __init__(self, solver_prototxt, roidb, output_dir, pretrained_model=None, resume=False):
        os.makedirs(output_dir, exist_ok=True)
        self.bbox_means = self.bbox_stds = None
        if cfg.TRAIN.BBOX_REG:
            self._prepare_targets(roidb)
        self.solver = caffe.get_solver(solver_prototxt)
        if cfg.TRAIN.REAL_BATCH_SIZE:
            self.solver.param.iter_size = iter_size(
                cfg.TRAIN.REAL_BATCH_SIZE, cfg.TRAIN.IMS_PER_BATCH, caffe.solver_count()
            )
        if pretrained_model is not None:
            log.info('Loading pretrained weights from %s', pretrained_model)
            self.solver.net.copy_from(pretrained_model)
        self.data_layer = self.solver.net.layers[0]
        self.data_layer.set_roidb(roidb)
        self.data_layer.before_draw = lambda: self._check_losses(self.solver.iter + 1)
        self.timer = Timer()
        infix = cfg.TRAIN.SNAPSHOT_INFIX
        stem = self.solver.param.snapshot_prefix + (f'_{infix}' if infix else '')
        self.prefix = os.path.join(output_dir, stem)
        net_file = self.solver.param.train_net or self.solver.param.net
        self.mark = None
        if resume:
            self.mark = resume_state.training_mark([solver_prototxt, net_file, pretrained_model], roidb)
            resume_state.restore(self.solver, self.data_layer, self.prefix, self.mark)
        if caffe.solver_rank() == 0:
            self._cut_log()

    def _prepare_targets(self, roidb):
        train = cfg.TRAIN
        if train.HAS_RPN and train.BBOX_NORMALIZE_TARGETS and not train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
            raise ValueError(
                'with an RPN the proposals to take statistics of are not there yet: set '
                'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED (an RPN alone: TRAIN.BBOX_REG False)'
            )
        self.bbox_means, self.bbox_stds = rdl_roidb.add_bbox_regression_targets(roidb)

    def train_model(self, max_iters):
        """Step to iteration max_iters -> snapshots' paths: every cfg.TRAIN.SNAPSHOT_ITERS, and at the end."""
        paths = []
        with tqdm(
            total=max_iters,
            initial=self.solver.iter,
            disable=not sys.stderr.isatty(),
            desc=os.path.basename(self.prefix),
        ) as bar:
            while self.solver.iter < max_iters:
                self.step()
                bar.update()
                if self.solver.iter % (10 * max(self.solver.param.display, 1)) == 0:
                    pace = self.timer.average_time
                    log.info(
                        'speed: %.3fs / iter, %d of %d, %.1f min left',
                        pace,
                        self.solver.iter,
                        max_iters,
                        (max_iters - self.solver.iter) * pace / 60,
                    )
                if self.solver.iter % cfg.TRAIN.SNAPSHOT_ITERS == 0 and self.solver.iter < max_iters:
                    paths.append(self.snapshot())
                    if self.mark:
                        resume_state.save(self.solver, self.data_layer, self.prefix, self.mark)
        paths.append(self.snapshot())
        if self.mark:
            resume_state.remove(self.prefix)
        return paths

    def step(self):
        """One iteration, logged. A loss that is not finite raises FloatingPointError: iteration and image."""
        rate = self.solver.learning_rate()
        self.timer.tic()
        self.solver.step(1)
        losses = self._check_losses(self.solver.iter)
        seconds = self.timer.toc(average=False)
        record = {
            'iteration': self.solver.iter,
            'lr': rate,
            'smoothed_loss': self.solver.smoothed_loss,
            **losses,
            'seconds': round(seconds, 4),
        }
        if caffe.solver_rank() == 0:
            with open(f'{self.prefix}_log.jsonl', 'a') as stream:
                stream.write(json.dumps(record) + '\n')

    def snapshot(self):
        """Write <snapshot_prefix>[_<infix>]_iter_<N>.caffemodel to the output folder -> its path."""
        path = f'{self.prefix}_iter_{self.solver.iter}.caffemodel'
        if caffe.solver_rank() != 0:
            return path
        net = self.solver.net
        if self.bbox_means is None or not cfg.TRAIN.BBOX_NORMALIZE_TARGETS or 'bbox_pred' not in net.params:
            net.save(path)
        else:
            weights, bias = net.params['bbox_pred'][:2]
            kept = weights.data.copy(), bias.data.copy()
            weights.data[...] = kept[0] * self.bbox_stds[:, None]
            bias.data[...] = kept[1] * self.bbox_stds + self.bbox_means
            net.save(path)
            weights.data[...], bias.data[...] = kept
        log.info('Wrote snapshot to: %s', path)
        return path

    def _cut_log(self):
        """Leave in the log what came before the present iteration."""
        path = f'{self.prefix}_log.jsonl'
        lines = open(path).readlines() if os.path.exists(path) else []
        with atomic_path(path) as temporary, open(temporary, 'w') as stream:
            stream.writelines(line for line in lines[: self.solver.iter])

    def _check_losses(self, iteration):
        """The net's losses for its last minibatch, by name; FloatingPointError if one is not finite."""
        net = self.solver.net
        losses = {
            name: float(np.sum(net.blobs[name].data))
            for name in net.outputs
            if net.blob_loss_weights.get(name)
        }
        bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if bad:
            raise FloatingPointError(
                f'iteration {iteration}: {bad[0]} is {losses[bad[0]]} on '
                + ', '.join(self.data_layer.images())
            )
        return losses
