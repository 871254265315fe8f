#!/usr/bin/env python3
"""Write pictures of an imdb with its objects and, if asked for, its proposals."""

import os

import _command
import numpy as np


def main():
    args = parse_args()
    _command.start_log()
    _command.load_cfg(args)
    from fast_rcnn.drawing import draw, save_picture
    from utils.blob import read_image

    data = _command.get_imdb(args.imdb)
    _command.set_proposals(data, args.method, args.rpn_file)
    roidb = data.roidb
    for i in range(min(args.most, data.num_images)):
        name = os.path.splitext(os.path.basename(data.image_path_at(i)))[0]
        found = objects(roidb[i], data, args.boxes, args.masks)
        picture = draw(read_image(data.image_path_at(i)), found, data.class_names)
        save_picture(os.path.join(args.out, f'{i:06d}_{name}.{args.format}'), picture)
    print(f'Pictures: {args.out}')


def objects(entry, data, most, masks=False):
    """What fast_rcnn.drawing.draw takes: a roidb entry's objects by name, with or without masks, then its first `most`
    proposals."""
    own = np.flatnonzero(entry['gt_classes'])
    shapes = [[mask] for mask in rles(entry)] if masks else [[]] * len(own)
    known = [
        (data.class_names[entry['gt_classes'][i]], None, entry['boxes'][i], *shape)
        for i, shape in zip(own, shapes)
    ]
    return known + [('', None, box) for box in entry['boxes'][entry['gt_classes'] == 0][:most]]


def rles(entry):
    """The masks of an entry's objects."""
    from datasets.readers.masks import usable
    from roi_data_layer.minibatch import object_masks

    return [usable(mask, entry['height'], entry['width']) for mask in object_masks(entry)]


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'imdb', 'cfg', required=('imdb',), gpu=['cpu'])
    parser.add_argument(
        '--out', default='output/vis', metavar='FOLDER', help='where to write (default output/vis)'
    )
    parser.add_argument('--format', choices=('png', 'jpg'), default='png', help='of what is written')
    parser.add_argument('--most', type=int, default=50, metavar='N', help='images (default 50)')
    parser.add_argument(
        '--method',
        default='gt',
        help='where proposals come from: rpn, selective_search, ... (default gt: objects only)',
    )
    parser.add_argument('--boxes', type=int, default=20, metavar='N', help='proposals per image (default 20)')
    parser.add_argument('--masks', action='store_true', help="draw the objects' masks too")
    parser.add_argument('--rpn_file', metavar='FILE', help='see eval_recall.py')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
