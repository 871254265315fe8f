"""Values that layers refuse: at once on the CPU; on a GPU (here: made to) once, when the pass ends."""

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from torch.utils._python_dispatch import TorchDispatchMode

import caffe
from caffe import checks
from helpers import data, layer, net_from


def net_of_labels(tmp_path):
    return net_from(
        tmp_path,
        data('x', 2, 3)
        + data('label', 2)
        + layer('one', 'SoftmaxWithLoss', 'x label')
        + layer('two', 'SoftmaxWithLoss', 'x label'),
    )


@pytest.mark.parametrize('late', [False, True])
def test_a_label_out_of_range_names_its_layer(tmp_path, monkeypatch, late):
    monkeypatch.setattr(checks, '_waits', lambda tensor: late)
    net, ran = net_of_labels(tmp_path), []
    net.after_forward(ran.append)
    net.forward(x=np.zeros((2, 3)), label=[0, 2])
    del ran[:]
    with pytest.raises(
        ValueError, match=r"layer 'one' \(SoftmaxWithLoss\).*\(2, 3\), \(2,\): label 3 is not in 0..2"
    ):
        net.forward(x=np.zeros((2, 3)), label=[0, 3])
    assert ran == ([0, 1, 2, 3] if late else [0, 1])
    net.forward(x=np.zeros((2, 3)), label=[0, 2])  # and nothing stays behind


def test_all_checks_of_a_pass_are_looked_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, '_waits', lambda tensor: True)
    looks, stack = [], torch.stack
    monkeypatch.setattr(torch, 'stack', lambda tensors: looks.append(len(tensors)) or stack(tensors))
    net_of_labels(tmp_path).forward()
    assert looks == [2]


def test_what_a_solvers_pass_refuses_is_told_before_the_next_one(tmp_path, monkeypatch):
    """Or before the weights are written."""
    monkeypatch.setattr(checks, '_waits', lambda tensor: True)
    net = net_of_labels(tmp_path)
    for tell in (net.forward_backward, lambda: net.save(tmp_path / 'w.caffemodel'), net.run_forward):
        net.blobs['label'].data[...] = [0, 3]
        net.forward_backward()
        with pytest.raises(ValueError, match="layer 'one'.* label 3 is not in 0..2"):
            tell()
        net.blobs['label'].data[...] = [0, 2]
        assert not (tmp_path / 'w.caffemodel').exists()
    net.forward_backward()  # and nothing stays behind
    net.save(tmp_path / 'w.caffemodel')


def test_outside_a_pass_a_check_is_looked_at_at_once(monkeypatch):
    monkeypatch.setattr(checks, '_waits', lambda tensor: True)
    with pytest.raises(ValueError, match='no'):
        checks.refuse(torch.tensor([False, True]), lambda: 'no')


def test_a_region_out_of_range_is_told_when_the_pass_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, '_waits', lambda tensor: True)
    pool = 'roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 }'
    net = net_from(
        tmp_path,
        data('x', 1, 1, 4, 4) + data('rois', 1, 5) + layer('pool', 'ROIPooling', 'x rois', more=pool),
    )
    for rois, message in (
        ([[1, 0, 0, 3, 3]], 'image number of a RoI 1'),
        ([[0, 0, 0, np.nan, 3]], 'not finite'),
    ):
        with pytest.raises(ValueError, match=f"layer 'pool'.*{message}"):
            net.forward(x=np.zeros((1, 1, 4, 4)), rois=rois)


class Waits(TorchDispatchMode):
    """Notes what on a GPU would wait for the device: a number that Python gets, a shape that hangs on values."""

    ASKING = {
        '_local_scalar_dense',
        'is_nonzero',
        'nonzero',
        'masked_select',
        '_unique2',
        'unique_dim',
        'equal',
    }

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name == 'index' and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in self.ASKING or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


FILL = 'weight_filler { type: "gaussian" std: 0.1 }'
TRAINED = (
    data('x', 2, 3, 8, 8)
    + data('rois', 32, 5)
    + data('label', 32)
    + layer(
        'c', 'Convolution', 'x', more=f'convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {FILL} }}'
    )
    + layer('bn', 'BatchNorm', 'c', 'c')
    + layer('scale', 'Scale', 'c', 'c', 'scale_param { bias_term: true }')
    + layer('relu', 'ReLU', 'c', 'c')
    + layer('p', 'Pooling', 'c', more='pooling_param { kernel_size: 2 stride: 2 }')
    + layer('c2', 'Convolution', 'p', more=f'convolution_param {{ num_output: 4 kernel_size: 1 {FILL} }}')
    + layer('sum', 'Eltwise', 'p c2')
    + layer('rows', 'Reshape', 'sum', more='reshape_param { shape { dim: 32 dim: -1 } }')
    + layer('score', 'InnerProduct', 'rows', more=f'inner_product_param {{ num_output: 5 {FILL} }}')
    + layer(
        'each',
        'SoftmaxWithLossOHEM',
        'score label',
        'all prob each',
        'loss_weight: 0 loss_weight: 0 loss_weight: 0',
    )
    + layer(
        'hard',
        'BoxAnnotatorOHEM',
        'rois each label score',
        'hard weights',
        'box_annotator_ohem_param { roi_per_img: 6 }',
    )
    + layer(
        'loss',
        'SoftmaxWithLoss',
        'score hard',
        more='propagate_down: true propagate_down: false loss_param { ignore_label: -1 }',
    )
    + layer('box', 'SmoothL1Loss', 'score weights', more='loss_weight: 0.1')
)


@pytest.mark.parametrize('precision, waits', [('float32', 0), ('bf16', 0), ('fp16', 1)])
def test_a_training_iteration_asks_the_device_for_nothing(monkeypatch, precision, waits):
    """In fp16 but once, whether the gradients are finite."""
    monkeypatch.setattr(checks, '_waits', lambda tensor: True)
    text = f'base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" net_param {{ {TRAINED} }}'
    caffe.set_precision(precision)
    try:
        solver = caffe.get_solver(text_format.Parse(text, caffe.caffe_pb2.SolverParameter()))
        rng = np.random.RandomState(0)
        solver.net.blobs['x'].data[...] = rng.randn(2, 3, 8, 8)
        solver.net.blobs['rois'].data[:, 0] = rng.randint(0, 2, 32)
        solver.net.blobs['label'].data[...] = rng.randint(0, 5, 32)
        solver.step(2)
        with Waits() as asked:
            solver.step(1)
    finally:
        caffe.set_precision('float32')
    assert len(asked.seen) == waits, asked.seen
    assert np.isfinite(solver.smoothed_loss) and (solver.net.blobs['hard'].data >= 0).sum() == 12
