#!/usr/bin/env python3
"""Write what `caffe train` needs to train a small SSD on a dataset: databases with boxes, label map, nets, solver.

    tools/make_ssd.py --train toy_train --test toy_val output/ssd_toy
    caffe-fast-rcnn/build/tools/caffe train -solver output/ssd_toy/solver.prototxt

Its databases, label map and name_size_file are those that published SSD prototxts read too.
"""

import argparse
import os

import _command


def main(argv=None):
    args = parse_args(argv)
    from datasets.annosets import write_annoset, write_label_map
    from datasets.factory import get_imdb
    from netgen import ssd
    from utils.files import atomic_path

    train, test = get_imdb(args.train), get_imdb(args.test)
    if train.classes != test.classes:
        raise ValueError(f'{train.name} has the classes {train.classes}, {test.name} {test.classes}')
    os.makedirs(args.folder, exist_ok=True)
    folder = args.folder.rstrip('/')
    paths = [write_annoset(imdb, f'{folder}/{imdb.name}') for imdb in (train, test)]
    labels = write_label_map(train.classes, f'{folder}/labelmap.prototxt')
    data = ssd.Data(paths[0][0], paths[1][0], labels, paths[1][1], test.num_images)
    numbers = args.size, args.batch, args.max_iters, args.base_lr
    for path, text in ssd.files(folder, data, train.num_classes, *numbers).items():
        with atomic_path(path) as temporary, open(temporary, 'w') as f:
            f.write(text)
        print(path)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', help='where to write it, e.g. output/ssd_toy')
    for name in ('train', 'test'):
        parser.add_argument(f'--{name}', required=True, metavar='NAME_SPLIT', help=f'the images to {name} on')
    parser.add_argument(
        '--size', type=int, default=96, metavar='PIXELS', help='the side of the images (default 96)'
    )
    parser.add_argument('--batch', type=int, default=8, metavar='N', help='images in a batch (default 8)')
    parser.add_argument('--max_iters', type=int, default=1200, metavar='N', help='iterations (default 1200)')
    parser.add_argument('--base_lr', type=float, default=0.001, metavar='RATE', help='default 0.001')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
