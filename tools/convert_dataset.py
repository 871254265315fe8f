#!/usr/bin/env python3
"""Make a dataset of YOLO's, CSV's, LabelMe's or CVAT's annotations one in COCO's format, with its YAML file.

    tools/convert_dataset.py yolo data/fruit fruit --val 0.2

writes fruit/annotations/instances_train.json and ..._val.json, and fruit/fruit.yml, which recipes take; images stay where they
are. lib/datasets/readers/labels.py says what each format is.
"""

import argparse
import json
import os

import _command

FORMATS = 'yolo', 'csv', 'labelme', 'cvat'


def main(argv=None):
    args = parse_args(argv)
    from datasets.readers.labels import LABELS
    from datasets.split import divide
    from utils.files import atomic_path

    _command.require_folder(args.out, 'OUT')
    found = {one.image: one for one in LABELS[args.format](args.folder)}
    if not any(one.objects for one in found.values()):
        raise ValueError(f'{args.folder}: no object in {len(found)} images')
    classes = sorted({name for one in found.values() for name, *_ in one.objects})
    splits = divide(list(found), {'val': args.val}, args.seed) if args.val else {'train': sorted(found)}
    folder, name = os.path.abspath(args.out), os.path.basename(os.path.abspath(args.out))
    os.makedirs(os.path.join(folder, 'annotations'), exist_ok=True)
    texts = {
        f'annotations/instances_{split}.json': json.dumps(coco([found[image] for image in images], classes))
        for split, images in splits.items()
    }
    texts[f'{name}.yml'] = description(
        name, os.path.relpath(args.folder, folder), 'val' if args.val else 'train'
    )
    for file, text in texts.items():
        path = os.path.join(folder, file)
        with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
            stream.write(text)
        print(path)
    print(', '.join(f'{split}: {len(images)} images' for split, images in splits.items()), *classes, sep='; ')


def description(name, images, test):
    return f'name: {name}\nformat: coco\nroot: .\nimages: {json.dumps(images)}\ntrain: train\ntest: {test}\n'


def coco(labelled, classes):
    """Labelled images -> the content of a file in COCO's format; categories are numbered from 1, as `classes`."""
    numbers, rows = {name: i for i, name in enumerate(classes, 1)}, []
    images = [
        {'id': i, 'file_name': one.image, 'width': one.width, 'height': one.height}
        for i, one in enumerate(labelled, 1)
    ]
    for i, one in enumerate(labelled, 1):
        for name, (x1, y1, x2, y2), polygon in one.objects:
            row = {'id': len(rows) + 1, 'image_id': i, 'category_id': numbers[name], 'iscrowd': 0}
            row |= {'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)}
            rows.append(row | ({'segmentation': [polygon]} if polygon else {}))
    categories = [{'id': number, 'name': name} for name, number in numbers.items()]
    return {'images': images, 'categories': categories, 'annotations': rows}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument('format', choices=FORMATS)
    parser.add_argument('folder', help='where images and annotations lie')
    parser.add_argument('out', metavar='OUT', help="the folder to write, whose name becomes the dataset's")
    parser.add_argument(
        '--val', type=float, default=0.2, metavar='SHARE', help='of all images (default 0.2; 0: none)'
    )
    parser.add_argument('--seed', type=int, default=3, metavar='N', help='another one divides otherwise')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
