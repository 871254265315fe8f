"""The schema holds the format: messages, enums, fields of forks."""

import csv
import os

import pytest

from caffe.format.prototxt import parse_net
from caffe.proto import caffe_pb2

GOLDEN = os.path.join(os.path.dirname(__file__), '..', 'golden')


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
        'interp_param { use_blob_size: true }',
        'transform_param { scale_factors: 0.5 scale_factors: 1.5 }',
        'selu_dropout_param { dropout_ratio: 0.1 alpha: -1.758 }',
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
    layer = parse_net(f'layer {{ name: "x" type: "X" {text} }}').layer[0]
    assert len(layer.ListFields()) == 3
