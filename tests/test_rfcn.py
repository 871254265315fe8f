"""The R-FCN nets of netgen: names, shapes, what learns; ResNet-10's train a step and detect."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import caffe
from caffe.format.prototxt import read_net, read_solver
from fast_rcnn.config import cfg, cfg_from_file, overrides
from fast_rcnn.test import im_detect
from netgen.backbones import BACKBONES
from netgen.files import files
from netgen.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
NETS = 'ResNet-101', 'ResNet-50', 'ResNet-10'
STAGES = 'stage1_rpn', 'stage1_rfcn_ohem', 'stage2_rpn', 'stage2_rfcn_ohem', 'stage3_rpn'
OHEM = 'per_roi_loss_cls', 'per_roi_loss_bbox', 'per_roi_loss', 'annotator_detector'


def path_of(net, name):
    method = 'rfcn_end2end' if name.endswith('prototxt') else 'rfcn_alt_opt_5step_ohem'
    return str(ROOT / 'models/pascal_voc' / net / method / name)


def layers(net, name):
    return {layer.name: layer for layer in read_net(path_of(net, name)).layer}


def learning(net, name):
    found = layers(net, name).values()
    return {layer.name for layer in found if layer.type == 'Convolution' and layer.param[0].lr_mult > 0}


def test_which_backbones_have_an_rfcn():
    """Those whose last stage can run on the whole image."""
    with_it = {
        path.parts[-3] for path in files('own', 'ResNet-50-torchvision', 3) if 'rfcn' in path.parts[-2]
    }
    assert with_it == {'ResNet-50-torchvision'}
    assert not [path for path in files('own', 'VGG16', 3) if 'rfcn' in path.parts[-2]]
    assert {name for name in METHODS if 'rfcn_' in name} == {'rfcn_end2end', 'rfcn_alt_opt_5step_ohem'}


@pytest.mark.parametrize('net', NETS)
def test_res5_is_dilated_not_strided(net):
    found = layers(net, 'test_agnostic.prototxt')
    res5 = [layer for name, layer in found.items() if name.startswith('res5') and layer.type == 'Convolution']
    for layer in res5:
        param, wide = layer.convolution_param, 3 in layer.convolution_param.kernel_size
        assert list(param.stride) == [1] and list(param.pad) == [2 if wide else 0]
        assert list(param.dilation) == ([2] if wide else [])
    assert found['rfcn_cls'].convolution_param.num_output == 1029  # 21 classes x 7 x 7
    assert found['rfcn_bbox'].convolution_param.num_output == 392  # 2 x 4 x 7 x 7
    assert found['rpn_conv/3x3'].bottom[0] == BACKBONES[net].maps[-1].blob


def test_shapes():
    blobs = caffe.Net(path_of('ResNet-50', 'test_agnostic.prototxt'), caffe.TEST).blobs
    assert blobs['res4f'].shape == (1, 1024, 14, 14) and blobs['res5c'].shape == (1, 2048, 14, 14)
    assert blobs['conv_new_1'].shape == (1, 1024, 14, 14)
    assert blobs['psroipooled_cls_rois'].shape == (1, 21, 7, 7)
    assert blobs['cls_prob'].shape == (1, 21) and blobs['bbox_pred'].shape == (1, 8)


@pytest.mark.parametrize('net', NETS)
def test_hard_examples_only_where_named(net):
    for name in 'train_agnostic_ohem.prototxt', 'stage1_rfcn_ohem_train.pt', 'stage2_rfcn_ohem_train.pt':
        found = layers(net, name)
        assert set(OHEM) <= set(found)
        assert list(found['loss_cls'].bottom) == ['cls_score', 'labels_ohem']
        assert found['loss_cls'].loss_param.ignore_label == -1
        assert list(found['loss_bbox'].bottom)[2] == 'bbox_loss_weights_ohem'
        assert found['annotator_detector'].box_annotator_ohem_param.roi_per_img == 128
    plain = layers(net, 'train_agnostic.prototxt')
    assert not set(OHEM) & set(plain) and plain['loss_bbox'].loss_param.pre_fixed_normalizer == 128


@pytest.mark.parametrize('net', ['ResNet-101', 'ResNet-50'])
def test_conv1_and_res2_are_frozen_and_in_stage_3_all_that_is_shared(net):
    for name in 'train_agnostic.prototxt', 'train_agnostic_ohem.prototxt', 'stage2_rfcn_ohem_train.pt':
        moving = {layer[:4] for layer in learning(net, name)}
        assert moving - {'rpn_'} == {'res3', 'res4', 'res5', 'conv', 'rfcn'}  # conv: conv_new_1
        assert 'conv1' not in learning(net, name)
    assert {layer[:4] for layer in learning(net, 'stage1_rpn_train.pt')} == {'res3', 'res4', 'rpn_'}
    assert learning(net, 'stage3_rpn_train.pt') == {'rpn_conv/3x3', 'rpn_cls_score', 'rpn_bbox_pred'}


@pytest.mark.parametrize('net', NETS)
def test_solvers(net):
    for suffix in '', '_ohem':
        solver = read_solver(path_of(net, f'solver{suffix}.prototxt'))
        assert solver.train_net.endswith(f'{net}/rfcn_end2end/train_agnostic{suffix}.prototxt')
        assert (solver.stepsize, solver.iter_size) == (80000, 2)
    for stage in STAGES:
        rpn = stage.endswith('rpn')
        solver = read_solver(path_of(net, f'{stage}_solver{"60k80k" if rpn else "80k120k"}.pt'))
        assert solver.train_net.endswith(f'{net}/rfcn_alt_opt_5step_ohem/{stage}_train.pt')
        assert (solver.stepsize, solver.iter_size) == ((60000, 1) if rpn else (80000, 2))


SMALL = {'TRAIN.SCALES': [240], 'TRAIN.MAX_SIZE': 320, 'TRAIN.RPN_MIN_SIZE': 4, 'USE_GPU_NMS': False}
RPN_STAGE = {'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_REG': False, 'TRAIN.IMS_PER_BATCH': 1}
HEAD_STAGE = {'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.HAS_RPN': False}
RPN_LOSSES, HEAD_LOSSES = {'rpn_loss_cls', 'rpn_loss_bbox'}, {'loss_cls', 'loss_bbox'}


@pytest.mark.parametrize(
    'name, method, stage, losses, moving',
    [
        ('train_agnostic.prototxt', 'rfcn_end2end', {}, RPN_LOSSES | HEAD_LOSSES, 'conv1'),
        ('train_agnostic_ohem.prototxt', 'rfcn_end2end_ohem', {}, RPN_LOSSES | HEAD_LOSSES, 'conv1'),
        ('stage1_rpn_train.pt', 'rfcn_alt_opt_5step_ohem', RPN_STAGE, RPN_LOSSES, 'conv1'),
        ('stage1_rfcn_ohem_train.pt', 'rfcn_alt_opt_5step_ohem', HEAD_STAGE, HEAD_LOSSES, 'conv1'),
        ('stage3_rpn_train.pt', 'rfcn_alt_opt_5step_ohem', RPN_STAGE, RPN_LOSSES, 'rpn_conv/3x3'),
    ],
)
def test_resnet_10_trains_a_step(tmp_path, roidb, name, method, stage, losses, moving):
    """A solver's step with the settings of the method: all losses are finite, and what learns moves."""
    from fast_rcnn.train import SolverWrapper

    solver_file = tmp_path / 'solver.prototxt'
    solver_file.write_text(f'train_net: "{path_of("ResNet-10", name)}" base_lr: 0.01 lr_policy: "fixed"')
    caffe.set_mode_cpu()
    caffe.set_random_seed(1)
    np.random.seed(1)
    with overrides({}):
        cfg_from_file(ROOT / f'experiments/cfgs/{method}.yml')
        with overrides({**SMALL, **stage}):
            solver = SolverWrapper(str(solver_file), roidb, str(tmp_path)).solver
            net = solver.net
            before = {each: blobs[0].data.copy() for each, blobs in net.params.items()}
            solver.step(1)
    out = {each: net.blobs[each].data for each in net.outputs if net.blob_loss_weights.get(each)}
    assert set(out) == losses and all(np.isfinite(value).all() for value in out.values())
    moved = {each for each, blobs in net.params.items() if (blobs[0].data != before[each]).any()}
    assert moving in moved and ('conv1' in moved) == (moving == 'conv1')
    if 'ohem' in name:
        labels = net.blobs['labels_ohem'].data.ravel()
        assert (labels >= 0).sum() == min(128, len(labels)) and net.blobs['bbox_targets'].data.shape[1] == 8


