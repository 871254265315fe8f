"""A solver's learning-rate steps for another number of iterations than it was written for."""

import logging

from google.protobuf import text_format

from caffe.format.prototxt import read_solver
from utils.files import atomic_path

log = logging.getLogger(__name__)


def follow(solver_file, planned, max_iters, target):
    """A solver file whose learning rate falls at the same shares of max_iters as solver_file's of `planned`:
    solver_file itself where these are equal, else `target`, which is written."""
    if planned == max_iters:
        return solver_file
    param, changes = read_solver(solver_file), []
    for field in 'stepsize', 'stepvalue', 'max_iter':
        numbers = getattr(param, field)
        old = list(numbers) if field == 'stepvalue' else [numbers] * param.HasField(field)
        new = [max(1, number * max_iters // planned) for number in old]
        if field == 'stepvalue':
            numbers[:] = new
        elif new:
            setattr(param, field, new[0])
        changes += [f'{field} {a} -> {b}' for a, b in zip(old, new)]
    with atomic_path(target) as temporary, open(temporary, 'w') as stream:
        stream.write(f'# {solver_file}, written for {planned} iterations, for {max_iters}\n')
        stream.write(text_format.MessageToString(param))
    said = ', '.join(changes) or 'it has no steps to change'
    log.info('%s is for %d iterations, these are %d: %s (%s)', solver_file, planned, max_iters, said, target)
    return target


def warn_of_steps(solver_file, max_iters):
    """Says so where the learning rate of a solver never falls within max_iters."""
    param = read_solver(solver_file)
    steps = {'step': [param.stepsize], 'multistep': param.stepvalue}.get(param.lr_policy, [])
    if steps and min(steps) >= max_iters:
        log.warning(
            '%s: the learning rate first falls after %d iterations, and %d are wanted: it never does. The '
            'recipes in experiments/scripts change the steps with the iterations',
            solver_file,
            min(steps),
            max_iters,
        )
