"""The solver's loop on a tiny net: snapshots, the log, losses that are not finite, real batches."""

import errno
import json
import os
import pathlib
import signal
import sys
from types import SimpleNamespace

import caffe
import numpy as np
import pytest
import torch
from layer_runs import entry, write_image

from fast_rcnn import train as training
from fast_rcnn.config import overrides
from fast_rcnn.hooks import Board, Display, Interrupted, Validation
from fast_rcnn.train import SolverWrapper, iter_size, plain_predictions, train_net
from caffe.format.files import atomic_write
from caffe.format.weights import read_weights
from utils.files import atomic_path

NET = """
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" top: "bbox_targets"
  top: "bbox_inside_weights" top: "bbox_outside_weights"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 3" } }
layer { name: "pool" type: "ROIPooling" bottom: "data" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 1 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
  inner_product_param { num_output: 12 weight_filler { type: "gaussian" std: 0.001 }
    bias_filler { type: "constant" value: 1 } } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls"
  propagate_down: true propagate_down: false loss_weight: 1 }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets"
  bottom: "bbox_inside_weights" bottom: "bbox_outside_weights" top: "loss_bbox" loss_weight: 1 }
"""
SOLVER = """train_net: "%s" base_lr: %s lr_policy: "step" stepsize: 2 gamma: 0.1 momentum: 0.9 average_loss: 2
snapshot_prefix: "tiny" display: 1"""
SETTINGS = {
    'TRAIN.IMS_PER_BATCH': 1,
    'TRAIN.SCALES': [40],
    'TRAIN.BG_THRESH_LO': 0.0,
    'TRAIN.BATCH_SIZE': 8,
    'TRAIN.FG_FRACTION': 1.0,
}


def roidb_of(folder):
    return [
        entry(
            write_image(pathlib.Path(folder) / f'{i}.png', seed=i),
            [[10, 5, 20, 30]],
            [2],
            [([11 + i, 5, 20, 30], 0.9, 2), ([40, 0, 50, 9], 0, 0)],
        )
        for i in range(4)
    ]


@pytest.fixture
def tiny(tmp_path):
    """(make solver file, roidb)"""
    roidb = roidb_of(tmp_path)
    (tmp_path / 'net.prototxt').write_text(NET)

    def solver(base_lr=1e-6):
        path = tmp_path / 'solver.prototxt'
        path.write_text(SOLVER % (tmp_path / 'net.prototxt', base_lr))
        return str(path)

    with overrides(SETTINGS):
        yield solver, roidb


def read_log(folder):
    with open(os.path.join(folder, 'tiny_log.jsonl')) as stream:
        return [json.loads(line) for line in stream]


def test_snapshots_and_log(tiny, tmp_path):
    solver, roidb = tiny
    out = str(tmp_path / 'out')
    with overrides({'TRAIN.SNAPSHOT_ITERS': 2}):
        paths = train_net(solver(), roidb, out, max_iters=3)
    assert paths == [os.path.join(out, f'tiny_iter_{n}.caffemodel') for n in (2, 3)]
    records = read_log(out)
    assert [r['iteration'] for r in records] == [1, 2, 3]
    assert [r['lr'] for r in records] == pytest.approx([1e-6, 1e-6, 1e-7])
    for earlier, record in zip([None] + records, records):
        assert set(record) == {'iteration', 'lr', 'smoothed_loss', 'loss_cls', 'loss_bbox', 'seconds'}
        totals = [r['loss_cls'] + r['loss_bbox'] for r in (earlier, record) if r]
        assert record['smoothed_loss'] == pytest.approx(np.mean(totals), rel=1e-5)
    with overrides({'TRAIN.SNAPSHOT_INFIX': 'stage1'}):
        paths = train_net(solver(), roidb, out, max_iters=1)
    assert paths == [os.path.join(out, 'tiny_stage1_iter_1.caffemodel')]
    train_net(solver(), roidb, out, max_iters=1)
    assert len(read_log(out)) == 1  # a run from the start begins the log anew


def test_snapshot_predicts_plain_targets_and_training_goes_on(tiny, tmp_path):
    solver, roidb = tiny
    wrapper = SolverWrapper(solver(), roidb, str(tmp_path))
    blobs = wrapper.solver.net.params['bbox_pred']
    before = [blob.data.copy() for blob in blobs]
    path = wrapper.snapshot()
    for blob, old in zip(blobs, before):
        np.testing.assert_array_equal(blob.data, old)
    wrapper.solver.net.copy_from(path)
    assert wrapper.bbox_stds[8] > 0
    np.testing.assert_allclose(blobs[0].data, before[0] * wrapper.bbox_stds[:, None], rtol=1e-6)
    np.testing.assert_allclose(blobs[1].data, before[1] * wrapper.bbox_stds + wrapper.bbox_means, rtol=1e-6)


