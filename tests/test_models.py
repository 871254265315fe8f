"""netgen: the committed nets are its output; names, shapes, strides and what learns."""

import glob
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import caffe
from caffe.format.prototxt import parse_net, read_net, read_solver
from fast_rcnn.config import cfg, cfg_from_file, overrides
from fast_rcnn.detection import im_detect
from fast_rcnn.train import SolverWrapper
from netgen.backbones import BACKBONES, RESNET10, DetNet, DetNetPyramid, FeatureMap, weights_of
from fpn.anchors import Pyramid
from netgen.files import (
    COMMITTED,
    COMMITTED_MASKS,
    COMMITTED_NETS,
    committed_files,
    end2end_text,
    files,
    generate,
    schedule,
)
from netgen.layers import conv
from netgen.methods import Detector, Schedule
from netgen.necks import NECKS
from pipeline.recipe import initial_weights
from utils.param_str import parse_param_str

ROOT = Path(__file__).resolve().parent.parent


def alt_opt(net, name):
    return ROOT / f'models/imagenet/{net}/faster_rcnn_alt_opt/{name}.pt'


def read(net, name):
    return read_net(str(alt_opt(net, name)))


def learning(param):
    """{type: {layer name: its lr_mults}} of the layers with param fields; reading drops BatchNorm's."""
    found = {}
    for layer in param.layer:
        if layer.param:
            found.setdefault(layer.type, {})[layer.name] = [p.lr_mult for p in layer.param]
    return found


def learning_statistics(param):
    return {
        layer.name
        for layer in param.layer
        if layer.type == 'BatchNorm' and not layer.batch_norm_param.use_global_stats
    }


def weighted(param):
    kinds = 'Convolution', 'BatchNorm', 'Scale', 'InnerProduct'
    return {layer.name for layer in param.layer if layer.type in kinds}


def test_the_committed_files_are_what_the_generator_writes():
    wanted = committed_files()
    lying = {
        path
        for name in COMMITTED
        for net in COMMITTED_NETS
        for path in (ROOT / 'models' / name / net).glob('*/*')
    } | {
        path
        for name, (_, net) in COMMITTED_MASKS.items()
        for path in (ROOT / 'models' / name / net).glob('mask*/*')
    }
    assert lying == set(wanted)
    assert [path for path, text in wanted.items() if path.read_text() != text] == []


@pytest.mark.parametrize('net', COMMITTED_NETS)
def test_every_snapshot_holds_all_parameters(net):
    everything = weighted(read(net, 'faster_rcnn_test'))
    for stage in '12':
        assert weighted(read(net, f'stage{stage}_fast_rcnn_train')) == everything
        assert weighted(read(net, f'stage{stage}_rpn_train')) == everything - {'cls_score', 'bbox_pred'}


@pytest.mark.parametrize('net', COMMITTED_NETS)
def test_solvers_name_their_nets(net):
    for path in glob.glob(str(ROOT / f'models/*/{net}/*/*solver*')):
        solver = read_solver(path)
        train = ROOT / solver.train_net
        assert train.parent == Path(path).parent and train.exists()
        assert (solver.lr_policy, solver.gamma, solver.momentum) == ('step', np.float32(0.1), np.float32(0.9))
        assert (solver.weight_decay, solver.snapshot, solver.average_loss) == (np.float32(0.0005), 0, 100)
        assert solver.base_lr == np.float32(0.01 if net == 'ResNet-10' else 0.001)


def test_schedules():
    def step(path):
        return read_solver(str(ROOT / 'models' / path)).stepsize

    assert step('imagenet/ResNet-101/faster_rcnn_alt_opt/stage1_fast_rcnn_solver30k40k.pt') == 240000
    assert step('pascal_voc/VGG16/faster_rcnn_alt_opt/stage2_rpn_solver60k80k.pt') == 60000
    assert step('pascal_voc/VGG16/faster_rcnn_alt_opt/stage2_fast_rcnn_solver30k40k.pt') == 30000
    assert step('pascal_voc/ZF/faster_rcnn_end2end/solver.prototxt') == 50000
    assert schedule('own', 400).stages == (300,) * 4
    assert schedule('own', [400, 200, 100, 1]) == Schedule(
        (300, 150, 75, 1), 150, 300, (300, 150, 75, 1, 75), 300
    )
    with pytest.raises(ValueError, match='one number or four'):
        schedule('own', [400, 200])


def test_a_backbone_is_one_row(monkeypatch):
    """Every method that it is fit for then has its nets, on the map that it names."""

    class Tiny(type(BACKBONES['ZF'])):
        def trunk(self, lr):
            return [conv('c', 'data', 5, 3, lr, stride=8)]

    row = Tiny('tiny', maps=(FeatureMap('c', 8, 5),), pooled=2, widths=(6, 7))
    monkeypatch.setitem(BACKBONES, 'Tiny', row)
    texts = {'/'.join(path.parts[-2:]): text for path, text in files('own', 'Tiny', 3).items()}
    assert len(texts) == 17 and not [name for name in texts if 'rfcn' in name]
    for name in 'fast_rcnn/test.prototxt', 'faster_rcnn_end2end/train.prototxt':
        assert 'bottom: "c" bottom: "rois"' in texts[name] and 'spatial_scale: 0.125' in texts[name]
    assert "'feat_stride': 8" in texts['faster_rcnn_alt_opt/rpn_test.pt']


# ------------------------------------------------------------------------------------------- names and shapes


