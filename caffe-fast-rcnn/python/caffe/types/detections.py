"""Detections of SSD nets compared with the objects: DetectionEvaluate; and written to files: SavedDetections.

Rows of detections: image, class, score, x1, y1, x2, y2; of objects: image, class, number, x1, y1, x2, y2, difficult.
Boxes are relative to the image, 0..1. What average precision follows is told by average_precision.py.
"""

import json
import os

import numpy as np
import torch

from ..average_precision import COLUMNS
from ..format.files import atomic_write, read_text
from ..format.prototxt import parse_text
from ..proto import caffe_pb2
from ..registry import layer
from ..tape import TorchLayer
from .boxes import overlaps
from .sources.augment import fitted


def read_sizes(path):
    """[(name, (height, width))] of a file with lines `name height width`."""
    sizes = []
    for number, line in enumerate(read_text(path, 'name_size_file').splitlines(), 1):
        try:
            name, height, width = line.split()
            sizes.append((name, (int(height), int(width))))
        except ValueError:
            raise ValueError(
                f'{path}, line {number}: wanted are name, height and width; got {line!r}'
            ) from None
    if not sizes:
        raise ValueError(f'name_size_file {path} is empty')
    return sizes


def in_pixels(boxes, size, resize=None):
    """Boxes (D, 4) of an image of size (height, width), in its pixels and within it. resize: the ResizeParameter by which
    the net saw it; what it padded is taken off."""
    height, width = size
    if resize is not None and resize.resize_mode == resize.FIT_LARGE_SIZE_AND_PAD:
        share = np.divide(fitted(width, height, resize), (resize.width, resize.height))
        boxes = (boxes - np.tile((1 - share) / 2, 2)) / np.tile(share, 2)
    return boxes.clip(0, 1) * [width, height, width, height]


@layer('DetectionEvaluate', nondiff=(0, 1))
class DetectionEvaluate(TorchLayer):
    """Detections (1, 1, D, 7) and objects (1, 1, T, 8) to rows (1, 1, R, 5): for each class but background_label_id
    -1, class, number of its objects, -1, -1; then for each detection image, class, score, right, wrong.

    In each image and class, by falling score: a detection belongs to the object that it overlaps most, by
    overlap_threshold or more, and is right if it is the first that does; otherwise wrong. Without
    evaluate_difficult_gt difficult objects do not count, and what belongs to one is neither.
    name_size_file: overlaps are of whole pixels, ends included, of images in the order of its lines `name height
    width`, round and round; resize_param is that of the net's data.
    """

    fields = (
        'num_classes',
        'background_label_id',
        'overlap_threshold',
        'evaluate_difficult_gt',
        'name_size_file',
        'resize_param',
    )

    def setup(self, bottom, top):
        if not self.field('num_classes') or not self.field('overlap_threshold') > 0:
            raise ValueError('num_classes and overlap_threshold must be given and positive')
        path = self.field('name_size_file')
        self.sizes, self.seen = read_sizes(path) if path else [], 0
        self.resize = self.param.resize_param if self.param.HasField('resize_param') else None

    def reshape(self, bottom, top):
        for blob, columns, what in zip(bottom, (7, 8), ('detections', 'objects')):
            if len(blob.shape) != 4 or blob.shape[3] != columns:
                raise ValueError(
                    f'{what} must be rows of {columns} numbers; got the shape {tuple(blob.shape)}'
                )
        top[0].reshape(1, 1, self.field('num_classes'), COLUMNS)

    def compute(self, found, truth):
        rows = self.judged(found.reshape(-1, 7).cpu().numpy(), truth.reshape(-1, 8).cpu().numpy())
        return torch.tensor(rows, dtype=found.dtype, device=found.device).reshape(1, 1, -1, COLUMNS)

    def judged(self, found, truth):
        images = int(np.concatenate([found[:, 0], truth[:, 0], [-1]]).max()) + 1
        background = self.field('background_label_id')
        found = found[(found[:, 1] >= 0) & (found[:, 1] != background)]
        truth = truth[(truth[:, 0] >= 0) & (truth[:, 1] != background)]
        counted = truth if self.field('evaluate_difficult_gt') else truth[truth[:, 7] == 0]
        rows = [
            (-1, label, (counted[:, 1] == label).sum(), -1, -1)
            for label in range(self.field('num_classes'))
            if label != background
        ]
        for image in range(images):
            size = self.next_size()
            for label in np.unique(found[found[:, 0] == image, 1]):
                own = [x[(x[:, 0] == image) & (x[:, 1] == label)] for x in (found, truth)]
                rows += [(image, label, *verdict) for verdict in self.verdicts(*own, size)]
        return rows

    def next_size(self):
        """(height, width) of the next image; None: unknown."""
        if not self.sizes:
            return None
        self.seen += 1
        return self.sizes[(self.seen - 1) % len(self.sizes)][1]

    def verdicts(self, found, truth, size):
        """(score, right, wrong) of detections of one class in one image, by falling score."""
        found = found[np.argsort(-found[:, 2], kind='stable')]
        if not len(truth):
            return [(score, 0, 1) for score in found[:, 2]]
        boxes = [torch.from_numpy(self.boxes(x, size)) for x in (found, truth)]
        common = overlaps(*boxes, offset=0 if size is None else 1).numpy()
        taken, verdicts = np.zeros(len(truth), bool), []
        for score, row in zip(found[:, 2], common):
            best = row.argmax()
            if row[best] < self.field('overlap_threshold'):
                verdicts.append((score, 0, 1))
            elif truth[best, 7] and not self.field('evaluate_difficult_gt'):
                verdicts.append((score, 0, 0))
            else:
                verdicts.append((score, int(not taken[best]), int(taken[best])))
                taken[best] = True
        return verdicts

    def boxes(self, rows, size):
        boxes = np.ascontiguousarray(rows[:, 3:7], np.float32)
        return boxes if size is None else in_pixels(boxes, size, self.resize).astype(np.float32)


