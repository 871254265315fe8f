"""COCO's evaluation, which is pycocotools': AP over ten IoUs, of boxes or of masks, by size, and recall. Boxes x y width
height, edges between pixels; masks are RLEs, as in datasets.readers.masks.

A ground truth is a pycocotools.coco.COCO; N images, K classes with the background.
"""

import contextlib
import io
import json
from typing import NamedTuple

import numpy as np

from datasets.evaluators.average_precision import flat
from datasets.writers import rle_text
from utils.files import atomic_path

# What the twelve figures are called in one line
NAMES = 'AP', 'AP50', 'AP75', 'small', 'medium', 'large', 'AR1', 'AR10', 'AR100', 'small', 'medium', 'large'


class Scores(NamedTuple):
    """stats (12,): AP, AP50, AP75, AP of small, medium and large objects, AR of 1, 10 and 100 detections an image, AR by
    size; -1: nothing to be found. aps: {class number: AP} of the classes that have an object. summary: the stats as
    pycocotools prints them."""

    stats: np.ndarray
    aps: dict
    summary: str

    @property
    def line(self):
        """The stats in one line."""
        words = [
            f'{name} {value:.4f}' if value >= 0 else f'{name} -' for name, value in zip(NAMES, self.stats)
        ]
        return f'COCO-style {", ".join(words[:6])}; {", ".join(words[6:])}'


def ground_truth(images, categories, annotations):
    """A COCO of lists as its files have them; annotations are numbered anew from 1 (0 counts as no match there), and
    without area or iscrowd have that of the box, and 0."""
    from pycocotools.coco import COCO  # takes a moment, and few evaluate

    rows = [
        {'area': row['bbox'][2] * row['bbox'][3], 'iscrowd': 0, **row, 'id': number}
        for number, row in enumerate(annotations, 1)
    ]
    coco = COCO()
    coco.dataset = {'images': images, 'categories': categories, 'annotations': rows}
    with _quiet():
        coco.createIndex()
    return coco


def of_truth(truth, num_classes):
    """The ground truth in a readers.truth.Truth: images are numbered from 0, categories as classes. Difficult objects are
    crowds: detections that find them are neither right nor wrong."""
    columns = truth.images, truth.classes, sides(truth.boxes), truth.difficult
    rows = [
        {'image_id': image, 'category_id': k, 'bbox': box, 'iscrowd': int(difficult)}
        for image, k, box, difficult in zip(*(column.tolist() for column in columns))
    ]
    return ground_truth(_numbered(len(truth.sizes)), _numbered(num_classes)[1:], rows)


def _numbered(count):
    return [{'id': number} for number in range(count)]


def sides(boxes):
    """x1 y1 x2 y2, the last pixel included -> x y width height (n, 4) float64"""
    boxes = np.asarray(boxes, float)
    return np.hstack([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2] + 1])


def results(all_boxes, image_ids, category_ids):
    """all_boxes[class][image] (n, 5) -> a list in the format of COCO's results; category_ids: {class number: id}."""
    found = []
    for k, category in category_ids.items():
        images, rows = flat(all_boxes[k])
        boxes, scores = sides(rows).round(3).tolist(), rows[:, 4].round(6).tolist()
        found += [
            {'image_id': image_ids[i], 'category_id': category, 'bbox': box, 'score': score}
            for i, box, score in zip(images.tolist(), boxes, scores)
        ]
    return found


def mask_results(all_boxes, masks, image_ids, category_ids):
    """As results, of masks[class][image], which lists the RLEs of those boxes."""
    found = []
    for k, category in category_ids.items():
        for image_id, rows, rles in zip(image_ids, all_boxes[k], masks[k], strict=True):
            scores = np.reshape(rows, (-1, 5))[:, 4].round(6).tolist()
            found += [
                {'image_id': image_id, 'category_id': category, 'segmentation': rle, 'score': score}
                for rle, score in zip(rles, scores, strict=True)
            ]
    return found


def as_text(result):
    """A result with its mask, if it has one, as JSON takes it."""
    return (
        {**result, 'segmentation': rle_text(result['segmentation'])} if 'segmentation' in result else result
    )


def write(path, found):
    """Write results, a detection a line."""
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        stream.write('[' + ',\n'.join(json.dumps(as_text(result)) for result in found) + ']\n')


def evaluate(truth, found, image_ids, category_ids, what='bbox'):
    """Scores of results on those images; category_ids: {class number: id}; what: 'bbox', or 'segm' of masks."""
    from pycocotools.cocoeval import COCOeval

    with _quiet() as printed:
        scoring = COCOeval(truth, truth.loadRes(found) if found else ground_truth([], [], []), what)
        scoring.params.imgIds, scoring.params.catIds = list(image_ids), list(category_ids.values())
        scoring.evaluate()
        scoring.accumulate()
        printed.truncate(0), printed.seek(0)
        scoring.summarize()
    by_class = {}
    for k, category in category_ids.items():
        precision = scoring.eval['precision'][:, :, scoring.params.catIds.index(category), 0, -1]
        if (precision > -1).any():
            by_class[k] = float(precision[precision > -1].mean())
    return Scores(scoring.stats, by_class, printed.getvalue().rstrip('\n'))


def _quiet():
    return contextlib.redirect_stdout(io.StringIO())
