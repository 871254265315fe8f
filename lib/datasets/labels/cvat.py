"""CVAT's labels: XML files, "CVAT for images 1.1" and "CVAT for video 1.1".

Boxes, polygons, ellipses and masks are objects. Of a video, pictures are its frames, frame_000012.png or with another name that ends in the
number. Subsets of a project's images, or folders train, val ..., divide the dataset.
"""

import math
import os
import re
from typing import NamedTuple
from xml.etree import ElementTree

from datasets.labels.labelled import (
    FLAGS,
    Labels,
    Thing,
    are_stored,
    around,
    labelled,
    shown,
    shown_size,
    split_by,
    turned,
    walk,
    wrong,
)
from datasets.labels.outlines import ellipse, of_runs, rle_of_parts, rotate, runs_of
from datasets.readers.voc_xml import read_root

SIDES = 'xtl', 'ytl', 'xbr', 'ybr'


class Entry(NamedTuple):
    """An image or a frame: what it is called, its size where the file says it, its shapes, their labels, and its subset."""

    where: str
    name: str
    stated: tuple
    shapes: list
    labels: list
    subset: str = ''


def read(root, pictures, faults=None):
    paths = [path for path in walk(root) if path.lower().endswith('.xml')]
    if not paths:
        raise FileNotFoundError(f'{root}: no .xml file in it')
    found, subsets = {}, {}
    for path in paths:
        try:
            entries = _entries(path, pictures)
        except (ValueError, OSError) as error:
            wrong(faults, error)
            continue
        for entry in entries:
            try:
                one = _picture(path, entry, pictures)
            except (ValueError, OSError) as error:
                wrong(faults, error)
                continue
            before = found[one.image].things if one.image in found else []
            found[one.image] = one._replace(things=before + one.things)
            subsets[one.image] = entry.subset
    return Labels(
        found, _by_subset(subsets) or split_by({image: os.path.dirname(image) for image in found}), None
    )


def _by_subset(subsets):
    """{split: images}, where every image has one."""
    splits = {}
    for image, subset in subsets.items():
        splits.setdefault(subset.lower(), []).append(image)
    return {} if '' in splits or set(splits) == {'default'} else splits


def _entries(path, pictures):
    """The entries of a file."""
    tree = read_root(path)
    if tree.tag != 'annotations':
        raise ValueError(f'{path}: not as CVAT writes it: wanted <annotations>, got <{tree.tag}>')
    if tree.find('track') is not None or tree.findtext('meta/task/mode') == 'interpolation':
        return _frames(path, tree, pictures)
    return [_image(path, image) for image in tree.iter('image')]


def _image(path, image):
    name = image.get('name') or ''
    shapes = [shape for shape in image if shape.tag in SHAPES]
    where = f'{path}: image {image.get("id")} ({name})'
    stated = _whole(where, image.get('width'), image.get('height'))
    return Entry(
        where, name, stated, shapes, [shape.get('label') for shape in shapes], image.get('subset') or ''
    )


def _frames(path, tree, pictures):
    """Of each frame that there is a picture of: what the tracks have in it."""
    size, count, subset = (tree.find(f'meta//{tag}') for tag in ('original_size', 'size', 'subset'))
    stated = None if size is None else _whole(path, size.findtext('width'), size.findtext('height'))
    (last,) = (0,) if count is None else _whole(path, count.text or '0')
    tracked, numbered = _tracked(path, tree), _numbered(path, pictures)
    entries = []
    for frame in sorted({*tracked, *(number for number in numbered if number < last)}):
        name = numbered.get(frame) or f'frame_{frame:06d}'
        shapes, labels = zip(*tracked[frame]) if frame in tracked else ((), ())
        entries.append(
            Entry(f'{path}: frame {frame}', name, stated, shapes, labels, getattr(subset, 'text', '') or '')
        )
    return entries


def _tracked(path, tree):
    """{frame: (shape, label) of the tracks that are seen in it}"""
    found = {}
    for track in tree.iter('track'):
        for shape in track:
            if shape.tag in SHAPES and shape.get('outside') != '1':
                where = f'{path}: track {track.get("id")}'
                (frame,) = _whole(where, shape.get('frame', 'no frame'))
                found.setdefault(frame, []).append((shape, track.get('label')))
    return found


def _numbered(path, pictures):
    """{number that a name ends in: picture} of those in the folder of a file or below, else of all; none that two have."""
    near = os.path.relpath(os.path.dirname(path), pictures.root).replace(os.sep, '/') + '/'
    mine = [image for image in pictures.all if near == './' or image.startswith(near)] or pictures.all
    found = {}
    for image in mine:
        number = re.search(r'(\d+)\.\w+$', image)
        if number:
            found.setdefault(int(number[1]), []).append(image)
    return {number: images[0] for number, images in found.items() if len(images) == 1}


def _picture(path, entry, pictures):
    image = pictures.find(entry.name, os.path.relpath(os.path.dirname(path), pictures.root))
    if image is None:
        raise FileNotFoundError(
            f'{entry.where}: its picture {entry.name} is not in {pictures.root}, or there are several'
        )
    size = pictures.header(image)
    by_pixels = are_stored(size, entry.stated)
    own = size[:2] if by_pixels else shown_size(*size)
    pairs = enumerate(zip(entry.shapes, entry.labels), 1)
    things = [_thing(shape, label, own, f'{entry.where}, object {i}') for i, (shape, label) in pairs]
    return labelled(image, size, things, path, by_pixels)


