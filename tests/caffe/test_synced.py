"""BatchNorm over all ranks: two and three of them, with unequal batches, compute and learn what one process does that has
all images; where one dies the others end."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import caffe
from caffe.types import norm
from helpers import data, layer, net_from

CONV = (
    'convolution_param { num_output: %d kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } }'
)
NORM = 'batch_norm_param { use_global_stats: false moving_average_fraction: 0.9 sync: true }'
NET = (
    data('x', 2, 3, 5, 4)
    + data('w', 2, 6, 5, 4)
    + layer('below', 'Convolution', 'x', more=CONV % 4)
    + layer('bn', 'BatchNorm', 'below', 'below', NORM)
    + layer('scale', 'Scale', 'below', 'below', 'scale_param { bias_term: true }')
    + layer('bent', 'TanH', 'below', 'bent')
    + layer('above', 'Convolution', 'bent', more=CONV % 6)
    + layer('bn_above', 'BatchNorm', 'above', 'normal', NORM)
    + layer('product', 'Eltwise', 'normal w', more='eltwise_param { operation: PROD }')
    + layer('loss', 'Reduction', 'product', more='loss_weight: 1')
)
SOLVER = """train_net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" iter_size: 2 snapshot_prefix: "x" """
SHARES = {2: (4, 1), 3: (1, 3, 1)}  # images of each rank

# Each rank gives the values and gradients of its images, its statistics, and what it has learned after three updates.
WORLD = """
import multiprocessing, os, sys
import numpy as np
import caffe
from caffe import parallel

shares = {2: (4, 1), 3: (1, 3, 1)}
arrays = dict(np.load('images.npz'))  # read once: ranks that fork would share the place in the file
parallel.BUCKET = 1  # each parameter in a message of its own, between those of the layers
use_device = caffe.set_mode_gpu if os.environ['DEVICE'] == 'gpu' else caffe.set_mode_cpu


def settle(uid, rank, count):
    use_device()
    caffe.set_solver_count(count)
    caffe.set_solver_rank(rank)
    solver = caffe.SGDSolver('solver.prototxt')
    link = caffe.NCCL(solver, uid)
    solver.net.copy_from('init.caffemodel')
    first = sum(shares[count][:rank])
    for name in ('x', 'w'):
        mine = arrays[name][first:first + shares[count][rank]]
        solver.net.blobs[name].reshape(*mine.shape)
        solver.net.blobs[name].data[...] = mine
    return solver, link


def work(uid, rank, count):
    solver, link = settle(uid, rank, count)
    net = solver.net
    net.forward()
    net.backward()
    told = {'normal': net.blobs['normal'].data.copy(), 'dx': net.blobs['below'].diff.copy()}
    told.update({f'd{n}{i}': b.diff.copy() for n, bs in net.params.items() for i, b in enumerate(bs)})
    told.update({f'{n}{i}': b.data.copy() for n in ('bn', 'bn_above') for i, b in enumerate(net.params[n])})
    solver.add_callback(link)
    net.after_backward(link)
    net.clear_param_diffs()
    solver.step(3)
    told.update({f'learned {n}{i}': b.data for n, bs in net.params.items() for i, b in enumerate(bs)})
    np.savez(f'{count}.{rank}.npz', **told)


def dying(uid, rank, count):
    solver, link = settle(uid, rank, count)
    if rank == 1:
        solver.net.after_forward(lambda layer: layer != 4 or os._exit(7))
    solver.step(1)


def world(function, count, codes):
    uid = caffe.NCCL.new_uid()
    ranks = [multiprocessing.Process(target=function, args=(uid, rank, count), daemon=True) for rank in range(count)]
    for rank in ranks:
        rank.start()
    for rank, code in zip(ranks, codes):
        rank.join(60)
        assert rank.exitcode == code, (function, count, rank)


caffe.Net('net.prototxt', caffe.TRAIN)  # loads what torch loads late, once for all ranks
multiprocessing.set_start_method('fork')
world(work, 2, (0, 0))
world(work, 3, (0, 0, 0))
world(dying, 2, (1, 7))
"""
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')