def test_five_stages_measure_what_anchors_are_normalised_by(tmp_path, roidb, monkeypatch):
    """And their snapshots predict plain targets."""
    from fast_rcnn.train import SolverWrapper

    solver = ROOT / 'models/pascal_voc/ResNet-10/rfcn_alt_opt_5step_ohem/stage3_rpn_solver60k80k.pt'
    monkeypatch.chdir(ROOT)
    caffe.set_random_seed(1)
    with overrides({}):
        cfg_from_file(ROOT / 'experiments/cfgs/rfcn_alt_opt_5step_ohem.yml')
        with overrides({**SMALL, **RPN_STAGE}):
            wrapper = SolverWrapper(str(solver), roidb, str(tmp_path))
            means, stds = np.array(cfg.TRAIN.RPN_NORMALIZE_MEANS), np.array(cfg.TRAIN.RPN_NORMALIZE_STDS)
            path = wrapper.snapshot()
    assert (stds > 0).all() and np.isfinite(means).all()
    weights, bias = (blob.data for blob in wrapper.solver.net.params['rpn_bbox_pred'])
    plain = caffe.Net(str(solver.parent / 'rpn_test.pt'), path, caffe.TEST).params['rpn_bbox_pred']
    np.testing.assert_allclose(plain[0].data, weights * np.tile(stds, 9)[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(plain[1].data, bias * np.tile(stds, 9) + np.tile(means, 9), rtol=1e-5)


@pytest.mark.parametrize('given', [False, True])
def test_resnet_10_detects(given):
    """Both test nets: scores of 21 classes and one box per RoI, in the columns of an object."""
    net = caffe.Net(path_of('ResNet-10', 'rfcn_test.pt' if given else 'test_agnostic.prototxt'), caffe.TEST)
    image = np.random.RandomState(0).randint(0, 255, (120, 160, 3), np.uint8)
    boxes = np.array([[10, 20, 100, 90], [40, 30, 119, 89.0]], np.float32) if given else None
    settings = {'TEST.HAS_RPN': not given, 'TEST.AGNOSTIC': True, 'TEST.SCALES': [120], 'TEST.MAX_SIZE': 160}
    with overrides(settings):
        scores, found = im_detect(net, image, boxes)
    assert len(scores) == len(found) > 0 and scores.shape[1] == 21 and found.shape[1] == 8
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    assert (found[:, 4:] >= 0).all() and (found[:, 6] <= 159).all() and (found[:, 7] <= 119).all()


@pytest.fixture
def roidb(tmp_path):
    """Two images of noise with a bright box each, and proposals around it."""
    import scipy.sparse

    rng, entries = np.random.RandomState(0), []
    for i in range(2):
        image = rng.randint(0, 90, (120, 160, 3), np.uint8)
        image[30:90, 40:120] += 150
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
        corners = rng.randint(0, 40, (199, 2))
        boxes = np.vstack([[[40, 30, 119, 89]], np.hstack([corners, corners + [90, 70]])]).astype(np.float32)
        highest = np.append(1.0, rng.uniform(0, 0.9, 199)).astype(np.float32)
        overlaps = np.zeros((200, 21), np.float32)
        overlaps[:, 7] = highest
        entries.append(
            {
                'boxes': boxes,
                'gt_classes': np.append(7, np.zeros(199, int)),
                'seg_areas': np.ones(200),
                'gt_overlaps': scipy.sparse.csr_matrix(overlaps),
                'max_overlaps': highest,
                'max_classes': np.full(200, 7),
                'flipped': False,
                'image': str(tmp_path / f'{i}.png'),
                'width': 160,
                'height': 120,
            }
        )
    return entries
