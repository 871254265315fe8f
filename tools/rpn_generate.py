#!/usr/bin/env python3
"""Write an RPN's proposals for the images of an imdb: up to 2000 an image, unless --cfg or --set says else."""

import _command


def main():
    args = parse_args()
    _command.begin(args.gpu)
    from fast_rcnn.config import cfg_from_list, get_output_dir
    from rpn.generate import SETTINGS, write_proposals
    from utils.proposals import proposal_file

    cfg_from_list([word for setting in SETTINGS.items() for word in setting])
    cfg = _command.load_cfg(args, 'rpn_generate', keep=SETTINGS)
    if args.wait:
        _command.wait_for(args.weights)
    _command.seed(cfg.RNG_SEED)
    data, net = _command.get_imdb(args.imdb), _command.load_net(args)
    path = write_proposals(net, data, proposal_file(get_output_dir(data), net.name))
    _command.say(f'Proposals: {path}')


def parse_args(argv=None):
    flags = 'gpu', 'def', 'net', 'imdb', 'cfg', 'wait', 'precision', 'set'
    return _command.parser(__doc__, *flags, required=('net',), imdb='voc_2007_test').parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