def test_pretrained_weights_are_loaded(tiny, tmp_path):
    solver, roidb = tiny
    with overrides({'TRAIN.BBOX_NORMALIZE_TARGETS': False}):
        first = SolverWrapper(solver(), roidb, str(tmp_path))
        path = first.snapshot()
        caffe.set_random_seed(5)
        second = SolverWrapper(solver(), roidb, str(tmp_path), path)
    np.testing.assert_array_equal(
        second.solver.net.params['bbox_pred'][0].data, first.solver.net.params['bbox_pred'][0].data
    )
    with pytest.raises(FileNotFoundError, match='none.caffemodel'):
        SolverWrapper(solver(), roidb, str(tmp_path), str(tmp_path / 'none.caffemodel'))


def test_real_batch(tiny, tmp_path):
    assert iter_size(16, 1, 1) == 16 and iter_size(16, 2, 4) == 2
    with pytest.raises(ValueError, match='3 workers; it is with 1, 2, 4, 8, 16 workers$'):
        iter_size(16, 1, 3)
    with pytest.raises(ValueError, match='x 1 workers$'):
        iter_size(3, 2, 1)
    solver, roidb = tiny
    with overrides({'TRAIN.REAL_BATCH_SIZE': 4, 'TRAIN.BATCH_SIZE': 12}):
        wrapper = SolverWrapper(solver(), roidb, str(tmp_path))
        drawn, draw = [], wrapper.data_layer._get_next_minibatch_inds
        wrapper.data_layer._get_next_minibatch_inds = lambda: drawn.append(1) or draw()
        wrapper.step()
        assert len(drawn) == 4 and wrapper.solver.iter == 1
        assert wrapper.solver.net.blobs['labels'].shape[0] == 3  # 12 RoIs of 4 images


def test_loss_that_is_not_finite_names_iteration_and_image(tiny, tmp_path):
    solver, roidb = tiny
    wrapper = SolverWrapper(solver(), roidb, str(tmp_path))
    wrapper.data_layer._get_next_minibatch_inds = iter([[0], [1], [2]]).__next__
    roidb[1]['bbox_targets'][:, 1:] = np.nan
    with pytest.raises(FloatingPointError, match=r'iteration 2: loss_bbox is nan on .*1\.png$'):
        wrapper.train_model(3)
    assert len(read_log(tmp_path)) == 1


def test_the_image_is_named_within_a_real_batch(tiny, tmp_path):
    solver, roidb = tiny
    with overrides({'TRAIN.REAL_BATCH_SIZE': 4}):
        wrapper = SolverWrapper(solver(), roidb, str(tmp_path))
        wrapper.data_layer._get_next_minibatch_inds = iter([[0], [1], [2], [3]]).__next__
        roidb[1]['bbox_targets'][:, 1:] = np.inf
        with pytest.raises(FloatingPointError, match=r'iteration 1: loss_bbox is \w+ on .*1\.png$'):
            wrapper.step()


def test_losses_wait_on_the_device_until_the_display(tiny, tmp_path, monkeypatch):
    """No number leaves it in between; the image is named all the same, and nothing is written of what came after."""
    solver, roidb = tiny
    looks, tolist = [], torch.Tensor.tolist
    with overrides({'TRAIN.SNAPSHOT_ITERS': 3}):
        wrapper = SolverWrapper(solver(), roidb, str(tmp_path), resume=True)
        wrapper.losses.every, wrapper.solver.param.display = 5, 0
        wrapper.data_layer._get_next_minibatch_inds = iter([[0], [2], [3], [0], [1], [2]]).__next__
        roidb[1]['bbox_targets'][:, 1:] = np.nan

        class Look:
            def on_step(self, loop, record):
                looks.append(record['iteration'])

        def counted(tensor):
            looks.append('read')
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, 'tolist', counted)
        monkeypatch.setattr(torch.Tensor, '__float__', None)
        monkeypatch.setattr(torch.Tensor, 'item', None)
        wrapper.hooks = [Look()]
        with pytest.raises(FloatingPointError, match=r'^iteration 5: loss_bbox is nan on .*1\.png$'):
            wrapper.train_model(9)
    reads = ['read', 'read']  # losses by name, and all of them
    assert looks == [*reads, 1, 2, *reads, 3, 4, *reads]
    assert [r['iteration'] for r in read_log(tmp_path)] == [1, 2, 3, 4]
    assert states(tmp_path) == state(3)


