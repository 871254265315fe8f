"""One or more small cases of every layer type with bottoms, and check_layer, which puts a case through all
that a layer must hold.

To cover a new type, add a line to CASES: type -> [case(bottoms, its parameters as text)].
"""

import contextlib
import dataclasses

import numpy as np
import torch

import caffe
from caffe.registry import layer_class
from helpers import data, layer, net_from

TRAIN, TEST = caffe.TRAIN, caffe.TEST


def x(*shape):
    """Values of a normal distribution."""
    return lambda rng: rng.standard_normal(shape)


def distinct(*shape):
    """Values no two of which are close, so that no maximum changes for a small step."""
    return lambda rng: (rng.permutation(np.prod(shape)).reshape(shape) / np.prod(shape) - 0.5) * 4


def positive(*shape):
    return lambda rng: rng.uniform(0.2, 2, shape)


def whole(below, *shape):
    """Whole numbers 0..below-1."""
    return lambda rng: rng.integers(0, below, shape).astype(float)


def fixed(values):
    return lambda rng: np.array(values, float)


@dataclasses.dataclass
class Case:
    bottoms: tuple
    more: str = ''
    tops: int = 1
    phases: tuple = (TRAIN, TEST)
    random: tuple = ()  # phases whose forward draws random numbers


def case(*bottoms, more='', **options):
    return Case(bottoms, more, **options)


FILL = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
CLASS_WEIGHTS = 'weight_by_label_freqs: true ' + ' '.join(f'class_weighting: {w}' for w in (1, 2, 0.5, 3, 1))
CONT = fixed([[0, 0], [1, 1], [0, 1]])
ROIS = fixed(
    [
        [0, 0, 0, 60, 40],
        [1, 16, 8, 90, 70],
        [1, 40, 40, 30, 30],
        [0, 300, 300, 400, 400],
        [0, 23, 7.9, 24, 40.1],
    ]
)

