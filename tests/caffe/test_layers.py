"""Every layer type through one harness (layer_cases.check_layer), and each type's own edges."""

import importlib

import h5py
import numpy as np
import pytest
import torch

import caffe
from caffe import registry
from caffe.types import conv
import fork_cases
import layer_cases
from helpers import data, layer, net_from
from layer_cases import TEST, TRAIN, build, check_layer, run

CASES = {**layer_cases.CASES, **fork_cases.CASES}

SOURCES = {'DummyData', 'HDF5Data', 'Input', 'Parameter'}  # without bottoms; tests of their own below
SOURCES |= {'Data', 'HDF5Output', 'ImageData', 'MemoryData', 'WindowData'}  # tests in test_sources.py
SOURCES |= {'AnnotatedData'}  # tests in test_annotated.py
SOURCES |= {'Python'}  # the user's classes; tests in test_net.py and test_pycaffe_surface.py
ALL = [(kind, i, phase) for kind, cases in CASES.items() for i, it in enumerate(cases) for phase in it.phases]


def answer(tmp_path, kind, values, more='', tops=1, phase=TRAIN, diffs=None):
    """(tops, bottom diffs, parameter diffs) of one layer."""
    values = [np.asarray(v, np.float32) for v in values]
    net = build(kind, type('It', (), {'more': more, 'tops': tops}), values, phase, tmp_path)
    return run(net, values, diffs)


@pytest.mark.parametrize('kind, i, phase', ALL, ids=[f'{k}-{i}-{p}' for k, i, p in ALL])
def test_layer(kind, i, phase, tmp_path):
    check_layer(kind, CASES[kind][i], phase, tmp_path)


def test_every_type_has_a_case():
    assert set(caffe.layer_type_list()) - SOURCES == set(CASES)


BAD = [
    ('Convolution', [(1, 3, 4, 4)], 'convolution_param { kernel_size: 3 }', 'num_output'),
    ('Convolution', [(1, 3, 4, 4)], 'convolution_param { num_output: 2 }', 'kernel_size'),
    (
        'Convolution',
        [(1, 3, 4, 4)],
        'convolution_param { num_output: 2 kernel_size: 3 group: 2 }',
        'group 2 .* 3 channels',
    ),
    (
        'Convolution',
        [(1, 3, 4, 4)],
        'convolution_param { num_output: 2 kernel_size: 3 kernel_h: 2 kernel_w: 2 }',
        'exclude kernel_size',
    ),
    (
        'Convolution',
        [(1, 3, 4, 4)],
        'convolution_param { num_output: 2 kernel_size: 1 stride: 1 stride: 2 stride: 3 }',
        'stride has 3 .* 1 or 2',
    ),
    ('InnerProduct', [(2, 3)], '', 'num_output'),
    ('InnerProduct', [(2, 3)], 'inner_product_param { num_output: 2 axis: 2 }', 'axis 2 does not exist'),
    ('Pooling', [(1, 1, 4, 4)], '', 'kernel_size'),
    ('Pooling', [(1, 1, 4, 4)], 'pooling_param { kernel_size: 2 pad: 2 }', 'pad 2 .* kernel, 2'),
    ('Pooling', [(1, 4, 4)], 'pooling_param { kernel_size: 2 }', '4 axes'),
    (
        'Pooling',
        [(1, 1, 4, 4)],
        'pooling_param { kernel_size: 2 global_pooling: true }',
        'global_pooling excludes',
    ),
    ('Concat', [(2, 3), (3, 3)], '', r'\(2, 3\), \(3, 3\)'),
    ('Eltwise', [(2, 3), (2, 1)], '', r'shape of the first, \(2, 3\); got \(2, 1\)'),
    ('Eltwise', [(2, 3), (2, 3)], 'eltwise_param { operation: PROD coeff: 1 coeff: 1 }', 'coeff is for SUM'),
    ('Slice', [(2, 5)], 'slice_param { slice_point: 5 }', 'slice_points'),
    ('Reshape', [(2, 5)], 'reshape_param { shape { dim: 3 dim: -1 } }', '10 elements'),
    ('Reshape', [(2, 6)], 'reshape_param { shape { dim: -1 dim: -1 } }', '12 elements'),
    ('Reshape', [(2, 6)], 'reshape_param { shape { dim: 2 dim: 5 } }', '12 elements do not fit'),
    ('Crop', [(1, 1, 4, 4), (1, 1, 3, 3)], 'crop_param { offset: 2 }', 'from 2 to 5'),
    ('LRN', [(1, 4, 2, 2)], 'lrn_param { local_size: 4 }', 'odd'),
    ('Scale', [(2, 3, 4), (4,)], '', r'shape \(4,\), the bottom from axis 1 on \(3,\)'),
    ('Dropout', [(2, 3)], 'dropout_param { dropout_ratio: 1 }', 'dropout_ratio'),
    ('SoftmaxWithLoss', [(2, 3), (3,)], '', '2 labels; got 3'),
    ('SmoothL1Loss', [(2, 3), (2, 3), (2, 3)], '', '2 or 4 bottoms'),
    ('SmoothL1Loss', [(2, 3), (2, 4)], '', r'\(2, 4\)'),
    ('Accuracy', [(2, 3), (2,)], 'accuracy_param { top_k: 4 }', 'top_k 4'),
    ('ROIPooling', [(1, 2, 4, 4), (3, 4)], 'roi_pooling_param { pooled_h: 2 pooled_w: 2 }', 'rows of 5'),
    ('ROIPooling', [(1, 2, 4, 4), (3, 5)], '', 'pooled_h'),
    ('Tile', [(2, 3)], '', 'tiles'),
    ('BatchNorm', [(2, 3)], 'param { lr_mult: 1 }', 'lr_mult 0'),
    ('LSTM', [(3, 2, 4), (2, 3)], 'recurrent_param { num_output: 3 }', 'cont'),
]


