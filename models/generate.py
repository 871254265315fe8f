"""Writes the prototxt files under models/: a description per backbone, a function per net, one layer a line.

    python models/generate.py NAME NET --num_classes K [--scales 2 4 8] [--ratios 0.5 1 2] [--max_iters N]
    python models/generate.py --all             the committed ones: the backbones for imagenet and pascal_voc

The files lie in models/NAME/NET/METHOD. Their first line holds a digest of the rest: a file that somebody has
edited is kept as it is (unless --force), any other follows the generator.

Letters: K classes with the background, A anchors per position. `lr` below is how a part learns: 1 it does,
0 it is frozen, None: in a test net, which says nothing of learning. `bn` is the same for BatchNorm and Scale.
"""

import argparse
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger(__name__)

COMMITTED = {'imagenet': 201, 'pascal_voc': 21}  # set -> K
SCALES, RATIOS = (8, 16, 32), (0.5, 1, 2)  # the library's own: no net mentions them
GAMMA = 0.002  # see ResNet.gamma
STRIDE = 16  # of the shared features, in pixels


# --------------------------------------------------------------------------------------------- single layers


def layer(name, kind, bottom, top, *fields):
    """One line; bottom and top are blob names, one or several separated by blanks."""
    blobs = [f'bottom: "{b}"' for b in bottom.split()] + [f'top: "{t}"' for t in top.split()]
    return ' '.join(['layer {', f'name: "{name}" type: "{kind}"', *blobs, *filter(None, fields), '}'])


def rates(lr, blobs='wb'):
    """The param fields of weights (w), of a bias (b), which learns twice as fast and does not decay, or of
    Scale's gamma and beta (g), which do not decay either."""
    if lr is None:
        return ''
    mults = {'w': (lr, lr), 'b': (2 * lr, 0), 'g': (lr, 0)}
    return ' '.join('param { lr_mult: %d decay_mult: %d }' % mults[b] for b in blobs)


def conv(name, bottom, outputs, kernel, lr, stride=1, pad=0, bias=True, std=None, top=None):
    """Convolution; filled as He et al. 2015 unless std, of a Gaussian, is given."""
    filler = 'type: "msra"' if std is None else f'type: "gaussian" std: {std}'
    shape = f'num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad}'
    shape += '' if bias else ' bias_term: false'
    return layer(
        name,
        'Convolution',
        bottom,
        top or name,
        rates(lr, 'wb' if bias else 'w'),
        f'convolution_param {{ {shape} weight_filler {{ {filler} }} }}',
    )


def inner_product(name, bottom, outputs, lr, filler):
    return layer(
        name,
        'InnerProduct',
        bottom,
        name,
        rates(lr),
        f'inner_product_param {{ num_output: {outputs} weight_filler {{ {filler} }} }}',
    )


def relu(name, blob):
    return layer(name, 'ReLU', blob, blob)


def pool(name, bottom, kind, kernel, stride, *fields):
    shape = ' '.join([f'pool: {kind} kernel_size: {kernel} stride: {stride}', *fields])
    return layer(name, 'Pooling', bottom, name, f'pooling_param {{ {shape} }}')


def python(name, kind, bottom, top, param_str):
    """kind: module and class, as in rpn.proposal_layer.ProposalLayer."""
    module, _, cls = kind.rpartition('.')
    return layer(
        name,
        'Python',
        bottom,
        top,
        f'python_param {{ module: "{module}" layer: "{cls}" param_str: "{param_str}" }}',
    )


def reshape(bottom, channels):
    """(1, 2A, H, W) -> (1, 2, A H, W), the scores of background and of object, and back."""
    return layer(
        bottom + '_reshape',
        'Reshape',
        bottom,
        bottom + '_reshape',
        f'reshape_param {{ shape {{ dim: 0 dim: {channels} dim: -1 dim: 0 }} }}',
    )


def softmax_loss(name, bottom, *fields):
    return layer(
        name,
        'SoftmaxWithLoss',
        bottom,
        name,
        'propagate_down: true propagate_down: false loss_weight: 1',
        *fields,
    )


