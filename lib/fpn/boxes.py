"""Families of box arithmetic, each one object, chosen once per net: by `boxes` in its layers' param_str. It says too how
an image is scaled for the net, and which of the net's answers are kept.

caffe           boxes end in whole pixels, which they include: a width is x2 - x1 + 1
detnet          so they do in guoruoqian/DetNet_pytorch, whose anchors lie around corners of cells, and whose levels compete
torchvision     boxes end at edges: a width is x2 - x1
tensorpack      so they do in tensorpack's FasterRCNN example; anchors are not rounded. tensorpack_c4: without a pyramid
detectron       Caffe's, but a box decoded from codes ends a pixel earlier. detectron_c4: without a pyramid

Boxes are tensors of rows x1 y1 x2 y2 in pixels; datasets' (roidb entries, detections that are scored) include their
last pixels. N boxes, G objects, A anchors per position of a map (H, W), K classes.
"""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from caffe.types import boxes as box_lib

from fast_rcnn.bbox_transform import bbox_transform, bbox_transform_inv, clip_boxes
from fast_rcnn.nms_wrapper import class_nms
from fpn import images
from rpn.generate_anchors import generate_anchors
from utils.blob import padded, prep_im_for_blob
from utils.param_str import parse_param_str

CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # a RoI of the side of an ImageNet picture is pooled from level 4
COARSEST = 32  # the stride of the last map that a convolution makes
LEAST_SIDE = 1e-2  # of a detection of torchvision's, in pixels of the scaled image


@dataclass(frozen=True)
class Caffe:
    """py-faster-rcnn's arithmetic."""

    name: str = 'caffe'
    offset: int = 1  # of a width over x2 - x1
    roi_weights: tuple = (1.0, 1.0, 1.0, 1.0)  # that the codes of RoIs are multiplied by
    most: float = math.inf  # the largest log ratio of sides that a code is taken to say
    nudge: float = 0.0  # of levels, towards the coarser
    side_nudge: float = 0.0  # so too, of sides in the canonical one
    levels_compete: bool = False  # the best are chosen, and near-duplicates found, among those of all levels
    unmet_objects: bool = True  # have all anchors as their best: none meets them
    refills: bool = True  # negative anchors take the places of positive ones that are too many
    repeats_rois: bool = False  # where an image has too few
    divisor: int = 1  # of the sides of what a net sees, padded to it

    # Images

    def scaled(self, im, means, short, long):
        """im (H, W, 3) -> float32 (h, w, 3) less means, its short side `short`, or its long side `long` if that would exceed
        it; the factor it was scaled by."""
        return prep_im_for_blob(im, means, short, long)

    def seen(self, boxes, size, scaled, scale):
        """A dataset's boxes (N, 4) of an image of `size` (height, width), arrays, where the image of size `scaled` shows
        them, in this family's terms."""
        return self.shown(self.own(boxes), size, scaled, scale)

    def shown(self, boxes, size, scaled, scale):
        """As seen, of boxes in this family's terms."""
        return boxes * scale

    def own(self, boxes):
        """A dataset's boxes (N, 4), an array, in this family's terms."""
        return boxes

    def datasets(self, boxes):
        """What `own` gives, as it was."""
        return boxes

    # Answers

    def looked_at(self, rois, image):
        """RoIs (N, 4) of a fast_rcnn.inputs.Scaled -> where a head's codes move them, and the size (height, width) of
        what they then lie in: in the image itself."""
        return self.judged(rois, float(image.scales[0])), image.shape

    def judged(self, rois, scales):
        """RoIs (N, 4), of an image scaled by `scales` (one, or each RoI's (N, 1)), in the pixels of looked_at."""
        return rois / scales

    def back(self, boxes, size, new):
        """Boxes (N, 4K) of an image of `size`, as looked_at gives it, in the pixels of the image of size `new`."""
        return boxes

    def large(self, boxes):
        """Which of boxes (N, 4) may be detections: an index of rows."""
        return slice(None)

    def class_nms(self, dets, starts, thresh):
        """Indices kept, class by class, best first, of dets (N, 5), of which class k has those from starts[k] up to
        starts[k + 1]."""
        return class_nms(dets, starts, thresh)

    def highest(self, scores, most):
        """Which of scores (N,) are the `most` highest, and those as high as the last of them: an index."""
        return scores >= np.partition(scores, -most)[-most]

    # Boxes

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
        """What a head is to say of RoIs (N, 4), so that `moved` makes objects (N, 4) of them: a dataset's both, arrays."""
        return bbox_transform(self.own(rois), self.own(objects), self.offset) * np.array(self.roi_weights)

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

    def example_weight(self, labels):
        """Of the box loss of each anchor that is an example, by labels (N, I), -1 where it is none, in a loss that is divided
        by N: one over all examples."""
        return len(labels) / (labels >= 0).sum().clamp(min=1)

    def least_side(self, setting, scale):
        """Of a proposal, in pixels: cfg's RPN_MIN_SIZE, which is of the image before it was scaled."""
        return setting * scale

    def window(self, size):
        """What proposals of an image of `size` (height, width, ...) are cut to."""
        return size

    def inside(self, boxes, size):
        """Whether each of boxes (N, 4), anchors, may be an example: those within the image of `size`."""
        return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] < size[1]) & (boxes[:, 3] < size[0])

    def levels(self, boxes):
        """The level (N,) int64 of a pyramid that suits each of boxes (N, 4): its map has a cell for 2^level pixels."""
        sides = self.sides(boxes).prod(1).sqrt()
        return (
            (CANONICAL_LEVEL + (sides / CANONICAL_SIDE + self.side_nudge).log2() + self.nudge).floor().long()
        )

    def anchors(self, stride, scales, ratios):
        """(A, 4) around the first cell of a map; sides are scales times the stride, ratios height over width."""
        return torch.from_numpy(generate_anchors(stride, ratios, np.asarray(scales)).astype(np.float32))

    def strides(self, stride, shape, size):
        """Pixels from anchor to anchor, down and across, on a map of shape (H, W) of an input of `size`."""
        return stride, stride


