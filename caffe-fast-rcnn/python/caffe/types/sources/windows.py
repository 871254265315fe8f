"""WindowData: windows of images, labelled by their overlap with objects, as R-CNN (Girshick et al. 2014)
is trained on.

c is crop_size: every window is scaled to c x c pixels. Boxes are x1 y1 x2 y2, pixels from 0, ends included.
"""

import functools
import itertools
import math

import cv2
import numpy as np

from ...registry import layer
from .batch import BatchLayer
from .transformer import decode_image, read_file


@layer('WindowData')
class WindowData(BatchLayer):
    """Tops data (N, 3, c, c) and label (N,); fg_fraction of a batch is foreground and follows the background.

    source: for each image `# index`, path, channels, height, width, number of windows, and for each of these
    `class overlap x1 y1 x2 y2`. A window of overlap fg_threshold or more is foreground with its class, others
    below bg_threshold are background, class 0. Both are drawn with replacement. context_pad: pixels around a
    window after scaling. crop_mode square: the square around the window in its place. What lies outside the
    image is 0, that is the mean. A mean file's middle c x c pixels count. cache_images: files are read once.
    """

    fields = (
        'source',
        'batch_size',
        'fg_threshold',
        'bg_threshold',
        'fg_fraction',
        'context_pad',
        'crop_mode',
        'cache_images',
        'root_folder',
    )

    def samples(self, param, transformer):
        transformer.check_color(True)
        crop = transformer.crop[0]
        if not crop or crop != transformer.crop[1]:
            raise ValueError('transform_param: crop_size must be given')
        if param.crop_mode not in ('warp', 'square'):
            raise ValueError(f'crop_mode {param.crop_mode!r}; wanted warp or square')
        pad, square = param.context_pad, param.crop_mode == 'square'
        if crop <= 2 * pad:
            raise ValueError(f'context_pad {pad} on both sides leaves nothing of crop_size {crop}')
        mean = middle(transformer, crop)
        paths, groups = read_windows(param.source, param.fg_threshold, param.bg_threshold)
        foreground = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        counts = param.batch_size - foreground, foreground
        for what, rows, count in zip(('background', 'foreground'), groups, counts):
            if count and not len(rows):
                raise ValueError(f'{param.source} has no {what} windows; each batch wants {count}')
        read = functools.cache(read_file) if param.cache_images else read_file
        place = functools.partial(place_window, crop=crop, pad=pad, square=square)
        paths = [param.root_folder + path for path in paths]
        return window_samples(paths, list(zip(groups, counts)), read, place, mean, transformer)


