#!/usr/bin/env python3
"""Evaluate detections again: those that test_net.py wrote, or a file of any tool, by any metric."""

import _command


def main():
    args = parse_args()
    _command.start_log()
    _command.load_cfg(args)
    from datasets import detection_files, metrics
    from fast_rcnn.config import cfg
    from fast_rcnn.test import apply_nms
    from utils.proposals import load_masks

    unknown = [name for name in args.metric or () if name not in metrics.METRICS]
    if unknown:
        raise ValueError(f'--metric {unknown[0]}: known are {", ".join(metrics.METRICS)}')
    data = _command.get_imdb(args.imdb)
    data.competition_mode(args.comp)
    data.config['matlab_eval'] = args.matlab
    dets, expanded = detection_files.read(args.output_dir, data)
    if args.nms:
        dets = apply_nms(dets, cfg.TEST.NMS)
    cfg.OPEN_IMAGES.EXPAND_DETECTIONS &= not expanded  # as the challenge wants them, of the classes above too
    if args.metric or not detection_files.is_ours(args.output_dir):
        metrics.evaluate(data, dets, args.metric or data.metrics)
    else:
        # NMS does not say which boxes it keeps
        masks = (
            load_masks(detection_files.file_of(args.output_dir))
            if data.scores_masks and not args.nms
            else None
        )
        data.evaluate_detections(dets, args.output_dir, **({} if masks is None else {'masks': masks}))


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'imdb', 'cfg', gpu=['cpu'], imdb='voc_2007_test')
    parser.add_argument(
        'output_dir',
        metavar='DETECTIONS',
        help="a test's output folder (with detections.npz, or an older detections.pkl); or VOC's comp4 files (their folder, "
        "or one of them), ILSVRC's text (.txt), COCO's results (.json), Open Images' table (.csv), .npz, .pkl",
    )
    parser.add_argument(
        '--metric',
        nargs='+',
        metavar='NAME',
        help="voc, voc07, voc_devkit, voc07_devkit, ilsvrc, ilsvrc_plain, coco, openimages, openimages_v2; default: the dataset's "
        'own',
    )
    parser.add_argument('--comp', action='store_true', help='competition mode: see test_net.py')
    parser.add_argument('--matlab', action='store_true', help="keep the result files, for VOC's MATLAB code")
    parser.add_argument('--nms', action='store_true', help='apply NMS (TEST.NMS) to them first')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