def smooth_l1_loss(name, bottom, *fields):
    return layer(name, 'SmoothL1Loss', bottom, name, 'loss_weight: 1', *fields)


def silence(blob):
    return layer('silence_' + blob, 'Silence', blob, '')


# ------------------------------------------------------------------------------------------------- backbones


@dataclass(frozen=True)
class Backbone:
    """A net cut in two: trunk(lr), shared, at stride 16, ends in the blob `features` with `channels`
    channels; head(bottom, lr, bn), on RoIs pooled to pooled x pooled, in the blob `head_top`."""

    prefix: str  # of snapshots
    base_lr: float = 0.001
    rpn_conv: str = 'rpn_conv/3x3'
    rpn_relu: str = 'rpn_relu/3x3'
    rpn_top: str = 'rpn/output'
    rpn_outputs: int = 512


@dataclass(frozen=True)
class ResNet(Backbone):
    """He et al. 2015 (arXiv 1512.03385), table 1: conv1 to res4 are shared, res5 runs on every RoI.

    Layers have the names, and blocks the stride (in the first 1x1), of the nets that its authors published.
    torchvision: the stride is in the 3x3, and pool1 is padded and rounds down. conv1, res2 and res3 are
    frozen, and so are BatchNorm and Scale everywhere; scratch: everything learns.
    """

    blocks: tuple = (3, 4, 6, 3)  # res2 ... res5
    widths: tuple = (64, 128, 256, 512)
    bottleneck: bool = True  # 1x1, 3x3, 1x1 with 4 times the width; else two 3x3
    conv1_outputs: int = 64
    conv1_bias: bool = False  # the published ResNet-50 has one, ResNet-101 has none
    torchvision: bool = False
    scratch: bool = False
    pooled: int = 14
    head_top = 'pool5'
    roi_pool = 'roi_pool'

    @property
    def features(self):
        return self.block_names(4)[-1]

    @property
    def channels(self):
        return self.widths[2] * self.expansion

    @property
    def expansion(self):
        return 4 if self.bottleneck else 1

    def block_names(self, stage):
        """res4a, res4b ... or, in the long stages of the deep nets, res4a, res4b1, res4b2 ..."""
        count = self.blocks[stage - 2]
        numbered = count > 3 and max(self.blocks) > 8
        return [f'res{stage}' + (f'b{i}' if i and numbered else 'abcdefgh'[i]) for i in range(count)]

    def trunk(self, lr):
        early = lr if self.scratch else lr and 0
        padding = ['pad: 1', 'ceil_mode: false'] if self.torchvision else []
        lines = [
            *self.unit('conv1', 'data', self.conv1_outputs, 7, 2, early, early, bias=self.conv1_bias),
            relu('conv1_relu', 'conv1'),
            pool('pool1', 'conv1', 'MAX', 3, 2, *padding),
        ]
        lines += self.stage(2, 'pool1', early, early)
        lines += self.stage(3, self.block_names(2)[-1], early, early)
        return lines + self.stage(4, self.block_names(3)[-1], lr, lr)

    def head(self, bottom, lr, bn):
        size = (self.pooled + 1) // 2
        return self.stage(5, bottom, lr, bn) + [pool('pool5', self.block_names(5)[-1], 'AVE', size, 1)]

    def stage(self, stage, bottom, lr, bn):
        """The first block of a stage halves the map (not in res2) and projects where it changes the shape."""
        lines, width = [], self.widths[stage - 2]
        for i, name in enumerate(self.block_names(stage)):
            stride = 2 if i == 0 and stage > 2 else 1
            before = self.conv1_outputs if stage == 2 else self.widths[stage - 3] * self.expansion
            project = i == 0 and (stride > 1 or before != width * self.expansion)
            lines += self.block(name, bottom, width, stride, project, lr, bn)
            bottom = name
        return lines

    def block(self, name, bottom, width, stride, project, lr, bn):
        lines, shortcut = [], bottom
        if project:
            shortcut = name + '_branch1'
            lines += self.unit(shortcut, bottom, width * self.expansion, 1, stride, lr, bn)
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        strided = kernels.index(3) if self.torchvision else 0
        for i, kernel in enumerate(kernels):
            last, top = i == len(kernels) - 1, f'{name}_branch2{"abc"[i]}'
            outputs = width * (self.expansion if last else 1)
            lines += self.unit(top, bottom, outputs, kernel, stride if i == strided else 1, lr, bn)
            lines += [] if last else [relu(top + '_relu', top)]
            bottom = top
        return lines + [layer(name, 'Eltwise', f'{shortcut} {bottom}', name), relu(name + '_relu', name)]

    def unit(self, name, bottom, outputs, kernel, stride, lr, bn, bias=False):
        """Convolution, BatchNorm, Scale."""
        suffix = '_' + name if name == 'conv1' else name.removeprefix('res')
        bn = bn if self.scratch else bn and 0
        stats = 'use_global_stats: false moving_average_fraction: 0.99' if bn else 'use_global_stats: true'
        return [
            conv(name, bottom, outputs, kernel, lr, stride, kernel // 2, bias),
            layer(
                'bn' + suffix,
                'BatchNorm',
                name,
                name,
                rates(bn and 0, 'www'),
                f'batch_norm_param {{ {stats} }}',
            ),
            layer(
                'scale' + suffix,
                'Scale',
                name,
                name,
                rates(bn, 'gg'),
                f'scale_param {{ bias_term: true{self.gamma} }}',
            ),
        ]

    @property
    def gamma(self):
        """Without weights the frozen BatchNorm has variance 0 and multiplies by 1 / sqrt(1e-5): a Scale that
        starts small keeps such a net finite through all its blocks."""
        return '' if self.scratch else f' filler {{ value: {GAMMA} }}'


@dataclass(frozen=True)
class PlainNet(Backbone):
    """Convolutions and pooling, then fc6 and fc7 on every RoI."""

    features: str = ''
    channels: int = 0
    pooled: int = 7
    roi_pool: str = 'roi_pool5'
    dropout: str = 'dropout_ratio: 0.5'
    head_top = 'fc7'

    def head(self, bottom, lr, bn):
        lines = []
        for i in '67':
            top = 'fc' + i
            lines += [inner_product(top, bottom, 4096, lr, 'type: "xavier"'), relu('relu' + i, top)]
            if lr != 0:
                lines.append(layer('drop' + i, 'Dropout', top, top, f'dropout_param {{ {self.dropout} }}'))
            bottom = top
        return lines


class VGG16(PlainNet):
    """Simonyan and Zisserman 2014 (arXiv 1409.1556), configuration D. conv1_1 to conv2_2 are frozen."""

    def trunk(self, lr):
        lines, bottom = [], 'data'
        for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
            learn = lr if stage > 2 else lr and 0
            for i in range(1, count + 1):
                top = f'conv{stage}_{i}'
                lines += [conv(top, bottom, width, 3, learn, pad=1), relu(f'relu{stage}_{i}', top)]
                bottom = top
            if stage < 5:
                bottom = f'pool{stage}'
                lines.append(pool(bottom, top, 'MAX', 2, 2))
        return lines


class ZF(PlainNet):
    """Zeiler and Fergus 2013 (arXiv 1311.2901), as in SPP-net. Nothing is frozen; Dropout scales at test."""

    def trunk(self, lr):
        norm = 'lrn_param { local_size: 3 alpha: 0.00005 beta: 0.75 norm_region: WITHIN_CHANNEL }'
        return [
            conv('conv1', 'data', 96, 7, lr, 2, 3),
            relu('relu1', 'conv1'),
            layer('norm1', 'LRN', 'conv1', 'norm1', norm),
            pool('pool1', 'norm1', 'MAX', 3, 2, 'pad: 1'),
            conv('conv2', 'pool1', 256, 5, lr, 2, 2),
            relu('relu2', 'conv2'),
            layer('norm2', 'LRN', 'conv2', 'norm2', norm),
            pool('pool2', 'norm2', 'MAX', 3, 2, 'pad: 1'),
            conv('conv3', 'pool2', 384, 3, lr, pad=1),
            relu('relu3', 'conv3'),
            conv('conv4', 'conv3', 384, 3, lr, pad=1),
            relu('relu4', 'conv4'),
            conv('conv5', 'conv4', 256, 3, lr, pad=1),
            relu('relu5', 'conv5'),
        ]


BACKBONES = {
    'ResNet-101': ResNet('resnet101', blocks=(3, 4, 23, 3)),
    'ResNet-50': ResNet('resnet50', conv1_bias=True),
    'ResNet-101-torchvision': ResNet('resnet101', blocks=(3, 4, 23, 3), torchvision=True),
    'ResNet-50-torchvision': ResNet('resnet50', torchvision=True),
    'ResNet-10': ResNet(
        'resnet10',
        base_lr=0.01,
        rpn_outputs=256,
        blocks=(1, 1, 1, 1),
        conv1_outputs=32,
        widths=(32, 64, 128, 256),
        bottleneck=False,
        scratch=True,
        pooled=7,
    ),
    'VGG16': VGG16('vgg16', features='conv5_3', channels=512),
    'ZF': ZF(
        'zf',
        rpn_conv='rpn_conv1',
        rpn_relu='rpn_relu1',
        rpn_top='rpn_conv1',
        rpn_outputs=256,
        features='conv5',
        channels=256,
        pooled=6,
        roi_pool='roi_pool_conv5',
        dropout='dropout_ratio: 0.5 scale_train: false',
    ),
}
COMMITTED_NETS = ('ResNet-101', 'ResNet-50', 'VGG16', 'ZF', 'ResNet-10')


# ------------------------------------------------------------------------------------------------------ nets

IMAGE_AND_BOXES = 'data im_info gt_boxes'
BBOX_BLOBS = 'bbox_targets bbox_inside_weights bbox_outside_weights'
RPN_BBOX_BLOBS = 'rpn_bbox_targets rpn_bbox_inside_weights rpn_bbox_outside_weights'
DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }'
IM_INFO = 'input: "im_info" input_shape { dim: 1 dim: 3 }'
ROIS = 'input: "rois" input_shape { dim: 1 dim: 5 }'


