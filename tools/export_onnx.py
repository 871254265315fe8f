#!/usr/bin/env python3
"""Write a net as an ONNX file of standard operators.

A detector goes from a picture to boxes, scores, labels and masks; any other net from its inputs to its outputs.
"""

import os

import _command


def main():
    args = parse_args()
    _command.begin(args.gpu)
    known, data = load(args)
    net = _command.load_net(args)
    kind, model = exported(net, classes_of(net, known, data), args)
    from export.model import write

    if args.check and data is None and kind != 'net':
        raise ValueError('--check of a detector wants pictures: --imdb NAME_SPLIT')
    write(model, args.out)
    ends = [', '.join(value.name for value in values) for values in (model.graph.input, model.graph.output)]
    size = os.path.getsize(args.out) / 1e6
    print(f'{args.out}: a {kind}, {len(model.graph.node)} nodes, {size:.1f} MB; {ends[0]} -> {ends[1]}')
    if args.check:
        check(net, kind, data, args)


def load(args):
    """The model's Sidecar and the imdb, each None where there is none."""
    from fast_rcnn.config import cfg, cfg_from_list
    from rpn.generate import SETTINGS

    _command.require(args.weights, '--load')
    if args.proposals:
        cfg_from_list([word for setting in SETTINGS.items() for word in setting])
    known = _command.load_known(args, keep=SETTINGS if args.proposals else ())
    data = _command.get_imdb(args.imdb) if args.imdb else None
    if data and args.images:
        data.keep_first(args.images)
    if data and args.rpn_file:
        cfg.TEST.HAS_RPN = False
        _command.set_proposals(data, 'rpn', args.rpn_file)
    return known, data


def classes_of(net, known, data):
    """Names of the classes, the background first; numbers where nobody knows them."""
    from fast_rcnn.test import check_classes

    if 'cls_prob' not in net.blobs:
        return ()
    source = data or known
    if source:
        check_classes(net, source)
        return source.class_names
    return ['__background__', *(str(k) for k in range(1, net.blobs['cls_prob'].shape[1]))]


def exported(net, classes, args):
    """What kind of net it is, and the model."""
    from export.detector import detector_model, rpn_model
    from export.model import kind_of, plain_model
    from fast_rcnn.config import cfg

    kind = 'net' if args.outputs or args.plain else kind_of(net)
    if kind == 'net':
        return kind, plain_model(net, args.outputs, args.fixed)
    if kind == 'detector':
        cfg.TEST.HAS_RPN = 'im_info' in net.inputs
        return kind, detector_model(net, classes, args.picture)
    return kind, rpn_model(net, classes, args.picture)


def check(net, kind, data, args):
    """Prints how far onnxruntime's answers are from ours, and both mean APs."""
    from export.check import compare, compare_blobs, mean_ap, session

    one = session(args.out, args.threads)
    if kind == 'net':
        for name, difference in compare_blobs(net, one).items():
            print(f'{name}: largest difference {difference:.2g}')
        return
    differences, ours, theirs = compare(net, one, data, given_boxes(net, data))
    print(f'{data.num_images} pictures of {data.name}: {differences}')
    for name, found in ('ours', ours), ('onnxruntime', theirs):
        if kind == 'detector':
            boxes, masks = mean_ap(data, found)
            print(f'mean AP, {name}: {boxes:.4f}' + ('' if masks is None else f', of masks {masks:.4f}'))


def given_boxes(net, data):
    """A function that gives the RoIs of image i, for a net without an RPN; None for others."""
    if 'im_info' in net.inputs:
        return None
    if data.config.get('rpn_file') is None:
        raise ValueError(f'{net.name} judges given boxes: --check wants --rpn_file, their file')
    return lambda i: data.roidb[i]['boxes'][data.roidb[i]['gt_classes'] == 0]


def parse_args(argv=None):
    parser = _command.parser(
        __doc__, 'load', 'def', 'imdb', 'cfg', required=('load',), gpu=['cpu'], imdb=None
    )
    parser.add_argument('--out', required=True, metavar='FILE', help='the file to write, NAME.onnx')
    parser.add_argument(
        '--picture',
        action='store_true',
        help='the input is a picture (H, W, 3) uint8, blue first: means, scaling and padding are inside',
    )
    parser.add_argument('--outputs', nargs='+', metavar='BLOB', help='these blobs of the net as they are')
    parser.add_argument(
        '--plain', action='store_true', help="the net's own inputs and outputs, of detectors too"
    )
    parser.add_argument(
        '--fixed', action='store_true', help='of a plain net: all sizes are those of its file'
    )
    parser.add_argument(
        '--proposals',
        action='store_true',
        help='of an RPN: as many boxes as rpn_generate.py writes, instead of those that a detector takes',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help="compare onnxruntime's answers with ours, on the pictures of --imdb",
    )
    parser.add_argument('--images', type=int, metavar='N', help='of these pictures the first N')
    parser.add_argument('--rpn_file', metavar='FILE', help='the boxes that a net without an RPN judges')
    parser.add_argument(
        '--threads', type=int, default=0, metavar='N', help="onnxruntime's (default: as it likes)"
    )
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
