"""Ranks: two of them learn what one learns from batches twice the size, learn of each other's losses and requests,
and send diffs while the backward pass goes on."""

import json
import os
import socket
import subprocess
import sys
import types

import h5py
import numpy as np
import pytest
import torch

import caffe
from caffe import parallel
from helpers import layer

IP = 'inner_product_param { num_output: %d weight_filler { type: "xavier" } }'
NET = (
    layer('rows', 'HDF5Data', tops='x y', more='hdf5_data_param { source: "list.txt" batch_size: %d }')
    + layer('fixed', 'InnerProduct', 'x', more=IP % 3 + 'param { lr_mult: 0 } param { lr_mult: 0 }')
    + layer('below', 'InnerProduct', 'fixed', more=IP % 3 + 'param { name: "w" } param { name: "b" }')
    + layer('bent', 'TanH', 'below')
    + layer('middle', 'InnerProduct', 'bent', more=IP % 3)
    + layer('above', 'InnerProduct', 'middle', more=IP % 3 + 'param { name: "w" } param { name: "b" }')
    + layer('ip', 'InnerProduct', 'above', more=IP % 2)
    + layer('loss', 'SoftmaxWithLoss', 'ip y')
)
SOLVER = """train_net: "%s.prototxt" base_lr: 0.5 momentum: 0.9 lr_policy: "fixed" max_iter: 5 iter_size: 2
            snapshot_prefix: "x" average_loss: 2"""

# Ranks of one script: first in the manner of upstream's train.py, then as those that carry torchrun's variables.
WORLD = """
import json, multiprocessing, multiprocessing.util, os, time
import caffe
from caffe import parallel

parallel.BUCKET = 1  # each parameter in a message of its own
use_device = caffe.set_mode_gpu if os.environ['DEVICE'] == 'gpu' else caffe.set_mode_cpu


def old(uid, rank):
    use_device()
    caffe.set_solver_count(2)
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(True)
    solver = caffe.SGDSolver('two_solver.prototxt')
    if rank == 0:  # the others get them from bcast
        solver.net.copy_from('init.caffemodel')
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    solver.add_callback(nccl)
    if rank == 1:  # with -timing upstream's rank 0 leaves this out
        solver.net.after_backward(nccl)
    multiprocessing.util.Finalize(None, lambda: tell(rank, left=not parallel.dist.is_initialized()), exitpriority=0)
    losses = []
    solver.add_callback(lambda: None, lambda: losses.append(float(solver.loss)))
    assert solver.step(solver.param.max_iter)
    solver.net.save(f'rank{rank}.caffemodel')
    tell(rank, losses=losses, smoothed=solver.smoothed_loss)


def joined(port, rank):
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    use_device()
    parallel.join('first')
    said = [parallel.share(f'of {rank}'), parallel.gather(10 * rank)]
    parallel.barrier()
    parallel.leave()
    parallel.join('second')
    solver = caffe.SGDSolver('two_solver.prototxt')
    solver.add_callback(caffe.NCCL(solver))
    answers = iter([None, None, 'stop'] if rank else [None, 'snapshot', 'snapshot'])
    solver.requested_action = lambda: next(answers)
    actions = []
    while solver.step(1):
        actions.append(solver.action)
    tell(rank, said=said, number=caffe.solver_rank(), actions=actions, iteration=solver.iter)


def failing(uid, rank):  # rank 1 fails when it has sent diffs, while the other one is at work for long
    caffe.set_solver_count(2)
    caffe.set_solver_rank(rank)
    solver = caffe.SGDSolver('two_solver.prototxt')
    nccl = caffe.NCCL(solver, uid)
    solver.add_callback(nccl)
    solver.net.after_backward(nccl)
    if rank == 1:
        solver.net.after_backward(lambda layer: 1 / (layer - 2 * solver.last_pass))
        solver.step(1)
    time.sleep(600)


def tell(rank, **what):
    with open(f'told{rank}.json', 'a') as stream:
        stream.write(json.dumps(what) + '\\n')


def world(function, where, codes=(0, 0)):
    ranks = [multiprocessing.Process(target=function, args=(where, rank), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank, code in reversed(list(zip(ranks, codes))):
        if code is not None:
            rank.join(60)
            assert rank.exitcode == code, (function, rank)


caffe.Net('two.prototxt', caffe.TRAIN)  # loads what torch loads late, once for all ranks
multiprocessing.set_start_method('fork')
world(old, caffe.NCCL.new_uid())
world(joined, caffe.NCCL.new_uid().decode().split(':')[-1])
world(failing, caffe.NCCL.new_uid(), (None, 1))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with nets and solvers for one rank (batches of 8) and for two (of 4)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with h5py.File('rows.h5', 'w') as f:
        f['x'], f['y'] = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
    (tmp_path / 'list.txt').write_text('rows.h5\n')
    for name, batch in (('one', 8), ('two', 4)):
        (tmp_path / f'{name}.prototxt').write_text(NET % batch)
        (tmp_path / f'{name}_solver.prototxt').write_text(SOLVER % name)


def parameters(path):
    return [
        blob.data for blobs in caffe.Net('one.prototxt', path, caffe.TEST).params.values() for blob in blobs
    ]


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')


@pytest.mark.parametrize('device', ['cpu', pytest.param('gpu', marks=GPU)])
def test_two_ranks(device, tmp_path):
    """On one GPU as well, by gloo."""
    single = caffe.SGDSolver('one_solver.prototxt')
    single.net.save('init.caffemodel')
    (tmp_path / 'world.py').write_text(WORLD)
    folder = os.path.dirname(os.path.dirname(caffe.__file__))
    env = {**os.environ, 'PYTHONPATH': folder, 'OMP_NUM_THREADS': '1', 'DEVICE': device}
    world = subprocess.Popen([sys.executable, 'world.py'], env=env)
    losses = []
    single.add_callback(lambda: None, lambda: losses.append(float(single.loss)))
    single.step(5)
    assert world.wait(120) == 0
    told = [[json.loads(line) for line in (tmp_path / f'told{rank}.json').open()] for rank in range(2)]

    single.net.save('one.caffemodel')
    files = 'one.caffemodel', 'rank0.caffemodel', 'rank1.caffemodel'
    for one, first, second in zip(*map(parameters, files)):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, one, rtol=1e-5, atol=1e-6)
    assert not np.allclose(parameters('init.caffemodel')[2], parameters('one.caffemodel')[2])
    for old, left, _ in told:
        assert left == {'left': True}
        assert old == told[0][0]
        np.testing.assert_allclose(old['losses'], losses, rtol=1e-5)
        assert old['smoothed'] == pytest.approx(single.smoothed_loss, rel=1e-5)

    for rank, (*_, new) in enumerate(told):
        assert new['said'] == ['of 0', [0, 10]] and new['number'] == rank
        assert new['actions'] == ['', 'snapshot'] and new['iteration'] == 3
    assert os.path.exists('x_iter_2.caffemodel')


@GPU
@pytest.mark.skipif(not caffe.has_nccl(), reason="torch lacks NVIDIA's library")
def test_nccl_in_a_world_of_one(tmp_path):
    (tmp_path / 'one.py').write_text("""
