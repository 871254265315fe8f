"""Several ranks, one per GPU (or CPU process): the group that they make, and NCCL(solver, uid), which keeps their
parameters equal, on torch.distributed.

A rank carries torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and
joins by name; or, as with pycaffe, each process sets its device, solver count and rank, and makes an NCCL from a
common uid. With one rank everything here does nothing.
"""

import atexit
import contextlib
import datetime
import os
import socket
import struct
import sys

import torch
import torch.distributed as dist

from . import common

COME = datetime.timedelta(minutes=30)  # for the others to be there
WORK = datetime.timedelta(
    days=30
)  # for a test or a snapshot of one rank that the others wait for; a watch finds hangs
_AGENT = 'TORCHELASTIC_USE_AGENT_STORE'  # who started the ranks holds the store
_ADDRESS_OF = 0x8915  # Linux: SIOCGIFADDR
kept = []  # stores that this process holds for others


def has_nccl():
    """Whether torch has NVIDIA's library. NCCL works without it, on gloo."""
    return dist.is_available() and dist.is_nccl_available()


def join(name):
    """Become the rank that the environment says, and join the others that join `name`, on the device set before.

    Blocks until all are there. Each name serves once in a run.
    """
    count = int(os.environ.get('WORLD_SIZE', 1))
    if count == 1:
        return
    common.set_solver_count(count)
    common.set_solver_rank(int(os.environ['RANK']))
    common.set_multiprocess(True)
    run = os.environ.get('TORCHELASTIC_RUN_ID', ''), os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    _make_group(dist.PrefixStore('/'.join([*run, name]), connect()))


def connect():
    """A connection to the store of the run that the environment names. Rank 0 holds it where nobody does; the
    processes that rank 0 starts from then on find it."""
    host, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    if os.environ['RANK'] == '0' and os.environ.get(_AGENT) != 'True':
        kept.append(dist.TCPStore(host, port, is_master=True, timeout=COME, wait_for_workers=False))
        os.environ[_AGENT] = 'True'
    store = dist.TCPStore(host, port, is_master=False, timeout=COME, wait_for_workers=False)
    store.set_timeout(WORK)
    return store


def _make_group(store):
    """The group of solver_count ranks that meet at `store`."""
    rank, count, device = common.solver_rank(), common.solver_count(), common.device()
    nccl = device.type == 'cuda' and has_nccl()
    if sys.platform == 'linux' and 'GLOO_SOCKET_IFNAME' not in os.environ:
        os.environ.update(_interface(os.environ.get('MASTER_ADDR', '127.0.0.1')))
    dist.init_process_group(
        'cpu:gloo,cuda:nccl' if nccl else 'gloo',
        store=store,
        rank=rank,
        world_size=count,
        timeout=WORK,
        device_id=device if nccl else None,
    )
    atexit.register(leave)
    barrier()


def _interface(host):
    """{'GLOO_SOCKET_IFNAME': the network interface on the way to `host`}, as the name of this machine need not lead
    there; empty for the machine itself, and where there is no IPv4."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, 1))  # sends nothing
        address = s.getsockname()[0]
        for _, name in socket.if_nameindex() if not address.startswith('127.') else ():
            if _address(s, name) == address:
                return {'GLOO_SOCKET_IFNAME': name}
    return {}


def _address(opened, interface):
    """The IPv4 address of a network interface, None where it has none; asked for on an open socket."""
    import fcntl

    with contextlib.suppress(OSError):
        told = fcntl.ioctl(opened, _ADDRESS_OF, struct.pack('256s', interface.encode()))
        return socket.inet_ntoa(told[20:24])


def leave():
    """Leave the group; rank and count stay. Nothing where there is none."""
    atexit.unregister(leave)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier():
    """Wait for all ranks."""
    if common.solver_count() > 1:
        dist.all_reduce(torch.zeros(1))  # on the host: no GPU waits


def share(value):
    """Rank 0's `value`, any that can be pickled, at every rank."""
    values = [value]
    if common.solver_count() > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def gather(value):
    """All ranks' values in a list, at every rank."""
    values = [value] * common.solver_count()
    if common.solver_count() > 1:
        dist.all_gather_object(values, value)
    return values


class NCCL:
    """The link of one solver to those of the other ranks. uid: from new_uid(), the same for all."""

    def __init__(self, solver, uid):
        self.solver, self.count = solver, common.solver_count()
        if self.count > 1 and not dist.is_initialized():
            host, port = uid.decode().removeprefix('tcp://').rsplit(':', 1)
            _make_group(
                dist.TCPStore(
                    host, int(port), is_master=common.solver_rank() == 0, timeout=COME, wait_for_workers=False
                )
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
