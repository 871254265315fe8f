"""Annotations as labelling programs leave them, read to be written anew (tools/convert_dataset.py): YOLO's, CSV, LabelMe's and
CVAT's for images.

A reader takes the folder of a dataset and gives a Labelled for each image. Boxes are x1 y1 x2 y2 in pixels, edges between them.
Errors name the file, and the line where there is one.
"""

import csv
import glob
import json
import os
from typing import NamedTuple

from datasets.readers.images import image_size
from datasets.readers.voc_xml import read_root
from utils.files import read_text
from utils.param_str import parse_yaml

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
# What a CSV file's first line may call a column
COLUMNS = {
    'image': ('image', 'filename', 'file', 'path', 'image_path', 'image_id'),
    'class': ('class', 'label', 'name', 'class_name', 'category'),
    'x1': ('x1', 'xmin', 'left'),
    'y1': ('y1', 'ymin', 'top'),
    'x2': ('x2', 'xmax', 'right'),
    'y2': ('y2', 'ymax', 'bottom'),
}
PLAIN = 'image', 'x1', 'y1', 'x2', 'y2', 'class'  # of one without names


class Labelled(NamedTuple):
    """An image's path from the dataset's folder, its size, and its objects: (name, box, polygon x y x y ... or None)."""

    image: str
    width: int
    height: int
    objects: list


def read_yolo(root):
    """labels/**/NAME.txt beside images/**/NAME.jpg, or both in one folder; a line is the number of a class, from 0, then centre
    and sides, or a polygon, in shares of the image. Names: of data.yaml, or any .yaml with `names`, or classes.txt."""
    names, found = _yolo_names(root), []
    for image in _images(root):
        width, height = image_size(os.path.join(root, image))
        parts = image.split(os.sep)
        path = os.path.join(root, *('labels' if part == 'images' else part for part in parts))
        path, objects = os.path.splitext(path)[0] + '.txt', []
        for number, line in enumerate(read_text(path).splitlines() if os.path.exists(path) else [], 1):
            if line.strip():
                objects.append(_yolo_object(line.split(), names, width, height, f'{path}:{number}'))
        found.append(Labelled(image, width, height, objects))
    return found


def _yolo_object(words, names, width, height, where):
    values = _numbers(words, where)
    if len(values) < 5 or (len(values) > 6 and len(values) % 2 == 0) or not 0 <= values[0] < len(names):
        raise ValueError(f'{where}: wanted the number of one of {len(names)} classes and a box or a polygon')
    name = names[int(values[0])]
    if len(values) > 6:
        polygon = [value * (height if i % 2 else width) for i, value in enumerate(values[1:])]
        return name, around(polygon), polygon
    x, y, wide, high = values[1] * width, values[2] * height, values[3] * width, values[4] * height
    return name, [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], None


def _yolo_names(root):
    for path in sorted(glob.glob(os.path.join(glob.escape(root), '*.y*ml'))):
        content = parse_yaml(read_text(path), path)
        names = content.get('names') if isinstance(content, dict) else None
        if names:
            return (
                [str(names[i]) for i in sorted(names)] if isinstance(names, dict) else list(map(str, names))
            )
    for path in (os.path.join(root, part, 'classes.txt') for part in ('', 'labels')):
        if os.path.exists(path):
            return read_text(path).split('\n')[: read_text(path).count('\n')] or [read_text(path)]
    raise FileNotFoundError(f'{root}: no .yaml with names and no classes.txt says what the classes are')


def read_csv(root):
    """All *.csv in the folder: a line for each object. The first line may name the columns, as TensorFlow's and others do
    (COLUMNS); else they are image, x1, y1, x2, y2, class. A line with an image alone is of one without objects."""
    objects = {}
    for path in _files(root, 'csv'):
        with open(path, newline='', encoding='utf-8-sig') as stream:
            rows = [row for row in csv.reader(stream) if row]
        places = _places([word.strip().lower() for word in rows[0]]) if rows else None
        for number, row in enumerate(rows[bool(places) :], 1 + bool(places)):
            place, where = places or {name: i for i, name in enumerate(PLAIN)}, f'{path}:{number}'
            if len(row) <= max(place.values()):
                raise ValueError(f'{where}: wanted {1 + max(place.values())} columns, got {len(row)}')
            mine = objects.setdefault(_found(root, row[place['image']], where), [])
            if row[place['class']]:
                box = _numbers([row[place[side]] for side in ('x1', 'y1', 'x2', 'y2')], where)
                mine.append((row[place['class']], box, None))
    return [Labelled(image, *image_size(os.path.join(root, image)), rows) for image, rows in objects.items()]


