"""What was found in pictures, in formats that others read.

A class for each has add(Seen), for a picture after the other, and close(); made of a folder and the names of the classes,
background first; `path` is the file or folder that it writes. WRITERS has them by name. Boxes are x1 y1 x2 y2, edges between
pixels, so that a width is x2 - x1; masks, where there are any, are pycocotools' RLEs.
"""

import csv
import json
import os
from typing import NamedTuple
from xml.etree import ElementTree

from utils.files import atomic_path


class Seen(NamedTuple):
    """A picture (frame: its number in a video, or None), a name that no other has, and its objects, best first: (name, score,
    box, and its RLE if it has one)."""

    path: str
    frame: int | None
    stem: str
    width: int
    height: int
    objects: list


def rounded(box):
    return [round(float(side), 2) for side in box]


def rle_text(rle):
    """An RLE as JSON takes it."""
    return {'size': list(rle['size']), 'counts': rle['counts'].decode()}


class Json:
    """detections.json: a list of {image, frame, width, height, detections: a list of {class, score, box, mask}}."""

    def __init__(self, folder, classes):
        self.path, self.found = os.path.join(folder, 'detections.json'), []

    def add(self, seen):
        self.found.append(
            {
                'image': seen.path,
                **({} if seen.frame is None else {'frame': seen.frame}),
                'width': seen.width,
                'height': seen.height,
                'detections': [
                    {'class': name, 'score': round(score, 6), 'box': rounded(box)}
                    | ({'mask': rle_text(mask[0])} if mask else {})
                    for name, score, box, *mask in seen.objects
                ],
            }
        )

    def close(self):
        write_json(self.path, self.found)


class Csv:
    """detections.csv: a line for each object."""

    HEAD = 'image', 'frame', 'class', 'score', 'x1', 'y1', 'x2', 'y2'

    def __init__(self, folder, classes):
        self.path, self.rows = os.path.join(folder, 'detections.csv'), []

    def add(self, seen):
        frame = '' if seen.frame is None else seen.frame
        for name, score, box, *_ in seen.objects:
            self.rows.append([seen.path, frame, name, round(score, 6), *rounded(box)])

    def close(self):
        with (
            atomic_path(self.path) as temporary,
            open(temporary, 'w', newline='', encoding='utf-8') as stream,
        ):
            csv.writer(stream).writerows([self.HEAD, *self.rows])


class Coco:
    """coco.json: COCO's annotations, with scores. Categories are numbered from 1, as the classes, images from 1."""

    def __init__(self, folder, classes):
        self.path, self.numbers = (
            os.path.join(folder, 'coco.json'),
            {name: i for i, name in enumerate(classes)},
        )
        categories = [{'id': i, 'name': name} for i, name in enumerate(classes) if i]
        self.content = {'images': [], 'categories': categories, 'annotations': []}

    def add(self, seen):
        images, rows = self.content['images'], self.content['annotations']
        frame = {} if seen.frame is None else {'frame': seen.frame}
        size = {'width': seen.width, 'height': seen.height}
        images.append({'id': len(images) + 1, 'file_name': seen.path, **size, **frame})
        for name, score, box, *mask in seen.objects:
            x1, y1, x2, y2 = rounded(box)
            sides = round(x2 - x1, 2), round(y2 - y1, 2)
            row = {'id': len(rows) + 1, 'image_id': len(images), 'category_id': self.numbers[name]}
            row |= {
                'bbox': [x1, y1, *sides],
                'area': sides[0] * sides[1],
                'iscrowd': 0,
                'score': round(score, 6),
            }
            rows.append(row | ({'segmentation': rle_text(mask[0])} if mask else {}))

    def close(self):
        write_json(self.path, self.content)


class Voc:
    """voc/NAME.xml: VOC's annotations, with scores: whole pixels, counted from 1, the last one included."""

    def __init__(self, folder, classes):
        self.path = os.path.join(folder, 'voc')
        os.makedirs(self.path, exist_ok=True)

    def add(self, seen):
        root = ElementTree.Element('annotation')
        for name, text in ('folder', os.path.dirname(seen.path)), ('filename', os.path.basename(seen.path)):
            ElementTree.SubElement(root, name).text = text
        _tags(ElementTree.SubElement(root, 'size'), width=seen.width, height=seen.height, depth=3)
        for name, score, (x1, y1, x2, y2), *_ in seen.objects:
            one = ElementTree.SubElement(root, 'object')
            _tags(one, name=name, difficult=0, score=round(score, 6))
            xmin, ymin = max(round(x1), 0) + 1, max(round(y1), 0) + 1
            xmax, ymax = min(max(round(x2), xmin), seen.width), min(max(round(y2), ymin), seen.height)
            _tags(ElementTree.SubElement(one, 'bndbox'), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
        ElementTree.indent(root)
        with atomic_path(os.path.join(self.path, f'{seen.stem}.xml')) as temporary:
            ElementTree.ElementTree(root).write(temporary, encoding='utf-8')

    def close(self):
        pass


class Yolo:
    """yolo/NAME.txt: a line for each object, its class from 0, centre, width and height in shares of the picture, score;
    yolo/classes.txt: the classes."""

    def __init__(self, folder, classes):
        self.path = os.path.join(folder, 'yolo')
        self.numbers = {name: i for i, name in enumerate(classes[1:])}
        os.makedirs(self.path, exist_ok=True)
        self.write('classes', classes[1:])

    def add(self, seen):
        lines = []
        for name, score, (x1, y1, x2, y2), *_ in seen.objects:
            across, down = (x1 + x2) / 2 / seen.width, (y1 + y2) / 2 / seen.height
            sides = (x2 - x1) / seen.width, (y2 - y1) / seen.height
            numbers = ' '.join(f'{value:.6f}' for value in (across, down, *sides, score))
            lines.append(f'{self.numbers[name]} {numbers}')
        self.write(seen.stem, lines)

    def write(self, stem, lines):
        with atomic_path(os.path.join(self.path, f'{stem}.txt')) as temporary:
            with open(temporary, 'w', encoding='utf-8') as stream:
                stream.write(''.join(f'{line}\n' for line in lines))

    def close(self):
        pass


def _tags(parent, **texts):
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)


def write_json(path, content):
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        json.dump(content, stream, ensure_ascii=False, indent=1)


WRITERS = {'json': Json, 'csv': Csv, 'coco': Coco, 'voc': Voc, 'yolo': Yolo}
