"""plan: chains, and what they keep."""

import numpy as np
import torch

from helpers import data, layer, net_from

CONV = 'convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } }'


def test_kept_weights_follow_memory_that_is_given_anew(tmp_path):
    """Each reshape frees the parameter's memory, so the next one may well lie at an old address."""
    net = net_from(tmp_path, data('x', 1, 3, 1, 1) + layer('c', 'Convolution', 'x', more=CONV))
    weight = net.params['c'][0]
    for i in range(300):
        for shape in ((7,), (2, 3, 1, 1)) * (1 + i % 3):
            weight.reshape(*shape)
        weight.fill(torch.full((2, 3, 1, 1), float(i)))
        assert (net.forward(x=np.ones((1, 3, 1, 1)))['c'] == 3 * i).all(), i
