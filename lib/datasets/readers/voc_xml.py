"""VOC-style XML annotations: the reader, and a cache for large sets.

N images, B objects of all images together, in the images' order. Coordinates are as written in the file.
"""

import hashlib
import os
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from datasets.readers.images import image_size
from utils.files import cached_npz
from utils.processes import in_shares

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')

# Sets with fewer images than this are read anew each time, which takes about a second; files read at a time
CACHE_FROM, SHARE = 4000, 500


class Annotation(NamedTuple):
    """One file: n names, boxes (n, 4) float32 xmin ymin xmax ymax, difficult (n,), size (w, h) or None."""

    names: list
    boxes: np.ndarray
    difficult: np.ndarray
    size: tuple


NO_OBJECTS = Annotation([], np.zeros((0, 4), np.float32), np.zeros(0, bool), None)


class Annotations(NamedTuple):
    """N files: counts (N,) objects of each, sizes (N, 2) width and height of the images themselves (0: not
    asked for), boxes (B, 4) float32, difficult (B,) bool, names (B,) indices into vocabulary (V,)."""

    counts: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    names: np.ndarray
    vocabulary: np.ndarray


COLUMNS = 'counts', 'sizes', 'boxes', 'difficult'  # the same in every part


def read_root(path):
    """The root element of an XML file; what cannot be read raises naming the file."""
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(
            f'{path}: no such annotation file (an image without objects has one without <object>)'
        ) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f'{path}: not well-formed XML ({error})') from None


def read_xml(path):
    """The Annotation in an XML file. What cannot be read raises naming file and object (counted from 1)."""
    root = read_root(path)
    objects = root.findall('object')
    names = [object_name(path, i, item) for i, item in enumerate(objects, 1)]
    boxes = [object_box(path, i, item) for i, item in enumerate(objects, 1)]
    difficult = [(item.findtext('difficult') or '').strip() == '1' for item in objects]
    return Annotation(
        names, np.array(boxes, np.float32).reshape(-1, 4), np.array(difficult, bool), _size(root)
    )


def object_name(path, number, item):
    name = (item.findtext('name') or '').strip()
    if not name:
        raise ValueError(f'{path}: object {number} has no <name>')
    return name


def object_box(path, number, item):
    found = item.find('bndbox')
    words = [None if found is None else found.findtext(corner) for corner in CORNERS]
    try:
        box = [float(word) for word in words]
    except (TypeError, ValueError):
        box = [np.nan]
    if not np.isfinite(box).all():
        got = ', '.join(f'{corner} {word}' for corner, word in zip(CORNERS, words))
        raise ValueError(
            f'{path}: object {number} ({object_name(path, number, item)}): wanted a <bndbox> of four '
            f'numbers, got {got}'
        )
    return box


def _size(root):
    """(width, height) as written, None where missing, zero or not a number."""
    words = [root.findtext('size/width') or '', root.findtext('size/height') or '']
    try:
        width, height = (int(float(word)) for word in words)
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def read_annotations(files, name, folder, tolerant=False):
    """Annotations of N (annotation path or None for no objects, image path or None to leave its size 0).

    From CACHE_FROM files on they are read by several processes, and kept in <folder>/<name>_annotations.npz, whose
    key changes with every path, modification time, size, and with this module; of several processes that find it
    missing or old one makes it, the others wait. tolerant: files that cannot be read count as without objects, and
    nothing is kept.
    """
    if tolerant or len(files) < CACHE_FROM:
        return _collect(files, tolerant)
    path = os.path.join(folder, f'{name}_annotations.npz')
    return Annotations(**cached_npz(path, _key(files), lambda: _read_all(files, name)))


def _read_all(files, name):
    """Annotations of files, by several processes, as a dict."""
    return _joined(list(in_shares(_collect, files, f'annotations of {name}', SHARE)))._asdict()


def _key(files):
    digest = hashlib.sha256()
    with open(__file__, 'rb') as stream:
        digest.update(stream.read())
    for path in (path for pair in files for path in pair):
        stat = os.stat(path) if path else None
        digest.update(repr((path, stat and (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size))).encode())
    return digest.hexdigest()


def _collect(files, tolerant=False):
    found = [_read(*pair, tolerant) for pair in files]
    index = {}
    names = [index.setdefault(word, len(index)) for annotation, _ in found for word in annotation.names]
    parts = [annotation for annotation, _ in found] + [NO_OBJECTS]
    return Annotations(
        counts=np.array([len(annotation.names) for annotation, _ in found], np.int64),
        sizes=np.array([size for _, size in found], np.int64).reshape(-1, 2),
        boxes=np.concatenate([part.boxes for part in parts]),
        difficult=np.concatenate([part.difficult for part in parts]),
        names=np.array(names, np.int64),
        vocabulary=np.array(list(index), np.str_),
    )


def _joined(parts):
    """The Annotations of all files of several, each part with a vocabulary of its own."""
    index = {}
    numbers = [[index.setdefault(word, len(index)) for word in part.vocabulary.tolist()] for part in parts]
    names = [np.array(own, np.int64)[part.names] for own, part in zip(numbers, parts)]
    columns = {key: np.concatenate([getattr(part, key) for part in parts]) for key in COLUMNS}
    return Annotations(**columns, names=np.concatenate(names), vocabulary=np.array(list(index), np.str_))


def _read(xml_path, image_path, tolerant):
    try:
        annotation = read_xml(xml_path) if xml_path else NO_OBJECTS
        return annotation, image_size(image_path) if image_path else (0, 0)
    except (OSError, ValueError):
        if not tolerant:
            raise
        return NO_OBJECTS, (0, 0)
