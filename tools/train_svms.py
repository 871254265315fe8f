#!/usr/bin/env python3
"""Train SVMs on a detector's features, as R-CNN had them, in place of its softmax.

    tools/train_svms.py --gpu 0 --def test.prototxt --net fast_rcnn.caffemodel --imdb voc_2007_trainval

writes fast_rcnn_svm.caffemodel beside the given one: its cls_score is the SVMs'. It is tested with --set TEST.SVM=True
TEST.SCORE_THRESH=-1, by raw scores. --def is a net for testing; proposals are its own or, for one that is given them, those of
TEST.PROPOSAL_METHOD, as test_net.py has it.
"""

import os

import _command


def main():
    args = parse_args()
    _command.one_device(args.gpu, 'train_svms.py')
    _command.begin(args.gpu)
    cfg = _command.load_cfg(args)
    from fast_rcnn.sidecar import sidecar_path, write_sidecar
    from fast_rcnn.svm import train_svms
    from fast_rcnn.test import check_classes
    from utils.files import atomic_path

    cfg.TEST.SVM, cfg.TEST.SCORE_THRESH = True, -1.0
    _command.seed(cfg.RNG_SEED)
    data, net = _command.get_imdb(args.imdb), _command.load_net(args)
    check_classes(net, data)
    if args.rpn_file:
        cfg.TEST.HAS_RPN, cfg.TEST.PROPOSAL_METHOD = False, 'rpn'
    if not cfg.TEST.HAS_RPN:
        _command.set_proposals(data, cfg.TEST.PROPOSAL_METHOD, args.rpn_file)
    if cfg.TRAIN.USE_FLIPPED:
        data.append_flipped_images()
    for name, count in train_svms(net, data).items():
        print(f'{name}: {count} objects' if count else f'{name}: no objects, so it is never found')
    path = os.path.splitext(getattr(args, 'pack', args.weights))[0] + '_svm.caffemodel'
    with atomic_path(path) as temporary:
        net.save(temporary)
    print(f'Model: {path}')
    if os.path.exists(sidecar_path(args.weights)):
        write_sidecar(path, data, args.prototxt)
    print(
        f'Test: tools/test_net.py --def {args.prototxt} --net {path} --imdb ... --set TEST.SVM=True TEST.SCORE_THRESH=-1'
    )


def parse_args(argv=None):
    flags = 'gpu', 'def', 'net', 'imdb', 'cfg'
    parser = _command.parser(__doc__.split('\n', 1)[0], *flags, required=('net',), imdb='voc_2007_trainval')
    parser.add_argument(
        '--rpn_file',
        metavar='FILE',
        help='proposals, for a net without an RPN; default: as test_net.py has it',
    )
    _command.add(parser, 'precision')
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
