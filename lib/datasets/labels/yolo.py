"""YOLO's labels: a text file for each picture, a line for each object.

A line is the number of a class, from 0, then centre, width and height in shares of the picture as it is shown, or a polygon in
these. The file of .../images/a/b.jpg is .../labels/a/b.txt, or lies beside the picture; a picture that has none is one without
objects. Names of classes: of data.yaml (or any .yaml with `names`, a list or a mapping), or of classes.txt, *.names. What data.yaml says of train,
val and test, folders, lists of paths or several of these, divides the dataset, else its folders do.
"""

import glob
import json
import os

from datasets.labels.labelled import (
    Labels,
    Pictures,
    Thing,
    around,
    labelled,
    shown,
    shown_size,
    split_by,
    turned,
    wrong,
)
from datasets.labels.outlines import has_holes, joined, polygons_of
from utils.files import read_text
from utils.param_str import parse_yaml
from utils.progress import progress

FARTHEST = 2  # in shares of the picture: what is farther out is no share
KEYS = 'train', 'val', 'valid', 'test'


def read(root, pictures, faults=None):
    described = _described(root)
    if described:
        names = _names(*described)
        splits = _splits(root, pictures, *described, faults)
    else:
        names, splits = _listed_names(root), {}
    images = list(dict.fromkeys([*pictures.all, *(image for part in splits.values() for image in part)]))
    labels = {image: _label_file(root, image) for image in images}
    if images and not any(labels.values()):
        text = f'{root}: not one of {len(images)} images has a label file: {_places(root, images[0])}'
        wrong(faults, FileNotFoundError(text))
    found = {}
    for image in progress(images, 'labels'):
        try:
            size = pictures.header(image)
        except OSError as error:
            wrong(faults, error)
            continue
        things = _things(labels[image], names, shown_size(*size), faults) if labels[image] else []
        found[image] = labelled(image, size, things, labels[image] or '')
    splits = {name: [image for image in part if image in found] for name, part in splits.items()}
    by_folder = split_by({image: os.path.dirname(image) for image in found})
    return Labels(found, splits or by_folder, list(dict.fromkeys(names.values())))


def folders(root):
    """The folders that are read: root, and those that data.yaml names outside."""
    described = _described(root)
    paths = [path for _, path in _entries(root, *described)] if described else []
    return [root, *(path if os.path.isdir(path) else os.path.dirname(path) for path in paths)]


def _described(root):
    """Path and content of the YAML file with names, or None."""
    for path in sorted(glob.glob(os.path.join(glob.escape(root), '*.y*ml'))):
        content = parse_yaml(read_text(path), path)
        if isinstance(content, dict) and content.get('names'):
            return path, content
    return None


def _names(path, content):
    """{number: name}"""
    names = content['names']
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(str(number).isdigit() for number in names):
        raise ValueError(
            f'{path}: names: wanted a list, or a mapping of numbers from 0 to names, got {str(names)[:60]}'
        )
    return {int(number): str(names[number]).strip() for number in sorted(names, key=int)}


def _listed_names(root):
    wanted = ('classes.txt', 'labels/classes.txt', '*.names', '*/*.names', '*/classes.txt', '*/*/classes.txt')
    for pattern in wanted:
        for path in sorted(glob.glob(os.path.join(glob.escape(root), pattern))):
            lines = [line.strip() for line in read_text(path).strip().splitlines()]
            return dict(enumerate(lines))
    raise FileNotFoundError(f'{root}: no .yaml with names and no classes.txt says what the classes are')


def _entries(root, path, content):
    """(split, path) of what a YAML file names; a split that it calls by more than one path has several."""
    base = os.path.join(os.path.dirname(path), str(content.get('path') or ''))
    for key in KEYS:
        given = content.get(key) or []
        for entry in given if isinstance(given, list) else [given]:
            name = str(entry).replace('\\', '/')
            bare = name
            while bare.startswith(('../', './')):
                bare = bare.partition('/')[2]
            tried = [os.path.join(at, word) for at in (base, root) for word in (name, bare)]
            yield (
                key,
                next(
                    (os.path.normpath(place) for place in tried if os.path.exists(place)),
                    os.path.normpath(tried[0]),
                ),
            )


def _splits(root, pictures, path, content, faults):
    found = {}
    for key, place in _entries(root, path, content):
        if os.path.isdir(place):
            images = Pictures(root, os.path.relpath(place, root)).all
        elif os.path.isfile(place):
            images = listed(place, pictures, faults)
        elif key == 'test':
            continue  # data.yaml names tests that nobody has
        else:
            raise FileNotFoundError(f'{path}: {key}: no such folder or list {place}')
        found[key] = [*found.get(key, []), *images]
    return found


