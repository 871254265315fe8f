"""Small nets in the manner of the forks' public prototxt files train, test, save and reload."""

import cv2
import numpy as np
import pytest

import caffe
from helpers import data, layer, net_from

TRAIN, TEST = caffe.TRAIN, caffe.TEST
FILL = 'weight_filler { type: "xavier" } bias_filler { type: "constant" }'


def rng(seed=0):
    return np.random.default_rng(seed)


def conv(name, bottom, outputs, more='kernel_size: 3 pad: 1', kind='Convolution', param=''):
    return layer(
        name, kind, bottom, more=f'{param} convolution_param {{ num_output: {outputs} {more} {FILL} }}'
    )


def relu(name):
    return layer(f'{name}_relu', 'ReLU', name, name)


def pool(name, bottom, more='pool: MAX kernel_size: 2 stride: 2', tops=None):
    return layer(name, 'Pooling', bottom, tops, more=f'pooling_param {{ {more} }}')


def train(folder, text, inputs, steps=12, base_lr=0.02, kind='SGD'):
    """The net after `steps` on one batch, whose loss must have fallen."""
    (folder / 'train.prototxt').write_text(text)
    (folder / 'solver.prototxt').write_text(f'''
        train_net: "{folder}/train.prototxt" base_lr: {base_lr} lr_policy: "fixed" momentum: 0.9
        weight_decay: 0.0005 type: "{kind}" momentum2: 0.99 display: 0 snapshot_after_train: false''')
    caffe.set_random_seed(3)
    solver = caffe.get_solver(str(folder / 'solver.prototxt'))
    net = solver.net
    for name, value in inputs.items():
        net.blobs[name].data[...] = value

    def loss():
        outputs = net.forward()
        return float(sum(outputs[n] * w for n, w in net.blob_loss_weights.items() if w and n in outputs))

    before = loss()
    solver.step(steps)
    after = loss()
    assert np.isfinite([before, after]).all() and after < before, (before, after)
    return net


def every_layer_learned(net):
    """Each parameter with a rate above 0 has a gradient after a backward pass."""
    net.clear_param_diffs()
    net.forward()
    net.backward()
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            rate = net.params_lr[net.learnable_params.index(blob)]
            assert np.isfinite(blob.diff).all() and ((blob.diff != 0).any() or not rate), f'{name}[{i}]'


def reloaded(folder, net, text, phase=TEST):
    """A net of `text` with net's parameters, by file."""
    net.save(str(folder / 'w.caffemodel'))
    (folder / 'test.prototxt').write_text(text)
    return caffe.Net(str(folder / 'test.prototxt'), phase, weights=str(folder / 'w.caffemodel'))


# SSD

CLASSES = 4


def ssd_head(source, priors, prior_box):
    """Locations, scores and priors of one feature map."""
    text = ''
    for kind, outputs in (('loc', 4), ('conf', CLASSES)):
        text += conv(f'{source}_mbox_{kind}', source, priors * outputs)
        text += layer(
            f'{source}_mbox_{kind}_perm',
            'Permute',
            f'{source}_mbox_{kind}',
            more='permute_param { order: 0 order: 2 order: 3 order: 1 }',
        )
        text += layer(
            f'{source}_mbox_{kind}_flat',
            'Flatten',
            f'{source}_mbox_{kind}_perm',
            more='flatten_param { axis: 1 }',
        )
    return text + layer(
        f'{source}_mbox_priorbox',
        'PriorBox',
        f'{source} data',
        more=f"""prior_box_param {{
        {prior_box} flip: true clip: false offset: 0.5
        variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }}""",
    )


def ssd(images):
    text = 'name: "SSD"\n' + data('data', images, 3, 48, 48)
    text += conv('conv1', 'data', 8)
    text += relu('conv1')
    text += pool('pool1', 'conv1')
    text += conv('conv2', 'pool1', 12)
    text += relu('conv2')
    text += pool('pool2', 'conv2')
    text += conv('conv3', 'pool2', 12)
    text += relu('conv3')
    text += layer(
        'conv3_norm',
        'Normalize',
        'conv3',
        more="""norm_param {
        across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false }""",
    )
    text += conv('conv4', 'conv3', 16, 'kernel_size: 3 pad: 1 stride: 2')
    text += relu('conv4')
    text += ssd_head('conv3_norm', 4, 'min_size: 10.0 max_size: 18.0 aspect_ratio: 2 step: 4')
    text += ssd_head('conv4', 6, 'min_size: 18.0 max_size: 30.0 aspect_ratio: 2 aspect_ratio: 3 step: 8')
    for kind, axis in (('loc', 1), ('conf', 1), ('priorbox', 2)):
        flat = '' if kind == 'priorbox' else '_flat'
        text += layer(
            f'mbox_{kind}',
            'Concat',
            f'conv3_norm_mbox_{kind}{flat} conv4_mbox_{kind}{flat}',
            more=f'concat_param {{ axis: {axis} }}',
        )
    return text