def test_weights_that_are_not_finite_are_not_written(tiny, tmp_path):
    solver, roidb = tiny

    class Spoil:
        def on_step(self, loop, record):
            if record['iteration'] == 2:
                loop.solver.net.params['bbox_pred'][1].data[3] = np.inf

    with (
        overrides({'TRAIN.SNAPSHOT_ITERS': 1}),
        pytest.raises(FloatingPointError, match='2: weights of layer bbox_pred'),
    ):
        train_net(solver(), roidb, str(tmp_path), max_iters=3, hooks=[Spoil()])
    assert states(tmp_path) == state(1) and not (tmp_path / 'tiny_iter_2.caffemodel').exists()


def test_training_with_an_rpn_needs_given_statistics(tiny, tmp_path):
    solver, roidb = tiny
    with overrides({'TRAIN.HAS_RPN': True}), pytest.raises(ValueError, match='NORMALIZE_TARGETS_PRECOMPUTED'):
        SolverWrapper(solver(), roidb, str(tmp_path))


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(wrapper_class, iteration, monkeypatch):
    step = wrapper_class.step

    def mortal(self):
        if self.solver.iter == iteration:
            raise Killed
        return step(self)

    monkeypatch.setattr(wrapper_class, 'step', mortal)


def train_from_seed(solver, roidb, out, max_iters=9):
    np.random.seed(3)
    caffe.set_random_seed(3)
    paths = train_net(solver(), roidb, out, max_iters=max_iters)
    return [array for _, _, arrays in read_weights(paths[-1]) for array in arrays]


def states(folder):
    return sorted(name for name in os.listdir(folder) if 'resume' in name)


def state(*iterations):
    return [
        f'tiny_resume_iter_{n}.{kind}' for n in iterations for kind in ('caffemodel', 'npz', 'solverstate')
    ]


def without_times(folder):
    return [{**record, 'seconds': None} for record in read_log(folder)]


