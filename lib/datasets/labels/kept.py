"""Labels of any format kept in COCO's, a file for each split, as datasets.coco_imdb takes them; made anew when a file changes."""

import hashlib
import json
import os

from datasets import labels
from datasets.labels.coco import content
from utils.files import atomic_path, locked

# What the key of a dataset's files begins with: 1 more where what is read of the same files changes
VERSION = 1


def keep(kind, root, folder, name, images='', given=None, at='', faults=None):
    """{split: path of its file}. kind: of labels.FORMATS; folder: where files are kept, name: what theirs begin with; given:
    {split: source} as labels.select has it, paths from the folder `at`, in place of what the dataset says.

    With a list of faults what can be read is kept apart, for this process, and faults are noted there.
    """
    stem = os.path.join(folder, name)
    index = f'{stem}_labels.json'
    key = _key(kind, root, images, given, at)
    if faults is not None:
        return _made(kind, root, stem, images, given, at, faults)
    known = _known(index, key)
    if known is None:
        with locked(index):
            known = _known(index, key)
            if known is None:
                known = _made(kind, root, stem, images, given, at, None)
                _write(index, {'key': key, 'files': known})
    return known


def _known(index, key):
    """What the index says, if it is of this key and all is there."""
    if not os.path.exists(index):
        return None
    with open(index, encoding='utf-8') as stream:
        found = json.load(stream)
    return (
        found['files'] if found['key'] == key and all(map(os.path.exists, found['files'].values())) else None
    )


def _key(kind, root, images, given, at):
    digest = hashlib.sha256(repr((VERSION, kind, root, images, given, at)).encode())
    places = [
        *labels.folders(kind, root),
        *(os.path.join(at, one) for one in (given or {}).values() if isinstance(one, str)),
    ]
    for path in dict.fromkeys(
        path for place in places for path in (labels.walk(place) if os.path.isdir(place) else [place])
    ):
        stat = os.stat(path) if os.path.exists(path) else None
        digest.update(repr((path, stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()


def _made(kind, root, stem, images, given, at, faults):
    before = len(faults or ())
    pictures = labels.Pictures(root, images, f'{stem}_pictures')
    found = labels.read(kind, root, images, pictures.spare, faults)
    splits = found.splits
    if given:
        sources = {
            split: os.path.join(at, one) if isinstance(one, str) else one for split, one in given.items()
        }
        splits = {split: labels.select(found, source, pictures, faults) for split, source in sources.items()}
    if not splits:
        raise ValueError(
            f'{root}: nothing divides it into train and val, no folders or lists so called; tools/split_dataset.py writes lists'
        )
    classes, paths = labels.classes_of(found), {}
    word = '_partly' if len(faults or ()) > before else ''
    for split, names in splits.items():
        part = {image: found.images[image] for image in names}
        if not part:
            raise ValueError(f'{root}: no image in split {split}')
        paths[split] = f'{stem}_{split}{word}.json'
        _write(paths[split], sourced(content(part, classes), part))
    return paths


def sourced(data, part):
    """The content of a file in COCO's format with images called by their paths, and the file that speaks of each."""
    names = {row['id']: row['file_name'] for row in data['images']}
    for row in data['images']:
        row |= {'id': row['file_name'], 'source': part[row['file_name']].source or row['file_name']}
    for row in data['annotations']:
        row['image_id'] = names[row['image_id']]
    return data


def _write(path, found):
    """JSON, unless it is there: one that stays keeps its time."""
    text = json.dumps(found, ensure_ascii=False)
    if os.path.exists(path):
        with open(path, encoding='utf-8') as stream:
            if stream.read() == text:
                return
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        stream.write(text)