SSD_LOSS = data('label', 1, 1, 4, 8) + layer(
    'mbox_loss',
    'MultiBoxLoss',
    'mbox_loc mbox_conf mbox_priorbox label',
    more="""
    include { phase: TRAIN }
    propagate_down: true propagate_down: true propagate_down: false propagate_down: false
    loss_param { normalization: VALID }
    multibox_loss_param { loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX loc_weight: 1.0 num_classes: 4
      share_location: true
      match_type: PER_PREDICTION overlap_threshold: 0.5 use_prior_for_matching: true background_label_id: 0
      use_difficult_gt: true neg_pos_ratio: 3.0 neg_overlap: 0.5 code_type: CENTER_SIZE
      ignore_cross_boundary_bbox: false mining_type: MAX_NEGATIVE }""",
)

SSD_DETECT = (
    layer(
        'mbox_conf_reshape', 'Reshape', 'mbox_conf', more='reshape_param { shape { dim: 0 dim: -1 dim: 4 } }'
    )
    + layer('mbox_conf_softmax', 'Softmax', 'mbox_conf_reshape', more='softmax_param { axis: 2 }')
    + layer('mbox_conf_flatten', 'Flatten', 'mbox_conf_softmax', more='flatten_param { axis: 1 }')
    + layer(
        'detection_out',
        'DetectionOutput',
        'mbox_loc mbox_conf_flatten mbox_priorbox',
        more="""include { phase: TEST }
    detection_output_param { num_classes: 4 share_location: true background_label_id: 0
      nms_param { nms_threshold: 0.45 top_k: 400 }
      save_output_param { label_map_file: "labelmap_voc.prototxt" }
      code_type: CENTER_SIZE keep_top_k: 200 confidence_threshold: 0.01 }""",
    )
)

LABELS = np.array(
    [
        [0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0],
        [0, 3, 0, 0.5, 0.4, 0.9, 0.95, 0],
        [1, 2, 0, 0.3, 0.2, 0.7, 0.75, 0],
        [1, 1, 1, 0.6, 0.6, 0.95, 0.9, 1],
    ]
).reshape(1, 1, 4, 8)


def test_ssd_learns_two_images_and_finds_their_objects(tmp_path):
    images = rng().standard_normal((2, 3, 48, 48))
    net = train(
        tmp_path, ssd(2) + SSD_LOSS, {'data': images, 'label': LABELS}, steps=120, base_lr=0.003, kind='Adam'
    )
    every_layer_learned(net)
    test = reloaded(tmp_path, net, ssd(2) + SSD_DETECT)
    found = test.forward(data=images)['detection_out'][0, 0]
    for image, label, *box in LABELS.reshape(-1, 8)[:, [0, 1, 3, 4, 5, 6]]:
        own = found[(found[:, 0] == image) & (found[:, 1] == label)]
        best = own[own[:, 2].argmax()]
        assert best[2] > 0.5 and np.abs(best[3:] - box).max() < 0.1, (label, best)


@pytest.mark.parametrize('share', [0.5, 2.0])
def test_ssd_deploy_agrees_with_opencv(share, tmp_path):
    """The whole net, with weights by file; `share` sharpens the scores."""
    text = ssd(1) + SSD_DETECT
    net = net_from(tmp_path, text)
    for name in ('conv3_norm_mbox_conf', 'conv4_mbox_conf'):
        net.params[name][0].data[...] *= share
    net.save(str(tmp_path / 'w.caffemodel'))
    image = rng(1).standard_normal((1, 3, 48, 48)).astype(np.float32)
    ours = net.forward(data=image)['detection_out'].copy()
    other = cv2.dnn.readNetFromCaffe(str(tmp_path / 'net.prototxt'), str(tmp_path / 'w.caffemodel'))
    other.setInput(image)
    theirs = other.forward('detection_out')
    assert ours.shape == theirs.shape and ours.shape[2] > 50
    order = [np.lexsort(np.round(d[0, 0, :, [3, 2, 1]], 4)) for d in (ours, theirs)]
    np.testing.assert_allclose(ours[0, 0, order[0]], theirs[0, 0, order[1]], rtol=1e-3, atol=1e-4)


