"""Images as torchvision's detectors look at them, and boxes back in their pixels (models/detection/transform.py).

An image is an array (h, w, 3), BGR.
"""

import numpy as np
import torch
import torch.nn.functional as F

DIVISOR = 32  # of the sides of what a net sees


def scaled_size(shape, min_size, max_size):
    """(height, width) of an image of this shape, the short side min_size, or the long one max_size if that would exceed
    it: rounded down, and the scale; in float32, by the reciprocal of a side, as the original has it."""
    short, long = (np.float32(1) / np.float32(side(shape[:2])) for side in (min, max))
    scale = float(min(np.float32(min_size) * short, np.float32(max_size) * long))
    return tuple(int(side * scale) for side in shape[:2]), scale


def scaled(image, pixel_means, min_size, max_size):
    """The image less pixel_means (3,), scaled bilinearly: float32 (h, w, 3), and the scale."""
    size, scale = scaled_size(image.shape, min_size, max_size)
    pixels = np.zeros(
        (*image.shape[:2], 4), np.float32
    )  # of three channels torch's rounding depends on its threads
    np.subtract(image, np.float32(pixel_means), out=pixels[..., :3], dtype=np.float32)
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, size, mode='bilinear', align_corners=False)[0, :3]
    return pixels.permute(1, 2, 0).numpy(), scale


def resized(boxes, size, new):
    """boxes (n, 4K) of an image of `size` (height, width) in the pixels of one of size `new`; a ratio for each side."""
    down, across = (np.float32(b) / np.float32(a) for a, b in zip(size, new))
    return boxes * np.tile(np.float32([across, down, across, down]), boxes.shape[1] // 4)
