"""Schema, text and binary nets, upgrades, filtering, weights."""

import csv
import glob
import os

import h5py
import numpy as np
import pytest
from google.protobuf import text_format

from caffe import netparam
from caffe.proto import caffe_pb2

GOLDEN = os.path.join(os.path.dirname(__file__), '..', 'golden')
SHARED = os.path.join(os.path.dirname(__file__), '..', '..', '..', 'shared', 'golden')


# ---- schema ----


def schema_rows(kind):
    with open(os.path.join(GOLDEN, 'caffe_messages.tsv'), newline='') as f:
        rows = list(csv.reader(f, delimiter='\t', quoting=csv.QUOTE_NONE))[1:]
    return [tuple((row + [''] * 7)[1:7]) for row in rows if row[0] == kind]


def descriptor(name):
    return caffe_pb2.DESCRIPTOR.pool.FindMessageTypeByName('caffe.' + name)


def is_repeated(field):
    return field.is_repeated if hasattr(field, 'is_repeated') else field.label == field.LABEL_REPEATED


def is_required(field):
    return field.is_required if hasattr(field, 'is_required') else field.label == field.LABEL_REQUIRED


def default_text(field):
    if field.message_type or is_repeated(field) or not field.has_default_value:
        return ''
    value = field.default_value
    return field.enum_type.values_by_number[value].name if field.enum_type else repr(value)


def test_the_schema_holds_every_field_of_the_format():
    rows = schema_rows('field')
    assert len(rows) > 380
    types = 'double float int64 uint64 int32 fixed64 fixed32 bool string group message bytes uint32'.split()
    for message, name, number, label, kind, default in rows:
        field = descriptor(message).fields_by_name[name]
        got_kind = field.message_type or field.enum_type
        got_kind = got_kind.full_name.removeprefix('caffe.') if got_kind else types[field.type - 1]
        if field.GetOptions().packed:
            got_kind += ' packed'
        got_label = 'repeated' if is_repeated(field) else 'required' if is_required(field) else 'optional'
        where = f'{message}.{name}'
        assert (field.number, got_label, got_kind) == (int(number), label, kind), where
        assert default_text(field) == default, where


def test_the_schema_holds_every_enum_of_the_format():
    for name, values, *_ in schema_rows('enum'):
        enum = caffe_pb2.DESCRIPTOR.pool.FindEnumTypeByName('caffe.' + name)
        for value in values.split():
            key, number = value.split('=')
            assert enum.values_by_name[key].number == int(number), f'{name}.{key}'


@pytest.mark.parametrize(
    'text',
    [
        'pooling_param { ceil_mode: false }',
        'dropout_param { scale_train: false }',
        'loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }',
        'psroi_pooling_param { spatial_scale: 0.0625 output_dim: 21 group_size: 7 }',
        'box_annotator_ohem_param { roi_per_img: 128 ignore_label: -1 }',
        'permute_param { order: 0 order: 2 order: 3 order: 1 }',
        'norm_param { across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false }',
        'prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 flip: true variance: 0.1 offset: 0.5 }',
        'detection_output_param { num_classes: 21 nms_param { nms_threshold: 0.45 } code_type: CENTER_SIZE }',
        'multibox_loss_param { loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX mining_type: MAX_NEGATIVE }',
        'transform_param { resize_param { resize_mode: WARP height: 300 width: 300 interp_mode: LINEAR } }',
        'transform_param { emit_constraint { emit_type: CENTER } distort_param { hue_prob: 0.5 } crop_h: 3 }',
        'annotated_data_param { batch_sampler { sampler { min_scale: 0.3 } sample_constraint { } } }',
        'interp_param { zoom_factor: 8 }',
        'upsample_param { scale: 2 }',
        'unpooling_param { unpool: MAX kernel_size: 2 stride: 2 }',
        'proposal_param { feat_stride: 16 ratio: 0.5 scale: 8 nms_thresh: 0.7 }',
        'bn_param { bn_mode: INFERENCE scale_filler { value: 1 } shift_filler { value: 0.001 } }',
        'bn_param { frozen: true momentum: 0.95 slope_filler { value: 1 } }',
        'shuffle_channel_param { group: 3 }',
        'roi_align_param { pooled_w: 7 pooled_h: 7 spatial_scale: 0.0625 }',
        'focal_loss_param { alpha: 0.25 gamma: 2 }',
    ],
)
def test_fields_of_forks_parse(text):
    layer = netparam.parse_net(f'layer {{ name: "x" type: "X" {text} }}').layer[0]
    assert len(layer.ListFields()) == 3