# R-FCN


def rfcn():
    """As R-FCN's train_agnostic_ohem.prototxt from res5c on; the tops of Python layers are inputs."""
    text = data('data', 2, 3, 32, 32) + data('rois', 12, 5) + data('labels', 12, 1, 1, 1)
    text += data('bbox_targets', 12, 8, 1, 1) + data('bbox_inside_weights', 12, 8, 1, 1)
    text += conv('res5c', 'data', 8, 'kernel_size: 3 pad: 2 dilation: 2 stride: 2')
    text += relu('res5c')
    text += conv('conv_new_1', 'res5c', 16, 'kernel_size: 1')
    text += relu('conv_new_1')
    for name, dim in (('cls', 3), ('bbox', 8)):
        text += conv(f'rfcn_{name}', 'conv_new_1', dim * 9, 'kernel_size: 1')
        text += layer(
            f'psroipooled_{name}_rois',
            'PSROIPooling',
            f'rfcn_{name} rois',
            more=f'psroi_pooling_param {{ spatial_scale: 0.5 output_dim: {dim} group_size: 3 }}',
        )
        text += pool(
            'cls_score' if name == 'cls' else 'bbox_pred',
            f'psroipooled_{name}_rois',
            'pool: AVE kernel_size: 3 stride: 3',
        )
    text += hardest()
    text += layer('silence', 'Silence', 'temp_loss_cls temp_prob_cls temp_loss_bbox', '')
    text += layer(
        'loss',
        'SoftmaxWithLoss',
        'cls_score labels_ohem',
        'loss_cls',
        more='loss_weight: 1 propagate_down: true propagate_down: false loss_param { ignore_label: -1 }',
    )
    text += layer(
        'accuarcy',
        'Accuracy',
        'cls_score labels_ohem',
        more='propagate_down: false propagate_down: false accuracy_param { ignore_label: -1 }',
    )
    return text + layer(
        'loss_bbox',
        'SmoothL1LossOHEM',
        'bbox_pred bbox_targets bbox_loss_weights_ohem',
        more="""loss_weight: 1
        loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 8 }
        propagate_down: true propagate_down: false propagate_down: false""",
    )


def hardest():
    """The layers that find the regions of the largest losses."""
    no = 'propagate_down: false '
    text = layer(
        'per_roi_loss_cls',
        'SoftmaxWithLossOHEM',
        'cls_score labels',
        'temp_loss_cls temp_prob_cls per_roi_loss_cls',
        more=no * 2 + 'loss_weight: 0 ' * 3,
    )
    text += layer(
        'per_roi_loss_bbox',
        'SmoothL1LossOHEM',
        'bbox_pred bbox_targets bbox_inside_weights',
        'temp_loss_bbox per_roi_loss_bbox',
        more=no * 3 + 'loss_weight: 0 ' * 2,
    )
    text += layer('per_roi_loss', 'Eltwise', 'per_roi_loss_cls per_roi_loss_bbox', more=no * 2)
    return text + layer(
        'annotator_detector',
        'BoxAnnotatorOHEM',
        'rois per_roi_loss labels bbox_inside_weights',
        'labels_ohem bbox_loss_weights_ohem',
        more=no * 4 + 'box_annotator_ohem_param { roi_per_img: 4 ignore_label: -1 }',
    )