def listed(path, pictures, faults=None):
    """Images that a text file lists, one a line."""
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            image = pictures.find(line, os.path.relpath(os.path.dirname(path), pictures.root))
            if image is None:
                text = f'{path}:{number}: no such image, or several: {line.strip()}'
                wrong(faults, FileNotFoundError(text))
            else:
                found.append(image)
    return list(dict.fromkeys(found))


def _candidates(root, image):
    """Where the labels of an image may be."""
    parts = os.path.splitext(image)[0].split('/')
    last = max((i for i, part in enumerate(parts[:-1]) if part.lower() == 'images'), default=None)
    swapped = [parts[:last] + ['labels'] + parts[last + 1 :]] if last is not None else []
    tried = [*swapped, parts, ['labels', *parts], ['labels', parts[-1]]]
    return list(dict.fromkeys(os.path.normpath(os.path.join(root, *one)) + '.txt' for one in tried))


def _label_file(root, image):
    return next(filter(os.path.isfile, _candidates(root, image)), None)


def _places(root, image):
    return f'{os.path.join(root, image)} would have {" or ".join(_candidates(root, image)[:2])}'


def _things(path, names, size, faults):
    things = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            try:
                things.append(_thing(line.split(), names, *size, f'{path}:{number}'))
            except ValueError as error:
                wrong(faults, error)
    return things


def _thing(words, names, width, height, where):
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f'{where}: wanted numbers, got {" ".join(words)!r}') from None
    if len(values) < 5 or (len(values) > 6 and len(values) % 2 == 0) or values[0] not in names:
        raise ValueError(
            f'{where}: wanted the number of one of {len(names)} classes and a box or a polygon, got {" ".join(words)!r}'
        )
    shares = values[1:5] if len(values) < 7 else values[1:]
    if not all(abs(value) <= FARTHEST for value in shares):
        raise ValueError(
            f'{where}: wanted shares of the image, from 0 to 1, got {" ".join(words)!r}: are these pixels?'
        )
    pixels = [value * (height if i % 2 else width) for i, value in enumerate(shares)]
    if len(values) > 6:
        return Thing(names[int(values[0])], around(pixels), [pixels], where=where)
    x, y, wide, high = pixels
    return Thing(names[int(values[0])], [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], where=where)


def write(parts, classes, lost):
    """labels/SPLIT/NAME.txt beside images/SPLIT/NAME.jpg, and data.yaml. Where an object has a mask polygons are written for
    all, as programs want it: of one without, its box's corners."""
    numbers = {name: i for i, name in enumerate(classes)}
    masked = any(thing.mask for part in parts.values() for one in part.values() for thing in one.things)
    texts = {}
    for split, part in parts.items():
        for name, one in part.items():
            lines = [_line(one, thing, numbers, masked, lost) for thing in one.things]
            texts[f'labels/{split}/{os.path.splitext(name)[0]}.txt'] = ''.join(lines)
    texts['data.yaml'] = _yaml(parts, classes)
    return texts, {split: f'images/{split}' for split in parts}


def _yaml(parts, classes):
    """Programs ask for train and val, whatever else there is."""
    val = next((split for split in ('val', 'valid', 'validation', 'test', 'train') if split in parts), None)
    keys = {**{split: split for split in parts}, **({'val': val} if val else {})}
    places = ''.join(f'{key}: images/{split}\n' for key, split in keys.items())
    return f'{places}names:\n' + ''.join(f'  {i}: {json.dumps(name)}\n' for i, name in enumerate(classes))


def _line(one, thing, numbers, masked, lost):
    left_out = sorted(thing.flags & {'difficult', 'crowd'})
    if left_out:
        lost[f'{left_out[0]} objects (left out)'] += 1
        return ''
    lost.update(f'{flag} flags' for flag in thing.flags)
    lost['holes of masks'] += has_holes(thing.mask)
    upright = turned(thing, shown, one.width, one.height, one.turn)
    width, height = shown_size(one.width, one.height, one.turn)
    x1, y1, x2, y2 = upright.box
    polygons = polygons_of(upright.mask, width, height)
    if masked:
        lost['masks in several parts (joined by lines)'] += len(polygons) > 1
        lost['objects without mask (their boxes stand for it)'] += not polygons
        points = joined(polygons) if polygons else [x1, y1, x2, y1, x2, y2, x1, y2]
    else:
        points = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    shares = (min(max(value / (height if i % 2 else width), 0), 1) for i, value in enumerate(points))
    return f'{numbers[thing.name]} {" ".join(f"{value:.8g}" for value in shares)}\n'