CASES = {
    'AbsVal': [case(x(2, 3, 4))],
    'Accuracy': [
        case(x(6, 5), whole(5, 6)),
        case(x(2, 5, 3), whole(5, 2, 3), more='accuracy_param { top_k: 2 ignore_label: 1 }', tops=2),
    ],
    'ArgMax': [
        case(x(2, 3, 4)),
        case(x(2, 3, 4), more='argmax_param { top_k: 2 out_max_val: true }'),
        case(x(2, 3, 4), more='argmax_param { top_k: 2 axis: -1 out_max_val: true }'),
    ],
    'BNLL': [case(x(2, 3, 4))],
    'BatchNorm': [
        case(x(3, 4, 2, 5)),
        case(x(5, 3)),
        case(x(6)),
        case(x(3, 2, 2, 3, 2)),
        case(
            x(3, 4, 2),
            more='batch_norm_param { use_global_stats: false eps: 0.01 moving_average_fraction: 0.9 }',
        ),
    ],
    'BatchReindex': [case(x(4, 3, 2), whole(4, 6))],
    'Bias': [
        case(x(2, 3, 4), more='bias_param { filler { type: "gaussian" } }'),
        case(x(2, 3, 4), x(3, 4)),
        case(x(2, 3), more='bias_param { axis: 0 num_axes: -1 }'),
        case(x(2, 3), more='bias_param { num_axes: 0 }'),
    ],
    'Clip': [case(x(2, 3, 4), more='clip_param { min: -0.5 max: 0.7 }')],
    'Concat': [
        case(x(2, 3, 4), x(2, 1, 4), x(2, 2, 4)),
        case(x(2, 3), x(1, 3), more='concat_param { axis: -2 }'),
        case(x(1, 2, 3), x(1, 2, 1), more='concat_param { concat_dim: 2 }'),
    ],
    'ContrastiveLoss': [
        case(x(6, 4), x(6, 4), whole(2, 6), more='contrastive_loss_param { margin: 3 }'),
        case(x(6, 4), x(6, 4), whole(2, 6), more='contrastive_loss_param { margin: 9 legacy_version: true }'),
    ],
    'Convolution': [
        case(
            x(2, 4, 6, 5),
            more='convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 %s }' % FILL,
        ),
        case(
            x(2, 3, 7),
            x(1, 3, 6),
            tops=2,
            more='convolution_param { num_output: 2 kernel_size: 3 dilation: 2 %s }' % FILL,
        ),
        case(
            x(2, 3, 2, 5, 4),
            more='convolution_param { axis: 2 num_output: 3 kernel_h: 2 kernel_w: 3 pad_w: 1 '
            'bias_term: false %s }' % FILL,
        ),
        case(x(2, 3), more='convolution_param { num_output: 3 %s }' % FILL),
        case(
            x(1, 4, 3, 4, 3, 4),
            more='convolution_param { num_output: 2 kernel_size: 2 stride: 1 stride: 2 stride: 1 stride: 2 '
            'pad: 1 group: 2 %s }' % FILL,
        ),
    ],
    'Crop': [
        case(x(2, 3, 6, 7), x(2, 3, 4, 4), more='crop_param { offset: 1 offset: 3 }'),
        case(x(2, 3, 6), x(1, 2, 5), more='crop_param { axis: 0 offset: 1 }'),
    ],
    'Deconvolution': [
        case(
            x(2, 4, 3, 4),
            more='convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 %s }' % FILL,
        ),
        case(
            x(2, 3, 4),
            more='convolution_param { num_output: 2 kernel_size: 3 dilation: 2 bias_term: false %s }' % FILL,
        ),
        case(
            x(1, 4, 2, 3, 2, 2),
            more='convolution_param { num_output: 2 kernel_size: 2 stride: 2 pad: 1 group: 2 %s }' % FILL,
        ),
    ],
    'Dropout': [
        case(x(4, 5), more='dropout_param { dropout_ratio: 0.4 }', random=(TRAIN,)),
        case(x(4, 5), more='dropout_param { dropout_ratio: 0.4 scale_train: false }', random=(TRAIN,)),
    ],
    'ELU': [case(x(2, 3, 4), more='elu_param { alpha: 0.7 }')],
    'Eltwise': [
        case(x(2, 3), x(2, 3), x(2, 3), more='eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }'),
        case(x(2, 3), x(2, 3)),
        case(x(2, 3), x(2, 3), x(2, 3), more='eltwise_param { operation: PROD }'),
        case(x(2, 3), x(2, 3), x(2, 3), more='eltwise_param { operation: MAX }'),
    ],
    'Embed': [
        case(whole(7, 3, 4), more='embed_param { num_output: 5 input_dim: 7 %s }' % FILL),
        case(whole(7, 3), more='embed_param { num_output: 5 input_dim: 7 bias_term: false %s }' % FILL),
    ],
    'EuclideanLoss': [case(x(4, 3), x(4, 3))],
    'Exp': [case(x(2, 3, 4)), case(x(2, 3), more='exp_param { base: 2 scale: 0.5 shift: 1 }')],
    'Filter': [case(x(4, 3), x(4, 2), fixed([0, 1, 1, 0]), tops=2)],
    'Flatten': [case(x(2, 3, 4, 2)), case(x(2, 3, 4, 2), more='flatten_param { axis: 1 end_axis: -2 }')],
    'HingeLoss': [
        case(x(6, 5), whole(5, 6)),
        case(x(6, 5), whole(5, 6), more='hinge_loss_param { norm: L2 }'),
    ],
    'Im2col': [
        case(x(2, 2, 5, 6), more='convolution_param { kernel_size: 3 pad: 1 stride: 2 }'),
        case(x(2, 2, 7), more='convolution_param { kernel_size: 2 dilation: 3 }'),
    ],
    'InfogainLoss': [
        case(x(6, 5), whole(5, 6), positive(1, 1, 5, 5)),
        case(
            x(2, 5, 3),
            whole(5, 2, 3),
            positive(5, 5),
            more='loss_param { ignore_label: 2 normalization: FULL }',
            tops=2,
        ),
    ],
    'InnerProduct': [
        case(x(3, 4, 2), more='inner_product_param { num_output: 5 %s }' % FILL),
        case(
            x(3, 4, 2),
            more='inner_product_param { num_output: 5 axis: -1 transpose: true bias_term: false %s }' % FILL,
        ),
    ],
    'LRN': [
        case(x(2, 7, 3, 4), more='lrn_param { local_size: 5 alpha: 0.3 beta: 0.6 k: 2 }'),
        case(x(2, 3, 6, 5), more='lrn_param { local_size: 3 alpha: 0.3 norm_region: WITHIN_CHANNEL }'),
    ],
    'LSTM': [
        case(x(3, 2, 4), CONT, more='recurrent_param { num_output: 3 %s }' % FILL),
        case(
            x(3, 2, 4),
            CONT,
            x(2, 5),
            x(1, 2, 3),
            x(1, 2, 3),
            tops=3,
            more='recurrent_param { num_output: 3 expose_hidden: true %s }' % FILL,
        ),
    ],
    'LSTMUnit': [case(x(1, 2, 3), x(1, 2, 12), fixed([[1, 0]]), tops=2)],
    'Log': [case(positive(2, 3, 4)), case(x(2, 3), more='log_param { base: 10 scale: 0.1 shift: 2 }')],
    'MVN': [
        case(x(2, 3, 4, 2)),
        case(x(2, 3, 4), more='mvn_param { across_channels: true }'),
        case(x(2, 3, 4), more='mvn_param { normalize_variance: false }'),
    ],
    'MultinomialLogisticLoss': [case(positive(6, 5), whole(5, 6))],
    'PReLU': [
        case(x(2, 3, 4)),
        case(x(2, 3), more='prelu_param { channel_shared: true filler { value: 0.4 } }'),
    ],
    'Pooling': [
        case(distinct(2, 3, 7, 8), more='pooling_param { kernel_size: 3 stride: 2 }', tops=2),
        case(
            distinct(2, 3, 7, 8),
            more='pooling_param { kernel_size: 3 stride: 2 pad: 2 ceil_mode: false }',
            tops=2,
        ),
        case(x(2, 3, 7, 8), more='pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 }'),
        case(
            x(2, 3, 7, 8),
            more='pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 2 round_mode: FLOOR }',
        ),
        case(x(2, 3, 4, 5), more='pooling_param { pool: AVE global_pooling: true }'),
        case(
            positive(2, 3, 5, 6),
            more='pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 }',
            random=(TRAIN,),
        ),
    ],
    'Power': [
        case(x(2, 3), more='power_param { scale: 2 shift: 1 }'),
        case(positive(2, 3), more='power_param { power: -1.5 scale: 2 shift: 1 }'),
        case(x(2, 3), more='power_param { power: 3 }'),
    ],
    'RNN': [
        case(x(3, 2, 4), CONT, more='recurrent_param { num_output: 3 %s }' % FILL),
        case(
            x(3, 2, 4),
            CONT,
            x(2, 5),
            x(1, 2, 3),
            tops=2,
            more='recurrent_param { num_output: 3 expose_hidden: true %s }' % FILL,
        ),
    ],
    'ROIPooling': [
        case(
            distinct(2, 3, 5, 6),
            ROIS,
            more='roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.0625 }',
        )
    ],
    'ReLU': [case(x(2, 3, 4)), case(x(2, 3, 4), more='relu_param { negative_slope: 0.1 }')],
    'Reduction': [
        case(x(2, 3, 4)),
        case(x(2, 3, 4), more='reduction_param { operation: MEAN axis: 1 coeff: 2 }'),
        case(x(2, 3, 4), more='reduction_param { operation: ASUM axis: -1 }'),
        case(x(2, 3, 4), more='reduction_param { operation: SUMSQ axis: 2 coeff: -1 }'),
    ],
    'Reshape': [
        case(x(2, 6, 4), more='reshape_param { shape { dim: 0 dim: 3 dim: -1 dim: 2 } }'),
        case(x(2, 6, 4), more='reshape_param { shape { dim: 2 dim: 2 } axis: -2 num_axes: 1 }'),
        case(x(2, 6), more='reshape_param { shape { dim: 1 dim: 1 } axis: -1 num_axes: 0 }'),
    ],
    'SPP': [
        case(distinct(2, 3, 9, 7), more='spp_param { pyramid_height: 3 }'),
        case(x(2, 3, 4, 5), more='spp_param { pyramid_height: 1 pool: AVE }'),
        case(positive(1, 2, 4, 8), more='spp_param { pyramid_height: 2 pool: STOCHASTIC }', random=(TRAIN,)),
    ],
    'Scale': [
        case(
            x(2, 3, 4),
            more='scale_param { filler { type: "gaussian" } bias_term: true bias_filler { value: 2 } }',
        ),
        case(x(2, 3, 4), x(3, 4)),
        case(x(2, 3, 4), x(2), more='scale_param { axis: 0 bias_term: true }'),
        case(x(2, 3), more='scale_param { axis: -1 }'),
        case(x(2, 3), more='scale_param { num_axes: 0 }'),
    ],
    'Sigmoid': [case(x(2, 3, 4))],
    'SigmoidCrossEntropyLoss': [
        case(x(4, 5), whole(2, 4, 5)),
        case(x(4, 5), whole(3, 4, 5), more='loss_param { ignore_label: 2 normalization: VALID }'),
    ],
    'Silence': [case(x(2, 3), x(4), tops=0)],
    'Slice': [
        case(x(2, 6, 3), tops=3),
        case(x(5, 2), more='slice_param { axis: 0 slice_point: 1 slice_point: 3 }', tops=3),
        case(x(2, 3, 4), more='slice_param { slice_dim: 2 }', tops=2),
    ],
    'SmoothL1Loss': [
        case(x(4, 8), x(4, 8)),
        case(x(4, 8), x(4, 8), positive(4, 8), positive(4, 8), more='smooth_l1_loss_param { sigma: 3 }'),
    ],
    'Softmax': [case(x(2, 5, 3)), case(x(2, 3, 4), more='softmax_param { axis: -1 }')],
    'SoftmaxWithLoss': [
        case(x(4, 5), whole(5, 4)),
        case(x(2, 5, 3), whole(5, 2, 3), tops=2, more='loss_param { ignore_label: 1 }'),
        case(x(2, 3, 4), whole(4, 2, 3), more='softmax_param { axis: 2 } loss_param { normalization: NONE }'),
        case(x(2, 5, 3), whole(5, 2, 3), more='loss_param { normalize: false }'),
        case(x(2, 5, 3), whole(5, 2, 3), more='loss_param { normalization: FULL ignore_label: 0 }'),
        case(
            x(2, 5, 3), whole(5, 2, 3), more='loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }'
        ),
        case(x(2, 5, 3), whole(5, 2, 3), more=f'loss_param {{ {CLASS_WEIGHTS} }}'),
        case(x(2, 5, 3), whole(5, 2, 3), more='loss_param { label_smoothing: 0.2 ignore_label: 1 }'),
    ],
    'Split': [case(x(2, 3), tops=3)],
    'Swish': [case(x(2, 3, 4), more='swish_param { beta: 1.3 }')],
    'TanH': [case(x(2, 3, 4))],
    'Threshold': [case(x(2, 3, 4), more='threshold_param { threshold: 0.2 }')],
    'Tile': [
        case(x(2, 3, 4), more='tile_param { tiles: 3 }'),
        case(x(2, 3), more='tile_param { axis: -1 tiles: 2 }'),
    ],
}