def test_published_names():
    """Counts by hand: ResNet-101 has 1 + 3 * 33 convolutions and 4 projections; the RPN adds 3."""
    names = [layer.name for layer in read('ResNet-101', 'faster_rcnn_test').layer]
    layers = weighted(read('ResNet-101', 'faster_rcnn_test'))
    assert len([name for name in layers if name == 'conv1' or name.startswith('res')]) == 104
    assert len([name for name in layers if name.startswith('bn')]) == 104
    assert {
        'conv1',
        'bn_conv1',
        'scale_conv1',
        'res2a_branch1',
        'bn2a_branch1',
        'scale2a_branch2c',
        'res2c_branch2b',
        'res3b3_branch2a',
        'bn4b22_branch2c',
        'res5c_branch2c',
        'rpn_conv/3x3',
        'rpn_cls_score',
        'rpn_bbox_pred',
        'cls_score',
        'bbox_pred',
    } <= layers
    assert {
        'conv1_relu',
        'pool1',
        'res2a_branch2a_relu',
        'res4b22',
        'res4b22_relu',
        'res5a',
        'pool5',
        'rpn_relu/3x3',
    } <= set(names)
    fifty = weighted(read('ResNet-50', 'faster_rcnn_test'))
    assert len([name for name in fifty if name.startswith('scale')]) == 53
    assert {'res4f_branch2c', 'res3d_branch2a'} <= fifty
    assert {'conv1_1', 'conv5_3', 'fc6', 'fc7', 'rpn_conv/3x3'} <= weighted(read('VGG16', 'faster_rcnn_test'))
    assert weighted(read('ZF', 'rpn_test')) == {
        'conv1',
        'conv2',
        'conv3',
        'conv4',
        'conv5',
        'rpn_conv1',
        'rpn_cls_score',
        'rpn_bbox_pred',
    }


def test_conv1_has_a_bias_in_resnet_50_only():
    for net, terms in ('ResNet-50', True), ('ResNet-101', False), ('ResNet-10', False):
        conv1 = next(layer for layer in read(net, 'rpn_test').layer if layer.name == 'conv1')
        assert conv1.convolution_param.bias_term == terms


@pytest.mark.parametrize(
    'net, strided',
    [
        ('ResNet-50', ('branch1', 'branch2a')),
        ('ResNet-50-torchvision', ('branch1', 'branch2b')),
        ('ResNet-10', ('branch1', 'branch2a')),
    ],
)
def test_where_the_stride_is(tmp_path, net, strided):
    generate('own', net, 3, tmp_path)
    param = read_net(str(tmp_path / 'own' / net / 'faster_rcnn_alt_opt' / 'fast_rcnn_test.pt'))
    convs = [layer for layer in param.layer if layer.type == 'Convolution']
    found = {layer.name for layer in convs if 2 in layer.convolution_param.stride}
    assert found == {'conv1'} | {f'res{stage}a_{branch}' for stage in '345' for branch in strided}
    pool1 = next(layer.pooling_param for layer in param.layer if layer.name == 'pool1')
    assert (pool1.pad, pool1.ceil_mode) == ((1, False) if 'torchvision' in net else (0, True))


@pytest.mark.parametrize(
    'net, features, shape, pooled',
    [
        ('ResNet-101', 'res4b22', (1024, 14, 14), (1024, 14, 14)),
        ('ResNet-50', 'res4f', (1024, 14, 14), (1024, 14, 14)),
        ('ResNet-10', 'res4a', (128, 14, 14), (128, 7, 7)),
        ('VGG16', 'conv5_3', (512, 14, 14), (512, 7, 7)),
        ('VGG_CNN_M_1024', 'conv5', (512, 13, 13), (512, 6, 6)),
        ('ZF', 'conv5', (256, 15, 15), (256, 6, 6)),
    ],
)
def test_shapes(net, features, shape, pooled):
    blobs = caffe.Net(str(alt_opt(net, 'faster_rcnn_test')), caffe.TEST).blobs
    assert blobs[features].shape == (1, *shape)
    assert blobs[BACKBONES[net].roi_pool].shape[1:] == pooled
    assert blobs['rpn_bbox_pred'].shape[1] == 36 and blobs['rpn_cls_prob_reshape'].shape[1] == 18
    assert blobs['cls_prob'].shape == (1, 201) and blobs['bbox_pred'].shape == (1, 804)
    last = blobs[BACKBONES[net].head_top]
    assert last.count == last.shape[1]  # pooled to one position


@pytest.mark.parametrize('net', COMMITTED_NETS)
def test_nets_without_weights_stay_finite(net):
    """BatchNorm's variance is 0 there, so each one multiplies by 316."""
    caffe.set_random_seed(5)
    fresh = caffe.Net(str(alt_opt(net, 'faster_rcnn_test')), caffe.TEST)
    fresh.blobs['data'].data[...] = np.random.RandomState(5).normal(0, 50, (1, 3, 224, 224))
    fresh.blobs['im_info'].data[...] = 224, 224, 1
    found = fresh.forward(blobs=['rois', 'rpn_bbox_pred', 'rpn_cls_score'])
    assert all(np.isfinite(value).all() and len(value) for value in found.values())


@pytest.mark.parametrize(
    'net, file',
    [('ResNet-10', 'faster_rcnn_end2end/test.prototxt')],
)
def test_deformable_nets_begin_as_the_plain_ones(tmp_path, net, file):
    def make(name):
        generate('own', name, 3, tmp_path)
        caffe.set_random_seed(5)
        made = caffe.Net(str(tmp_path / 'own' / name / file), caffe.TEST)
        made.blobs['data'].reshape(1, 3, 96, 96)
        made.blobs['data'].data[...] = np.random.RandomState(5).normal(0, 50, (1, 3, 96, 96))
        made.blobs['im_info'].data[...] = 96, 96, 1
        return made

    plain, moved, weighed = make(net), make(f'{net}-DCN'), make(f'{net}-DCNv2')
    plain.save(str(tmp_path / 'w.caffemodel'))
    moved.copy_from(str(tmp_path / 'w.caffemodel'))
    want, got = plain.forward(), moved.forward()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)
    kinds = [layer.type for layer in moved.layers]
    assert kinds.count('ConvolutionDeformable') == 2 and moved.blobs['res5a_branch2a_move'].shape[1] == 72
    weighed.forward()
    assert (weighed.blobs['res5a_branch2b_mask'].data == 0.5).all()


