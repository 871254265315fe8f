"""PASCAL VOC's labels: an XML file for each picture. Where these lie: datasets.readers.voc.

Written, pixels count from 1 and boxes are rounded to whole ones, for most programs take no others.
"""

import os
from xml.etree import ElementTree

import numpy as np

from datasets.labels.labelled import Labels, Thing, labelled, wrong
from datasets.readers.boxes import guess_base
from datasets.readers.images import read_image_set
from datasets.readers.voc import VocLayout
from datasets.readers.voc_xml import object_box, object_name, read_root
from utils.progress import progress

OWN_FLAGS = 'difficult', 'truncated', 'occluded'


def read(root, pictures, faults=None):
    layout = VocLayout(root)
    lists = {
        name: read_image_set(one) if isinstance(one, str) else one for name, one in layout.given().items()
    }
    listed = dict.fromkeys(name for part in lists.values() for name in part)
    ids = list(
        listed | dict.fromkeys(name for name in layout.ids() if os.path.exists(layout.annotation(name)))
    )
    if not ids:
        raise FileNotFoundError(f'{root}: no image with an .xml file, in Annotations or beside it')
    paths, things, found = {}, {}, {}
    for name in progress(ids, 'labels'):
        try:
            paths[name] = pictures.path(layout.image(name))
            things[name] = _things(layout.annotation(name))
        except (ValueError, OSError) as error:
            wrong(faults, error)
    base = guess_base(np.array([thing.box for some in things.values() for thing in some]))
    for name, some in things.items():
        own = [thing._replace(box=_edges(thing.box, base)) for thing in some]
        image, source = paths[name], layout.annotation(name)
        found[image] = labelled(image, pictures.header(image), own, source, by_pixels=True)
    return Labels(
        found,
        {split: [paths[name] for name in part if name in things] for split, part in lists.items()},
        None,
    )


def _edges(box, base):
    """Corners of first and last pixel, counted from base, as edges."""
    x1, y1, x2, y2 = box
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return [x1 - base, y1 - base, x2 - base + 1, y2 - base + 1]


def _things(path):
    return [
        Thing(
            object_name(path, i, item), object_box(path, i, item), None, _flags(item), f'{path}: object {i}'
        )
        for i, item in enumerate(read_root(path).findall('object'), 1)
    ]


def _flags(item):
    return frozenset(flag for flag in OWN_FLAGS if (item.findtext(flag) or '').strip() == '1')


def write(parts, classes, lost):
    """Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/SPLIT.txt."""
    texts = {}
    for split, part in parts.items():
        stems = [os.path.splitext(name)[0] for name in part]
        texts[f'ImageSets/Main/{split}.txt'] = ''.join(f'{stem}\n' for stem in stems)
        for stem, (name, one) in zip(stems, part.items()):
            texts[f'Annotations/{stem}.xml'] = _xml(name, one, lost)
    return texts, {split: 'JPEGImages' for split in parts}


def _xml(name, one, lost):
    root = ElementTree.Element('annotation')
    _tags(root, folder='JPEGImages', filename=os.path.basename(name))
    _tags(ElementTree.SubElement(root, 'size'), width=one.width, height=one.height, depth=3)
    _tags(root, segmented=0)
    for thing in one.things:
        lost['masks'] += thing.mask is not None
        lost['crowds (written as difficult)'] += 'crowd' in thing.flags
        item = ElementTree.SubElement(root, 'object')
        flags = thing.flags | ({'difficult'} if 'crowd' in thing.flags else set())
        _tags(item, name=thing.name, pose='Unspecified', **{flag: int(flag in flags) for flag in OWN_FLAGS})
        box = _whole(thing.box, lost)
        _tags(ElementTree.SubElement(item, 'bndbox'), **dict(zip(('xmin', 'ymin', 'xmax', 'ymax'), box)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding='unicode') + '\n'


def _whole(box, lost):
    """First and last pixel of a box, counted from 1."""
    x1, y1, x2, y2 = (round(value) for value in box)
    lost['parts of pixels in boxes'] += [x1, y1, x2, y2] != list(box)
    return x1 + 1, y1 + 1, max(x2, x1 + 1), max(y2, y1 + 1)


def _tags(parent, **texts):
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)
