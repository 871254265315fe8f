"""CSV: a line for each object.

A first line may name the columns (COLUMNS has what each may be called); without one they are image, x1, y1, x2, y2, class, as
RetinaNet's authors have it. A line with an image alone is of one without objects. Open Images' tables are told by their columns
ImageID and LabelName: sides in shares of the picture; names of their classes are those of a table class-descriptions*.csv. A table of two columns, name and
number, says the classes' order. Tables named after train, val ..., or lying in such folders, divide the dataset.
"""

import csv
import io
import math
import os

from datasets.labels.labelled import FLAGS, Labels, Thing, are_stored, labelled, split_by, walk, wrong
from utils.files import read_text

# What a first line may call a column, small letters, without _ and spaces
COLUMNS = {
    'image': ('image', 'filename', 'file', 'path', 'imagepath', 'imageid', 'imagename', 'filepath'),
    'class': ('class', 'label', 'labelname', 'name', 'classname', 'category'),
    'x1': ('x1', 'xmin', 'left', 'bboxx1'),
    'y1': ('y1', 'ymin', 'top', 'bboxy1'),
    'x2': ('x2', 'xmax', 'right', 'bboxx2'),
    'y2': ('y2', 'ymax', 'bottom', 'bboxy2'),
}
SIDES = 'x1', 'y1', 'x2', 'y2'
MORE = {
    'width': ('width', 'imagewidth', 'imgwidth'),
    'height': ('height', 'imageheight', 'imgheight'),
    'difficult': ('difficult', 'isdifficult'),
    'truncated': ('truncated', 'istruncated'),
    'occluded': ('occluded', 'isoccluded'),
    'crowd': ('crowd', 'iscrowd', 'isgroupof'),
}
PLAIN = {name: i for i, name in enumerate(('image', *SIDES, 'class'))}  # of a table without names
HEAD = 'filename', 'width', 'height', 'class', 'xmin', 'ymin', 'xmax', 'ymax'


def read(root, pictures, faults=None):
    tables = {path: _rows(path) for path in walk(root) if path.lower().endswith('.csv')}
    if not tables:
        raise FileNotFoundError(f'{root}: no .csv file in it')
    classes, words = _classes(tables)
    found, sizes = {}, {}  # image -> {table: things}; image -> its header, and the size that is stated
    for path in tables:
        for where, row in _named(path, tables[path], faults):
            try:
                image, thing = _object(where, row, pictures, sizes, words)
            except (ValueError, OSError) as error:
                wrong(faults, error)
                continue
            things = found.setdefault(image, {}).setdefault(path, [])
            things += [thing] if thing else []
    images = {image: _picture(image, *sizes[image], of_tables) for image, of_tables in found.items()}
    parts = split_by(
        {
            path: os.path.relpath(path, root)
            for path in dict.fromkeys(p for one in found.values() for p in one)
        }
    )
    splits = {
        split: [image for image in found if found[image].keys() & set(paths)]
        for split, paths in parts.items()
    }
    return Labels(images, splits, classes)


def _rows(path):
    """(line, row) of a table, less empty rows; a comma, semicolon or tab between columns, whichever the first line has most."""
    text = read_text(path)
    first = text.partition('\n')[0]
    lines = csv.reader(io.StringIO(text, newline=''), delimiter=max(',;\t', key=first.count))
    try:
        return [(lines.line_num, [word.strip() for word in row]) for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f'{path}:{lines.line_num}: {error}') from None


def _is_of_classes(path, rows):
    two = all(len(row) == 2 for _, row in rows)
    return two and (os.path.basename(path).startswith('class') or all(row[1].isdigit() for _, row in rows))


def _classes(tables):
    """The classes in their order, or None, and {word of tables: name}. Tables of classes are taken out of `tables`."""
    names, words = [], {}
    for path in [path for path, rows in tables.items() if _is_of_classes(path, rows)]:
        rows = [row for _, row in tables.pop(path)]
        if all(row[1].isdigit() for row in rows):
            names = [name for name, _ in sorted(rows, key=lambda row: int(row[1]))]
        else:
            words.update(rows)
    return list(dict.fromkeys(names)) or None, words


