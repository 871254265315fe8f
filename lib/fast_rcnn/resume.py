"""Where a training goes on: states of the solver, of the random generators of all workers and of the data layer.

A state is <prefix>_resume_iter_<N>.caffemodel (weights as trained, targets normalised) and .solverstate, and
<prefix>_resume_iter_<N>.npz, which is written last and has the digests of both. The first worker writes it. A mark
tells whether the same training asks for it again.
"""

import glob
import hashlib
import json
import logging
import os
import re

import caffe
from caffe.watch import busy
from caffe.parallel import gather, share

from fast_rcnn.config import DEFAULTS, cfg, cfg_values
from fast_rcnn.draws import generators, set_generators
from roi_data_layer.roidb import roidb_digest
from utils.files import file_digest, load_npz, save_npz

log = logging.getLogger(__name__)

# Settings that do not decide what is learned
HARMLESS = 'SNAPSHOT_ITERS', 'CHECKPOINT_MINUTES', 'USE_PREFETCH', 'LOADER_WORKERS', 'SEED_EACH_IMAGE'
# Settings that older states know nothing of, and that change nothing as they are by default
LATER = (
    *('SCALE_JITTER', 'FLIP_PROB', 'ASPECT_CROPPING', 'CROP_PROB', 'CROP_SIDES', 'CROP_OVERLAPS'),
    *('DISTORT_PROB', 'BRIGHTNESS_DELTA', 'CONTRAST', 'SATURATION', 'HUE_DELTA'),
    *('EPOCHS', 'EPOCH_STEPS', 'BASE_LR', 'WEIGHT_DECAY', 'LR_BATCH', 'WARMUP_ITERS', 'WARMUP_FACTOR'),
    *('ASPECT_GROUP_FACTOR', 'USE_DIFFICULT', 'CLASS_AWARE'),
    *('FREEZE', 'BIAS_DECAY', 'DOUBLE_BIAS', 'CLIP_GRADIENTS', 'SYNC_BN'),
    *('COSINE_LR', 'LABEL_SMOOTHING', 'OHEM', 'VALIDATE', 'VALIDATE_EPOCHS', 'PATIENCE', 'FIT'),
)
FILES, SEQUENCE = ('.caffemodel', '.solverstate'), 'one sequence'


def training_mark(files, sampler):
    """{what decides a training: its digest}: settings, files (None: absent), the sampler's roidb; and what it draws in
    one update, with which seeds, in words (SEQUENCE, or those of each image)."""
    train = cfg_values()['TRAIN']
    same = [key for key in LATER if train[key] == DEFAULTS['TRAIN'][key]]
    settings = {key: value for key, value in train.items() if key not in (*HARMLESS, *same)}
    settings.update(RNG_SEED=cfg.RNG_SEED, PIXEL_MEANS=cfg.PIXEL_MEANS.tolist())
    settings.update(
        {key: cfg[key] for key in ('PRECISION', 'TF32') if cfg[key] != DEFAULTS[key]}
    )  # older states'
    return {
        'settings': _digest(repr(sorted(settings.items())).encode()),
        'files': _digest(*(file_digest(path).encode() for path in filter(None, files))),
        'images': roidb_digest(sampler.roidb),
        'seeds': SEQUENCE if sampler.seed is None else _each_image(sampler),
    }


def _each_image(sampler):
    return f'each image, {sampler.real_batch} an update'