def alone(arrays):
    """What one process says that has all images, with the same names."""
    solver = caffe.SGDSolver('solver.prototxt')
    net = solver.net
    for name in ('x', 'w'):
        net.blobs[name].reshape(*arrays[name].shape)
        net.blobs[name].data[...] = arrays[name]
    net.save('init.caffemodel')
    net.forward()
    net.backward()
    told = {'normal': net.blobs['normal'].data.copy(), 'dx': net.blobs['below'].diff.copy()}
    told |= {f'd{n}{i}': b.diff.copy() for n, bs in net.params.items() for i, b in enumerate(bs)}
    told |= {f'{n}{i}': b.data.copy() for n in ('bn', 'bn_above') for i, b in enumerate(net.params[n])}
    net.clear_param_diffs()
    return solver, told


def learned(solver, count):
    """After three updates by the mean of `count` ranks' losses, which here are sums."""
    solver.net.copy_from('init.caffemodel')
    solver.net.forward()  # as the ranks have, before
    solver.param.base_lr = 0.01 / count
    solver.step(3)
    return {f'learned {n}{i}': b.data for n, bs in solver.net.params.items() for i, b in enumerate(bs)}


@pytest.mark.parametrize('device', ['cpu', pytest.param('gpu', marks=GPU)])
def test_ranks_with_unequal_batches_equal_one_with_all(device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {'x': 3 + rng.standard_normal((5, 3, 5, 4)), 'w': rng.standard_normal((5, 6, 5, 4))}
    arrays['x'][0] *= 3  # images differ in their statistics
    np.savez('images.npz', **arrays)
    (tmp_path / 'net.prototxt').write_text(NET)
    (tmp_path / 'solver.prototxt').write_text(SOLVER)
    (tmp_path / 'world.py').write_text(WORLD)
    solver, want = alone(arrays)
    folder = os.path.dirname(os.path.dirname(caffe.__file__))
    env = {**os.environ, 'PYTHONPATH': folder, 'OMP_NUM_THREADS': '1', 'DEVICE': device}
    subprocess.run([sys.executable, 'world.py'], env=env, check=True, timeout=150)
    for count, shares in SHARES.items():
        ranks = [np.load(f'{count}.{rank}.npz') for rank in range(count)]
        close(np.concatenate([told['normal'] for told in ranks]), want['normal'])
        close(np.concatenate([told['dx'] for told in ranks]), want['dx'])
        for name in (n for n in want if n not in ('normal', 'dx')):
            if name.startswith('d'):
                close(sum(told[name] for told in ranks), want[name])
            else:
                for told in ranks:
                    close(told[name], want[name])
        if count == 2:
            for name, values in learned(solver, count).items():
                for told in ranks:
                    close(told[name], values)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(1, np.abs(want).max()))


def test_one_rank_computes_as_ever(tmp_path):
    """sync changes no bit of a process that is alone."""
    x = np.random.default_rng(1).standard_normal((2, 4, 3, 5))
    answers = []
    for more in NORM, NORM.replace(' sync: true', ''):
        net = net_from(
            tmp_path, data('x', 2, 4, 3, 5) + layer('bn', 'BatchNorm', 'x', more=more), caffe.TRAIN
        )
        net.forward(x=x)
        answers.append([net.blobs['bn'].data.copy(), *(b.data.copy() for b in net.params['bn'])])
    for one, other in zip(*answers):
        np.testing.assert_array_equal(one, other)


def test_a_rank_without_an_image(monkeypatch):
    """Counts are weights: of 0 numbers here, and of 6 elsewhere."""
    y = torch.tensor([1.0, 2, 3, 4, 5, 9], dtype=torch.float64).reshape(6, 1)
    others = torch.cat([y.mean(0), y.var(0, correction=0), torch.tensor([6.0])])[None]
    monkeypatch.setattr(caffe.common, 'solver_count', lambda: 2)
    monkeypatch.setattr(norm.synced.parallel, 'total', lambda table: table + torch.cat([0 * others, others]))
    mean, var, count = norm.synced.statistics(torch.zeros(0, 1))
    assert (mean.item(), count.item()) == (4, 6) and var.item() == pytest.approx(y.var(correction=0).item())
