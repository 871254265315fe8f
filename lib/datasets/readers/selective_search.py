"""Given proposals in MATLAB files, as selective search's authors publish them.

A file holds two cell arrays of N entries: boxes, each (n, 4) y1 x1 y2 x2 counted from 1, and images, the
image ids.
"""

import os
import zlib

import numpy as np

from utils.files import atomic_path
from utils.processes import apart


def load_selective_search(path, image_index):
    """Boxes (n, 4) float32 x1 y1 x2 y2, 0-based, of each image of image_index, in its order."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such file of selective-search proposals')
    try:
        content = apart(lambda: _content(path))
    except RuntimeError as error:
        raise ValueError(f'{path}: not a MATLAB file; reading it ended a process ({error})') from None
    if not {'boxes', 'images'} <= content.keys():
        raise ValueError(
            f"{path}: wanted the variables 'boxes' and 'images', "
            f'got {", ".join(key for key in content if not key.startswith("__"))}'
        )
    names, boxes = (np.asarray(content[key]).ravel() for key in ('images', 'boxes'))
    by_image = dict(zip(map(_text, names), boxes))
    missing = [image_id for image_id in image_index if image_id not in by_image]
    if missing:
        raise ValueError(
            f'{path}: no proposals for {len(missing)} of {len(image_index)} images, first {missing[0]}'
        )
    try:
        return [_boxes(by_image[image_id]) for image_id in image_index]
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}: boxes that are no numbers (n, 4): {error}') from None


def save_selective_search(path, image_index, boxes):
    """Write boxes (n, 4) x1 y1 x2 y2, 0-based, of each image as such a file."""
    cells = np.empty(len(boxes), object)
    for i, image_boxes in enumerate(boxes):
        cells[i] = np.asarray(image_boxes, np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]] + 1
    import scipy.io  # takes its time, and few have such files

    with atomic_path(path) as temporary:
        content = {'boxes': cells, 'images': np.array(image_index, object)}
        scipy.io.savemat(temporary, content, appendmat=False)


# What scipy raises at bytes that make no sense; some end the process
_BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    NameError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    OSError,
    EOFError,
    NotImplementedError,
    zlib.error,
)


def _content(path):
    import scipy.io
    import scipy.io.matlab

    try:
        return scipy.io.loadmat(path, appendmat=False)
    except (scipy.io.matlab.MatReadError, *_BROKEN) as error:
        raise ValueError(f'{path}: not a MATLAB file that can be read ({error!r})') from None


def _text(cell):
    return ''.join(map(str, np.asarray(cell).ravel()[:1]))


def _boxes(cell):
    """y1 x1 y2 x2 from 1 -> x1 y1 x2 y2 from 0, in float: the files' unsigned numbers would wrap."""
    return np.asarray(cell, np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]] - 1
