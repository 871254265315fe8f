"""Detections as text files, one per class, lines 'image score x1 y1 x2 y2', as competitions' servers want."""

import os
import re

import numpy as np

from datasets.evaluators.average_precision import flat
from utils.files import atomic_path


def class_file(template, cls):
    """The file of a class: template has {} or {:s} in its place; what no file name may hold is %XX."""
    return template.format(re.sub(r'[/\\:%]', lambda match: f'%{ord(match[0]):02X}', cls))


def write_results(template, all_boxes, classes, image_ids, base):
    """Write the files of all classes but the background. Pixels count from base."""
    for k, cls in enumerate(classes[1:], 1):
        path = class_file(template, cls)
        with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
            for image, row in zip(*flat(all_boxes[k])):
                corners = ' '.join(f'{value + base:.1f}' for value in row[:4])
                stream.write(f'{image_ids[image]} {row[4]:.6f} {corners}\n')


def read_results(template, classes, image_ids, base):
    """The inverse of write_results -> all_boxes[class][image], (n, 5) float64; the background's are empty."""
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    all_boxes = [[np.zeros((0, 5))] * len(place)]
    for cls in classes[1:]:
        path = class_file(template, cls)
        names, rows = read_rows(path)
        images = places(path, names, place)
        order = np.argsort(images, kind='stable')
        cuts = np.searchsorted(images[order], np.arange(1, len(place)))
        all_boxes.append(np.split(rows[order] - np.array([base] * 4 + [0]), cuts))
    return all_boxes


def read_rows(path):
    """Image ids (D,) and rows (D, 5) x1 y1 x2 y2 score, as written, of one file."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such result file')
    with open(path, encoding='utf-8') as stream:
        lines = [line.rsplit(maxsplit=5) for line in stream if line.strip()]
    try:
        rows = np.array([line[1:] for line in lines], float).reshape(-1, 5)
    except ValueError:
        raise ValueError(f'{path}: wanted lines `image score x1 y1 x2 y2`') from None
    return [line[0] for line in lines], rows[:, [1, 2, 3, 4, 0]]


def places(path, names, place):
    """The number (D,) of each image named in a result file, of place: {image id: number}."""
    unknown = [name for name in names if name not in place]
    if unknown:
        raise ValueError(f'{path}: {unknown[0]} is none of the {len(place)} images')
    return np.array([place[name] for name in names], int)
