#!/usr/bin/env python3
"""Make one file, NAME.frcnn, of a trained model: its .caffemodel, and the .prototxt and .classes.json beside it."""

import _command


def main():
    args = parse_args()
    from fast_rcnn.packs import SUFFIX, pack

    if args.out and not args.out.endswith(SUFFIX):
        raise ValueError(f'--out {args.out}: wanted a name that ends in {SUFFIX}')
    print(f'Model: {pack(_command.require(args.weights, "MODEL"), args.out, args.prototxt)}')


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'def')
    parser.add_argument('weights', metavar='MODEL', help='the .caffemodel')
    parser.add_argument('--out', metavar='FILE', help='where to write (default: beside the model)')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
