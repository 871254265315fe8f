#!/usr/bin/env python3
"""Detect objects in any pictures and write them out with boxes, names and scores."""

import logging
import os
import sys

import _command

from fast_rcnn.pictures import pictures, stems

log = logging.getLogger(__name__)
# Nets trained on VOC that others made: --net's name -> prototxt in models/, weights in data/
NAMED = {
    'vgg16': ('VGG16/faster_rcnn_alt_opt/faster_rcnn_test.pt', 'faster_rcnn_models/VGG16_faster_rcnn_final'),
    'zf': ('ZF/faster_rcnn_alt_opt/faster_rcnn_test.pt', 'faster_rcnn_models/ZF_faster_rcnn_final'),
    'ResNet-50': ('ResNet-50/rfcn_end2end/test_agnostic.prototxt', 'rfcn_models/resnet50_rfcn_final'),
    'ResNet-101': ('ResNet-101/rfcn_end2end/test_agnostic.prototxt', 'rfcn_models/resnet101_rfcn_final'),
}


def main():
    args = parse_args()
    _command.start_log()
    if args.cpu:
        args.gpu = ['cpu']
    _command.one_device(args.gpu, 'demo.py')
    data = knowledge(args)
    net = _command.proposing_net(args, data)
    paths = list(pictures(args.images)) or [
        data.image_path_at(i) for i in range(min(args.most, data.num_images))
    ]
    bad = [
        path for path, target in zip(paths, targets(paths, args)) if not detect(net, path, target, data, args)
    ]
    print(f'Pictures: {args.out}')
    if bad:
        sys.exit(f'{len(bad)} of {len(paths)} pictures could not be read: {", ".join(bad)}')


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'def', 'imdb', 'cfg', 'precision')
    _command.add(parser, 'gpu', nargs=1)
    parser.add_argument(
        '--net',
        dest='weights',
        default='vgg16',
        metavar='CAFFEMODEL',
        help=f'the weights; without --def, the name of a published net: {", ".join(NAMED)} (default vgg16)',
    )
    parser.add_argument(
        'images', nargs='*', help='pictures, or folders of them; none: the first of --imdb, or data/demo'
    )
    parser.add_argument('--cpu', action='store_true', help='the same as --gpu cpu')
    parser.add_argument(
        '--out', default='output/demo', metavar='FOLDER', help='where to write (default output/demo)'
    )
    parser.add_argument('--format', choices=('png', 'jpg'), default='png', help='of what is written')
    parser.add_argument('--thresh', type=float, default=0.5, help='least score shown (default 0.5)')
    parser.add_argument(
        '--most', type=int, default=12, metavar='N', help='pictures taken from --imdb (default 12)'
    )
    _command.add(parser, 'set')
    return parser.parse_args(argv)


def knowledge(args):
    """What knows the classes: --imdb, else the model's sidecar, else VOC's list for a published net. Settles cfg,
    the sidecar's settings first, and completes --def, --net and the pictures."""
    from datasets.pascal_voc import CLASSES
    from fast_rcnn.config import cfg
    from fast_rcnn.sidecar import Sidecar

    known = _command.load_known(args)
    if args.prototxt is None:
        if args.weights not in NAMED:
            sys.exit(f'--def is missing: the net of {args.weights}')
        prototxt, weights = NAMED[args.weights]
        args.prototxt = os.path.join(cfg.ROOT_DIR, 'models', 'pascal_voc', prototxt)
        args.weights = os.path.join(cfg.DATA_DIR, f'{weights}.caffemodel')
        known = Sidecar('PASCAL VOC', ('__background__', *CLASSES), {})
    check_paths(args)
    if args.imdb:
        return _command.get_imdb(args.imdb)
    known = _command.require_known(args, known)
    args.images = args.images or [os.path.join(cfg.DATA_DIR, 'demo')]
    check_paths(args)
    return known


def check_paths(args):
    """Ends the program at a file or folder that is not there, or is the other."""
    _command.require(args.prototxt, '--def')
    _command.require(args.weights, '--net')
    for path in args.images:
        if not os.path.exists(path):
            sys.exit(f'picture {path}: no such file or folder')
    _command.require_folder(args.out, '--out')


def targets(paths, args):
    """A file to write for each picture, all different."""
    return (os.path.join(args.out, f'{stem}.{args.format}') for stem in stems(paths))


def detect(net, path, target, data, args):
    """Detects on the picture at `path` and writes it to `target`; whether it could be read."""
    from fast_rcnn.drawing import draw, in_words, listed, save_picture
    from fast_rcnn.detection import detect_masks
    from utils.blob import read_upright

    try:
        image = read_upright(path)
    except OSError as error:
        log.warning('%s', error)
        return False
    boxes, masks = detect_masks(net, image, 0, args.thresh)
    found = listed(boxes, data.class_names, args.thresh, masks)
    save_picture(target, draw(image, found, data.class_names))
    log.info('%s: %s', target, in_words(found))
    return True


if __name__ == '__main__':
    _command.run(main)
