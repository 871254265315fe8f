"""Masks as COCO's annotation files have them, and the one form that they are kept in: run lengths down the columns, in
pycocotools' code.

A segmentation is a list of polygons (each x0 y0 x1 y1 ..., in pixels, corners lying between these), or {'size': [height,
width], 'counts': run lengths, as numbers or in code}. An RLE is pycocotools': {'size': [height, width], 'counts': bytes}.
"""

import numpy as np
from pycocotools import mask as coco_mask

FARTHEST = 1e5  # a polygon's corner, in pixels: its outline is walked along in fifths of one


def compact(segmentation):
    """The same in less memory, as long as it is a segmentation: numbers as arrays."""
    if isinstance(segmentation, list):
        return [_array(polygon) for polygon in segmentation]
    if isinstance(segmentation, dict) and isinstance(segmentation.get('counts'), list):
        return {**segmentation, 'counts': _array(segmentation['counts'])}
    return segmentation


def _array(values):
    if isinstance(values, list) and all(type(value) in (int, float) for value in values):
        return np.array(values, float)
    return values


def rle_of(segmentation, height, width):
    """The RLE of a segmentation in an image of this size, and what is wrong with it: texts. None where nothing of it can
    be used; a polygon that cannot is left out."""
    if isinstance(segmentation, dict):
        try:
            return _checked(segmentation, height, width), []
        except ValueError as error:
            return None, [str(error)]
    if isinstance(segmentation, np.ndarray) or (
        isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], (int, float))
    ):
        segmentation = [segmentation]  # one polygon, without a list around it
    if not isinstance(segmentation, list) or not segmentation:
        return None, ['has no mask' if segmentation in (None, []) else f'{str(segmentation)[:40]} is no mask']
    polygons, faults = _polygons(segmentation)
    if not polygons:
        return None, faults
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)), faults


def _polygons(segmentation):
    """Those that can be used, as lists, and what is wrong with the others."""
    polygons, faults = [], []
    for number, polygon in enumerate(segmentation, 1):
        fault = _fault_of(polygon)
        if fault:
            faults.append(f'polygon {number} {fault}')
        else:
            polygons.append(np.asarray(polygon, float).tolist())
    return polygons, faults


def _fault_of(polygon):
    try:
        polygon = np.asarray(polygon, float).reshape(-1)
    except (TypeError, ValueError):
        return f'is none: {str(polygon)[:40]}'
    if len(polygon) % 2:
        return f'has {len(polygon)} numbers, which are no pairs'
    if len(polygon) < 6:
        return f'has {len(polygon) // 2} points, fewer than 3'
    if not (np.abs(polygon) < FARTHEST).all():
        return f'has a coordinate that is no number below {FARTHEST:g}'
    return ''


def _checked(rle, height, width):
    """The RLE of one in numbers or in code; ValueError where it is not one of an image of this size."""
    counts, size = rle.get('counts'), rle.get('size')
    if list(np.ravel(size)) != [height, width]:
        raise ValueError(f'run lengths of size {size}, wanted [{height}, {width}]')
    coded = isinstance(counts, (str, bytes))
    runs = decoded_counts(counts) if coded else np.asarray(counts)
    if runs.dtype.kind not in 'iuf' or runs.ndim != 1 or not np.array_equal(runs, np.floor(runs)):
        raise ValueError(f'run lengths that are no whole numbers: {str(counts)[:40]}')
    if runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError(
            f'broken run lengths: they are of {runs.sum():g} pixels, of which the image has {height * width}'
        )
    if coded:
        return {'size': [height, width], 'counts': counts.encode() if isinstance(counts, str) else counts}
    return coco_mask.frPyObjects(
        {'size': [height, width], 'counts': runs.astype(int).tolist()}, height, width
    )


def decoded_counts(code):
    """Run lengths (n,) int64 of COCO's code: groups of six bits from '0' on, five of a number's, the lowest first, and
    whether more follow; the last sign fills up. From the fourth number on it is the difference to the last but one."""
    code = np.frombuffer(code.encode() if isinstance(code, str) else code, np.uint8).astype(np.int64) - 48
    if not len(code):
        return code
    if code.min() < 0 or code.max() > 63 or code[-1] & 32:
        raise ValueError('broken run lengths: this is no code of any')
    ends = np.flatnonzero(code & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    places = np.arange(len(code)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 8:
        raise ValueError('broken run lengths: a number of more than 45 bits')
    numbers = np.add.reduceat((code & 31) << (5 * places), starts)
    numbers -= np.where(code[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def of_box(box, height, width):
    """The RLE of a box x y width height."""
    x, y, w, h = map(float, box)
    return coco_mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], height, width)[0]


def meet(rle, box):
    """Whether an RLE has a pixel of a box x y width height."""
    return bool(coco_mask.area(coco_mask.merge([rle, of_box(box, *rle['size'])], intersect=True)))


def decoded(segmentations, height, width):
    """Segmentations of G objects of an image -> (height, width, G) uint8, 0 or 1, column after column in memory."""
    if not len(segmentations):
        return np.zeros((height, width, 0), np.uint8)
    rles = [usable(segmentation, height, width) for segmentation in segmentations]
    return coco_mask.decode(rles)


def usable(segmentation, height, width):
    """The RLE of a segmentation; ValueError where it is none."""
    if isinstance(segmentation, dict) and isinstance(segmentation.get('counts'), bytes):
        return segmentation
    rle, faults = rle_of(segmentation, height, width)
    if rle is None:
        raise ValueError('; '.join(faults))
    return rle
