#!/usr/bin/env python3
"""Write one HTML file about a training: how it went, what its detector gets wrong, with pictures. It opens without a network.

OUTPUT_FOLDER is where the training's logs are, output/METHOD/NAME_SPLIT; the tests of its nets are found beside it.
"""

import os

import _command


def main():
    args = parse_args()
    _command.start_log()
    from fast_rcnn.config import cfg_from_list
    from reporting.page import write_report

    cfg_from_list(_command.single(args))
    print(f'Report: {os.path.relpath(write_report(args.output_folder, args.out, args.most))}')


def parse_args(argv=None):
    parser = _command.parser(__doc__.split('\n')[0])
    parser.add_argument(
        'output_folder', help='or, where several recipes trained into it, one of their <net>_<method>.json'
    )
    parser.add_argument('--out', metavar='FILE', help='default OUTPUT_FOLDER/<net>_<method>_report.html')
    parser.add_argument('--most', type=int, default=6, metavar='N', help='pictures of each kind (default 6)')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