@pytest.fixture
def killed(tiny, tmp_path, monkeypatch):
    """(train to the end, folder of a training killed in iteration 9 with states of 3 and 6, of one that was not)"""
    solver, roidb = tiny
    out, straight = str(tmp_path / 'out'), str(tmp_path / 'straight')
    with overrides({'TRAIN.SNAPSHOT_ITERS': 3, 'TRAIN.ASPECT_GROUPING': False}):
        expected = train_from_seed(solver, roidb, straight)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(SolverWrapper, 8, patch)
            train_from_seed(solver, roidb, out)
        assert states(out) == state(3, 6)

        def to_the_end():
            caffe.set_random_seed(99)  # whatever the new process begins with
            for ours, theirs in zip(train_from_seed(solver, roidb, out), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
            assert states(out) == states(straight) == state(9)

        yield to_the_end, out, straight


def test_interrupted_training_ends_as_if_it_had_not_been(killed, caplog):
    to_the_end, out, straight = killed
    caplog.set_level('INFO')
    to_the_end()
    assert 'Going on from iteration 6' in caplog.messages
    assert without_times(out) == without_times(straight)
    lines = read_log(out)
    to_the_end()  # nothing is left to do
    assert 'Going on from iteration 9' in caplog.messages and read_log(out) == lines


def cut(path):
    with open(path, 'r+b') as stream:
        stream.truncate(os.path.getsize(path) - 7)


def foreign(path):
    with open(path, 'r+b') as stream:
        stream.seek(os.path.getsize(path) // 2)
        stream.write(b'other')


@pytest.mark.parametrize('harm', [cut, foreign, os.remove])
@pytest.mark.parametrize('kind', ['npz', 'caffemodel', 'solverstate'])
def test_a_state_that_is_not_whole_is_refused_by_name_and_the_one_before_used(killed, caplog, harm, kind):
    to_the_end, out, straight = killed
    caplog.set_level('INFO')
    harm(os.path.join(out, f'tiny_resume_iter_6.{kind}'))
    halves = [
        write(os.path.join(out, f'tiny_{name}'))
        for write, name in [
            (atomic_path, 'log.jsonl'),
            (atomic_path, 'resume_iter_8.npz'),
            (atomic_write, 'resume_iter_9.solverstate'),
            (atomic_write, 'iter_9.caffemodel'),
        ]
    ]
    for half in halves:  # killed while they were written
        open(half.__enter__(), 'w').close()
    to_the_end()
    assert sorted(os.listdir(out)) == sorted(os.listdir(straight))
    assert 'Going on from iteration 3' in caplog.messages
    assert kind == 'npz' and harm is os.remove or f'tiny_resume_iter_6.{kind}' in caplog.text
    assert without_times(out) == without_times(straight)


def test_a_finished_training_goes_on_and_keeps_its_log(tiny, tmp_path):
    solver, roidb = tiny
    out, straight = str(tmp_path / 'out'), str(tmp_path / 'straight')
    expected = train_from_seed(solver, roidb, straight, max_iters=7)
    train_from_seed(solver, roidb, out, max_iters=4)
    for ours, theirs in zip(train_from_seed(solver, roidb, out, max_iters=7), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    lines = without_times(out)
    assert lines == without_times(straight) and len(lines) == 7
    train_from_seed(
        solver, roidb, out, max_iters=2
    )  # fewer: from the start, and the log stays beside the new one
    assert len(read_log(out)) == 2 and states(out) == state(2)
    with open(os.path.join(out, 'tiny_log.jsonl.1')) as stream:
        assert [json.loads(line)['iteration'] for line in stream] == list(range(1, 8))


@pytest.mark.parametrize(
    'change, named',
    [
        ({'TRAIN.FG_THRESH': 0.6}, 'settings'),
        ({'RNG_SEED': 4}, 'settings'),
        ({'PRECISION': 'bf16'}, 'settings'),
        ({'TRAIN.SEED_EACH_IMAGE': True}, 'seeds'),
        ('solver', 'files'),
        ('roidb', 'images'),
    ],
)
def test_a_training_that_changed_begins_anew(tiny, tmp_path, caplog, change, named):
    solver, roidb = tiny
    out = str(tmp_path / 'out')
    train_from_seed(solver, roidb, out, max_iters=2)
    if change == 'roidb':
        roidb[2]['boxes'][1, 0] -= 1
    with overrides(change if isinstance(change, dict) else {}):
        other = (lambda: solver(1e-7)) if change == 'solver' else solver
        train_from_seed(other, roidb, out, max_iters=3)
    assert f'tiny_resume_iter_2.npz: not gone on from: it is of a training with other {named}' in caplog.text
    assert states(out) == state(3) and len(read_log(out)) == 3


@pytest.mark.parametrize('number, at, after', [(signal.SIGTERM, 5, 6), (signal.SIGINT, 9, 9)])
def test_a_signal_ends_training_and_it_goes_on_from_there(tiny, tmp_path, request, number, at, after):
    """Far below the first snapshot; also in the last iteration."""
    solver, roidb = tiny
    out, straight = str(tmp_path / 'out'), str(tmp_path / 'straight')
    before = signal.signal(number, signal.default_int_handler)  # tests in the background may have it ignored
    request.addfinalizer(lambda: signal.signal(number, before))

    class Interrupt:
        def on_step(self, loop, record):
            if record['iteration'] == at:
                signal.raise_signal(number)  # to this thread: nothing goes on before it is there

    np.random.seed(3)
    caffe.set_random_seed(3)
    with pytest.raises(
        Interrupted, match=f'^stopped after iteration {after} of 9; the same command goes on'
    ) as stopped:
        train_net(solver(), roidb, out, max_iters=9, hooks=[Interrupt()])
    assert stopped.value.status == 128 + number and states(out) == state(after)
    expected, resumed = (train_from_seed(solver, roidb, folder) for folder in (straight, out))
    for ours, theirs in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert without_times(out) == without_times(straight)


def test_states_are_written_every_few_minutes(tiny, tmp_path, monkeypatch):
    solver, roidb = tiny
    clock, out = iter(range(0, 10000, 40)), str(tmp_path / 'out')  # each look at it is 40 seconds later
    monkeypatch.setattr('fast_rcnn.hooks.time.monotonic', lambda: next(clock))
    seen = []

    class Look:
        def on_step(self, loop, record):
            seen.append([name for name in states(out) if name.endswith('.npz')])

    with overrides({'TRAIN.CHECKPOINT_MINUTES': 2}):
        train_net(solver(), roidb, out, max_iters=9, hooks=[Look()])
    third, sixth = 'tiny_resume_iter_3.npz', 'tiny_resume_iter_6.npz'
    assert seen == [[]] * 3 + [[third]] * 3 + [[third, sixth]] * 3


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_full_disk_names_the_log(tiny, tmp_path):
    solver, roidb = tiny

    class Relink:
        def on_start(self, loop):
            os.symlink('/dev/full', tmp_path / 'tiny_log.jsonl')

    with pytest.raises(OSError, match='No space left') as full:
        train_net(solver(), roidb, str(tmp_path), max_iters=1, hooks=[Relink()])
    assert full.value.filename == str(tmp_path / 'tiny_log.jsonl')


def full_disk(*args, **more):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('write', ['caffe.solver.write_state', 'fast_rcnn.resume.save_npz'])
def test_a_full_disk_leaves_the_last_state(killed, tiny, monkeypatch, write):
    to_the_end, out, _ = killed
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r'iter_9.npz: .*No space.* iteration 6 stands$'),
    ):
        patch.setattr(write, full_disk)
        train_from_seed(*tiny, out)
    assert states(out) == state(6)
    to_the_end()


def test_signals_are_left_as_they_were(tiny, tmp_path):
    solver, roidb = tiny
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_display_is_one_line(tiny, tmp_path, caplog):
    solver, roidb = tiny
    caplog.set_level('INFO')
    display = Display('stage 2 of 6', after=lambda loop: 7200)
    train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=3, hooks=[display])
    lines = [r.message for r in caplog.records if 'iteration' in r.message]
    assert [line.split(',')[1] for line in lines] == [f' iteration {n}/3' for n in (1, 2, 3)]
    assert lines[-1].startswith('stage 2 of 6, iteration 3/3, loss ') and lines[-1].endswith(
        '0 s left, 2 h 00 min left in all'
    )
    assert not [r for r in caplog.records if r.name == 'caffe' and 'Snapshotting' not in r.message]
    caplog.clear()
    train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=1, hooks=[Display(verbose=True)])
    assert [r for r in caplog.records if r.name == 'caffe' and 'lr = ' in r.message]


