#!/usr/bin/env python3
"""Train Faster R-CNN by alternating optimization: an RPN, its proposals, Fast R-CNN, and all three again.

The stages are the four steps of arXiv 1506.01497, section 3.2; in the second round the shared layers stay as
they are. Each runs in a process of its own. Started again, the command goes on where it stopped, and redoes a
stage whose settings changed.
"""

import _command


def main():
    args = parse_args()
    _command.begin(args.gpu)
    _command.load_cfg(args)
    from pipeline.methods import METHODS
    from pipeline.recipe import iterations
    from pipeline.settings import dataset_of
    from pipeline.stages import Training

    method = METHODS['faster_rcnn_alt_opt']
    method = method if args.stages == 2 else method.one_round
    training = Training(
        method,
        args.net_name,
        args.imdb,
        args.gpu,
        *iterations(method, dataset_of(args.imdb), args.max_iters),
        args.weights and _command.require(args.weights, '--weights'),
        args.verbose,
    )
    for what, path in method.named(training.finish(training.run())):
        _command.say(f'{what}: {path}')


def parse_args(argv=None):
    parser = _command.parser(__doc__.splitlines()[0], 'gpu', 'weights', 'cfg', 'imdb', required=('imdb',))
    parser.add_argument('--net_name', required=True, metavar='NET', help='their folder, e.g. ResNet-101')
    _command.add(parser, 'max_iters', nargs='+')
    parser.add_argument(
        '--stages',
        type=int,
        choices=(1, 2),
        default=2,
        help='1 ends after the first RPN and Fast R-CNN: two nets, as in the ImageNet recipe',
    )
    _command.add(parser, 'verbose')
    _command.add(parser, 'precision')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
