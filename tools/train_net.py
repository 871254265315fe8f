#!/usr/bin/env python3
"""Train one net: Fast R-CNN on given proposals, or Faster R-CNN end to end."""

import sys

import _command


def main():
    args = parse_args()
    _command.start_log()
    _command.one_gpu(args.gpu, 'train_net.py')
    cfg = _command.load_cfg(args)
    if not args.rand:
        _command.seed(cfg.RNG_SEED)
    from fast_rcnn.config import get_output_dir
    from fast_rcnn.train import train_net

    data, roidb = training_data(args.imdb)
    paths = train_net(
        _command.require(args.solver, '--solver'),
        roidb,
        get_output_dir(data),
        pretrained_model=args.weights and _command.require(args.weights, '--weights'),
        max_iters=args.max_iters,
    )
    print(f'Final model: {paths[-1]}')


def training_data(names):
    """(imdb, roidb) of one imdb, or of several as voc_2007_trainval+voc_2012_trainval."""
    from datasets.imdb import imdb
    from fast_rcnn.config import cfg
    from fast_rcnn.train import get_training_roidb

    sets = [_command.get_imdb(name) for name in names.split('+')]
    if len({tuple(one.classes) for one in sets}) > 1:
        sys.exit(f'--imdb {names}: these have different classes')
    roidb = []
    for one in sets:
        one.set_proposal_method(cfg.TRAIN.PROPOSAL_METHOD)
        roidb = roidb + get_training_roidb(one)
    return (sets[0] if len(sets) == 1 else imdb(names)), roidb


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'gpu', 'weights', 'cfg', 'imdb', required=('imdb',))
    parser.add_argument('--solver', required=True, metavar='PROTOTXT', help='the solver')
    parser.add_argument('--iters', dest='max_iters', type=int, default=40000, metavar='N', help='iterations')
    parser.add_argument('--rand', action='store_true', help='seeds from the clock: no two runs alike')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
