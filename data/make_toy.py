#!/usr/bin/env python3
"""Writes a small detection dataset of drawn shapes, to try everything on within minutes.

    python data/make_toy.py FOLDER

FOLDER becomes a devkit in the layout of ILSVRC DET (ImageSets, Annotations, Data) with FOLDER/toy.yml to
train by, which is registered: the recipes know it as `toy`. The same images are `toy_masks`, FOLDER/toy_masks.yml,
with annotations in COCO's format, whose polygons go round just the pixels of each shape. Beside it,
selective_search_data/<imdb>.mat gets the boxes of a sliding window in the form of selective search's, for nets that are
given their proposals. The same seed draws the same pictures.

--hard: more objects, smaller ones among them, some half hidden by others (boxes and masks are of all of an object): `toy_hard`
and `toy_hard_masks`, where what a test net sees of an image makes more of a difference.
"""

import argparse
import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from datasets.factory import register  # noqa: E402  (found by the line above)
from datasets.readers.selective_search import save_selective_search  # noqa: E402

CLASSES = ('circle', 'square', 'triangle', 'star')
CFG = """\
cfg:
  TRAIN: {SCALES: [200], MAX_SIZE: 300, RPN_MIN_SIZE: 8, RPN_BATCHSIZE: 128, BATCH_SIZE: 64,
          %sBG_THRESH_LO: 0.0}
  TEST: {SCALES: [200], MAX_SIZE: 300, RPN_MIN_SIZE: 8, RPN_POST_NMS_TOP_N: 100}
"""
YAML = """\
# Drawn shapes: see data/make_toy.py
name: %s
format: imagenet
root: .
classes: [circle, square, triangle, star]
splits: {train: ImageSets/DET/train.txt, val: ImageSets/DET/val.txt}
train: train
test: val
anchors: {scales: %s, ratios: [1]}
max_iters: %s
"""
MASKS_YAML = """\
# Drawn shapes with their masks: see data/make_toy.py
name: %s_masks
format: coco
root: .
images: {train: Data/DET/train, val: Data/DET/val}
max_iters: %s
"""


class Kind(NamedTuple):
    """What is drawn: so many objects at least and at most in an image, of these sides in pixels (evenly, or evenly in their
    logarithm), apart from each other, or each hidden by later ones up to this share of its pixels."""

    name: str
    counts: tuple
    sides: tuple
    even: bool
    hidden: float
    images: tuple  # of train and val
    windows: tuple  # sides of the sliding windows
    anchors: list
    max_iters: list


EASY = Kind('toy', (1, 4), (32, 80), True, 0.0, (100, 30), (32, 44, 60, 80), [2, 3, 5], [300, 1400, 250, 700])
HARD = Kind(
    'toy_hard',
    (4, 10),
    (12, 80),
    False,
    0.5,
    (200, 100),
    (14, 20, 28, 40, 56, 80),
    [1, 1.5, 2.5, 4.5],
    [600, 2400, 500, 1200],
)


def write(folder, train=100, val=30, seed=3, kind=EASY):
    """Writes the devkit: `train` and `val` images, their annotations, lists and proposals -> the files that describe it,
    toy.yml and toy_masks.yml."""
    rng = np.random.default_rng(seed)
    for split, count in (('train', train), ('val', val)):
        names = [f'{kind.name}_{split}_{i:04d}' for i in range(count)]
        found = [_write_image(folder, split, name, rng, kind) for name in names]
        sizes = [size for size, _ in found]
        _write_text(
            os.path.join(folder, 'ImageSets', 'DET', f'{split}.txt'),
            ''.join(f'{name} {i}\n' for i, name in enumerate(names, 1)),
        )
        save_selective_search(
            os.path.join(folder, '..', 'selective_search_data', f'{kind.name}_{split}.mat'),
            names,
            [sliding_windows(*size, kind.windows) for size in sizes],
        )
        path = os.path.join(folder, 'annotations', f'instances_{split}.json')
        _write_text(path, json.dumps(_coco(names, found), indent=1))
    texts = {
        f'{kind.name}.yml': (YAML + CFG) % (kind.name, kind.anchors, kind.max_iters, ''),
        f'{kind.name}_masks.yml': (MASKS_YAML + CFG) % (kind.name, kind.max_iters[3], 'FG_FRACTION: 0.25, '),
    }
    for name, text in texts.items():
        _write_text(os.path.join(folder, name), text)
    return [os.path.join(folder, name) for name in texts]


