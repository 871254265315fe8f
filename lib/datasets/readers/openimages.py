"""Open Images' files: CSV tables of boxes, image-level labels, classes and images, the tree of classes; and the same in COCO's
JSON, as converters write it. Read into columns.

N images, B boxes in the images' order, V labels, K classes with the background, which is number 0. A class's id is its MID,
as /m/01g317.
"""

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datasets.readers.coco import load_json
from datasets.readers.images import image_size
from utils.files import cached_npz, read_text
from utils.processes import in_shares
from utils.progress import progress

CORNERS = 'XMin', 'YMin', 'XMax', 'YMax'
FLAGS = ('IsOccluded', 'IsTruncated', 'IsGroupOf', 'IsDepiction', 'IsInside')
# What settings call the flags, and the bit of each
BITS = {'occluded': 1, 'truncated': 2, 'group_of': 4, 'depiction': 8, 'inside': 16}
ROWS, WIDTH = 50000, 32  # of a table read at a time; bytes that an id may have, and one more
LONG = 50  # so many times show that it goes on
# Files of fewer bytes than this are read anew each time, and sizes of fewer images, which takes about a second
CACHE_FROM, IMAGES_FROM, SHARE = 16 << 20, 4000, 5000


class OpenImagesFile(NamedTuple):
    """ids (N,), bytes; counts (N,): boxes of each; boxes (B, 4) float64 x1 y1 x2 y2, edges, of a unit square that is the
    image; classes (B,) int16; flags (B,) uint8, sums of BITS (what is not known is not set); label_images (V,) int32,
    label_classes (V,) int16, positive (V,) bool: whether the class is in the image, or is not. sizes (N, 2): width and height, 0
    where the file does not say."""

    ids: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    flags: np.ndarray
    label_images: np.ndarray
    label_classes: np.ndarray
    positive: np.ndarray
    sizes: np.ndarray

    @property
    def images(self):
        """(B,) int32: the image of each box."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)

    def has(self, *names):
        """(B,) bool: whether one of these flags, words of BITS, is set."""
        return (self.flags & sum(BITS[name] for name in names)) > 0


def read_classes(path):
    """{class id: name} of a table without a header, in its order."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such table of classes')
    rows = [row for row in _told(path, csv.reader(read_text(path).splitlines())) if row]
    odd = next((row for row in rows if len(row) != 2 or not row[0]), None)
    if odd or not rows:
        raise ValueError(f'{path}: wanted lines `class id,name`, got {odd or "none"}')
    known = dict(rows)
    if len(known) < len(rows):
        raise ValueError(f'{path}: a class is listed twice')
    return known


def read_hierarchy(path, classes):
    """above (K, K) bool: above[k, a], class a holds class k. classes: ids, the background's first. The root holds all, and is
    no class; parts of a thing are none of its kind."""
    known, above = {name: k for k, name in enumerate(classes)}, np.zeros((len(classes),) * 2, bool)

    def walk(node, ancestors):
        number = known.get(node['LabelName'])
        if number is not None:
            above[number, ancestors] = True
            ancestors = [*ancestors, number]
        for child in node.get('Subcategory', ()):
            walk(child, ancestors)

    try:
        tree = json.loads(read_text(path))
        for child in tree['Subcategory']:
            walk(child, [])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f'{path}: not a tree of classes, LabelName and Subcategory ({type(error).__name__}: {error})'
        ) from None
    return above


def expanded(above, classes):
    """Rows (M,) and classes (M,): each of classes (B,) followed by those above it, and the row that it comes from."""
    classes = np.asarray(classes, int)
    counts = above.sum(1) + 1
    lists = np.concatenate([np.append(k, np.flatnonzero(row)) for k, row in enumerate(above)])
    rows = np.repeat(np.arange(len(classes)), counts[classes])
    first = np.cumsum(counts[classes]) - counts[classes]
    return rows, lists[(np.cumsum(counts) - counts)[classes][rows] + np.arange(len(rows)) - first[rows]]


def read_tables(boxes, labels, images, classes, folder):
    """The OpenImagesFile of CSV tables: paths of boxes, of image-level labels (None: no labels), of images (None: those that
    the others name); classes: ids, the background's first. Rows of other classes, or images, are left out. Large ones are
    kept in `folder` until a file changes; of several processes that find none one reads."""
    given = [path and os.path.realpath(path) for path in (boxes, labels, images)]
    return _kept(_tables, folder, given, tuple(classes))


def read_json(path, classes, folder):
    """The OpenImagesFile of a file in COCO's format; categories have the classes' ids for names, or as freebase_id.
    Annotations may have isoccluded, istruncated, isgroupof (or iscrowd), isdepiction, isinside; images pos_category_ids and
    neg_category_ids. Kept likewise."""
    return _kept(_from_json, folder, [os.path.realpath(path)], tuple(classes))


def json_classes(path):
    """{class id: name} of the categories of a file in COCO's format, by rising number."""
    try:
        rows = sorted(load_json(path)['categories'], key=lambda row: row['id'])
        return {str(row.get('freebase_id', row['name'])): str(row['name']) for row in rows}
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: categories: wanted mappings with id and name ({error!r})') from None


