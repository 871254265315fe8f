"""How training looks at an image: what is drawn for it, and its pixels and boxes under that.

G objects and R boxes of an image, as x1 y1 x2 y2, pixels inclusive. Draws come from numpy's global generator: the target
sizes of all images of a minibatch first, then for each image those of the settings that are on, in this order: its factor,
its mirror image, its crop, its colours. What is off draws nothing.
"""

from typing import NamedTuple

import cv2
import numpy as np
import numpy.random as npr

from datasets.record import FIELDS, Crowds, Record, mirror_boxes
from utils.cython_bbox import bbox_overlaps

LONGEST = 2  # times its short side, of a crop
TRIALS = 40  # of a crop


class Crop(NamedTuple):
    """Pixels, inclusive. centred: a box whose centre is outside goes; otherwise one of which no more than a row or a
    column of pixels is left."""

    x1: int
    y1: int
    x2: int
    y2: int
    centred: bool


class Colours(NamedTuple):
    """Added to pixels in 0..255, times them, times their saturation, degrees added to their hue; contrast_first: whether
    contrast changes before the last two."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    contrast_first: bool


class Look(NamedTuple):
    """size: wanted of the short side, in pixels; mirrored: once more than the roidb's entry is; crop of the image so
    turned, colours: None where nothing changes."""

    size: float
    mirrored: bool = False
    crop: Crop = None
    colours: Colours = None

    @property
    def moves(self):
        """Whether boxes change, but for their scale."""
        return self.mirrored or self.crop is not None


def check_looks(train):
    """ValueError for settings cfg.TRAIN that make no sense."""
    for name, least, most in (
        ('SCALE_JITTER', 0, np.inf),
        ('CROP_SIDES', 0, 1),
        ('CONTRAST', 0, np.inf),
        ('SATURATION', 0, np.inf),
    ):
        values = train[name]
        if len(values) != 2 or not least < values[0] <= values[1] <= most:
            raise ValueError(f'TRAIN.{name} wants two numbers, {least} < low <= high <= {most}; got {values}')
    for name in 'FLIP_PROB', 'CROP_PROB', 'DISTORT_PROB':
        if not 0 <= train[name] <= 1:
            raise ValueError(f'TRAIN.{name} wants a probability in 0..1, got {train[name]}')
    if not train.CROP_OVERLAPS:
        raise ValueError('TRAIN.CROP_OVERLAPS wants one overlap at least, got none')


def draws_looks(train):
    """Whether it depends on draws how an image is looked at, by the settings cfg.TRAIN."""
    return len(train.SCALES) > 1 or _jitters(train) or moves_boxes(train) or train.DISTORT_PROB > 0


def moves_boxes(train):
    """Whether boxes may change, but for their scale, by the settings cfg.TRAIN."""
    return train.FLIP_PROB > 0 or train.ASPECT_CROPPING or train.CROP_PROB > 0


def draw_looks(train, roidb, random=npr):
    """A Look for each entry, by the settings cfg.TRAIN."""
    sizes = [train.SCALES[i] for i in random.randint(0, high=len(train.SCALES), size=len(roidb))]
    return [_drawn(train, entry, size, random) for entry, size in zip(roidb, sizes)]


def _jitters(train):
    return tuple(train.SCALE_JITTER) != (1, 1)


def _drawn(train, entry, size, random):
    if _jitters(train):
        size = int(round(size * random.uniform(*train.SCALE_JITTER)))
    mirrored = train.FLIP_PROB > 0 and bool(random.rand() < train.FLIP_PROB)
    crop = None
    if train.CROP_PROB > 0 and random.rand() < train.CROP_PROB:
        crop = _overlapping_crop(train, _objects(entry, mirrored), entry['width'], entry['height'], random)
    elif train.ASPECT_CROPPING and max(_sides(entry)) > LONGEST * min(_sides(entry)):
        crop = _shorter(_objects(entry, mirrored), *_sides(entry), random)
    return Look(size, mirrored, crop, _drawn_colours(train, random) if train.DISTORT_PROB > 0 else None)


def _sides(entry):
    return entry['width'], entry['height']


def _objects(entry, mirrored):
    """(G, 4) of an entry's image, or of its mirror image."""
    boxes = entry['boxes'][np.asarray(entry['gt_classes']) != 0]
    return mirror_boxes(boxes, entry['width']) if mirrored else boxes


