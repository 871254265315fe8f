#!/usr/bin/env python3
"""Train one net: Fast R-CNN on given proposals, or Faster R-CNN end to end."""

import secrets

import _command


def main():
    args = parse_args()
    _command.begin(args.gpu)
    cfg = _command.load_cfg(args, 'train_net')
    from caffe.parallel import share
    from fast_rcnn.config import get_output_dir
    from fast_rcnn.hooks import Display
    from fast_rcnn.schedule import ITERATIONS
    from fast_rcnn.train import train_net
    from pipeline.schedule import warn_of_steps
    from pipeline.stages import training_data

    if args.rand:  # workers draw from one seed all the same
        cfg.RNG_SEED = share(secrets.randbits(31))
    _command.seed(cfg.RNG_SEED)
    _command.require(args.solver, '--solver')
    if not cfg.TRAIN.EPOCHS:
        warn_of_steps(args.solver, args.max_iters or ITERATIONS)
    data, roidb = training_data(args.imdb)
    paths = train_net(
        args.solver,
        roidb,
        get_output_dir(data),
        pretrained_model=args.weights and _command.require(args.weights, '--weights'),
        max_iters=args.max_iters,
        hooks=[Display(verbose=args.verbose)],
    )
    _command.say(f'Final model: {paths[-1]}')


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'gpu', 'weights', 'cfg', 'imdb', required=('imdb',))
    parser.add_argument('--solver', required=True, metavar='PROTOTXT', help='the solver')
    _command.add(parser, 'max_iters', help='iterations of training (default: TRAIN.EPOCHS, or 40000)')
    parser.add_argument(
        '--rand', action='store_true', help='a seed by chance: no two runs alike, and none goes on'
    )
    _command.add(parser, 'verbose')
    _command.add(parser, 'precision')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
