"""Families of box arithmetic, each one object, chosen once per net: by `boxes` in its layers' param_str.

caffe           boxes end in whole pixels, which they include: a width is x2 - x1 + 1
detnet          so they do in guoruoqian/DetNet_pytorch, whose anchors lie around corners of cells, and whose levels compete
torchvision     boxes end at edges: a width is x2 - x1

Boxes are tensors of rows x1 y1 x2 y2 in pixels. N boxes, G objects, A anchors per position of a map (H, W), K classes.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from caffe.types import boxes as box_lib

from fast_rcnn.bbox_transform import bbox_transform, bbox_transform_inv, clip_boxes
from rpn.generate_anchors import generate_anchors
from utils.param_str import parse_param_str

CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # a RoI of the side of an ImageNet picture is pooled from level 4
COARSEST = 32  # the stride of the last map that a convolution makes


@dataclass(frozen=True)
class Caffe:
    """py-faster-rcnn's arithmetic."""

    offset: int = 1  # of a width over x2 - x1
    roi_weights: tuple = (1.0, 1.0, 1.0, 1.0)  # that the codes of RoIs are multiplied by
    most: float = math.inf  # the largest log ratio of sides that a code is taken to say
    nudge: float = 0.0  # of levels, towards the coarser
    levels_compete: bool = False  # the best are chosen, and near-duplicates found, among those of all levels

    def encode(self, boxes, objects, weights=(1.0, 1.0, 1.0, 1.0)):
        """What is to be said (N, 4) at boxes (N, 4) for objects (N, 4)."""
        return bbox_transform(boxes, objects, self.offset) * boxes.new_tensor(weights)

    def decode(self, boxes, codes, weights=(1.0, 1.0, 1.0, 1.0)):
        """Boxes (N, 4K) from boxes (N, 4) and codes (N, 4K)."""
        codes = codes.reshape(len(codes), codes.shape[1] // 4, 4) / codes.new_tensor(weights)
        codes = torch.cat([codes[..., :2], codes[..., 2:].clamp(max=self.most)], 2).flatten(1)
        return bbox_transform_inv(boxes, codes, self.offset)

    def moved(self, rois, codes, size):
        """RoIs (N, 4) of an image of `size` moved by what a head says (N, 4K), cut to it: arrays."""
        return clip_boxes(bbox_transform_inv(rois, codes), size)

    def moves(self, rois, objects):
        """What a head is to say of RoIs (N, 4), so that `moved` makes objects (N, 4) of them: arrays."""
        return bbox_transform(rois, objects, self.offset) * np.array(self.roi_weights)

    def clip(self, boxes, size):
        """boxes (N, 4K) cut to an image of `size` (height, width), in place; returned."""
        return clip_boxes(boxes, size, self.offset)

    def overlaps(self, boxes, objects):
        """Intersection over union (N, G)."""
        return box_lib.overlaps(boxes.double(), objects.double(), self.offset)

    def nms(self, boxes, thresh, limit=None):
        """Indices kept of boxes (N, 4), which come best first; dropped: overlap above thresh with a kept one."""
        return box_lib.nms(boxes, thresh, self.offset, limit=limit)

    def sides(self, boxes):
        """Widths and heights (N, 2)."""
        return boxes[:, 2:] - boxes[:, :2] + self.offset

    def least_side(self, setting, scale):
        """Of a proposal, in pixels: cfg's RPN_MIN_SIZE, which is of the image before it was scaled."""
        return setting * scale

    def inside(self, boxes, size):
        """Whether each of boxes (N, 4), anchors, may be an example: those within the image of `size`."""
        return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] < size[1]) & (boxes[:, 3] < size[0])

    def levels(self, boxes):
        """The level (N,) int64 of a pyramid that suits each of boxes (N, 4): its map has a cell for 2^level pixels."""
        sides = self.sides(boxes).prod(1).sqrt()
        return (CANONICAL_LEVEL + (sides / CANONICAL_SIDE).log2() + self.nudge).floor().long()

    def anchors(self, stride, scales, ratios):
        """(A, 4) around the first cell of a map; sides are scales times the stride, ratios height over width."""
        return torch.from_numpy(generate_anchors(stride, ratios, np.asarray(scales)).astype(np.float32))

    def strides(self, stride, shape, size):
        """Pixels from anchor to anchor, down and across, on a map of shape (H, W) of an input of `size`."""
        return stride, stride


@dataclass(frozen=True)
class DetNet(Caffe):
    """DetNet_pytorch's, and jwyang/fpn.pytorch's."""

    levels_compete: bool = True

    def least_side(self, setting, scale):
        """None: no proposal is too small."""
        return 0.0

    def anchors(self, stride, scales, ratios):
        """Around the corner of the first cell, not rounded; ratios are width over height."""
        return centred(stride, scales, [1 / ratio for ratio in ratios])


def centred(stride, scales, ratios):
    """Boxes (A, 4) around 0, 0, ratio (height over width) by ratio."""
    sides = torch.tensor(scales, dtype=torch.float32) * stride
    high = torch.tensor(ratios, dtype=torch.float32).sqrt()
    width, height = ((factor[:, None] * sides).reshape(-1) for factor in (1 / high, high))
    return torch.stack([-width, -height, width, height], 1) / 2


@dataclass(frozen=True)
class Torchvision(Caffe):
    """torchvision's, which is Detectron's: models/detection/{_utils,anchor_utils,rpn,roi_heads}.py, ops/boxes.py."""

    offset: int = 0
    roi_weights: tuple = (10.0, 10.0, 5.0, 5.0)
    most: float = math.log(1000 / 16)
    nudge: float = 1e-6

    def moved(self, rois, codes, size):
        boxes = self.decode(torch.from_numpy(rois), torch.from_numpy(codes), self.roi_weights)
        return self.clip(boxes, size).numpy()

    def overlaps(self, boxes, objects):
        """In float32, in which its ties are ties."""
        return box_lib.overlaps(boxes, objects, self.offset)

    def least_side(self, setting, scale):
        return 1e-3

    def inside(self, boxes, size):
        """All may."""
        return boxes.new_ones(len(boxes), dtype=torch.bool)

    def anchors(self, stride, scales, ratios):
        """Around the corner of the first cell; ratio by ratio. Corners are rounded, halves to even."""
        return centred(stride, scales, ratios).round()

    def strides(self, stride, shape, size):
        """As many whole pixels as the input has for a cell, once it is padded to whole cells of the last convolution: the
        level above that may have one cell for less than its name says."""
        whole = min(stride, COARSEST)
        return tuple(-(-side // whole) * whole // cells for side, cells in zip(size, shape))


FAMILIES = {'caffe': Caffe(), 'detnet': DetNet(), 'torchvision': Torchvision()}


def family_of_net(net):
    """That which a net's layers of lib/fpn name; Caffe's where it has none."""
    layers = [layer.layer_param.python_param for layer in net.layers]
    names = {_named(layer.param_str) for layer in layers if layer.module.startswith('fpn.')}
    if len(names) > 1:
        raise ValueError(
            f'net {net.name!r} has layers of several families of boxes: {", ".join(sorted(names))}'
        )
    return family_of(*names or {'caffe'})


@functools.cache
def _named(param_str):
    return parse_param_str(param_str)['boxes']


def family_of(name):
    if name not in FAMILIES:
        raise ValueError(f'boxes are of a family, {" or ".join(FAMILIES)}; got {name!r}')
    return FAMILIES[name]