def test_rfcn_trains_with_ohem(tmp_path):
    corner = rng(1).uniform(0, 18, (12, 2))
    rois = np.concatenate([np.arange(12)[:, None] % 2, corner, corner + rng(2).uniform(5, 13, (12, 2))], 1)
    labels = rng(3).integers(0, 3, 12)
    weights = np.zeros((12, 8))
    weights[labels > 0, 4:] = 1
    inputs = {
        'data': rng().standard_normal((2, 3, 32, 32)),
        'rois': rois,
        'labels': labels.reshape(12, 1, 1, 1),
        'bbox_targets': rng(4).standard_normal((12, 8, 1, 1)),
        'bbox_inside_weights': weights[:, :, None, None],
    }
    net = train(tmp_path, rfcn(), inputs, steps=40)
    every_layer_learned(net)
    chosen, loss = net.blobs['labels_ohem'].data.reshape(-1) != -1, net.blobs['per_roi_loss'].data.reshape(-1)
    for image in (0, 1):
        mine = rois[:, 0] == image
        assert chosen[mine].sum() == 4 and loss[mine & chosen].min() >= loss[mine & ~chosen].max()
    kept = net.blobs['bbox_loss_weights_ohem'].data
    np.testing.assert_array_equal(kept, np.where(chosen[:, None, None, None], weights[:, :, None, None], 0))


# Segmentation

PSPNET_BN = 'slope_filler { type: "constant" value: 1 } bias_filler { type: "constant" } momentum: 0.5'


def bn(name, more=PSPNET_BN):
    rates = 'param { lr_mult: 1 decay_mult: 0 } ' * 2
    rates += 'param { lr_mult: 0 decay_mult: 0 } ' * (2 if more == PSPNET_BN else 0)
    text = layer(f'{name}/bn', 'BN', name, more=f'{rates} bn_param {{ {more} }}')
    return text + layer(f'{name}/relu', 'ReLU', f'{name}/bn', f'{name}/bn')


def pspnet(loss):
    text = data('data', 2, 3, 33, 33)
    text += conv('conv1_1', 'data', 8, 'kernel_size: 3 stride: 2 pad: 1 bias_term: false')
    text += bn('conv1_1')
    text += conv('conv5_3', 'conv1_1/bn', 8, 'kernel_size: 3 pad: 2 dilation: 2 bias_term: false')
    text += bn('conv5_3')
    names = 'conv5_3/bn'
    for bins in (1, 2):
        text += pool(
            f'conv5_3_pool{bins}',
            'conv5_3/bn',
            f'pool: AVE kernel_size: {-(-17 // bins)} stride: {17 // bins}',
        )
        text += conv(f'conv5_3_pool{bins}_conv', f'conv5_3_pool{bins}', 4, 'kernel_size: 1 bias_term: false')
        text += bn(f'conv5_3_pool{bins}_conv')
        text += layer(
            f'conv5_3_pool{bins}_interp',
            'Interp',
            f'conv5_3_pool{bins}_conv/bn',
            more='interp_param { height: 17 width: 17 }',
        )
        names += f' conv5_3_pool{bins}_interp'
    text += layer('conv5_3_concat', 'Concat', names)
    text += conv('conv6', 'conv5_3_concat', 3, 'kernel_size: 1')
    text += layer('conv6_interp', 'Interp', 'conv6', more='interp_param { zoom_factor: 2 }')
    return text + (
        data('label', 2, 1, 33, 33)
        + layer('loss', 'SoftmaxWithLoss', 'conv6_interp label', more='loss_param { ignore_label: 255 }')
        if loss
        else ''
    )


def segnet(loss):
    """Encoder and decoder of two levels; loss: classes are weighed; otherwise BN's statistics are folded."""
    fold = '' if loss else 'bn_mode: INFERENCE '
    more = fold + 'scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" value: 0.001 }'
    text = data('data', 2, 3, 18, 15)
    for i, (bottom, outputs) in enumerate((('data', 8), ('pool1', 12)), 1):
        text += conv(f'conv{i}', bottom, outputs) + bn(f'conv{i}', more)
        text += pool(f'pool{i}', f'conv{i}/bn', tops=f'pool{i} pool{i}_mask')
    text += layer(
        'upsample2',
        'Upsample',
        'pool2 pool2_mask',
        'pool2_D',
        more='upsample_param { scale: 2 upsample_w: 8 upsample_h: 9 }',
    )
    text += conv('conv2_D', 'pool2_D', 8)
    text += bn('conv2_D', more)
    text += layer(
        'upsample1',
        'Upsample',
        'conv2_D/bn pool1_mask',
        'pool1_D',
        more='upsample_param { scale: 2 pad_out_w: true }',
    )
    text += conv('conv1_D', 'pool1_D', 3)
    return text + (
        data('label', 2, 1, 18, 15)
        + layer(
            'loss',
            'SoftmaxWithLoss',
            'conv1_D label',
            more="""
        softmax_param { engine: CAFFE } loss_param { weight_by_label_freqs: true ignore_label: 11
        class_weighting: 0.5 class_weighting: 1.5 class_weighting: 2 }""",
        )
        if loss
        else ''
    )