@dataclass(frozen=True)
class Detector:
    """The nets of all methods for one backbone, K classes, one set of anchors: parts, then whole nets."""

    net: Backbone
    classes: int  # K
    scales: tuple = SCALES
    ratios: tuple = RATIOS

    @property
    def anchors(self):  # A
        return len(self.scales) * len(self.ratios)

    @property
    def anchor_param(self):
        """param_str of the layers that lay anchors out; its \\n is the prototxt's, for a new line of YAML."""
        parts = [f"'feat_stride': {STRIDE}"]
        parts += [f"'scales': {list(self.scales)}"] if self.scales != SCALES else []
        parts += [f"'ratios': {list(self.ratios)}"] if self.ratios != RATIOS else []
        return r' \n'.join(parts)

    @property
    def class_param(self):
        return f"'num_classes': {self.classes}"

    def data(self, name, tops):
        return [python(name, 'roi_data_layer.layer.RoIDataLayer', '', tops, self.class_param)]

    def rpn(self, lr):
        net = self.net
        return [
            conv(net.rpn_conv, net.features, net.rpn_outputs, 3, lr, pad=1, std=0.01, top=net.rpn_top),
            relu(net.rpn_relu, net.rpn_top),
            conv('rpn_cls_score', net.rpn_top, 2 * self.anchors, 1, lr, std=0.01),
            conv('rpn_bbox_pred', net.rpn_top, 4 * self.anchors, 1, lr, std=0.01),
        ]

    def rpn_unused(self):
        """The RPN in a Fast R-CNN net, frozen, so that a snapshot holds all parameters."""
        return [*self.rpn(0), silence('rpn_cls_score'), silence('rpn_bbox_pred')]

    def rpn_loss(self):
        return [
            reshape('rpn_cls_score', 2),
            python(
                'rpn-data',
                'rpn.anchor_target_layer.AnchorTargetLayer',
                'rpn_cls_score gt_boxes im_info data',
                f'rpn_labels {RPN_BBOX_BLOBS}',
                self.anchor_param,
            ),
            softmax_loss(
                'rpn_loss_cls',
                'rpn_cls_score_reshape rpn_labels',
                'loss_param { ignore_label: -1 normalize: true }',
            ),
            smooth_l1_loss(
                'rpn_loss_bbox', f'rpn_bbox_pred {RPN_BBOX_BLOBS}', 'smooth_l1_loss_param { sigma: 3.0 }'
            ),
        ]

    def proposal(self, tops):
        return [
            layer('rpn_cls_prob', 'Softmax', 'rpn_cls_score_reshape', 'rpn_cls_prob'),
            reshape('rpn_cls_prob', 2 * self.anchors),
            python(
                'proposal',
                'rpn.proposal_layer.ProposalLayer',
                'rpn_cls_prob_reshape rpn_bbox_pred im_info',
                tops,
                self.anchor_param,
            ),
        ]

    def head(self, lr, bn):
        """RoI pooling, the net's head, class scores and boxes."""
        net = self.net
        size = f'pooled_w: {net.pooled} pooled_h: {net.pooled} spatial_scale: {1 / STRIDE}'
        return [
            layer(
                net.roi_pool,
                'ROIPooling',
                f'{net.features} rois',
                net.roi_pool,
                f'roi_pooling_param {{ {size} }}',
            ),
            *net.head(net.roi_pool, lr, bn),
            inner_product('cls_score', net.head_top, self.classes, lr, 'type: "gaussian" std: 0.01'),
            inner_product('bbox_pred', net.head_top, 4 * self.classes, lr, 'type: "gaussian" std: 0.001'),
        ]

    def head_unused(self):
        """The head in an RPN net, fed by noise and frozen, so that a snapshot holds all parameters."""
        net = self.net
        shape = f'shape {{ dim: 1 dim: {net.channels} dim: {net.pooled} dim: {net.pooled} }}'
        return [
            layer(
                'dummy_roi_pool',
                'DummyData',
                '',
                'dummy_roi_pool',
                f'dummy_data_param {{ {shape} data_filler {{ type: "gaussian" std: 0.01 }} }}',
            ),
            *net.head('dummy_roi_pool', 0, 0),
            silence(net.head_top),
        ]

    def head_loss(self):
        return [
            softmax_loss('loss_cls', 'cls_score labels'),
            smooth_l1_loss('loss_bbox', f'bbox_pred {BBOX_BLOBS}'),
        ]

    def cls_prob(self):
        return [layer('cls_prob', 'Softmax', 'cls_score', 'cls_prob')]

    def rpn_train(self, stage):
        return [
            *self.data('input-data', IMAGE_AND_BOXES),
            *self.net.trunk(int(stage == 1)),
            *self.rpn(1),
            *self.rpn_loss(),
            *self.head_unused(),
        ]

    def fast_rcnn_train(self, stage, rpn=True):
        learn = int(stage == 1)
        return [
            *self.data('data', f'data rois labels {BBOX_BLOBS}'),
            *self.net.trunk(learn),
            *self.head(1, learn),
            *self.head_loss(),
            *(self.rpn_unused() if rpn else []),
        ]

    def end2end_train(self):
        """Approximate joint training: the head takes proposals as given, no gradient goes to them."""
        targets = python(
            'roi-data',
            'rpn.proposal_target_layer.ProposalTargetLayer',
            'rpn_rois gt_boxes',
            f'rois labels {BBOX_BLOBS}',
            self.class_param,
        )
        return [
            *self.data('input-data', IMAGE_AND_BOXES),
            *self.net.trunk(1),
            *self.rpn(1),
            *self.rpn_loss(),
            *self.proposal('rpn_rois'),
            targets,
            *self.head(1, 1),
            *self.head_loss(),
        ]

    def rpn_test(self, tops='rois scores'):
        return [
            DATA,
            IM_INFO,
            *self.net.trunk(None),
            *self.rpn(None),
            reshape('rpn_cls_score', 2),
            *self.proposal(tops),
        ]

    def fast_rcnn_test(self):
        return [DATA, ROIS, *self.net.trunk(None), *self.head(None, None), *self.cls_prob()]

    def faster_rcnn_test(self):
        return [*self.rpn_test('rois'), *self.head(None, None), *self.cls_prob()]


