#!/usr/bin/env python3
"""Detect objects in pictures, videos and what cameras see with a trained model; write pictures, and lists in formats that others read."""

import itertools
import logging
import os
import sys

import _command

log = logging.getLogger(__name__)
FORMATS = 'json', 'csv', 'coco', 'voc', 'yolo'


def main():
    args = parse_args()
    _command.start_log()
    _command.one_device(args.gpu, 'predict.py')
    _command.require_folder(args.out, '--out')
    data = _command.load_classes(args)
    net = _command.proposing_net(args, data)
    from datasets.writers import WRITERS
    from fast_rcnn.pictures import EXTENSIONS, VIDEOS, pictures, stems
    from utils.progress import progress

    paths = list(pictures(args.images, EXTENSIONS + VIDEOS))
    os.makedirs(args.out, exist_ok=True)
    writers = [WRITERS[name](args.out, list(data.class_names)) for name in args.write]
    bad = []
    try:
        for path, stem in zip(progress(paths, 'prediction'), stems(paths), strict=True):
            if not predict(net, path, stem, data, writers, args):
                bad.append(path)
    finally:  # by Ctrl-C, too, which is how a camera ends
        for writer in writers:
            writer.close()
            print(f'{type(writer).__name__}: {writer.path}')
    if args.format != 'none':
        print(f'Pictures: {args.out}')
    if bad:
        sys.exit(f'{len(bad)} of {len(paths)} files could not be read: {", ".join(bad)}')


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'load', 'def', 'imdb', 'cfg', 'precision', required=('load',))
    _command.add(parser, 'gpu', nargs=1)
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE',
        help='pictures, videos, folders of them, patterns such as "a/**/*.jpg"; 0 is the first camera, rtsp://... a stream',
    )
    parser.add_argument(
        '--out', default='output/predict', metavar='FOLDER', help='where to write (default output/predict)'
    )
    parser.add_argument(
        '--format', choices=('png', 'jpg', 'none'), default='png', help='of pictures with boxes (default png)'
    )
    parser.add_argument(
        '--write', type=formats, default=[], metavar='|'.join(FORMATS), help='lists too, e.g. json,coco'
    )
    parser.add_argument('--show', action='store_true', help='show each picture in a window')
    parser.add_argument('--thresh', type=float, default=0.5, help='least score (default 0.5)')
    parser.add_argument(
        '--every', type=int, default=1, metavar='N', help='of a video each Nth frame (default 1)'
    )
    parser.add_argument('--frames', type=int, metavar='N', help='of a video or camera at most N frames')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


def formats(text):
    """What --write names."""
    names = text.split(',')
    unknown = set(names) - set(FORMATS)
    if unknown:
        raise _command.argparse.ArgumentTypeError(f'{sorted(unknown)[0]!r} is none of {", ".join(FORMATS)}')
    return names


def predict(net, path, stem, data, writers, args):
    """Detects in the picture, or in the frames of the video, at `path`; whether it could be read, as far as was asked."""
    from fast_rcnn.pictures import frames

    seen = itertools.islice(frames(path, args.every), args.frames)
    while True:
        try:
            frame = next(seen, None)
        except OSError as error:
            log.warning('%s', _command.message(error))
            return False
        if frame is None:
            return True
        one(net, frame, stem if frame.number is None else f'{stem}_{frame.number:06d}', data, writers, args)


def one(net, frame, stem, data, writers, args):
    """Detects in a Frame, and writes what is found."""
    from datasets.writers import Seen
    from fast_rcnn.config import cfg
    from fast_rcnn.detection import detect_masks
    from fast_rcnn.drawing import draw, in_words, listed, save_picture, show
    from frcnn.detector import at_edges

    found, masks = detect_masks(net, frame.image, cfg.TEST.MAX_PER_IMAGE, args.thresh)
    listing = listed(found, data.class_names, args.thresh, masks)
    if args.format != 'none':
        target = os.path.join(args.out, f'{stem}.{args.format}')
        save_picture(target, draw(frame.image, listing, data.class_names))
    objects = at_edges(net, listing)
    height, width = frame.image.shape[:2]
    for writer in writers:
        writer.add(Seen(frame.path, frame.number, stem, width, height, objects))
    log.info('%s: %s', stem, in_words(listing))
    if args.show:
        show(frame.image, listing, data.class_names)


if __name__ == '__main__':
    _command.run(main)
