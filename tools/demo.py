#!/usr/bin/env python3
"""Detect objects in any pictures and write them out with boxes, names and scores."""

import collections
import glob
import logging
import os
import sys

import _command
import cv2
import numpy as np

log = logging.getLogger(__name__)
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp')


def main():
    args = parse_args()
    _command.start_log()
    if args.cpu:
        args.gpu = []
    _command.one_gpu(args.gpu, 'demo.py')
    _command.load_cfg(args)
    from fast_rcnn.config import cfg
    from fast_rcnn.test import check_classes
    from utils.blob import read_image

    cfg.TEST.HAS_RPN = True
    data = _command.get_imdb(args.imdb)
    net = _command.load_net(args)
    check_classes(net, data)
    os.makedirs(args.out, exist_ok=True)
    paths = pictures(args.images) or [data.image_path_at(i) for i in range(min(args.most, data.num_images))]
    for path, target in zip(paths, targets(paths, args.out)):
        image = read_image(path)
        found = detect(net, image, data.class_names, args.thresh)
        write(target, draw(image, found, data.class_names))
        log.info('%s: %s', target, ', '.join(f'{name} {score:.2f}' for name, score, _ in found) or 'nothing')
    print(f'Pictures: {args.out}')


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'gpu', 'def', 'net', 'imdb', 'cfg', required=('def', 'net', 'imdb'))
    parser.add_argument('images', nargs='*', help='pictures, or folders of them; none: the first of --imdb')
    parser.add_argument('--cpu', action='store_true', help='the same as --gpu cpu')
    parser.add_argument(
        '--out', default='output/demo', metavar='FOLDER', help='where to write (default output/demo)'
    )
    parser.add_argument('--thresh', type=float, default=0.5, help='least score shown (default 0.5)')
    parser.add_argument(
        '--most', type=int, default=12, metavar='N', help='pictures taken from --imdb (default 12)'
    )
    _command.add(parser, 'set')
    return parser.parse_args(argv)


def pictures(names):
    """The image files among `names`, folders opened."""
    paths = []
    for name in names:
        inside = sorted(glob.glob(os.path.join(glob.escape(name), '*'))) if os.path.isdir(name) else [name]
        found = [path for path in inside if path.lower().endswith(EXTENSIONS)]
        if not os.path.exists(name):
            sys.exit(f'{name}: no such file or folder')
        if not found:
            sys.exit(f'{name}: no picture ({" ".join(EXTENSIONS)})')
        paths += found
    return paths


def targets(paths, folder):
    """A file to write for each picture, all different: its name as .png, numbered where that is taken."""
    seen = collections.Counter()
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        seen[stem] += 1
        yield os.path.join(folder, f'{stem}_{seen[stem]}.png' if seen[stem] > 1 else f'{stem}.png')


def detect(net, image, classes, thresh):
    """[(class name, score, (x1, y1, x2, y2))] of an (H, W, 3) BGR image, best first."""
    from fast_rcnn.test import detections, im_detect

    by_class = detections(*im_detect(net, image), 0, thresh)
    found = [
        (name, float(row[4]), tuple(row[:4]))
        for name, rows in zip(classes, by_class, strict=True)
        for row in rows
    ]
    return sorted(found, key=lambda one: -one[1])


def draw(image, found, classes):
    """A copy of the image with boxes, each class in a colour of its own, names and scores."""
    image, size = image.copy(), max(image.shape[0] / 800, 0.35)
    for name, score, box in reversed(found):
        hue = 180 * classes.index(name) // len(classes)
        colour = cv2.cvtColor(np.uint8([[(hue, 255, 230)]]), cv2.COLOR_HSV2BGR)[0, 0].tolist()
        x1, y1, x2, y2 = (int(round(v)) for v in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), colour, max(int(2 * size), 1))
        place = x1, max(y1 - 3, int(22 * size))
        for shade, width in ((0, 3), (255, 1)):
            cv2.putText(
                image,
                f'{name} {score:.2f}',
                place,
                cv2.FONT_HERSHEY_SIMPLEX,
                size,
                [shade] * 3,
                width,
                cv2.LINE_AA,
            )
    return image


def write(path, image):
    """Writes a picture in one piece."""
    done, data = cv2.imencode('.png', image)
    if not done:
        raise ValueError(f'{path}: could not encode the picture')
    with open(f'{path}.tmp', 'wb') as f:
        f.write(data.tobytes())
    os.replace(f'{path}.tmp', path)


if __name__ == '__main__':
    _command.run(main)