class SavedDetections:
    """The files of a SaveOutputParameter: detections of num_test_image images (default: all of name_size_file), in the
    order of its lines, are written when the last of them is there, and then the next round begins.

    output_format VOC: for each class <prefix><class>.txt, lines `name score x1 y1 x2 y2`; ILSVRC: <prefix>.txt, lines
    `name class-number score x1 y1 x2 y2`; COCO: <prefix>.json, of labels whose names are COCO's numbers. Boxes are in
    pixels to two digits, from 0 on. A folder that does not exist is made.
    """

    def __init__(self, param, classes, background):
        for name in ('output_format', 'label_map_file', 'name_size_file'):
            if not getattr(param, name):
                raise ValueError(f'save_output_param: {name} must be given with output_directory')
        if param.output_format not in ('VOC', 'COCO', 'ILSVRC'):
            raise ValueError(
                f'save_output_param: output_format {param.output_format!r}; wanted VOC, COCO or ILSVRC'
            )
        self.param, self.found, self.seen = param, [], 0
        self.resize = param.resize_param if param.HasField('resize_param') else None
        self.sizes = read_sizes(param.name_size_file)
        names = read_label_map(param.label_map_file)
        self.names = {label: names.get(label) for label in range(classes) if label != background}
        if None in self.names.values():
            lack = [k for k, name in self.names.items() if name is None]
            raise ValueError(f'{param.label_map_file} has no name for label {lack[0]}')
        self.images = param.num_test_image or len(self.sizes)
        if self.images > len(self.sizes):
            raise ValueError(
                f'save_output_param: num_test_image {self.images}, but {param.name_size_file} has {len(self.sizes)} lines'
            )

    def add(self, rows, images):
        """Rows (D, 7) of a batch of so many images."""
        for image in range(images):
            name, size = self.sizes[self.seen]
            for row in rows[rows[:, 0] == image]:
                box = np.round(in_pixels(row[3:7].astype(float), size, self.resize), 2)
                self.found.append((name, int(row[1]), float(row[2]), *box.tolist()))
            self.seen += 1
            if self.seen == self.images:
                self.write()
                self.found, self.seen = [], 0

    def write(self):
        folder, prefix = self.param.output_directory, self.param.output_name_prefix
        os.makedirs(folder, exist_ok=True)
        lines = {name: [] for name in self.names.values()} if self.param.output_format == 'VOC' else {'': []}
        for name, label, score, *box in self.found:
            numbers = ' '.join(f'{v:g}' for v in (score, *box))
            if self.param.output_format == 'VOC':
                lines[self.names[label]].append(f'{name} {numbers}\n')
            else:
                lines[''].append(f'{name} {label} {numbers}\n')
        texts = {f'{prefix}{name}.txt': ''.join(own) for name, own in lines.items()}
        if self.param.output_format == 'COCO':
            texts = {f'{prefix}.json': json.dumps([self.coco(*row) for row in self.found])}
        for name, text in texts.items():
            with atomic_write(os.path.join(folder, name)) as path, open(path, 'w') as f:
                f.write(text)

    def coco(self, name, label, score, x1, y1, x2, y2):
        box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
        return {'image_id': int(name), 'category_id': int(self.names[label]), 'bbox': box, 'score': score}


def read_label_map(path):
    """{label: name} of a LabelMap prototxt. ValueError where a label or a name is there twice."""
    items = parse_text(read_text(path, 'label_map_file'), caffe_pb2.LabelMap(), path).item
    names = {item.label: item.name for item in items}
    if len(names) < len(items) or len(set(names.values())) < len(names):
        raise ValueError(f'{path}: a label or a name is there twice')
    return names
