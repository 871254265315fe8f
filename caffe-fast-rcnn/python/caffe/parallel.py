"""Several workers, one per GPU (or CPU process): NCCL(solver, uid) keeps their parameters equal, on
torch.distributed.

As with pycaffe: each process sets its device, solver count and rank, makes a solver and an NCCL from a
common uid, calls bcast() once, and adds the NCCL to the solver's callbacks; gradients are then averaged
before every update. With one worker everything here does nothing.
"""

import os
import socket

import torch
import torch.distributed as dist

from . import common


def has_nccl():
    return dist.is_available()


class NCCL:
    """The link of one solver to those of the other ranks. uid: from new_uid(), the same for all."""

    def __init__(self, solver, uid):
        self.solver, self.count = solver, common.solver_count()
        if self.count > 1 and not dist.is_initialized():
            backend = 'nccl' if common.device().type == 'cuda' else 'gloo'
            dist.init_process_group(
                backend, init_method=uid.decode(), rank=common.solver_rank(), world_size=self.count
            )

    @staticmethod
    def new_uid():
        """bytes that carry the rendezvous: tcp://host:port, the host from MASTER_ADDR (default: this one)."""
        host = os.environ.get('MASTER_ADDR', '127.0.0.1')
        port = os.environ.get('MASTER_PORT')
        if port is None:
            with socket.socket() as s:
                s.bind(('', 0))
                port = s.getsockname()[1]
        return f'tcp://{host}:{port}'.encode()

    def bcast(self):
        """Give every rank the parameters of rank 0."""
        if self.count > 1:
            for blob in self.solver.net.learnable_params:
                dist.broadcast(blob.update(), 0)

    def on_start(self):
        pass

    def on_gradients_ready(self):
        """Average the diffs of the parameters that learn over all ranks: one all-reduce of all of them in
        a row."""
        if self.count == 1:
            return
        blobs = [b for b, lr in zip(self.solver.net.learnable_params, self.solver.net.params_lr) if lr]
        flat = torch.cat([b.grad.reshape(-1) for b in blobs])
        dist.all_reduce(flat)
        flat /= self.count
        for blob, part in zip(blobs, flat.split([b.count for b in blobs])):
            blob.grad = part.reshape(blob.shape)

    def __call__(self, layer_index):
        """As a hook of net.after_backward (layer-wise reduce): the reduction waits for on_gradients_ready."""


def launch(function, count, args):
    """Run function(rank, uid, *args) in `count` processes; an error of one ends the others and is raised
    here."""
    uid = NCCL.new_uid()
    torch.multiprocessing.spawn(_worker, (function, count, uid, args), nprocs=count)


def _worker(rank, function, count, uid, args):
    common.set_solver_count(count)
    common.set_solver_rank(rank)
    common.set_multiprocess(True)
    function(rank, uid, *args)