@contextlib.contextmanager
def mode(device):
    """Nets compute on 'cpu' or 'gpu' for a while."""
    on = {'cpu': caffe.set_mode_cpu, 'gpu': caffe.set_mode_gpu}
    before = caffe.common.device().type
    on[device]()
    try:
        yield
    finally:
        on['gpu' if before == 'cuda' else 'cpu']()


BY_VALUE = {
    'Filter',
    'DetectionEvaluate',
    'DetectionOutput',
    'Proposal',
}  # types whose top shape is a matter of values


def differentiable(kind, bottoms):
    return set(layer_class(kind).nondiff) != set(range(bottoms))


def names(letter, count):
    return ' '.join(f'{letter}{i}' for i in range(count))


def build(kind, it, values, phase, folder):
    """A net of one layer L with bottoms b0, ... and tops t0, ..."""
    text = 'force_backward: true\n' if differentiable(kind, len(values)) else ''
    text += ''.join(data(f'b{i}', *v.shape) for i, v in enumerate(values))
    weights = ' '.join(['loss_weight: 1'] * it.tops)
    text += layer('L', kind, names('b', len(values)), names('t', it.tops), more=f'{it.more} {weights}')
    return net_from(folder, text, phase)


def params(net):
    return net.params.get('L', [])


def fill(blobs, arrays):
    for blob, array in zip(blobs, arrays):
        blob.data[...] = array


