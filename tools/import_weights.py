#!/usr/bin/env python3
"""Turn weights of torchvision (.pth), tensorpack (.npz) or Detectron (.pkl) into a .caffemodel.

A state_dict of torchvision becomes a .caffemodel: of ResNet-18, 34, 50, 101 or VGG16, to train from, or of
fasterrcnn_resnet18/34/50/101_fpn, with the prototxt of the net that answers as it does. So too guoruoqian/DetNet_pytorch's
detnet59.pth, and checkpoints of its detector; tensorpack's FasterRCNN models and classifiers (.npz), and Detectron's (.pkl).

torchvision's nets see RGB in 0..1, less a mean and over a standard deviation per channel; nets here see BGR
in 0..255 less cfg.PIXEL_MEANS. The first convolution takes up both: its weights are reordered and scaled, and
what remains, a constant per output, goes where it is exact: bn_conv1's mean, conv1_1's bias. Only zero
padding differs: it stands for a pixel that is off by 0.006 to 0.016 standard deviations of its channel.
Measured with random weights, at 160x192: ResNet-50's conv1 is off by 0.3 % of its largest value in the two
outermost rows and columns, and equal inside; res4f is off by 0.03 %. A detector, and DetNet-59, is imported for
torchvision's own means, with which nothing differs: experiments/cfgs/faster_rcnn_end2end_torchvision.yml and
faster_rcnn_end2end_detnet.yml have them as PIXEL_MEANS, and weights to train from by the former are made with --cfg.
BatchNorm stays, as BatchNorm and Scale, and so does a detector's FrozenBatchNorm: the constant under its root becomes that
of BatchNorm (see --eps).
"""

import argparse
import os
import pickle
import re
import sys
from types import SimpleNamespace

import _command
import numpy as np
import torch
from netgen.backbones import BACKBONES, starting_from
from netgen.files import end2end_text
from netgen.layers import inner_product, layer
from netgen.methods import DATA

from caffe.format.weights import write_weights
from converters import detectron, tensorpack
from datasets.coco import CATEGORIES
from fast_rcnn.config import cfg, cfg_from_file, overrides
from fast_rcnn.sidecar import write_sidecar
from pipeline.settings import cfg_files
from utils.files import atomic_path

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # torchvision's, RGB
WANTED = "wanted torchvision's ResNet-18, 34, 50, 101 or VGG16, or DetNet-59"
DETNET = 'DetNet-59-FPN'
OWN_MEANS = 255 * MEAN[::-1]  # BGR
# Blocks of its layers, whether they are bottlenecks: the detector; it starts from the ResNet's weights
DETECTORS = {
    ((2, 2, 2, 2), False): 'ResNet-18-FPN',
    ((3, 4, 6, 3), False): 'ResNet-34-FPN',
    ((3, 4, 6, 3), True): 'ResNet-50-FPN',
    ((3, 4, 23, 3), True): 'ResNet-101-FPN',
    ((3, 4, 6, 3, 3), True): DETNET,
}
EPS = 1e-5  # under the root, in Caffe's BatchNorm and, unless overwritten, in torchvision's
VGG16 = [f'conv{stage}_{i + 1}' for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(count)]


