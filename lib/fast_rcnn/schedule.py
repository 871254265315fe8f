"""How long a training is and how fast it learns, where settings say so over the solver's file: epochs, the rate's steps in
epochs, its scaling with the batch, its warm-up, its fall by a cosine."""

import os

import caffe
import numpy as np
from caffe.format.prototxt import read_solver

from fast_rcnn.solver_options import write_changed

ITERATIONS = 40000  # of a training that nothing says the length of


def batch_and_epoch(solver, train):
    """The images of an update over all passes and workers, by a SolverParameter and the settings cfg.TRAIN; a function
    that tells how many updates go once through so many images."""
    batch = train.REAL_BATCH_SIZE or train.IMS_PER_BATCH * solver.iter_size * caffe.solver_count()
    return batch, lambda images: max(images // batch, 1)


def iterations_in(solver_file, train, images, epochs):
    """How many iterations so many epochs are, one at least."""
    _, epoch = batch_and_epoch(read_solver(solver_file), train)
    return max(1, round(epochs * epoch(images)))


def iterations_of(solver_file, train, images):
    """How many iterations cfg.TRAIN.EPOCHS are, of so many images a worker knows of; ITERATIONS where it is 0."""
    return iterations_in(solver_file, train, images, train.EPOCHS) if train.EPOCHS else ITERATIONS


def scheduled(solver_file, train, images, max_iters, folder):
    """The solver file to train max_iters iterations by: solver_file itself, or where cfg.TRAIN's BASE_LR, LR_BATCH,
    WEIGHT_DECAY, EPOCH_STEPS, COSINE_LR or WARMUP_ITERS differ from it, <snapshot_prefix>_schedule_solver.prototxt in the folder."""
    solver = read_solver(solver_file)
    batch, epoch = batch_and_epoch(solver, train)
    new = wanted(solver, train, batch, epoch(images), max_iters)
    new = {field: value for field, value in new.items() if value != _read(solver, field)}
    if not new:
        return solver_file
    changes = [f'{field} {_said(_read(solver, field))} -> {_said(value)}' for field, value in new.items()]
    if train.LR_BATCH not in (0, batch):
        changes.append(f'the rate is scaled from {train.LR_BATCH} to {batch} images an update')
    for field, value in new.items():
        solver.ClearField(field)
        getattr(solver, field).extend(value) if isinstance(value, list) else setattr(solver, field, value)
    path = os.path.join(folder, f'{solver.snapshot_prefix}_schedule_solver.prototxt')
    write_changed(path, solver, solver_file, changes)
    return path


def wanted(solver, train, batch, epoch, max_iters):
    """{field: value} of a SolverParameter by the settings cfg.TRAIN, for updates of `batch` images, `epoch` of them an epoch.

    Where max_iters are other than EPOCHS, the rate falls at the same shares of them. ValueError for EPOCH_STEPS beyond
    EPOCHS, or together with COSINE_LR.
    """
    rate = (train.BASE_LR or solver.base_lr) * (batch / train.LR_BATCH if train.LR_BATCH else 1)
    fields = {'base_lr': single(rate)}
    if train.WEIGHT_DECAY >= 0:
        fields['weight_decay'] = single(train.WEIGHT_DECAY)
    steps = [step for step in train.EPOCH_STEPS if step]
    if steps:
        if max(steps) > train.EPOCHS:
            raise ValueError(f'TRAIN.EPOCH_STEPS {steps} lie beyond TRAIN.EPOCHS {train.EPOCHS:g}')
        fields['lr_policy'] = 'multistep'
        fields['stepvalue'] = [round(step / train.EPOCHS * max_iters) for step in steps]
    if train.COSINE_LR:
        if steps:
            raise ValueError(f'TRAIN.COSINE_LR and TRAIN.EPOCH_STEPS {steps}: wanted one of them')
        fields.update(lr_policy='cosine', max_iter=max_iters)
    if train.WARMUP_ITERS:
        fields['rampup_interval'] = min(train.WARMUP_ITERS, epoch - 1)
        fields['rampup_lr'] = single(rate * train.WARMUP_FACTOR)
    return fields


def single(number):
    """A number as a float field of 32 bits holds it."""
    return float(np.float32(number))


def _read(solver, field):
    value = getattr(solver, field)
    return value if isinstance(value, (int, float, str)) else list(value)


def _said(value):
    return f'{value:g}' if isinstance(value, float) else str(value)
