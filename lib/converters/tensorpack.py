"""tensorpack's examples/FasterRCNN: .npz files of variables, Faster and Mask R-CNN by C4 or FPN; and its ImageNet classifiers.

Images are BGR, less PREPROC.PIXEL_MEAN and over PREPROC.PIXEL_STD; the deviations go into the first convolution.
Convolutions are (height, width, inputs, outputs) there, and deconvolutions with these two the other way round, fully connected layers (inputs, outputs).
"""

import re
import zipfile

import numpy as np

from converters import (
    Imported,
    Source,
    as_wide,
    backbone_of,
    mask_rows,
    rpn_rows,
    unit_rows,
    units,
    with_body,
)

PROJECT = 'tensorpack'
MEAN, STD = np.float32([103.53, 116.28, 123.675]), np.float32([57.375, 57.12, 58.395])  # BGR
UNUSED = re.compile(r'^(global_step|learning_rate)|/Momentum$|^EMA/|/AccumGrad$')
STAGE = 'cascade_rcnn_stage'
PARTS = 'convshortcut', 'conv1', 'conv2', 'conv3'


def read(path):
    """{name: array} of an .npz. ValueError: it cannot be read as one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name.removesuffix(':0'): file[name] for name in file.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f'cannot be read as an .npz of arrays: {error}') from None


def convert(arrays, late=False, stride_1x1=False):
    """late: BACKBONE.TF_PAD_MODE, stride_1x1: BACKBONE.STRIDE_1X1 of the training. Errors: ValueError."""
    source = Source(arrays, PROJECT)
    source.drop(UNUSED)
    _refuse(source)
    neck = 'FPN' if 'fpn/lateral_1x1_c2/W' in source else 'C4'
    cascade = neck == 'FPN' and f'{STAGE}1/outputs/class/W' in source
    name, backbone = backbone_of(_blocks(source), neck, PROJECT + '-Cascade' * cascade)
    backbone = with_body(backbone, torchvision=not stride_1x1, padded=True, late=late)
    rows = _body(source, backbone.body)
    if 'rpn/conv0/W' not in source:
        rows += [('fc1000', 'InnerProduct', _full(source, 'linear'))] if 'linear/W' in source else []
        source.check_empty(backbone.weights)
        return Imported(backbone.weights, backbone, rows, MEAN, False, [])
    rows += _neck(source, backbone) if neck == 'FPN' else []
    rows += rpn_rows(backbone, *(_conv(source, f'rpn/{part}') for part in ('conv0', 'class', 'box')))
    rows += _cascade(source) if cascade else _head(source, neck)
    source.drop(re.compile('^linear/'))
    rows += _masks(source, neck)
    source.check_empty(name)
    return Imported(name, as_wide(backbone, rows), rows, MEAN, True, [])


def _refuse(source):
    for what, pattern in (
        ('GroupNorm', '/gn'),
        ('a head of convolutions', r'(fastrcnn|head)/conv0/'),
    ):
        found = [name for name in source.names() if re.search(pattern, name)]
        if found:
            raise ValueError(f'wanted a net without {what}; this has {found[0]!r}')


def _blocks(source):
    """How many each of group0 to group3 has."""
    found = [re.match(r'group(\d)/block(\d+)/', name) for name in source.names()]
    pairs = {match.groups() for match in found if match}
    return tuple(len([group for group, _ in pairs if group == str(i)]) for i in range(4))


def _body(source, body):
    weight = _weight(source, 'conv0', body.late) / STD[:, None, None]
    rows = unit_rows('conv1', [weight], *_norm(source, 'conv0'))
    for stage, i, part, name in units(body):
        theirs = f'group{stage - 2}/block{i}/{PARTS[part]}'
        strided = stage > 2 and i == 0 and part == (2 if body.torchvision else 1)
        rows += unit_rows(name, [_weight(source, theirs, body.late and strided)], *_norm(source, theirs))
    return rows


def _neck(source, backbone):
    rows = []
    for i, level in enumerate(backbone.pooled_maps, 2):
        rows.append((f'{level.blob}_lateral', 'Convolution', _conv(source, f'fpn/lateral_1x1_c{i}')))
        rows.append((level.blob, 'Convolution', _conv(source, f'fpn/posthoc_3x3_p{i}')))
    return rows


def _head(source, neck):
    outputs, rows = 'fastrcnn', []
    if neck == 'FPN':
        outputs = 'fastrcnn/outputs'
        rows = [(fc, 'InnerProduct', _full(source, f'fastrcnn/{fc}')) for fc in ('fc6', 'fc7')]
    scores, boxes = _full(source, f'{outputs}/class'), _full(source, f'{outputs}/box')
    if len(boxes[0]) != 4 * len(scores[0]):
        raise ValueError(
            f'wanted boxes of {len(scores[0])} classes; {outputs}/box has {len(boxes[0])} outputs'
        )
    return [*rows, ('cls_score', 'InnerProduct', scores), ('bbox_pred', 'InnerProduct', boxes)]


def _cascade(source):
    """Three heads; boxes are an object's alone, ours the background's too."""
    rows = []
    for i in 1, 2, 3:
        theirs, mine = f'{STAGE}{i}', f'stage{i}_'
        rows += [(mine + fc, 'InnerProduct', _full(source, f'{theirs}/head/{fc}')) for fc in ('fc6', 'fc7')]
        scores, boxes = (_full(source, f'{theirs}/outputs/{kind}') for kind in ('class', 'box'))
        if len(boxes[0]) != 4:
            raise ValueError(
                f'wanted one box of all classes; {theirs}/outputs/box has {len(boxes[0])} outputs'
            )
        boxes = [np.concatenate([np.zeros_like(blob), blob]) for blob in boxes]
        rows += [(f'{mine}cls_score', 'InnerProduct', scores), (f'{mine}bbox_pred', 'InnerProduct', boxes)]
    return rows


def _masks(source, neck):
    """Of a Mask R-CNN, whose scores have no background; none of another."""
    if 'maskrcnn/conv/W' not in source:
        return []
    convs = [_conv(source, f'maskrcnn/fcn{i}') for i in range(4 if neck == 'FPN' else 0)]
    deconv, scores = _conv(source, 'maskrcnn/deconv'), _conv(source, 'maskrcnn/conv')
    return mask_rows(convs, deconv, [np.concatenate([np.zeros_like(blob[:1]), blob]) for blob in scores])


def _weight(source, name, late=False):
    """late: with a first row and column of zeros, so that the window begins one pixel later."""
    weight = np.ascontiguousarray(source.take(f'{name}/W')[0].transpose(3, 2, 0, 1))
    return np.pad(weight, ((0, 0), (0, 0), (1, 0), (1, 0))) if late and weight.shape[2] > 1 else weight


def _norm(source, name):
    """mean, variance, gamma, beta"""
    return source.take(*(f'{name}/bn/{blob}' for blob in ('mean/EMA', 'variance/EMA', 'gamma', 'beta')))


def _conv(source, name):
    return [_weight(source, name), *source.take(f'{name}/b')]


def _full(source, name):
    weight, bias = source.take(f'{name}/W', f'{name}/b')
    return [np.ascontiguousarray(weight.T), bias]
