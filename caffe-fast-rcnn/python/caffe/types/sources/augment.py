"""Images with boxes, changed together, as SSD trains on them: transform_param's fields for boxes, and batch samplers.

Liu et al., SSD: Single Shot MultiBox Detector, 2016, section 2.2 and 3.6. Shape letters: an image (H, W, K) of bytes,
BGR; T objects, rows of class, instance, x1, y1, x2, y2, difficult, the box relative to the image: 0..1; S samples.
A window is such a box of an image, and may be larger than it.
"""

import cv2
import numpy as np
import torch

from ...proto import caffe_pb2
from .transformer import Transformer

BOX = slice(2, 6)  # columns of a box in a row
_HUE, _SATURATION = 0, 1  # channels of HSV
_INTERPOLATIONS = {
    'LINEAR': cv2.INTER_LINEAR,
    'AREA': cv2.INTER_AREA,
    'NEAREST': cv2.INTER_NEAREST,
    'CUBIC': cv2.INTER_CUBIC,
    'LANCZOS4': cv2.INTER_LANCZOS4,
}
_BORDERS = {
    'CONSTANT': cv2.BORDER_CONSTANT,
    'MIRRORED': cv2.BORDER_REFLECT101,
    'REPEAT_NEAREST': cv2.BORDER_REPLICATE,
}


