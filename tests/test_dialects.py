"""lib/dialects and tools/to_caffe.py: nets for Caffe itself. BVLC's schema alone reads them, OpenCV answers the same."""

import csv
import re
from pathlib import Path

import caffe
import numpy as np
import pytest
from caffe.format.prototxt import read_net
from caffe.registry import layer_type_list
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, unknown_fields

import to_caffe
from dialects import DIALECTS, PLAIN
from dialects.check import by_caffe, by_opencv, differences, weights_of
from dialects.rewrites import REWRITES
from dialects.translate import translate, write
from netgen.files import end2end_text

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / 'tests/golden/caffe_messages.tsv'
OF_A_FORK = 'roi_pooling_param', 'smooth_l1_loss_param'  # py-faster-rcnn's, in the same list


# ------------------------------------------------------------------------------------ a schema of BVLC's own


def bvlc_messages():
    """The NetParameter of BVLC Caffe alone, made of the list of its messages."""
    with open(GOLDEN, newline='') as stream:
        rows = list(csv.reader(stream, delimiter='\t', quoting=csv.QUOTE_NONE))[1:]
    file = descriptor_pb2.FileDescriptorProto(name='bvlc.proto', package='bvlc', syntax='proto2')
    messages, scalars = {}, {n.lower()[5:]: v for n, v in descriptor_pb2.FieldDescriptorProto.Type.items()}
    enums = {row[1] for row in rows if row[0] == 'enum'}

    def message(name):
        outer, _, inner = name.rpartition('.')
        if name not in messages:
            messages[name] = (message(outer).nested_type if outer else file.message_type).add(name=inner)
        return messages[name]

    for kind, name, values, number, label, typed, default in ((row + [''] * 7)[:7] for row in rows):
        if kind == 'enum':
            outer, _, inner = name.rpartition('.')
            enum = (message(outer) if outer else file).enum_type.add(name=inner)
            for pair in values.split():
                value, _, count = pair.partition('=')
                enum.value.add(name=value, number=int(count))
        elif values not in OF_A_FORK:
            described = message(name).field.add(name=values, number=int(number))
            described.label = descriptor_pb2.FieldDescriptorProto.Label.Value(f'LABEL_{label.upper()}')
            word, _, packed = typed.partition(' ')
            if word in scalars:
                described.type = scalars[word]
            else:
                described.type, described.type_name = (14 if word in enums else 11), f'.bvlc.{word}'
            if packed:
                described.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('bvlc.NetParameter'))


@pytest.fixture(scope='module')
def bvlc():
    return bvlc_messages()


def unknown(message):
    """Numbers of fields that a message's schema does not have, at any depth."""
    found = [field.field_number for field in unknown_fields.UnknownFieldSet(message)]
    for described, value in message.ListFields():
        if described.message_type:
            for inner in value if isinstance(value, object) and hasattr(value, 'add') else [value]:
                found += unknown(inner)
    return found


def read_by_bvlc(bvlc, path):
    """A written net by that schema; what is unknown to it is an error."""
    param = text_format.Parse(Path(path).read_text(), bvlc())
    weights = bvlc.FromString(Path(weights_of(path)).read_bytes())
    assert unknown(weights) == [] and {layer.name for layer in weights.layer} <= {x.name for x in param.layer}
    return param


def test_the_schema_knows_no_fork(bvlc):
    with pytest.raises(text_format.ParseError, match='roi_pooling_param'):
        text_format.Parse('layer { roi_pooling_param { pooled_h: 7 } }', bvlc())
    fork = caffe.proto.caffe_pb2.NetParameter()
    fork.layer.add(interp_param={'zoom_factor': 2})
    assert unknown(bvlc.FromString(fork.SerializeToString())) == [1002]


# ------------------------------------------------------------------------------------ layers


def net_of(folder, text, *shapes, seed=0):
    """A net of inputs a, b, ... of these shapes and a layer; its learned blobs are drawn, positive."""
    inputs = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {" ".join(f"dim: {n}" for n in shape)} }} }} }}'
        for name, shape in zip('abc', shapes)
    ]
    path = folder / 'net.prototxt'
    path.write_text('\n'.join([*inputs, text]))
    net = caffe.Net(str(path), caffe.TEST)
    rng = np.random.RandomState(seed)
    for layer in net.layers:
        for blob in layer.blobs:
            blob.data[...] = rng.rand(*blob.shape) + 0.5
    for name in net.inputs:
        net.blobs[name].data[...] = rng.randn(*net.blobs[name].shape) * 3
    return str(path), net