# ---- text ----


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('layer {\n  nme: "x" }', r"net\.prototxt:2:.*LayerParameter.*'?nme.*Did you mean 'name'"),
        ('layer { convolution_param { kernelsize: 3 } }', "ConvolutionParameter.*kernelsize.*'kernel_size'"),
        ('layer { include { phase: TRIAN } }', "Phase.*TRIAN.*Did you mean 'TRAIN'"),
        ('layer {\n\n', r'net\.prototxt:\d'),
        ('name: "a" name: "b"', 'multiple "name"'),
        ('layer { name: "c" type: "Clip" clip_param { min: 0 } }', r'net\.prototxt: .*clip_param\.max'),
    ],
)
def test_a_faulty_prototxt_is_named_with_its_place(tmp_path, text, wanted):
    path = tmp_path / 'net.prototxt'
    path.write_text(text)
    with pytest.raises(ValueError, match=wanted):
        netparam.read_net(str(path))


@pytest.mark.parametrize('read', [netparam.read_net, netparam.read_solver, netparam.read_weights])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match='nowhere.txt does not exist'):
        read(str(tmp_path / 'nowhere.txt'))
    with pytest.raises(FileNotFoundError, match='is a folder'):
        read(str(tmp_path))


def test_byte_order_mark_and_foreign_comments_are_no_obstacle(tmp_path):
    path = tmp_path / 'net.prototxt'
    path.write_bytes(b"\xef\xbb\xbf# caf\xe9\nname: 'n'\n")
    assert netparam.read_net(str(path)).name == 'n'


# ---- upgrades ----


def read_text(name, message):
    with open(os.path.join(GOLDEN, 'upgrade', name)) as f:
        return text_format.Parse(f.read(), message)


@pytest.mark.parametrize('name', ['v0', 'v1_deploy', 'v1_train'])
def test_old_nets_become_what_the_original_made_of_them(name, tmp_path):
    wanted = read_text(name + '.upgraded.prototxt', caffe_pb2.NetParameter())
    source = os.path.join(GOLDEN, 'upgrade', name + '.prototxt')
    got = netparam.read_net(source)
    assert got.name == wanted.name
    for mine, theirs in zip(got.layer, wanted.layer):
        assert mine == theirs
    assert got == wanted
    netparam.upgrade_net_text(source, tmp_path / 'new.prototxt')
    assert netparam.read_net(tmp_path / 'new.prototxt') == wanted


def test_old_solver_becomes_what_the_original_made_of_it(tmp_path):
    wanted = read_text('old_solver.upgraded.prototxt', caffe_pb2.SolverParameter())
    source = os.path.join(GOLDEN, 'upgrade', 'old_solver.prototxt')
    assert netparam.read_solver(source) == wanted
    netparam.upgrade_solver_text(source, tmp_path / 'new.prototxt')
    assert netparam.read_solver(tmp_path / 'new.prototxt') == wanted


def test_snapshot_prefix_follows_the_solver_file(tmp_path):
    (tmp_path / 'snaps').mkdir()
    path = tmp_path / 'my.solver.prototxt'
    path.write_text('net: "a"')
    assert netparam.read_solver(path).snapshot_prefix == str(tmp_path / 'my.solver')
    path.write_text(f'snapshot_prefix: "{tmp_path}/snaps"')
    assert netparam.read_solver(path).snapshot_prefix == str(tmp_path / 'snaps' / 'my.solver')


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('layer { name: "a" } layers { name: "b" type: RELU }', 'both'),
        ('input: "data" input_dim: 1 input_dim: 3', 'data.*2 input_dim'),
        ('input: "a" input: "b" input_shape { dim: 1 }', '2 input names.*1 input_shape'),
        ('layers { layer { name: "r" type: "rellu" } }', "layer 'r'.*rellu.*'relu'"),
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
        netparam.parse_net(text)


def test_solver_with_both_kinds_of_type_is_refused(tmp_path):
    path = tmp_path / 'solver.prototxt'
    path.write_text('type: "SGD" solver_type: ADAM')
    with pytest.raises(ValueError, match='solver.prototxt.*both'):
        netparam.read_solver(path)


