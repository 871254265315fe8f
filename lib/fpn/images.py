"""Images as torchvision's detectors look at them, and boxes back in their pixels (models/detection/transform.py).

N images (h, w, 3) BGR.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

DIVISOR = 32  # of the sides of what a net sees


class Batch(NamedTuple):
    data: np.ndarray  # (N, 3, H, W) float32, zero beyond each image's edge
    im_info: np.ndarray  # (N, 3) float32: height, width, scale of each scaled image


def scaled_size(shape, min_size, max_size):
    """(height, width) of an image of this shape, the short side min_size, or the long one max_size if that would exceed
    it: rounded down, and the scale; in float32, by the reciprocal of a side, as the original has it."""
    short, long = (np.float32(1) / np.float32(side(shape[:2])) for side in (min, max))
    scale = float(min(np.float32(min_size) * short, np.float32(max_size) * long))
    return tuple(int(side * scale) for side in shape[:2]), scale


def batch(images, pixel_means, min_size, max_size):
    """Images less pixel_means (3,), scaled bilinearly, padded to the largest of them and to a multiple of DIVISOR."""
    scaled, infos = [], []
    for image in images:
        size, scale = scaled_size(image.shape, min_size, max_size)
        pixels = torch.from_numpy(np.asarray(image, np.float32) - np.float32(pixel_means)).permute(2, 0, 1)
        scaled.append(F.interpolate(pixels[None], size, mode='bilinear', align_corners=False)[0])
        infos.append([*size, scale])
    sides = [-(-max(side) // DIVISOR) * DIVISOR for side in zip(*(pixels.shape[1:] for pixels in scaled))]
    data = np.zeros((len(images), 3, *sides), np.float32)
    for slot, pixels in zip(data, scaled):
        slot[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return Batch(data, np.array(infos, np.float32))


def resized(boxes, size, new):
    """boxes (n, 4) of an image of `size` (height, width) in the pixels of one of size `new`; a ratio for each side."""
    down, across = (np.float32(b) / np.float32(a) for a, b in zip(size, new))
    return boxes * np.float32([across, down, across, down])
