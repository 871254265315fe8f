"""COCO's labels: one JSON file for each part of a dataset. Where files and images lie: datasets.readers.coco.

Written, objects that are difficult are crowds to COCO, and "difficult" besides: neither is right or wrong to find. "truncated" and "occluded" are
written likewise.
"""

import json
import os

import numpy as np

from datasets.labels.labelled import Labels, Thing, labelled, wrong
from datasets.readers.coco import annotation_files, image_folder, load_json, names_of
from pycocotools import mask as coco_mask

from datasets.readers.masks import rle_of
from utils.progress import progress

MORE = 'difficult', 'truncated', 'occluded'


def read(root, pictures, faults=None, files=None):
    """files: {split: path}, where they are not where others have them."""
    files = files or annotation_files(root)
    if not files:
        raise FileNotFoundError(f'{root}: no annotations/*.json, and no */_annotations.coco.json')
    found, splits, classes = {}, {}, {}
    for split, path in files.items():
        data = load_json(path, with_masks=True)
        names = names_of(path, data)
        classes |= dict.fromkeys(names.values())
        try:
            images = _images(path, data, _folder(root, split, path, data, pictures), pictures)
        except KeyError as error:
            raise ValueError(f'{path}: an image or annotation without {error}') from None
        rows = {}
        for row in data.get('annotations', []):
            rows.setdefault(row.get('image_id'), []).append(row)
        unknown = next((number for number in rows if number not in images), None)
        if unknown is not None:
            text = (
                f'{path}: annotation {rows[unknown][0].get("id")}: image_id {unknown!r} is none of the images'
            )
            wrong(faults, ValueError(text))
        splits[split] = []
        for number, image in progress(list(images.items()), f'labels of {split}'):
            try:
                size = pictures.header(image)
                things = [_thing(path, row, names, size) for row in rows.get(number, [])]
            except (ValueError, OSError) as error:
                wrong(faults, error)
                continue
            found.setdefault(image, labelled(image, size, things, path, by_pixels=True))
            splits[split].append(image)
    return Labels(found, splits, list(classes))


def _folder(root, split, path, data, pictures):
    if not data['images']:
        raise ValueError(f'{path}: images: there are none')
    try:
        return image_folder(root, split, path, [data['images'][0]['file_name']], pictures.folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{path}: {error}') from None


def _images(path, data, folder, pictures):
    """{id: image}"""
    return {
        row['id']: pictures.path(os.path.join(folder, row['file_name'].replace('\\', '/')))
        for row in data['images']
    }


def _thing(path, row, names, size):
    where = f'{path}: annotation {row.get("id")}'
    try:
        x, y, width, height = (float(value) for value in row['bbox'])
        name = names[row['category_id']]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{where}: wanted a known category_id and a bbox of four numbers ({error!r})'
        ) from None
    flags = {flag for flag in MORE if row.get(flag)}
    flags |= {'crowd'} if row.get('iscrowd') and 'difficult' not in flags else set()
    return Thing(
        name, [x, y, x + width, y + height], _mask(row.get('segmentation'), size), frozenset(flags), where
    )


def _mask(segmentation, size):
    """As it is written, less what cannot be used; None of none."""
    rle, faults = rle_of(segmentation, size[1], size[0])
    if rle is None:
        return None
    if isinstance(segmentation, dict):
        return {'size': list(rle['size']), 'counts': rle['counts'].decode()}
    polygons = [segmentation] if isinstance(segmentation, np.ndarray) else segmentation
    if faults:
        polygons = [polygon for polygon in polygons if np.size(polygon) >= 6 and np.size(polygon) % 2 == 0]
    return [np.asarray(polygon, float).tolist() for polygon in polygons]


def write(parts, classes, lost):
    """annotations/instances_SPLIT.json, of images in images/SPLIT."""
    texts = {
        f'annotations/instances_{split}.json': json.dumps(content(part, classes))
        for split, part in parts.items()
    }
    return texts, {split: f'images/{split}' for split in parts}


def content(part, classes, **more):
    """What a file in COCO's format holds of {file name: Labelled}; categories are numbered from 1, as `classes`. more: what it
    begins with."""
    numbers, rows = {name: i for i, name in enumerate(classes, 1)}, []
    images = [
        {'id': i, 'file_name': name, 'width': one.width, 'height': one.height}
        for i, (name, one) in enumerate(part.items(), 1)
    ]
    for i, one in enumerate(part.values(), 1):
        for thing in one.things:
            rows.append(
                {'id': len(rows) + 1, 'image_id': i, 'category_id': numbers[thing.name], **_row(one, thing)}
            )
    categories = [{'id': number, 'name': name, 'supercategory': ''} for name, number in numbers.items()]
    return {**more, 'images': images, 'categories': categories, 'annotations': rows}


def _row(one, thing):
    x1, y1, x2, y2 = thing.box
    area = float((x2 - x1) * (y2 - y1))
    row = {'bbox': [x1, y1, x2 - x1, y2 - y1], 'iscrowd': int(bool(thing.flags & {'crowd', 'difficult'}))}
    row |= {flag: 1 for flag in MORE if flag in thing.flags}
    if thing.mask is not None:
        rle = rle_of(thing.mask, one.height, one.width)[0]
        if rle is not None:
            area = float(coco_mask.area(rle))
        row['segmentation'] = thing.mask
    return {**row, 'area': area}
