#!/usr/bin/env python3
"""Evaluate a trained model on an imdb: average precision, printed and as JSON."""

import os

import _command


def main():
    args = parse_args()
    _command.begin(args.gpu)
    data = _command.load_classes(args, 'evaluate')
    from caffe import world
    from datasets.writers import write_json
    from fast_rcnn.config import get_output_dir
    from fast_rcnn.test import test_net

    net = _command.proposing_net(args, data)
    mean_ap = test_net(net, data)
    if args.json and world.rank() == 0:
        write_json(args.json, figures(args, data, mean_ap, get_output_dir(data, net)))
        print(f'Figures: {args.json}')


def figures(args, data, mean_ap, folder):
    """What --json writes."""
    boxes, *masks = data.reported or [{}]
    return {
        'model': os.path.abspath(getattr(args, 'pack', args.weights)),
        'imdb': data.name,
        'images': data.num_images,
        'mean_ap': mean_ap,
        'aps': boxes.get('aps', {}),
        'more': boxes.get('more', ''),
        **({'masks': masks[0]} if masks else {}),
        'results': os.path.abspath(folder),
    }


def parse_args(argv=None):
    flags = 'load', 'def', 'imdb', 'gpu', 'cfg', 'precision'
    parser = _command.parser(__doc__, *flags, required=('load', 'imdb'))
    parser.add_argument('--json', metavar='FILE', help='the figures, class by class, as JSON')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