def _shorter(objects, width, height, random):
    """A crop LONGEST times as long as it is broad."""
    axis, length = int(height > width), LONGEST * min(width, height)
    begins, ends = np.floor(objects[:, axis]), np.ceil(objects[:, axis + 2])
    begin = _place(begins, ends, length, max(width, height), random)
    crop = [0, 0, width - 1, height - 1]
    crop[axis], crop[axis + 2] = begin, begin + length - 1
    return Crop(*crop, False)


def _place(begins, ends, length, whole, random):
    """Where so many pixels of `whole` begin that hold all objects, of which begins and ends (G,) are known; where these
    take more, that hold one of them, which is drawn, or lie in it."""
    first, last = 0, whole - length
    if len(begins):
        low, high = begins.min(), ends.max()
        if high - low >= length:
            one = random.randint(len(begins))
            low, high = begins[one], ends[one]
        first, last = np.clip(sorted((low, high - length + 1)), first, last).astype(int)
    return int(random.randint(first, last + 1))


def _overlapping_crop(train, objects, width, height, random):
    """The first of TRIALS crops that has the centre of an object whose overlap with it is one of CROP_OVERLAPS, drawn; or
    None. An image without objects takes any."""
    overlap = train.CROP_OVERLAPS[random.randint(len(train.CROP_OVERLAPS))]
    draws, (low, high) = random.rand(TRIALS, 4), train.CROP_SIDES
    if overlap >= 1:
        return None
    whole = np.array([width, height])
    sides = np.maximum((whole * (low + (high - low) * draws[:, :2])).astype(int), 1)
    begins = ((whole - sides + 1) * draws[:, 2:]).astype(int)
    crops = np.hstack([begins, begins + sides - 1])
    good = sides.max(1) <= LONGEST * sides.min(1)
    if len(objects):
        met = bbox_overlaps(crops.astype(float), objects.astype(float))
        met[~_centres_inside(objects[None], crops[:, None])] = -1
        good &= met.max(1) >= overlap
    return Crop(*crops[good.argmax()].tolist(), True) if good.any() else None


def _centres_inside(boxes, crops):
    """Of boxes and crops (..., 4)."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    return ((centres >= crops[..., :2]) & (centres <= crops[..., 2:])).all(-1)


def _drawn_colours(train, random):
    draws, values = random.rand(4) < train.DISTORT_PROB, random.rand(4)
    contrast_first = bool(random.rand() < 0.5)
    ranges = (
        (-train.BRIGHTNESS_DELTA, train.BRIGHTNESS_DELTA),
        train.CONTRAST,
        train.SATURATION,
        (-train.HUE_DELTA, train.HUE_DELTA),
    )
    colours = [
        float(low + (high - low) * value) if drawn else unchanged
        for (low, high), drawn, value, unchanged in zip(ranges, draws, values, (0.0, 1.0, 1.0, 0.0))
    ]
    return Colours(*colours, contrast_first) if draws.any() else None


# -------------------------------------------------------------------------------------------- under a look


def seen(im, look):
    """The pixels (h, w, 3) uint8 BGR of an image as its roidb entry has it."""
    im = placed(cv2.flip(im, 1) if look.mirrored else im, look)
    return coloured(im, look.colours) if look.colours else im


def placed(pixels, look):
    """What a look's crop leaves of pixels (H, W, ...): a view."""
    crop = look.crop
    return pixels[crop.y1 : crop.y2 + 1, crop.x1 : crop.x2 + 1] if crop else pixels