@pytest.mark.parametrize('kind, shapes, more, wanted', BAD)
def test_bad_parameters(kind, shapes, more, wanted, tmp_path):
    with pytest.raises(ValueError, match=wanted):
        answer(tmp_path, kind, [np.zeros(s) for s in shapes], more)


def test_errors_name_the_layer(tmp_path):
    wanted = r"layer 'L' \(Eltwise\), bottom shapes \(2, 3\), \(2, 1\): all bottoms must"
    with pytest.raises(ValueError, match=wanted):
        answer(tmp_path, 'Eltwise', [np.zeros((2, 3)), np.zeros((2, 1))])


@pytest.mark.parametrize(
    'kind, labels, bad',
    [
        ('SoftmaxWithLoss', [0, 3], 3),
        ('SoftmaxWithLoss', [-1, 0], -1),
        ('HingeLoss', [0, 3], 3),
        ('BatchReindex', [2], 2),
        ('Accuracy', [0, 3], 3),
        ('MultinomialLogisticLoss', [0, -1], -1),
    ],
)
def test_labels_out_of_range(kind, labels, bad, tmp_path):
    with pytest.raises(ValueError, match=f'{bad} is not in 0..'):
        answer(tmp_path, kind, [np.ones((2, 3)), labels])


def learned(*shapes):
    """Parameter layers b0, b1, ...: whatever takes them is asked for their gradient."""
    return ''.join(
        f'layer {{ name: "b{i}" type: "Parameter" top: "b{i}" parameter_param {{ shape {{ '
        + ' '.join(f'dim: {d}' for d in shape)
        + ' } } }\n'
        for i, shape in enumerate(shapes)
    )