COCO_IDS = 91  # COCO's category ids end with 90; 0 is the background
COCO_CLASSES = 1 + len(CATEGORIES)
OTHERS = {'.npz': tensorpack, '.pkl': detectron}  # whose weights files of other endings are


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.splitlines()[0])
    parser.add_argument(
        'source',
        metavar='FILE',
        help='a state_dict as torchvision publishes it, or an .npz or .pkl, by its ending',
    )
    parser.add_argument(
        'target', metavar='CAFFEMODEL', nargs='?', help='default: data/imagenet_models/NET.caffemodel'
    )
    parser.add_argument(
        '--eps',
        type=float,
        default=EPS,
        help="a detector's FrozenBatchNorm divides by the root of the variance and this; 0 in torchvision's own "
        'COCO_V1 weights (%(default)s)',
    )
    parser.add_argument(
        '--cfg',
        metavar='FILE',
        help='the settings to train from them by: their PIXEL_MEANS (default: those of the first net that starts from them)',
    )
    parser.add_argument(
        '--coco',
        action='store_true',
        help="of a detector's 91 classes, COCO's category ids, keep those of the 80 that there are, as the coco_* imdbs "
        'have them: probabilities are then those among these. Of a detector of 81: they are those',
    )
    parser.add_argument(
        '--stride',
        choices=('1x1', '3x3'),
        help="which convolution of a block has it, in tensorpack's (BACKBONE.STRIDE_1X1; default 3x3) and Detectron's "
        '(RESNETS.STRIDE_1X1; default 1x1)',
    )
    parser.add_argument(
        '--tf_pad',
        action='store_true',
        help='a model of tensorpack that was trained with BACKBONE.TF_PAD_MODE=True',
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    other = OTHERS.get(os.path.splitext(args.source)[1])
    if other:
        return import_other(other, args)
    try:
        state = read_state(args.source)
        own = is_detector(state) or is_detnet(state)
        if own:
            means = OWN_MEANS
        else:
            means = means_of([args.cfg]) if args.cfg else default_means(state)
        net, rows = convert(state, means, args.eps)
        rows = of_coco(rows) if args.coco else rows
    except (OSError, ValueError) as error:
        sys.exit(f'{args.source}: {error}')
    target = write(args.target, rows, net)
    print(
        f'{target}: {len(rows)} layers for the net {net}; it looks at BGR pixels less PIXEL_MEANS '
        f"{[round(float(mean), 4) for mean in means]}; torchvision's mean {MEAN.tolist()} and deviation "
        f'{STD.tolist()} of RGB are in its first convolution'
    )
    if own:
        prototxt = os.path.splitext(target)[0] + '.prototxt'
        write_prototxt(prototxt, net, rows)
        if args.coco:
            print(write_coco_sidecar(target, net))
        trained, classes = (net, classes_of(rows)) if net in BACKBONES else (DETNET, 'K')
        print(
            f'{prototxt}: its net, of {classes_of(rows)} classes; to train it\n'
            f'python models/generate.py NAME {trained} --num_classes {classes}'
        )
    elif net != 'VGG16':
        print(
            f"{net} has torchvision's strides, in the 3x3 convolutions. Nets that start from it: "
            f'{", ".join(starting_from(net))}\npython models/generate.py NAME NET --num_classes K'
        )
        for other in starting_from(net):
            if not np.array_equal(means_of(recipe_of(other)), means):
                print(f'The recipe of {other} has other PIXEL_MEANS; for it: --cfg {recipe_of(other)[0]}')


def write(target, rows, net):
    """Writes the .caffemodel of imported rows -> its path, by default in data/imagenet_models."""
    target = target or os.path.join(cfg.DATA_DIR, 'imagenet_models', net + '.caffemodel')
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    write_weights(target, rows, net)
    return target


def import_other(project, args):
    """Of tensorpack or Detectron."""
    stride = {'stride_1x1': args.stride == '1x1'} if args.stride else {}
    try:
        found = project.convert(project.read(args.source), args.tf_pad, **stride)
        if args.coco and (not found.is_detector or classes_of(found.rows) != COCO_CLASSES):
            raise ValueError(f'--coco wants a detector of {COCO_CLASSES} classes')
    except (OSError, ValueError) as error:
        sys.exit(f'{args.source}: {str(error).removeprefix(f"{args.source}: ")}')
    target = write(args.target, [(*row, [], []) for row in found.rows], found.net)
    means = [round(float(mean), 4) for mean in found.means]
    print(
        f'{target}: {len(found.rows)} layers for the net {found.net}; it looks at BGR pixels less PIXEL_MEANS {means}'
    )
    if found.left_out:
        print(f'left out, which {found.net} has no place for: {", ".join(found.left_out)}')
    if not found.is_detector:
        print(f'Nets that start from it: {", ".join(starting_from(found.net))}')
        return
    prototxt = os.path.splitext(target)[0] + '.prototxt'
    write_prototxt(prototxt, found.net, found.rows, found.backbone)
    print(f'{prototxt}: its net, of {classes_of(found.rows)} classes')
    if args.coco:
        print(write_coco_sidecar(target, found.net))


def means_of(cfg_files):
    """The PIXEL_MEANS (3,) of settings files."""
    with overrides({}):
        for path in cfg_files:
            cfg_from_file(path)
        return cfg.PIXEL_MEANS.ravel()


def recipe_of(net):
    """The settings files that a net trains by, end to end."""
    return cfg_files('faster_rcnn_end2end', net, BACKBONES[net].boxes, None)


def default_means(state):
    """The PIXEL_MEANS of the first net that starts from a classifier."""
    detector = DETECTORS.get(_shape(state))
    return means_of(recipe_of(starting_from(BACKBONES[detector].weights)[0]) if detector else [])


def read_state(path):
    """A .pth file, a state_dict or a checkpoint with one as its `model` -> {name: float32 array}. Only tensors and plain
    containers are unpickled. Errors: OSError, ValueError."""
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f'cannot be read as a state_dict: {str(error).splitlines()[0]}') from error
    if isinstance(state, dict) and isinstance(state.get('model'), dict):
        state = state['model']
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError('wanted a state_dict, a mapping of names to tensors')
    return {
        name: value.float().numpy()
        for name, value in state.items()
        if not name.endswith('num_batches_tracked')
    }


