"""The losses of a training: kept where they are computed and read every so often, so that no pass waits for them.

L loss outputs of the net, P forward passes since the last look.
"""

import collections

import caffe
import numpy as np
import torch
from caffe.parallel import gather

EVERY = 20  # iterations between two looks where the solver file has no display


class Losses:
    """Each pass's losses, by name, until read() puts their means into the records of their iterations.

    images(): paths of the images of the pass at hand. every: iterations between two looks: the solver's display; on
    the CPU, with one worker, every iteration. recent: the loss of the last average_loss iterations read.
    """

    def __init__(self, solver, images):
        self.solver, self.images = solver, images
        param, net = solver.param, solver.net
        self.names = [name for name in net.outputs if net.blob_loss_weights.get(name)]
        self.recent = collections.deque(maxlen=max(1, param.average_loss))
        waits = caffe.common.device().type == 'cpu' and caffe.solver_count() == 1
        self.every = 1 if waits else param.display or EVERY
        self._due, self._drawn = 0, None
        self._passes, self._records = [], []

    def expect(self):
        """A pass begins -> the iteration it is of."""
        if len(self._passes) >= self.every * self.solver.param.iter_size:  # nobody closes iterations
            self.read()
        self._drawn = self.solver.iter + 1
        return self._drawn

    def keep(self):
        """Keep the losses of the pass that has ended, if one has."""
        if self._drawn:
            sums = [self.solver.net.blobs[name].tensor.sum() for name in self.names]
            values = torch.stack(sums) if sums else torch.zeros(0)
            self._passes.append((self._drawn, self.images(), values))
            self._drawn = None

    def close(self, record):
        """The iteration of this record has ended."""
        self._drawn = self._drawn or record['iteration']
        self.keep()
        self._records.append((record, self.solver.loss))
        if record['iteration'] >= self._due:
            self.read()

    def read(self):
        """Put smoothed_loss and the losses by name, means over all passes and workers, into the records closed since
        the last time. All workers read at once.

        FloatingPointError for a loss that is not finite, with its worker, iteration and images; the records before it
        are filled.
        """
        passes, self._passes, records, self._records = self._passes, [], self._records, []
        values = np.array(torch.stack([row for *_, row in passes]).tolist()) if passes else np.zeros((0, 0))
        totals = torch.stack([loss for _, loss in records]).tolist() if records else []
        all_values, all_totals, faults = zip(*gather((values, totals, self._fault(passes, values))))
        fault = min(filter(None, faults), default=None)
        iterations = np.array([iteration for iteration, *_ in passes])
        for (record, _), total in zip(records, np.mean(all_totals, 0)):
            if fault and record['iteration'] >= fault[0]:
                break
            self.recent.append(float(total))
            mean = np.mean(all_values, 0)[iterations == record['iteration']].mean(0)
            record.update(smoothed_loss=sum(self.recent) / len(self.recent), **dict(zip(self.names, mean)))
        if fault:
            raise FloatingPointError(fault[-1])
        if records:
            self._due = (records[-1][0]['iteration'] // self.every + 1) * self.every

    def _fault(self, passes, values):
        """(iteration, rank, what is wrong) of the first pass with a loss that is not finite, or None."""
        rows, columns = np.nonzero(~np.isfinite(values))
        if not len(rows):
            return None
        (iteration, images, _), name = passes[rows[0]], self.names[columns[0]]
        rank = caffe.solver_rank()
        who = f'worker {rank}, ' if caffe.solver_count() > 1 else ''
        loss = values[rows[0], columns[0]]
        return iteration, rank, f'{who}iteration {iteration}: {name} is {loss} on {", ".join(images)}'
