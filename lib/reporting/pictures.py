"""Pictures with boxes and masks that can be shown and hidden: what page.html draws of each.

One is a dict: label, score (None of an object that was missed), image (its path), data (a JPEG as a data: URL), width and height
in pixels of the file, box, truth and found: lists of (label, box); boxes are x, y, width, height; outline, of its mask, an SVG path
('': there is none), and outlines: {'truth', 'found': lists of them}.
"""

import base64

import cv2

import numpy as np
from pycocotools import mask as coco_mask

from datasets.evaluators.errors import RIGHT, highest, worst
from datasets.readers.masks import usable
from utils.blob import read_image

LONG = 560  # pixels of the longer side, at most
SHOWN = 0.3  # the least score of the other detections in a picture


def gallery(data, all_boxes, masks, errors, most):
    """[(kind, pictures)] of {class: Errors}: of the `most` best detections, and of the worst errors of each kind. masks: as
    utils.proposals.load_masks gives them, or None."""
    kinds = {RIGHT: highest(errors, RIGHT, most), **worst(errors, data.truth, most)}
    return [
        (kind, [picture(data, all_boxes, masks, *row) for row in rows])
        for kind, rows in kinds.items()
        if rows
    ]


def picture(data, all_boxes, masks, k, image, score, box):
    path = data.image_path_at(image)
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    shown = [
        (j, i)
        for j in range(1, data.num_classes)
        for i in np.flatnonzero(_scores(all_boxes, j, image) >= SHOWN)
    ]
    mine = [i for i, row in enumerate(all_boxes[k][image]) if score == row[4] and tuple(row[:4]) == box]
    return {
        'label': data.class_names[k],
        'score': score,
        'image': path,
        'data': _jpeg(path, pixels),
        'width': width,
        'height': height,
        'box': _corner_and_sides(box),
        'outline': outline(masks[k][image][mine[0]]) if masks and mine else '',
        'truth': _objects(data, image),
        'found': [
            (f'{data.class_names[j]} {row[4]:.2f}', _corner_and_sides(row[:4]))
            for j, row in ((j, all_boxes[j][image][i]) for j, i in shown)
        ],
        'outlines': {
            'truth': _object_outlines(data, image, height, width) if masks else [],
            'found': [outline(masks[j][image][i]) for j, i in shown] if masks else [],
        },
    }


def _scores(all_boxes, k, image):
    return np.reshape(all_boxes[k][image], (-1, 5))[:, 4]


def outline(rle):
    """The edges of a mask, simplified, as an SVG path: 'M x y L x y ... z' for each."""
    edges, _ = cv2.findContours(coco_mask.decode(rle), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    near = max(1, max(rle['size']) / LONG)  # a pixel of the picture, or of what is shown of it
    corners = [cv2.approxPolyDP(edge, near, True)[:, 0].tolist() for edge in edges]
    return ' '.join('M' + ' L'.join(f'{x} {y}' for x, y in edge) + 'z' for edge in corners)


def _object_outlines(data, image, height, width):
    """Of the masks that a dataset has of its objects."""
    entry = data.roidb[image]
    own = np.flatnonzero(entry['gt_classes']) if entry.get('segms') is not None else ()
    return [outline(usable(entry['segms'][i], height, width)) for i in own]


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
