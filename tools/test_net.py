#!/usr/bin/env python3
"""Test a detector on an imdb: mean average precision."""

import _command


def main():
    args = parse_args()
    _command.begin(args.gpu)
    cfg = _command.load_cfg(args, 'test_net')
    from fast_rcnn.test import test_net

    data = _command.get_imdb(args.imdb)
    data.competition_mode(args.comp)
    if args.rpn_file:
        cfg.TEST.HAS_RPN, cfg.TEST.PROPOSAL_METHOD = False, 'rpn'
    if not cfg.TEST.HAS_RPN:
        _command.set_proposals(data, cfg.TEST.PROPOSAL_METHOD, args.rpn_file)
    if args.wait:
        _command.wait_for(args.weights)
    test_net(asked(args), data, max_per_image=args.num_dets, vis=args.vis)


def asked(args):
    """The net, or the Ensemble of all that were given."""
    from fast_rcnn.ensemble import Ensemble

    first = _command.load_net(args)
    others = [_command.another_net(words) for words in args.also]
    return Ensemble([first, *others]) if others else first


def parse_args(argv=None):
    flags = 'gpu', 'def', 'net', 'imdb', 'cfg', 'wait', 'precision'
    parser = _command.parser(__doc__, *flags, required=('net',), imdb='voc_2007_test')
    parser.add_argument(
        '--comp',
        action='store_true',
        help='competition mode: write the result files that a server wants, score nothing',
    )
    parser.add_argument(
        '--also',
        nargs='+',
        action='append',
        default=[],
        metavar='PROTOTXT CAFFEMODEL|MODEL',
        help='one more net, asked together with the others: proposals joined, scores and boxes averaged',
    )
    parser.add_argument(
        '--num_dets',
        type=int,
        metavar='N',
        help='detections per image at most (default: TEST.MAX_PER_IMAGE, 100)',
    )
    parser.add_argument('--vis', action='store_true', help='show the detections of each image in a window')
    parser.add_argument(
        '--rpn_file',
        metavar='FILE',
        help='proposals to test on, for a net without an RPN; '
        'by default (TEST.PROPOSAL_METHOD rpn) those that rpn_generate.py wrote last',
    )
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
