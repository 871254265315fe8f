"""LabelMe's labels: a JSON file for each picture, beside it.

Rectangles, polygons, circles and masks are objects; points and lines are not. Shapes of one label and one group_id are one object in several
parts. A picture that is nowhere is taken from the file, where this holds it. Folders train, val ... divide the dataset.
"""

import base64
import binascii
import hashlib
import io
import json
import math
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

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
from datasets.labels.outlines import ellipse, has_holes, of_window, polygons_of
from utils.files import atomic_path, read_text
from utils.progress import progress

NO_AREA = 'point', 'points', 'line', 'linestrip'


def read(root, pictures, faults=None):
    found = {}
    paths = [path for path in walk(root) if path.lower().endswith('.json')]
    if not paths:
        raise FileNotFoundError(f'{root}: no .json file in it')
    for path in progress(paths, 'labels'):
        try:
            one = _read(path, pictures)
        except (ValueError, OSError) as error:
            wrong(faults, error)
            continue
        if one.image in found:
            wrong(
                faults, ValueError(f'{path}: its image {one.image} is that of {found[one.image].source} too')
            )
        found[one.image] = one
    return Labels(
        found, split_by({image: os.path.relpath(one.source, root) for image, one in found.items()}), None
    )


def _read(path, pictures):
    try:
        content = json.loads(read_text(path))
        shapes, name, data = content['shapes'], content['imagePath'], content.get('imageData')
        stated = content.get('imageWidth'), content.get('imageHeight')
        things = [_thing(shape, f'{path}: shape {i}') for i, shape in enumerate(shapes, 1)]
    except (KeyError, TypeError, IndexError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'{path}: not as LabelMe writes it ({type(error).__name__}: {error})') from None
    image = _image(path, name, data, pictures)
    size = pictures.header(image)
    things = [_in_pixels(thing, *shown_size(*size)) for thing in _grouped(things, shapes)]
    return labelled(image, size, things, path, are_stored(size, stated))


def _image(path, name, data, pictures):
    """The picture of a file: as it says, or that of its own name, or what it holds."""
    near = os.path.relpath(os.path.dirname(path), pictures.root)
    stem = os.path.splitext(os.path.basename(path))[0]
    found = pictures.find(name, near) or pictures.find(stem, near)
    if found:
        return found
    if not data or not pictures.spare:
        raise FileNotFoundError(f'{path}: its image {name} is not in {pictures.root}, and not in the file')
    try:
        content = base64.b64decode(data)
        with Image.open(io.BytesIO(content)) as image:
            extension = image.format.lower()
    except (binascii.Error, TypeError, ValueError, UnidentifiedImageError) as error:
        raise ValueError(f'{path}: imageData is no picture ({type(error).__name__})') from None
    digest = hashlib.sha256(content).hexdigest()[:12]
    place = os.path.join(pictures.spare, f'{stem}_{digest}.{"jpg" if extension == "jpeg" else extension}')
    if not os.path.exists(place):
        with atomic_path(place) as temporary, open(temporary, 'wb') as stream:
            stream.write(content)
    return pictures.path(place)


def _thing(shape, where):
    """The Thing of a shape, None of one without area. A mask is what was drawn, its box the window's."""
    kind, label = shape.get('shape_type') or 'polygon', str(shape['label']).strip()
    flat = [float(value) for point in shape['points'] for value in point]
    if not label or not all(map(math.isfinite, flat)):
        raise ValueError(
            f'{where}: wanted a label and finite numbers, got {label!r} and {str(shape["points"])[:60]}'
        )
    if kind in NO_AREA:
        return None
    given = shape.get('flags') or {}
    flags = frozenset(flag for flag in FLAGS if given.get(flag) or shape.get(flag) is True)
    if kind == 'circle' and len(flat) == 4:
        x, y, u, v = flat
        flat, radius = [x, y, u, v], math.hypot(u - x, v - y)
        return Thing(
            label,
            [x - radius, y - radius, x + radius, y + radius],
            [ellipse(x, y, radius, radius)],
            flags,
            where,
        )
    if kind == 'rectangle' and len(flat) >= 4:
        return Thing(label, around(flat), None, flags, where)
    if kind == 'mask' and len(flat) == 4:
        return Thing(label, flat, _window(shape['mask'], where), flags, where)
    if kind in ('polygon', 'rotation', 'oriented_rectangle') and len(flat) >= 6:
        return Thing(label, around(flat), [flat], flags, where)
    raise ValueError(f'{where}: a {kind} of {len(flat) // 2} points')


def _window(data, where):
    """Pixels (h, w) of a mask, base64 of a picture."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return np.array(image.convert('L'))
    except (binascii.Error, TypeError, ValueError, OSError) as error:
        raise ValueError(f'{where}: a mask that cannot be read ({type(error).__name__})') from None


def _in_pixels(thing, width, height):
    """A Thing whose mask, if it is a window, is one of the picture."""
    if not isinstance(thing.mask, np.ndarray):
        return thing
    left, top = (math.floor(value + 0.5) for value in thing.box[:2])
    high, wide = thing.mask.shape
    mask = of_window(thing.mask, left, top, width, height)
    return thing._replace(box=[left, top, left + wide, top + high], mask=mask)


def _grouped(things, shapes):
    """Polygons of one label and one group are one Thing, where the first of them stands."""
    groups, found = {}, []
    for thing, shape in zip(things, shapes):
        group = shape.get('group_id')
        if thing is None:
            continue
        key = (thing.name, group) if group is not None and isinstance(thing.mask, list) else None
        if key in groups:
            first = found[groups[key]]
            polygons = first.mask + thing.mask
            found[groups[key]] = first._replace(box=around(sum(polygons, [])), mask=polygons)
            continue
        if key:
            groups[key] = len(found)
        found.append(thing)
    return found


def write(parts, classes, lost):
    """SPLIT/NAME.json beside SPLIT/NAME.jpg."""
    texts = {}
    for split, part in parts.items():
        for name, one in part.items():
            width, height = shown_size(one.width, one.height, one.turn)
            content = {
                'version': '5.4.1',
                'flags': {},
                'shapes': [
                    shape for i, thing in enumerate(one.things) for shape in _shapes(one, thing, i, lost)
                ],
                'imagePath': os.path.basename(name),
                'imageData': None,
                'imageHeight': height,
                'imageWidth': width,
            }
            texts[f'{split}/{os.path.splitext(name)[0]}.json'] = json.dumps(
                content, ensure_ascii=False, indent=1
            )
    return texts, {split: split for split in parts}


def _shapes(one, thing, number, lost):
    upright = turned(thing, shown, one.width, one.height, one.turn)
    lost['holes of masks'] += has_holes(thing.mask)
    polygons = polygons_of(upright.mask, *shown_size(one.width, one.height, one.turn))
    x1, y1, x2, y2 = upright.box
    group = number if len(polygons) > 1 else None
    for points, kind in [(polygon, 'polygon') for polygon in polygons] or [([x1, y1, x2, y2], 'rectangle')]:
        yield {
            'label': thing.name,
            'points': np.reshape(points, (-1, 2)).tolist(),
            'group_id': group,
            'description': '',
            'shape_type': kind,
            'flags': dict.fromkeys(sorted(thing.flags), True),
        }
