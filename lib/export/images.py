"""Pictures as a net wants them: where they come from, their sizes, and, in the graph, what OpenCV and torch do to them.

A picture is (H, W, 3) uint8, blue first; h, w: its sides once it is scaled.
"""

from dataclasses import dataclass

import numpy as np

from export.graph import Value
from fast_rcnn.config import cfg
from fpn.boxes import Tensorpack, Torchvision


@dataclass
class Sizes:
    """Of a picture, float32 sizes: height, width; rows, columns: these once it is scaled; by what it is scaled."""

    height: Value
    width: Value
    rows: Value
    columns: Value
    scale: Value


def tensors_in(graph, family):
    """Inputs data, im_info, im_size -> data (1, 3, h', w'), padded as the family's nets want it; im_info; Sizes."""
    doc = 'the picture less its means, blue first, scaled'
    data = graph.input('data', 'float32', [1, 3, 'h', 'w'], doc)
    im_info = graph.input('im_info', 'float32', [1, 3], 'height, width of data, by what it was scaled')
    im_size = graph.input('im_size', 'float32', [1, 2], 'height, width of the picture')
    numbers = [im_info.reshape(-1).cut(0, i, i + 1) for i in range(3)]
    height, width = (im_size.reshape(-1).cut(0, i, i + 1) for i in range(2))
    return padded(data, family.divisor), im_info, Sizes(height, width, *numbers)


def picture_in(graph, family):
    """Input image -> the same as tensors_in."""
    image = graph.input('image', 'uint8', ['H', 'W', 3], 'a picture, blue first')
    height, width = image.dim(0), image.dim(1)
    rows, columns, steps, scale = scaled_sides(height.cast(np.float64), width.cast(np.float64), family)
    pixels, means = image.cast(np.float32), np.float32(cfg.PIXEL_MEANS).reshape(3)
    across, down = Taps(1, width, columns, steps[1]), Taps(0, height, rows, steps[0])
    if isinstance(family, Tensorpack):
        pixels = in_whole_numbers(pixels, across, down) - means
    else:
        pixels = down.mean(across.mean(pixels - means))
    data = padded(pixels.transpose(2, 0, 1).unsqueeze(0), family.divisor)
    sizes = Sizes(*(side.cast(np.float32) for side in (height, width, rows, columns, scale)))
    im_info = graph.join([sizes.rows, sizes.columns, sizes.scale], 0).unsqueeze(0)
    return data, im_info, sizes


def scaled_sides(height, width, family):
    """Of float64 sides -> the sides once scaled (int64); how far from one row to the next, one column to the next, in the
    picture's pixels; the factor. As `scaled` of the family has it."""
    short, long = float(cfg.TEST.SCALES[0]), float(cfg.TEST.MAX_SIZE)
    least, most = height.minimum(width), height.maximum(width)
    if isinstance(family, Tensorpack):
        scale = short / least
        scale = scale * (long / (most * scale)).minimum(1)
        sides = [(side * scale + 0.5).op('Floor') for side in (height, width)]
        scale = (sides[0] / height * (sides[1] / width)).op('Sqrt')
    elif isinstance(family, Torchvision):
        scale = (short / least.cast(np.float32)).minimum(long / most.cast(np.float32)).cast(np.float64)
        sides = [(side * scale).op('Floor') for side in (height, width)]
    else:
        scale = short / least
        scale = ((scale * most).op('Round') > long).where(long / most, scale)
        sides = [(side * scale).op('Round') for side in (height, width)]
        return *(side.cast(np.int64) for side in sides), [1 / scale] * 2, scale
    steps = [whole / side for whole, side in zip((height, width), sides)]
    return *(side.cast(np.int64) for side in sides), steps, scale


class Taps:
    """`new` values along an axis (0 or 1) of `count`: value i lies at (i + 1/2) step - 1/2, on the rim where that is beyond it; the
    two cells beside it, and the share of the second."""

    def __init__(self, axis, count, new, step):
        at = (new.graph.arange(new, np.float64) + 0.5) * step - 0.5
        last = (count - 1).cast(np.float32)
        at = at.cast(np.float32).maximum(0).minimum(last)
        low = at.op('Floor')
        self.axis, self.share = axis, (at - low).unsqueeze(*range(1, 3 - axis))
        self.cells = [cell.cast(np.int64) for cell in (low, (low + 1).minimum(last))]

    def ends(self, pixels):
        return [pixels.take(cells, self.axis) for cells in self.cells]

    def mean(self, pixels):
        near, far = self.ends(pixels)
        return near * (1 - self.share) + far * self.share

    def whole_shares(self):
        """Of the first and the second, in 2048ths."""
        return [(share * 2048).op('Round').cast(np.float64) for share in (1 - self.share, self.share)]


def in_whole_numbers(pixels, across, down):
    """As OpenCV scales uint8: rows first become sums of 2048ths, of which columns take those of 16 and drop what is less than a
    65536th; all numbers are whole."""
    near, far = across.ends(pixels.cast(np.float64))
    first, second = across.whole_shares()
    sums = ((near * first + far * second) / 16).op('Floor')
    parts = [(end * share / 65536).op('Floor') for end, share in zip(down.ends(sums), down.whole_shares())]
    return ((parts[0] + parts[1] + 2) / 4).op('Floor').cast(np.float32)


def padded(data, divisor):
    """data (1, 3, h, w) with zeros below and to the right, its sides whole divisors."""
    if divisor == 1:
        return data
    graph = data.graph
    more = [data.dim(axis).ceil_by(divisor) * divisor - data.dim(axis) for axis in (2, 3)]
    return graph.op('Pad', data, graph.size(0, 0, 0, 0, 0, 0, *more))