class BoxTransformer(Transformer):
    """Images and their boxes: distort, expand, `sampled` by batch samplers, resize, then as Transformer.

    emit_constraint says which objects a window keeps: those whose centre lies in it (CENTER), or of whose area
    more than emit_overlap does (MIN_OVERLAP); without it all that it touches. They are clipped to it.
    """

    fields = (*Transformer.fields, 'resize_param', 'distort_param', 'expand_param', 'emit_constraint')

    def __init__(self, param, phase, generator):
        super().__init__(param, phase, generator)
        self.param, resize = param, param.resize_param
        if param.HasField('resize_param') and not (resize.height and resize.width):
            raise ValueError('transform_param: resize_param wants height and width')
        if resize.height_scale or resize.width_scale:
            raise ValueError(
                'transform_param: height_scale and width_scale of resize_param are not supported'
            )
        if param.HasField('resize_param') and resize.prob != 1:
            raise ValueError(
                'transform_param: prob of resize_param is not supported: images must be of one size'
            )
        if param.HasField('expand_param') and self.mean_file:
            raise ValueError(
                'transform_param: expand_param fills with mean_value; it does not go with mean_file'
            )

    def uniform(self, low, high, *shape):
        """Numbers from low to high: an array, or one number without a shape."""
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64).numpy()
        return low + (high - low) * drawn

    def coin(self, probability):
        return self.uniform(0, 1) < probability

    # 1. colours

    def distort(self, image, name):
        """Brightness, contrast, saturation, hue and the order of channels, each with its probability; contrast comes
        second or, as often, after the hue."""
        if not self.param.HasField('distort_param'):
            return image
        if image.dtype != np.uint8 or image.shape[2] != 3:
            raise ValueError(
                f'{name}: distort_param wants bytes in 3 channels; got {image.dtype} in {image.shape[2]}'
            )
        p = self.param.distort_param
        colours = [self._saturation, self._hue]
        at = 0 if self.coin(0.5) else 2
        for change in (self._brightness, *colours[:at], self._contrast, *colours[at:]):
            image = change(image, p)
        if self.coin(p.random_order_prob):
            image = image[:, :, torch.randperm(3, generator=self.generator).numpy()]
        return image

    def _brightness(self, image, p):
        if not self.coin(p.brightness_prob):
            return image
        return _bytes(image + self.uniform(-p.brightness_delta, p.brightness_delta))

    def _contrast(self, image, p):
        if not self.coin(p.contrast_prob):
            return image
        return _bytes(image * self.uniform(p.contrast_lower, p.contrast_upper))

    def _saturation(self, image, p):
        if not self.coin(p.saturation_prob):
            return image
        factor = self.uniform(p.saturation_lower, p.saturation_upper)
        return _in_hsv(image, _SATURATION, lambda values: values * factor)

    def _hue(self, image, p):
        """hue_delta is in OpenCV's steps of two degrees."""
        if not self.coin(p.hue_prob):
            return image
        delta = self.uniform(-p.hue_delta, p.hue_delta)
        return _in_hsv(image, _HUE, lambda values: values + delta)

    # 2. windows

    def expand(self, image, rows):
        """The image somewhere in one up to max_expand_ratio times as high and wide, filled with the mean."""
        p = self.param.expand_param
        if not self.param.HasField('expand_param') or not self.coin(p.prob) or p.max_expand_ratio <= 1:
            return image, rows
        ratio = self.uniform(1, p.max_expand_ratio)
        height, width = (int(n * ratio) for n in image.shape[:2])
        y, x = (int(self.uniform(0, n - m)) for n, m in zip((height, width), image.shape))
        larger = np.empty((height, width, image.shape[2]), image.dtype)
        larger[:] = np.rint(self.mean_for(image.transpose(2, 0, 1).shape, None).reshape(-1))
        larger[y : y + image.shape[0], x : x + image.shape[1]] = image
        size = np.float32(image.shape[1::-1])
        window = np.concatenate([np.divide((-x, -y), size), np.divide((width - x, height - y), size)])
        return larger, self.kept(rows, window)

    def sampled(self, image, rows, samplers):
        """One of the windows that the batch samplers find, anyone with the same chance, or the whole image."""
        found = [self._windows(rows[:, BOX], s) for s in samplers if s.use_original_image]
        found = np.concatenate(found) if found else np.empty((0, 4))
        return self.cut(image, rows, found[self.draw(len(found))]) if len(found) else (image, rows)

    def _windows(self, boxes, sampler):
        """Windows (S, 4): of max_trials drawn ones, the first max_sample that satisfy the constraint.

        scale and aspect ratio are drawn evenly, the ratio between scale^2 and 1 / scale^2: a window is scale
        sqrt(ratio) wide and scale / sqrt(ratio) high, and lies within the image.
        """
        how, count = sampler.sampler, sampler.max_trials
        if not (0 < how.min_scale <= how.max_scale <= 1 and 0 < how.min_aspect_ratio <= how.max_aspect_ratio):
            raise ValueError(
                'batch_sampler wants 0 < min_scale <= max_scale <= 1 and 0 < min_aspect_ratio <= max_aspect_ratio; got '
                f'{how.min_scale:g}, {how.max_scale:g}, {how.min_aspect_ratio:g}, {how.max_aspect_ratio:g}'
            )
        scale = self.uniform(how.min_scale, how.max_scale, count)
        ratio = self.uniform(how.min_aspect_ratio, how.max_aspect_ratio, count)
        ratio = np.clip(ratio, scale**2, scale**-2) ** 0.5
        size = np.stack([scale * ratio, scale / ratio], 1).clip(max=1)
        start = self.uniform(0, 1 - size, count, 2)
        windows = np.concatenate([start, start + size], 1)
        windows = windows[satisfied(windows, boxes, sampler.sample_constraint)]
        return windows[: sampler.max_sample] if sampler.HasField('max_sample') else windows

    def cut(self, image, rows, window):
        """The whole pixels of a window within the image, and the objects that it keeps."""
        size = np.array(image.shape[1::-1])
        start = np.minimum((window[:2] * size).astype(int), size - 1)
        count = np.maximum((window[2:] * size - window[:2] * size).astype(int), 1)
        end = np.minimum(start + count, size)
        rows = self.kept(rows, np.concatenate([start / size, end / size]))
        return image[start[1] : end[1], start[0] : end[0]], rows

    def kept(self, rows, window):
        """The objects that a window keeps, relative to it."""
        boxes = rows[:, BOX]
        good = np.ones(len(rows), bool)
        if self.param.HasField('emit_constraint'):
            good = _emitted(boxes, window, self.param.emit_constraint)
        start, size = window[:2], window[2:] - window[:2]
        inside = ((boxes - np.tile(start, 2)) / np.tile(size, 2)).clip(0, 1)
        good &= (inside[:, 2:] > inside[:, :2]).all(1)
        rows = rows.copy()
        rows[:, BOX] = inside
        return rows[good]

    # 3. size

    def resize(self, image, rows):
        """WARP: to height and width. FIT_LARGE_SIZE_AND_PAD: within them, centred, the rest padded.
        FIT_SMALL_SIZE: around them. interp_mode: one of those given, else linear."""
        if not self.param.HasField('resize_param'):
            return image, rows
        p = self.param.resize_param
        modes = [p.Interp_mode.Name(m) for m in p.interp_mode] or ['LINEAR']
        mode = _INTERPOLATIONS[modes[self.draw(len(modes))]]
        width, height = fitted(image.shape[1], image.shape[0], p)
        image = cv2.resize(image, (width, height), interpolation=mode).reshape(height, width, -1)
        if p.resize_mode != p.FIT_LARGE_SIZE_AND_PAD:
            return image, rows
        left, top = (p.width - width) // 2, (p.height - height) // 2
        pads = top, p.height - height - top, left, p.width - width - left
        if len(p.pad_value) not in (0, 1, image.shape[2]):
            raise ValueError(f'resize_param: {len(p.pad_value)} pad_value for {image.shape[2]} channels')
        value = list(p.pad_value) * (image.shape[2] if len(p.pad_value) == 1 else 1)
        border = _BORDERS[p.Pad_mode.Name(p.pad_mode)]
        image = cv2.copyMakeBorder(image, *pads, border, value=value).reshape(p.height, p.width, -1)
        rows = rows.copy()
        size = np.tile([p.width, p.height], 2)
        rows[:, BOX] = (rows[:, BOX] * np.tile([width, height], 2) + np.tile([left, top], 2)) / size
        return image, rows

    # all

    def with_boxes(self, image, rows, samplers, name):
        """(image (K, h, w) float32, rows) of an image (K, H, W) and rows (T, 7)."""
        image = self.distort(image.transpose(1, 2, 0), name)
        image, rows = self.expand(image, rows)
        image, rows = self.sampled(image, rows, samplers)
        image, rows = self.resize(image, rows)
        image = image.transpose(2, 0, 1)
        mirror, (y, x) = self.place(image.shape, name)
        rows = self.kept(rows, _as_window(y, x, image.shape))
        if mirror:
            rows[:, [2, 4]] = 1 - rows[:, [4, 2]]
        return self.seen(image, mirror, (y, x), name), rows


