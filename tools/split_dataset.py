#!/usr/bin/env python3
r"""Divide a dataset that is not divided, by chance, its classes shared out alike.

    tools/split_dataset.py data/blood --val 0.2                 train and val
    tools/split_dataset.py data/blood --val 0.1 --test 0.2      and test
    tools/split_dataset.py data/film --group '^(.*)_\d+$'       frames of one film, film1_0001 ..., stay together

Of a class with images enough each part has some; images without objects are shared out too. Written are, of the voc and imagenet
layouts, the image sets; of COCO's format an annotation file for each part; of YOLO's, CSV, LabelMe's and CVAT's, lists of images in the folder splits.
Nothing is written where it is there already.
"""

import argparse
import collections
import os
import re

import _command

FORMATS = 'voc', 'imagenet', 'coco', 'yolo', 'csv', 'labelme', 'cvat'


def main(argv=None):
    args = parse_args(argv)
    from datasets import labels

    kind = args.format or labels.guess(args.folder) or 'voc'
    shares = {name: share for name, share in (('val', args.val), ('test', args.test)) if share}
    divide = {'imagenet': divide_imagenet, 'voc': divide_voc}.get(kind, divide_others)
    paths, splits, classes = divide(args, kind, shares)
    for path, names in zip(paths, splits.values()):
        print(f'{path}: {len(names)} images')
    print_classes(splits, classes)


def divide_voc(args, kind, shares):
    from datasets.readers.voc import VocLayout

    return _by_layout(VocLayout(args.folder), args, kind, shares)


def divide_imagenet(args, kind, shares):
    from datasets.readers.imagenet import ImagenetLayout

    return _by_layout(ImagenetLayout(args.folder), args, kind, shares)


def _by_layout(layout, args, kind, shares):
    from datasets.readers.voc_xml import read_xml
    from datasets.split import divide, write_lists

    paths = {one: layout.annotation(one) for one in layout.ids()}
    classes = {one: set(read_xml(path).names) for one, path in paths.items() if path and os.path.exists(path)}
    if not classes:
        raise FileNotFoundError(
            f'{args.folder}: no image with an annotation file, in the {kind} layout: docs/formats.md says what '
            f'there may be; --format says which it is'
        )
    splits = divide(classes, shares, args.seed, classes, args.group)
    written = write_lists(layout.sets_dir, splits)
    if len(paths) > len(classes):
        print(f'{len(paths) - len(classes)} images have no annotation file and are in no list')
    return written, splits, classes


def divide_others(args, kind, shares):
    from datasets import labels
    from datasets.split import divide_labels, write_coco, write_lists

    found = labels.read(kind, args.folder)
    if len(found.splits) > 1:
        raise ValueError(f'{args.folder}: is divided already: {", ".join(found.splits)}; nothing is written')
    splits = divide_labels(found, shares, args.seed, args.group)
    classes = {image: {thing.name for thing in one.things} for image, one in found.images.items()}
    if kind != 'coco':
        lists = {split: [f'./{image}' for image in names] for split, names in splits.items()}
        return write_lists(os.path.join(args.folder, labels.LISTS), lists), splits, classes
    path = next(iter(found.images.values())).source
    return write_coco(path, splits, args.folder), splits, classes


def print_classes(splits, classes):
    """Images with each class in each split."""
    counts = {
        split: collections.Counter(name for one in names for name in classes[one] or [None])
        for split, names in splits.items()
    }
    for name in sorted(set().union(*counts.values()), key=lambda name: (name is None, name)):
        of_splits = ', '.join(f'{split} {counts[split][name]}' for split in counts)
        print(f'images {"without objects" if name is None else f"with {name}"}: {of_splits}')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument('folder', help='where the images and their annotations lie')
    parser.add_argument('--format', choices=FORMATS, help='default: as the folder looks')
    parser.add_argument(
        '--val', type=_share, default=0.2, metavar='SHARE', help='of all images (default 0.2)'
    )
    parser.add_argument(
        '--test', type=_share, default=0, metavar='SHARE', help='of all images (default none)'
    )
    parser.add_argument('--seed', type=int, default=3, metavar='N', help='another one divides otherwise')
    parser.add_argument(
        '--group',
        type=_expression,
        metavar='REGEX',
        help="images stay together in whose paths it finds the same, in its first brackets if it has some: '^(.*)_' up to the last _",
    )
    return parser.parse_args(argv)


def _expression(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'no regular expression: {error}') from None


def _share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'wanted a share of the images, 0 <= share < 1, got {text}')
    return value


if __name__ == '__main__':
    _command.run(main)
