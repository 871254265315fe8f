"""Several ranks, one per GPU (or CPU process): the group that they make, and NCCL(solver, uid), which keeps their
parameters equal, on torch.distributed.

A rank carries torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and
joins by name; or, as with pycaffe, each process sets its device, solver count and rank, and makes an NCCL from a
common uid. With one rank everything here does nothing.
"""

import contextlib
import datetime
import logging
import multiprocessing.util
import os
import socket
import struct
import sys

import torch
import torch.distributed as dist

from . import common
from .blob import settle

COME = datetime.timedelta(minutes=30)  # for the others to be there
WORK = datetime.timedelta(days=30)  # for a rank that tests or writes; the watch finds those that hang
_AGENT = 'TORCHELASTIC_USE_AGENT_STORE'  # who started the ranks holds the store
BUCKET = 25 * 2**18  # elements of a message, 25 MiB: many share its latency, and it is full early enough
ACTIONS = 'stop', 'snapshot', 'checkpoint'  # what a solver may be asked to do; of several the first is done
_ADDRESS_OF = 0x8915  # Linux: SIOCGIFADDR
waiting = contextlib.nullcontext  # around what waits for other ranks; a watch sets its own
_under_way = set()  # buckets
kept = []  # stores that this process holds for others


def has_nccl():
    """Whether torch has NVIDIA's library. NCCL works without it, on gloo."""
    return dist.is_available() and dist.is_nccl_available()


def join(name):
    """Become the rank that the environment says, and join the others that join `name`, on the device set before.

    Blocks until all are there. Each name serves once in a run.
    """
    count = int(os.environ.get('WORLD_SIZE', 1)) if 'RANK' in os.environ else 1
    if count == 1:
        return
    common.set_solver_count(count)
    common.set_solver_rank(int(os.environ['RANK']))
    common.set_multiprocess(True)
    run = os.environ.get('TORCHELASTIC_RUN_ID', ''), os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    _make_group(dist.PrefixStore('/'.join([*run, name]), connect()))