@pytest.mark.parametrize('net, size, ignored', [(pspnet, (33, 33), 255), (segnet, (18, 15), 11)])
def test_segmentation_nets(net, size, ignored, tmp_path):
    images, labels = rng().standard_normal((2, 3, *size)), rng(1).integers(0, 3, (2, 1, *size))
    labels[:, :, 2] = ignored
    trained = train(tmp_path, net(True), {'data': images, 'label': labels})
    every_layer_learned(trained)
    top, shape = ('conv6_interp', (2, 3, 33, 33)) if net is pspnet else ('conv1_D', (2, 3, 18, 15))
    answer = reloaded(tmp_path, trained, net(False)).forward(data=images)[top]
    assert answer.shape == shape and np.isfinite(answer).all()


def test_pspnet_tests_with_the_statistics_it_trained_to(tmp_path):
    """On one batch the running statistics come to be the batch's: both phases answer alike."""
    images, labels = rng().standard_normal((2, 3, 33, 33)), rng(1).integers(0, 3, (2, 1, 33, 33))
    trained = train(tmp_path, pspnet(True), {'data': images, 'label': labels}, steps=1, base_lr=0.001)
    for _ in range(40):
        trained.forward()
    want = trained.blobs['conv6_interp'].data.copy()
    answer = reloaded(tmp_path, trained, pspnet(False)).forward(data=images)['conv6_interp']
    np.testing.assert_allclose(answer, want, rtol=1e-3, atol=1e-4)


# Compact nets


def batch_norm(name):
    return layer(f'{name}/bn', 'BatchNorm', name, name, more='batch_norm_param { eps: 1e-5 }') + layer(
        f'{name}/scale', 'Scale', name, name, more='scale_param { bias_term: true }'
    )


def senet():
    text = conv('conv1', 'data', 8, 'kernel_size: 3 stride: 2 pad: 1')
    text += relu('conv1')
    text += conv('conv2_1_1x1_increase', 'conv1', 16, 'kernel_size: 1 bias_term: false')
    text += batch_norm('conv2_1_1x1_increase')
    text += pool('conv2_1_global_pool', 'conv2_1_1x1_increase', 'pool: AVE global_pooling: true')
    text += conv('conv2_1_1x1_down', 'conv2_1_global_pool', 4, 'kernel_size: 1')
    text += relu('conv2_1_1x1_down')
    text += conv('conv2_1_1x1_up', 'conv2_1_1x1_down', 16, 'kernel_size: 1')
    text += layer('conv2_1_prob', 'Sigmoid', 'conv2_1_1x1_up', 'conv2_1_1x1_up')
    text += conv('conv2_1_1x1_proj', 'conv1', 16, 'kernel_size: 1 bias_term: false')
    text += batch_norm('conv2_1_1x1_proj')
    return (
        text
        + layer('conv2_1', 'Axpy', 'conv2_1_1x1_up conv2_1_1x1_increase conv2_1_1x1_proj')
        + relu('conv2_1')
    )


def shufflenet():
    text = conv('conv1', 'data', 12, 'kernel_size: 3 stride: 2 pad: 1 bias_term: false')
    text += batch_norm('conv1')
    text += relu('conv1')
    text += conv('resx1_conv1', 'conv1', 6, 'kernel_size: 1 group: 3 bias_term: false')
    text += batch_norm('resx1_conv1')
    text += relu('resx1_conv1')
    text += layer('shuffle1', 'ShuffleChannel', 'resx1_conv1', more='shuffle_channel_param { group: 3 }')
    text += conv(
        'resx1_conv2', 'shuffle1', 6, 'bias_term: false kernel_size: 3 pad: 1', 'ConvolutionDepthwise'
    )
    text += batch_norm('resx1_conv2')
    text += conv('resx1_conv3', 'resx1_conv2', 12, 'kernel_size: 1 group: 3 bias_term: false')
    text += batch_norm('resx1_conv3')
    return text + layer('conv2_1', 'Eltwise', 'conv1 resx1_conv3') + relu('conv2_1')