def draw(rng, kind=EASY):
    """One picture: ((H, W, 3) uint8 image, [(class, (x1, y1, x2, y2), mask (H, W) uint8)]), boxes 0-based and inclusive."""
    height, width = (int(v) for v in rng.integers(150, 201, 2))
    image, objects = _background(rng, height, width), []
    for _ in range(rng.integers(kind.counts[0], kind.counts[1] + 1)):
        size = _side(rng, kind)
        x, y = (int(rng.integers(2, side - size - 2)) for side in (width, height))
        if not _in_the_way(objects, x, y, size, kind.hidden):
            name = CLASSES[rng.integers(len(CLASSES))]
            objects.append((name, *_draw_shape(rng, image, name, x, y, size)))
    return image, objects


def _side(rng, kind):
    low, high = kind.sides
    return int(rng.integers(low, high + 1) if kind.even else np.exp(rng.uniform(*np.log(kind.sides))))


def _in_the_way(objects, x, y, size, hidden):
    """Whether a square at (x, y) comes within 4 pixels of an object's box, or, where a share of its pixels may be hidden,
    might with the squares of those that came later hide more."""
    for i, (_, (x1, y1, x2, y2), mask) in enumerate(objects):
        near = x < x2 + 4 and x1 < x + size + 4 and y < y2 + 4 and y1 < y + size + 4
        if near and not hidden:
            return True
        if near:
            left = mask.copy()
            for u1, v1, u2, v2 in [(x, y, x + size, y + size), *(box for _, box, _ in objects[i + 1 :])]:
                left[v1 : v2 + 1, u1 : u2 + 1] = 0
            if left.sum() < (1 - hidden) * mask.sum():
                return True
    return False


def _background(rng, height, width):
    """Soft patches of colour, some lines and fine grain."""
    patches = rng.integers(40, 216, (4, 5, 3)).astype(np.float32)
    image = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(2, 6)):
        ends = [tuple(int(v) for v in rng.integers(0, (width, height))) for _ in range(2)]
        cv2.line(image, *ends, rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 3)), cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def _draw_shape(rng, image, name, x, y, size):
    """Draws a shape about `size` pixels wide with its corner at (x, y); returns the box of its pixels, and these."""
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(_outline(rng, name) * size + (x, y)).astype(np.int32)], 1)
    ys, xs = np.nonzero(mask)
    around = image[max(y - 3, 0) : y + size + 3, max(x - 3, 0) : x + size + 3].reshape(-1, 3).mean(0)
    colour = (around + rng.choice((-1, 1), 3) * rng.uniform(70, 128, 3)) % 256
    grain = colour + rng.normal(0, 8, (len(ys), 3))
    image[ys, xs] = np.clip(grain, 0, 255).astype(np.uint8)
    return (int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())), mask


def _outline(rng, name):
    """The corners of a shape in the unit square, turned a little."""
    if name == 'square':
        angles, radii = np.arange(4) * np.pi / 2 + np.pi / 4, [1]
    elif name == 'triangle':
        angles, radii = np.arange(3) * 2 * np.pi / 3 - np.pi / 2, [1]
    elif name == 'star':
        angles, radii = np.arange(10) * np.pi / 5 - np.pi / 2, [1, 0.4]
    else:
        angles, radii = np.arange(40) * np.pi / 20, [1]
    angles = angles + rng.uniform(-0.25, 0.25)
    corners = np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, len(angles))[:, None]
    low, high = corners.min(0), corners.max(0)
    return (corners - low) / (high - low).max()


def _write_image(folder, split, name, rng, kind):
    image, objects = draw(rng, kind)
    path = os.path.join(folder, 'Data', 'DET', split, f'{name}.JPEG')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f'could not write {path}')
    _write_text(
        os.path.join(folder, 'Annotations', 'DET', split, f'{name}.xml'),
        _annotation(split, name, image.shape, objects),
    )
    return image.shape[:2], objects