@dataclass(frozen=True)
class DetNet(Caffe):
    """DetNet_pytorch's, and jwyang/fpn.pytorch's: lib/model/rpn/*_fpn.py, proposal_target_layer.py, test_net.py."""

    name: str = 'detnet'
    levels_compete: bool = True
    unmet_objects: bool = False
    refills: bool = False
    repeats_rois: bool = True

    def looked_at(self, rois, image):
        """In the scaled image."""
        return rois, image.data.shape[2:]

    def judged(self, rois, scales):
        return rois

    def back(self, boxes, size, new):
        """Over the factor of the short side, which is a whole number of pixels before and after."""
        return boxes * (min(new[:2]) / min(size))

    def example_weight(self, labels):
        """Over those of the last image, for the mean over images."""
        return 1 / (labels[-1] >= 0).sum().clamp(min=1)

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
class Weighted(Caffe):
    """Codes of RoIs have weights, and there is a largest."""

    roi_weights: tuple = (10.0, 10.0, 5.0, 5.0)
    most: float = math.log(1000 / 16)

    def moved(self, rois, codes, size):
        boxes = self.decode(torch.from_numpy(rois), torch.from_numpy(codes), self.roi_weights)
        return self.clip(boxes, size).numpy()


@dataclass(frozen=True)
class Torchvision(Weighted):
    """torchvision's: models/detection/{_utils,anchor_utils,rpn,roi_heads}.py, ops/boxes.py."""

    name: str = 'torchvision'
    offset: int = 0
    nudge: float = 1e-6
    divisor: int = images.DIVISOR

    def scaled(self, im, means, short, long):
        return images.scaled(im, means, short, long)

    def shown(self, boxes, size, scaled, scale):
        return images.resized(boxes, size, scaled)

    def own(self, boxes):
        return boxes + np.float32([0, 0, 1, 1])

    def datasets(self, boxes):
        return boxes - np.float32([0, 0, 1, 1])

    def looked_at(self, rois, image):
        """In the scaled image."""
        return rois, image.data.shape[2:]

    def judged(self, rois, scales):
        return rois

    def back(self, boxes, size, new):
        return images.resized(boxes, size, new)

    def large(self, boxes):
        return (self.sides(boxes) >= LEAST_SIDE).all(1)

    def class_nms(self, dets, starts, thresh):
        classes = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        order = np.lexsort((-dets[:, 4], classes))  # best first, of equal ones the first
        boxes = torch.from_numpy(dets[order, :4])
        return order[box_lib.class_nms(boxes, starts.tolist(), thresh, self.offset).numpy()]

    def highest(self, scores, most):
        """No more than those; of equal ones the first."""
        return np.sort(np.argsort(-scores, kind='stable')[:most])

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