def test_input_shape_becomes_an_input_layer():
    net = netparam.parse_net(
        'input: "a" input_shape { dim: 2 dim: 5 } input: "b" input_shape { dim: 7 } '
        'layer { name: "r" type: "ReLU" bottom: "a" top: "r" }'
    )
    assert [layer.name for layer in net.layer] == ['input', 'r']
    assert list(net.layer[0].top) == ['a', 'b']
    assert [list(s.dim) for s in net.layer[0].input_param.shape] == [[2, 5], [7]]
    assert not net.input and not net.input_shape


def test_fields_of_v1_data_layers_move_to_the_transformation():
    net = netparam.parse_net(
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
    net = netparam.parse_net(
        f'layer {{ type: "BatchNorm" {spec * 3} }} layer {{ type: "BatchNorm" {spec} }} '
        f'layer {{ type: "Scale" {spec * 3} }}'
    )
    assert [len(layer.param) for layer in net.layer] == [0, 1, 3]


@pytest.mark.parametrize(
    'given, dilation', [('hole: 12', [12]), ('hole_h: 2 hole_w: 3', [2, 3]), ('dilation: 4', [4])]
)
def test_holes_become_dilation(given, dilation):
    text = 'layers { name: "fc6" type: CONVOLUTION convolution_param { num_output: 1 %s } }' % given
    conv = netparam.parse_net(text).layer[0].convolution_param
    assert list(conv.dilation) == dilation and not conv.HasField('hole')
    with pytest.raises(ValueError, match='hole'):
        netparam.parse_net(text.replace('num_output: 1', 'hole: 2 hole_w: 3'))


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
        assert netparam.parse_net(f'layers {{ type: {name} }}').layer[0].type == wanted


# ---- phase, level, stage ----

RULES = """
layer { name: "always" }
layer { name: "train" include { phase: TRAIN } }
layer { name: "not_test" exclude { phase: TEST } }
layer { name: "levels" include { min_level: 2 max_level: 3 } }
layer { name: "staged" include { stage: "a" stage: "b" } }
layer { name: "unstaged" include { not_stage: "a" } }
layer { name: "either" include { phase: TEST stage: "a" } include { min_level: 5 } }
"""


@pytest.mark.parametrize(
    'state, wanted',
    [
        (dict(phase=0), 'always train not_test unstaged'),
        (dict(phase=1), 'always unstaged'),
        (dict(), 'always unstaged'),  # the phase is TEST unless given
        (dict(phase=0, level=2), 'always train not_test levels unstaged'),
        (dict(phase=1, level=4), 'always unstaged'),
        (dict(phase=1, stage=['a', 'b', 'c']), 'always staged either'),
        (dict(phase=0, level=5, stage=['a']), 'always train not_test either'),
    ],
)
def test_rules_let_layers_in(state, wanted):
    param = netparam.parse_net(RULES)
    got = netparam.filter_net(param, caffe_pb2.NetState(**state))
    assert [layer.name for layer in got.layer] == wanted.split()
    assert len(param.layer) == 7


def test_include_and_exclude_in_one_layer_is_an_error():
    param = netparam.parse_net('layer { name: "x" include { phase: TRAIN } exclude { phase: TEST } }')
    with pytest.raises(ValueError, match="'x'.*both include and exclude"):
        netparam.filter_net(param, caffe_pb2.NetState())


# ---- weights ----


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, 3, 3, 3)).astype('f')
    return [
        ('conv/3x3', 'Convolution', [kernel, np.float32([1, 2, 3, 4])], ['data'], ['conv']),
        ('relu', 'ReLU', [], ['conv'], ['conv']),
        ('bn', 'BatchNorm', [np.zeros(4, 'f'), np.ones(4, 'f'), np.full((), 3, 'f')], ['conv'], ['bn']),
    ]


def assert_same_weights(got, rows):
    kept = [row[:3] for row in rows if row[2] or any(g[0] == row[0] for g in got)]
    assert sorted(g[0] for g in got) == sorted(k[0] for k in kept)
    by_name = (sorted(x, key=lambda row: row[0]) for x in (got, kept))
    for (name, kind, arrays), (_, wanted_kind, wanted) in zip(*by_name):
        assert kind in ('', wanted_kind)
        assert len(arrays) == len(wanted), name
        for a, b in zip(arrays, wanted):
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize('suffix', ['.caffemodel', '.caffemodel.h5'])
def test_weights_come_back(tmp_path, rows, suffix):
    path = tmp_path / ('w' + suffix)
    netparam.write_weights(path, rows, 'net')
    assert_same_weights(netparam.read_weights(path), rows)
    assert h5py.is_hdf5(path) == suffix.endswith('.h5')
    assert os.listdir(tmp_path) == ['w' + suffix]


