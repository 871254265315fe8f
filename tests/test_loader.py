"""Work done ahead of time: the same minibatches and draws whoever does it, and processes that never stay behind."""

import collections
import gc
import itertools
import multiprocessing
import os
import signal
import time

import caffe
import numpy as np
import pytest
import torch
from layer_runs import one_layer_net, write_image

from datasets.record import Record
from fast_rcnn.config import overrides
from roi_data_layer.layer import RoIDataLayer, loader_workers
from roi_data_layer.loader import Loader
from roi_data_layer.roidb import add_bbox_regression_targets

Job = collections.namedtuple('Job', 'paths number')
TOPS = ['data', 'rois', 'labels', 'bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights']
HEAD = {'TRAIN.SCALES': [40], 'TRAIN.BG_THRESH_LO': 0.0, 'TRAIN.BATCH_SIZE': 16, 'TRAIN.IMS_PER_BATCH': 2}
forms = pytest.mark.parametrize('workers', [0, 2])


def loader(make, workers, room=1000):
    return Loader(make, lambda key: Job([f'{key}.jpg'], key), workers, room)


def children():
    return multiprocessing.active_children()


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    if children():
        gc.collect()
    assert not children()


@pytest.fixture
def records(tmp_path):
    """Seven images of several sizes, each also mirrored, with objects and proposals."""
    random, records = np.random.RandomState(5), []
    for i in range(7):
        low = random.randint(0, 20, (9, 2))
        boxes = np.hstack([low, low + random.randint(5, 19, (9, 2))]).astype(np.float32)
        path = write_image(tmp_path / f'{i}.png', 60 + i, 45, seed=i)
        objects, classes = boxes[:3], random.randint(1, 3, 3)
        records.append(
            Record(objects, classes, 3, image=path, width=60 + i, height=45, proposals=[*boxes[3:], boxes[0]])
        )
    records += [record.mirrored() for record in records]
    add_bbox_regression_targets(records)
    return records


def served(tmp_path, records, minibatches, settings, kind=('roi_data_layer.layer', 'RoIDataLayer')):
    """What a data layer serves and which draws come after: [(indices, *blobs, numpy's, the engine's)]."""
    with overrides({**HEAD, **settings}):
        net = one_layer_net(tmp_path, *kind, TOPS, "'num_classes': 3")
        np.random.seed(4)
        caffe.set_random_seed(4)
        net.layers[0].set_roidb(records)
        result = []
        for _ in range(minibatches):
            net.forward()
            blobs = [net.blobs[top].data.copy() for top in TOPS]
            result.append((net.layers[0].drawn, *blobs, np.random.rand(), float(torch.rand(()))))
    return result


@pytest.mark.parametrize('seed_each', [False, True])
@pytest.mark.parametrize('scales', [[40], [30, 40, 50]])
def test_the_draws_are_the_same_whoever_reads(tmp_path, records, seed_each, scales):
    """Over the ends of two orders."""
    settings = {'TRAIN.SCALES': scales, 'TRAIN.SEED_EACH_IMAGE': seed_each}
    plain = served(tmp_path, records, 14, {**settings, 'TRAIN.USE_PREFETCH': False})
    assert len({blobs[1].shape for blobs in plain}) > 1
    for workers in 0, 2:
        for ours, theirs in zip(
            served(tmp_path, records, 14, {**settings, 'TRAIN.LOADER_WORKERS': workers}), plain
        ):
            for value, expected in zip(ours, theirs):
                np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize('seed_each', [False, True])
def test_orders_are_read_ahead_of_as_far_as_they_are_known(tmp_path, records, seed_each, monkeypatch):
    """Where draws have seeds, over the end of an order too, and with the scales that will be drawn; else to its end,
    without them."""
    begun, wanted = [], RoIDataLayer._wanted
    monkeypatch.setattr(RoIDataLayer, '_wanted', lambda self, key: begun.append(key) or wanted(self, key))
    settings = {'TRAIN.SCALES': [30, 40], 'TRAIN.LOADER_WORKERS': 0, 'TRAIN.SEED_EACH_IMAGE': seed_each}
    drawn = [indices for indices, *_ in served(tmp_path, records, 15, settings)]
    assert [indices for indices, _ in begun[:15]] == drawn  # nothing was begun in vain
    assert len(begun) == 15 + (4 if seed_each else 3)  # of the third order's 6 minibatches 3 are left
    assert all((sizes is not None) == seed_each for _, sizes in begun)


class OwnOrder(RoIDataLayer):
    """As forks override it: images in an order of their own."""

    def _get_next_minibatch_inds(self):
        self.next = (getattr(self, 'next', -2) + 2) % 14
        return [self.next, self.next + 1]


