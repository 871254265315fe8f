"""Pictures with boxes that can be shown and hidden: what page.html draws of each.

One is a dict: label, score (None of an object that was missed), image (its path), data (a JPEG as a data: URL), width and height
in pixels of the file, box, truth and found: lists of (label, box); boxes are x, y, width, height.
"""

import base64

import cv2

from datasets.evaluators.errors import RIGHT, highest, worst
from utils.blob import read_image

LONG = 560  # pixels of the longer side, at most
SHOWN = 0.3  # the least score of the other detections in a picture


def gallery(data, all_boxes, errors, most):
    """[(kind, pictures)] of {class: Errors}: of the `most` best detections, and of the worst errors of each kind."""
    kinds = {RIGHT: highest(errors, RIGHT, most), **worst(errors, data.truth, most)}
    return [(kind, [picture(data, all_boxes, *row) for row in rows]) for kind, rows in kinds.items() if rows]


def picture(data, all_boxes, k, image, score, box):
    path = data.image_path_at(image)
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    return {
        'label': data.class_names[k],
        'score': score,
        'image': path,
        'data': _jpeg(path, pixels),
        'width': width,
        'height': height,
        'box': _corner_and_sides(box),
        'truth': _objects(data, image),
        'found': [
            (f'{data.class_names[j]} {row[4]:.2f}', _corner_and_sides(row[:4]))
            for j in range(1, data.num_classes)
            for row in all_boxes[j][image]
            if row[4] >= SHOWN
        ],
    }


def _objects(data, image):
    mine = slice(data.truth.starts[image], data.truth.starts[image + 1])
    classes, boxes, difficult = (getattr(data.truth, key)[mine] for key in ('classes', 'boxes', 'difficult'))
    return [
        (data.class_names[k] + ' (difficult)' * bool(hard), _corner_and_sides(box))
        for k, box, hard in zip(classes, boxes, difficult)
    ]


def _corner_and_sides(box):
    x1, y1, x2, y2 = map(float, box)
    return [round(value, 1) for value in (x1, y1, x2 - x1 + 1, y2 - y1 + 1)]


def _jpeg(path, pixels):
    factor = min(1, LONG / max(pixels.shape[:2]))
    if factor < 1:
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    made, code = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not made:
        raise ValueError(f'{path}: the picture could not be made a JPEG')
    return 'data:image/jpeg;base64,' + base64.b64encode(code).decode()
