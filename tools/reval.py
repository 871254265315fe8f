#!/usr/bin/env python3
"""Evaluate detections again that test_net.py wrote."""

import os

import _command


def main():
    args = parse_args()
    _command.start_log()
    _command.load_cfg(args)
    from fast_rcnn.config import cfg
    from fast_rcnn.test import apply_nms
    from utils.proposals import load_detections

    data = _command.get_imdb(args.imdb)
    data.competition_mode(args.comp)
    data.config['matlab_eval'] = args.matlab
    paths = [os.path.join(args.output_dir, name) for name in ('detections.npz', 'detections.pkl')]
    dets = load_detections(next(filter(os.path.exists, paths), paths[0]))
    if args.nms:
        dets = apply_nms(dets, cfg.TEST.NMS)
    data.evaluate_detections(dets, args.output_dir)


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'imdb', 'cfg', gpu=['cpu'], imdb='voc_2007_test')
    parser.add_argument('output_dir', help='the folder with detections.npz (or an older detections.pkl)')
    parser.add_argument('--comp', action='store_true', help='competition mode: see test_net.py')
    parser.add_argument('--matlab', action='store_true', help="keep the result files, for VOC's MATLAB code")
    parser.add_argument('--nms', action='store_true', help='apply NMS (TEST.NMS) to them first')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
