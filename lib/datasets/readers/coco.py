"""COCO's annotation files: one JSON of images, annotations and categories, read into columns; their masks apart, when
they are asked for.

N images in the file's order, B annotations in the images' order, K categories by rising id.
"""

import functools
import glob
import hashlib
import json
import logging
import os
import re
from typing import NamedTuple

import numpy as np

from datasets.readers import masks
from datasets.readers.voc_xml import Annotation, Annotations
from utils.files import cached_npz
from utils.progress import progress

log = logging.getLogger(__name__)

# Files of fewer bytes than this are read anew each time, which takes about a second
CACHE_FROM = 16 << 20
MANY = 100000  # annotations, whose masks take seconds to read


class CocoFile(NamedTuple):
    """ids (N,), numbers or words; files (N,) names; sizes (N, 2) width and height; counts (N,): annotations of each;
    boxes (B, 4) float64 x y width height, as written; areas (B,); crowd (B,) bool; categories (B,): places in
    category_ids (K,) and names (K,); annotated: whether the file has annotations at all."""

    ids: np.ndarray
    files: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    categories: np.ndarray
    category_ids: np.ndarray
    names: np.ndarray
    annotated: np.ndarray

    def annotations(self):
        """The Annotations of all images: boxes as corners, crowds as difficult ones."""
        boxes = corners(self.boxes)
        return Annotations(self.counts, self.sizes, boxes, self.crowd, self.categories, self.names)

    def annotation(self, i):
        """The Annotation of image i, likewise."""
        first = self.counts[:i].sum()
        mine = slice(first, first + self.counts[i])
        names, size = self.names[self.categories[mine]].tolist(), tuple(self.sizes[i].tolist())
        return Annotation(names, corners(self.boxes[mine]), self.crowd[mine], size)


def corners(boxes):
    """x y width height between pixels (n, 4) -> x1 y1 x2 y2, the last pixel included, float32. A side of less than one
    pixel is taken for one: such a box has no area, by the rule of readers.boxes."""
    return np.hstack([boxes[:, :2], boxes[:, :2] + np.maximum(boxes[:, 2:] - 1, 0)]).astype(np.float32)


class CocoMasks(NamedTuple):
    """Codes of run lengths (see readers.masks), those of annotation i up to ends[i] of codes, uint8; sizes (B, 2) height and
    width; faulty (F,) annotations, rising, and what is wrong (F,) with the mask of each: where nothing of it can be used the
    box stands for it, as by boxed (B,) bool."""

    codes: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray
    faulty: np.ndarray
    faults: np.ndarray
    boxed: np.ndarray

    def rle(self, i):
        code = self.codes[self.ends[i - 1] if i else 0 : self.ends[i]]
        return {'size': self.sizes[i].tolist(), 'counts': code.tobytes()}


class MaskFile:
    """The CocoMasks of the file at path, read with its `columns`; pickled, it is not."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    @functools.cached_property
    def columns(self):
        found = read_masks(self.path, self.folder)
        count = int(found.boxed.sum())
        if count == len(found.boxed):
            raise ValueError(f'{self.path}: no annotation has a mask: wanted a segmentation')
        if count:
            log.warning(
                '%s: %d annotations have no mask that can be used; their boxes stand for it: tools/check_dataset.py lists '
                'them',
                self.path,
                count,
            )
        return found

    def __reduce__(self):
        return MaskFile, (self.path, self.folder)


class Segms:
    """The masks of some annotations of a MaskFile, as rows (n,) says: a sequence of RLEs, read when one is asked for;
    slices of it are as lazy."""

    def __init__(self, file, rows):
        self.file, self.rows = file, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return Segms(self.file, self.rows[i]) if isinstance(i, slice) else self.file.columns.rle(self.rows[i])


def read_coco(path, folder, hint=''):
    """The CocoFile at path. Large ones are kept in `folder` too, until the file changes; of several processes that find
    none one reads. Errors name the file, and image or annotation. hint: where the file comes from."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such annotation file.{" " * bool(hint)}{hint}')
    return CocoFile(**_read(path, folder, _columns))


def read_masks(path, folder):
    """The CocoMasks of the file at path, kept likewise."""
    return CocoMasks(**_read(path, folder, _mask_columns))