@dataclass(frozen=True)
class Tensorpack(Torchvision):
    """That of tensorpack's examples/FasterRCNN: common.py, modeling/model_{box,fpn,frcnn,rpn}.py, eval.py."""

    name: str = 'tensorpack'
    most: float = math.log(1344 / 16)  # the longest side of its images, in sixteenths
    nudge: float = 0.0
    side_nudge: float = 1e-6

    def scaled(self, im, means, short, long):
        """By OpenCV, in im's own numbers, to sides rounded to the nearest pixel."""
        sides = np.array(im.shape[:2]) * (short / min(im.shape[:2]))
        sides *= min(1, long / sides.max())
        height, width = (sides + 0.5).astype(int).tolist()
        pixels = cv2.resize(im, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.subtract(pixels, np.float32(means), dtype=np.float32), _mean_ratio(im.shape, pixels.shape)

    def back(self, boxes, size, new):
        """Over one factor, and cut."""
        return self.clip(boxes / np.float32(_mean_ratio(new, size)), new)

    def large(self, boxes):
        return slice(None)

    def least_side(self, setting, scale):
        """Any that there is."""
        return torch.finfo(torch.float32).tiny

    def inside(self, boxes, size):
        return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= size[1]) & (boxes[:, 3] <= size[0])

    def anchors(self, stride, scales, ratios):
        """Around the corner of the first cell, not rounded; side by side."""
        return torch.cat([centred(stride, [scale], ratios) for scale in scales])

    def strides(self, stride, shape, size):
        return stride, stride


def _mean_ratio(size, new):
    """By what the sides of `size` (height, width) become those of `new`: the geometric mean."""
    return math.sqrt(new[0] / size[0] * new[1] / size[1])


@dataclass(frozen=True)
class Detectron(Weighted):
    """facebookresearch/Detectron's: utils/{boxes,blob}.py, modeling/{FPN,generate_anchors}.py, ops/generate_proposals.py."""

    name: str = 'detectron'
    side_nudge: float = 1e-6
    divisor: int = COARSEST

    def decode(self, boxes, codes, weights=(1.0, 1.0, 1.0, 1.0)):
        """So that it is what encode has said: Caffe's ends a pixel later."""
        decoded = super().decode(boxes, codes, weights)
        return decoded - decoded.new_tensor([0, 0, 1, 1]).repeat(decoded.shape[1] // 4)

    def least_side(self, setting, scale):
        """A pixel of the original image, or more, at the least."""
        return (max(setting, 1) - 1) * scale + 1

    def window(self, size):
        """With what it is padded by."""
        return padded(np.array(size[:2], int), self.divisor).tolist()


FAMILIES = {
    family.name: family
    for family in (
        Caffe(),
        DetNet(),
        Torchvision(),
        Tensorpack(),
        Tensorpack('tensorpack_c4', most=math.log(1333 / 16), divisor=16),
        Detectron(),
        Detectron('detectron_c4', divisor=1),
    )
}


def family_of_net(net):
    """That which a net's layers of lib/fpn name; Caffe's where it has none."""
    return family_of_layers([layer.layer_param for layer in net.layers], net.name)


def family_of_layers(layers, name):
    """As family_of_net, of LayerParameters of the net `name`."""
    layers = [layer.python_param for layer in layers]
    names = {_named(layer.param_str) for layer in layers if layer.module.startswith('fpn.')}
    if len(names) > 1:
        raise ValueError(f'net {name!r} has layers of several families of boxes: {", ".join(sorted(names))}')
    return family_of(*names or {'caffe'})


@functools.cache
def _named(param_str):
    return parse_param_str(param_str)['boxes']


def family_of(name):
    if name not in FAMILIES:
        raise ValueError(f'boxes are of a family, {" or ".join(FAMILIES)}; got {name!r}')
    return FAMILIES[name]
