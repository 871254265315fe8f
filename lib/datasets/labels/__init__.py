"""What labelling programs and other projects write and want: each format a module, with

    read(root, pictures, faults=None) -> labelled.Labels    of the folder root; pictures: labelled.Pictures of it
    write(parts, classes, lost) -> texts, folders    parts: {split: {name of a picture: labelled.Labelled}}; texts: {path: text} of the
                                files to write, folders: {split: where its pictures go}; lost: a Counter of what the format has not

and entered in FORMATS; one that may lie in several places has folders(root), too. Errors name the file, and the line or the object; given
a list of faults they are noted there, and what is left is read.

labelled    pictures and their objects; which picture a file means; EXIF orientation
outlines    masks as polygons and as run lengths
"""

import os

from datasets.labels import coco, cvat, labelme, tables, voc, yolo
from datasets.labels.labelled import SPLITS, Labelled, Labels, Pictures, walk
from datasets.labels.yolo import listed
from datasets.readers.images import set_names

FORMATS = {'voc': voc, 'coco': coco, 'yolo': yolo, 'csv': tables, 'labelme': labelme, 'cvat': cvat}
LISTS = 'splits'  # the folder of lists that tools/split_dataset.py writes


def read(kind, root, images='', spare='', faults=None):
    """The Labels of a dataset of FORMATS, divided by the lists in its folder `splits`, if there are any, else by SPLIT.txt in it,
    else as the format has it. images: the folder of pictures below root; spare: where those go that files hold."""
    if not os.path.isdir(root):
        raise FileNotFoundError(f'{root}: no such folder')
    pictures = Pictures(root, images, spare)
    found = FORMATS[kind].read(root, pictures, faults)
    lists = lists_in(root) if kind not in ('voc', 'coco') else {}
    return found._replace(
        splits={name: select(found, path, pictures, faults) for name, path in lists.items()} or found.splits
    )


def lists_in(root):
    """{split: path of its list} of the lists that divide a dataset."""
    own = os.path.join(root, LISTS)
    paths = {name: os.path.join(own, name + '.txt') for name in set_names(own)}
    return paths or {name: os.path.join(root, name + '.txt') for name in set_names(root) if name in SPLITS}


def select(found, source, pictures, faults=None):
    """Images that `source` means, a list of them, a folder, a list's file, or a file of labels; those without labels are put into
    found.images, without objects."""
    if isinstance(source, str) and os.path.isdir(source):
        inside = os.path.relpath(source, pictures.root).replace(os.sep, '/') + '/'
        return [image for image in found.images if image.startswith(inside) or inside == './']
    if isinstance(source, str) and not os.path.exists(source):
        raise FileNotFoundError(f'{source}: no such list, folder or file of labels')
    if isinstance(source, str) and not source.endswith('.txt'):
        return [
            image
            for image, one in found.images.items()
            if os.path.realpath(one.source) == os.path.realpath(source)
        ]
    names = listed(source, pictures, faults) if isinstance(source, str) else _named(source, pictures)
    for image in names:
        if image not in found.images:
            width, height, turn = pictures.header(image)
            found.images[image] = Labelled(image, width, height, [], '', turn)
    return names


def _named(names, pictures):
    images = {name: pictures.find(name) for name in map(str, names)}
    missing = [name for name, image in images.items() if image is None]
    if missing:
        raise FileNotFoundError(f'{pictures.root}: no such image, or several: {missing[0]}')
    return list(images.values())


def classes_of(found):
    """The names of a dataset's classes: as it lists them, then those that it does not, sorted."""
    names = {thing.name for one in found.images.values() for thing in one.things}
    listed_ = list(found.classes or [])
    return listed_ + sorted(names - set(listed_))


def folders(kind, root):
    """The folders that are read for a dataset of FORMATS."""
    module = FORMATS[kind]
    return module.folders(root) if hasattr(module, 'folders') else [root]


def guess(root):
    """The format, of FORMATS or imagenet, of what lies in a folder; None if it is none of them."""
    if os.path.isdir(os.path.join(root, 'Annotations', 'DET')):
        return 'imagenet'
    if os.path.isdir(os.path.join(root, 'JPEGImages')):
        return 'voc'
    for kind, tells in TELLS.items():
        if any(tells(path) for path in walk(root)):
            return kind
    return None


def _begins(*words):
    def tells(path):
        with open(path, 'rb') as stream:
            start = stream.read(4000)
        return any(word in start for word in words)

    return tells


def _is(extension, tells=lambda path: True):
    return lambda path: path.lower().endswith(extension) and tells(path)


TELLS = {
    'yolo': lambda path: (
        os.path.basename(path) in ('data.yaml', 'classes.txt', 'obj.names')
        or f'{os.sep}labels{os.sep}' in path
        and path.endswith('.txt')
    ),
    'voc': _is('.xml', _begins(b'<annotation>')),
    'cvat': _is('.xml', _begins(b'<annotations>')),
    'labelme': _is('.json', _begins(b'"shapes"')),
    'coco': _is('.json', _begins(b'"images"', b'"categories"', b'"annotations"')),
    'csv': _is('.csv'),
}