def is_detector(state):
    return 'backbone.body.conv1.weight' in state


def is_detnet(state):
    return 'RCNN_rpn.RPN_Conv.weight' in state or 'layer4.0.extra_conv.0.weight' in state


SCORES = 'cls_score', 'stage1_cls_score', 'fc1000'


def classes_of(rows):
    """Those that imported rows tell apart: of a detector, with the background."""
    return next(len(arrays[0]) for name, _, arrays, *_ in rows if name in SCORES)


def of_coco(rows):
    """Imported rows of a detector that scores the background and COCO's category ids 1 to 90 -> those of the classes that
    datasets.coco has. ValueError for another number of classes."""
    if classes_of(rows) != COCO_IDS:
        raise ValueError(f'--coco wants a detector of {COCO_IDS} classes, got {classes_of(rows)}')
    kept = [0, *CATEGORIES]
    return [
        (name, kind, [of_classes(array, kept) for array in arrays], *more)
        if name in ('bbox_pred', 'mask_score') or name.endswith('cls_score')
        else (name, kind, arrays, *more)
        for name, kind, arrays, *more in rows
    ]


def of_classes(array, kept):
    """(91 n, ...) -> what belongs to the classes that are kept, (n, ...) of each."""
    return array.reshape(COCO_IDS, -1, *array.shape[1:])[kept].reshape(-1, *array.shape[1:])


def write_coco_sidecar(target, net):
    """What lets a detector of COCO's classes be used without the dataset -> its path."""
    with overrides({}):
        for path in cfg_files('faster_rcnn_end2end', net, BACKBONES[net].boxes, 'coco'):
            cfg_from_file(path)
        return write_sidecar(target, SimpleNamespace(class_names=('__background__', *CATEGORIES.values())))


def write_prototxt(path, net, rows, backbone=None):
    """The net that imported rows are of: a detector's test net, or DetNet-59 as it classifies."""
    if net in BACKBONES:
        masks = any(name == 'mask_score' for name, *_ in rows)
        text = end2end_text(net, classes_of(rows), 'test.prototxt', masks, backbone)
    else:
        text = '\n'.join(classifier(BACKBONES[DETNET].body, classes_of(rows))) + '\n'
    with atomic_path(path) as temporary, open(temporary, 'w') as stream:
        stream.write(text)


def classifier(body, classes):
    """A backbone with the mean of its last map and a layer of scores on that."""
    mean = 'pooling_param { pool: AVE global_pooling: true }'
    return [
        DATA,
        *body.whole(None),
        layer('mean', 'Pooling', body.stages[-1].blob, 'mean', mean),
        inner_product('fc1000', 'mean', classes, None, 'type: "msra"'),
    ]


def convert(state, pixel_means, eps=EPS):
    """{name: array} of torchvision and BGR pixel means -> (net of models/, rows for write_weights). eps: of a detector's
    FrozenBatchNorm. Errors: ValueError."""
    state = dict(state)
    try:
        if is_detector(state):
            net, rows = _detector(state, pixel_means, eps)
        elif 'RCNN_rpn.RPN_Conv.weight' in state:
            net, rows = DETNET, _detnet_detector(state, pixel_means)
        else:
            net, rows = (_vgg16 if 'features.0.weight' in state else _resnet)(state, pixel_means)
    except KeyError as error:
        raise ValueError(f'{error.args[0]!r} is missing; {WANTED}') from None
    if state:
        raise ValueError(f'no place for {sorted(state)[0]!r} and {len(state) - 1} others in {net}')
    return net, [(name, kind, arrays, [], []) for name, kind, arrays in rows]


def fold_input(weight, pixel_means):
    """conv1's weights (O, 3, h, w) for normalised RGB -> (weights for BGR in 0..255 less pixel_means,
    constants (O,) to add).

    A normalised channel is t = (x + m) / (255 std) - mean / std, x the net's input and m its pixel mean.
    """
    weight, scale = weight[:, ::-1].astype(np.float64), 255 * STD[::-1]
    shift = weight.sum((2, 3)) @ ((pixel_means - 255 * MEAN[::-1]) / scale)
    return (weight / scale[:, None, None]).astype(np.float32), shift.astype(np.float32)