def _read(path, folder, make):
    stat = os.stat(path)
    return _kept(os.path.realpath(path), folder, make, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(8)
def _kept(path, folder, make, changed, size):
    if size < CACHE_FROM:
        return make(path)
    digest = hashlib.sha256(repr((path, changed, size)).encode())
    for source in __file__, masks.__file__:
        with open(source, 'rb') as stream:
            digest.update(stream.read())
    stem = os.path.splitext(os.path.basename(path))[0]
    word = '_masks' if make is _mask_columns else ''
    name = f'{stem}{word}_{hashlib.sha256(path.encode()).hexdigest()[:8]}.npz'
    return cached_npz(os.path.join(folder, name), digest.hexdigest(), lambda: make(path))


def load_json(path, with_masks=False):
    """What an annotation file holds, images, categories, annotations, lists of mappings; less its masks, or with them as
    readers.masks has them."""
    try:
        with open(path, encoding='utf-8-sig') as stream:
            found = json.load(stream, object_hook=_with_mask if with_masks else _without_mask)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not whole JSON ({error})') from None
    if not isinstance(found, dict):
        raise ValueError(f'{path}: wanted a mapping with images and categories, got {str(found)[:40]}')
    for key in 'images', 'categories', 'annotations':
        rows = found.get(key, [] if key == 'annotations' else None)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f'{path}: {key}: wanted a list of mappings, got {str(rows)[:40]}')
    return found


def _with_mask(found):
    if 'segmentation' in found:
        found['segmentation'] = masks.compact(found['segmentation'])
    return found


def _without_mask(found):
    found.pop('segmentation', None)
    return found


def _columns(path):
    """A CocoFile as a dict."""
    data = load_json(path)
    images, ids = _images(path, data['images'])
    category_ids, names = _categories(path, categories_of(data))
    rows = data.get('annotations', [])
    of = _places(path, rows, 'image_id', {name: i for i, name in enumerate(ids.tolist())}, 'images')
    order = np.argsort(of, kind='stable')
    known = {number: k for k, number in enumerate(category_ids.tolist())}
    boxes = _numbers(path, 'annotation', rows, 'bbox', 4, _values(path, 'annotation', rows, 'bbox'))
    areas = [[row.get('area', own)] for row, own in zip(rows, boxes[:, 2:].prod(1).tolist())]
    return {
        **images,
        'ids': ids,
        'counts': np.bincount(of, minlength=len(ids)),
        'boxes': boxes[order],
        'areas': _numbers(path, 'annotation', rows, 'area', 1, areas)[order, 0],
        'crowd': np.array([bool(row.get('iscrowd', 0)) for row in rows], bool)[order],
        'categories': _places(path, rows, 'category_id', known, 'categories')[order],
        'category_ids': category_ids,
        'names': names,
        'annotated': np.array('annotations' in data),
    }


def _mask_columns(path):
    """A CocoMasks as a dict."""
    data = load_json(path, with_masks=True)
    images, ids = _images(path, data['images'])
    rows = data.get('annotations', [])
    of = _places(path, rows, 'image_id', {name: i for i, name in enumerate(ids.tolist())}, 'images')
    order = np.argsort(of, kind='stable')
    sizes = images['sizes'][of[order], ::-1]
    codes, faulty, faults, boxed = [], [], [], np.zeros(len(rows), bool)
    found = zip(order.tolist(), sizes.tolist())
    for i, (row, size) in enumerate(progress(list(found), 'masks') if len(rows) > MANY else found):
        rle, wrong = masks.rle_of(rows[row].get('segmentation'), *size)
        faulty += [i] * len(wrong)
        faults += wrong
        boxed[i] = rle is None
        codes.append((rle or masks.of_box(rows[row]['bbox'], *size))['counts'])
        rows[row] = None  # its mask takes room
    return {
        'codes': np.frombuffer(b''.join(codes), np.uint8),
        'ends': np.cumsum([len(code) for code in codes], dtype=np.int64),
        'sizes': sizes.astype(np.int32),
        'faulty': np.array(faulty, np.int64),
        'faults': np.array(faults, np.str_),
        'boxed': boxed,
    }


def _images(path, rows):
    """files and sizes, and the ids."""
    if not rows:
        raise ValueError(f'{path}: images: there are none')
    ids = _distinct(path, 'image', rows, 'id')
    files = _values(path, 'image', rows, 'file_name')
    for row, name in zip(rows, files):
        if not isinstance(name, str) or not name:
            raise ValueError(f'{path}: {_which("image", row)}: file_name: wanted a name, got {name!r}')
    sides = [_values(path, 'image', rows, key) for key in ('width', 'height')]
    sizes = _numbers(path, 'image', rows, 'width and height', 2, list(map(list, zip(*sides)))).astype(
        np.int64
    )
    if (sizes < 1).any():
        number = (sizes < 1).any(1).argmax()
        raise ValueError(
            f'{path}: {_which("image", rows[number])}: a size of {sizes[number].tolist()} pixels'
        )
    files = [name.replace('\\', '/') for name in files]
    return {'files': np.array(files, np.str_), 'sizes': sizes}, ids