def layer(kind, bottoms='a', top='y', more=''):
    names = ' '.join(f'bottom: "{name}"' for name in bottoms)
    return f'layer {{ name: "x" type: "{kind}" {names} top: "{top}" {more} }}'


MAP = 2, 4, 5, 6
# layer, shapes of its bottoms, whether OpenCV reads what is written
CASES = [
    (layer('BN'), [MAP], True),
    (layer('BN', more='bn_param { bn_mode: INFERENCE }'), [MAP], True),
    (layer('BN', more='bn_param { bn_mode: LEARN }'), [MAP], False),
    (
        layer('Interp', 'ab', more='interp_param { use_blob_size: true mode: NEAREST }'),
        [MAP, (2, 1, 10, 12)],
        True,
    ),
    (
        layer('Interp', 'ab', more='interp_param { use_blob_size: true mode: NEAREST }'),
        [MAP, (2, 1, 9, 11)],
        True,
    ),
    (layer('Interp', more='interp_param { height: 15 width: 12 mode: NEAREST }'), [MAP], True),
    (layer('Interp', more='interp_param { height: 10 width: 18 align_corners: false }'), [MAP], False),
    (layer('Interp', more='interp_param { zoom_factor: 1 }'), [MAP], True),
    (layer('Upsample', more='upsample_param { scale: 3 }'), [MAP], True),
    (layer('Upsample', more='upsample_param { scale_h: 2 scale_w: 3 }'), [MAP], True),
    (layer('ReLU6'), [MAP], True),
    (layer('Clip', more='clip_param { min: -1 max: 2 }'), [MAP], True),
    (layer('HSwish'), [MAP], True),
    (layer('Mish'), [MAP], True),
    (layer('Swish', more='swish_param { beta: 1.5 }'), [MAP], True),
    (layer('Axpy', 'abc'), [(2, 4, 1, 1), MAP, MAP], False),
    (layer('ShuffleChannel', more='shuffle_channel_param { group: 2 }'), [MAP], True),
    (layer('DepthwiseConvolution', more='convolution_param { num_output: 4 kernel_size: 3 }'), [MAP], True),
    (layer('GroupNorm', more='group_norm_param { group_num: 2 }'), [MAP], False),
    (layer('GroupNorm', more='group_norm_param { group: 2 }'), [MAP], False),
    (layer('Normalize', more='norm_param { across_spatial: false channel_shared: false }'), [MAP], True),
    (layer('Normalize'), [MAP], False),
    (layer('Permute', more='permute_param { order: [0, 2, 3, 1] }'), [MAP], True),
    (layer('Permute', more='permute_param { order: [0, 2, 1, 3] }'), [(2, 1, 5, 6)], True),
    (
        layer('PriorBox', 'ab', more='prior_box_param { min_size: 30 aspect_ratio: 2 }'),
        [MAP, (2, 3, 50, 60)],
        False,
    ),
    (
        layer(
            'Pooling', more='pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR }'
        ),
        [MAP],
        True,
    ),
    (
        layer('Pooling', more='pooling_param { pool: AVE kernel_size: 2 stride: 2 ceil_mode: false }'),
        [(2, 4, 5, 7)],
        True,
    ),
    (layer('Dropout', more='dropout_param { scale_train: false }'), [MAP], True),
]


@pytest.mark.parametrize(
    'text, shapes, opencv', CASES, ids=[f'{i}-{c[0].split(chr(34))[3]}' for i, c in enumerate(CASES)]
)
def test_a_layer_in_plain_words(tmp_path, bvlc, text, shapes, opencv):
    path, net = net_of(tmp_path, text, *shapes)
    net.forward()
    found = translate(path, net)
    assert found.whole and len(found.rewritten) == 1
    (written,) = write(found, str(tmp_path / 'out'), 'net')
    param = read_by_bvlc(bvlc, written)
    assert {x.type for x in param.layer} <= PLAIN
    given = {name: net.blobs[name].data.copy() for name in net.inputs}
    wanted = net.blobs['y'].data
    ours = caffe.Net(written, caffe.TEST, weights=weights_of(written))
    read = {name: given[name] for name in ours.inputs}
    answers = [by_caffe(ours, read)] + ([by_opencv(written, read, {'y': wanted})] if opencv else [])
    for answer in answers:
        assert not isinstance(answer, str), answer
        assert answer['y'].shape == wanted.shape
        np.testing.assert_allclose(answer['y'], wanted, rtol=1e-5, atol=2e-5)


