#!/usr/bin/env python3
"""Turn a state_dict (.pth) of torchvision into a .caffemodel: of ResNet-18, 34, 50, 101 or VGG16, to train from, or of
fasterrcnn_resnet18/34/50/101_fpn, with the prototxt of the net that answers as it does.

torchvision's nets see RGB in 0..1, less a mean and over a standard deviation per channel; nets here see BGR
in 0..255 less cfg.PIXEL_MEANS. The first convolution takes up both: its weights are reordered and scaled, and
what remains, a constant per output, goes where it is exact: bn_conv1's mean, conv1_1's bias. Only zero
padding differs: it stands for a pixel that is off by 0.006 to 0.016 standard deviations of its channel.
Measured with random weights, at 160x192: ResNet-50's conv1 is off by 0.3 % of its largest value in the two
outermost rows and columns, and equal inside; res4f is off by 0.03 %. A detector is imported for torchvision's
own means, with which nothing differs: experiments/cfgs/faster_rcnn_end2end_torchvision.yml has them as PIXEL_MEANS, and
weights to train from by it are made with --cfg. BatchNorm stays, as BatchNorm and Scale, and so does a detector's
FrozenBatchNorm: the constant under its root becomes that of BatchNorm (see --eps).
"""

import argparse
import os
import pickle
import sys

import _command
import numpy as np
import torch
from netgen.backbones import BACKBONES
from netgen.files import files

from caffe.format.weights import write_weights
from fast_rcnn.config import cfg, cfg_from_file, overrides
from utils.files import atomic_path

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # torchvision's, RGB
WANTED = "wanted torchvision's ResNet-18, 34, 50, 101 or VGG16"
OWN_MEANS = 255 * MEAN[::-1]  # BGR
# Blocks of layers 1 to 4, whether they are bottlenecks: the detector; it starts from the ResNet's weights
DETECTORS = {
    ((2, 2, 2, 2), False): 'ResNet-18-FPN',
    ((3, 4, 6, 3), False): 'ResNet-34-FPN',
    ((3, 4, 6, 3), True): 'ResNet-50-FPN',
    ((3, 4, 23, 3), True): 'ResNet-101-FPN',
}
EPS = 1e-5  # under the root, in Caffe's BatchNorm and, unless overwritten, in torchvision's
VGG16 = [f'conv{stage}_{i + 1}' for stage, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(count)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', metavar='PTH', help='the state_dict, as torchvision publishes it')
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
        help='the settings to train from them by: their PIXEL_MEANS (default: those of cfg)',
    )
    args = parser.parse_args(argv)
    try:
        with overrides({}):
            if args.cfg:
                cfg_from_file(args.cfg)
            means = cfg.PIXEL_MEANS.ravel()
        state = read_state(args.source)
        detects = is_detector(state)
        means = OWN_MEANS if detects else means
        net, rows = convert(state, means, args.eps)
    except (OSError, ValueError) as error:
        sys.exit(f'{args.source}: {error}')
    target = args.target or os.path.join(cfg.DATA_DIR, 'imagenet_models', net + '.caffemodel')
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    write_weights(target, rows, net)
    print(
        f'{target}: {len(rows)} layers for the net {net}; it looks at BGR pixels less PIXEL_MEANS '
        f"{[round(float(mean), 4) for mean in means]}; torchvision's mean {MEAN.tolist()} and deviation "
        f'{STD.tolist()} of RGB are in its first convolution'
    )
    if detects:
        classes = next(len(arrays[0]) for name, _, arrays, *_ in rows if name == 'cls_score')
        prototxt = os.path.splitext(target)[0] + '.prototxt'
        write_prototxt(prototxt, net, classes)
        print(
            f'{prototxt}: its net, of {classes} classes with the background; to train it\n'
            f'python models/generate.py NAME {net} --num_classes {classes}'
        )
    elif net != 'VGG16':
        print(
            f"{net} has torchvision's strides, in the 3x3 convolutions. Nets that start from it: "
            f'{", ".join(starting_from(net))}\npython models/generate.py NAME NET --num_classes K'
        )


def starting_from(weights):
    """The nets that start from these weights."""
    return [name for name, net in BACKBONES.items() if weights in (name, getattr(net, 'weights', ''))]


def read_state(path):
    """A .pth file -> {name: float32 array}. Only tensors and plain containers are unpickled. Errors: OSError,
    ValueError."""
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f'cannot be read as a state_dict: {str(error).splitlines()[0]}') from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError('wanted a state_dict, a mapping of names to tensors')
    return {
        name: value.float().numpy()
        for name, value in state.items()
        if not name.endswith('num_batches_tracked')
    }


def is_detector(state):
    return 'backbone.body.conv1.weight' in state


def write_prototxt(path, net, classes):
    """The test net of an imported detector."""
    texts = {p.name: text for p, text in files('imported', net, classes).items()}
    with atomic_path(path) as temporary, open(temporary, 'w') as stream:
        stream.write(texts['test.prototxt'])


def convert(state, pixel_means, eps=EPS):
    """{name: array} of torchvision and BGR pixel means -> (net of models/, rows for write_weights). eps: of a detector's
    FrozenBatchNorm. Errors: ValueError."""
    state = dict(state)
    try:
        if is_detector(state):
            net, rows = _detector(state, pixel_means, eps)
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
            f'{WANTED}; layers 1 to 4 of this have {shape[0]} blocks'
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
    """How many each of layers 1 to 4 has."""
    return tuple(
        len({name.split('.')[1] for name in state if name.startswith(f'layer{i}.')}) for i in (1, 2, 3, 4)
    )


def _body(state, net, pixel_means, eps=EPS):
    """The rows of a ResNet's conv1 to layer4."""
    conv1, shift = fold_input(state.pop('conv1.weight'), pixel_means)
    (mean, *norm), scale = _norm(state, 'bn1', eps)
    rows = [
        ('conv1', 'Convolution', [conv1]),
        ('bn_conv1', 'BatchNorm', [mean - shift, *norm]),
        ('scale_conv1', 'Scale', scale),
    ]
    for stage in (2, 3, 4, 5):
        for i, block in enumerate(net.block_names(stage)):
            source = f'layer{stage - 1}.{i}.'
            if i == 0 and (stage > 2 or net.bottleneck):
                names = source + 'downsample.0', source + 'downsample.1', block + '_branch1'
                rows += _unit(state, *names, eps)
            for k, letter in enumerate('abc' if net.bottleneck else 'ab', 1):
                rows += _unit(state, f'{source}conv{k}', f'{source}bn{k}', f'{block}_branch2{letter}', eps)
    return rows


def _detector(state, pixel_means, eps):
    """Faster R-CNN with FPN."""
    body = {name.removeprefix('backbone.body.'): name for name in state if name.startswith('backbone.body.')}
    shape = _shape(body)
    masks = sorted(name for name in state if name.startswith('roi_heads.mask'))
    if shape not in DETECTORS or masks:
        what = f'its mask head, {masks[0]}' if masks else f'its layers 1 to 4 have {shape[0]} blocks'
        raise ValueError(f'wanted a Faster R-CNN of {", ".join(DETECTORS.values())}; {what}')
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
    return net, rows


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
