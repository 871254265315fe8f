"""Values that layers refuse: at once on the CPU; on a GPU (here: made to) once, when the pass ends."""

import numpy as np
import pytest
import torch

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
