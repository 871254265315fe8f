"""tools/compress_net.py: the nearest product of a rank, put into the layers it belongs to."""

import caffe
import compress_net
import numpy as np
import pytest
from tool_runs import run_main

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 } } }
%s
layer { name: "out" type: "InnerProduct" bottom: "fc6" top: "out" inner_product_param { num_output: 2
  weight_filler { type: "gaussian" std: 1 } } }
"""
WHOLE = """layer { name: "fc6" type: "InnerProduct" bottom: "data" top: "fc6" inner_product_param { num_output: 5
  weight_filler { type: "gaussian" std: 1 } bias_filler { type: "constant" value: 3 } } }"""
PAIR = """layer { name: "fc6_L" type: "InnerProduct" bottom: "data" top: "l" inner_product_param { num_output: %d
  bias_term: false } }
layer { name: "fc6_U" type: "InnerProduct" bottom: "l" top: "fc6" inner_product_param { num_output: 5 } }"""


@pytest.mark.parametrize('shape', [(5, 8), (8, 5), (6, 6)])
def test_truncated_svd(shape):
    weights = np.random.RandomState(0).randn(*shape).astype(np.float32)
    left, values, right = np.linalg.svd(weights.astype(float), full_matrices=False)
    for rank in 1, 3, 5:
        up, low = compress_net.truncated_svd(weights, rank)
        assert (up.shape, low.shape) == ((shape[0], rank), (rank, shape[1]))
        nearest = left[:, :rank] * values[:rank] @ right[:rank]
        np.testing.assert_allclose(up @ low, nearest, atol=1e-6)
    with pytest.raises(ValueError, match='rank 9'):
        compress_net.truncated_svd(weights, 9)


@pytest.fixture
def words(tmp_path):
    (tmp_path / 'whole.pt').write_text(NET % WHOLE)
    caffe.Net(str(tmp_path / 'whole.pt'), caffe.TEST).save(str(tmp_path / 'm.caffemodel'))
    return [
        '--def',
        tmp_path / 'whole.pt',
        '--def-svd',
        tmp_path / 'svd.pt',
        '--net',
        tmp_path / 'm.caffemodel',
    ]


def test_a_net_is_compressed(monkeypatch, tmp_path, words):
    (tmp_path / 'svd.pt').write_text(NET % (PAIR % 5))
    run_main(monkeypatch, compress_net.main, *words)
    small = caffe.Net(str(tmp_path / 'svd.pt'), str(tmp_path / 'm_svd_fc6_5.caffemodel'), caffe.TEST)
    whole = caffe.Net(str(tmp_path / 'whole.pt'), str(tmp_path / 'm.caffemodel'), caffe.TEST)
    data = np.random.RandomState(1).randn(1, 6).astype(np.float32)
    answers = [net.forward(data=data)['out'].copy() for net in (small, whole)]
    np.testing.assert_allclose(*answers, rtol=1e-4)


def test_nets_that_do_not_fit(monkeypatch, tmp_path, words):
    (tmp_path / 'svd.pt').write_text(NET % WHOLE)
    with pytest.raises(ValueError, match='svd.pt: no layer <name>_L'):
        run_main(monkeypatch, compress_net.main, *words)
    (tmp_path / 'svd.pt').write_text(NET % (PAIR % 2).replace('bias_term: false', ''))
    with pytest.raises(ValueError, match='fc6_L without biases'):
        run_main(monkeypatch, compress_net.main, *words)