def test_nothing_is_read_ahead_of_an_order_that_is_not_known(tmp_path, records, monkeypatch):
    begun, wanted = [], RoIDataLayer._wanted
    monkeypatch.setattr(RoIDataLayer, '_wanted', lambda self, key: begun.append(key) or wanted(self, key))
    result = served(tmp_path, records, 5, {'TRAIN.LOADER_WORKERS': 0}, (__name__, 'OwnOrder'))
    assert [drawn for drawn, *_ in result] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert len(begun) == 5


@forms
def test_results_come_in_order_whatever_their_size(workers):
    """Those that do not fit into the memory in common, and those with no bytes, as well."""
    take = loader(lambda job: (job.number, [np.full((job.number % 7, 60), job.number)]), workers).take
    state, held = torch.get_rng_state(), []
    for first in 0, 40, 5:  # told anew, work that was begun is left
        for i in range(first, first + 12):
            number, (array,) = take(itertools.count(i))
            assert number == i and array.shape == (i % 7, 60)
            held.append((array, i))
    assert all((array == i).all() for array, i in held)  # no one's memory was used again
    assert torch.equal(torch.get_rng_state(), state)


@forms
def test_an_unreadable_image_is_named_and_others_follow(tmp_path, records, workers):
    records[3]['image'] = str(tmp_path / 'gone.png')
    settings = {**HEAD, 'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.LOADER_WORKERS': workers}
    with overrides(settings):
        net = one_layer_net(tmp_path, 'roi_data_layer.layer', 'RoIDataLayer', TOPS, "'num_classes': 3")
        net.layers[0].set_roidb(records)
        net.layers[0].sampler.order = np.arange(14)
        for _ in range(3):
            net.forward()
        with pytest.raises(OSError, match=r'^\S*gone.png: no such file$'):
            net.forward()
        net.forward()
        assert net.layers[0].drawn == [4]


def test_a_process_that_dies_ends_it_with_the_images_it_may_have_been_at():
    work = loader(lambda job: os.kill(os.getpid(), signal.SIGKILL) if job.number == 3 else job.number, 1)
    assert [work.take(itertools.count(i)) for i in range(2)] == [0, 1]
    (process,) = children()
    process.join(10)
    with pytest.raises(RuntimeError, match=r'exit code of process \d+: -9.*may have been at 2.jpg, 3.jpg'):
        for i in 2, 3:
            work.take(itertools.count(i))


def test_signals_are_the_main_process_s_affair():
    work = loader(lambda job: (time.sleep(0.01), job.number)[1], 2)
    work.take(itertools.count())
    for process in children():
        for number in signal.SIGINT, signal.SIGTERM:
            os.kill(process.pid, number)
    assert [work.take(itertools.count(i)) for i in range(1, 10)] == list(range(1, 10))


def private_megabytes():
    with open('/proc/self/smaps_rollup') as stream:
        kilobytes = {line.split()[0]: int(line.split()[1]) for line in list(stream)[1:]}
    return kilobytes['Private_Dirty:'] / 1024


def megabytes_collected(job):
    """By how much this process's own memory grows as the garbage is collected."""
    before = private_megabytes()
    gc.collect()
    return private_megabytes() - before


@pytest.mark.skipif(not os.path.exists('/proc/self/smaps_rollup'), reason='this kernel does not tell')
def test_processes_do_not_copy_what_is_in_memory():
    roidb = [[i] for i in range(10**6)]  # of which the collector writes to every one
    taken = loader(megabytes_collected, 1).take(itertools.count())
    assert taken < 20 < len(roidb) * 72 / 2**20


def _work_and_wait(pipe, forever):
    work = loader(lambda job: (os.getpid(), np.zeros(10**5)), 2, 10**6)
    pipe.send([work.take(itertools.count(i))[0] for i in range(2)])
    time.sleep(600 if forever else 0)


@pytest.mark.parametrize('killed', [True, False])
def test_processes_end_with_the_one_that_started_them(killed):
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    main = context.Process(target=_work_and_wait, args=(theirs, killed))
    main.start()
    pids = ours.recv()
    if killed:
        main.kill()
    main.join(10)
    assert main.exitcode == (-signal.SIGKILL if killed else 0)
    end = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < end, f'{pids} stayed behind'
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as stream:
            return stream.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_number_of_processes(monkeypatch):
    assert loader_workers(-1) == 0 and loader_workers(3) == 3  # threads, where the net computes on the CPU
    monkeypatch.setattr(caffe.common, 'device', lambda: torch.device('cuda', 0))
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: range(12), raising=False)
    assert loader_workers(-1) == 4 and loader_workers(0) == 0
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '6')
    assert loader_workers(-1) == 2