def _places(head):
    """{column: its place}, if all are named."""
    places = {
        name: next((head.index(word) for word in words if word in head), None)
        for name, words in COLUMNS.items()
    }
    return places if None not in places.values() else None


def read_labelme(root):
    """A .json for each image; rectangles, polygons and circles are objects, points and lines are not."""
    found = []
    for path in _files(root, 'json'):
        try:
            content = json.loads(read_text(path))
            shapes, name = content['shapes'], content['imagePath']
            objects = [_labelme_object(shape) for shape in shapes]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f'{path}: not as LabelMe writes it ({error!r})') from None
        image = _found(
            root, os.path.join(os.path.dirname(os.path.relpath(path, root)), name.replace('\\', '/')), path
        )
        size = image_size(os.path.join(root, image))
        found.append(Labelled(image, *size, list(filter(None, objects))))
    return found


def _labelme_object(shape):
    points, kind = shape['points'], shape.get('shape_type', 'polygon')
    flat = [float(value) for point in points for value in point]
    if kind == 'circle':
        (x, y), (u, v) = points
        radius = ((u - x) ** 2 + (v - y) ** 2) ** 0.5
        return shape['label'], [x - radius, y - radius, x + radius, y + radius], None
    if kind == 'rectangle':
        return shape['label'], around(flat), None
    return (shape['label'], around(flat), flat) if kind == 'polygon' else None


def read_cvat(root):
    """CVAT for images 1.1: annotations.xml, or all *.xml in the folder; boxes and polygons are objects."""
    found = []
    for path in _files(root, 'xml'):
        for image in read_root(path).iter('image'):
            try:
                name, width, height = (
                    image.attrib['name'],
                    int(image.attrib['width']),
                    int(image.attrib['height']),
                )
                objects = [_cvat_object(shape) for shape in image if shape.tag in ('box', 'polygon')]
            except (KeyError, ValueError) as error:
                raise ValueError(f'{path}: not as CVAT for images writes it ({error!r})') from None
            found.append(Labelled(_found(root, name, path), width, height, objects))
    return found


def _cvat_object(shape):
    label = shape.attrib['label']
    if shape.tag == 'box':
        return label, [float(shape.attrib[side]) for side in ('xtl', 'ytl', 'xbr', 'ybr')], None
    polygon = [float(value) for point in shape.attrib['points'].split(';') for value in point.split(',')]
    return label, around(polygon), polygon


def around(polygon):
    """The box of x y x y ..."""
    x, y = polygon[::2], polygon[1::2]
    return [min(x), min(y), max(x), max(y)]


def _numbers(words, where):
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f'{where}: wanted numbers, got {" ".join(words)!r}') from None


def _files(root, extension):
    paths = sorted(glob.glob(os.path.join(glob.escape(root), '**', f'*.{extension}'), recursive=True))
    if not paths:
        raise FileNotFoundError(f'{root}: no .{extension} file in it')
    return paths


def _images(root):
    paths = glob.glob(os.path.join(glob.escape(root), '**', '*'), recursive=True)
    return sorted(os.path.relpath(path, root) for path in paths if path.lower().endswith(EXTENSIONS))


def _found(root, name, where):
    """An image that a file names, from the folder: there, or in its folder images, by its path or its name alone."""
    for place in (
        name,
        os.path.join('images', name),
        os.path.basename(name),
        f'images/{os.path.basename(name)}',
    ):
        if os.path.isfile(os.path.join(root, place)):
            return os.path.normpath(os.path.relpath(os.path.join(root, place), root))
    raise FileNotFoundError(f'{where}: its image {name} is not in {root} or its folder images')


LABELS = {'yolo': read_yolo, 'csv': read_csv, 'labelme': read_labelme, 'cvat': read_cvat}