import caffe, torch
from caffe import parallel

caffe.set_mode_gpu()
parallel._make_group(parallel._store('127.0.0.1', 0, True))
assert parallel.dist.get_backend_config() == 'cpu:gloo,cuda:nccl'
net = caffe.Net('one.prototxt', caffe.TRAIN)
net.run_forward()
net.run_backward()
(bucket,) = parallel._buckets(net)
before = [blob.grad.clone() for blob in bucket.blobs]
bucket.send(torch.ones(1, device='cuda'))
(rest,) = bucket.receive(2)
assert rest.item() == 0.5
for blob, diff in zip(bucket.blobs, before):
    assert torch.equal(blob.grad, diff / 2)
parallel.leave()
""")
    folder = os.path.dirname(os.path.dirname(caffe.__file__))
    subprocess.run([sys.executable, 'one.py'], env={**os.environ, 'PYTHONPATH': folder}, check=True)


def test_one_rank_alone():
    solver = caffe.SGDSolver('one_solver.prototxt')
    nccl = caffe.NCCL(solver, caffe.NCCL.new_uid())
    nccl.bcast()
    solver.net.forward()
    solver.net.backward()
    diff = solver.net.params['ip'][0].diff.copy()
    nccl.on_gradients_ready()
    assert (solver.net.params['ip'][0].diff == diff).all()
    parallel.join('nobody')
    parallel.barrier()
    parallel.leave()
    assert parallel.share(5) == 5 and parallel.gather(6) == [6]


class Sums:
    """torch.distributed of two ranks that are alike: notes how often diffs were sent, and the sum is the double."""

    class ReduceOp:
        MAX = 'max'

    def __init__(self):
        self.sent = 0

    is_initialized = staticmethod(lambda: True)
    get_world_size = staticmethod(lambda: 2)

    def all_reduce(self, tensor, op=None, async_op=False):
        if op is None:
            self.sent += 1
        self.tensor, self.op = tensor, op
        return Sum(tensor, op)


class Sum:
    def __init__(self, tensor, op):
        self.tensor, self.op = tensor, op

    def wait(self):
        if self.op is None:
            self.tensor.mul_(2)


@pytest.fixture
def sums(monkeypatch):
    """Two ranks, each parameter in a message of its own."""
    sums = Sums()
    monkeypatch.setattr(parallel, 'dist', sums)
    monkeypatch.setattr(parallel, 'BUCKET', 1)
    caffe.set_solver_count(2)
    yield sums
    caffe.set_solver_count(1)


@pytest.mark.parametrize('layer_wise', [True, False])
def test_diffs_are_sent_while_the_last_backward_pass_goes_on(sums, layer_wise):
    solver = caffe.SGDSolver('two_solver.prototxt')
    solver.param.layer_wise_reduce = layer_wise
    names = list(solver.net._layer_names)
    nccl = caffe.NCCL(solver)
    learn = [[b.shape for b in bucket.blobs] for bucket in nccl._buckets]
    assert learn == [[(2, 3)], [(2,)], [(3, 3)], [(3,)], [(3, 3)], [(3,)], []]  # not those of `fixed`
    solver.add_callback(nccl)
    solver.net.after_backward(nccl)
    seen = []
    solver.net.after_backward(lambda i: seen.append((names[i], sums.sent)))
    solver.step(1)
    first = [('loss', 0), ('ip', 0), ('above', 0), ('middle', 0), ('bent', 0), ('below', 0)]
    last = [
        ('loss', 0),
        ('ip', 2),
        ('above', 2),
        ('middle', 4),
        ('bent', 4),
        ('below', 6),
    ]  # above shares below's
    assert seen == first + (last if layer_wise else first) and sums.sent == 7
    solver.net.forward()
    solver.net.backward()  # of the user's own
    assert sums.sent == 7


def test_the_sum_is_divided_by_the_count(sums):
    solver, alone = (caffe.SGDSolver('two_solver.prototxt') for _ in range(2))
    solver.add_callback(caffe.NCCL(solver))
    solver.net.save('init.caffemodel')
    alone.net.copy_from('init.caffemodel')
    solver.step(1)
    alone.step(1)
    for ours, its in zip(solver.net.learnable_params, alone.net.learnable_params):
        np.testing.assert_array_equal(ours.diff, its.diff)
    assert float(solver.loss) == float(alone.loss)


def test_ranks_that_are_others_than_the_solvers_are_refused(sums):
    caffe.set_solver_count(3)
    with pytest.raises(ValueError, match='3 solvers, but 2 ranks'):
        caffe.NCCL(caffe.SGDSolver('two_solver.prototxt'))


@pytest.mark.parametrize('device, backend', [('cpu', 'gloo'), ('cuda:1', 'cpu:gloo,cuda:nccl')])
def test_a_group_has_its_device_and_waits_for_days(device, backend, sums, monkeypatch):
    device, told = torch.device(device), {}
    sums.init_process_group = lambda backend, **settings: told.update(settings, backend=backend)
    monkeypatch.setattr(caffe.common, 'device', lambda: device)
    monkeypatch.setattr(parallel, 'has_nccl', lambda: True)
    monkeypatch.setattr(parallel, '_own_gpus', lambda *ranks: True)
    parallel._make_group('a store')
    assert told['backend'] == backend and told['timeout'].days >= 7
    assert told['device_id'] == (device if device.type == 'cuda' else None)


@pytest.mark.parametrize('other, own', [('of this', False), ('another', True)])
def test_ranks_on_one_gpu_are_told_from_those_with_one_each(other, own, monkeypatch):
    store = torch.distributed.HashStore()
    store.set('gpu 1', f'{socket.gethostname()} {other}')
    monkeypatch.setattr(
        torch.cuda, 'get_device_properties', lambda gpu: types.SimpleNamespace(uuid='of this')
    )
    assert parallel._own_gpus(store, 0, 2, torch.device('cuda', 0)) == own


def test_a_rank_without_a_meeting_place_says_so(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    parallel.join('nobody')  # somebody else's variable
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('MASTER_ADDR', 'here')
    monkeypatch.delenv('MASTER_PORT', raising=False)
    try:
        with pytest.raises(ValueError, match='RANK 1 of WORLD_SIZE 2 .* MASTER_PORT'):
            parallel.join('nobody')
    finally:
        caffe.set_solver_count(1)
        caffe.set_solver_rank(0)
        caffe.set_multiprocess(False)


def test_gloo_takes_the_interface_on_the_way():
    names = [name for _, name in socket.if_nameindex()]
    assert parallel._interface('127.0.0.1') == {} == parallel._interface('nowhere.invalid')
    there = parallel._interface('192.0.2.1')
    assert there == {} or there['GLOO_SOCKET_IFNAME'] in names[1:]


def test_has_nccl_tells_what_torch_has():
    assert caffe.has_nccl() == (torch.distributed.is_available() and torch.distributed.is_nccl_available())