@pytest.mark.parametrize(
    'kind, shapes, more, without',
    [
        ('SmoothL1Loss', [(2, 3)] * 4, '', (2, 3)),
        ('Crop', [(1, 1, 4, 4), (1, 1, 2, 2)], '', (1,)),
        ('ROIPooling', [(1, 2, 6, 6), (3, 5)], 'roi_pooling_param { pooled_h: 2 pooled_w: 2 }', (1,)),
        ('ContrastiveLoss', [(3, 2), (3, 2), (3,)], '', (2,)),
    ],
)
def test_bottoms_whose_gradient_is_zero(kind, shapes, more, without, tmp_path):
    """As in joint training, where RoIs and weights depend on what is learned."""
    bottoms = ' '.join(f'b{i}' for i in range(len(shapes)))
    text = learned(*shapes) + layer('L', kind, bottoms, more=f'{more} loss_weight: 1')
    net = net_from(tmp_path, text, TRAIN)
    for i, shape in enumerate(shapes):
        rois = kind == 'ROIPooling' and i
        net.params[f'b{i}'][0].data[...] = 0 if rois else np.random.default_rng(i).uniform(1, 2, shape)
        net.params[f'b{i}'][0].diff[...] = 7
    net.forward()
    net.backward()
    for i in range(len(shapes)):
        assert (net.blobs[f'b{i}'].diff != 0).any() == (i not in without)


def test_labels_take_no_gradient(tmp_path):
    net = net_from(tmp_path, learned((2, 3), (2,)) + layer('L', 'SoftmaxWithLoss', 'b0 b1'), TRAIN)
    net.forward()
    with pytest.raises(ValueError, match=r"'L' \(SoftmaxWithLoss\) cannot propagate .* bottom 1"):
        net.backward()


# Activations


@pytest.mark.parametrize('scale_train', [True, False])
def test_dropout_keeps_the_mean(scale_train, tmp_path):
    more = f'dropout_param {{ dropout_ratio: 0.25 scale_train: {str(scale_train).lower()} }}'
    ones = np.ones((100, 200), np.float32)
    (y,), (dx,), _ = answer(tmp_path, 'Dropout', [ones], more, diffs=[ones])
    kept = 1 if not scale_train else 1 / 0.75
    assert set(np.unique(y)) == {0, np.float32(kept)} and abs((y > 0).mean() - 0.75) < 0.01
    np.testing.assert_array_equal(dx, y)
    (y,), _, _ = answer(tmp_path, 'Dropout', [ones], more, phase=TEST)
    np.testing.assert_allclose(y, 1 if scale_train else 0.75)


@pytest.mark.parametrize('power, want', [(0, 1), (1, 5), (2, 25)])
def test_power_of_whole_numbers(power, want, tmp_path):
    (y,), _, _ = answer(tmp_path, 'Power', [[2.0]], f'power_param {{ power: {power} scale: 2 shift: 1 }}')
    assert y == want


# Convolution


def test_four_spatial_axes_agree_with_a_loop():
    rng = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=rng) for s in ((1, 4, 4, 3, 5, 4), (6, 2, 2, 1, 3, 2), (6,)))
    stride, pad, dilation = (1, 2, 2, 1), (1, 0, 1, 0), (2, 1, 1, 3)
    y = conv.convolve(x, w, b, stride, pad, dilation, 2)
    padded = torch.nn.functional.pad(x, [p for p in reversed(pad) for _ in range(2)])
    want = torch.empty_like(y)
    for at in np.ndindex(*y.shape[2:]):
        places = zip(at, stride, dilation, w.shape[2:])
        cut = (slice(a * s, a * s + d * (k - 1) + 1, d) for a, s, d, k in places)
        patch = padded[(slice(None), slice(None), *cut)]
        for o in range(6):
            g = o // 3
            want[(0, o, *at)] = (patch[0, 2 * g : 2 * g + 2] * w[o]).sum() + b[o]
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)


def test_deconvolution_over_four_axes_is_the_transpose():
    """<conv(x), y> = <x, deconv(y)> for the same filters."""
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(6, 2, 2, 3, 2, 2, generator=rng)
    how = (1, 2, 2, 1), (1, 1, 0, 0), (2, 1, 1, 1), 2
    x = torch.randn(1, 4, 4, 5, 6, 3, generator=rng)
    y = conv.convolve(x, w, None, *how)
    back = torch.randn(y.shape, generator=rng)
    spread = conv.deconvolve(back, w, None, *how)
    assert spread.shape == x.shape
    torch.testing.assert_close((y * back).sum(), (x * spread).sum(), rtol=1e-4, atol=1e-3)


# Normalisation


