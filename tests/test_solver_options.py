"""What settings decide over the files of solvers and nets: frozen layers, biases, clipping."""

import caffe
import numpy as np
import pytest
from caffe.format.prototxt import parse_net, read_net, read_solver
from test_train import tiny  # noqa: F401

from fast_rcnn.config import cfg, overrides
from fast_rcnn.solver_options import freeze, mine_hard, with_options
from fast_rcnn.train import SolverWrapper
from netgen.files import files

BLOCKS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "res1" type: "Convolution" bottom: "data" top: "res1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "bn1" type: "BatchNorm" bottom: "res1" top: "res1" batch_norm_param { use_global_stats: false } }
layer { name: "scale1" type: "Scale" bottom: "res1" top: "res1" param { lr_mult: 1 decay_mult: 0 }
  scale_param { bias_term: true } }
layer { name: "res2" type: "Convolution" bottom: "res1" top: "res2" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "prelu" type: "PReLU" bottom: "res2" top: "res2" }
layer { name: "fc" type: "InnerProduct" bottom: "res2" top: "fc" inner_product_param { num_output: 2
  bias_term: false weight_filler { type: "msra" } } }
layer { name: "sum" type: "Reduction" bottom: "fc" top: "sum" loss_weight: 1 }
"""


def blocks(patterns):
    net = parse_net(BLOCKS)
    return freeze(net, patterns, 'net.pt'), caffe.Net.from_param(net, caffe.TRAIN)


def test_frozen_layers_do_not_learn_and_keep_nothing():
    frozen, net = blocks(['*1', 'prelu'])
    assert frozen == ['res1', 'bn1', 'scale1', 'prelu']
    assert net.params_lr == [0] * 7 + [1, 2, 0, 1]
    assert not any(any(net.layer_dict[name].param_propagate_down) for name in frozen)
    assert [any(net.layer_dict[name].propagate_down) for name in ('scale1', 'res2', 'prelu')] == [
        False,
        False,
        True,
    ]
    net.params['bn1'][1].data[...], net.params['bn1'][2].data[...] = 1, 1
    net.blobs['data'].data[...] = np.random.RandomState(1).randn(2, 3, 6, 6)
    net.forward_backward()
    assert net.params['bn1'][0].data.tolist() == [0] * 4  # its statistics are as they were
    assert np.abs(net.params['res2'][0].diff).max() > 0


def test_nothing_frozen_is_the_net_as_it_is():
    frozen, net = blocks([])
    assert frozen == [] and net.params_lr == [1, 1, 0, 0, 0, 1, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    'pattern, message',
    [
        ('res1x', "'res1x' fits no layer with parameters; did you mean res1"),
        ('zz*', 'there are res1, bn1'),
        ('data', 'fits no'),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(pattern, message):
    with pytest.raises(ValueError, match=f'net.pt: TRAIN.FREEZE .*{message}'):
        blocks(['res1', pattern])


def test_a_solver_trains_by_the_settings(tiny, tmp_path, caplog):  # noqa: F811
    solver, roidb = tiny
    caplog.set_level('INFO')
    settings = {'TRAIN.FREEZE': ['cls_*'], 'TRAIN.BIAS_DECAY': False, 'TRAIN.CLIP_GRADIENTS': 0.5}
    with overrides({**settings, 'TRAIN.BBOX_NORMALIZE_TARGETS': False}):
        wrapper = SolverWrapper(solver(0.1), roidb, str(tmp_path / 'out'))
    net, param = wrapper.solver.net, wrapper.solver.param
    assert param.clip_gradients == 0.5 and param.train_net == str(tmp_path / 'out/tiny_options_net.prototxt')
    assert net.params_lr == [0, 0, 1, 1] and net.params_weight_decay == [1, 1, 1, 0]
    assert 'net.prototxt: frozen: cls_score; 1 biases do not decay' in caplog.text
    assert 'solver.prototxt: clip_gradients -1 -> 0.5; train_net ' in caplog.text
    before = [blob.data.copy() for blob in net.learnable_params]
    wrapper.solver.step(2)
    moved = [np.abs(blob.data - old).max() > 0 for blob, old in zip(net.learnable_params, before)]
    assert moved == [False, False, True, True]


def test_files_stay_where_nothing_differs(tiny, tmp_path):  # noqa: F811
    path = tiny[0]()
    assert with_options(path, cfg.TRAIN, str(tmp_path / 'none')) == path
    with overrides({'TRAIN.DOUBLE_BIAS': False}):  # all learn alike already
        assert with_options(path, cfg.TRAIN, str(tmp_path / 'none')) == path
    assert not (tmp_path / 'none').exists()


def test_biases_of_published_nets(tmp_path):
    """They learn twice as fast and decay: settings make them learn as others do, without; frozen and shared ones too."""
    nets = {
        path.match('*_end2end/train.prototxt'): text
        for path, text in files('own', 'ResNet-50-FPN', 3).items()
    }
    (tmp_path / 'train.prototxt').write_text(nets[True])
    path = tmp_path / 'solver.prototxt'
    path.write_text(f'train_net: "{tmp_path}/train.prototxt" base_lr: 1 snapshot_prefix: "r"')
    with overrides(
        {'TRAIN.BIAS_DECAY': False, 'TRAIN.DOUBLE_BIAS': False, 'TRAIN.FREEZE': ['*conv1', '*2[abc]_*']}
    ):
        changed = read_solver(with_options(str(path), cfg.TRAIN, str(tmp_path)))
    before, after = read_net(f'{tmp_path}/train.prototxt'), read_net(changed.train_net)
    seen = set()
    for old, new in zip(before.layer, after.layer, strict=True):
        assert new.type == old.type and new.bottom == old.bottom
        if new.type in ('Convolution', 'InnerProduct') and len(new.param) == 2:
            weight, bias = new.param
            assert (bias.lr_mult, bias.decay_mult) == (weight.lr_mult, 0) and old.param[1].decay_mult
            seen.add(bias.name)
        if '2a_' in new.name or new.name.endswith('conv1'):
            assert new.param or new.type in ('BatchNorm', 'ReLU')
            assert not any(spec.lr_mult for spec in new.param)
    assert {'', 'rpn_conv_1'} <= seen


def test_batch_norm_over_all_workers_where_it_learns_statistics(tmp_path):
    """Layers that are frozen stay as they are; a net in which none is left is refused."""
    net, path = tmp_path / 'train.prototxt', tmp_path / 'solver.prototxt'
    net.write_text(BLOCKS + BLOCKS.split('\n')[4].replace('bn1', 'bn2').replace('false', 'true'))
    path.write_text(f'train_net: "{net}" base_lr: 1 snapshot_prefix: "r"')
    with overrides({'TRAIN.SYNC_BN': True}):
        changed = read_net(read_solver(with_options(str(path), cfg.TRAIN, str(tmp_path))).train_net)
        norms = {layer.name: layer.batch_norm_param for layer in changed.layer if layer.type == 'BatchNorm'}
        assert {name: norm.sync for name, norm in norms.items()} == {'bn1': True, 'bn2': False}
        with overrides({'TRAIN.FREEZE': ['bn1']}), pytest.raises(ValueError, match='TRAIN.SYNC_BN, but no'):
            with_options(str(path), cfg.TRAIN, str(tmp_path))


LOSSES = """
input: "cls_score" input_shape { dim: 5 dim: 3 } input: "labels" input_shape { dim: 5 } input: "rois" input_shape { dim: 5 dim: 5 }
input: "bbox_pred" input_shape { dim: 5 dim: 4 } input: "bbox_targets" input_shape { dim: 5 dim: 4 }
input: "bbox_inside_weights" input_shape { dim: 5 dim: 4 } input: "bbox_outside_weights" input_shape { dim: 5 dim: 4 }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls"
  propagate_down: true propagate_down: false loss_weight: 1 }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets"
  bottom: "bbox_inside_weights" bottom: "bbox_outside_weights" top: "loss_bbox" loss_weight: 1 }
