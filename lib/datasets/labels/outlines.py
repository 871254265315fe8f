"""Masks as polygons, for formats that have no other."""

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from datasets.readers.masks import usable


def polygons_of(mask, width, height):
    """A segmentation, of a picture of this size, as polygons, each x y x y ...; [] of None. Of run lengths the outlines are
    taken, along the pixels' edges, without holes."""
    if mask is None:
        return []
    if not isinstance(mask, dict):
        return [list(map(float, polygon)) for polygon in mask]
    pixels = coco_mask.decode(usable(mask, height, width))
    halves = np.zeros(
        (2 * height + 1, 2 * width + 1), np.uint8
    )  # a pixel is three by three of these, corners at even places
    for y in range(3):
        for x in range(3):
            halves[y : y + 2 * height : 2, x : x + 2 * width : 2] |= pixels
    found = cv2.findContours(halves, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return sorted((contour.reshape(-1) / 2).tolist() for contour in found)


def joined(polygons):
    """Several polygons as one, by lines to and fro between their first corners."""
    if len(polygons) == 1:
        return polygons[0]
    return [value for polygon in polygons for value in [*polygon, *polygon[:2]]]


def has_holes(mask):
    """Whether run lengths leave out pixels that are all around within."""
    if not isinstance(mask, dict):
        return False
    pixels = coco_mask.decode(usable(mask, *mask['size']))
    levels = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[1]
    return levels is not None and bool((levels[0, :, 3] >= 0).any())


def ellipse(x, y, across, down, corners=36):
    """A polygon of an ellipse by its centre and half axes."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1).reshape(-1).tolist()


def rotate(polygon, x, y, degrees):
    """A polygon turned about x, y, clockwise as seen."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    corners = np.reshape(polygon, (-1, 2)) - (x, y)
    return (corners @ np.array([[c, s], [-s, c]]) + (x, y)).reshape(-1).tolist()


def rle_of_parts(polygons, width, height):
    """Several polygons as one segmentation in run lengths."""
    rle = usable(polygons, height, width)
    return {'size': list(rle['size']), 'counts': rle['counts'].decode()}


def of_runs(runs, left, top, width, height, image_width, image_height):
    """Run lengths along the rows of a window, which begin with what is not in the mask, as a segmentation of the picture."""
    runs = np.asarray(runs, int)
    if runs.min(initial=0) < 0 or runs.sum() != width * height:
        raise ValueError(f'run lengths of {runs.sum()} pixels, wanted {width} x {height}')
    window = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    return of_window(window, left, top, image_width, image_height)


def of_window(window, left, top, image_width, image_height):
    """The segmentation of pixels (h, w), 0 or else, at left, top of a picture."""
    pixels = np.zeros((image_height, image_width), np.uint8, order='F')
    seen = pixels[max(top, 0) : top + window.shape[0], max(left, 0) : left + window.shape[1]]
    seen[...] = window[max(-top, 0) :, max(-left, 0) :][: seen.shape[0], : seen.shape[1]] != 0
    rle = coco_mask.encode(pixels)
    return {'size': list(rle['size']), 'counts': rle['counts'].decode()}


def runs_of(mask):
    """A segmentation in run lengths -> runs along the rows of its box's window, as of_runs takes them, and left, top, width,
    height."""
    rle = usable(mask, *mask['size'])
    left, top, width, height = (int(value) for value in coco_mask.toBbox(rle))
    flat = coco_mask.decode(rle)[top : top + height, left : left + width].reshape(-1)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return ([0] if flat.size and flat[0] else []) + runs, left, top, width, height