def mobilenet():
    text = conv('conv0', 'data', 8, 'kernel_size: 3 stride: 2 pad: 1 bias_term: false')
    text += batch_norm('conv0')
    text += layer('relu0', 'ReLU6', 'conv0', 'conv0')
    text += conv(
        'conv1/dw',
        'conv0',
        8,
        'kernel_size: 3 pad: 1 group: 8 engine: CAFFE bias_term: false',
        'DepthwiseConvolution',
        'param { lr_mult: 1.0 decay_mult: 1.0 }',
    )
    text += batch_norm('conv1/dw') + layer('relu1', 'ReLU6', 'conv1/dw', 'conv1/dw')
    return text + conv('conv2_1', 'conv1/dw', 16, 'kernel_size: 1 bias_term: false') + batch_norm('conv2_1')


def pvanet():
    """CReLU by composition: the negation joined on, scaled, rectified."""
    text = conv('conv1_1/conv', 'data', 8, 'kernel_size: 3 stride: 2 pad: 1 bias_term: false')
    text += batch_norm('conv1_1/conv')
    text += layer(
        'conv1_1/neg', 'Power', 'conv1_1/conv', more='power_param { power: 1 scale: -1.0 shift: 0 }'
    )
    text += layer('conv1_1/concat', 'Concat', 'conv1_1/conv conv1_1/neg', 'conv1_1')
    text += layer('conv1_1/scale', 'Scale', 'conv1_1', 'conv1_1', more='scale_param { bias_term: true }')
    text += relu('conv1_1')
    return text + conv('conv2_1', 'conv1_1', 16, 'kernel_size: 1')


@pytest.mark.parametrize('body', [senet, shufflenet, mobilenet, pvanet])
def test_compact_nets(body, tmp_path):
    images, labels = rng().standard_normal((4, 3, 24, 24)), rng(1).integers(0, 5, 4)
    trunk = (
        data('data', 4, 3, 24, 24)
        + body()
        + pool('pool6', 'conv2_1', 'pool: AVE global_pooling: true')
        + layer('fc7', 'InnerProduct', 'pool6', more=f'inner_product_param {{ num_output: 5 {FILL} }}')
    )
    net = train(
        tmp_path,
        trunk + data('label', 4) + layer('loss', 'SoftmaxWithLoss', 'fc7 label'),
        {'data': images, 'label': labels},
    )
    every_layer_learned(net)
    test = reloaded(tmp_path, net, trunk + layer('prob', 'Softmax', 'fc7'))
    prob = test.forward(data=images)['prob']
    np.testing.assert_allclose(prob.sum(1), 1, rtol=1e-5)


def test_pvanet_proposes_and_pools(tmp_path):
    """The head of PVANET's test net: RPN, Proposal, ROIPooling, two outputs."""
    text = data('data', 1, 3, 64, 96)
    text += data('im_info', 1, 4) + pvanet()
    text += pool('convf', 'conv2_1', 'pool: MAX kernel_size: 8 stride: 8')
    text += conv('rpn_cls_score', 'convf', 12, 'kernel_size: 1')
    text += conv('rpn_bbox_pred', 'convf', 24, 'kernel_size: 1')
    text += layer(
        'rpn_cls_score_reshape',
        'Reshape',
        'rpn_cls_score',
        more='reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 0 } }',
    )
    text += layer('rpn_cls_prob', 'Softmax', 'rpn_cls_score_reshape')
    text += layer(
        'rpn_cls_prob_reshape',
        'Reshape',
        'rpn_cls_prob',
        more='reshape_param { shape { dim: 0 dim: 12 dim: -1 dim: 0 } }',
    )
    text += layer(
        'proposal',
        'Proposal',
        'rpn_cls_prob_reshape rpn_bbox_pred im_info',
        'rois scores',
        more="""proposal_param {
        ratio: 0.5 ratio: 1.0 ratio: 2.0 scale: 1 scale: 2 base_size: 16 feat_stride: 16
        pre_nms_topn: 100 post_nms_topn: 20 nms_thresh: 0.7 min_size: 8 }""",
    )
    text += layer(
        'roi_pool',
        'ROIPooling',
        'convf rois',
        more='roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 0.0625 }',
    )
    text += layer(
        'cls_score', 'InnerProduct', 'roi_pool', more=f'inner_product_param {{ num_output: 3 {FILL} }}'
    )
    text += layer('cls_prob', 'Softmax', 'cls_score')
    net = net_from(tmp_path, text)
    net.blobs['im_info'].data[...] = [60, 90, 0.5, 0.5]
    net.blobs['data'].data[...] = rng().standard_normal((1, 3, 64, 96))
    answer = net.forward(blobs=['rois', 'scores'])
    rois, count = answer['rois'], len(answer['rois'])
    assert 0 < count <= 20 and answer['scores'].shape == (count,) and answer['cls_prob'].shape == (count, 3)
    assert (rois[:, 1:] >= 0).all() and (rois[:, [1, 3]] <= 89).all() and (rois[:, [2, 4]] <= 59).all()
    assert (np.diff(answer['scores']) <= 0).all()