# ----------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Schedule:
    """Iterations after which the learning rate falls to a tenth."""

    stages: tuple  # RPN and Fast R-CNN of stage 1, the same of stage 2
    fast_rcnn: int
    end2end: int
    end2end_images: int = 1  # images an update sees, end to end


IMAGENET = Schedule((240000,) * 4, 240000, 240000)  # of 320k: He et al. 2015, appendix A
PASCAL_VOC = Schedule((60000, 30000, 60000, 30000), 30000, 50000, 2)  # of 80k, 40k and, end to end, 70k


def schedule(set_name, max_iters=None):
    """The schedule of a set. max_iters, one number or one per stage: the rate falls after three quarters of
    them, as in the published schedules; fast_rcnn goes by the second stage, end2end by the longest."""
    if max_iters is None:
        return IMAGENET if set_name == 'imagenet' else PASCAL_VOC
    iters = (max_iters,) * 4 if isinstance(max_iters, int) else tuple(max_iters)
    if len(iters) != 4 or min(iters) < 1:
        raise ValueError(f'max_iters wants one number or four, all positive, got {max_iters}')
    steps = tuple(max(1, 3 * n // 4) for n in iters)
    return Schedule(steps, steps[1], max(steps))


def solver(train_net, prefix, base_lr, step, *fields):
    return [
        f'train_net: "{train_net}"',
        f'base_lr: {base_lr}',
        'lr_policy: "step"',
        'gamma: 0.1',
        f'stepsize: {step}',
        'display: 20',
        'average_loss: 100',
        'momentum: 0.9',
        'weight_decay: 0.0005',
        '# the training tools write snapshots, and set iter_size where TRAIN.REAL_BATCH_SIZE asks for it',
        'snapshot: 0',
        f'snapshot_prefix: "{prefix}"',
        *fields,
    ]


def alt_opt(detector, plan, folder):
    """{file name: lines}. Stage 2 starts from stage 1 and moves only what is not shared."""
    net, files, steps = detector.net, {}, iter(plan.stages)
    for stage in 1, 2:
        for kind, iters, lines in (
            ('rpn', '60k80k', detector.rpn_train(stage)),
            ('fast_rcnn', '30k40k', detector.fast_rcnn_train(stage)),
        ):
            name = f'stage{stage}_{kind}'
            files[f'{name}_train.pt'] = lines
            files[f'{name}_solver{iters}.pt'] = solver(
                f'{folder}/{name}_train.pt', f'{net.prefix}_{kind}', net.base_lr, next(steps)
            )
    return {
        **files,
        'rpn_test.pt': detector.rpn_test(),
        'fast_rcnn_test.pt': detector.fast_rcnn_test(),
        'faster_rcnn_test.pt': detector.faster_rcnn_test(),
    }


def end2end(detector, plan, folder):
    net = detector.net
    return {
        'train.prototxt': detector.end2end_train(),
        'test.prototxt': detector.faster_rcnn_test(),
        'solver.prototxt': solver(
            f'{folder}/train.prototxt',
            f'{net.prefix}_faster_rcnn',
            net.base_lr,
            plan.end2end,
            f'iter_size: {plan.end2end_images}',
        ),
    }


def fast_rcnn(detector, plan, folder):
    net = detector.net
    return {
        'train.prototxt': detector.fast_rcnn_train(1, rpn=False),
        'test.prototxt': detector.fast_rcnn_test(),
        'solver.prototxt': solver(
            f'{folder}/train.prototxt', f'{net.prefix}_fast_rcnn', net.base_lr, plan.fast_rcnn
        ),
    }


METHODS = {'faster_rcnn_alt_opt': alt_opt, 'faster_rcnn_end2end': end2end, 'fast_rcnn': fast_rcnn}


def files(set_name, net, num_classes, out_root=ROOT / 'models', anchors=None, max_iters=None):
    """{path: text} of all nets and solvers of one backbone. num_classes K counts the background; anchors: a
    mapping with 'scales' and 'ratios', either optional; max_iters: see schedule. Errors: ValueError."""
    if net not in BACKBONES:
        raise ValueError(f'unknown net {net!r}; the nets are {", ".join(BACKBONES)}')
    if num_classes < 2:
        raise ValueError(f'num_classes counts the background too, so it is at least 2; got {num_classes}')
    given = dict(anchors or {})
    scales, ratios = tuple(given.pop('scales', None) or SCALES), tuple(given.pop('ratios', None) or RATIOS)
    if given:
        raise ValueError(f'anchors have scales and ratios, not {", ".join(map(str, given))}')
    detector = Detector(BACKBONES[net], num_classes, scales, ratios)
    texts = {}
    for method, make in METHODS.items():
        folder = Path(out_root) / set_name / net / method
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        for name, lines in make(detector, schedule(set_name, max_iters), shown.as_posix()).items():
            title = [] if 'solver' in name else [f'name: "{net} {method} {Path(name).stem}"']
            texts[folder / name] = _signed('\n'.join(title + lines) + '\n')
    return texts


def generate(set_name, net, num_classes, out_root=ROOT / 'models', anchors=None, max_iters=None, force=False):
    """Write the files of `files` that are missing or not up to date; returns the paths written. One that was
    edited by hand stays, with a warning, unless force."""
    written = []
    for path, text in files(set_name, net, num_classes, out_root, anchors, max_iters).items():
        old = path.read_text() if path.exists() else None
        if old == text:
            continue
        if old is not None and not force and old != _signed(old.partition('\n')[2]):
            logger.warning('%s was edited by hand and is kept; --force overwrites it', path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f'.{path.name}.{os.getpid()}')
        temporary.write_text(text)
        os.replace(temporary, path)
        written.append(path)
    return written


def _signed(body):
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    return f'# Written by models/generate.py, digest {digest}; once edited, it is kept as it is.\n{body}'


def main(argv=None):
    parser = argparse.ArgumentParser(description='Write the prototxt files of a dataset and a backbone.')
    parser.add_argument('name', nargs='?', help='the folder under models/: the dataset')
    parser.add_argument('net', nargs='?', help=', '.join(BACKBONES))
    parser.add_argument('--num_classes', type=int, help='classes, the background counted')
    parser.add_argument('--scales', type=float, nargs='+', help='anchor sides in 16 pixels (8 16 32)')
    parser.add_argument('--ratios', type=float, nargs='+', help='anchor heights / widths (0.5 1 2)')
    parser.add_argument('--max_iters', type=int, nargs='+', help='iterations of training, one number or four')
    parser.add_argument('--force', action='store_true', help='overwrite files that were edited, too')
    parser.add_argument('--all', action='store_true', help='the committed files, nothing else')
    args = parser.parse_args(argv)
    if args.all:
        jobs = [(name, net, classes) for name, classes in COMMITTED.items() for net in COMMITTED_NETS]
        written = [path for job in jobs for path in generate(*job, force=args.force)]
    else:
        if not (args.name and args.net and args.num_classes):
            parser.error('NAME, NET and --num_classes are needed, or --all')
        iters = args.max_iters[0] if args.max_iters and len(args.max_iters) == 1 else args.max_iters
        anchors = {'scales': _plain(args.scales), 'ratios': _plain(args.ratios)}
        try:
            written = generate(
                args.name, args.net, args.num_classes, anchors=anchors, max_iters=iters, force=args.force
            )
        except ValueError as error:
            parser.error(str(error))
    print(f'{len(written)} files written')


def _plain(numbers):
    return [int(n) if n == int(n) else n for n in numbers or ()]


if __name__ == '__main__':
    main()
