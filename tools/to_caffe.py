#!/usr/bin/env python3
"""Write a model so that Caffe itself reads it: layers of forks in BVLC Caffe's own words, where these say the same.

    tools/to_caffe.py MODEL --out FOLDER                              for BVLC Caffe, OpenCV, and what else reads its files
    tools/to_caffe.py MODEL --out FOLDER --dialect py-faster-rcnn     with the layers of that fork

Writes a .prototxt and a .caffemodel: one of each, or, where a layer cannot go, one of each part before and after it. What is
told of each layer also lies there, as <model>.txt.
"""

import argparse
import os

import _command


def main():
    args = parse_args()
    _command.require(args.weights, 'MODEL')
    _command.open_model(args)
    args.prototxt = args.prototxt or beside(args.weights)
    net = _command.load_net(args)
    from dialects.check import differences
    from dialects.translate import translate, write

    if args.size:
        resize(net, args.size)
    found = translate(args.prototxt, net, args.dialect)
    if not found.parts:
        raise ValueError(f'{args.prototxt}: nothing of it can go')
    paths = write(found, args.out, net.name)
    report = '\n'.join(told(found, paths))
    print(report)
    with open(os.path.join(args.out, f'{net.name}.txt'), 'w', encoding='utf-8') as stream:
        stream.write(report + '\n')
    if args.check:
        for line in differences(found, paths, net):
            print(line)


def beside(weights):
    """The prototxt of a model that nothing is said of."""
    from fast_rcnn.sidecar import prototxt_path

    path = prototxt_path(weights)
    return path if os.path.isfile(path) else None


def resize(net, size):
    """Takes pictures of this height and width."""
    picture = net.blobs[net.inputs[0]]
    picture.reshape(*picture.shape[:2], *size)
    net.reshape()


def told(found, paths):
    """What became of a model, in lines."""
    from dialects import DIALECTS

    yield f'Written for {DIALECTS[found.dialect].about}:'
    for path, part in zip(paths, found.parts):
        inputs = ', '.join(
            f'{found.names[key]} {"x".join(map(str, shape))}' for key, shape in part.inputs.items()
        )
        yield f'  {path}: {len(part.rows)} layers; inputs: {inputs}'
    for name, kind, kinds in found.rewritten:
        yield f'In plain words: {name} ({kind}): {", ".join(kinds)}'
    for left in found.stuck:
        yield f'Not there: {left.name} ({left.kind}), {" ".join(left.bottoms)} -> {" ".join(left.tops)}'
        yield f'  why      {left.why}'
        yield f'  instead  {left.todo}'


def parse_args(argv=None):
    parser = _command.parser(__doc__.split('\n', 1)[0], 'def')
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument('weights', metavar='MODEL', help='a .caffemodel or a .frcnn')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='where to write')
    parser.add_argument(
        '--dialect', default='bvlc', metavar='NAME', help='bvlc, bvlc-master, py-faster-rcnn, rfcn, ssd'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='of pictures, else as the prototxt has it',
    )
    parser.add_argument(
        '--check', action='store_true', help="compare answers with this program's, and OpenCV's"
    )
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