def _annotation(split, name, shape, objects):
    root = ElementTree.Element('annotation')
    _fill(root, folder=split, filename=name)
    _fill(ElementTree.SubElement(root, 'size'), width=shape[1], height=shape[0])
    for label, box, _ in objects:
        element = ElementTree.SubElement(root, 'object')
        _fill(element, name=label)
        _fill(ElementTree.SubElement(element, 'bndbox'), **dict(zip(('xmin', 'ymin', 'xmax', 'ymax'), box)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding='unicode') + '\n'


def _fill(element, **texts):
    for tag, text in texts.items():
        ElementTree.SubElement(element, tag).text = str(text)


def _coco(names, found):
    """COCO's annotation file of images of these names, found: (size, objects) of each."""
    images, rows = [], []
    for number, (name, ((height, width), objects)) in enumerate(zip(names, found), 1):
        images.append({'id': number, 'file_name': f'{name}.JPEG', 'width': width, 'height': height})
        for label, (x1, y1, x2, y2), mask in objects:
            row = {
                'id': len(rows) + 1,
                'image_id': number,
                'category_id': CLASSES.index(label) + 1,
                'iscrowd': 0,
            }
            row.update(
                bbox=[x1, y1, x2 - x1 + 1, y2 - y1 + 1], area=int(mask.sum()), segmentation=outlines(mask)
            )
            rows.append(row)
    categories = [{'id': k, 'name': name} for k, name in enumerate(CLASSES, 1)]
    return {'images': images, 'annotations': rows, 'categories': categories}


def outlines(mask):
    """Polygons [x0, y0, x1, y1, ...] along the edges of the pixels of a mask (H, W) uint8 without holes, which hold just
    these."""
    inside = np.pad(mask, 1).astype(bool)
    steps = {}  # corner -> the corners that an edge leads to from there, the mask on its right
    for (dx, dy), begin in (((1, 0), (0, 0)), ((0, 1), (1, 0)), ((-1, 0), (1, 1)), ((0, -1), (0, 1))):
        beyond = np.roll(inside, (dx, -dy), (0, 1))  # the pixel on its left
        for y, x in np.argwhere(inside & ~beyond):
            corner = int(x) - 1 + begin[0], int(y) - 1 + begin[1]
            steps.setdefault(corner, []).append((corner[0] + dx, corner[1] + dy))
    polygons = []
    while steps:
        line = [next(iter(steps))]
        while line[-1] in steps:
            ends = steps[line[-1]]
            line.append(ends.pop())
            if not ends:
                del steps[line[-2]]
        polygons.append([number for corner in _bends(line[:-1]) for number in corner])
    return polygons


def _bends(line):
    """The corners of a closed line where it turns."""
    around = zip(line[-1:] + line[:-1], line, line[1:] + line[:1])
    return [
        here
        for before, here, after in around
        if (here[0] - before[0], here[1] - before[1]) != (after[0] - here[0], after[1] - here[1])
    ]


def sliding_windows(height, width, sides=(32, 44, 60, 80)):
    """(n, 4) int x1 y1 x2 y2, 0-based: squares of each side, a quarter of a side apart."""
    rows = [
        (x, y, x + side - 1, y + side - 1)
        for side in sides
        for y in range(0, height - side + 1, side // 4)
        for x in range(0, width - side + 1, side // 4)
    ]
    return np.array(rows)


def _write_text(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f:
        f.write(text)


def main():
    parser = argparse.ArgumentParser(
        prog=os.environ.get('FRCNN_COMMAND'), description=__doc__.splitlines()[0]
    )
    parser.add_argument('folder', help='where to write it, e.g. data/toy')
    parser.add_argument('--train', type=int, help='training images (default 100, of hard ones 200)')
    parser.add_argument('--val', type=int, help='test images (default 30, of hard ones 100)')
    parser.add_argument('--seed', type=int, default=3)
    parser.add_argument('--hard', action='store_true', help='small objects too, some half hidden')
    args = parser.parse_args()
    kind = HARD if args.hard else EASY
    train, val = (given or usual for given, usual in zip((args.train, args.val), kind.images))
    for path in write(args.folder, train, val, args.seed, kind):
        register(path)
    print(f'{train} training and {val} test images: {args.folder}')


if __name__ == '__main__':
    main()
