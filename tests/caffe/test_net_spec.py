"""NetSpec: nets written as Python."""

import pytest

import caffe
from caffe import layers as L
from caffe.format.prototxt import parse_net
from caffe import params as P
from caffe.net_spec import Top, assign_proto, param_name_dict
from caffe.proto import caffe_pb2


def small_net():
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(
        shape=[dict(dim=[2, 3, 8, 8]), dict(dim=[2])], data_filler=[dict(type='gaussian'), dict()], ntop=2
    )
    n.conv = L.Convolution(
        n.data,
        num_output=4,
        kernel_size=3,
        pad=[1],
        weight_filler=dict(type='xavier'),
        param=[dict(lr_mult=1), dict(lr_mult=2)],
    )
    n.relu = L.ReLU(n.conv, in_place=True)
    n.pool = L.Pooling(n.relu, pool=P.Pooling.AVE, kernel_size=2, stride=2)
    n.ip = L.InnerProduct(L.Dropout(n.pool, dropout_ratio=0.25), num_output=5)
    n.loss = L.SoftmaxWithLoss(n.ip, n.label, loss_weight=2, loss_param=dict(ignore_label=255))
    return n


WANTED = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } data_filler { type: "gaussian" } data_filler { } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "Dropout1" type: "Dropout" bottom: "pool" top: "Dropout1"
  dropout_param { dropout_ratio: 0.25 } }
layer { name: "ip" type: "InnerProduct" bottom: "Dropout1" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 2
  loss_param { ignore_label: 255 } }
"""


def test_a_net_becomes_its_prototxt():
    assert small_net().to_proto() == parse_net(WANTED)


def test_what_is_written_can_be_read_back():
    net = small_net().to_proto()
    assert parse_net(str(net)) == net


def test_layers_without_a_top():
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1]))
    n.quiet = L.Silence(n.data, ntop=0)
    layers = n.to_proto().layer
    assert [(x.name, x.type, len(x.top)) for x in layers] == [('data', 'Input', 1), ('quiet', 'Silence', 0)]


def test_automatic_names_count_by_type():
    data = L.Input(shape=dict(dim=[1, 3]))
    net = caffe.to_proto(L.Eltwise(L.ReLU(data), L.ReLU(L.TanH(data))), L.Silence(data, ntop=0))
    assert [x.name for x in net.layer] == ['Input1', 'ReLU1', 'TanH1', 'ReLU2', 'Eltwise1', 'Silence1']
    assert list(net.layer[4].bottom) == ['ReLU1', 'ReLU2']
    assert data.to_proto() == caffe.to_proto(data)


def test_tops_by_item_attribute_and_their_deletion():
    n = caffe.NetSpec()
    n['res2a/sum'] = L.Input(shape=dict(dim=[1]))
    n.x = L.ReLU(n['res2a/sum'])
    assert isinstance(n.x, Top) and n.x is n['x']
    del n.x
    n.y = L.ReLU(n['res2a/sum'])
    del n['y']
    assert list(n.tops) == ['res2a/sum']
    with pytest.raises(AttributeError, match="'x'"):
        n.x
    with pytest.raises(KeyError):
        n['x']


def test_update_changes_the_layer_of_a_top():
    n = small_net()
    n.update('pool', dict(kernel_size=3, name='renamed'))
    layer = n.to_proto().layer[3]
    assert (layer.pooling_param.kernel_size, layer.pooling_param.stride, layer.name) == (3, 2, 'renamed')


def test_a_field_the_layer_lacks_goes_to_the_layer_itself_or_is_an_error():
    n = caffe.NetSpec()
    n.x = L.Input(shape=dict(dim=[1]), include=dict(phase=caffe_pb2.TRAIN), name='other')
    layer = n.to_proto().layer[0]
    assert layer.include[0].phase == caffe_pb2.TRAIN and layer.name == 'other'
    n.y = L.ReLU(n.x, kernel=3)
    with pytest.raises(AttributeError, match="ReLU has no parameter 'kernel'"):
        n.to_proto()


def test_a_misspelt_type_is_named_with_the_nearest():
    top = L.Convlution(L.Input(), num_output=4)
    with pytest.raises(AttributeError, match='unknown layer type Convlution.*did you mean Convolution'):
        top.to_proto()


def test_a_bottom_must_be_a_top():
    with pytest.raises(TypeError, match='ReLU input 0 is not a Top'):
        L.ReLU('data')
    with pytest.raises(TypeError, match='Silence input 1'):
        data = L.Input()
        L.Silence(data, (data,), ntop=0)


def test_parameter_messages_are_found_by_type():
    names = param_name_dict()
    for kind, name in dict(
        Convolution='convolution',
        ReLU='relu',
        InnerProduct='inner_product',
        LRN='lrn',
        HDF5Data='hdf5_data',
        ROIPooling='roi_pooling',
        SmoothL1Loss='smooth_l1_loss',
        PSROIPooling='psroi_pooling',
        Normalize='norm',
        Permute='permute',
    ).items():
        assert names[kind] == name


def test_assign_proto_fills_messages_lists_and_values():
    layer = caffe_pb2.LayerParameter()
    assign_proto(layer, 'name', 'x')
    assign_proto(layer, 'bottom', 'one')
    assign_proto(layer, 'bottom', ['two', 'three'])
    assign_proto(layer, 'param', dict(lr_mult=0))
    assign_proto(layer, 'param', [dict(name='w'), dict(name='b')])
    assign_proto(layer, 'lrn_param', dict(local_size=3, norm_region=P.LRN.WITHIN_CHANNEL))
    assign_proto(layer, 'relu_param', caffe_pb2.ReLUParameter(negative_slope=0.5))
    wanted = parse_net("""
        layer { name: "x" bottom: "one" bottom: "two" bottom: "three"
          param { lr_mult: 0 } param { name: "w" } param { name: "b" }
          lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL } relu_param { negative_slope: 0.5 } }""")
    assert layer == wanted.layer[0]
