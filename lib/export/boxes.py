"""Each family's box arithmetic (fpn.boxes), on Values: boxes (..., 4) x1 y1 x2 y2; sizes of one element each.

`decode` and the rest take the family first, and do what its method of that name does.
"""

import math

import numpy as np

from fpn.boxes import CANONICAL_LEVEL, CANONICAL_SIDE, COARSEST, Detectron, DetNet, Tensorpack, Torchvision


def part(boxes, start, end):
    """Columns of boxes."""
    return boxes.cut(-1, start, end)


def join(*parts):
    return parts[0].graph.join(parts, -1)


def sides(boxes, family):
    return part(boxes, 2, 4) - part(boxes, 0, 2) + family.offset


def decode(family, boxes, codes, weights=(1.0,) * 4):
    """Boxes that codes (..., 4) make of boxes, which they broadcast with."""
    size, codes = sides(boxes, family), _weighed(codes, weights, lambda a, b: a / b)
    centre = part(boxes, 0, 2) + size * 0.5
    moves, logs = part(codes, 0, 2), part(codes, 2, 4)
    logs = logs if family.most == math.inf else logs.minimum(family.most)
    centre, half = moves * size + centre, logs.op('Exp') * size * 0.5
    moved = join(centre - half, centre + half)
    return moved - np.float32([0, 0, 1, 1]) if isinstance(family, Detectron) else moved


def encode(family, boxes, objects, weights):
    size, wanted = sides(boxes, family), sides(objects, family)
    move = (part(objects, 0, 2) + wanted * 0.5) - (part(boxes, 0, 2) + size * 0.5)
    return _weighed(join(move / size, (wanted / size).op('Log')), weights, lambda a, b: a * b)


def _weighed(codes, weights, by):
    return codes if set(weights) == {1.0} else by(codes, np.float32(weights))


def clip(family, boxes, height, width):
    """Cut to an image; height, width: sizes, float32."""
    limits = join(width, height, width, height) - family.offset
    return boxes.maximum(0).minimum(limits)


def window(family, height, width):
    """What proposals of an image are cut to."""
    if not isinstance(family, Detectron):
        return height, width
    return tuple(
        (side.cast(np.int64).ceil_by(family.divisor) * family.divisor).cast(np.float32)
        for side in (height, width)
    )


def strides(family, stride, shape, size):
    """Pixels from anchor to anchor, down and across, of a map of `shape` of an input of `size`, sizes."""
    if not isinstance(family, Torchvision) or isinstance(family, Tensorpack):
        return stride, stride
    whole = min(stride, COARSEST)
    return tuple((side.ceil_by(whole) * whole // cells).cast(np.float32) for side, cells in zip(size, shape))


def grid(anchors, shape, stride, graph):
    """Anchors (A, 4), an array, at every position of a map of this shape: (H W A, 4)."""
    down, across = (graph.arange(size) * step for size, step in zip(shape, stride))
    rows, columns = down.reshape(-1, 1, 1), across.reshape(1, -1, 1)
    full = graph.size(*shape, 1)
    rows, columns = (value.op('Expand', full) for value in (rows, columns))
    shifts = join(columns, rows, columns, rows).unsqueeze(2)
    return (shifts + np.float32(np.asarray(anchors))).reshape(-1, 4)


def level_of(boxes, family, first, count):
    """The level (R,) int64, from 0 for `first`, of `count`, that suits each of boxes: one more for each bound that its side
    reaches."""
    size = sides(boxes, family)
    side = (part(size, 0, 1) * part(size, 1, 2)).op('Sqrt').squeeze(1) / CANONICAL_SIDE + family.side_nudge
    level = boxes.graph.full(boxes.dim(0), 0, np.int64)
    for i in range(1, count):
        level = level + (side >= 2.0 ** (first + i - CANONICAL_LEVEL - family.nudge)).cast(np.int64)
    return level


# ---------------------------------------------------------------------------------------------- suppression


def below(thresh):
    """The largest float32 below thresh: more than it is thresh or more."""
    return np.nextafter(np.float32(thresh), np.float32(-np.inf))


def nms(family, boxes, scores, thresh, most=None, least=None):
    """Boxes (C, n, 4) and scores (C, n) of C classes -> (m, 2) int64: class and place of what is kept, class by class, best
    first. Dropped: overlap above thresh with a kept one. most: so many of a class, a size; least: scores above it alone."""
    graph = boxes.graph
    edges = boxes + np.float32([0, 0, family.offset, family.offset]) if family.offset else boxes
    most = boxes.dim(1) if most is None else graph.size(most)
    options = [] if least is None else [graph.const([least])]
    kept = graph.op(
        'NonMaxSuppression', edges, scores.unsqueeze(1), most, graph.const([thresh]), *options, dtype=np.int64
    )
    return kept.take(graph.const([0, 2], np.int64), 1)


# ---------------------------------------------------------------------------------------------- an image's pixels


def in_scaled(family):
    """Whether RoIs are judged in the scaled image, not in the image itself."""
    return isinstance(family, (DetNet, Torchvision))


def back(family, boxes, image):
    """Boxes, as they are judged, in the pixels of the image; image: export.images.Sizes."""
    if isinstance(family, Tensorpack):
        ratio = (image.rows / image.height * (image.columns / image.width)).op('Sqrt')
        return clip(family, boxes / ratio, image.height, image.width)
    if isinstance(family, Torchvision):
        return boxes * _ratios(image)
    if isinstance(family, DetNet):
        short = image.rows.minimum(image.columns)
        return boxes * (image.height.minimum(image.width) / short)
    return boxes


def shown(family, boxes, image):
    """Boxes in the pixels of the image where the net sees them."""
    return boxes / _ratios(image) if isinstance(family, Torchvision) else boxes * image.scale


def _ratios(image):
    down, across = image.height / image.rows, image.width / image.columns
    return join(across, down, across, down)