"""


def test_the_hardest_regions_of_each_image_train():
    """Two of three regions of the first image and of two of the second, by the sum of both losses."""
    param = parse_net(LOSSES)
    mine_hard(param, 2, 'net.pt')
    net, rng = caffe.Net.from_param(param, caffe.TRAIN), np.random.RandomState(0)
    scores, labels, images = rng.randn(5, 3), np.array([0, 2, 1, 0, 1]), np.array([0, 0, 0, 1, 1])
    boxes, targets, inside = rng.randn(5, 4), rng.randn(5, 4), (labels > 0)[:, None] * np.ones((1, 4))
    given = dict(cls_score=scores, labels=labels, bbox_pred=boxes, bbox_targets=targets)
    given.update(bbox_inside_weights=inside, bbox_outside_weights=inside)
    for name, values in given.items():
        net.blobs[name].data[...] = values
    net.blobs['rois'].data[:, 0] = images
    cls = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(scores, labels)]
    d = np.abs(inside * (boxes - targets))
    box = np.where(d < 1, d**2 / 2, d - 0.5).sum(1)
    total = np.add(cls, box)
    kept = [i for image in (0, 1) for i in sorted(np.where(images == image)[0], key=lambda i: -total[i])[:2]]
    found = net.forward()
    assert len(kept) == 4
    np.testing.assert_allclose(found['loss_cls'], np.mean([cls[i] for i in kept]), rtol=1e-5)
    np.testing.assert_allclose(found['loss_bbox'], sum(box[i] for i in kept) / 2, rtol=1e-5)
    param.layer[-1].type = 'SmoothL1Loss'
    param.layer[-1].smooth_l1_loss_param.sigma = 3
    with pytest.raises(ValueError, match='net.pt: TRAIN.OHEM wants .*sigma 3'):
        mine_hard(param, 2, 'net.pt')


def test_a_training_smooths_labels_and_mines(tiny, tmp_path, caplog):  # noqa: F811
    solver, roidb = tiny
    caplog.set_level('INFO')
    with overrides({'TRAIN.LABEL_SMOOTHING': 0.1, 'TRAIN.OHEM': 2}):
        wrapper = SolverWrapper(solver(), roidb, str(tmp_path / 'out'))
        wrapper.step()
    assert 'labels of loss_cls smoothed by 0.1; the 2 hardest RoIs of an image train' in caplog.text
    assert (wrapper.solver.net.blobs['labels_ohem'].data >= 0).sum() == 2
    with overrides({'TRAIN.LABEL_SMOOTHING': 1.5}), pytest.raises(ValueError, match='from 0 to 1, got 1.5'):
        with_options(solver(), cfg.TRAIN, str(tmp_path))
