#!/usr/bin/env python3
"""Writes the prototxt files under models/; what is in them: lib/netgen.

    python models/generate.py NAME NET --num_classes K [--scales 2 4 8] [--ratios 0.5 1 2] [--max_iters N]
    python models/generate.py --all             the committed ones: lib/netgen/files.py names them

The files lie in models/NAME/NET/METHOD. Their first line holds a digest of the rest: a file that somebody has
edited is kept as it is (unless --force), any other follows the generator.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'lib'))

from netgen.backbones import BACKBONES  # noqa: E402
from netgen.files import committed_files, generate, write  # noqa: E402
from utils.places import command  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog=command(), description='Write the prototxt files of a dataset and a backbone.'
    )
    parser.add_argument('name', nargs='?', help='the folder under models/: the dataset')
    parser.add_argument('net', nargs='?', help=', '.join(BACKBONES))
    parser.add_argument('--num_classes', type=int, help='classes, the background counted')
    parser.add_argument('--scales', type=float, nargs='+', help='anchor sides in 16 pixels (8 16 32)')
    parser.add_argument('--ratios', type=float, nargs='+', help='anchor heights / widths (0.5 1 2)')
    parser.add_argument('--max_iters', type=int, nargs='+', help='iterations of training, one number or four')
    parser.add_argument('--force', action='store_true', help='overwrite files that were edited, too')
    parser.add_argument('--all', action='store_true', help='the committed files, nothing else')
    args = parser.parse_args(argv)
    if args.all:
        written = write(committed_files(), args.force)
    else:
        if not (args.name and args.net and args.num_classes):
            parser.error('NAME, NET and --num_classes are needed, or --all')
        iters = args.max_iters[0] if args.max_iters and len(args.max_iters) == 1 else args.max_iters
        anchors = {'scales': _plain(args.scales), 'ratios': _plain(args.ratios)}
        try:
            written = generate(
                args.name, args.net, args.num_classes, anchors=anchors, max_iters=iters, force=args.force
            )
        except ValueError as error:
            parser.error(str(error))
    print(f'{len(written)} files written')


def _plain(numbers):
    return [int(n) if n == int(n) else n for n in numbers or ()]


if __name__ == '__main__':
    main()