def _resnet(state, pixel_means):
    shape, width = _shape(state), state['layer1.0.conv2.weight'].shape
    if shape not in DETECTORS or width != (64, 64, 3, 3):
        raise ValueError(
            f'{WANTED}; the layers of this have {shape[0]} blocks'
            + (', of another width' if shape in DETECTORS else '')
        )
    net = BACKBONES[DETECTORS[shape]]
    rows = _body(state, net.body, pixel_means)
    if 'fc.weight' in state:
        rows.append(('fc1000', 'InnerProduct', _pair(state, 'fc')))
    return net.weights, rows


def _shape(state):
    """A key of DETECTORS."""
    return _blocks(state), 'layer1.0.conv3.weight' in state


def _blocks(state):
    """How many each of layer1, layer2 ... has."""
    parts = [name.split('.')[:2] for name in state]
    counts = (len({part[1] for part in parts if part[0] == f'layer{i}'}) for i in range(1, 6))
    return tuple(filter(None, counts))


def _body(state, net, pixel_means, eps=EPS):
    """The rows of a ResNet's conv1 and layers."""
    conv1, shift = fold_input(state.pop('conv1.weight'), pixel_means)
    (mean, *norm), scale = _norm(state, 'bn1', eps)
    rows = [
        ('conv1', 'Convolution', [conv1]),
        ('bn_conv1', 'BatchNorm', [mean - shift, *norm]),
        ('scale_conv1', 'Scale', scale),
    ]
    for stage in range(2, 2 + len(net.blocks)):
        for i, block in enumerate(net.block_names(stage)):
            source = f'layer{stage - 1}.{i}.'
            if i == 0 and (stage > 2 or net.bottleneck):
                shortcut = source + (
                    'extra_conv' if source + 'extra_conv.0.weight' in state else 'downsample'
                )
                rows += _unit(state, shortcut + '.0', shortcut + '.1', block + '_branch1', eps)
            for k, letter in enumerate('abc' if net.bottleneck else 'ab', 1):
                rows += _unit(state, f'{source}conv{k}', f'{source}bn{k}', f'{block}_branch2{letter}', eps)
    return rows


def _detector(state, pixel_means, eps):
    """Faster R-CNN with FPN."""
    body = {name.removeprefix('backbone.body.'): name for name in state if name.startswith('backbone.body.')}
    shape = _shape(body)
    if shape not in DETECTORS:
        raise ValueError(
            f'wanted a Faster or Mask R-CNN of {", ".join(DETECTORS.values())}; its layers 1 to 4 have '
            f'{shape[0]} blocks'
        )
    net = DETECTORS[shape]
    state.update({name: state.pop(full) for name, full in body.items()})
    rows = _body(state, BACKBONES[net].body, pixel_means, eps)
    for i, level in enumerate(BACKBONES[net].pooled_maps):
        for kind, suffix in ('inner', '_lateral'), ('layer', ''):
            source = f'backbone.fpn.{kind}_blocks.{i}'
            source += '.0' if source + '.0.weight' in state else ''  # torchvision 0.13 and later
            rows.append((level.blob + suffix, 'Convolution', _pair(state, source)))
    conv = 'rpn.head.conv' + ('.0.0' if 'rpn.head.conv.0.0.weight' in state else '')
    for name, source in ('conv', conv), ('scores', 'rpn.head.cls_logits'), ('deltas', 'rpn.head.bbox_pred'):
        pair = _pair(state, source)
        rows += [(f'rpn_{name}_{level.blob}', 'Convolution', pair) for level in BACKBONES[net].maps]
    for name in 'box_head.fc6', 'box_head.fc7', 'box_predictor.cls_score', 'box_predictor.bbox_pred':
        rows.append((name.split('.')[1], 'InnerProduct', _pair(state, f'roi_heads.{name}')))
    return net, rows + _mask_head(state)


def _mask_head(state):
    """Of a Mask R-CNN; none of another."""
    if 'roi_heads.mask_predictor.conv5_mask.weight' not in state:
        return []
    rows = []
    for i in 1, 2, 3, 4:
        old, new = f'roi_heads.mask_head.mask_fcn{i}', f'roi_heads.mask_head.{i - 1}.0'
        name = new if new + '.weight' in state else old  # torchvision 0.13 and later
        rows.append((f'mask_fcn{i}', 'Convolution', _pair(state, name)))
    return [
        *rows,
        ('mask_deconv', 'Deconvolution', _pair(state, 'roi_heads.mask_predictor.conv5_mask')),
        ('mask_score', 'Convolution', _pair(state, 'roi_heads.mask_predictor.mask_fcn_logits')),
    ]


