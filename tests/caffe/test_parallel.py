"""Two workers, in the manner of upstream's train.py, learn what one learns from batches twice the size."""

import multiprocessing

import h5py
import numpy as np
import pytest

import caffe
from helpers import layer

NET = (
    layer('rows', 'HDF5Data', tops='x y', more='hdf5_data_param { source: "list.txt" batch_size: %d }')
    + layer(
        'ip',
        'InnerProduct',
        'x',
        more="""inner_product_param { num_output: 2
          weight_filler { type: "xavier" } }""",
    )
    + layer('loss', 'SoftmaxWithLoss', 'ip y')
)
SOLVER = '''train_net: "%s.prototxt" base_lr: 0.5 momentum: 0.9 lr_policy: "fixed" max_iter: 5
            snapshot_prefix: "x"'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with nets and solvers for one worker (batches of 8) and for two (of 4)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with h5py.File('rows.h5', 'w') as f:
        f['x'], f['y'] = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
    (tmp_path / 'list.txt').write_text('rows.h5\n')
    for name, batch in (('one', 8), ('two', 4)):
        (tmp_path / f'{name}.prototxt').write_text(NET % batch)
        (tmp_path / f'{name}_solver.prototxt').write_text(SOLVER % name)


def solve(proto, weights, count, uid, rank):
    caffe.set_mode_cpu()
    caffe.set_solver_count(count)
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(True)
    solver = caffe.SGDSolver(proto)
    if rank == 0:  # the others get them from bcast
        solver.net.copy_from(weights)
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    solver.add_callback(nccl)
    solver.net.after_backward(nccl)
    solver.step(solver.param.max_iter)
    solver.net.save(f'rank{rank}.caffemodel')


def parameters(path):
    return [blob.data for blob in caffe.Net('one.prototxt', path, caffe.TEST).params['ip']]


def test_two_workers():
    single = caffe.SGDSolver('one_solver.prototxt')
    single.net.save('init.caffemodel')
    uid = caffe.NCCL.new_uid()
    context = multiprocessing.get_context('spawn')
    workers = [
        context.Process(
            target=solve, args=('two_solver.prototxt', 'init.caffemodel', 2, uid, rank), daemon=True
        )
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    single.step(5)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    single.net.save('one.caffemodel')
    files = 'one.caffemodel', 'rank0.caffemodel', 'rank1.caffemodel'
    for one, first, second in zip(*map(parameters, files)):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, one, rtol=1e-5, atol=1e-6)
    start = parameters('init.caffemodel')
    assert not np.allclose(start[0], parameters('one.caffemodel')[0])


def test_one_worker_alone():
    solver = caffe.SGDSolver('one_solver.prototxt')
    nccl = caffe.NCCL(solver, caffe.NCCL.new_uid())
    nccl.bcast()
    solver.net.forward()
    solver.net.backward()
    diff = solver.net.params['ip'][0].diff.copy()
    nccl.on_gradients_ready()
    assert (solver.net.params['ip'][0].diff == diff).all()
