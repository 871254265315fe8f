"""The solver's loop on a tiny net: snapshots, the log, losses that are not finite, real batches."""

import json
import os

import caffe
import numpy as np
import pytest
from layer_runs import entry, write_image

from fast_rcnn.config import overrides
from fast_rcnn.train import SolverWrapper, iter_size, train_net
from caffe.format.weights import read_weights

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


@pytest.fixture
def tiny(tmp_path):
    """(make solver file, roidb)"""
    roidb = [
        entry(
            write_image(tmp_path / f'{i}.png', seed=i),
            [[10, 5, 20, 30]],
            [2],
            [([11 + i, 5, 20, 30], 0.9, 2), ([40, 0, 50, 9], 0, 0)],
        )
        for i in range(4)
    ]
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
    with pytest.raises(ValueError, match='3 workers'):
        iter_size(16, 1, 3)
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
    wrapper.step()
    with pytest.raises(FloatingPointError, match=r'iteration 2: loss_bbox is nan on .*1\.png$'):
        wrapper.step()
    assert len(read_log(tmp_path)) == 1


def test_the_image_is_named_within_a_real_batch(tiny, tmp_path):
    solver, roidb = tiny
    with overrides({'TRAIN.REAL_BATCH_SIZE': 4}):
        wrapper = SolverWrapper(solver(), roidb, str(tmp_path))
        wrapper.data_layer._get_next_minibatch_inds = iter([[0], [1], [2], [3]]).__next__
        roidb[1]['bbox_targets'][:, 1:] = np.inf
        with pytest.raises(FloatingPointError, match=r'iteration 1: loss_bbox is \w+ on .*1\.png$'):
            wrapper.step()


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
        step(self)

    monkeypatch.setattr(wrapper_class, 'step', mortal)


def train_from_seed(solver, roidb, out, max_iters=9):
    np.random.seed(3)
    caffe.set_random_seed(3)
    paths = train_net(solver(), roidb, out, max_iters=max_iters)
    return [array for _, _, arrays in read_weights(paths[-1]) for array in arrays]


def test_interrupted_training_ends_as_if_it_had_not_been(tiny, tmp_path, monkeypatch):
    solver, roidb = tiny
    out, straight_out = str(tmp_path / 'out'), str(tmp_path / 'straight')
    with overrides({'TRAIN.SNAPSHOT_ITERS': 3}):
        straight = train_from_seed(solver, roidb, straight_out)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(SolverWrapper, 8, patch)
            train_from_seed(solver, roidb, out)
        assert sorted(name for name in os.listdir(out) if 'resume' in name) == [
            'tiny_resume_iter_6.caffemodel',
            'tiny_resume_iter_6.solverstate',
            'tiny_resume_iter_6_0.npz',
        ]
        caffe.set_random_seed(99)  # whatever the new process begins with
        resumed = train_from_seed(solver, roidb, out)
    for ours, theirs in zip(resumed, straight, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not [name for name in os.listdir(out) if 'resume' in name]
    ours, theirs = (
        [(r['iteration'], r['loss_cls'], r['loss_bbox']) for r in read_log(folder)]
        for folder in (out, straight_out)
    )
    assert ours == theirs


def test_changed_training_begins_anew(tiny, tmp_path, monkeypatch):
    solver, roidb = tiny
    out = str(tmp_path / 'out')
    with overrides({'TRAIN.SNAPSHOT_ITERS': 3}):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(SolverWrapper, 4, patch)
            train_from_seed(solver, roidb, out)
        train_from_seed(lambda: solver(base_lr=1e-7), roidb, out, max_iters=4)
    assert [r['lr'] for r in read_log(out)][0] == pytest.approx(1e-7)
    assert not [name for name in os.listdir(out) if 'resume' in name]