def test_deformable_nets_start_from_the_plain_ones_weights():
    for name, plain in ('ResNet-50-DCN', 'ResNet-50'), ('ResNet-50-FPN-DCNv2', 'ResNet-50-torchvision'):
        assert weights_of(name) == plain
    assert weights_of('ResNet-101-Context') == 'ResNet-101' and weights_of('VGG16') == 'VGG16'
    body = BACKBONES['ResNet-101-FPN-DCNv2'].body
    assert body.deformable == 4 and body.modulated and not BACKBONES['ResNet-101-FPN'].body.deformable


@pytest.fixture
def pyramid(tmp_path):
    """The test net of ResNet-10-FPN, fed with a picture whose sides are no multiples of anything."""
    generate('own', 'ResNet-10-FPN', 3, tmp_path)
    path = tmp_path / 'own/ResNet-10-FPN/faster_rcnn_end2end/test.prototxt'
    caffe.set_random_seed(5)
    net = caffe.Net(str(path), caffe.TEST)
    net.blobs['data'].reshape(2, 3, 75, 101)
    net.blobs['im_info'].reshape(2, 3)
    net.blobs['data'].data[...] = np.random.RandomState(5).normal(0, 50, (2, 3, 75, 101))
    net.blobs['im_info'].data[...] = [[75, 101, 1], [60, 101, 1]]
    return net


def test_a_pyramid(pyramid):
    """Maps of 75 x 101 pixels, rounded up but for columns in pool1, which is not padded; RoIs of two images, pooled where they belong."""
    pyramid.forward()
    channels = BACKBONES['ResNet-10-FPN'].channels
    sides = [pyramid.blobs[f'p{level}'].shape[1:] for level in range(2, 7)]
    assert sides == [(channels, *side) for side in [(19, 25), (10, 13), (5, 7), (3, 4), (2, 2)]]
    assert pyramid.blobs['rpn_deltas_p3'].shape == (2, 12, 10, 13)
    rois = pyramid.blobs['rois'].data
    assert set(rois[:, 0]) == {0, 1} and rois[rois[:, 0] == 1, 4].max() <= 60
    assert pyramid.blobs['roi_pool'].shape == (len(rois), channels, 7, 7)
    assert pyramid.blobs['cls_prob'].shape == (len(rois), 3) and pyramid.blobs['bbox_pred'].shape[1] == 12


@pytest.mark.parametrize('name', ['FPN', 'FPN-bilinear', 'FPN-P6P7-of-P5', 'FPN-P6P7-of-C5'])
def test_necks_against_torch(tmp_path, name):
    """Of maps with sides that are no halves of each other's."""
    sides = [(13, 9), (7, 5), (4, 3), (2, 2)]
    bodies = [FeatureMap(f'c{i}', 2**i, i) for i in range(2, 6)]
    inputs = [
        f'input: "{m.blob}" input_shape {{ dim: 1 dim: {m.channels} dim: {h} dim: {w} }}'
        for m, (h, w) in zip(bodies, sides)
    ]
    neck = NECKS[name](bodies, 5)
    path = tmp_path / 'neck.prototxt'
    path.write_text('\n'.join([*inputs, *neck.lines(None)]))
    net, rng = caffe.Net(str(path), caffe.TEST), np.random.RandomState(0)
    given = {m.blob: rng.randn(1, m.channels, *size).astype(np.float32) for m, size in zip(bodies, sides)}
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = rng.randn(*blob.shape) / 3
    found = net.forward(**given, blobs=[m.blob for m in neck.maps])
    params = {key: [torch.from_numpy(blob.data) for blob in blobs] for key, blobs in net.params.items()}

    def convolved(key, x, stride=1):
        weight, bias = params[key]
        return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2)

    how = {'mode': 'bilinear', 'align_corners': False} if name == 'FPN-bilinear' else {'mode': 'nearest'}
    given, wanted, total = {key: torch.from_numpy(x) for key, x in given.items()}, {}, None
    for level in '5432':
        lateral = convolved(f'p{level}_lateral', given[f'c{level}'])
        total = lateral if total is None else lateral + F.interpolate(total, lateral.shape[2:], **how)
        wanted[f'p{level}'] = convolved(f'p{level}', total)
    if 'P6P7' in name:
        wanted['p6'] = convolved('p6', wanted['p5'] if name.endswith('P5') else given['c5'], 2)
        wanted['p7'] = convolved('p7', wanted['p6'].relu(), 2)
    else:
        wanted['p6'] = wanted['p5'][:, :, ::2, ::2]
    assert (
        found.keys() == wanted.keys()
        and [m.stride for m in neck.maps] == [4, 8, 16, 32, 64, 128][: len(found)]
    )
    for key, values in wanted.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    'roi_layer, kind', [('align', 'ROIAlign'), ('pool', 'ROIPooling'), ('crop', 'ROICrop')]
)
def test_what_pools_rois_of_a_pyramid(monkeypatch, roi_layer, kind):
    """Each level at its scale."""
    monkeypatch.setitem(BACKBONES, 'Mine', replace(BACKBONES['ResNet-10-FPN'], roi_layer=roi_layer))
    net = parse_net(end2end_text('Mine', 3, 'test.prototxt'))
    pools = [layer for layer in net.layer if layer.type == kind]
    params = [
        getattr(p, {'align': 'roi_align', 'pool': 'roi_pooling', 'crop': 'roi_crop'}[roi_layer] + '_param')
        for p in pools
    ]
    assert [(p.pooled_w, p.pooled_h, 1 / p.spatial_scale) for p in params] == [
        (7, 7, 2**i) for i in range(2, 6)
    ]
    assert [list(p.bottom) for p in pools] == [[f'p{i}', f'rois_p{i}'] for i in range(2, 6)]


