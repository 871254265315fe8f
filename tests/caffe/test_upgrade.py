"""Nets and solvers of every age become what the original made of them."""

import os

import pytest
from google.protobuf import text_format

from caffe.format.prototxt import parse_net, read_net, read_solver, upgrade_net_text, upgrade_solver_text
from caffe.proto import caffe_pb2

GOLDEN = os.path.join(os.path.dirname(__file__), '..', 'golden')


def read_text(name, message):
    with open(os.path.join(GOLDEN, 'upgrade', name)) as f:
        return text_format.Parse(f.read(), message)


@pytest.mark.parametrize('name', ['v0', 'v1_deploy', 'v1_train'])
def test_old_nets_become_what_the_original_made_of_them(name, tmp_path):
    wanted = read_text(name + '.upgraded.prototxt', caffe_pb2.NetParameter())
    source = os.path.join(GOLDEN, 'upgrade', name + '.prototxt')
    got = read_net(source)
    assert got.name == wanted.name
    for mine, theirs in zip(got.layer, wanted.layer):
        assert mine == theirs
    assert got == wanted
    upgrade_net_text(source, tmp_path / 'new.prototxt')
    assert read_net(tmp_path / 'new.prototxt') == wanted


def test_old_solver_becomes_what_the_original_made_of_it(tmp_path):
    wanted = read_text('old_solver.upgraded.prototxt', caffe_pb2.SolverParameter())
    source = os.path.join(GOLDEN, 'upgrade', 'old_solver.prototxt')
    assert read_solver(source) == wanted
    upgrade_solver_text(source, tmp_path / 'new.prototxt')
    assert read_solver(tmp_path / 'new.prototxt') == wanted


def test_snapshot_prefix_follows_the_solver_file(tmp_path):
    (tmp_path / 'snaps').mkdir()
    path = tmp_path / 'my.solver.prototxt'
    path.write_text('net: "a"')
    assert read_solver(path).snapshot_prefix == str(tmp_path / 'my.solver')
    path.write_text(f'snapshot_prefix: "{tmp_path}/snaps"')
    assert read_solver(path).snapshot_prefix == str(tmp_path / 'snaps' / 'my.solver')


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('layer { name: "a" } layers { name: "b" type: RELU }', 'both'),
        ('input: "data" input_dim: 1 input_dim: 3', 'data.*2 input_dim'),
        ('input: "a" input: "b" input_shape { dim: 1 }', '2 input names.*1 input_shape'),
        ('layers { layer { name: "r" type: "rellu" } }', "layer 'r'.*rellu.*did you mean relu"),
        ('layers { layer { name: "r" type: "relu" num_output: 3 } }', "layer 'r'.*'num_output'"),
        (
            'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" } '
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            "layer 'r'.*padding layer 'p'",
        ),
    ],
)
def test_nets_that_cannot_be_upgraded_say_why(text, wanted):
    with pytest.raises(ValueError, match=wanted):
        parse_net(text)


def test_solver_with_both_kinds_of_type_is_refused(tmp_path):
    path = tmp_path / 'solver.prototxt'
    path.write_text('type: "SGD" solver_type: ADAM')
    with pytest.raises(ValueError, match='solver.prototxt.*both'):
        read_solver(path)


def test_input_shape_becomes_an_input_layer():
    net = parse_net(
        'input: "a" input_shape { dim: 2 dim: 5 } input: "b" input_shape { dim: 7 } '
        'layer { name: "r" type: "ReLU" bottom: "a" top: "r" }'
    )
    assert [layer.name for layer in net.layer] == ['input', 'r']
    assert list(net.layer[0].top) == ['a', 'b']
    assert [list(s.dim) for s in net.layer[0].input_param.shape] == [[2, 5], [7]]
    assert not net.input and not net.input_shape


def test_an_input_without_any_shape_says_nothing():
    layer = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 } } }'
    assert parse_net('input: "data" ' + layer) == parse_net(layer)
    assert not parse_net('input: "data"').layer


def test_fields_of_v1_data_layers_move_to_the_transformation():
    net = parse_net(
        'layers { name: "d" type: IMAGE_DATA image_data_param { '
        'source: "s" scale: 0.5 mean_file: "m" crop_size: 3 mirror: true } }'
    )
    wanted = caffe_pb2.LayerParameter(name='d', type='ImageData')
    wanted.image_data_param.source = 's'
    moved = caffe_pb2.TransformationParameter(scale=0.5, mean_file='m', crop_size=3, mirror=True)
    wanted.transform_param.MergeFrom(moved)
    assert net.layer[0] == wanted


def test_learning_rates_of_batch_norm_statistics_go():
    spec = 'param { lr_mult: 0 } '
    net = parse_net(
        f'layer {{ type: "BatchNorm" {spec * 3} }} layer {{ type: "BatchNorm" {spec} }} '
        f'layer {{ type: "Scale" {spec * 3} }}'
    )
    assert [len(layer.param) for layer in net.layer] == [0, 1, 3]


@pytest.mark.parametrize(
    'given, dilation', [('hole: 12', [12]), ('hole_h: 2 hole_w: 3', [2, 3]), ('dilation: 4', [4])]
)
def test_holes_become_dilation(given, dilation):
    text = 'layers { name: "fc6" type: CONVOLUTION convolution_param { num_output: 1 %s } }' % given
    conv = parse_net(text).layer[0].convolution_param
    assert list(conv.dilation) == dilation and not conv.HasField('hole')
    with pytest.raises(ValueError, match='hole'):
        parse_net(text.replace('num_output: 1', 'hole: 2 hole_w: 3'))


def test_every_old_layer_type_has_a_name_of_today():
    odd = {
        'ABSVAL': 'AbsVal',
        'INFOGAIN_LOSS': 'InfogainLoss',
        'SOFTMAX_LOSS': 'SoftmaxWithLoss',
        'IM2COL': 'Im2col',
        'HDF5_OUTPUT': 'HDF5Output',
        'DUMMY_DATA': 'DummyData',
        'ARGMAX': 'ArgMax',
        'SIGMOID_CROSS_ENTROPY_LOSS': 'SigmoidCrossEntropyLoss',
        'RELU': 'ReLU',
    }
    for name, wanted in odd.items():
        assert parse_net(f'layers {{ type: {name} }}').layer[0].type == wanted