@pytest.mark.parametrize(
    'change, message',
    [
        (('num_output: 3', 'num_output: 4'), 'net.prototxt: blob cls_score has 4 columns, wanted 3'),
        (('num_output: 12', 'num_output: 8'), 'net.prototxt: blob bbox_pred has 8 columns, wanted 12'),
        (("'num_classes': 3", "'num_classes': 5"), "layer data has 'num_classes': 5, wanted 3"),
    ],
)
def test_another_class_count_is_told_before_the_first_iteration(tiny, tmp_path, change, message):
    solver, roidb = tiny
    (tmp_path / 'net.prototxt').write_text(NET.replace(*change).split('layer { name: "loss_cls"')[0])
    with pytest.raises(ValueError, match=message):
        train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=1)


def test_boxes_of_another_family_than_the_nets_are_told_before_the_first_iteration(tiny, tmp_path):
    solver, roidb = tiny
    given = "'num_classes': 3 \\n'boxes': torchvision"
    (tmp_path / 'net.prototxt').write_text(NET.replace("'num_classes': 3", given))
    with pytest.raises(
        ValueError, match=r'layer data serves boxes of torchvision.*other layers are of caffe'
    ):
        train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=1)


def test_class_agnostic_boxes(tiny, tmp_path):
    solver, roidb = tiny
    (tmp_path / 'net.prototxt').write_text(NET.replace('num_output: 12', 'num_output: 8'))
    with overrides({'TRAIN.AGNOSTIC': True}):
        wrapper = SolverWrapper(solver(), roidb, str(tmp_path))
        wrapper.train_model(1)
        assert wrapper.bbox_stds.shape == (8,)


def test_every_group_of_channels_is_unnormalised():
    """rfcn_bbox holds a group of channels for each of the means; a 1 x 1 convolution, here of 2 x 3 for 2."""
    blobs = [np.ones((6, 2, 1, 1), np.float32), np.ones(6, np.float32)]

    class Blob:
        def __init__(self, data):
            self.data, self.shape, self.count = data, data.shape, data.size

    class Net:
        params = {'rfcn_bbox': [Blob(data) for data in blobs]}

    with plain_predictions(
        Net, {'rfcn_bbox': (np.array([10, 20]), np.array([2, 3])), 'bbox_pred': ([0], [1])}
    ):
        assert blobs[0][:, 1, 0, 0].tolist() == [2, 2, 2, 3, 3, 3]
        assert blobs[1].tolist() == [12, 12, 12, 23, 23, 23]
    assert (blobs[0] == 1).all() and (blobs[1] == 1).all()


