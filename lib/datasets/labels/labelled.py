"""Pictures with what somebody labelled in them, whatever the file: what readers of labels/ give, and writers take.

Boxes are x1 y1 x2 y2 in pixels, edges between them, so that a width is x2 - x1. They, and polygons, are of the pixels as they are
stored: a picture that its EXIF tag turns is shown otherwise, and programs label what they show (see shown, stored).
"""

import functools
import os
from typing import NamedTuple

from datasets.readers.images import image_header

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
FLAGS = 'difficult', 'truncated', 'occluded', 'crowd'
# What folders and files call the parts of a dataset
SPLITS = 'train', 'trainval', 'val', 'valid', 'validation', 'test', 'minival'
# EXIF orientation -> from what is shown to what is stored: are x and y exchanged, is x then counted from the right, y from below
TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class Thing(NamedTuple):
    """An object: mask is a segmentation as readers.masks has it, or None; flags are of FLAGS; where: the file and line, or
    what else tells it, that says so."""

    name: str
    box: list
    mask: object = None
    flags: frozenset = frozenset()
    where: str = ''


class Labelled(NamedTuple):
    """A picture: its path from the dataset's folder, with /; size, as stored; things; the file that says so, '' for none;
    its EXIF orientation."""

    image: str
    width: int
    height: int
    things: list
    source: str = ''
    turn: int = 1


class Labels(NamedTuple):
    """A dataset: {image: Labelled}; {split: images}, where its files divide it; its classes in their order, if they say."""

    images: dict
    splits: dict
    classes: list


def wrong(faults, error):
    """Raises the error, or, where there is a list of faults, notes it there and goes on."""
    if faults is None:
        raise error
    faults.append(str(error))


class Pictures:
    """The pictures in a dataset's folder; given `folder`, in that one below it. spare: a folder for those that files hold."""

    def __init__(self, root, folder='', spare=''):
        self.root, self.folder, self.spare = root, folder, spare

    @functools.cached_property
    def all(self):
        """Paths from root, sorted."""
        top = os.path.join(self.root, self.folder)
        return sorted(self.path(name) for name in walk(top) if name.lower().endswith(EXTENSIONS))

    def path(self, name):
        """A path as it is from root, with /."""
        return os.path.relpath(name, self.root).replace(os.sep, '/')

    @functools.cached_property
    def _by_name(self):
        """{file name, and file name without extension, small letters: paths}"""
        found = {}
        for path in self.all:
            name = os.path.basename(path).lower()
            for key in {name, os.path.splitext(name)[0]}:
                found.setdefault(key, []).append(path)
        return found

    def find(self, name, near=''):
        """The picture that a file in the folder `near` names: there, at that path from root, or else the one whose path ends
        as the name does, whatever the case of letters, with its extension or without, and of several the one that lies there.
        None: there is none, or several."""
        name = str(name).strip().replace('\\', '/')
        for place in (near, '', self.folder, 'images'):
            path = os.path.join(self.root, place, name)
            if name and name.lower().endswith(EXTENSIONS) and os.path.isfile(path):
                return self.path(path)
        found = self._by_name.get(os.path.basename(name).lower(), [])
        for wanted in name, f'{near}/{name}'.replace(os.sep, '/'):
            tail = max((_common_tail(path, wanted) for path in found), default=0)
            found = [path for path in found if _common_tail(path, wanted) == tail]
        return found[0] if len(found) == 1 else None

    def header(self, image):
        """Width, height as stored, and EXIF orientation."""
        return image_header(os.path.join(self.root, image))


def _common_tail(path, name):
    """How many folders of both are the same, from the file up."""
    pairs = zip(reversed(path.lower().split('/')[:-1]), reversed(name.lower().split('/')[:-1]))
    count = 0
    for a, b in pairs:
        if a != b:
            break
        count += 1
    return count


def walk(top, seen=None):
    """Paths of all files below a folder, links followed; none that are hidden."""
    seen = set() if seen is None else seen
    real = os.path.realpath(top)
    if real in seen or not os.path.isdir(top):
        return
    seen.add(real)
    for entry in sorted(os.scandir(top), key=lambda entry: entry.name):
        if entry.name.startswith(('.', '__MACOSX')):
            continue
        if entry.is_dir():
            yield from walk(entry.path, seen)
        else:
            yield entry.path


def shown_size(width, height, turn):
    """(width, height) of a stored picture as it is shown."""
    return (height, width) if TURNS[turn][0] else (width, height)


def stored(points, width, height, turn):
    """Points x y x y ... of a picture as it is shown, in its pixels as stored, width x height."""
    swap, right, below = TURNS[turn]
    x, y = (points[1::2], points[::2]) if swap else (points[::2], points[1::2])
    x = [width - value for value in x] if right else x
    y = [height - value for value in y] if below else y
    return [value for pair in zip(x, y) for value in pair]


def shown(points, width, height, turn):
    """The inverse of stored."""
    swap, right, below = TURNS[turn]
    x = [width - value for value in points[::2]] if right else points[::2]
    y = [height - value for value in points[1::2]] if below else points[1::2]
    return [value for pair in (zip(y, x) if swap else zip(x, y)) for value in pair]


def turned(thing, how, width, height, turn):
    """The Thing with box and mask as `how`, shown or stored, has them."""
    from datasets.labels.outlines import polygons_of

    if turn == 1:
        return thing
    size = shown_size(width, height, turn) if how is stored else (width, height)
    polygons = polygons_of(thing.mask, *size)
    mask = [how(polygon, width, height, turn) for polygon in polygons] or None
    return thing._replace(box=around(how(list(thing.box), width, height, turn)), mask=mask)


def around(points):
    """The box of x y x y ..."""
    x, y = points[::2], points[1::2]
    return [min(x), min(y), max(x), max(y)]


def snapped(box, width, height):
    """A box that is outside the picture by a pixel at most, as rounding leaves it, cut at the edge."""
    sides = width, height, width, height
    return [
        min(max(value, 0.0), float(side)) if -1 <= value <= side + 1 else value
        for value, side in zip(box, sides)
    ]


def labelled(image, size, things, source, by_pixels=False):
    """A Labelled of things that are of the picture as it is shown or, by_pixels, as it is stored; size: as of header."""
    width, height, turn = size
    if not by_pixels:
        things = [turned(thing, stored, width, height, turn) for thing in things]
    things = [thing._replace(box=snapped(thing.box, width, height)) for thing in things]
    return Labelled(image, width, height, things, source, turn)


def are_stored(size, stated):
    """Whether a (width, height) that a file states is that of the pixels as stored, and not of the picture as shown."""
    return stated == size[:2] != shown_size(*size)


def split_of(path):
    """What part of a dataset a path says, by its folders or words in the file's name; '' for none."""
    stem = os.path.splitext(path.replace('\\', '/'))[0].lower()
    for part in reversed(stem.split('/')):
        for word in part.replace('-', '_').replace('.', '_').split('_'):
            word = word[: len(word.rstrip('0123456789'))]
            if word in SPLITS:
                return word
    return ''


def split_by(paths):
    """{split: items} of {item: path}, if every path says one."""
    found = {}
    for item, path in paths.items():
        found.setdefault(split_of(path), []).append(item)
    return {} if '' in found else found