def _kept(read, folder, paths, classes):
    stats = [path and os.stat(path) for path in paths]
    if sum(stat.st_size for stat in stats if stat) < CACHE_FROM:
        return OpenImagesFile(**read(*paths, classes))
    with open(__file__, 'rb') as stream:
        mark = repr((paths, [stat and (stat.st_mtime_ns, stat.st_size) for stat in stats], classes))
        key = hashlib.sha256(stream.read() + mark.encode()).hexdigest()
    stem = os.path.splitext(os.path.basename(paths[0]))[0]
    name = f'{stem}_{hashlib.sha256(repr((paths, classes)).encode()).hexdigest()[:8]}.npz'
    return OpenImagesFile(**cached_npz(os.path.join(folder, name), key, lambda: read(*paths, classes)))


def _tables(boxes, labels, images, classes):
    """An OpenImagesFile as a dict."""
    fields = [('box', 'f8', CORNERS), ('flags', 'i1', FLAGS)]
    of_boxes = _Table(boxes, fields, classes)
    of_labels = _Table(labels, [('positive', 'f4', ('Confidence',))], classes)
    names = _ids(images) if images else np.concatenate([of_boxes.names, of_labels.names])
    ids = np.unique(names)
    at, order = of_boxes.places(ids)
    at_labels, label_order = of_labels.places(ids)
    flags = (of_boxes.columns['flags'][order] == 1) @ np.array(list(BITS.values()), np.uint8)
    box = of_boxes.columns['box'][order]
    if not np.isfinite(box).all():
        raise ValueError(
            f'{boxes}: a corner that is no number, of image {ids[at][~np.isfinite(box).all(1)][0]}'
        )
    return {
        'ids': ids,
        'counts': np.bincount(at, minlength=len(ids)),
        'boxes': box,
        'classes': of_boxes.columns['class'][order],
        'flags': flags.astype(np.uint8),
        'label_images': at_labels,
        'label_classes': of_labels.columns['class'][label_order],
        'positive': of_labels.columns['positive'][label_order, 0] > 0,
        'sizes': np.zeros((len(ids), 2), np.int32),
    }


class _Table:
    """A table's columns, of the rows that are of known classes; runs of rows of one image: names (bytes), lengths."""

    def __init__(self, path, fields, classes):
        numbers = {name.encode(): k for k, name in enumerate(classes) if k}
        dtype = [('class', 'i2'), *((name, kind, (len(parts),)) for name, kind, parts in fields)]
        pieces, names, lengths = [np.zeros(0, dtype)], [np.zeros(0, 'S1')], [np.zeros(0, int)]
        for rows in _told(path, _chunks(path, fields)) if path else ():
            known = np.array([numbers.get(label, 0) for label in rows['LabelName'].tolist()], np.int16)
            rows, piece = rows[known > 0], np.zeros(np.count_nonzero(known), dtype)
            piece['class'] = known[known > 0]
            for name, *_ in fields:
                piece[name] = rows[name]
            pieces.append(piece)
            starts = np.flatnonzero(np.append(True, rows['ImageID'][1:] != rows['ImageID'][:-1])[: len(rows)])
            names.append(rows['ImageID'][starts].astype(f'S{max(1, _longest(rows["ImageID"][starts]))}'))
            lengths.append(np.diff(starts, append=len(rows)))
        self.columns, self.names = np.concatenate(pieces), np.concatenate(names)
        self.lengths = np.concatenate(lengths)

    def places(self, ids):
        """The image (M,) int32 of each row of ids (N,), rising, and which rows (M,) these are."""
        at = np.minimum(np.searchsorted(ids, self.names), max(0, len(ids) - 1))
        at = np.where(ids[at] == self.names, at, -1) if len(ids) else np.full(len(self.names), -1)
        at = np.repeat(at.astype(np.int32), self.lengths)
        order = np.argsort(at, kind='stable')
        order = order[np.searchsorted(at[order], 0) :]
        return at[order], order


def _longest(words):
    return int(np.char.str_len(words).max(initial=0))


def _chunks(path, fields):
    """A table's rows, ROWS at a time: arrays with ImageID, LabelName and fields (name, kind, columns)."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such table')
    wanted = ['ImageID', 'LabelName', *(column for _, _, columns in fields for column in columns)]
    dtype = [(name, f'S{WIDTH}') for name in wanted[:2]]
    dtype += [(name, kind, (len(columns),)) for name, kind, columns in fields]
    with open(path, encoding='utf-8-sig') as stream:
        places = _places(path, next(csv.reader(stream), []), wanted)
        lines = iter(lambda: list(itertools.islice(stream, ROWS)), [])
        about = max(1, os.path.getsize(path) // (70 * ROWS))
        shown = progress(lines, os.path.basename(path), about) if about > LONG else lines
        for number, part in enumerate(shown):
            try:
                rows = np.loadtxt(
                    part, dtype, None, ',', usecols=places, ndmin=1, quotechar='"', encoding='utf-8'
                )
            except ValueError as error:
                raise ValueError(f'{path}: after line {number * ROWS + 1}: {error}') from None
            for name in wanted[:2]:
                if _longest(rows[name]) >= WIDTH:
                    raise ValueError(
                        f'{path}: {name}: wanted less than {WIDTH} letters, got {max(rows[name].tolist(), key=len).decode()}'
                    )
            yield rows


def _told(path, rows):
    """rows, with errors of a table's text that name the file."""
    try:
        yield from rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path}: not a table in UTF-8 ({error})') from None