def _digest(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class States:
    """The states of one training. kept: the iterations of those that are its own, oldest first."""

    def __init__(self, prefix, mark):
        self.stem, self.mark, self.kept = f'{prefix}_resume_iter_', mark, []

    def save(self, loop, keep):
        """Write the loop's state; of those before the last keep - 1 stay, and all others go. A disk that is full
        raises OSError, and the states before stand."""
        iteration = loop.solver.iter
        states = gather(generators())
        if caffe.solver_rank() == 0:
            if iteration not in self.kept:
                with busy('checkpoint'):
                    self._write(loop, states)
                self.kept.append(iteration)
            self.kept = self.kept[-keep:]
            self._remove_but(self.kept)

    def _write(self, loop, states):
        solver, path = loop.solver, self._path(loop.solver.iter)
        own_prefix = solver.param.snapshot_prefix
        try:
            solver.param.snapshot_prefix = self.stem.removesuffix('_iter_')
            solver.snapshot()
            save_npz(
                path,
                mark=json.dumps(self.mark),
                digests=[file_digest(path) for path in self._files(solver.iter)],
                losses=loop.losses.recent,
                **{f'sampler_{name}': value for name, value in loop.data_layer.sampler.state().items()},
                **{name: [each[name] for each in states] for name in states[0]},
            )
        except OSError as error:
            self._remove_but(self.kept)
            last = f'the one of iteration {self.kept[-1]} stands' if self.kept else 'there is none before it'
            raise OSError(
                f'{path}: the state of the training could not be written ({error.strerror}); {last}'
            ) from error
        finally:
            solver.param.snapshot_prefix = own_prefix

    def restore(self, loop):
        """Go on from the last whole state of this training that is not beyond loop.max_iters, if there is one; each
        other one that is met on the way is named in the log. One worker goes on with seeds for each image where
        several had begun."""
        iteration, sampler = None, loop.data_layer.sampler
        if caffe.solver_rank() == 0:
            self._remove_half_written()
            iteration = self._last(loop.max_iters, {SEQUENCE: _each_image(sampler)})
        iteration = share(iteration)
        if iteration is None:
            return
        state, solver = load_npz(self._path(iteration)), loop.solver
        solver.restore(self._files(iteration)[1])
        sampler.restore({name: state[f'sampler_{name}'] for name in ('order', 'place', 'epoch')})
        self.mark = json.loads(str(state['mark']))
        sampler.seed = None if self.mark['seeds'] == SEQUENCE else cfg.RNG_SEED
        loop.losses.recent.extend(state['losses'].tolist())
        if len(state['numpy']) == caffe.solver_count():
            set_generators({name: state[name][caffe.solver_rank()] for name in generators()})
        self.kept = [iteration]
        log.info('Going on from iteration %d', solver.iter)

    def _last(self, max_iters, instead):
        found = [re.fullmatch(r'(\d+)\.npz', path[len(self.stem) :]) for path in self._all()]
        for iteration in sorted((int(match[1]) for match in found if match), reverse=True):
            beyond = 'its iteration is beyond those wanted' if iteration > max_iters else None
            fault = beyond or self._fault(iteration, instead)
            if fault is None:
                return iteration
            log.warning('%s: not gone on from: %s', self._path(iteration), fault)
        return None

    def _fault(self, iteration, instead):
        """Why a state is of no use, or None. instead: {a value of the mark: another one that does as well}."""
        try:
            state = load_npz(self._path(iteration))
            mark, digests = json.loads(str(state['mark'])), state['digests'].tolist()
        except (ValueError, KeyError) as error:
            return f'it is cut off, or no state ({error})'
        differs = [
            name
            for name, value in self.mark.items()
            if mark.get(name) not in (value, instead.get(value, value))
        ]
        if differs:
            return f'it is of a training with other {", ".join(differs)}'
        for path, digest in zip(self._files(iteration), digests):
            if not os.path.exists(path) or file_digest(path) != digest:
                return f'{path} is missing, cut off or another'
        return None

    def _path(self, iteration):
        return f'{self.stem}{iteration}.npz'

    def _files(self, iteration):
        return [f'{self.stem}{iteration}{suffix}' for suffix in FILES]

    def _all(self):
        return glob.glob(f'{glob.escape(self.stem)}*')

    def _remove_but(self, kept):
        whole = {path for iteration in kept for path in (self._path(iteration), *self._files(iteration))}
        for path in set(self._all()) - whole:
            os.remove(path)

    def _remove_half_written(self):
        """Remove what this training left under temporary names when it was killed."""
        folder, name = os.path.split(self.stem.removesuffix('_resume_iter_'))
        name, chance = re.escape(name), '[0-9a-f]{8}'
        half = rf'\.{chance}\.{name}_(resume_iter_\d+|log)\..*|{name}_(resume_)?iter_\d+\.{chance}\.tmp\..*'
        for file in os.listdir(folder):
            if re.fullmatch(half, file):
                os.remove(os.path.join(folder, file))
