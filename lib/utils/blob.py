"""Images as the nets want them: read, mean subtracted, scaled, stacked into a blob (N, 3, H, W), BGR."""

import os

import cv2
import numpy as np


def read_image(path):
    """The image at `path`, uint8 (H, W, 3) BGR, its pixels as stored (EXIF rotation is not applied)."""
    im = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if im is None:
        why = 'not an image that OpenCV can read' if os.path.exists(path) else 'no such file'
        raise OSError(f'{path}: {why}')
    return im


def im_scale_for(shape, target_size, max_size):
    """The factor that makes the short side target_size, or the long side max_size if that would exceed it."""
    short, long = min(shape[:2]), max(shape[:2])
    scale = float(target_size) / float(short)
    return float(max_size) / float(long) if np.round(scale * long) > max_size else scale


def prep_im_for_blob(im, pixel_means, target_size, max_size):
    """im (H, W, 3) -> (float32 image less pixel_means, scaled; the factor it was scaled by)."""
    im = im.astype(np.float32)
    im -= pixel_means
    scale = im_scale_for(im.shape, target_size, max_size)
    return cv2.resize(im, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), scale


def im_list_to_blob(ims):
    """Images (h, w, 3) -> blob (N, 3, max h, max w) float32, zero beyond each image's edge."""
    height, width = np.array([im.shape[:2] for im in ims]).max(0)
    blob = np.zeros((len(ims), 3, height, width), np.float32)
    for slot, im in zip(blob, ims):
        slot[:, : im.shape[0], : im.shape[1]] = im.transpose(2, 0, 1)
    return blob