# Attributes of objects


def attributes(rows, foreground):
    """As bottom-up-attention's train.prototxt from res5c on: attributes are scored of the foreground alone, the
    first rows, given an embedding of its class."""
    text = data('res5c', rows, 8, 7, 7) + data('labels', rows, 1, 1, 1) + data('attr_labels', foreground, 3)
    text += (
        data('bbox_targets', rows, 12, 1, 1)
        + data('inside', rows, 12, 1, 1)
        + data('outside', rows, 12, 1, 1)
    )
    text += pool('pool5', 'res5c', 'pool: AVE global_pooling: true')
    for bottom in 'pool5', 'labels':
        cut = f'slice_param {{ axis: 0 slice_point: {foreground} }}'
        text += layer(f'cut_{bottom}', 'Slice', bottom, f'foreground_{bottom} background_{bottom}', more=cut)
    text += layer('silence', 'Silence', 'background_pool5 background_labels', '')
    text += layer('pool5_flat', 'Flatten', 'foreground_pool5', more='flatten_param { axis: 1 }')
    text += layer(
        'cls_embedding',
        'Embed',
        'foreground_labels',
        more='propagate_down: false embed_param { num_output: 5 input_dim: 3 bias_term: false weight_filler { type: "xavier" } }',
    )
    text += layer('cls_embedding_flat', 'Flatten', 'cls_embedding', more='flatten_param { axis: 1 }')
    text += layer('concat_pool5', 'Concat', 'pool5_flat cls_embedding_flat', more='concat_param { axis: 1 }')
    for name, bottom, outputs in (
        ('cls_score', 'pool5', 3),
        ('bbox_pred', 'pool5', 12),
        ('attr_score', 'concat_pool5', 6),
    ):
        text += layer(
            name, 'InnerProduct', bottom, more=f'inner_product_param {{ num_output: {outputs} {FILL} }}'
        )
    text += layer(
        'loss_cls', 'SoftmaxWithLoss', 'cls_score labels', more='propagate_down: 1 propagate_down: 0'
    )
    text += layer('loss_bbox', 'SmoothL1Loss', 'bbox_pred bbox_targets inside outside', more='loss_weight: 1')
    return text + layer(
        'loss_attr',
        'SoftmaxWithLoss',
        'attr_score attr_labels',
        more="""propagate_down: true propagate_down: false loss_weight: 0.5
        loss_param { ignore_label: -1 normalization: VALID }""",
    )


def test_attributes_of_the_foreground_train(tmp_path):
    """Targets (R, 12, 1, 1) beside predictions (R, 12), labels (R, 1, 1, 1) cut and embedded."""
    weights = np.zeros((10, 12, 1, 1))
    weights[:4, 4:8] = 1
    inputs = {
        'res5c': rng().standard_normal((10, 8, 7, 7)),
        'labels': np.array([1, 2, 1, 1] + 6 * [0]).reshape(10, 1, 1, 1),
        'attr_labels': np.array([[3, 1, -1], [-1, -1, -1], [5, -1, -1], [0, 2, 4]]),
        'bbox_targets': rng(1).standard_normal((10, 12, 1, 1)),
        'inside': weights,
        'outside': weights,
    }
    net = train(tmp_path, attributes(10, 4), inputs)
    every_layer_learned(net)
    assert net.blobs['cls_embedding'].shape == (4, 1, 1, 1, 5)
    assert net.blobs['concat_pool5'].shape == (4, 13)
