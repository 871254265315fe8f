#!/usr/bin/env python3
"""What Open Images' sizes cost: its tables read and made a roidb, and its metric.

    python tests/open_images_scale.py read FOLDER [--images 200000]
    python tests/open_images_scale.py metric [--images 125000] [--classes 500] [--detections 100]

read: writes tables to the folder where they are not there yet, drawn by chance: 600 classes in a tree of three levels, 8.4
boxes an image, as the train set of V4 has them. Run it again for the figures, and once more for those of what is kept in
FOLDER/cache. metric: the challenge's, of as many detections an image, half of them near objects; 5 objects and 12 verified
classes an image, as the test set has them, before the tree adds to them.
"""

import argparse
import json
import os
import sys

import numpy as np
from coco_scale import ROOT, usage

sys.path[:0] = [os.path.join(ROOT, 'lib'), os.path.join(ROOT, 'caffe-fast-rcnn', 'python')]

from datasets import openimages  # noqa: E402
from datasets.evaluators import open_images as evaluator  # noqa: E402
from datasets.readers.openimages import expanded  # noqa: E402
from fast_rcnn.config import cfg  # noqa: E402
from utils.found import Found  # noqa: E402

HEAD = 'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside'
PART = 20000  # images written at a time


def tree(count):
    """Class k holds 5 k, 5 k + 1 ... 5 k + 4; 1 to 4 stand alone."""
    return {k: [child for child in range(5 * k, 5 * k + 5) if child <= count] for k in range(1, count + 1)}


def nested(children, k):
    return {
        'LabelName': f'/m/{k:05d}',
        'Subcategory': [nested(children, child) for child in children[k]],
    }


def write(folder, images, classes=600):
    """The tables of a train set."""
    os.makedirs(folder, exist_ok=True)
    children, random = tree(classes), np.random.default_rng(0)
    top = {'LabelName': '/m/0bl9f', 'Subcategory': [nested(children, k) for k in range(1, 5)]}
    with open(os.path.join(folder, 'bbox_labels_600_hierarchy.json'), 'w') as stream:
        json.dump(top, stream)
    with open(os.path.join(folder, 'class-descriptions-boxable.csv'), 'w') as stream:
        stream.writelines(f'/m/{k:05d},Class {k}\n' for k in range(1, classes + 1))
    with (
        open(os.path.join(folder, 'train-annotations-bbox.csv'), 'w') as boxes,
        open(os.path.join(folder, 'train-annotations-human-imagelabels-boxable.csv'), 'w') as labels,
    ):
        boxes.write(HEAD + '\n')
        labels.write('ImageID,Source,LabelName,Confidence\n')
        for first in range(0, images, PART):
            count = min(PART, images - first)
            of = first + np.repeat(np.arange(count), random.poisson(8.4, count))
            boxes.writelines(_rows(random, of, classes))
            of = first + np.repeat(np.arange(count), 3)
            drawn = zip(of, random.integers(1, classes + 1, len(of)), random.integers(0, 2, len(of)))
            labels.writelines(f'{i:016x},verification,/m/{k:05d},{there}\n' for i, k, there in drawn)


def _rows(random, of, classes):
    corners = np.sort(random.random((len(of), 2, 2)), 1).transpose(0, 2, 1).reshape(-1, 4).tolist()
    flags = (random.random((len(of), 5)) < 0.1).astype(int).tolist()
    for i, k, (x1, x2, y1, y2), row in zip(of, random.integers(1, classes + 1, len(of)), corners, flags):
        words = ','.join(map(str, row))
        yield f'{i:016x},xclick,/m/{k:05d},1,{x1:.6f},{x2:.6f},{y1:.6f},{y2:.6f},{words}\n'


def read(args):
    folder = os.path.join(args.folder, str(args.images))
    table = os.path.join(folder, 'train-annotations-bbox.csv')
    if not os.path.exists(table):
        write(folder, args.images)
        print(f'{table}: {os.path.getsize(table) / 1e6:.0f} MB; once more for the figures')
        return
    cfg.DATA_DIR = args.folder
    openimages.reader.image_sizes = lambda folder, ids, *where: np.full((len(ids), 2), (1024, 768), np.int32)
    usage('before')
    data = openimages.of_split('v4', 'train', folder)
    usage('read')
    objects = sum(len(entry.objects) for entry in data.roidb)
    usage(f'a roidb of {len(data.roidb)} entries, {objects} objects')
    data.append_flipped_images()
    usage(f'with mirror images, {len(data.roidb)} entries')


def drawn(images, classes, detections):
    """Found detections, Wanted objects, verified classes."""
    random = np.random.default_rng(0)
    above = np.zeros((classes + 1,) * 2, bool)
    for k in range(5, classes + 1):  # a class's parent k // 5, and its
        above[k] = above[k // 5]
        above[k, k // 5] = True
    of = np.repeat(np.arange(images, dtype=np.int32), 5)
    kinds = 1 + (classes * random.random(len(of)) ** 2).astype(np.int16)  # a long tail
    low = random.random((len(of), 2)) * 0.7
    boxes = np.hstack([low, low + 0.05 + 0.25 * random.random((len(of), 2))])
    rows, wanted_classes = expanded(above, kinds)
    wanted = evaluator.Wanted(of[rows], wanted_classes, boxes[rows], (random.random(len(of)) < 0.05)[rows])
    source = random.integers(0, 5, images * detections) + np.repeat(np.arange(images) * 5, detections)
    near = random.random(len(source)) < 0.5
    scores = random.random(len(source), np.float32)[:, None]
    found = boxes[source].astype(np.float32) + random.normal(0, 0.02, (len(source), 4)).astype(np.float32)
    found_classes = np.where(near, kinds[source], 1 + random.integers(0, classes, len(source), np.int16))
    found = Found(found_classes, of[source], np.hstack([found, scores]), classes + 1, images)
    labels = np.repeat(np.arange(images, dtype=np.int32), 12), random.integers(1, classes + 1, images * 12)
    return found, wanted, labels


def metric(args):
    usage('before')
    found, wanted, labels = drawn(args.images, args.classes, args.detections)
    usage(f'{len(found.rows)} detections, {len(wanted.images)} objects with those of the tree')
    aps = evaluator.class_aps(found, wanted, range(args.classes + 1), labels)
    usage(f'mean AP {np.mean(list(aps.values())):.4f} of {len(aps)} classes')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser('read')
    one.add_argument('folder')
    one.add_argument('--images', type=int, default=200000)
    one.set_defaults(run=read)
    other = kinds.add_parser('metric')
    for name, default in ('images', 125000), ('classes', 500), ('detections', 100):
        other.add_argument(f'--{name}', type=int, default=default)
    other.set_defaults(run=metric)
    args = parser.parse_args()
    args.run(args)


if __name__ == '__main__':
    main()
