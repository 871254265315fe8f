"""Where an interrupted training goes on: state of the solver, of the random generators and of the data layer.

Beside the snapshots: <prefix>_resume_iter_<N>.caffemodel (weights as
trained, targets normalised), .solverstate, and for each worker _<rank>.npz. A mark tells whether the same
training asks for it again.
"""

import glob
import hashlib
import logging
import os
import random
import re

import caffe
import numpy as np
import torch

from fast_rcnn.config import cfg_values
from utils.files import load_npz, save_npz

log = logging.getLogger(__name__)

# Settings that do not decide what is learned
HARMLESS = 'SNAPSHOT_ITERS', 'CHECKPOINT_MINUTES', 'USE_PREFETCH', 'LOADER_WORKERS'


def training_mark(files, roidb):
    """A digest of the settings, of the files that decide the training (None: absent) and of the roidb."""
    settings = {key: value for key, value in cfg_values()['TRAIN'].items() if key not in HARMLESS}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for path in filter(None, files):
        with open(path, 'rb') as stream:
            digest.update(hashlib.sha256(stream.read()).digest())
    for entry in roidb:
        digest.update(
            repr(
                (
                    entry['image'],
                    entry['flipped'],
                    entry['boxes'].shape,
                    float(entry['boxes'].sum(dtype=np.float64)),
                )
            ).encode()
        )
    return digest.hexdigest()


def save(solver, data_layer, prefix, mark):
    """Write the state, the file that stands for it last; then older ones are removed."""
    if caffe.solver_rank() == 0:
        own_prefix, solver.param.snapshot_prefix = solver.param.snapshot_prefix, f'{prefix}_resume'
        solver.snapshot()
        solver.param.snapshot_prefix = own_prefix
    _, keys, position, has_gauss, gauss = np.random.get_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    save_npz(
        _state_file(prefix, solver.iter),
        mark=mark,
        keys=keys,
        numpy=[position, has_gauss, gauss],
        python=random.getstate()[1],
        torch=torch.get_rng_state().numpy(),
        gpus=[state.numpy() for state in gpus],
        **{f'sampler_{name}': value for name, value in data_layer.sampler.state().items()},
    )
    remove(prefix, but=solver.iter)


def restore(solver, data_layer, prefix, mark):
    """Go on from the last state written by save, if there is one with this mark -> whether there was."""
    found = {
        int(re.search(r'_iter_(\d+)_', path[len(prefix) :])[1]): path
        for path in glob.glob(_state_file(glob.escape(prefix), '*'))
    }
    for iteration, path in sorted(found.items(), reverse=True):
        state = load_npz(path)
        weights = glob.glob(f'{glob.escape(prefix)}_resume_iter_{iteration}.solverstate*')
        if state['mark'] != mark or not weights:
            log.info('%s is of a training with other settings or files: not continued', path)
            continue
        solver.restore(weights[0])
        position, has_gauss, gauss = state['numpy']
        np.random.set_state(('MT19937', state['keys'], int(position), int(has_gauss), gauss))
        random.setstate((3, tuple(state['python'].tolist()), None))
        torch.set_rng_state(torch.from_numpy(state['torch']))
        if len(state['gpus']) and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([torch.from_numpy(gpu) for gpu in state['gpus']])
        data_layer.sampler.restore({name: state[f'sampler_{name}'] for name in ('order', 'place', 'epoch')})
        log.info('Going on from iteration %d', solver.iter)
        return True
    return False


def remove(prefix, but=None):
    """Remove this worker's state files (the first also the solver's), but those of iteration `but`."""
    rank = caffe.solver_rank()
    for path in glob.glob(f'{glob.escape(prefix)}_resume_iter_*'):
        own = path.endswith(f'_{rank}.npz') or rank == 0 and not path.endswith('.npz')
        if own and not path.startswith((f'{prefix}_resume_iter_{but}.', f'{prefix}_resume_iter_{but}_')):
            os.remove(path)


def _state_file(prefix, iteration):
    return f'{prefix}_resume_iter_{iteration}_{caffe.solver_rank()}.npz'