def connect():
    """A connection to the store of the run that the environment names. Rank 0 holds it where who started the ranks
    does not; the processes that rank 0 starts from then on find it. ValueError names variables that are missing."""
    missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT') if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f'RANK {os.environ["RANK"]} of WORLD_SIZE {os.environ["WORLD_SIZE"]} is to join others, '
            f'but {" and ".join(missing)} do not say where: torchrun sets them'
        )
    holds = _holds(int(os.environ['RANK']))
    store = _store(os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'], holds)
    if holds:
        kept.append(store)
        os.environ[_AGENT] = 'True'
    return store


def _holds(rank):
    return rank == 0 and os.environ.get(_AGENT) != 'True'


def _store(host, port, holds):
    store = dist.TCPStore(host, int(port), is_master=holds, timeout=COME, wait_for_workers=False)
    store.set_timeout(WORK)
    return store


def _make_group(store):
    """The group of solver_count ranks that meet at `store`."""
    rank, count, device = common.solver_rank(), common.solver_count(), common.device()
    if rank:
        common.logger.setLevel(max(common.logger.level, logging.WARNING))
    nccl = device.type == 'cuda' and has_nccl() and _own_gpus(store, rank, count, device)
    if sys.platform == 'linux' and 'GLOO_SOCKET_IFNAME' not in os.environ:
        os.environ.update(_interface(os.environ.get('MASTER_ADDR', '127.0.0.1')))
    with waiting():
        dist.init_process_group(
            'cpu:gloo,cuda:nccl' if nccl else 'gloo',
            store=store,
            rank=rank,
            world_size=count,
            timeout=WORK,
            device_id=device if nccl else None,
        )
    multiprocessing.util.Finalize(
        None, leave, exitpriority=1
    )  # atexit is not for processes of multiprocessing
    barrier()


def _own_gpus(store, rank, count, device):
    """Whether each rank has a GPU of its own, which NVIDIA's library wants."""
    store.set(f'gpu {rank}', f'{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}')
    return len({store.get(f'gpu {r}') for r in range(count)}) == count


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
    """Leave the group; rank and count stay. Nothing where there is none, and where an error came between sending
    and receiving: the others may never send, and this process is to end without them."""
    if dist.is_available() and dist.is_initialized() and not _under_way:
        dist.destroy_process_group()


def barrier():
    """Wait for all ranks."""
    if common.solver_count() > 1:
        with waiting():
            dist.all_reduce(torch.zeros(1))  # on the host: no GPU waits


def total(tensor):
    """The sum of all ranks' tensors, in place; returned. On the tensor's device."""
    if common.solver_count() > 1:
        with waiting():
            dist.all_reduce(tensor)
    return tensor


def share(value):
    """Rank 0's `value`, any that can be pickled, at every rank."""
    values = [value]
    if common.solver_count() > 1:
        with waiting():
            dist.broadcast_object_list(values, 0)
    return values[0]


def gather(value):
    """All ranks' values in a list, at every rank."""
    values = [value] * common.solver_count()
    if common.solver_count() > 1:
        with waiting():
            dist.all_gather_object(values, value)
    return values


class _Bucket:
    """Parameters whose diffs are summed over the ranks together, once a backward pass has come down to `layer`."""

    def __init__(self, layer, blobs):
        self.layer, self.blobs = layer, blobs

    def send(self, *more):
        """Begin the sum. more: flat tensors to be summed with the diffs."""
        parts = [blob.grad.reshape(-1) for blob in self.blobs] + list(more)
        self.sizes = [part.numel() for part in parts]
        self.flat = torch.cat(parts)
        self.work = dist.all_reduce(self.flat, async_op=True)
        _under_way.add(self)

    def receive(self, count):
        """The diffs become the sum by `count`; returns what else was sent, likewise."""
        self.work.wait()
        _under_way.discard(self)
        parts = self.flat.div_(count).split(self.sizes)
        for blob, part in zip(self.blobs, parts):
            blob.take_grad(part.view(blob.shape), own=True)
        return parts[len(self.blobs) :]


class NCCL:
    """The link of one solver to those of the other ranks. uid: from new_uid(), the same for all; ranks that have
    joined need none.

    As a callback of the solver it averages the diffs and the loss over all ranks, and all of them learn in the same
    iteration what any was asked to do. As a hook of net.after_backward as well (unless layer_wise_reduce is
    off) it sends diffs while the backward pass goes on, in the last one of an iteration.
    """

    any_time = True  # as a hook

    def __init__(self, solver, uid=None):
        self.solver, self.count = solver, common.solver_count()
        if self.count == 1:
            return
        if not dist.is_initialized():
            rank = common.solver_rank()
            _make_group(_store(*uid.decode().removeprefix('tcp://').rsplit(':', 1), _holds(rank)))
        if dist.get_world_size() != self.count:
            raise ValueError(f'{self.count} solvers, but {dist.get_world_size()} ranks have joined')
        self._buckets = _buckets(solver.net)
        self._sent = len(self._buckets)  # of an iteration that runs: how many are on their way

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
            with waiting():
                for blob in self.solver.net.learnable_params:
                    mine = blob.update()
                    values = mine.contiguous()  # each rank has an order in memory of its own
                    dist.broadcast(values, 0)
                    mine.copy_(values)
            settle()

    def on_start(self):
        self._sent = 0

    def __call__(self, layer_index):
        """As a hook of net.after_backward: send the buckets that are complete with this layer, less the last one."""
        if self.count > 1 and self.solver.last_pass and self.solver.param.layer_wise_reduce:
            while self._sent < len(self._buckets) - 1 and self._buckets[self._sent].layer >= layer_index:
                self._send()

    def _send(self, *more):
        self._buckets[self._sent].send(*more)
        self._sent += 1

    def on_gradients_ready(self):
        """Average diffs and solver.loss over all ranks; solver.action becomes what any rank was asked."""
        if self.count == 1:
            return
        while self._sent < len(self._buckets) - 1:
            self._send()
        action = self.solver.requested_action()
        asked = torch.tensor([action == known for known in ACTIONS], dtype=torch.int32)
        work = dist.all_reduce(asked, dist.ReduceOp.MAX, async_op=True)  # on the host: no GPU waits
        self._send(self.solver.loss.to(common.device()).reshape(1))
        with waiting():
            for bucket in self._buckets:
                rest = bucket.receive(self.count)
            work.wait()
        self.solver.loss = rest[0][0]
        self.solver.action = next((known for known, on in zip(ACTIONS, asked.tolist()) if on), '')


def _buckets(net):
    """The parameters that learn in _Buckets of about BUCKET elements, in the order in which a backward pass is done
    with them; the last one has what is left, if anything."""
    last = {}  # diff's memory -> the lowest layer whose backward adds to it
    for i, node in enumerate(net._nodes):
        for blob in node.layer.blobs if node.need_backward else ():
            last.setdefault(blob._diff, i)
    blobs = [blob for blob, lr in zip(net.learnable_params, net.params_lr) if lr]
    buckets, held = [], []
    for blob in sorted(blobs, key=lambda blob: last.get(blob._diff, -1), reverse=True):
        held.append(blob)
        if sum(b.count for b in held) >= BUCKET:
            buckets.append(_Bucket(last.get(blob._diff, -1), held))
            held = []
    return [*buckets, _Bucket(-1, held)]