def run(net, values, diffs=None):
    """(tops, bottom diffs, parameter diffs) after forward and, with diffs for the tops, backward."""
    torch.manual_seed(5)
    bottoms = [net.blobs[f'b{i}'] for i in range(len(values))]
    fill(bottoms, values)
    net.forward()
    tops = [b.data.copy() for name, b in net.blobs.items() if name[0] == 't']
    if diffs is None:
        return tops, [], []
    for i, d in enumerate(diffs):
        net.blobs[f't{i}'].diff[...] = d
    net.backward()
    return tops, [b.diff.copy() for b in bottoms], [p.diff.copy() for p in params(net)]


def same(answer, other, rtol, atol):
    for a, b in zip(answer, other):
        for p, q in zip(a, b):
            np.testing.assert_allclose(p, q, rtol=rtol, atol=atol)


def identical(answer, other):
    """Whether two answers, or one and None, are the same to the last bit."""
    return other is not None and all(map(np.array_equal, sum(answer, []), sum(other, [])))


CHECKED = {}  # (type, a case's id): the answer whose gradient was checked last


def check_layer(kind, it, phase, folder):
    """Meta shape = real shape; bottoms left alone; backward = gradient of compute, and that = differences,
    both in float64; save and reload; CPU = GPU where there is one. Where a phase answers as the one before did, to the last
    bit, differences have been taken."""
    rng = np.random.default_rng(7)
    values = [make(rng).astype(np.float32) for make in it.bottoms]
    caffe.set_random_seed(7)
    net = build(kind, it, values, phase, folder)
    before = [p.data.copy() for p in params(net)]
    tops = check_shapes(net, kind, values)
    for i, v in enumerate(values):
        assert (net.blobs[f'b{i}'].data == v).all(), f'bottom {i} was changed'
    diffs = None
    if differentiable(kind, len(values)):
        diffs = [rng.standard_normal(t.shape).astype(np.float32) for t in tops]
    fill(params(net), before)
    answer = run(net, values, diffs)
    one, here = net.layer_dict['L'], 'cpu' if caffe.common.device().type == 'cpu' else 'gpu'
    apart = one.draws and here != 'cpu'  # devices draw different numbers
    if diffs and not identical(answer, CHECKED.get((kind, id(it)))):
        with mode('cpu'):
            check_gradient(one, values, before, diffs, answer, phase not in it.random and not apart)
        CHECKED[kind, id(it)] = answer
    fill(params(net), before)
    weights = str(folder / 'w.caffemodel')
    net.save(weights)
    for device in ['cpu'] + ['gpu'] * (torch.cuda.is_available() and phase not in it.random):
        with mode(device):
            other = build(kind, it, values, phase, folder)
            other.copy_from(weights)
            for a, b in zip(before, params(other)):
                np.testing.assert_array_equal(a, b.data)
            found = run(other, values, diffs)
            if not apart or device == here:
                same(found, answer, *((1e-5, 1e-6) if device == here else (1e-4, 1e-5)))