def categories_of(data):
    """The categories of a file, less one without annotations, of number 0, that is only what others belong to: such a one is
    in Roboflow's."""
    above = {row.get('supercategory') for row in data['categories'] if row.get('id') != 0}
    used = {row.get('category_id') for row in data.get('annotations', []) if row.get('category_id') == 0}
    return [row for row in data['categories'] if row.get('id') != 0 or row.get('name') not in above or used]


def _categories(path, rows):
    """ids (K,), names (K,)"""
    ids, names = _distinct(path, 'category', rows, 'id'), _distinct(path, 'category', rows, 'name')
    if not rows or ids.dtype.kind != 'i' or names.dtype.kind != 'U':
        raise ValueError(
            f'{path}: categories: wanted some, with a number for id and a name; got {str(rows)[:80]}'
        )
    order = np.argsort(ids)
    return ids[order], names[order]


def _which(what, row):
    return f'{what} {row.get("id", row)}'


def _values(path, what, rows, key):
    for row in rows:
        if key not in row:
            raise ValueError(f'{path}: {_which(what, row)} has no {key}')
    return [row[key] for row in rows]


def _distinct(path, what, rows, key):
    """Values (n,), whole numbers or words, no two the same."""
    values, seen = _values(path, what, rows, key), set()
    for row, value in zip(rows, values):
        if type(value) not in (int, str) or type(value) is not type(values[0]):
            raise ValueError(
                f'{path}: {_which(what, row)}: {key}: wanted a whole number or a word, as all have'
            )
        if value in seen:
            raise ValueError(f'{path}: {what} with the {key} {value!r}: there are two')
        seen.add(value)
    try:
        return np.array(values, np.str_ if values and type(values[0]) is str else np.int64)
    except OverflowError:
        raise ValueError(f'{path}: {what}: {key}: a number of more than 64 bits') from None


def _places(path, rows, key, known, of):
    """The place (n,) of what each annotation names by a key; known: {id: place}."""
    values = _values(path, 'annotation', rows, key)
    for row, value in zip(rows, values):
        if type(value) not in (int, str) or value not in known:
            raise ValueError(
                f'{path}: {_which("annotation", row)}: {key} {value!r} is none of the {len(known)} {of}'
            )
    return np.array([known[value] for value in values], np.int64)


def _numbers(path, what, rows, key, width, values):
    """values: a list for each row -> (n, width) float64"""
    for row, value in zip(rows, values):
        if not isinstance(value, list) or len(value) != width or not all(map(_is_number, value)):
            raise ValueError(
                f'{path}: {_which(what, row)}: {key}: wanted {width} finite numbers, got {value!r}'
            )
    return np.array(values, float).reshape(-1, width)


def _is_number(value):
    return type(value) in (int, float) and abs(value) < 1e9


def names_of(path, data):
    """{id: name} of the categories of a file."""
    ids, names = _categories(path, categories_of(data))
    return dict(zip(ids.tolist(), names.tolist()))


def annotation_files(root):
    """{split: path} of the annotation files of a dataset: annotations/instances_SPLIT.json and image_info_SPLIT.json or, where
    there are none, annotations/SPLIT.json; else SPLIT/_annotations.coco.json, as Roboflow has them; else SPLIT.json."""
    names = sorted(glob.glob('*.json', root_dir=os.path.join(root, 'annotations')))
    found = {
        match[1]: f'annotations/{name}'
        for name in names
        if (match := re.fullmatch(r'(?:instances|image_info)_(.+)\.json', name))
    }
    found = found or {os.path.splitext(name)[0]: f'annotations/{name}' for name in names}
    beside = sorted(glob.glob('*/_annotations.coco.json', root_dir=root))
    found = found or {os.path.dirname(name): name for name in beside}
    found = found or {os.path.splitext(name)[0]: name for name in sorted(glob.glob('*.json', root_dir=root))}
    return {split: os.path.join(root, name) for split, name in found.items()}


def image_folder(root, split, path, names, given=''):
    """The folder of the images of a split, whose annotation file is at path: the given one below root, else the first of
    images/SPLIT, SPLIT, images, data and root itself, and that of the file, that has the first of names."""
    first = str(names[0]).replace('\\', '/')
    below = (
        [given]
        if given
        else [
            os.path.join('images', split),
            split,
            'images',
            'data',
            '.',
            os.path.dirname(os.path.abspath(path)),
        ]
    )
    folders = [os.path.normpath(os.path.join(root, folder)) for folder in below]
    for folder in folders:
        if os.path.exists(os.path.join(folder, first)):
            return folder
    raise FileNotFoundError(
        f'split {split}: its first image, {first}, is not in {" or ".join(folders)}; '
        f'say where its images are with `images: FOLDER`'
    )