def test_batch_norm_averages(tmp_path):
    """Two passes: sums are multiplied by the fraction before each addition; the variance is the unbiased
    one."""
    values = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32) * 3 + 1
    text = layer('L', 'BatchNorm', 'b0', more='batch_norm_param { moving_average_fraction: 0.9 }')
    net = net_from(tmp_path, data('b0', 3, 2, 4) + text, TRAIN)
    for _ in range(2):
        net.forward(b0=values)
    mean, var, weight = (p.data for p in net.params['L'])
    flat = values.transpose(1, 0, 2).reshape(2, -1)
    assert np.allclose(weight, 1.9)
    np.testing.assert_allclose(mean, 1.9 * flat.mean(1), rtol=1e-5)
    np.testing.assert_allclose(var, 1.9 * flat.var(1, ddof=1), rtol=1e-5)
    assert net.params_lr == [0, 0, 0]
    net.save(str(tmp_path / 'w.caffemodel'))
    test = caffe.Net(str(tmp_path / 'net.prototxt'), caffe.TEST, weights=str(tmp_path / 'w.caffemodel'))
    y = test.forward(b0=values)['L']
    want = (values - flat.mean(1)[:, None]) / np.sqrt(flat.var(1, ddof=1) + 1e-5)[:, None]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    assert np.allclose(test.params['L'][2].data, 1.9), 'test must not touch the averages'


def test_batch_norm_of_one_value(tmp_path):
    (y,), _, _ = answer(tmp_path, 'BatchNorm', [[[3.0, 4.0]]])
    np.testing.assert_allclose(y, 0, atol=1e-4)


def test_batch_norm_without_statistics(tmp_path):
    """A weight of 0 in the file means no statistics: mean and variance 0."""
    (y,), _, _ = answer(tmp_path, 'BatchNorm', [[[3.0, 4.0]]], 'batch_norm_param { eps: 0.25 }', phase=TEST)
    np.testing.assert_allclose(y, [[6, 8]])


def test_mvn_of_a_constant_has_a_finite_gradient(tmp_path):
    (y,), (dx,), _ = answer(tmp_path, 'MVN', [np.ones((1, 1, 2, 2))], diffs=[np.ones((1, 1, 2, 2))])
    assert (y == 0).all() and np.isfinite(dx).all()


# Elements


def test_eltwise_max_ties(tmp_path):
    """Of equal bottoms the second gets the gradient, a third only when it is larger."""
    bottoms = [1.0, 2.0], [1.0, 2.0], [1.0, 3.0]
    _, diffs, _ = answer(tmp_path, 'Eltwise', bottoms, 'eltwise_param { operation: MAX }', diffs=[np.ones(2)])
    np.testing.assert_array_equal(diffs, [[0, 0], [1, 0], [0, 1]])


def test_argmax_ties_take_the_last(tmp_path):
    scores = [[[1.0, 5.0, 2.0, 5.0]]]
    (y,), _, _ = answer(tmp_path, 'ArgMax', scores, 'argmax_param { top_k: 3 out_max_val: true }')
    np.testing.assert_array_equal(y, [[[3, 1, 2], [5, 5, 2]]])


def test_filter(tmp_path):
    rows = np.arange(8.0).reshape(4, 2)
    net = net_from(tmp_path, data('a', 4, 2) + data('s', 4) + layer('L', 'Filter', 'a s'), TEST)
    assert net.blobs['L'].shape == (4, 2)
    for selector in ([0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]):
        y = net.forward(a=rows, s=np.array(selector, np.float32))['L']
        np.testing.assert_array_equal(y, rows[np.array(selector) != 0])
        net.reshape()
        assert net.blobs['L'].shape == y.shape


# Losses