def _named(path, rows, faults):
    """(where, {column: word}) of a table."""
    head = [''.join(c for c in word.lower() if c not in '_ ') for word in rows[0][1]] if rows else []
    places = _places(head)
    if rows and not places and not any(map(_is_number, rows[0][1][1:5])) and any(rows[0][1][1:5]):
        lacking = [name for name, words in COLUMNS.items() if not set(words) & set(head)]
        text = f'{path}:1: no column {" and none ".join(lacking)}; the columns are {", ".join(rows[0][1])}'
        wrong(faults, ValueError(text))
        return
    is_open = bool(places) and {'imageid', 'labelname'} <= set(head)
    for line, row in rows[bool(places) :]:
        wanted = 1 + max((places or PLAIN)[name] for name in COLUMNS)
        if len(row) < wanted:
            wrong(faults, ValueError(f'{path}:{line}: wanted {wanted} columns, got {len(row)}'))
            continue
        found = {name: row[i] for name, i in (places or PLAIN).items() if i < len(row)}
        yield f'{path}:{line}', {**found, 'shares': is_open}


def _places(head):
    """{column: its place}, if those that are needed are named."""
    found = {
        name: next((head.index(word) for word in words if word in head), None)
        for name, words in {**COLUMNS, **MORE}.items()
    }
    return (
        {k: i for k, i in found.items() if i is not None}
        if all(found[name] is not None for name in COLUMNS)
        else None
    )


def _object(where, row, pictures, sizes, words):
    """A row's image and Thing, None where it has none; the image's header and stated size are put into sizes."""
    near = os.path.relpath(os.path.dirname(where), pictures.root)
    image = pictures.find(row['image'], near)
    if image is None:
        raise FileNotFoundError(
            f'{where}: its image {row["image"]!r} is not in {pictures.root}, or there are several'
        )
    stated = tuple(row.get(side, '') for side in ('width', 'height'))
    stated = tuple(map(int, stated)) if all(map(str.isdigit, stated)) else None
    size = sizes.setdefault(image, (pictures.header(image), stated))[0]
    given = [row[side] for side in SIDES]
    if not row['class'] and not any(given):
        return image, None
    if not row['class'] or not all(map(_is_number, given)):
        raise ValueError(
            f'{where}: wanted a class and four numbers, got {row["class"]!r} and {", ".join(given)!r}'
        )
    box = [float(word) * (size[i % 2] if row['shares'] else 1) for i, word in enumerate(given)]
    flags = frozenset(flag for flag in FLAGS if row.get(flag, '').lower() in ('1', 'true', 'yes'))
    return image, Thing(words.get(row['class'], row['class']), box, None, flags, where)


def _picture(image, size, stated, of_tables):
    """What several tables say of a picture, what they say alike once."""
    (source, things), *others = of_tables.items()
    known = {(thing.name, *thing.box) for thing in things}
    more = [thing for _, ours in others for thing in ours if (thing.name, *thing.box) not in known]
    return labelled(image, size, things + more, source, stated is None or are_stored(size, stated))


def _is_number(word):
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def write(parts, classes, lost):
    """SPLIT.csv, with names of columns, beside images/SPLIT; classes.csv; columns of flags where there are any."""
    images = [one for part in parts.values() for one in part.values()]
    flags = [flag for flag in FLAGS if any(flag in thing.flags for one in images for thing in one.things)]
    texts = {'classes.csv': _text([(name, i) for i, name in enumerate(classes)])}
    for split, part in parts.items():
        rows = [
            row for name, one in part.items() for row in _lines(f'images/{split}/{name}', one, flags, lost)
        ]
        texts[f'{split}.csv'] = _text([[*HEAD, *flags], *rows])
    return texts, {split: f'images/{split}' for split in parts}


def _lines(image, one, flags, lost):
    start = [image, one.width, one.height]
    for thing in one.things:
        lost['masks'] += thing.mask is not None
        numbers = [f'{value:.8g}' for value in thing.box]
        yield [*start, thing.name, *numbers, *(int(flag in thing.flags) for flag in flags)]
    if not one.things:
        yield [*start, *[''] * (5 + len(flags))]


def _text(rows):
    stream = io.StringIO(newline='')
    csv.writer(stream, lineterminator='\n').writerows(rows)
    return stream.getvalue()