def _places(path, header, wanted):
    """The column of each name in the header of a table."""
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ValueError(f'{path}: no column {missing[0]}, but {", ".join(header)[:200]}')
    return [header.index(name) for name in wanted]


def _ids(path):
    """ids (N,), bytes, of a table of images."""
    with open(path, encoding='utf-8-sig', newline='') as stream:
        rows = _told(path, csv.reader(stream))
        (place,) = _places(path, next(rows, []), ['ImageID'])
        ids = [row[place].encode() if len(row) > place else b'' for row in rows if row]
    if not ids or b'' in ids:
        raise ValueError(f'{path}: wanted an ImageID in each row, and some rows')
    return np.array(ids)


def _from_json(path, classes):
    """An OpenImagesFile as a dict."""
    data = load_json(path)
    try:
        found = _json_columns(data, classes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not COCO's format: {type(error).__name__}: {error}") from None
    if not (found['sizes'] > 0).all() or not np.isfinite(found['boxes']).all():
        raise ValueError(f'{path}: an image without size, or a bbox that is not four numbers')
    return found


def _json_columns(data, classes):
    known = {name: k for k, name in enumerate(classes) if k}
    numbers = {row['id']: known.get(row.get('freebase_id', row['name']), 0) for row in data['categories']}
    rows = data['images']
    ids = np.array([os.path.splitext(os.path.basename(row['file_name']))[0].encode() for row in rows])
    order = np.argsort(ids, kind='stable')
    at = {rows[i]['id']: place for place, i in enumerate(order)}
    sizes = np.array([[rows[i]['width'], rows[i]['height']] for i in order], np.int32).reshape(-1, 2)
    found = [row for row in data['annotations'] if numbers[row['category_id']]]
    found.sort(key=lambda row: at[row['image_id']])
    of = np.array([at[row['image_id']] for row in found], int)
    boxes = np.array([row['bbox'] for row in found], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = _json_labels([rows[i] for i in order], numbers)
    flags = [[row.get(name.lower(), 0) == 1 for name in FLAGS] for row in found]
    groups = [row.get('iscrowd', 0) == 1 for row in found]
    bits = np.array(flags, bool).reshape(-1, len(FLAGS)) @ np.array(list(BITS.values()), np.uint8)
    return {
        'ids': ids[order],
        'counts': np.bincount(of, minlength=len(ids)),
        'boxes': boxes / np.maximum(np.tile(sizes[of], 2), 1),
        'classes': np.array([numbers[row['category_id']] for row in found], np.int16),
        'flags': (bits | BITS['group_of'] * np.array(groups, bool)).astype(np.uint8),
        'label_images': labels[:, 0].astype(np.int32),
        'label_classes': labels[:, 1].astype(np.int16),
        'positive': labels[:, 2] == 1,
        'sizes': sizes,
    }


def _json_labels(rows, numbers):
    """(V, 3): image, class, 1 or 0 where it is not there."""
    return np.array(
        [
            (place, numbers[category], positive)
            for place, row in enumerate(rows)
            for positive, key in ((1, 'pos_category_ids'), (0, 'neg_category_ids'))
            for category in row.get(key) or ()
            if numbers.get(category)
        ],
        int,
    ).reshape(-1, 3)


def image_sizes(folder, ids, cache, name):
    """Width and height (N, 2) of the images FOLDER/<id>.jpg. Those of many are kept in <cache>/<name>_sizes.npz, while ids and
    folder stay the same, and are read by several processes."""
    paths = Paths(folder, ids)
    if len(ids) < IMAGES_FROM:
        return _sizes(paths)
    key = hashlib.sha256(os.path.realpath(folder).encode() + np.ascontiguousarray(ids).tobytes()).hexdigest()

    def read():
        return {'sizes': np.concatenate(list(in_shares(_sizes, paths, f'image sizes of {name}', SHARE)))}

    return cached_npz(os.path.join(cache, f'{name}_sizes.npz'), key, read)['sizes']


def _sizes(paths):
    return np.array([image_size(path) for path in paths], np.int32).reshape(-1, 2)


class Ids(Sequence):
    """Image ids (N,), bytes, as words, each made when it is asked for."""

    def __init__(self, ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return Ids(self.ids[i]) if isinstance(i, slice) else self.ids[i].decode()

    def __mul__(self, times):
        return Ids(np.tile(self.ids, times))


class Paths(Ids):
    """Paths of the images with these ids in a folder."""

    def __init__(self, folder, ids):
        super().__init__(ids)
        self.folder = folder

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Paths(self.folder, self.ids[i])
        return os.path.join(self.folder, super().__getitem__(i) + '.jpg')