def middle(transformer, crop):
    """The mean as an array that subtracts from (3, c, c): the middle of a mean file, or the mean values."""
    mean = transformer.mean
    if not transformer.mean_file:
        return transformer.mean_for((3, crop, crop), None)
    if len(mean) != 3 or min(mean.shape[1:]) < crop:
        raise ValueError(
            f'mean file {transformer.mean_file} has the shape {mean.shape}; wanted are 3 '
            f'channels of {crop} x {crop} or more'
        )
    y, x = ((n - crop) // 2 for n in mean.shape[1:])
    return mean[:, y : y + crop, x : x + crop]


def read_windows(source, fg_threshold, bg_threshold):
    """(paths, (background, foreground)) of a window file; the latter rows image, class, x1, y1, x2, y2."""
    paths, groups = [], ([], [])
    with open(source, encoding='utf-8', errors='surrogateescape') as f:
        tokens = (token for line in f for token in line.split())
        while header := list(itertools.islice(tokens, 7)):
            if len(header) != 7 or header[0] != '#' or not header[6].isdecimal():
                raise ValueError(
                    f'{source}, image {len(paths)}: wanted # index path channels height width '
                    f'windows, got {" ".join(header)!r}'
                )
            where, count = f'{source}, image {len(paths)} {header[2]}', int(header[6])
            values = list(itertools.islice(tokens, 6 * count))
            if len(values) != 6 * count:
                raise ValueError(f'{where}: the file ends within its {count} windows')
            values = np.reshape(values, (count, 6))
            for group, rows in zip(groups, split_windows(values, fg_threshold, bg_threshold, where)):
                rows[:, 0] = len(paths)
                group.append(rows)
            paths.append(header[2])
    if not paths:
        raise ValueError(f'{source} is empty')
    return paths, tuple(np.concatenate(group) for group in groups)


def split_windows(values, fg_threshold, bg_threshold, where):
    """(background, foreground) rows 0, class, x1, y1, x2, y2 of strings class, overlap, x1, y1, x2, y2."""
    try:
        overlaps, rows = values[:, 1].astype(np.float32), values[:, [0, 0, 2, 3, 4, 5]].astype(np.int64)
    except ValueError as error:
        raise ValueError(f'{where}: wanted integers but for overlap, a number: {error}') from error
    foreground = overlaps >= np.float32(fg_threshold)
    background = ~foreground & (overlaps < np.float32(bg_threshold))
    if (rows[foreground, 1] <= 0).any():
        raise ValueError(f'{where}: foreground of class {rows[foreground, 1].min()}; classes begin at 1')
    rows[background, 1] = 0
    return rows[background], rows[foreground]


def window_samples(paths, groups, read, place, mean, transformer):
    """Samples of windows: of each of the groups (rows, number) so many, round and round."""
    while True:
        for rows, count in groups:
            for _ in range(count):
                i, label, *box = rows[transformer.draw(len(rows))].tolist()
                mirror = transformer.mirror and transformer.draw(2) == 1
                image = decode_image(read(paths[i]), f'image {paths[i]}')
                name = f'window {box} of image {paths[i]}'
                try:
                    window = place(box, image.shape[:2], mirror)
                except ValueError as error:
                    raise ValueError(f'{name}: {error}') from error
                yield cut(image, *window, mirror, mean, transformer.scale, transformer.crop), label, name


def place_window(box, size, mirror, crop, pad, square):
    """Where a window is cut out and where it goes, as slices (y, x) of the image and of the c x c result.

    The window, or the square around it, is scaled so that `pad` pixels remain on each side, and these are
    filled from the image as far as it goes. size: the image's (height, width).
    """
    spans = (box[1], box[3]), (box[0], box[2])
    halves = [(high - low + 1) / 2 for low, high in spans]
    halves = [max(halves)] * 2 if square else halves
    if pad or square:
        axes = [expand(*span, half, n, crop, pad) for span, half, n in zip(spans, halves, size)]
    else:
        axes = [(*span, crop, 0, 0) for span in spans]
    source, target = [], []
    for (low, high, length, before, after), n, mirrored in zip(axes, size, (False, mirror)):
        start = after if mirrored else before
        end = min(start + length, crop)
        if not 0 <= low <= high < n or start >= end:
            raise ValueError(f'it is not within the image of {size} (height, width), or vanishes when scaled')
        source.append(slice(low, high + 1))
        target.append(slice(start, end))
    return tuple(source), tuple(target)


def expand(low, high, half, size, crop, pad):
    """One axis of a window of half-width `half`, widened about its centre until it has room for `pad`.

    Returns the first and last pixel of it that an axis of `size` pixels has, how many of `crop` pixels these
    become, and how many stay empty before and after them; with the original's rounding, in single precision.
    """
    centre = np.float32(low + (high - low + 1) / 2)
    half = np.float32(half) * (np.float32(crop) / np.float32(crop - 2 * pad))
    low, high = nearest(centre - half), nearest(centre + half)
    scale = np.float32(crop) / np.float32(high - low + 1)
    before, after = max(0, -low), max(0, high - size + 1)
    low, high = low + before, high - after
    return low, high, nearest((high - low + 1) * scale), nearest(before * scale), nearest(after * scale)


def nearest(value):
    """The nearest integer; halves go away from 0, as in C."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def cut(image, source, target, mirror, mean, scale, crop):
    """float32 (3, c, c): the pixels `source` of a BGR image (H, W, 3), scaled into the place `target`."""
    height, width = (s.stop - s.start for s in target)
    pixels = cv2.resize(image[source], (width, height))
    result = np.zeros((3, *crop), np.float32)
    place = (slice(None), *target)
    result[place] = (pixels[:, ::-1] if mirror else pixels).transpose(2, 0, 1)
    result[place] -= np.broadcast_to(mean, result.shape)[place]
    return result * scale
