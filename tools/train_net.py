#!/usr/bin/env python3
"""Train one net: any of the generator's by its name, or the one that a solver's file names."""

import os
import secrets
import sys

import _command

# Where a net for testing lies, beside the one that is trained
TEST_NETS = 'test.prototxt', 'test_agnostic.prototxt'


def main():
    args = parse_args()
    _command.begin(args.gpu)
    if args.model:
        choose(args)
    cfg = _command.load_cfg(args, 'train_net')
    from caffe import world
    from caffe.parallel import share
    from fast_rcnn.config import get_output_dir
    from fast_rcnn.hooks import Board, Display
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
        hooks=[Display(verbose=args.verbose), *([Board()] if cfg.TENSORBOARD else [])],
    )
    _command.say(f'Final model: {paths[-1]}')
    train = _command.net_file(args)
    if train and world.rank() == 0:
        hand_on(paths[-1], args.imdb, train)


def choose(args):
    """Settles cfg for the net of --model by --method, as a recipe does, and completes --solver, --weights and --max_iters. Writes
    the nets that are missing."""
    from caffe import world
    from datasets.factory import describe
    from fast_rcnn.config import cfg_from_file
    from netgen.backbones import BACKBONES
    from pipeline.methods import METHODS
    from pipeline.recipe import Recipe, initial_weights, iterations
    from pipeline.settings import cfg_files, dataset_of, settle
    from pipeline.stages import net_file

    methods = {name: method for name, method in METHODS.items() if len(method.trained) == 1}
    if args.method not in methods or args.model not in BACKBONES:
        wanted = methods if args.model in BACKBONES else BACKBONES
        sys.exit(f'--model {args.model} --method {args.method}: wanted one of {", ".join(wanted)}')
    method, dataset = methods[args.method], dataset_of(args.imdb)
    if dataset is None:
        sys.exit(f'--imdb {args.imdb}: of no dataset whose nets have a name; give --solver')
    family = BACKBONES[args.model].boxes
    for path in () if args.cfg_file else cfg_files(args.method, args.model, family, dataset):
        cfg_from_file(path)
    settle(args.imdb, (), _command.single(args))
    if world.rank() == 0:
        Recipe(args.method, args.model, dataset, args.gpu).write_nets(describe(dataset), method)
    world.meet('nets')
    args.solver = net_file(args.model, method.nets, method.stages[0].net)
    args.weights = args.weights or initial_weights(args.model)
    if args.max_iters is None:
        (args.max_iters,) = iterations(method, dataset)[1]


def hand_on(model, imdb, train):
    """Writes what lets a detector be used without its dataset, where its test net lies beside the one that was trained."""
    from fast_rcnn.sidecar import write_sidecar
    from pipeline.stages import training_sets

    paths = [os.path.join(os.path.dirname(train), name) for name in TEST_NETS]
    for path in filter(os.path.isfile, paths):
        write_sidecar(model, training_sets(imdb)[0], path)
        return


def parse_args(argv=None):
    parser = _command.parser(__doc__, 'gpu', 'weights', 'cfg', 'imdb', required=('imdb',))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('--solver', metavar='PROTOTXT', help='the solver')
    which.add_argument(
        '--model',
        metavar='NET',
        help='a net by name, e.g. ResNet-50-FPN, for the classes of --imdb, in place of a solver',
    )
    parser.add_argument(
        '--method', default='faster_rcnn_end2end', metavar='NAME', help='how --model is trained (%(default)s)'
    )
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
