"""Divides a dataset by chance: classes are shared out alike, images that belong together stay together."""

import json
import os
import re

import numpy as np

from datasets.readers.coco import image_folder
from utils.files import atomic_path

EMPTY = ()  # what an image without objects has for a class


def divide(ids, shares, seed, classes=None, group=None):
    """{split: ids, sorted}: of N ids, round(N x share) for each of shares {split: share}, at least one; the rest for 'train'. The
    same ids and seed give the same splits, whatever the order of ids.

    classes: {id: names of the classes in it}: each split gets its share of each class's images, of a class with as many images as there
    are splits at least one, and of the images without objects (Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, 2011:
    again and again the class that fewest images are left of, each of which goes where most are wanting). group: a regular
    expression; ids in which its first group, or else the whole of it, finds the same stay together, and numbers of images are met as nearly as can be.
    """
    ids = sorted(ids)
    counts = {name: max(round(len(ids) * share), 1) for name, share in shares.items()}
    if sum(counts.values()) >= len(ids):
        raise ValueError(f'{len(ids)} images are too few for {counts} and train')
    counts['train'] = len(ids) - sum(counts.values())
    groups = list(_grouped(ids, group).values())
    if len(groups) < len(counts):
        raise ValueError(f'{len(groups)} groups of images are too few for {", ".join(counts)}')
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    groups = [groups[i] for i in order]
    holds = [{name for one in members for name in (classes or {}).get(one) or [EMPTY]} for members in groups]
    place = _placed([len(members) for members in groups], holds, list(counts.values()))
    return {
        name: sorted(one for members, at in zip(groups, place) if at == i for one in members)
        for i, name in enumerate(counts)
    }


def _grouped(ids, group):
    """{key: ids}"""
    found = {}
    for one in ids:
        match = re.search(group, one) if group else None
        key = (match[1] if match.re.groups else match[0]) if match else ('alone', one)
        found.setdefault(key, []).append(one)
    return found


def _placed(sizes, holds, counts):
    """The split of each of G groups; sizes (G,) images, holds (G,) sets of classes, counts (S,) images wanted in each split."""
    place, room = [None] * len(sizes), list(counts)
    left = {}
    for i, names in enumerate(holds):
        for name in names:
            left.setdefault(name, []).append(i)
    wanted = {name: _wanted(len(members), counts) for name, members in left.items()}
    names = sorted(left, key=str)
    while names:
        left = {name: [i for i in left[name] if place[i] is None] for name in names}
        names = [name for name in names if left[name]]
        if not names:
            break
        name = min(names, key=lambda name: len(left[name]))
        for i in left[name]:
            place[i] = _best(sizes[i], wanted[name], room)
            room[place[i]] -= sizes[i]
            for other in holds[i]:
                wanted[other][place[i]] -= 1
    return place


def _wanted(count, counts):
    """How many of a class's groups each split is to have: its share, and one at least where there are enough."""
    shares = [count * number / sum(counts) for number in counts]
    return [max(share, 1.0) for share in shares] if count >= len(counts) else shares


def _best(size, wanted, room):
    """Where most are wanting, of the splits with room; of several the one with most room."""
    fits = [i for i in range(len(room)) if room[i] >= size] or range(len(room))
    return max(fits, key=lambda i: (wanted[i], room[i]))


def divide_labels(found, shares, seed, group=None):
    """divide for the images of datasets.labels.Labels. A share of 0: there is no such split."""
    images = list(found.images)
    shares = {name: share for name, share in shares.items() if share}
    if not shares:
        return {'train': sorted(images)}
    classes = {image: {thing.name for thing in found.images[image].things} for image in images}
    return divide(images, shares, seed, classes, group)


def write_lists(folder, splits):
    """Write FOLDER/SPLIT.txt, none of which may be there -> their paths."""
    paths = {name: os.path.join(folder, name + '.txt') for name in splits}
    return _write({paths[name]: ''.join(f'{one}\n' for one in ids) for name, ids in splits.items()})


def write_coco(path, splits, root):
    """Write annotations/instances_SPLIT.json below root, of the images of the file at path, in COCO's format, that are in splits
    {split: paths from root} -> their paths. All that it says of them stays, but where images lie: from root."""
    with open(path, encoding='utf-8-sig') as stream:
        data = json.load(stream)
    split = os.path.splitext(os.path.basename(path))[0].removeprefix('instances_')
    folder = image_folder(root, split, path, [row['file_name'] for row in data['images']])
    for row in data['images']:
        there = os.path.join(folder, row['file_name'].replace('\\', '/'))
        row['file_name'] = os.path.relpath(there, root).replace(os.sep, '/')
    place, texts = {one: name for name, ids in splits.items() for one in ids}, {}
    for name in splits:
        images = [row for row in data['images'] if place.get(row['file_name']) == name]
        ids = {row['id'] for row in images}
        rows = [row for row in data.get('annotations', []) if row['image_id'] in ids]
        target = os.path.join(root, 'annotations', f'instances_{name}.json')
        texts[target] = json.dumps({**data, 'images': images, 'annotations': rows}, ensure_ascii=False)
    return _write(texts)


def _write(texts):
    there = [path for path in texts if os.path.exists(path)]
    if there:
        raise ValueError(f'{there[0]}: is there already; nothing is written')
    for path, text in texts.items():
        with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
            stream.write(text)
    return list(texts)