def _whole(where, *words):
    """Whole numbers, None where one is missing."""
    try:
        return None if None in words else tuple(int(word) for word in words)
    except ValueError:
        raise ValueError(f'{where}: wanted whole numbers, got {", ".join(words)}') from None


def _thing(shape, label, size, where):
    try:
        box, mask = SHAPES[shape.tag](shape.attrib, size)
        if not label or not all(map(math.isfinite, box)):
            raise ValueError('no label, or no finite numbers')
    except (KeyError, ValueError) as error:
        raise ValueError(
            f'{where}: not as CVAT writes a {shape.tag} ({type(error).__name__}: {error})'
        ) from None
    said = {item.get('name'): (item.text or '').strip().lower() == 'true' for item in shape.iter('attribute')}
    said['occluded'] = shape.get('occluded') == '1'
    return Thing(label, box, mask, frozenset(flag for flag in FLAGS if said.get(flag)), where)


def _box(shape, size):
    box = [float(shape[side]) for side in SIDES]
    degrees = float(shape.get('rotation') or 0)
    if not degrees:
        return box, None
    x1, y1, x2, y2 = box
    polygon = rotate([x1, y1, x2, y1, x2, y2, x1, y2], (x1 + x2) / 2, (y1 + y2) / 2, degrees)
    return around(polygon), [polygon]


def _polygon(shape, size):
    polygon = [float(value) for point in shape['points'].split(';') for value in point.split(',')]
    return around(polygon), [polygon]


def _ellipse(shape, size):
    x, y, across, down = (float(shape[key]) for key in ('cx', 'cy', 'rx', 'ry'))
    polygon = ellipse(x, y, across, down)
    degrees = float(shape.get('rotation') or 0)
    polygon = rotate(polygon, x, y, degrees) if degrees else polygon
    return around(polygon), [polygon]


def _mask(shape, size):
    runs = [int(word) for word in shape['rle'].split(',')]
    left, top, width, height = (int(float(shape[key])) for key in ('left', 'top', 'width', 'height'))
    return [left, top, left + width, top + height], of_runs(runs, left, top, width, height, *size)


SHAPES = {'box': _box, 'polygon': _polygon, 'ellipse': _ellipse, 'mask': _mask}


def write(parts, classes, lost):
    """annotations.xml, of images in images/SPLIT, each with its split for subset."""
    root = ElementTree.Element('annotations')
    _child(root, 'version', '1.1')
    labels = _child(_child(_child(root, 'meta'), 'project'), 'labels')
    for name in classes:
        label = _child(labels, 'label')
        _child(label, 'name', name)
        attributes = _child(label, 'attributes')
        for flag in sorted(set(FLAGS) - {'occluded'}):
            _attribute_kind(_child(attributes, 'attribute'), flag)
    number = 0
    for split, part in parts.items():
        for name, one in part.items():
            width, height = map(str, shown_size(one.width, one.height, one.turn))
            image = _child(
                root,
                'image',
                id=str(number),
                name=f'{split}/{name}',
                subset=split,
                width=width,
                height=height,
            )
            number += 1
            for thing in one.things:
                _write_thing(image, one, thing)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding='unicode', xml_declaration=False)
    return {'annotations.xml': f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'}, {
        split: f'images/{split}' for split in parts
    }


def _child(parent, tag, text=None, **attributes):
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child


def _attribute_kind(attribute, name):
    """What the label's declaration says of an attribute: a checkbox that is empty by default."""
    for tag, text in (
        ('name', name),
        ('mutable', 'False'),
        ('input_type', 'checkbox'),
        ('default_value', 'false'),
        ('values', 'false'),
    ):
        _child(attribute, tag, text)


def _write_thing(image, one, thing):
    upright = turned(thing, shown, one.width, one.height, one.turn)
    common = {
        'label': thing.name,
        'occluded': str(int('occluded' in thing.flags)),
        'source': 'manual',
        'z_order': '0',
    }
    mask = upright.mask
    if isinstance(mask, list) and len(mask) > 1:  # which a polygon cannot be
        mask = rle_of_parts(mask, *shown_size(one.width, one.height, one.turn))
    if isinstance(mask, dict):
        runs, left, top, width, height = runs_of(mask)
        window = {'left': left, 'top': top, 'width': width, 'height': height}
        shape = _child(
            image, 'mask', rle=', '.join(map(str, runs)), **{k: str(v) for k, v in window.items()}, **common
        )
    elif mask:
        pairs = zip(mask[0][::2], mask[0][1::2])
        shape = _child(image, 'polygon', points=';'.join(f'{x:.8g},{y:.8g}' for x, y in pairs), **common)
    else:
        shape = _child(
            image, 'box', **{side: f'{value:.8g}' for side, value in zip(SIDES, upright.box)}, **common
        )
    for flag in sorted(thing.flags - {'occluded'}):
        _child(shape, 'attribute', 'true', name=flag)
