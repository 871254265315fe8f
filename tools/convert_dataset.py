#!/usr/bin/env python3
"""Make a dataset of one format one of another: VOC, COCO, YOLO, CSV, LabelMe, CVAT.

    tools/convert_dataset.py yolo data/fruit fruit --to coco

reads the folder data/fruit and writes the folder fruit, with pictures (as hard links where the disk has them), and fruit/fruit.yml, which
recipes take. What is divided into train, val ... stays so; else, or with --val, it is divided anew. What the other format has no
place for is said. docs/formats.md says what each format is; recipes take all of these as they are.
"""

import argparse
import collections
import json
import os
import shutil
import tempfile

import _command

FORMATS = 'voc', 'coco', 'yolo', 'csv', 'labelme', 'cvat'
APART = 'coco', 'csv'  # whose pictures may lie where they are


def main(argv=None):
    args = parse_args(argv)
    _command.require_folder(args.out, 'OUT')
    if os.path.isdir(args.out) and os.listdir(args.out):
        raise ValueError(f'{args.out}: wanted a folder that is empty or not there')
    if args.leave and args.to not in APART:
        raise ValueError(
            f'--leave: pictures of {args.to} lie beside their labels; of {", ".join(APART)} they need not'
        )
    with tempfile.TemporaryDirectory() as spare:
        convert(args, os.path.join(args.out, 'pictures') if args.leave else spare)


def convert(args, spare):
    """spare: a folder for pictures that files of labels hold."""
    from datasets import labels
    from datasets.split import divide_labels

    folder, name = os.path.abspath(args.out), os.path.basename(os.path.abspath(args.out))
    found = labels.read(args.format, args.folder, spare=os.path.abspath(spare))
    if not any(one.things for one in found.images.values()):
        raise ValueError(f'{args.folder}: no object in {len(found.images)} images')
    splits = found.splits
    if args.val is not None or not splits:
        splits = divide_labels(found, {'val': 0.2 if args.val is None else args.val}, args.seed)
    names = short_names(splits, args.leave)
    parts = {
        split: {names[image]: found.images[image] for image in images} for split, images in splits.items()
    }
    lost, classes = collections.Counter(), labels.classes_of(found)
    texts, places = labels.FORMATS[args.to].write(parts, classes, lost)
    images = os.path.relpath(args.folder, folder) if args.leave else ''
    texts[f'{name}.yml'] = description(name, args.to, list(parts), images)
    for file, text in texts.items():
        write(os.path.join(folder, file), text)
    if not args.leave:
        put_all(args.folder, folder, splits, names, places)
    print(os.path.join(folder, f'{name}.yml'))
    print(', '.join(f'{split}: {len(images)} images' for split, images in splits.items()), *classes, sep='; ')
    told(args.to, lost, found)


def told(to, lost, found):
    """Prints what the new format has not of the old one's, and what is to be known of pictures that EXIF tags turn."""
    kept_out = ', '.join(f'{count} x {what}' for what, count in sorted(lost.items()) if count)
    if kept_out:
        print(f'not kept by {to}: {kept_out}')
    count = sum(one.turn != 1 for one in found.images.values())
    if count:
        how = 'as they are stored' if to in ('voc', 'coco', 'csv') else 'as they are shown'
        print(f'turned by their EXIF tags: {count} images; boxes are of the pixels {how}')


def short_names(splits, leave):
    """{image: its path less folders that only say that there are images, or of which split}; whole paths, where two would be the
    same, or with leave."""
    from datasets.labels.labelled import SPLITS

    images = list(dict.fromkeys(image for part in splits.values() for image in part))
    if leave:
        return {image: image for image in images}
    plain = {*SPLITS, *splits, 'images', 'jpegimages', 'labels', 'data'}
    names = {}
    for image in images:
        *folders, name = image.split('/')
        folders = [] if '..' in folders else folders
        names[image] = '/'.join([part for part in folders if part.lower() not in plain] + [name])
    stems = {os.path.splitext(name)[0].lower() for name in names.values()}
    if len(stems) == len(images):
        return names
    return {image: image.replace('../', '').replace('/', '_') for image in images}


def description(name, kind, splits, images):
    """The YAML file of what is written."""
    from datasets.own import trained_and_tested

    chosen = [split if split in splits else splits[0] for split in trained_and_tested(splits)]
    text = 'name: {}\nformat: {}\nroot: .\ntrain: {}\ntest: {}\n'.format(name, kind, *chosen)
    return text + f'images: {json.dumps(images)}\n' * bool(images)


def put_all(root, folder, splits, names, places):
    """Puts the pictures of root into the folder; names: {image: name}; places: {split: where}."""
    from utils.progress import progress

    pairs = [(split, image) for split, images in splits.items() for image in images]
    for split, image in progress(pairs, 'pictures'):
        put(os.path.join(root, image), os.path.join(folder, places[split], names[image]))


def put(source, target):
    """The picture at target, as a hard link, or a copy where that cannot be."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.exists(target):
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def write(path, text):
    from utils.files import atomic_path

    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='\n') as stream:
        stream.write(text)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument('format', choices=FORMATS)
    parser.add_argument('folder', help='where images and annotations lie')
    parser.add_argument('out', metavar='OUT', help="the folder to write, whose name becomes the dataset's")
    parser.add_argument('--to', choices=FORMATS, default='coco', help='the format to write (default coco)')
    parser.add_argument(
        '--val',
        type=float,
        metavar='SHARE',
        help='divide into train and val, of so many of all images (0: none); default: as it is divided, else 0.2',
    )
    parser.add_argument('--seed', type=int, default=3, metavar='N', help='another one divides otherwise')
    parser.add_argument('--leave', action='store_true', help='pictures where they are: coco and csv')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
