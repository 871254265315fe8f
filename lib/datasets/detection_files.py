"""Detections in files of any tool, read for a dataset: a folder or file of VOC's competition 4, ILSVRC's text, COCO's JSON,
Open Images' CSV, or our own.

All give all_boxes[class][image] (n, 5) x1 y1 x2 y2 score: pixels that count from 0, the last one included.
"""

import csv
import glob
import json
import os
import re

import numpy as np

from datasets.evaluators.result_files import class_file, places, read_results
from utils.files import read_text
from utils.found import Found
from utils.proposals import load_detections

OWN = 'detections.npz', 'detections.pkl'
VOC_FILE = re.compile(r'(comp\d+_det_.+?_)[^_/]+\.txt$')


def read(path, data):
    """The detections at path of an imdb's images and classes, and whether they are of Open Images' form.

    path: a folder with one of OWN, or with comp4_det_<set>_<class>.txt; a name of such files with {} in the place of the class,
    or one of them; a text file of lines `image number, class number, score, x1 y1 x2 y2`; .json; .csv; .npz, .pkl.
    """
    found = file_of(path)
    if '{}' in path or _is_voc(path):
        return _voc(path, data), False
    if found.endswith(('.npz', '.pkl')):
        return load_detections(found), False
    kinds = {'.json': _coco, '.csv': _open_images, '.txt': _ilsvrc}
    kind = os.path.splitext(path)[1]
    if kind not in kinds:
        raise ValueError(f'{path}: wanted a folder, or a file that ends in .npz, .pkl, {", ".join(kinds)}')
    return kinds[kind](path, data), kind == '.csv'


def file_of(path):
    """The one of OWN in a folder; a file is itself."""
    folder = os.path.isdir(path) or not os.path.splitext(path)[1]
    own = [os.path.join(path, name) for name in OWN] if folder else [path]
    return next(filter(os.path.exists, own), own[0])


def is_ours(path):
    """Whether path is the output folder of a test."""
    return os.path.isdir(path) and not _is_voc(path)


def _is_voc(path):
    if os.path.isdir(path):
        there = any(os.path.exists(os.path.join(path, name)) for name in OWN)
        return not there and bool(_class_files(path))
    return bool(VOC_FILE.search(os.path.basename(path)))


def _class_files(folder):
    return sorted(filter(VOC_FILE.search, glob.glob('comp*_det_*.txt', root_dir=folder)))


def _voc(path, data):
    """A file for each class. Those of another image set may lie in the same folder: one set is wanted."""
    if os.path.isdir(path):
        suffixes = [class_file('_{}.txt', cls) for cls in data.classes[1:]]
        stems = {
            name[: -len(suffix)]
            for name in _class_files(path)
            for suffix in suffixes
            if name.endswith(suffix)
        }
        if len(stems) != 1:
            raise ValueError(
                f'{path}: wanted files of one image set, got those of {", ".join(sorted(stems)) or "none"}'
            )
        path = os.path.join(path, f'{stems.pop()}_{{}}.txt')
    elif '{}' not in path:
        ends = [class_file('_{}.txt', cls) for cls in data.classes[1:]]
        end = next((end for end in sorted(ends, key=len, reverse=True) if path.endswith(end)), None)
        if end is None:
            raise ValueError(f'{path}: the file of none of the classes of {data.name}')
        path = path[: -len(end)] + '_{}.txt'
    return read_results(path, data.classes, data._originals, data.result_base)


def _found(data, classes, images, boxes, scores):
    rows = np.hstack([np.asarray(boxes, float).reshape(-1, 4), np.reshape(scores, (-1, 1)).astype(float)])
    return Found(classes, images, rows, data.num_classes, len(data._originals))


def _ilsvrc(path, data):
    """Image numbers are those of the image set's file, or count from 1; classes are those of the devkit, from 1."""
    try:
        rows = np.loadtxt(read_text(path).splitlines(), ndmin=2).reshape(-1, 7)
    except ValueError:
        raise ValueError(f'{path}: wanted lines `image class score x1 y1 x2 y2`, all numbers') from None
    numbers = getattr(data, 'image_numbers', None) or {name: i for i, name in enumerate(data._originals, 1)}
    place = {numbers[name]: i for i, name in enumerate(data._originals) if name in numbers}
    images = places(path, rows[:, 0].astype(int).tolist(), place)
    classes = rows[:, 1].astype(int)
    if ((classes < 1) | (classes >= data.num_classes)).any():
        raise ValueError(
            f'{path}: classes are 1 ... {data.num_classes - 1}, got {classes.min()} ... {classes.max()}'
        )
    return _found(data, classes, images, rows[:, 3:] - data.result_base, rows[:, 2])


def _coco(path, data):
    """Categories are those of the dataset's file; of a dataset that has none the class numbers, from 1."""
    try:
        rows = json.loads(read_text(path))
        columns = [[row[key] for row in rows] for key in ('image_id', 'category_id', 'bbox', 'score')]
        boxes = np.array(columns[2], float).reshape(len(rows), 4)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not COCO's results, a list of image_id, category_id, bbox and score ({error!r})"
        ) from None
    if not all(type(name) in (int, str) for column in columns[:2] for name in column):
        raise ValueError(f'{path}: image_id and category_id: wanted numbers or words')
    images = places(path, columns[0], {name: i for i, name in enumerate(data._originals)})
    ids = getattr(data, 'category_ids', None) or {k: k for k in range(1, data.num_classes)}
    classes = {number: k for k, number in ids.items()}
    odd = next((number for number in columns[1] if number not in classes), None)
    if odd is not None:
        raise ValueError(f'{path}: category {odd!r} is none of the {len(classes)} of {data.name}')
    boxes[:, 2:] += boxes[:, :2] - 1
    return _found(data, [classes[number] for number in columns[1]], images, boxes, columns[3])


def _open_images(path, data):
    """A detection a row, or an image a row (ImageId, PredictionString), as Kaggle has it."""
    try:
        rows = list(csv.reader(read_text(path).splitlines()))
    except csv.Error as error:
        raise ValueError(f'{path}: not a table ({error})') from None
    head, rows = [name.lower() for name in rows[0]] if rows else [], [row for row in rows[1:] if row]
    wanted = ['imageid', 'labelname', 'score', 'xmin', 'ymin', 'xmax', 'ymax']
    if 'predictionstring' in head:
        rows = [(row[0], *words) for row in rows for words in _sixes(path, ' '.join(row[1:]).split())]
        head = wanted
    if not set(wanted) <= set(head):
        raise ValueError(f'{path}: wanted the columns {", ".join(wanted)}, got {", ".join(head)}')
    short = next((row for row in rows if len(row) < len(head)), None)
    if short:
        raise ValueError(f'{path}: wanted {len(head)} columns, got {short}')
    image, label, *numbers = ([row[head.index(name)] for row in rows] for name in wanted)
    images = places(path, image, {name: i for i, name in enumerate(data._originals)})
    known = {name: k for k, name in enumerate(data.classes) if k}
    odd = next((name for name in label if name not in known), None)
    if odd is not None:
        raise ValueError(f'{path}: class {odd} is none of the {len(known)} of {data.name}')
    try:
        scores, *corners = np.array(numbers, float).reshape(5, -1)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    boxes = np.transpose(corners) * np.tile(data.sizes[images], 2) - [0, 0, 1, 1]
    return _found(data, [known[name] for name in label], images, boxes, scores)


def _sixes(path, words):
    if len(words) % 6:
        raise ValueError(
            f'{path}: wanted class, score and four corners for each detection, got {len(words)} words'
        )
    return [words[i : i + 6] for i in range(0, len(words), 6)]