def seen_masks(masks, flipped, look, size):
    """Masks (H, W, G) uint8 of an image as it is on disk, its roidb entry being flipped or not, under a look that is
    scaled to `size` -> (G, h, w) uint8: of each pixel the one its corner lies in, as torchvision scales them
    (models/detection/transform.py)."""
    masks = placed(masks[:, ::-1] if flipped != look.mirrored else masks, look)
    rows, columns = (_nearest(*sides) for sides in zip(masks.shape, size))
    return masks.transpose(2, 0, 1)[:, rows[:, None], columns]


def _nearest(old, new):
    """Of a side of `old` pixels, those (new,) that one of `new` shows; in float32, as torch's interpolate."""
    return np.minimum(np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new)), old - 1).astype(
        int
    )


def coloured(im, colours):
    """As SSD distorts pixels (Liu et al. 2015, arXiv 1512.02325, section 3.6), uint8 to uint8."""
    levels = np.clip(np.arange(256, dtype=np.float32) + np.float32(colours.brightness), 0, 255)
    if colours.contrast_first:
        levels = np.clip(levels * np.float32(colours.contrast), 0, 255)
    im = cv2.LUT(np.ascontiguousarray(im), levels)
    if colours.saturation != 1 or colours.hue:
        hsv = cv2.cvtColor(im / np.float32(255), cv2.COLOR_BGR2HSV)  # degrees, 0..1, 0..1
        hsv[..., 0] = (hsv[..., 0] + np.float32(colours.hue)) % 360
        hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(colours.saturation), 1)
        im = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * np.float32(255)
    if not colours.contrast_first:
        im = im * np.float32(colours.contrast)
    return np.clip(np.rint(im), 0, 255).astype(np.uint8)


def moved(boxes, look, width):
    """Boxes (R, 4) of an image of this width as a look has them, less those that it has not; which are kept (R,)."""
    if look.mirrored:
        boxes = mirror_boxes(boxes, width)
    if not look.crop:
        return boxes, np.ones(len(boxes), bool)
    crop = np.array(look.crop[:4], boxes.dtype)
    low, high = np.tile(crop[:2], 2), np.tile(crop[2:], 2)
    cut = np.clip(boxes, low, high)
    if look.crop.centred:
        kept = _centres_inside(boxes, crop)
    else:
        uncut = (cut == boxes).reshape(-1, 2, 2).all(1)
        kept = (uncut | (cut[:, 2:] > cut[:, :2])).all(1)
    return (cut - low)[kept], kept


def moved_record(entry, look):
    """A roidb entry, its boxes as a look has them; ValueError where those cannot be moved."""
    if not look.moves:
        return entry
    if not isinstance(entry, Record) or set(entry.own or ()) - set(FIELDS):
        raise ValueError(
            f'{entry["image"]}: TRAIN.FLIP_PROB, ASPECT_CROPPING and CROP_PROB move proposals of Records (datasets.record) '
            'alone: where a roidb holds overlaps or targets of its own, they would not follow'
        )
    boxes, kept = moved(entry['boxes'], look, entry.width)
    objects = np.count_nonzero(kept[: len(entry.objects)])
    record = Record(
        boxes[:objects],
        entry.classes[kept[: len(entry.objects)]],
        entry.num_classes,
        image=entry.image,
        proposals=None if entry.given is None else boxes[objects:],
        difficult=entry.difficult,
        crowds=entry.crowds and _moved_crowds(entry, look),
    )
    record.targets = entry.targets
    return record


def _moved_crowds(entry, look):
    boxes = entry.crowds.boxes
    boxes = moved(mirror_boxes(boxes, entry.width) if entry.mirror else boxes, look, entry.width)[0]
    return Crowds(np.array([0, len(boxes)]), boxes, entry.crowds.thresh)
