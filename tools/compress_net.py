#!/usr/bin/env python3
"""Make a net's fully connected layers cheaper: truncated SVD (Fast R-CNN, section 3.1).

For every pair of layers <name>_L, <name>_U of --def-svd whose <name> is a layer of --def, the weights W of <name> become
U (outputs, rank) times L (rank, inputs), the product of that rank nearest to W; the biases are U's.
"""

import os

import _command


def main():
    args = parse_args()
    import caffe

    caffe.set_mode_cpu()
    stem = os.path.splitext(_command.require(args.weights, '--net'))[0]
    _command.open_model(args)
    net, weights = _command.load_net(args), args.weights
    small = caffe.Net(_command.require(args.prototxt_svd, '--def-svd'), weights, caffe.TEST)
    names = [name[:-2] for name in small.params if name.endswith('_L') and name[:-2] in net.params]
    if not names:
        raise ValueError(
            f'{args.prototxt_svd}: no layer <name>_L whose <name> is one of {", ".join(net.params)}'
        )
    for name in names:
        rank = split(name, net.params[name], small.params)
        print(f'{name}: {" x ".join(map(str, net.params[name][0].shape))} by rank {rank}')
    stem = '_'.join([stem, 'svd', *(f'{n}_{len(small.params[f"{n}_L"][0].data)}' for n in names)])
    small.save(f'{stem}.caffemodel')
    print(f'Compressed model: {stem}.caffemodel')


def split(name, params, small):
    """Fills <name>_L and <name>_U among the small net's params; returns their rank."""
    if f'{name}_U' not in small:
        raise ValueError(f'{name}_L has no {name}_U beside it')
    first, second = small[f'{name}_L'], small[f'{name}_U']
    rank, inputs = first[0].shape
    outputs = second[0].shape[0]
    if len(first) != 1 or params[0].shape != (outputs, inputs) or second[0].shape[1] != rank:
        raise ValueError(
            f'{name} has weights {params[0].shape}: wanted {name}_L without biases and of shape (rank, '
            f'{params[0].shape[1]}), {name}_U of ({params[0].shape[0]}, rank); got {first[0].shape}, {second[0].shape}'
        )
    second[0].data[...], first[0].data[...] = truncated_svd(params[0].data, rank)
    second[1].data[...] = params[1].data
    return rank


def truncated_svd(weights, rank):
    """weights (M, N) -> U (M, rank), L (rank, N): U L is the matrix of that rank nearest to weights.

    U's columns are the eigenvectors of weights weights^T with the largest eigenvalues.
    """
    import numpy as np
    from scipy.linalg import eigh

    weights = weights.astype(np.float64)
    if not 0 < rank <= min(weights.shape):
        raise ValueError(f'weights {weights.shape} have no factors of rank {rank}')
    last = len(weights) - 1
    _, vectors = eigh(weights @ weights.T, subset_by_index=[last - rank + 1, last])
    largest_first = vectors[:, ::-1]
    return largest_first, largest_first.T @ weights


def parse_args(argv=None):
    parser = _command.parser(__doc__.splitlines()[0], 'def', 'net', required=('net',))
    parser.add_argument(
        '--def-svd',
        dest='prototxt_svd',
        required=True,
        metavar='PROTOTXT',
        help='the net with <name>_L and <name>_U',
    )
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
