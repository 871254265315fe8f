"""facebookresearch/Detectron: .pkl files of blobs, Faster and Mask R-CNN by C4 or FPN; and the ImageNet classifiers it starts from.

Images are BGR, less PIXEL_MEANS. BatchNorm is an affine map there: y = s x + b.
"""

import re

import numpy as np

from converters import (
    EPS,
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
from fast_rcnn.config import DEFAULTS
from utils import safe_pickle

PROJECT = 'Detectron'
UNUSED = re.compile(r'_momentum$|^lr$|^pred_[wb]$|^__preserve__')
KEYPOINTS = re.compile(r'^kps_|^conv_fcn')
PARTS = 'branch1', 'branch2a', 'branch2b', 'branch2c'
WEIGHTED = 'BBOX_REG_WEIGHTS'  # a word of the settings in files whose boxes' codes are to be divided by
WEIGHTS = np.float32([10, 10, 5, 5])


def read(path):
    """{name: array}; of a file from before boxes had weights, as if they had. No code that the file names is run. Errors:
    safe_pickle.Refused; ValueError: it holds something else."""
    content = safe_pickle.load(path)
    blobs = content.get('blobs', content) if isinstance(content, dict) else None
    if not isinstance(blobs, dict):
        raise ValueError('wanted a pickled mapping of names to arrays, or one with such a mapping as blobs')
    arrays = {str(name): array for name, array in blobs.items() if isinstance(array, np.ndarray)}
    if 'bbox_pred_w' in arrays and WEIGHTED not in str(content.get('cfg', '')):
        for name in 'bbox_pred_w', 'bbox_pred_b':
            arrays[name] = arrays[name] * np.resize(
                WEIGHTS, (len(arrays[name]), *[1] * (arrays[name].ndim - 1))
            )
    return arrays


def convert(arrays, late=False, stride_1x1=True):
    """stride_1x1: RESNETS.STRIDE_1X1 of the training. Errors: ValueError."""
    if late:
        raise ValueError("Detectron's windows do not begin late")
    source = Source(arrays, PROJECT)
    source.drop(UNUSED)
    neck = 'FPN' if 'fpn_res2_2_sum_w' in source else 'C4'
    name, backbone = backbone_of(_blocks(source), neck, PROJECT)
    backbone = with_body(backbone, torchvision=not stride_1x1)
    rows = _body(source, backbone.body)
    means = np.ravel(DEFAULTS['PIXEL_MEANS'])
    if 'cls_score_w' not in source:
        rows += [('fc1000', 'InnerProduct', _pair(source, 'fc1000'))] if 'fc1000_w' in source else []
        source.check_empty(backbone.weights)
        return Imported(backbone.weights, backbone, rows, means, False, [])
    level = ''
    if neck == 'FPN':
        rows += _neck(source, backbone)
        rows += [(fc, 'InnerProduct', _pair(source, fc)) for fc in ('fc6', 'fc7')]
        level = '_fpn2'
    rpn = (_pair(source, f'{part}{level}') for part in ('conv_rpn', 'rpn_cls_logits', 'rpn_bbox_pred'))
    rows += rpn_rows(backbone, *rpn)
    rows += [(layer, 'InnerProduct', _pair(source, layer)) for layer in ('cls_score', 'bbox_pred')]
    source.drop(re.compile('^fc1000_'))
    rows += _masks(source, neck)
    left_out = source.drop(KEYPOINTS)
    source.check_empty(name)
    return Imported(name, as_wide(backbone, rows), rows, means, True, left_out)


def _blocks(source):
    """How many each of res2 to res5 has."""
    found = [re.match(r'res(\d)_(\d+)_branch', name) for name in source.names()]
    pairs = {match.groups() for match in found if match}
    return tuple(len([stage for stage, _ in pairs if stage == str(i)]) for i in (2, 3, 4, 5))


def _body(source, body):
    bias = [np.zeros(64, np.float32)] * body.conv1_bias
    source.drop(re.compile('^conv1_b$'))  # of zeros: AffineChannel adds what there is to add
    rows = unit_rows('conv1', [*source.take('conv1_w'), *bias], *_affine(source, 'res_conv1_bn'))
    for stage, i, part, name in units(body):
        theirs = f'res{stage}_{i}_{PARTS[part]}'
        (weight,) = source.take(f'{theirs}_w')
        if part == 2 and weight.shape[1] != body.widths[stage - 2]:
            raise ValueError(f'wanted a ResNet; {theirs}_w is of groups of {weight.shape[1]} channels')
        rows += unit_rows(name, [weight], *_affine(source, f'{theirs}_bn'))
    return rows


def _affine(source, name):
    """mean, variance, gamma, beta, so that BatchNorm changes nothing"""
    scale, shift = source.take(f'{name}_s', f'{name}_b')
    return np.zeros_like(scale), np.full_like(scale, 1 - EPS), scale, shift


def _neck(source, backbone):
    rows, levels = [], list(zip(backbone.pooled_maps, backbone.body.blocks))
    for i, (level, count) in enumerate(levels, 2):
        theirs, lateral = f'res{i}_{count - 1}_sum', '_lateral' * (i < 1 + len(levels))
        rows.append((f'{level.blob}_lateral', 'Convolution', _pair(source, f'fpn_inner_{theirs}{lateral}')))
        rows.append((level.blob, 'Convolution', _pair(source, f'fpn_{theirs}')))
    return rows


def _masks(source, neck):
    """Of a Mask R-CNN; none of another."""
    if 'mask_fcn_logits_w' not in source:
        return []
    convs = [_pair(source, f'_[mask]_fcn{i}') for i in range(1, 5 if neck == 'FPN' else 1)]
    return mask_rows(convs, _pair(source, 'conv5_mask'), _pair(source, 'mask_fcn_logits'))


def _pair(source, name):
    return source.take(f'{name}_w', f'{name}_b')
