#!/usr/bin/env python3
"""Train and test by a method: what the scripts in experiments/scripts run.

Started again, the same command goes on where it stopped.
"""

import argparse
import os
import sys

import _command
from utils.places import HOME, INSTALLED, command


def main():
    args = parse_args()
    args.dataset, args.weights = absolute(args.dataset), absolute(args.weights)
    from caffe import world
    from pipeline.recipe import Recipe, copy_output

    if not world.launched() and world.rank() == 0:
        copy_output(args.method, args.net, args.dataset)
        print('+', command(), *sys.argv[1:])
    _command.begin(args.gpu)
    os.chdir(HOME)
    Recipe(**vars(args)).run()


SCRIPTS = {'rfcn_alt_opt_5step_ohem': 'rfcn_alt_opt_5stage_ohem'}  # method -> script, where the names differ


METHODS = (
    'faster_rcnn_alt_opt', 'faster_rcnn_end2end', 'mask_rcnn_end2end', 'fast_rcnn', 'rfcn_end2end', 'rfcn_end2end_ohem',
    'rfcn_alt_opt_5step_ohem',
)  # fmt: skip


def called(argv):
    """The name of the command: that of a method's script, where it has one here."""
    if INSTALLED or not argv or argv[0] not in METHODS:
        return command()
    return f'experiments/scripts/{SCRIPTS.get(argv[0], argv[0])}.sh'


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=called(argv),
        description=__doc__.splitlines()[0],
    )
    told = ', '.join(METHODS) if parser.prog == command() else argparse.SUPPRESS  # a script knows its own
    parser.add_argument('method', metavar='METHOD', choices=METHODS, help=told)
    parser.add_argument('gpu', **{**_command.FLAGS['gpu'], 'metavar': 'GPU', 'default': None})
    parser.add_argument(
        'net',
        metavar='NET',
        help='ResNet-10 and ResNet-10-FPN, which need no weights; ResNet-101, ResNet-50, VGG16, VGG_CNN_M_1024, ZF, '
        f'ResNet-50-FPN and more: {"frcnn nets" if INSTALLED else "models/generate.py"} --help names all',
    )
    parser.add_argument(
        'dataset',
        metavar='DATASET',
        help='pascal_voc, pascal_voc_0712, coco, imagenet, or your own: the path of its YAML file; later its name will do',
    )
    _command.add(parser, 'max_iters', nargs='+')
    parser.add_argument('--stages', type=int, choices=(1, 2), help='1 ends after the first round')
    _command.add(parser, 'weights')
    parser.add_argument('--force', action='store_true', help='write nets anew that were edited')
    _command.add(parser, 'verbose')
    parser.add_argument(
        '--preset',
        nargs='+',
        default=[],
        metavar='NAME',
        help='settings for small data, experiments/cfgs/preset_NAME.yml: augment, from_nothing, early_stop',
    )
    _command.add(parser, 'precision')
    _command.add(parser, 'set', default=[])
    args = parser.parse_args(argv)
    args.single = _command.single(args)
    del args.set_cfgs, args.precision
    return args


def absolute(path):
    """A path from where the command was given; from the project's folder where there is none such."""
    return os.path.abspath(path) if path and os.path.isfile(path) else path


if __name__ == '__main__':
    _command.run(main)