def test_every_rewritten_type_has_a_case():
    tried = {case[0].split('"')[3] for case in CASES} | {
        'BatchNorm',
        'Eltwise',
        'Concat',
        'ConvolutionDepthwise',
        'HardSwish',
    }
    assert set(REWRITES) == tried
    assert PLAIN <= set(layer_type_list())
    assert all(dialect.types <= {*layer_type_list(), 'AnnotatedData'} for dialect in DIALECTS.values())


STUCK = [
    (layer('Upsample', 'ab'), [MAP, MAP], 'puts values back'),
    (layer('Interp', more='interp_param { height: 11 width: 13 mode: NEAREST }'), [MAP], 'no whole factor'),
    (layer('Interp', more='interp_param { zoom_factor: 2 }'), [MAP], 'corners on corners'),
    (layer('Permute', more='permute_param { order: [3, 1, 2, 0] }'), [MAP], r'the order \[3, 1, 2, 0\]'),
    (layer('Eltwise', 'ab'), [(2, 4, 1, 1), (2, 4)], r'shapes \(2, 4, 1, 1\), \(2, 4\)'),
    (
        layer('ROIAlign', 'ab', more='roi_align_param { pooled_h: 2 pooled_w: 2 }'),
        [MAP, (3, 5)],
        'has no such layer',
    ),
]


@pytest.mark.parametrize('text, shapes, why', STUCK, ids=[case[2] for case in STUCK])
def test_a_layer_that_cannot_go(tmp_path, text, shapes, why):
    path, net = net_of(tmp_path, text, *shapes)
    found = translate(path, net)
    (left,) = found.stuck
    assert left.name == 'x' and found.parts == [] and left.todo
    assert re.search(why, left.why)


# ------------------------------------------------------------------------------------ whole nets


def whole(folder, name, size, dialect='bvlc'):
    """A net of models/, or of a file, with drawn weights that neither die nor grow, for pictures of this size -> net,
    Translation, paths."""
    caffe.set_random_seed(1)
    path = str(ROOT / 'models' / name)
    net = caffe.Net(path, caffe.TEST)
    rng = np.random.RandomState(0)
    for layer in net.layers:
        if layer.type == 'BatchNorm':
            for blob, value in zip(
                layer.blobs, (rng.randn(layer.blobs[0].count) * 0.1, rng.rand(layer.blobs[1].count) + 0.5, 2)
            ):
                blob.data[...] = value
        elif layer.type == 'Scale':
            layer.blobs[0].data[...] = rng.rand(layer.blobs[0].count) * 0.5 + 0.25
    to_caffe.resize(net, size)
    found = translate(path, net, dialect)
    return net, found, write(found, str(folder), 'net')


def test_a_detector_in_two_parts(tmp_path, bvlc):
    net, found, paths = whole(
        tmp_path, 'pascal_voc/ResNet-10/faster_rcnn_alt_opt/faster_rcnn_test.pt', (96, 128)
    )
    assert [left.name for left in found.stuck] == ['proposal', 'roi_pool'] and found.rewritten == []
    assert 'rpn.proposal_layer' in found.stuck[0].todo and '--dialect py-faster-rcnn' in found.stuck[1].todo
    params = [read_by_bvlc(bvlc, path) for path in paths]
    assert [list(part.inputs.values()) for part in found.parts] == [[(1, 3, 96, 128)], [(1, 128, 7, 7)]]
    assert {x.name for param in params for x in param.layer} >= {
        'conv1',
        'rpn_bbox_pred',
        'res5a_branch1',
        'cls_score',
    }
    near(found, paths, net)


def near(found, paths, net, readers=('this engine', 'OpenCV'), tolerance=1e-5):
    """Each answer of each reader is the net's, but for rounding."""
    told = [line.split() for line in differences(found, paths, net) if 'differs' in line]
    assert {' '.join(words[: words.index('differs') - 1]).rstrip(':') for words in told} == set(readers)
    for *_, difference, _, largest in told:
        assert float(difference) <= tolerance * max(float(largest), 1), told