@pytest.mark.parametrize('net', ['ResNet-50-FPN-caffe', 'ResNet-101-FPN-caffe'])
def test_a_pyramid_on_the_published_nets(net):
    """The stride is in the first 1x1, boxes are Caffe's, and the layers' names those of the published weights."""
    param, body = parse_net(end2end_text(net, 3, 'train.prototxt')), BACKBONES[BACKBONES[net].weights]
    names = {layer.name for layer in param.layer}
    assert {f'res{s}a_branch2a' for s in '2345'} <= names and set(
        weighted(read(BACKBONES[net].weights, 'fast_rcnn_test'))
    ) - names == set()
    convs = [layer for layer in param.layer if layer.type == 'Convolution']
    strided = {layer.name for layer in convs if 2 in layer.convolution_param.stride}
    assert strided == {'conv1', *(f'res{s}a_branch{b}' for s in '345' for b in ('1', '2a'))}
    conv1 = next(layer for layer in param.layer if layer.name == 'conv1')
    assert conv1.convolution_param.bias_term == body.conv1_bias
    fixed = {name[:4] for name, rates in learning(param)['Convolution'].items() if not any(rates)}
    assert fixed == {'conv', 'res2'} and BACKBONES[net].boxes == 'caffe'


def test_a_pyramid_is_judged_by_one_rpn(pyramid):
    first, last = (pyramid.params[f'rpn_scores_{level}'][0] for level in ('p2', 'p6'))
    first.data[...] = 7
    assert (last.data == 7).all()


# ----------------------------------------------------------------------------------------------- what learns


@pytest.mark.parametrize('net', ['ResNet-101', 'ResNet-50'])
@pytest.mark.parametrize('stage', [1, 2])
@pytest.mark.parametrize('kind', ['rpn', 'fast_rcnn'])
def test_resnet_freezing(net, stage, kind):
    param = read(net, f'stage{stage}_{kind}_train')
    found = learning(param)
    assert not any(map(sum, found['Scale'].values()))
    assert learning_statistics(param) == set()
    weights = {**found['Convolution'], **found.get('InnerProduct', {})}
    moving = {name for name, rates in weights.items() if rates[0]}
    wanted = {'rpn_'} if kind == 'rpn' else {'res5', 'cls_', 'bbox'}
    assert {name[:4] for name in moving} == wanted | ({'res4'} if stage == 1 else set())


