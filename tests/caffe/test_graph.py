"""Graph: parameters in common, and what their prototxts state of them."""

import numpy as np
import pytest

from helpers import data, layer, net_from


def shared(what, first, second):
    """Two layers that share w; the first and second say so much of `what`, or nothing."""
    param = ['param { name: "w" %s }' % (f'{what}: {v}' if v else '') for v in (first, second)]
    more = ' inner_product_param { num_output: 3 bias_term: false }'
    return (
        data('a', 1, 3)
        + layer('one', 'InnerProduct', 'a', more=param[0] + more)
        + layer('two', 'InnerProduct', 'one', more=param[1] + more)
    )


@pytest.mark.parametrize('what', ['lr_mult', 'decay_mult'])
def test_multipliers_of_a_shared_parameter_may_not_differ_once_stated(tmp_path, what):
    assert net_from(tmp_path, shared(what, '', 2)).learnable_params
    assert net_from(tmp_path, shared(what, 2, '')).learnable_params
    for stated in (1, 3):
        with pytest.raises(ValueError, match=f'{what} 2.* of the shared parameter .w. differs from {stated}'):
            net_from(tmp_path, shared(what, stated, 2))


def test_permissive_sharing_between_shapes_adds_both_gradients(tmp_path):
    """w is (2, 3) in the first layer and (3, 2) in the second: six numbers in one memory."""
    share = 'param { name: "w" share_mode: PERMISSIVE }'
    ip = ' inner_product_param { num_output: %d bias_term: false } '
    text = (
        'force_backward: true\n'
        + data('a', 1, 3)
        + data('b', 1, 2)
        + layer('one', 'InnerProduct', 'a', more=share + ip % 2 + 'loss_weight: 1')
        + layer('two', 'InnerProduct', 'b', more=share + ip % 3 + 'loss_weight: 1')
    )
    net = net_from(tmp_path, text)
    net.params['one'][0].data[...] = np.arange(6).reshape(2, 3)
    net.forward(a=[[1, 2, 3]], b=[[10, 20]])
    assert net.blobs['two'].data.tolist() == [[20, 80, 140]]
    net.backward()
    assert net.params['one'][0].diff.tolist() == [[11, 22, 13], [21, 12, 23]]
    assert net.params['two'][0].diff.tolist() == [[11, 22], [13, 21], [12, 23]]