def test_a_pyramid(tmp_path, bvlc):
    path = tmp_path / 'fpn.prototxt'
    path.write_text(end2end_text('ResNet-10-FPN', 4, 'test.prototxt'))
    net, found, paths = whole(tmp_path / 'out', path, (64, 96))
    assert ('p3_top', 'Interp', ['Deconvolution', 'Crop']) in found.rewritten and len(paths) == 2
    for path in paths:
        assert {x.type for x in read_by_bvlc(bvlc, path).layer} <= PLAIN
    near(found, paths[:1], net)


def test_a_detector_for_its_own_fork(tmp_path, bvlc):
    path = 'pascal_voc/ResNet-10/faster_rcnn_alt_opt/faster_rcnn_test.pt'
    _, found, (written,) = whole(tmp_path, path, (96, 128), 'py-faster-rcnn')
    kept, was = read_net(written).layer, read_net(str(ROOT / 'models' / path)).layer
    assert found.whole and found.rewritten == []
    assert sorted(x.SerializeToString() for x in kept if x.type != 'Input') == sorted(
        x.SerializeToString() for x in was if x.type != 'Input'
    )
    assert unknown(bvlc.FromString(Path(weights_of(written)).read_bytes())) == []  # weights are everybody's


def test_rfcn_for_its_own_fork(tmp_path):
    assert whole(tmp_path, 'pascal_voc/ResNet-10/rfcn_end2end/test_agnostic.prototxt', (96, 128), 'rfcn')[
        1
    ].whole


def test_what_a_fork_does_not_read_of_a_python_layer(tmp_path):
    text = (ROOT / 'models/pascal_voc/ResNet-10/faster_rcnn_alt_opt/rpn_test.pt').read_text()
    for more, names in (
        ("'ratios': [0.5, 1, 2]", None),
        ("'ratios': [0.3, 1, 3]", 'ratios'),
        ("'boxes': tv", 'boxes'),
    ):
        path = tmp_path / 'net.prototxt'
        path.write_text(text.replace("'feat_stride': 16", f"'feat_stride': 16 \\n{more}"))
        found = translate(str(path), caffe.Net(str(path), caffe.TEST), 'py-faster-rcnn')
        assert [left.why.endswith(f'does not read {names}') for left in found.stuck] == [True] * bool(names)


SSD = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 48 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 8 kernel_size: 3 stride: 2
  pad: 1 weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "norm" type: "Normalize" bottom: "conv" top: "norm" norm_param { across_spatial: false channel_shared: false
  scale_filler { value: 3 } } }
layer { name: "loc" type: "Convolution" bottom: "norm" top: "loc" convolution_param { num_output: 16 kernel_size: 1
  weight_filler { type: "msra" } } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "norm" top: "conf" convolution_param { num_output: 12 kernel_size: 1
  weight_filler { type: "msra" } } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "conf_rows" type: "Reshape" bottom: "conf_perm" top: "conf_rows" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "conf_prob" type: "Softmax" bottom: "conf_rows" top: "conf_prob" softmax_param { axis: 2 } }