@pytest.mark.parametrize('net', ['ResNet-10-FPN-GN', 'ResNet-50-FPN-GN'])
def test_group_norm_in_body_neck_and_head(net):
    """Behind each convolution but the RPN's, in a blob of its own that Scale and ReLU then share; 16 groups of conv1's 32
    channels, else 32 of them; all learn, and no weights are asked for."""
    layers = parse_net(end2end_text(net, 3, 'train.prototxt')).layer
    assert 'BatchNorm' not in {layer.type for layer in layers} and initial_weights(net) is None
    convs = [layer for layer in layers if layer.type == 'Convolution' and not layer.name.startswith('rpn')]
    norms = {layer.bottom[0]: layer for layer in layers if layer.type == 'GroupNorm'}
    scales = {layer.bottom[0]: layer for layer in layers if layer.type == 'Scale'}
    assert len(convs) == len(norms) == len(scales)
    for layer in convs:
        norm = norms[layer.top[0]]
        assert norm.top[0] == layer.name and scales[layer.name].top[0] == layer.name
        outputs = layer.convolution_param.num_output
        assert norm.group_norm_param.group_num == min(32, outputs // 2)
        assert [spec.lr_mult for spec in layer.param][0] == 1
    names = {layer.name for layer in layers}
    assert {'gn_conv1', 'scale_conv1', 'gn2a_branch2a', 'p2_lateral_gn', 'p5_gn', 'fc6'} <= names
    assert ('head_conv4_gn' in names) == ('fc7' not in names) == (net == 'ResNet-50-FPN-GN')


@pytest.mark.parametrize('net', ['ResNet-50-FPN', 'ResNet-101-FPN'])
def test_a_pyramid_starts_from_the_weights_of_its_body(tmp_path, monkeypatch, net):
    monkeypatch.setitem(cfg, 'ROOT_DIR', str(tmp_path))
    path = tmp_path / 'data/imagenet_models' / f'{BACKBONES[net].weights}.caffemodel'
    path.parent.mkdir(parents=True)
    path.touch()
    assert initial_weights(net) == str(path) and initial_weights('ResNet-10-FPN') is None
    body = BACKBONES[BACKBONES[net].weights]
    single = [*body.trunk(None), *body.stage(5, body.block_names(4)[-1], None, None)]
    assert BACKBONES[net].trunk(None)[: len(single)] == single


def test_what_learns_in_a_pyramid():
    """As torchvision trains it: not conv1 and res2, nor any statistics."""
    path = ROOT / 'models/own/ResNet-50-FPN/faster_rcnn_end2end/train.prototxt'
    found = learning(parse_net(files('own', 'ResNet-50-FPN', 3)[path]))
    fixed = {name[:4] for name, rates in found['Convolution'].items() if not any(rates)}
    assert fixed == {'conv', 'res2'} and not any(map(sum, found['Scale'].values()))


def test_a_pyramid_in_alternating_optimization():
    """Stage 2 leaves body and neck as they are, every snapshot has all parameters, and all heads are the pyramid's."""
    texts = {p.name: text for p, text in files('own', 'ResNet-10-FPN', 3).items() if 'alt_opt' in str(p)}
    nets = {name: parse_net(text) for name, text in texts.items() if 'solver' not in name}
    everything = weighted(nets['faster_rcnn_test.pt'])
    heads = {
        name for name in everything if re.search('^rpn_|cls_|bbox_|head_|fc', name) and name[:3] != 'bn_'
    }
    for stage in '12':
        for kind, apart in ('rpn', {'cls_score', 'bbox_pred'}), ('fast_rcnn', set()):
            net = nets[f'stage{stage}_{kind}_train.pt']
            assert weighted(net) == everything - apart
            rates = {name: rates for found in learning(net).values() for name, rates in found.items()}
            moving = {name for name, blobs in rates.items() if any(blobs)}
            learns = {name for name in heads - apart if name.startswith('rpn_') == (kind == 'rpn')}
            assert moving & heads == learns and (moving >= {'conv1', 'res5a_branch2a', 'p2'}) == (
                stage == '1'
            )
            assert stage == '1' or moving == learns
    for name in 'stage1_fast_rcnn_train.pt', 'fast_rcnn_test.pt', 'faster_rcnn_test.pt':
        assert 'RoILevelsLayer' in texts[name]


def test_what_runs_on_rois_is_normalized_from_nothing():
    """BatchNorm of what it sees follows each layer of the head of a body that starts from nothing, and no other's; where the
    head stays as it is, so do the statistics."""
    for net, names in ('ResNet-10-FPN', ['head_conv1', 'head_conv2', 'fc6', 'fc7']), ('ResNet-50-FPN', []):
        texts = {p.name: text for p, text in files('own', net, 3).items() if 'alt_opt' in str(p)}
        for kind, fixed in ('fast_rcnn', False), ('rpn', True):
            layers = parse_net(texts[f'stage2_{kind}_train.pt']).layer
            norms = {layer.name: layer.batch_norm_param for layer in layers if layer.type == 'BatchNorm'}
            heads = [name for name in norms if 'head' in name or 'fc' in name]
            assert heads == [f'bn_{name}' for name in names]
            assert all(norms[name].use_global_stats == fixed for name in heads)


def test_what_learns_in_detnet():
    """Not conv1 and res2, nor any statistics; the two last stages are dilated, and begin with a 1x1 on the shortcut."""
    param = parse_net(end2end_text('DetNet-59-FPN', 3, 'train.prototxt'))
    found = learning(param)
    fixed = {name[:4] for name, rates in found['Convolution'].items() if not any(rates)}
    assert fixed == {'conv', 'res2'} and not any(map(sum, found['Scale'].values()))
    convs = {layer.name: layer.convolution_param for layer in param.layer if layer.type == 'Convolution'}
    assert {name for name, c in convs.items() if 2 in c.dilation} == {
        f'res{s}{b}_branch2b' for s in '56' for b in 'abc'
    }
    assert {name for name in convs if name.endswith('branch1')} == {f'res{s}a_branch1' for s in '23456'}
    assert (
        len([name for name in convs if name.startswith(('conv1', 'res'))]) == 59 - 1 + 5
    )  # less fc, and the shortcuts


def test_the_anchors_of_detnet():
    """32 to 512 pixels, at strides of 4, 8 and three times 16; two scores of each of three anchors a position."""
    layers = {
        layer.name: layer for layer in parse_net(end2end_text('DetNet-59-FPN', 3, 'test.prototxt')).layer
    }
    anchors = Pyramid(layers['proposal'].python_param.param_str).anchors
    sides = [float(level[1, 2] - level[1, 0]) for level in anchors]
    assert sides == [32, 64, 128, 256, 512] and all(len(level) == 3 for level in anchors)
    assert layers['rpn_scores_p6'].convolution_param.num_output == 6
    pools = [layer.roi_align_param for layer in layers.values() if layer.type == 'ROIAlign']
    assert len(pools) == 4 and all(p.corners and p.pooled_h == 14 and p.spatial_scale == 1 for p in pools)


def test_pairs_of_scores_meet_their_labels(tmp_path):
    """Two levels of 1x2 and 1x1 cells, three anchors: the mean over examples of -log softmax of each anchor's pair."""
    detector = Detector(BACKBONES['DetNet-59-FPN'], 3, scales=(8,))
    levels, rpn = {'p2': (1, 2), 'p3': (1, 1)}, detector.rpn
    maps = [FeatureMap(blob, 4, 1) for blob in levels]
    rpn = replace(rpn, net=SimpleNamespace(maps=maps))
    shapes = {f'rpn_scores_{blob}': f'dim: 1 dim: 6 dim: {h} dim: {w}' for blob, (h, w) in levels.items()}
    shapes['rpn_labels'] = 'dim: 1 dim: 9'
    inputs = [f'input: "{name}" input_shape {{ {dims} }}' for name, dims in shapes.items()]
    (tmp_path / 'n.prototxt').write_text('\n'.join([*inputs, *rpn.score_row(), rpn.score_loss()]))
    net, rng = caffe.Net(str(tmp_path / 'n.prototxt'), caffe.TRAIN), np.random.RandomState(0)
    for name in list(shapes)[:2]:
        net.blobs[name].data[...] = rng.normal(size=net.blobs[name].shape)
    labels = np.array([1, 0, -1, 0, 1, -1, 0, 1, 1])
    net.blobs['rpn_labels'].data[...] = labels
    net.forward()
    losses, at = [], 0
    for blob in levels:
        scores = net.blobs[f'rpn_scores_{blob}'].data[0].astype(np.float64)
        for a, y, x in np.ndindex(3, *scores.shape[1:]):  # as labels lie
            pair = scores[[a, a + 3], y, x]
            if labels[at] >= 0:
                losses.append(np.log(np.exp(pair).sum()) - pair[labels[at]])
            at += 1
    assert net.blobs['rpn_loss_cls'].data == pytest.approx(np.mean(losses), rel=1e-5)


def test_vgg16_freezes_the_first_four():
    stage1 = learning(read('VGG16', 'stage1_rpn_train'))['Convolution']
    fixed = {name for name, rates in stage1.items() if not any(rates)}
    assert fixed == {'conv1_1', 'conv1_2', 'conv2_1', 'conv2_2'}
    stage2 = learning(read('VGG16', 'stage2_rpn_train'))['Convolution']
    moving = {name for name, rates in stage2.items() if any(rates)}
    assert moving == {'rpn_conv/3x3', 'rpn_cls_score', 'rpn_bbox_pred'}


@pytest.mark.parametrize('path', sorted((ROOT / 'models/pascal_voc').glob('*/*/*train*')), ids=str)
def test_biases_decay_where_they_learn(path):
    """As in the published nets, where only weights and biases that are frozen have decay_mult 0."""
    for layer in read_net(str(path)).layer:
        if layer.type in ('Convolution', 'InnerProduct'):
            learns = layer.param[0].lr_mult > 0
            wanted = [(1, 1), (2, 1)] if learns else [(0, 0), (0, 0)]
            assert [(p.lr_mult, p.decay_mult) for p in layer.param] == wanted[: len(layer.param)], layer.name


def test_vgg_cnn_m_1024_freezes_conv1():
    learns = learning(read('VGG_CNN_M_1024', 'stage1_fast_rcnn_train'))
    fixed = {n for kind in learns.values() for n, rates in kind.items() if not any(rates)}
    assert fixed == {'conv1', 'rpn_conv/3x3', 'rpn_cls_score', 'rpn_bbox_pred'}
    sizes = {
        layer.name: layer.inner_product_param.num_output
        for layer in read('VGG_CNN_M_1024', 'fast_rcnn_test').layer
        if layer.type == 'InnerProduct'
    }
    assert sizes == {'fc6': 4096, 'fc7': 1024, 'cls_score': 201, 'bbox_pred': 804}


def test_resnet_10_learns_its_statistics_in_stage_1_only():
    shared = learning_statistics(read('ResNet-10', 'stage1_rpn_train'))
    head = learning_statistics(read('ResNet-10', 'stage1_fast_rcnn_train'))
    assert len(shared) == 9 and head - shared == {'bn5a_branch1', 'bn5a_branch2a', 'bn5a_branch2b'}
    for name in (
        'stage2_rpn_train',
        'stage2_fast_rcnn_train',
        'rpn_test',
        'fast_rcnn_test',
        'faster_rcnn_test',
    ):
        assert learning_statistics(read('ResNet-10', name)) == set()
    scales = learning(read('ResNet-10', 'stage1_rpn_train'))['Scale']
    moving = {name for name, rates in scales.items() if all(rates)}
    assert moving == {name.replace('bn', 'scale') for name in shared}
    assert not any(map(sum, learning(read('ResNet-10', 'stage2_fast_rcnn_train'))['Scale'].values()))


@pytest.fixture
def roidb(tmp_path):
    """Two images of noise with one bright box each, prepared for both kinds of stage."""
    import scipy.sparse

    rng, entries = np.random.RandomState(0), []
    for i in range(2):
        image = rng.randint(0, 90, (120, 160, 3), np.uint8)
        image[30:90, 40:120] += 150
        path = str(tmp_path / f'{i}.png')
        cv2.imwrite(path, image)
        boxes = np.array([[40, 30, 119, 89]] + [[x, 20, x + 60, 90] for x in range(0, 80, 20)], np.float32)
        overlaps = np.zeros((5, 201), np.float32)
        overlaps[:, 1] = [1, 0.3, 0.4, 0.6, 0.6]
        entries.append(
            {
                'boxes': boxes,
                'gt_classes': np.array([1, 0, 0, 0, 0]),
                'seg_areas': np.ones(5),
                'gt_overlaps': scipy.sparse.csr_matrix(overlaps),
                'max_overlaps': overlaps[:, 1],
                'max_classes': np.ones(5, int),
                'flipped': False,
                'image': path,
                'width': 160,
                'height': 120,
            }
        )
    return entries


SMALL = {
    'TRAIN.SCALES': [300],
    'TRAIN.MAX_SIZE': 400,
    'TRAIN.IMS_PER_BATCH': 1,
    'TRAIN.BATCH_SIZE': 16,
    'TRAIN.BG_THRESH_LO': 0.0,
    'TRAIN.RPN_MIN_SIZE': 4,
    'USE_GPU_NMS': False,
}
RPN_STAGE = {'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_REG': False}
END2END = {'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': True}


def test_a_narrow_detnet_trains_and_detects(roidb, tmp_path, monkeypatch):
    """Two images a pass, one block a stage, by DetNet's own settings: losses are finite, res3 moves, conv1 and res2 do not."""
    body = DetNet('narrow', blocks=(1,) * 5, widths=(8,) * 5, conv1_outputs=8)
    row = DetNetPyramid('narrow', body=body, channels=16, rpn_outputs=16, pooled=4, widths=(32, 32))
    monkeypatch.setitem(BACKBONES, 'Narrow', row)
    generate('own', 'Narrow', 201, tmp_path)
    folder = tmp_path / 'own/Narrow/faster_rcnn_end2end'
    small = {
        'TRAIN.SCALES': [120],
        'TRAIN.BATCH_SIZE': 16,
        'TRAIN.RPN_POST_NMS_TOP_N': 50,
        'TEST.SCALES': [120],
    }
    caffe.set_mode_cpu()
    caffe.set_random_seed(1)
    np.random.seed(1)
    with overrides({'TEST.RPN_POST_NMS_TOP_N': 20, 'USE_GPU_NMS': False}):
        cfg_from_file(ROOT / 'experiments/cfgs/faster_rcnn_end2end_detnet.yml')
        with overrides(small):
            solver = SolverWrapper(str(folder / 'solver.prototxt'), roidb, str(tmp_path))
            before = {name: blobs[0].data.copy() for name, blobs in solver.solver.net.params.items()}
            *_, path = solver.train_model(2)
            net = solver.solver.net
            assert net.blobs['data'].shape == (2, 3, 120, 160) and len(net.blobs['rois'].data) == 16
            assert all(np.isfinite(net.blobs[name].data) for name in net.outputs)
            still = {name for name, blobs in net.params.items() if (blobs[0].data == before[name]).all()}
            assert {name[:5] for name in still if name.startswith(('conv', 'res'))} == {'conv1', 'res2a'}
            scores, boxes = im_detect(
                caffe.Net(str(folder / 'test.prototxt'), path, caffe.TEST), cv2.imread(roidb[0]['image'])
            )
    assert scores.shape[1:] == (201,) and boxes.shape == (len(scores), 804) and np.isfinite(boxes).all()
    assert boxes.min() >= 0 and boxes[:, 2::4].max() <= 159 and boxes[:, 3::4].max() <= 119


@pytest.mark.parametrize(
    'path, settings, losses, moving',
    [
        ('faster_rcnn_alt_opt/stage1_rpn_train.pt', RPN_STAGE, {'rpn_loss_cls', 'rpn_loss_bbox'}, 'conv1'),
        (
            'faster_rcnn_alt_opt/stage2_rpn_train.pt',
            RPN_STAGE,
            {'rpn_loss_cls', 'rpn_loss_bbox'},
            'rpn_conv/3x3',
        ),
        ('faster_rcnn_alt_opt/stage1_fast_rcnn_train.pt', {}, {'loss_cls', 'loss_bbox'}, 'conv1'),
        ('faster_rcnn_alt_opt/stage2_fast_rcnn_train.pt', {}, {'loss_cls', 'loss_bbox'}, 'res5a_branch2a'),
        ('fast_rcnn/train.prototxt', {}, {'loss_cls', 'loss_bbox'}, 'conv1'),
        (
            'faster_rcnn_end2end/train.prototxt',
            END2END,
            {'rpn_loss_cls', 'rpn_loss_bbox', 'loss_cls', 'loss_bbox'},
            'conv1',
        ),
    ],
)
def test_resnet_10_trains(roidb, path, settings, losses, moving):
    """Each train net runs both ways; gradients reach `moving`, and conv1 only where that is it."""
    from roi_data_layer.roidb import add_bbox_regression_targets

    caffe.set_mode_cpu()
    caffe.set_random_seed(1)
    np.random.seed(1)
    with overrides({**SMALL, **settings}):
        if cfg.TRAIN.BBOX_REG:
            add_bbox_regression_targets(roidb)
        net = caffe.Net(str(ROOT / 'models/imagenet/ResNet-10' / path), caffe.TRAIN)
        net.layers[0].set_roidb(roidb)
        out = net.forward()
        net.backward()
    assert set(out) == losses and all(np.isfinite(out[name]) for name in losses)
    assert np.abs(net.params[moving][0].diff).max() > 0
    assert (np.abs(net.params['conv1'][0].diff).max() > 0) == (moving == 'conv1')


@pytest.mark.parametrize(
    'parts, more',
    [
        ({'boxes': 'caffe'}, ()),
        ({'boxes': 'torchvision'}, ()),
        ({'neck': 'FPN-P6P7-of-C5', 'roi_layer': 'crop'}, ()),
        ({'boxes': 'torchvision', 'neck': 'FPN-P6P7-of-P5', 'roi_layer': 'pool'}, ('p6', 'p7')),
        ({'neck': 'FPN-bilinear'}, ()),
        (
            {'body': replace(RESNET10, groups=32), 'convs': 1},
            ('head_conv1', 'head_conv1_scale', 'scale2a_branch2b', 'p3_scale'),
        ),
    ],
    ids=lambda value: ' '.join(map(str, value.values()))[:20] if isinstance(value, dict) else '',
)
def test_a_pyramid_trains(roidb, tmp_path, monkeypatch, parts, more):
    """On two images a pass; gradients reach the whole body, and each of the shared RPN's blobs once. Caffe's family has
    maps of 25 x 34 cells, of which the next has 13 x 17 and the one after it 7 x 9."""
    monkeypatch.setitem(BACKBONES, 'ResNet-10-FPN', replace(BACKBONES['ResNet-10-FPN'], **parts))
    text = files('own', 'ResNet-10-FPN', 3)[
        ROOT / 'models/own/ResNet-10-FPN/faster_rcnn_end2end/train.prototxt'
    ]
    path = tmp_path / 'train.prototxt'
    path.write_text(text)
    caffe.set_mode_cpu()
    caffe.set_random_seed(1)
    np.random.seed(1)
    everything = {'TRAIN.IMS_PER_BATCH': 2, 'TRAIN.SCALES': [100], 'TRAIN.RPN_BATCHSIZE': 10**5}
    with overrides({**SMALL, **END2END, **everything}):
        net = caffe.Net(str(path), caffe.TRAIN)
        net.layers[0].set_roidb(roidb)
        out = net.forward()
        net.backward()
    assert set(out) == {'rpn_loss_cls', 'rpn_loss_bbox', 'loss_cls', 'loss_bbox'}
    assert all(np.isfinite(loss) for loss in out.values()) and out['loss_cls'] > 0
    moving = 'conv1', 'res5a_branch2b', 'p2_lateral', 'rpn_conv_p2', 'rpn_deltas_p6', 'fc6', 'bbox_pred'
    for name in (*moving, *more):
        assert np.abs(net.params[name][0].diff).max() > 0, name
    assert set(net.blobs['rois'].data[:, 0]) == {0, 1}


# ------------------------------------------------------------------------------------------ files and command


def test_anchors_set_the_outputs(tmp_path):
    generate('own', 'ResNet-10', 4, tmp_path, anchors={'scales': [2, 4], 'ratios': [0.5, 1, 2, 3]})
    folder = tmp_path / 'own/ResNet-10'
    param = read_net(str(folder / 'faster_rcnn_end2end/train.prototxt'))
    layers = {layer.name: layer for layer in param.layer}
    assert layers['rpn_cls_score'].convolution_param.num_output == 16
    assert layers['rpn_bbox_pred'].convolution_param.num_output == 32
    assert list(layers['rpn_cls_prob_reshape'].reshape_param.shape.dim) == [0, 16, -1, 0]
    for name in 'rpn-data', 'proposal':
        wanted = {'feat_stride': 16, 'scales': [2, 4], 'ratios': [0.5, 1, 2, 3]}
        assert parse_param_str(layers[name].python_param.param_str) == wanted
    assert layers['cls_score'].inner_product_param.num_output == 4
    assert layers['bbox_pred'].inner_product_param.num_output == 16
    assert parse_param_str(layers['roi-data'].python_param.param_str) == {'num_classes': 4}
    net = caffe.Net(str(folder / 'faster_rcnn_alt_opt/faster_rcnn_test.pt'), caffe.TEST)
    net.blobs['im_info'].data[...] = 224, 224, 1
    assert net.forward()['cls_prob'].shape[1] == 4


def test_default_anchors_need_no_mention():
    layers = {layer.name: layer for layer in read('VGG16', 'rpn_test').layer}
    assert parse_param_str(layers['proposal'].python_param.param_str) == {'feat_stride': 16}


def test_files_follow_the_generator_until_edited(tmp_path, caplog):
    assert len(generate('own', 'ZF', 4, tmp_path)) == 17
    assert generate('own', 'ZF', 4, tmp_path) == []
    solver = tmp_path / 'own/ZF/faster_rcnn_alt_opt/stage1_rpn_solver60k80k.pt'
    solver.write_text(solver.read_text().replace('base_lr: 0.001', 'base_lr: 0.5'))
    written = generate('own', 'ZF', 4, tmp_path, max_iters=400)
    assert len(written) == 5 and solver not in written  # the other solvers follow the new schedule
    assert 'base_lr: 0.5' in solver.read_text() and str(solver) in caplog.text
    assert generate('own', 'ZF', 4, tmp_path, max_iters=400, force=True) == [solver]
    assert read_solver(str(solver)).stepsize == 300
    assert [path for path in tmp_path.rglob('.*')] == []  # no temporary file stays


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('own', 'ResNet-11', 4), "unknown net 'ResNet-11'; the nets are ResNet-101"),
        (('own', 'ZF', 1), 'at least 2; got 1'),
        (('own', 'ZF', 4, 'x', {'sizes': [1]}), 'not sizes'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        files(*arguments)


def test_the_command_refuses_half_a_wish():
    command = [sys.executable, str(ROOT / 'models/generate.py'), 'own', 'ZF']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and '--num_classes' in result.stderr


METHODS = sorted(p for p in (ROOT / 'experiments/cfgs').glob('*.yml') if not p.stem.startswith('preset_'))


@pytest.mark.parametrize('path', METHODS, ids=str)
def test_settings_files_hold_known_keys(path):
    with overrides({}):
        cfg_from_file(path)
        assert cfg.EXP_DIR == path.stem


# ------------------------------------------------------------------------------------- an independent reader


@pytest.mark.parametrize('net', ['ResNet-10', 'ResNet-50', 'VGG16', 'ZF'])
def test_opencv_gives_the_same_rpn(tmp_path, net):
    """The RPN without its Python layer at 96x128, random parameters, as OpenCV computes it from our files."""
    text = alt_opt(net, 'rpn_test').read_text()
    lines = [line for line in text.splitlines() if '"Python"' not in line and 'im_info' not in line]
    prototxt, weights = str(tmp_path / 'rpn.prototxt'), str(tmp_path / 'rpn.caffemodel')
    Path(prototxt).write_text('\n'.join(lines).replace('dim: 224 dim: 224', 'dim: 96 dim: 128') + '\n')
    caffe.set_random_seed(2)
    ours, rng = caffe.Net(prototxt, caffe.TEST), np.random.RandomState(2)
    for name, blobs in ours.params.items():
        if name.startswith('bn'):
            blobs[0].data[...] = rng.normal(0, 0.1, blobs[0].shape)
            blobs[1].data[...] = rng.uniform(0.5, 2, blobs[1].shape)
            blobs[2].data[...] = 1
        elif name.startswith('scale'):
            blobs[0].data[...] = rng.uniform(0.5, 1, blobs[0].shape)
            blobs[1].data[...] = rng.normal(0, 0.1, blobs[1].shape)
    ours.save(weights)
    image = rng.normal(0, 50, (1, 3, 96, 128)).astype(np.float32)
    found = ours.forward(data=image, blobs=['rpn_bbox_pred'])
    theirs = cv2.dnn.readNetFromCaffe(prototxt, weights)
    theirs.setInput(image, 'data')
    for name in 'rpn_bbox_pred', 'rpn_cls_prob_reshape':
        wanted = theirs.forward(name)
        assert wanted.shape == found[name].shape
        assert np.abs(found[name] - wanted).max() < 1e-3 * np.abs(wanted).max()
