#!/usr/bin/env python3
"""Recall of proposals: the share of objects that some proposal meets, by IoU threshold, and its average."""

import _command


def main():
    args = parse_args()
    _command.start_log()
    _command.load_cfg(args)
    data = _command.get_imdb(args.imdb)
    _command.set_proposals(data, args.method, args.rpn_file)
    result = data.evaluate_recall()
    print(f'Average recall {result["ar"]:.3f}')
    for threshold, recall in zip(result['thresholds'], result['recalls']):
        print(f'Recall@{threshold:.2f} {recall:.3f}')


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'imdb', 'cfg', gpu=['cpu'], imdb='voc_2007_test')
    parser.add_argument(
        '--method',
        default='selective_search',
        help='where the proposals come from: rpn, selective_search, ... (default selective_search)',
    )
    parser.add_argument(
        '--rpn-file',
        '--rpn_file',
        metavar='FILE',
        help='proposals of an RPN; by default those that rpn_generate.py wrote last',
    )
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