def softmax(scores):
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(
    'param, divisor',
    [
        ('', 5),
        ('normalization: FULL', 6),
        ('normalization: BATCH_SIZE', 2),
        ('normalization: NONE', 1),
        ('normalize: false', 2),
        ('normalize: true', 5),
        ('normalization: FULL normalize: false', 6),
        ('normalization: VALID normalize: false', 5),
    ],
)
def test_softmax_loss_normalizations(param, divisor, tmp_path):
    scores = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    labels = np.array([[0, 1, 3], [9, 2, 0]])
    (loss,), (diff, _), _ = answer(
        tmp_path, 'SoftmaxWithLoss', [scores, labels], f'loss_param {{ ignore_label: 9 {param} }}', diffs=[3]
    )
    prob = softmax(scores)
    total, want = 0, np.zeros_like(prob)
    for n, i in np.ndindex(2, 3):
        if labels[n, i] != 9:
            total -= np.log(prob[n, labels[n, i], i])
            want[n, :, i] = prob[n, :, i]
            want[n, labels[n, i], i] -= 1
    np.testing.assert_allclose(loss, total / divisor, rtol=1e-5)
    np.testing.assert_allclose(diff, want * 3 / divisor, rtol=1e-4, atol=1e-6)


def test_softmax_loss_of_the_impossible(tmp_path):
    """The term ends at -log of the smallest float; the gradient does not vanish. Nothing to count gives 0."""
    (loss,), (diff, _), _ = answer(tmp_path, 'SoftmaxWithLoss', [[[500.0, 0.0]], [1]], diffs=[1])
    assert abs(loss - 87.3365) < 1e-3
    np.testing.assert_allclose(diff, [[1, -1]])
    (loss,), (diff, _), _ = answer(
        tmp_path, 'SoftmaxWithLoss', [[[5.0, 0.0]], [1]], 'loss_param { ignore_label: 1 }', diffs=[1]
    )
    assert loss == 0 and (diff == 0).all()


def test_multinomial_loss_of_zero_probability(tmp_path):
    (loss,), (diff, _), _ = answer(tmp_path, 'MultinomialLogisticLoss', [[[1.0, 0.0]], [1]], diffs=[1])
    np.testing.assert_allclose([loss, diff[0, 1]], [46.0517, -1e20], rtol=1e-4)


def test_sigmoid_cross_entropy_normalizations(tmp_path):
    x, t = np.array([[1.0, -2.0, 3.0], [0.5, 0, 1]]), np.array([[1.0, 0.0, -1.0], [0, 1, 1]])
    terms = np.log1p(np.exp(x)) - x * t
    total = terms[t >= 0].sum()
    divisors = {'': 2, 'normalization: VALID': 5, 'normalization: FULL': 6, 'normalize: true': 5}
    for param, divisor in divisors.items():
        more = f'loss_param {{ ignore_label: -1 {param} }}'
        (loss,), _, _ = answer(tmp_path, 'SigmoidCrossEntropyLoss', [x, t], more)
        np.testing.assert_allclose(loss, total / divisor, rtol=1e-5)


def test_smooth_l1_by_hand(tmp_path):
    """sigma 2: quadratic below 1/4. Two rows, so the sum is halved."""
    x, weights = np.array([[0.1, 1.0], [-2.0, 0.0]]), np.array([[1.0, 1], [0.5, 1]])
    (loss,), diffs, _ = answer(
        tmp_path,
        'SmoothL1Loss',
        [x, np.zeros((2, 2)), weights, 2 * np.ones((2, 2))],
        'smooth_l1_loss_param { sigma: 2 }',
        diffs=[1],
    )
    np.testing.assert_allclose(loss, (2 * 0.1**2 + (1 - 0.125) + (1 - 0.125)) * 2 / 2, rtol=1e-5)
    np.testing.assert_allclose(diffs[0], [[0.4, 1], [-0.5, 0]], rtol=1e-5)
    np.testing.assert_allclose(diffs[1], -diffs[0])
    assert (diffs[2] == 0).all() and (diffs[3] == 0).all()


def test_accuracy_counts_ties_as_wrong(tmp_path):
    scores = np.array([[1.0, 1, 0], [0, 2, 1], [3, 0, 0], [0, 0, 9]])
    tops, _, _ = answer(tmp_path, 'Accuracy', [scores, [0, 1, 0, 2]], tops=2)
    assert tops[0] == 0.75
    np.testing.assert_allclose(tops[1], [0.5, 1, 1])
    tops, _, _ = answer(
        tmp_path, 'Accuracy', [scores, [0, 0, 1, 2]], 'accuracy_param { top_k: 2 ignore_label: 2 }'
    )
    np.testing.assert_allclose(tops[0], 1 / 3)