def test_hooks_are_called_in_turn_however_it_ends(tiny, tmp_path):
    solver, roidb = tiny
    calls = []

    class Hook:
        def __getattr__(self, name):
            if not name.startswith('on_'):
                raise AttributeError(name)
            return lambda loop, *record: calls.append(name)

    class Failing:
        def on_step(self, loop, record):
            if record['iteration'] == 2:
                raise Killed

    with pytest.raises(Killed):
        train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=3, hooks=[Hook(), Failing()])
    assert calls == ['on_start', 'on_step', 'on_step', 'on_exit']


class ForkWrapper(SolverWrapper):
    """train_model as forks have it."""

    def train_model(self, max_iters):
        paths = []
        while self.solver.iter < max_iters:
            self.solver.step(1)
            paths.append(self.snapshot())
        return paths


def test_a_forks_own_loop(tiny, tmp_path):
    solver, roidb = tiny
    wrapper = ForkWrapper(solver(), roidb, str(tmp_path), pretrained_model=None)
    assert [os.path.basename(path) for path in wrapper.train_model(2)] == [
        'tiny_iter_1.caffemodel',
        'tiny_iter_2.caffemodel',
    ]
    assert wrapper.output_dir == str(tmp_path) and wrapper.solver_param.display == 1


@pytest.mark.parametrize(
    'flipped, said', [(False, 'a_train: 3 images'), (True, 'a_train: 3 images, 6 with their mirror images')]
)
def test_the_log_counts_the_images(flipped, said, monkeypatch, caplog):
    class Images:
        name, num_images, roidb = 'a_train', 3, []

        def append_flipped_images(self):
            self.num_images *= 2

    caplog.set_level('INFO')
    monkeypatch.setattr(training.rdl_roidb, 'prepare_roidb', lambda imdb: None)
    with overrides({'TRAIN.USE_FLIPPED': flipped}):
        training.get_training_roidb(Images())
    assert caplog.messages == [said]


def test_numbers_for_tensorboard(tiny, tmp_path, monkeypatch, caplog):
    """All that the log has; where the package is missing a line, and the training goes its way."""
    solver, roidb = tiny
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, tag, value, iteration):
            written.append((tag, value, iteration))

        def close(self):
            written.append('closed')

    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', SimpleNamespace(SummaryWriter=Writer))
    train_net(solver(), roidb, str(tmp_path), max_iters=3, hooks=[Board()])
    (log,) = tmp_path.glob('*_log.jsonl')
    names = {'lr': 'lr', 'seconds': 'seconds'}
    expected = [
        (names.get(name, f'loss/{name}'), value, record['iteration'])
        for record in map(json.loads, log.read_text().splitlines())
        for name, value in record.items()
        if name != 'iteration'
    ]
    assert len(expected) >= 12
    assert written == [(str(log).replace('_log.jsonl', '_board'), 1), *expected, 'closed']
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    train_net(solver(), roidb, str(tmp_path / 'other'), max_iters=1, hooks=[Board()])
    assert 'TENSORBOARD: nothing is written for it' in caplog.text and len(written) == len(expected) + 2


def test_the_best_snapshot_stays_and_a_training_ends_early(tiny, tmp_path):  # noqa: F811
    """Figures 0.1, 0.3, then no better: two in a row end it after iteration 4; draws are those of a training without."""
    solver, roidb = tiny
    figures, seen = iter([0.1, 0.3, 0.3, 0.2]), []

    def test(path):
        np.random.rand(5)
        seen.append(os.path.basename(path))
        return next(figures)

    looks = Validation(1, 2, test)
    train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=8, hooks=[looks])
    assert seen == [f'tiny_iter_{n}.caffemodel' for n in (1, 2, 3, 4)] and looks.best.endswith(
        '_2.caffemodel'
    )
    left = {path.name for path in (tmp_path / 'out').glob('tiny_iter_*.caffemodel')}
    assert left == {'tiny_iter_2.caffemodel', 'tiny_iter_4.caffemodel'}  # and the last
    again = Validation(1, 2, test)
    train_net(solver(), roidb, str(tmp_path / 'out'), max_iters=8, hooks=[again])  # goes on, and is over
    assert len(seen) == 4 and again.best == looks.best
