"""The compatibility page: `python caffe-fast-rcnn/compat.py` rewrites the table in caffe-fast-rcnn/README.md.

The IGNORED tables are also what the tests allow to be left unread.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / 'python'))

from caffe.format.files import atomic_write  # noqa: E402
from caffe.proto import caffe_pb2  # noqa: E402
from caffe.registry import layer_class, layer_type_list  # noqa: E402

README = HERE / 'README.md'
MARKS = '<!-- table: python caffe-fast-rcnn/compat.py -->\n', '<!-- end of table -->\n'

_CHOICE = 'a choice of implementation'
_MOVED = 'an error says that it belongs to `transform_param`'
_OF_SOFTMAX = {
    **dict.fromkeys(('weight_by_label_freqs', 'class_weighting'), 'SegNet reads them in SoftmaxWithLoss'),
    'label_smoothing': 'SoftmaxWithLoss reads it',
}
_MOVED_FIELDS = dict.fromkeys(('scale', 'mean_file', 'crop_size', 'mirror'), _MOVED)

# Fields that no layer reads, and why.
IGNORED = {
    'engine': _CHOICE,
    'force_nd_im2col': _CHOICE,
    **dict.fromkeys(('hole', 'hole_h', 'hole_w'), 'become `dilation` when a net is read'),
    'stable_prod_grad': 'the gradient of PROD is always the stable one',
    'debug_info': 'a log of the net that the original unrolls',
}
# Fields that a type does not read, and why.
IGNORED_BY = {
    'AnnotatedData': {**_MOVED_FIELDS, 'label_map_file': 'the database holds numbers'},
    'Data': _MOVED_FIELDS,
    'ImageData': _MOVED_FIELDS,
    'WindowData': _MOVED_FIELDS,
    'DetectionOutput': dict.fromkeys(('visualize_threshold', 'save_file'), 'for `visualize`, which raises'),
    'Im2col': dict.fromkeys(
        ('num_output', 'bias_term', 'group', 'weight_filler', 'bias_filler'),
        'it rearranges and has no filters',
    ),
    'InfogainLoss': _OF_SOFTMAX,
    'MultiBoxLoss': {'ignore_label': 'the background has `background_label_id`', **_OF_SOFTMAX},
    'Python': {'share_in_parallel': 'each worker has its own net and layer'},
    'SigmoidCrossEntropyLoss': _OF_SOFTMAX,
    'SmoothL1LossOHEM': {'ignore_label': 'there are no labels', **_OF_SOFTMAX},
}

_DRAWS = 'draws other random numbers'
_ONES = 'bottoms may differ by ones at the end of their shapes'
# What else differs from the original.
NOTES = {
    'AnnotatedData': 'draws other random numbers; images are not compressed again between the steps; `noise_param`, '
    '`resize_param.prob` and its `height_scale` and `width_scale` raise',
    'BatchReindex': 'an index out of range raises',
    'Concat': 'a bottom with more axes than the first drops ones',
    'ConvolutionDeformable': '2 spatial axes; a third bottom is the mask of v2',
    'DeformableConvolution': '2 spatial axes; a third bottom is the mask of v2',
    'ModulatedDeformableConvolution': '2 spatial axes',
    'Crop': 'the second bottom may ask for a gradient, which is zero',
    'Data': 'LEVELDB needs the package plyvel; `rand_skip` and crops draw other random numbers',
    'DetectionOutput': '`visualize` raises; files of `save_output_param` have boxes to two digits',
    'DetectionEvaluate': 'an image without detections counts as one of `name_size_file` too',
    'Dropout': _DRAWS,
    'DummyData': _DRAWS,
    'Eltwise': _ONES,
    'HDF5Data': 'other orders with `shuffle`',
    'HDF5Output': 'the file appears when it is whole: at the end, or by `close()`',
    'ImageData': _DRAWS,
    'Pooling': 'STOCHASTIC ' + _DRAWS,
    'Python': 'also with several solvers; a `backward` that writes no diff means zero',
    'ROIPooling': 'forward and backward on the CPU as well',
    'SmoothL1Loss': f'forward and backward on the CPU as well; {_ONES}',
    'ROIAlign': 'means, as in Mask R-CNN; some forks take maxima',
    'SmoothL1LossOHEM': f'the gradient holds the weights, as the sum does (the same where they are 0 and 1); {_ONES}',
    'SoftmaxWithLoss': 'labels (R, L) for scores (R, K): the mean over those that count',
    'Split': 'never inserted by the net',
    'WindowData': _DRAWS,
}


def schema(message):
    """Names of the fields of LayerParameter's field `message`."""
    return list(caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name[message].message_type.fields_by_name)


def ignored(kind):
    """{field of the type's own messages that it does not honour: why}."""
    reasons = {**IGNORED, **IGNORED_BY.get(kind, {})}
    cls = layer_class(kind)
    left = [f for m in cls.messages for f in schema(m) if f not in cls.fields]
    return {f: reasons.get(f, 'unknown') for f in left}


def with_reasons(fields):
    """['`field`, `field`: reason', ...] of {field: reason}."""
    left = {}
    for field, why in fields.items():
        left.setdefault(why, []).append(f'`{field}`')
    return [f'{", ".join(names)}: {why}' for why, names in left.items()]


def row(kind):
    cls = layer_class(kind)
    module = cls.__module__.removeprefix('caffe.types.')
    notes = with_reasons(ignored(kind)) + [NOTES.get(kind, '')]
    cells = (
        kind,
        f'[{module}](python/caffe/types/{module.replace(".", "/")}.py)',
        ', '.join(f'`{m}`' for m in cls.messages),
        '; '.join(filter(None, notes)),
    )
    return f'| {" | ".join(cells)} |\n'


def table():
    head = '| type | family | parameters | not honoured, or different |\n|---|---|---|---|\n'
    rows = ''.join(row(kind) for kind in layer_type_list())
    return head + rows


def main():
    text = README.read_text()
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    with atomic_write(README) as path:
        pathlib.Path(path).write_text(before + MARKS[0] + table() + MARKS[1] + after)


if __name__ == '__main__':
    main()