def test_infogain_matrix_from_file(tmp_path):
    matrix = caffe.io.array_to_blobproto(np.eye(3).reshape(1, 1, 3, 3))
    (tmp_path / 'H.binaryproto').write_bytes(matrix.SerializeToString())
    scores, labels = np.random.default_rng(0).standard_normal((4, 3)), [0, 2, 1, 1]
    more = f'infogain_loss_param {{ source: "{tmp_path}/H.binaryproto" }}'
    (loss,), _, _ = answer(tmp_path, 'InfogainLoss', [scores, labels], more)
    (want,), _, _ = answer(tmp_path, 'SoftmaxWithLoss', [scores, labels])
    np.testing.assert_allclose(loss, want, rtol=1e-5)


# Recurrent layers


@pytest.mark.parametrize('kind', ['RNN', 'LSTM'])
def test_state_is_carried_from_pass_to_pass(kind, tmp_path):
    """One pass over six steps equals two over three; cont 0 at the start forgets."""
    rng = np.random.default_rng(0)
    steps, cont = rng.standard_normal((6, 2, 3)).astype(np.float32), np.ones((6, 2), np.float32)
    cont[0] = 0
    more = 'recurrent_param { num_output: 4 weight_filler { type: "gaussian" } }'
    text = layer('L', kind, 'x cont', more=more)
    long, short = (net_from(tmp_path, data('x', t, 2, 3) + data('cont', t, 2) + text) for t in (6, 3))
    short.share_with(long)
    want = long.forward(x=steps, cont=cont)['L'].copy()
    for _ in range(2):
        got = [short.forward(x=steps[i : i + 3], cont=cont[i : i + 3])['L'].copy() for i in (0, 3)]
        np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-4, atol=1e-5)


# Sources


def test_input_keeps_the_shape_it_is_given(tmp_path):
    text = layer('in', 'Input', tops='a b', more='input_param { shape { dim: 2 dim: 3 } }')
    net = net_from(tmp_path, text + layer('r', 'ReLU', 'a'))
    assert net.blobs['a'].shape == net.blobs['b'].shape == (2, 3)
    net.blobs['a'].reshape(5, 7)
    net.reshape()
    assert net.blobs['r'].shape == (5, 7)
    text = layer('in', 'Input', tops='a b c', more='input_param { shape { dim: 2 } shape { dim: 3 } }')
    with pytest.raises(ValueError, match='2 times for 3 tops'):
        net_from(tmp_path, text)


def test_parameter_is_its_top(tmp_path):
    text = layer('P', 'Parameter', tops='p', more='parameter_param { shape { dim: 2 dim: 3 } }')
    net = net_from(tmp_path, text + layer('sum', 'Reduction', 'p', more='loss_weight: 2'), TRAIN)
    net.params['P'][0].data[...] = 4
    assert net.forward()['sum'] == 24
    net.backward()
    assert (net.params['P'][0].diff == 2).all()


def test_dummy_data(tmp_path):
    net = net_from(
        tmp_path,
        layer(
            'D',
            'DummyData',
            tops='a b c',
            more="""dummy_data_param {
        shape { dim: 2 dim: 3 } data_filler { value: 7 }
        data_filler { type: "uniform" min: 1 max: 2 } data_filler { type: "gaussian" } }""",
        ),
    )
    assert (net.blobs['a'].data == 7).all()
    net.blobs['a'].data[...] = 8
    net.forward()
    b = net.blobs['b'].data.copy()
    net.forward()
    assert (net.blobs['a'].data == 8).all(), 'a constant is filled in once'
    assert ((b >= 1) & (b <= 2)).all() and (net.blobs['b'].data != b).any()
    old = net_from(
        tmp_path,
        layer(
            'D',
            'DummyData',
            tops='a b',
            more="""dummy_data_param {
        num: 2 channels: 3 height: 4 width: 5 width: 6 }""",
        ),
    )
    assert old.blobs['a'].shape == (2, 3, 4, 5) and old.blobs['b'].shape == (2, 3, 4, 6)
    assert (old.blobs['b'].data == 0).all()


