"""Images as the nets want them: read, mean subtracted, scaled, stacked into a blob (N, 3, H, W), BGR."""

import logging
import os

import cv2
import numpy as np
from caffe.format.images import BROKEN, check_size
from PIL import Image, ImageOps, UnidentifiedImageError

log = logging.getLogger(__name__)


def read_image(path):
    """The image at `path`, uint8 (H, W, 3) BGR, its pixels as stored (EXIF rotation is not applied). A JPEG file that
    is cut off is named in the log, once."""
    _check_size(path)
    try:
        im = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise OSError(f'{path}: not an image that OpenCV can read ({error.err})') from None
    if im is None:
        why = 'not an image that OpenCV can read' if os.path.exists(path) else 'no such file'
        raise OSError(f'{path}: {why}')
    _name_cut_off(path)
    return im


def _check_size(path):
    try:
        check_size(path, os.path.getsize(path) if os.path.exists(path) else 0, path)
    except ValueError as error:
        raise OSError(*error.args) from None


def _name_cut_off(path):
    """Logs, once, that the file at `path` is a JPEG without its end marker, which coded pixels never contain."""
    with open(path, 'rb') as stream:
        begin = stream.read(2)
        stream.seek(-min(4096, os.path.getsize(path)), os.SEEK_END)
        if begin == b'\xff\xd8' and b'\xff\xd9' not in stream.read() and path not in _cut_off:
            _cut_off.add(path)
            log.warning('%s: a damaged JPEG, its end is missing; what can be read of it is used', path)


_cut_off = set()


def read_upright(path):
    """The image at `path` as a viewer shows it, uint8 (H, W, 3) BGR: turned as its EXIF orientation says."""
    _check_size(path)
    try:
        with Image.open(path) as image:
            if image.mode[0] in 'IF':  # 16 bits and more: OpenCV scales them to 8
                return read_image(path)
            return np.array(ImageOps.exif_transpose(image).convert('RGB'))[:, :, ::-1].copy()
    except UnidentifiedImageError:
        raise OSError(f'{path}: not an image that can be read') from None
    except BROKEN as error:
        why = getattr(error, 'strerror', None) or str(error) or type(error).__name__
        raise OSError(f'{path}: {why}') from None


def im_scale_for(shape, target_size, max_size):
    """The factor that makes the short side target_size, or the long side max_size if that would exceed it."""
    short, long = min(shape[:2]), max(shape[:2])
    scale = float(target_size) / float(short)
    return float(max_size) / float(long) if np.round(scale * long) > max_size else scale


def prep_im_for_blob(im, pixel_means, target_size, max_size):
    """im (H, W, 3) -> (float32 image less pixel_means, scaled; the factor it was scaled by)."""
    im = _less_means(im, pixel_means)
    scale = im_scale_for(im.shape, target_size, max_size)
    return cv2.resize(im, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), scale


def _less_means(im, means):
    """im (H, W, C) as float32 less means (1, 1, C)."""
    if im.dtype == np.uint8:  # a table of all differences is faster
        values = np.arange(256, dtype=np.float32).reshape(1, 256, 1)
        return cv2.LUT(im, _less_means(np.tile(values, im.shape[2]), means))
    im = im.astype(np.float32)
    im -= means
    return im


def im_list_to_blob(ims, divisor=1):
    """Images (h, w, 3) -> blob (N, 3, max h, max w), both sides padded to whole divisors, float32, zero beyond each
    image's edge."""
    height, width = padded(np.array([im.shape[:2] for im in ims]).max(0), divisor)
    blob = np.zeros((len(ims), 3, height, width), np.float32)
    for slot, im in zip(blob, ims):
        for channel in range(3):  # several times faster than all of them by a transposition
            slot[channel, : im.shape[0], : im.shape[1]] = im[:, :, channel]
    return blob


def padded(sides, divisor):
    """sides, an array, each enlarged to a whole number of divisors."""
    return -(-sides // divisor) * divisor