def test_binary_weights_are_a_net_of_the_full_schema(tmp_path, rows):
    path = tmp_path / 'w.caffemodel'
    diffs = [[a + 1 for a in row[2]] for row in rows]
    netparam.write_weights(path, [(*row, d) for row, d in zip(rows, diffs)], 'net')
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    assert net.name == 'net'
    assert [(x.name, x.type, list(x.bottom), list(x.top)) for x in net.layer] == [
        (r[0], r[1], r[3], r[4]) for r in rows
    ]
    np.testing.assert_array_equal(netparam.blobproto_to_array(net.layer[0].blobs[0]), rows[0][2][0])
    np.testing.assert_array_equal(netparam.blobproto_to_array(net.layer[0].blobs[0], True), rows[0][2][0] + 1)


def test_opencv_reads_binary_weights(tmp_path):
    cv2 = pytest.importorskip('cv2')
    prototxt = tmp_path / 'net.prototxt'
    prototxt.write_text("""
        input: "data" input_shape { dim: 1 dim: 2 dim: 4 dim: 5 }
        layer { name: "a/1x1" type: "Convolution" bottom: "data" top: "a"
          convolution_param { num_output: 3 kernel_size: 1 } }""")
    kernel, bias, image = (
        np.random.default_rng(i).normal(size=s).astype('f')
        for i, s in enumerate([(3, 2, 1, 1), (3,), (1, 2, 4, 5)])
    )
    netparam.write_weights(tmp_path / 'w', [('a/1x1', 'Convolution', [kernel, bias], ['data'], ['a'])], 'n')
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(tmp_path / 'w'))
    net.setInput(image)
    wanted = np.einsum('oi,nihw->nohw', kernel[:, :, 0, 0], image) + bias[:, None, None]
    np.testing.assert_allclose(net.forward(), wanted, atol=1e-5)


def test_hdf5_has_the_original_layout(tmp_path, rows):
    path = tmp_path / 'w.h5'
    netparam.write_weights(path, [(*row, [a * 2 for a in row[2]]) for row in rows])
    with h5py.File(path) as f:
        np.testing.assert_array_equal(f['data/conv/3x3/1'][()], [1, 2, 3, 4])
        np.testing.assert_array_equal(f['diff/conv/3x3/1'][()], [2, 4, 6, 8])
        assert 'relu' in f['data']


def test_hdf5_without_a_shared_blob(tmp_path):
    path = tmp_path / 'w.h5'
    with h5py.File(path, 'w') as f:
        f['data/shares/1'] = np.float32([5])
    ((name, _, arrays),) = netparam.read_weights(path)
    assert name == 'shares' and arrays[0] is None and arrays[1] == 5


def test_old_weights_read_by_layer_name(tmp_path):
    net = caffe_pb2.NetParameter()
    v1 = net.layers.add(name='fc', type=caffe_pb2.V1LayerParameter.INNER_PRODUCT)
    v1.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    v0 = net.layers.add().layer
    v0.name, v0.type = 'conv1', 'conv'
    v0.blobs.add(num=1, channels=1, height=1, width=2, double_data=[0.5, 1.5])
    path = tmp_path / 'old.caffemodel'
    path.write_bytes(net.SerializeToString())
    (n1, t1, (fc,)), (n0, t0, (conv,)) = netparam.read_weights(path)
    assert (n1, t1, n0, t0) == ('fc', 'InnerProduct', 'conv1', 'Convolution')
    np.testing.assert_array_equal(fc, np.arange(6, dtype='f').reshape(1, 1, 2, 3), strict=True)
    np.testing.assert_array_equal(conv, np.float32([[[[0.5, 1.5]]]]), strict=True)


def test_messages_of_forks_under_the_numbers_of_others_are_skipped(tmp_path, rows):
    """Field 147 of a layer is swish_param here, a string in some fork: the weights are read all the same."""
    path = tmp_path / 'fork.caffemodel'
    netparam.write_weights(path, rows)
    blob = netparam.array_to_blobproto(np.float32([7]))
    layer = caffe_pb2.LayerParameter(name='alien', type='Alien', blobs=[blob]).SerializeToString()
    layer += bytes([147 << 3 & 0x7F | 2 | 0x80, 147 >> 4, 3]) + b'\xff\xff\xff'
    path.write_bytes(path.read_bytes() + bytes([100 << 3 & 0x7F | 2 | 0x80, 100 >> 4, len(layer)]) + layer)
    name, kind, (array,) = netparam.read_weights(path)[-1]
    assert (name, kind, array) == ('alien', 'Alien', 7)


