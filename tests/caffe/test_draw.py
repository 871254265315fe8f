"""Nets as Graphviz text, and as plain pictures."""

import os
import shutil

import cv2
import pytest
from google.protobuf import text_format

import caffe
from caffe import draw
from caffe.format.prototxt import parse_net

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 } } }
layer { name: "label" type: "Data" top: "label" data_param { batch_size: 9 } include { phase: TRAIN } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 0.5 } param { lr_mult: 2 }
  convolution_param { num_output: 20 kernel_size: 3 stride_h: 1 stride_w: 2 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "drop{1}" type: "Dropout" bottom: "pool" top: "drop" exclude { phase: TEST } }
"""


def test_layers_and_blobs_are_nodes_joined_by_edges():
    text = draw.net_to_dot(parse_net(NET))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == 'digraph "small" {' and lines[-1] == '}'
    assert '"data_blob" -> "conv_Convolution_2";' in lines
    assert '"conv_Convolution_2" -> "conv_blob" [label="20"];' in lines
    (conv,) = [line for line in lines if line.startswith('"conv_Convolution_2" [')]
    assert r'label="conv\n(Convolution)\nkernel size: 3\nstride: 1x2\npad: 1"' in conv
    (pool,) = [line for line in lines if line.startswith('"pool_Pooling_4" [')]
    assert r'pool\n(AVE Pooling)\nkernel size: 2\nstride: 2\npad: 0' in pool
    assert sum(line.startswith('"conv_blob" [') for line in lines) == 1
    assert r'drop\{1\}' in text


def test_phase_and_learning_rates():
    test = draw.net_to_dot(parse_net(NET), phase=caffe.TEST)
    assert 'label_blob' not in test and 'drop' not in test and 'pool' in test
    train = draw.net_to_dot(parse_net(NET), 'TB', phase=caffe.TRAIN, display_lrm=True)
    for wanted in ('Batch 9', 'drop', 'lr mult: 0.5/2"', 'conv (Convolution)'):
        assert wanted in train


def test_old_nets_are_drawn_and_left_as_they_are():
    with open(os.path.join(os.path.dirname(__file__), '..', 'golden', 'upgrade', 'v1_train.prototxt')) as f:
        param = draw.caffe_pb2.NetParameter()
        text_format.Merge(f.read(), param)
    assert b'(InnerProduct)' in draw.draw_net(param, 'LR', 'dot')
    assert param.layers and not param.layer


def test_the_text_needs_no_graphviz(tmp_path):
    net = parse_net(NET)
    draw.draw_net_to_file(net, tmp_path / 'net.dot')
    assert (tmp_path / 'net.dot').read_text() == draw.net_to_dot(net)


def test_without_graphviz_pictures_are_plain(tmp_path, monkeypatch):
    """Longer than high from left to right, and the other way round."""
    net = parse_net(NET)
    monkeypatch.setenv('PATH', str(tmp_path))
    shapes = []
    for rankdir in ('LR', 'TB', 'RL', 'BT'):
        draw.draw_net_to_file(net, str(tmp_path / 'net.png'), rankdir)
        shapes.append(cv2.imread(str(tmp_path / 'net.png')).shape[:2])
    assert [height > width for height, width in shapes] == [False, True, False, True]
    assert draw.draw_net(net, 'LR', 'pdf').startswith(b'%PDF')
    assert b'kernel size: 3' in draw.draw_net(net, 'LR', 'svg')  # of the comment beside the glyphs
    with pytest.raises(RuntimeError, match="Graphviz's program 'dot'"):
        draw.draw_net(net, 'LR', 'gif')


def test_places_follow_the_net():
    _, nodes, edges = draw._graph(parse_net(NET), 'LR', True, None, False)
    x = {node: place[0] / 1.5 for node, place in draw._places(nodes, edges, 'LR').items()}
    assert [
        x[n]
        for n in (
            'data_Input_0',
            'data_blob',
            'conv_Convolution_2',
            'conv_blob',
            'relu_ReLU_3',
            'pool_Pooling_4',
            'pool_blob',
            'drop{1}_Dropout_5',
        )
    ] == [0, 1, 2, 3, 4, 4, 5, 6]


@pytest.mark.skipif(shutil.which('dot') is None, reason='Graphviz is not installed')
def test_graphviz_draws_it(tmp_path):
    draw.draw_net_to_file(parse_net(NET), str(tmp_path / 'net.png'))
    assert (tmp_path / 'net.png').read_bytes().startswith(b'\x89PNG')


def test_pydot_graph():
    pytest.importorskip('pydot')
    assert draw.get_pydot_graph(parse_net(NET), 'LR').get_rankdir() == 'LR'