@pytest.fixture
def hdf5(tmp_path):
    """Two files of 3 and 2 rows; row i holds the number i."""
    numbers = np.arange(5)
    for i, rows in enumerate((numbers[:3], numbers[3:])):
        with h5py.File(tmp_path / f'{i}.h5', 'w') as f:
            f['x'] = np.repeat(rows[:, None], 2, 1).astype(float)
            f['label'] = rows
    (tmp_path / 'list.txt').write_text(f'{tmp_path}/0.h5\n{tmp_path}/1.h5\n\n')
    return f'source: "{tmp_path}/list.txt"'


def hdf5_net(tmp_path, source, batch, more='', tops='x label', phase=TRAIN):
    more = f'hdf5_data_param {{ {source} batch_size: {batch} {more} }}'
    return net_from(tmp_path, layer('H', 'HDF5Data', tops=tops, more=more), phase)


def test_hdf5_batches_run_across_files(hdf5, tmp_path):
    net = hdf5_net(tmp_path, hdf5, 4)
    assert net.blobs['x'].shape == (4, 2) and net.blobs['label'].shape == (4,)
    seen = [net.forward()['label'].copy() for _ in range(3)]
    np.testing.assert_array_equal(np.concatenate(seen), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(net.blobs['x'].data, np.repeat(seen[-1][:, None], 2, 1))


def test_hdf5_shuffle_gives_every_row_once_a_round(hdf5, tmp_path):
    net = hdf5_net(tmp_path, hdf5, 5, 'shuffle: true')
    rounds = [tuple(net.forward()['label'].astype(int)) for _ in range(20)]
    assert all(sorted(r) == [0, 1, 2, 3, 4] for r in rounds) and len(set(rounds)) > 4
    assert {r[:2] for r in rounds} & {(3, 4), (4, 3)}, 'files change places as well'


def test_hdf5_rows_are_shared_out_among_solvers(hdf5, tmp_path):
    caffe.set_solver_count(2)
    caffe.set_solver_rank(1)
    try:
        np.testing.assert_array_equal(hdf5_net(tmp_path, hdf5, 4).forward()['label'], [1, 3, 0, 2])
        test = hdf5_net(tmp_path, hdf5, 4, phase=TEST)
        np.testing.assert_array_equal(test.forward()['label'], [0, 1, 2, 3])
    finally:
        caffe.set_solver_count(1)
        caffe.set_solver_rank(0)


def test_hdf5_errors(hdf5, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.txt'):
        hdf5_net(tmp_path, 'source: "nowhere.txt"', 2)
    with pytest.raises(ValueError, match="0.h5 .*no dataset 'y'; it has label, x"):
        hdf5_net(tmp_path, hdf5, 2, tops='x y')
    with pytest.raises(ValueError, match='batch_size'):
        hdf5_net(tmp_path, hdf5, 0)
    with h5py.File(tmp_path / '1.h5', 'a') as f:
        del f['label']
        f['label'] = [1.0]
    with pytest.raises(ValueError, match="as many rows.*'label': 1"):
        hdf5_net(tmp_path, hdf5, 4).forward()
    (tmp_path / '1.h5').unlink()
    with pytest.raises(FileNotFoundError, match='1.h5'):
        hdf5_net(tmp_path, hdf5, 4).forward()


def test_families_table_names_every_type():
    """The table at the head of caffe.types is where a reader looks for a type."""
    doc = importlib.import_module('caffe.types').__doc__
    for kind in caffe.layer_type_list():
        cls = registry.layer_class(kind)
        family = cls.__module__.split('.')[2]  # a module, or a folder of them
        row = next(r for r in doc.splitlines() if r.startswith((f'| {family} ', f'| {family}/ ')))
        assert kind in row or 'the losses' in row, f'{kind} is missing in {row}'