def test_numbers_written_one_by_one_are_read(tmp_path):
    """Writers that do not pack give each float its own tag (field 5, four bytes)."""
    unpacked = b''.join(b'\x2d' + np.float32(x).tobytes() for x in (1, 2, 3)) + b'\x3a\x03\x0a\x01\x03'
    path = tmp_path / 'w.caffemodel'
    layer = b'\x0a\x01a' + b'\x3a' + bytes([len(unpacked)]) + unpacked
    path.write_bytes(b'\xa2\x06' + bytes([len(layer)]) + layer)
    np.testing.assert_array_equal(netparam.read_weights(path)[0][2][0], [1, 2, 3])


def test_truncated_weights_are_named_with_their_size(tmp_path, rows):
    path = tmp_path / 'w.caffemodel'
    netparam.write_weights(path, rows, 'net')
    whole = path.read_bytes()
    for size in (0, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf'w\.caffemodel \({size} bytes\).*cut off'):
            netparam.read_weights(path)


def test_truncated_hdf5_weights_are_named(tmp_path, rows):
    path = tmp_path / 'w.h5'
    netparam.write_weights(path, rows)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r'w\.h5 \(\d+ bytes\)'):
        netparam.read_weights(path)


def test_a_blob_that_does_not_fill_its_shape_is_named(tmp_path):
    net = caffe_pb2.NetParameter()
    net.layer.add(name='fc').blobs.add(data=[1, 2]).shape.dim.extend([3])
    path = tmp_path / 'w.caffemodel'
    path.write_bytes(net.SerializeToString())
    with pytest.raises(ValueError, match=r"layer 'fc', blob 0.*\(3,\).*2 values"):
        netparam.read_weights(path)


def test_hdf5_of_another_layout_is_refused(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as f:
        f['weights'] = [1]
    with h5py.File(tmp_path / 'b.h5', 'w') as f:
        f['data'] = [1]
    for name in 'ab':
        with pytest.raises(ValueError, match=name + r'\.h5.*data'):
            netparam.read_weights(tmp_path / f'{name}.h5')


def test_upgraded_binary_net_keeps_its_blobs(tmp_path):
    net = caffe_pb2.NetParameter(name='n')
    layer = net.layers.add(name='fc', type=caffe_pb2.V1LayerParameter.INNER_PRODUCT, blobs_lr=[2])
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[3, 4])
    (tmp_path / 'old').write_bytes(net.SerializeToString())
    netparam.upgrade_net_binary(tmp_path / 'old', tmp_path / 'new')
    new = caffe_pb2.NetParameter.FromString((tmp_path / 'new').read_bytes())
    assert not new.layers and new.layer[0].type == 'InnerProduct' and new.layer[0].param[0].lr_mult == 2
    np.testing.assert_array_equal(netparam.blobproto_to_array(new.layer[0].blobs[0]), [[[[3, 4]]]])


def test_a_failed_write_leaves_the_old_file(tmp_path, rows):
    path = tmp_path / 'w.caffemodel'
    path.write_bytes(b'old')
    with pytest.raises(ValueError):
        netparam.write_weights(path, [*rows, ('bad', 'X', [np.array('text')], [], [])])
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['w.caffemodel']


def test_writing_into_a_missing_folder_names_it(tmp_path, rows):
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere'):
        netparam.write_weights(tmp_path / 'nowhere' / 'w.caffemodel', rows)


def test_the_recorded_weights_read():
    paths = glob.glob(os.path.join(SHARED, '*', '*.caffemodel*'))
    if not paths:
        pytest.skip('the recorded caffemodels are not here')
    for path in paths:
        layers = netparam.read_weights(path)
        assert sum(len(arrays) for *_, arrays in layers) >= 11, path
        assert all(np.isfinite(a).all() for *_, arrays in layers for a in arrays), path
    paths = (os.path.join(SHARED, 'solver', 'init.caffemodel' + suffix) for suffix in ('', '.h5'))
    binary, hdf5 = map(netparam.read_weights, paths)
    assert_same_weights(hdf5, [(*layer, (), ()) for layer in binary])