def _detnet_detector(state, pixel_means):
    """guoruoqian/DetNet_pytorch's. What its bbox_pred says is normalised, ours is not; its RPN has learnt that channels 2i and
    2i + 1 are background and object of anchor i, ours are those of all anchors, then these. (In tests the original first
    normalises i with i + 3: not so here.)"""
    for name in list(state):
        state[_of_backbone(name)] = state.pop(name)
    for unused in 'weight', 'bias':
        state.pop(f'RCNN_roi_feat_ds.{unused}', None)
    net = BACKBONES[DETNET]
    rows = _body(state, net.body, pixel_means)
    coarsest, *finer = [level.blob for level in reversed(net.maps)]
    rows.append((coarsest, 'Convolution', _pair(state, 'RCNN_toplayer')))
    for i, blob in enumerate(finer, 1):
        rows.append((f'{blob}_lateral', 'Convolution', _pair(state, f'RCNN_latlayer{i}')))
    for i, blob in (1, 'p3'), (2, 'p2'):
        rows.append((blob, 'Convolution', _pair(state, f'RCNN_smooth{i}')))
    rpn = {
        'conv': _pair(state, 'RCNN_rpn.RPN_Conv'),
        'scores': [np.concatenate([v[::2], v[1::2]]) for v in _pair(state, 'RCNN_rpn.RPN_cls_score')],
        'deltas': _pair(state, 'RCNN_rpn.RPN_bbox_pred'),
    }
    rows += [(f'rpn_{kind}_{m.blob}', 'Convolution', pair) for kind, pair in rpn.items() for m in net.maps]
    rows += [
        (f'fc{i}', 'Convolution', _pair(state, name)) for i, name in ((6, 'RCNN_top.0'), (7, 'RCNN_top.2'))
    ]
    rows.append(('cls_score', 'InnerProduct', _pair(state, 'RCNN_cls_score')))
    weight, bias = _pair(state, 'RCNN_bbox_pred')
    if len(weight) != 4 * len(rows[-1][2][0]):
        raise ValueError(
            f'wanted boxes of {len(rows[-1][2][0])} classes; its RCNN_bbox_pred has {len(weight)} outputs'
        )
    means, stds = (
        np.tile(np.float32(values), len(weight) // 4)
        for values in (cfg.TRAIN.BBOX_NORMALIZE_MEANS, cfg.TRAIN.BBOX_NORMALIZE_STDS)
    )
    return [*rows, ('bbox_pred', 'InnerProduct', [weight * stds[:, None], bias * stds + means])]


def _of_backbone(name):
    """What a detector's parameter is called in detnet59.pth: RCNN_layer0 is its conv1, bn1, ReLU and pooling, RCNN_layer1 has
    its layer1 as the only part."""
    name = re.sub(r'^RCNN_layer0\.0\.', 'conv1.', name)
    name = re.sub(r'^RCNN_layer0\.1\.', 'bn1.', name)
    return re.sub(r'^RCNN_layer(\d)\.0\.(?=\d)', r'layer\1.', name)


def _unit(state, conv, norm, name, eps):
    """The rows of a convolution without bias, its BatchNorm and its Scale."""
    stats, scale = _norm(state, norm, eps)
    suffix = name.removeprefix('res')
    return [
        (name, 'Convolution', [state.pop(conv + '.weight')]),
        ('bn' + suffix, 'BatchNorm', stats),
        ('scale' + suffix, 'Scale', scale),
    ]


def _norm(state, name, eps):
    """torchvision's BatchNorm -> blobs of BatchNorm (mean, variance, their divisor) and of Scale."""
    mean, variance = state.pop(f'{name}.running_mean'), state.pop(f'{name}.running_var')
    return [mean, variance + np.float32(eps - EPS), np.ones(1, np.float32)], _pair(state, name)


def _pair(state, name):
    return [state.pop(name + '.weight'), state.pop(name + '.bias')]


def _vgg16(state, pixel_means):
    convs = sorted(
        int(name.split('.')[1]) for name in state if name.startswith('features.') and name.endswith('.weight')
    )
    if len(convs) != len(VGG16) or 'features.1.weight' in state:
        raise ValueError(
            f'{WANTED}; this is a VGG with {len(convs)} layers in features'
            + (', BatchNorm among them' if 'features.1.weight' in state else '')
        )
    rows = [(name, 'Convolution', _pair(state, f'features.{i}')) for name, i in zip(VGG16, convs)]
    weight, bias = rows[0][2]
    weight, shift = fold_input(weight, pixel_means)
    rows[0][2][:] = weight, bias + shift
    return 'VGG16', rows + [
        (name, 'InnerProduct', _pair(state, f'classifier.{i}'))
        for name, i in (('fc6', 0), ('fc7', 3), ('fc8', 6))
    ]


if __name__ == '__main__':
    _command.run(main)