def _bytes(values):
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _in_hsv(image, channel, change):
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2HSV)
    hsv[:, :, channel] = _bytes(change(hsv[:, :, channel].astype(np.float64)))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _as_window(y, x, shape):
    """The window of slices of an image (K, H, W)."""
    (top, bottom, _), (left, right, _) = y.indices(shape[1]), x.indices(shape[2])
    return np.array([left / shape[2], top / shape[1], right / shape[2], bottom / shape[1]])


def fitted(width, height, resize):
    """(width, height) in pixels that resize_param makes of an image's, before padding."""
    wide = width / height > resize.width / resize.height
    if resize.resize_mode == resize.WARP or width * resize.height == height * resize.width:
        return resize.width, resize.height
    if wide == (resize.resize_mode == resize.FIT_LARGE_SIZE_AND_PAD):
        return resize.width, max(1, resize.width * height // width)
    return max(1, resize.height * width // height), resize.height


def areas(boxes):
    """Of boxes (..., 4); 0 where an end is not behind its start."""
    return (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)


def shared(a, b):
    """Areas (A, B) that boxes a (A, 4) and b (B, 4) have in common."""
    a = a[:, None]
    return areas(np.concatenate([np.maximum(a[..., :2], b[:, :2]), np.minimum(a[..., 2:], b[:, 2:])], -1))


def satisfied(windows, boxes, constraint):
    """Which of windows (S, 4) satisfy a SampleConstraint with at least one of boxes (T, 4): bool (S,).

    Its limits, each included: of the intersection over the union (jaccard_overlap), over the window
    (sample_coverage), over the object (object_coverage). All satisfy one without limits.
    """
    limits = {f.name: value for f, value in constraint.ListFields()}
    if not limits:
        return np.ones(len(windows), bool)
    common, own, area = shared(windows, boxes), areas(windows)[:, None], areas(boxes)
    whole = {
        'jaccard_overlap': own + area - common,
        'sample_coverage': own,
        'object_coverage': np.broadcast_to(area, common.shape),
    }
    good = np.ones(common.shape, bool)
    for name, limit in limits.items():
        end, what = name.split('_', 1)
        share = np.divide(common, whole[what], out=np.zeros_like(common), where=whole[what] > 0)
        good &= share >= limit if end == 'min' else share <= limit
    return good.any(1)


def _emitted(boxes, window, constraint):
    """Which boxes (T, 4) an EmitConstraint leaves in a window."""
    if constraint.emit_type == caffe_pb2.EmitConstraint.CENTER:
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return ((centre >= window[:2]) & (centre <= window[2:])).all(1)
    area = areas(boxes)
    return (area > 0) & (shared(boxes, window[None])[:, 0] > constraint.emit_overlap * area)
