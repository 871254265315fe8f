"""What the Caffes of others read: their layer types and fields, by dialect. rewrites: layers in plain words; translate: nets.

A dialect is BVLC Caffe's (PLAIN, and the fields of its schema) with what a fork adds. Fields that are no plain ones have
numbers from 1000 on within messages of our schema, those of a layer's own message are known by its type.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from caffe.registry import layer_class
from caffe.tape import repeated

PLAIN = frozenset(
    """AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Concat ContrastiveLoss Convolution Crop Data Deconvolution
    Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss Im2col ImageData
    InfogainLoss InnerProduct Input LRN Log MVN MemoryData MultinomialLogisticLoss PReLU Parameter Pooling Power ReLU
    Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence Slice Softmax SoftmaxWithLoss Split TanH Threshold
    Tile WindowData""".split()
)
FORK_FIELDS_FROM = 1000  # the number of the first one within a message
PLAIN_MESSAGES_TO = 146  # LayerParameter's messages that every dialect has


class PythonLayer(NamedTuple):
    """Keys of param_str that it reads, and {key: what it does whatever that says}."""

    reads: tuple
    fixed: dict = {}


@dataclass(frozen=True)
class Dialect:
    about: str
    types: frozenset = frozenset()  # besides PLAIN
    fields: frozenset = frozenset()  # besides the plain ones, as Message.field or Message.VALUE
    python: dict = field(default_factory=dict)  # module.Class -> PythonLayer

    def has(self, kind):
        return kind in PLAIN or kind in self.types


OF_ANCHORS = PythonLayer(('feat_stride', 'scales'), {'ratios': (0.5, 1, 2)})
PY_FASTER_RCNN = {
    'rpn.proposal_layer.ProposalLayer': OF_ANCHORS,
    'rpn.anchor_target_layer.AnchorTargetLayer': OF_ANCHORS,
    'rpn.proposal_target_layer.ProposalTargetLayer': PythonLayer(('num_classes',)),
    'roi_data_layer.layer.RoIDataLayer': PythonLayer(('num_classes',)),
}
NEWER = frozenset(('PoolingParameter.round_mode',))  # of BVLC Caffe after 1.0
RECURRENT = frozenset(('LSTM', 'LSTMUnit', 'RNN'))
RCNN_TYPES = frozenset(('ROIPooling', 'SmoothL1Loss'))
DIALECTS = {
    'bvlc': Dialect('BVLC Caffe 1.0', RECURRENT),
    'bvlc-master': Dialect(
        'BVLC Caffe (its last version)',
        RECURRENT | {'Clip', 'Swish'},
        NEWER,
    ),
    'py-faster-rcnn': Dialect(
        "py-faster-rcnn's Caffe (rbgirshick/caffe-fast-rcnn) and Python layers",
        RCNN_TYPES | RECURRENT,
        python=PY_FASTER_RCNN,
    ),
    'rfcn': Dialect(
        "R-FCN's Caffe (daijifeng001/caffe-rfcn) and py-R-FCN's Python layers",
        RCNN_TYPES | {'PSROIPooling', 'BoxAnnotatorOHEM', 'SoftmaxWithLossOHEM', 'SmoothL1LossOHEM'},
        frozenset(('LossParameter.pre_fixed_normalizer', 'NormalizationMode.PRE_FIXED')),
        PY_FASTER_RCNN,
    ),
    'ssd': Dialect(
        "SSD's Caffe (weiliu89/caffe, branch ssd)",
        frozenset(('Permute', 'PriorBox', 'DetectionOutput', 'Normalize', 'MultiBoxLoss', 'AnnotatedData')),
        frozenset(
            f'TransformationParameter.{name}'
            for name in (
                'resize_param',
                'noise_param',
                'distort_param',
                'expand_param',
                'emit_constraint',
                'crop_h',
                'crop_w',
            )
        ),
    ),
}


def foreign_fields(layer, dialect):
    """What a LayerParameter says that the dialect does not read: [Message.field or Enum.VALUE]."""
    own, found = layer_class(layer.type).messages, []
    for described, value in layer.ListFields():
        if described.number <= PLAIN_MESSAGES_TO:
            found += _foreign_within(described, value)
        elif described.name not in own:
            found.append(f'LayerParameter.{described.name}')
    return [name for name in found if name not in dialect.fields]


def _foreign_within(described, value):
    """The names within a field's value that are no plain ones."""
    many = value if repeated(described) else [value]
    if described.enum_type:
        named = [described.enum_type.values_by_number[number] for number in many]
        return [f'{described.enum_type.name}.{v.name}' for v in named if v.number >= FORK_FIELDS_FROM]
    found = []
    for message in many if described.message_type else ():
        for inner, content in message.ListFields():
            name = f'{message.DESCRIPTOR.name}.{inner.name}'
            foreign = inner.number >= FORK_FIELDS_FROM or name in NEWER
            found += [name] if foreign else _foreign_within(inner, content)
    return found