layer { name: "conf_flat" type: "Flatten" bottom: "conf_prob" top: "conf_flat" }
layer { name: "priors" type: "PriorBox" bottom: "norm" bottom: "data" top: "priors" prior_box_param { min_size: 8 max_size: 18
  aspect_ratio: 2 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
layer { name: "found" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_flat" bottom: "priors" top: "found"
  detection_output_param { num_classes: 3 share_location: true background_label_id: 0 code_type: CENTER_SIZE keep_top_k: 9 nms_param { nms_threshold: 0.5 top_k: 20 } confidence_threshold: 0.3 } }
"""


def test_ssd_up_to_its_detections(tmp_path, bvlc):
    path = tmp_path / 'ssd.prototxt'
    path.write_text(SSD)
    caffe.set_random_seed(2)
    net = caffe.Net(str(path), caffe.TEST)
    found = translate(str(path), net)
    assert [(left.name, left.todo.split(';')[0]) for left in found.stuck] == [('found', '--dialect ssd')]
    (written,) = write(found, str(tmp_path / 'plain'), 'ssd')
    assert {x.type for x in read_by_bvlc(bvlc, written).layer} <= PLAIN
    near(found, [written], net, readers=('this engine',))
    fork = translate(str(path), net, 'ssd')
    assert fork.whole and fork.rewritten == []
    (written,) = write(fork, str(tmp_path / 'fork'), 'ssd')
    wanted = {name: net.blobs[name].data for name in ('loc_flat', 'conf_flat')}  # its priors are other ones
    answer = by_opencv(written, {'data': net.blobs['data'].data.copy()}, wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(answer[name], value, atol=1e-5 * np.abs(value).max())


def test_layers_in_place(tmp_path):
    """Stay there, unless they are rewritten, or another layer reads what was there."""
    act = 'layer { name: "act" type: "%s" bottom: "y" top: "y" }'
    power = 'layer { name: "%s" type: "Power" bottom: "%s" top: "%s" }'
    for kind, tops in ('ReLU', ['y', 'y', 'z']), ('HSwish', ['y_x', 'act_shifted', 'act_low', 'act_below']):
        text = '\n'.join((layer('Power', 'a'), act % kind, power % ('last', 'y', 'z')))
        path, net = net_of(tmp_path, text, MAP)
        found = translate(path, net)
        assert [found.names[key] for row in found.parts[0].rows for key in row.tops][: len(tops)] == tops
        near(found, write(found, str(tmp_path / 'out'), 'net'), net)
    path, net = net_of(
        tmp_path, '\n'.join((layer('Power', 'a'), power % ('early', 'y', 'w'), act % 'ReLU')), MAP
    )
    found = translate(path, net)
    assert [found.names[key] for row in found.parts[0].rows for key in row.tops] == ['y_x', 'w', 'y']


def test_shared_parameters(tmp_path):
    """Keep their name, in a rewritten layer too."""
    one = 'layer { name: "%s" type: "%s" bottom: "a" top: "%s" param { name: "w" } convolution_param { %s } }'
    shape = 'num_output: 4 kernel_size: 1 bias_term: false group: 4'
    text = '\n'.join(
        (one % ('p', 'Convolution', 'p', shape), one % ('q', 'DepthwiseConvolution', 'q', shape))
    )
    path, net = net_of(tmp_path, text, MAP)
    (written,) = write(translate(path, net), str(tmp_path / 'out'), 'net')
    assert [[spec.name for spec in x.param] for x in read_net(written).layer] == [[], ['w'], ['w']]
    assert len(caffe.Net(written, caffe.TEST, weights=weights_of(written)).learnable_params) == 1


@pytest.mark.parametrize('dialect', DIALECTS)
def test_fields_of_other_forks(tmp_path, dialect):
    loss = layer(
        'SoftmaxWithLoss', 'ab', more='loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }'
    )
    path, net = net_of(tmp_path, loss, (2, 3), (2,))
    why = [left.why.partition('know ')[2] for left in translate(path, net, dialect).stuck]
    assert (
        why == []
        if dialect == 'rfcn'
        else ['NormalizationMode.PRE_FIXED, LossParameter.pre_fixed_normalizer']
    )
    pool = layer('Pooling', more='pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }')
    path, net = net_of(tmp_path, pool, MAP)
    found = translate(path, net, dialect)
    assert bool(found.rewritten) == (dialect != 'bvlc-master')
    assert 'ceil_mode' not in str(found.parts[0].rows[0].layer)


def test_the_tool(tmp_path, monkeypatch, capsys):
    """A model's files go by its own name, with what is told of it; a folder has all."""
    text = '\n'.join(
        (layer('ReLU6'), layer('ROIAlign', 'yb', 'z', 'roi_align_param { pooled_h: 2 pooled_w: 2 }'))
    )
    path, net = net_of(tmp_path, text.replace('"x" type: "ROI', '"pool" type: "ROI'), (1, 2, 5, 6), (3, 5))
    net.save(str(tmp_path / 'net.caffemodel'))
    out = tmp_path / 'out'
    monkeypatch.setattr(
        'sys.argv',
        ['to_caffe.py', str(tmp_path / 'net.caffemodel'), '--out', str(out), '--size', '8', '9', '--check'],
    )
    to_caffe.main()
    said = capsys.readouterr().out
    assert 'net_part1.prototxt: 4 layers; inputs: a 1x2x8x9' in said
    assert (
        'In plain words: x (ReLU6): ReLU, Power, ReLU, Power' in said
        and 'Not there: pool (ROIAlign), y b -> z' in said
    )
    assert 'OpenCV: y differs by 0 of 6' in said
    assert (out / 'net.txt').read_text() in said
    assert sorted(p.name for p in out.iterdir()) == ['net.txt', 'net_part1.caffemodel', 'net_part1.prototxt']


def test_an_unknown_dialect():
    with pytest.raises(ValueError, match="unknown dialect 'caffe2'; known: bvlc, "):
        translate('', None, 'caffe2')
