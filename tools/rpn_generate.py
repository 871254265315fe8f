#!/usr/bin/env python3
"""Write an RPN's proposals for the images of an imdb."""

import _command


def main():
    flags = ('gpu', 'def', 'net', 'imdb', 'cfg', 'set')
    args = _command.parser(__doc__, *flags, required=('def', 'net', 'imdb')).parse_args()
    _command.start_log()
    _command.one_gpu(args.gpu, 'rpn_generate.py')
    cfg = _command.load_cfg(args)
    from fast_rcnn.config import get_output_dir
    from rpn.generate import imdb_proposals
    from utils.proposals import save_proposals

    _command.seed(cfg.RNG_SEED)
    data, net = _command.get_imdb(args.imdb), _command.load_net(args)
    boxes, scores = imdb_proposals(net, data)
    path = _command.proposal_file(get_output_dir(data), net.name)
    save_proposals(path, boxes, scores)
    print(f'Proposals: {path}')


if __name__ == '__main__':
    _command.run(main)