def check_shapes(net, kind, values):
    """Shapes inferred before the first forward pass and by reshape() are those of the tops, which it
    returns."""
    tops = [blob for name, blob in net.blobs.items() if name[0] == 't']
    inferred = [t.shape for t in tops]
    arrays, _, _ = run(net, values)
    if kind not in BY_VALUE:
        assert [a.shape for a in arrays] == inferred
        net.reshape()
        assert [t.shape for t in tops] == inferred
    return arrays


def check_gradient(one, values, blobs, diffs, answer, exact):
    """one: the layer; answer: what its net gave in float32 for `diffs` on its tops."""

    def double(array, learn):
        return torch.tensor(array, dtype=torch.float64, requires_grad=learn)

    specs = one.layer_param.param  # BatchNorm's blobs are fixed by their lr_mult
    bottoms = [double(v, i not in one.nondiff) for i, v in enumerate(values)]
    weights = [double(b, i >= len(specs) or specs[i].lr_mult != 0) for i, b in enumerate(blobs)]

    def compute(*tensors):
        torch.manual_seed(5)
        one.weights = list(tensors[len(bottoms) :])
        tops = one.compute(*tensors[: len(bottoms)])
        return tuple(t for t in (tops if isinstance(tops, tuple) else (tops,)) if t.requires_grad)

    outputs = compute(*bottoms, *weights)
    if not outputs:
        assert all((d == 0).all() for d in answer[1] + answer[2])
        return
    assert torch.autograd.gradcheck(compute, (*bottoms, *weights), eps=1e-6, atol=1e-5, rtol=2e-3)
    if exact:
        wanted = [t for t in bottoms + weights if t.requires_grad]
        roots = [double(d, False) for d in diffs[: len(outputs)]]
        grads = torch.autograd.grad(outputs, wanted, roots, allow_unused=True)
        grads = {id(t): 0.0 if g is None else g.numpy() for t, g in zip(wanted, grads)}
        for t, diff in zip(bottoms + weights, answer[1] + answer[2]):
            want = np.broadcast_to(grads.get(id(t), 0.0), diff.shape)
            np.testing.assert_allclose(diff, want, rtol=1e-3, atol=2e-5)
