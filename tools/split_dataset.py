#!/usr/bin/env python3
"""Write the image sets of a dataset that has none, dividing its images by chance.

    tools/split_dataset.py data/blood --val 0.2                 train and val
    tools/split_dataset.py data/blood --val 0.1 --test 0.2      and test

The folder holds JPEGImages and Annotations (the voc layout), or Data/DET and Annotations/DET (imagenet). Where
a list is there already, nothing is written.
"""

import argparse
import os

import _command


def main(argv=None):
    args = parse_args(argv)
    from datasets.readers import FORMATS
    from datasets.split import annotated, divide, write_lists

    format_ = 'imagenet' if os.path.isdir(os.path.join(args.folder, 'Annotations', 'DET')) else 'voc'
    layout = FORMATS[format_](args.folder)
    ids, bare = annotated(layout)
    if not ids:
        raise FileNotFoundError(
            f'{args.folder}: no image with an annotation file, in the {format_} layout: '
            'see data/datasets/README.md'
        )
    shares = {name: share for name, share in (('val', args.val), ('test', args.test)) if share}
    splits = divide(ids, shares, args.seed)
    for path, names in zip(write_lists(layout, splits), splits.values()):
        print(f'{path}: {len(names)} images')
    if bare:
        print(f'{bare} images have no annotation file and are in no list')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument('folder', help='where the images and their annotations lie')
    parser.add_argument(
        '--val', type=_share, default=0.2, metavar='SHARE', help='of all images (default 0.2)'
    )
    parser.add_argument(
        '--test', type=_share, default=0, metavar='SHARE', help='of all images (default none)'
    )
    parser.add_argument('--seed', type=int, default=3, metavar='N', help='another one divides otherwise')
    return parser.parse_args(argv)


def _share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f'wanted a share of the images, 0 <= share < 1, got {text}')
    return value


if __name__ == '__main__':
    _command.run(main)
