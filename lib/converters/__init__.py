"""Readers of other projects' weights: what a file of theirs holds, as the layers of a net of netgen.

A module for each project has read(path) -> {name: array}, and convert(arrays, ...) -> Imported. Arrays are float32,
convolutions' (outputs, inputs, height, width).
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from netgen.backbones import BACKBONES, Backbone

EPS = 1e-5  # what Caffe's BatchNorm adds under its root
DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}


class Imported(NamedTuple):
    """net: the name of a net, or of the weights it starts from, where these are of a classifier; backbone: that of the net,
    as the file wants it; rows: (layer, type, blobs); means: of BGR pixels; left_out: names that the net has no place for."""

    net: str
    backbone: Backbone
    rows: list
    means: np.ndarray
    is_detector: bool
    left_out: list


class Source:
    """A file's arrays, taken one by one; `project` is whose they are."""

    def __init__(self, arrays, project):
        self._arrays, self._project = dict(arrays), project

    def __contains__(self, name):
        return name in self._arrays

    def names(self):
        return list(self._arrays)

    def take(self, *names):
        """The arrays of these names. ValueError: one is missing."""
        for name in names:
            if name not in self._arrays:
                raise ValueError(
                    f'{name!r} is missing; wanted the weights of a ResNet-50 or 101 of {self._project}'
                )
        return [np.asarray(self._arrays.pop(name), np.float32) for name in names]

    def drop(self, *patterns):
        """Takes away the names that match a compiled pattern, and gives them."""
        names = [name for name in self._arrays if any(pattern.search(name) for pattern in patterns)]
        for name in names:
            del self._arrays[name]
        return sorted(names)

    def check_empty(self, net):
        """ValueError, which names one, where there are arrays left."""
        if self._arrays:
            first, *others = sorted(self._arrays)
            raise ValueError(f'no place for {first!r} and {len(others)} others in {net}')


def backbone_of(blocks, neck, project):
    """The name and the row of BACKBONES with so many blocks of res2 to res5, and neck FPN or C4. ValueError: none."""
    if blocks not in DEPTHS:
        raise ValueError(
            f'wanted a ResNet-50 or 101, of {" or ".join(map(str, DEPTHS))} blocks; this has {blocks}'
        )
    name = f'ResNet-{DEPTHS[blocks]}-{neck}-{project}'
    return name, BACKBONES[name]


def with_body(backbone, **how):
    """The backbone with another body, which differs in what is given."""
    body = replace(backbone.body, **how)
    return body if backbone.body is backbone else replace(backbone, body=body)


def as_wide(backbone, rows):
    """The backbone with fc6 and fc7 as wide as these rows, if they have them."""
    widths = {name[-3:]: len(blobs[1]) for name, _, blobs in rows if name.endswith(('fc6', 'fc7'))}
    return replace(backbone, widths=tuple(widths.values())) if widths else backbone


def units(body):
    """A ResNet's convolutions after the first: (stage, block's number, part, name), part 0 is the shortcut, 1 to 3 what the
    block is made of."""
    for stage in (2, 3, 4, 5):
        for i, block in enumerate(body.block_names(stage)):
            if i == 0:
                yield stage, i, 0, f'{block}_branch1'
            for part, letter in enumerate('abc', 1):
                yield stage, i, part, f'{block}_branch2{letter}'


def unit_rows(name, conv, mean, variance, gamma, beta):
    """The rows of a convolution, of blobs conv, its BatchNorm, whose root has EPS in it, and its Scale."""
    suffix = '_conv1' if name == 'conv1' else name.removeprefix('res')
    return [
        (name, 'Convolution', conv),
        ('bn' + suffix, 'BatchNorm', [mean, variance, np.ones(1, np.float32)]),
        ('scale' + suffix, 'Scale', [gamma, beta]),
    ]


def rpn_rows(backbone, conv, scores, deltas):
    """The rows of the RPN on all maps, from its blobs."""
    rows = []
    for kind, pair in ('conv', conv), ('scores', scores), ('deltas', deltas):
        rows += [(f'rpn_{kind}_{level.blob}', 'Convolution', pair) for level in backbone.maps]
    return rows


def mask_rows(convs, deconv, scores):
    """The rows of a mask head, from the blobs of its convolutions, of its deconvolution, and of the scores of all classes."""
    rows = [(f'mask_fcn{i}', 'Convolution', blobs) for i, blobs in enumerate(convs, 1)]
    return [*rows, ('mask_deconv', 'Deconvolution', deconv), ('mask_score', 'Convolution', scores)]
