"""Half precision: what is 16 bits wide, how far results may be off, the loss scale.

A number rounded to p binary digits is off by 2^-p of itself at most: u = 2^-8 for bf16, 2^-11 for fp16. A product of
two rounded numbers, added up in float32 and rounded once more, is off by (1 + u)^3 - 1 of the sum of the products'
sizes. What torch adds up in float32 in another order is off by far less (2^-20 of that sum is allowed for it).
"""

import numpy as np
import pytest
import torch

import caffe
from caffe import common, loss_scale
from caffe.format.state import read_state
from caffe.format.weights import read_weights
from caffe.proto import caffe_pb2
from caffe.registry import layer_class
import fork_cases
import layer_cases
from helpers import data, layer, net_from

CASES = {**layer_cases.CASES, **fork_cases.CASES}
UNIT = {'bf16': 2.0**-8, 'fp16': 2.0**-11}
HALVES = list(UNIT)


@pytest.fixture(autouse=True)
def back_to_float32():
    yield
    caffe.set_precision('float32')
    caffe.set_tf32(False)


def off(name, roundings=3):
    return (1 + UNIT[name]) ** roundings - 1 + 2.0**-20


FILL = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 }'
LINEAR = {
    'Convolution': f'convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {FILL} }}',
    'Deconvolution': f'convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 {FILL} }}',
    'DepthwiseConvolution': f'convolution_param {{ num_output: 4 kernel_size: 3 {FILL} }}',
    'InnerProduct': f'inner_product_param {{ num_output: 4 {FILL} }}',
}
READS_Y = layer('end', 'InnerProduct', 'y', more=LINEAR['InnerProduct'])  # what no product reads is float32
AFFINE = layer('bn', 'BatchNorm', 'y', 'y', 'batch_norm_param { use_global_stats: true }') + layer(
    'scale', 'Scale', 'y', 'y', 'scale_param { bias_term: true }'
)


def linear_net(tmp_path, kind, tail='', phase=caffe.TEST):
    text = data('x', 2, 4, 5, 6) + layer('l', kind, 'x', 'y', LINEAR[kind]) + tail + READS_Y
    net = net_from(tmp_path, text, phase)
    rng = np.random.RandomState(0)
    net.blobs['x'].data[...] = rng.randn(2, 4, 5, 6)
    for name in net.params:
        for blob in net.params[name]:
            blob.data[...] = rng.rand(*blob.shape) + 0.5
    return net


def sizes(tmp_path, kind):
    """The sum of the sizes of the products in each element of the top."""
    net = linear_net(tmp_path, kind)
    for blob in (net.blobs['x'], *net.params['l']):
        blob.data[...] = np.abs(blob.data)
    return values(net)


def values(net):
    return net.forward(blobs=['y'])['y'].copy()


@pytest.mark.parametrize('name', HALVES)
@pytest.mark.parametrize('kind', LINEAR)
def test_products_are_as_near_as_rounded_numbers_allow(tmp_path, kind, name):
    wanted, size = values(linear_net(tmp_path, kind)), sizes(tmp_path, kind)
    caffe.set_precision(name)
    net = linear_net(tmp_path, kind)
    got = values(net)
    assert got.dtype == np.float32 and (np.abs(got - wanted) <= off(name) * size).all()
    assert (got != wanted).any() and net.params['l'][0].tensor.dtype == torch.float32


def test_a_chain_rounds_what_it_gets_and_what_it_makes(tmp_path):
    """bf16 has 8 digits: 1 + 2^-9 is 1, and 3 + 2^-6 + 2^-7 lies half way between two numbers, and goes to the one
    whose last digit is 0, 3 + 2^-5."""
    caffe.set_precision('bf16')
    linear = layer('y', 'InnerProduct', 'x', more='inner_product_param { num_output: 1 }')
    net = net_from(tmp_path, data('x', 1, 2) + linear + layer('relu', 'ReLU', 'y', 'y') + READS_Y)
    net.params['y'][0].data[...], net.params['y'][1].data[...] = [[1 + 2**-9, 2]], 2**-6 + 2**-7
    net.blobs['x'].data[...] = [[1 + 2**-9, 1]]
    assert values(net) == 3 + 2**-5


WHOLE = (
    data('x', 1, 3, 8, 8)
    + data('rois', 2, 5)
    + layer('c1', 'Convolution', 'x', more=LINEAR['Convolution'])
    + layer('r1', 'ReLU', 'c1', 'c1')
    + layer('p1', 'Pooling', 'c1', more='pooling_param { kernel_size: 2 stride: 2 }')
    + layer('c2', 'Convolution', 'p1', more=LINEAR['Convolution'])
    + layer('sum', 'Eltwise', 'p1 c2')
    + layer('r2', 'ReLU', 'sum', 'sum')
    + layer('both', 'Concat', 'sum c2')
    + layer(
        'roi',
        'ROIPooling',
        'both rois',
        more='roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 }',
    )
    + layer('ip', 'InnerProduct', 'roi', more=LINEAR['InnerProduct'])
    + layer('shape', 'Reshape', 'ip', more='reshape_param { shape { dim: -1 dim: 2 } }')
    + layer('prob', 'Softmax', 'shape')
    + data('label', 4)
    + layer('loss', 'SoftmaxWithLoss', 'shape label')
)
ROIS = np.float32([[0, 1, 1, 9.4, 13], [0, 0, 3, 5, 15.2]])


def whole(tmp_path, phase=caffe.TEST, text=WHOLE):
    net = net_from(tmp_path, text, phase)
    rng = np.random.RandomState(2)
    net.blobs['x'].data[...] = rng.randn(1, 3, 8, 8)
    net.blobs['rois'].data[...] = ROIS
    net.blobs['label'].data[...] = [0, 1, 1, 0]
    for name in net.params:
        net.params[name][0].data[...] *= 0.3
    return net


@pytest.mark.parametrize('name', HALVES)
def test_what_lies_between_products_is_narrow_and_the_rest_is_float32(tmp_path, name):
    caffe.set_precision(name)
    net = whole(tmp_path)
    net.run_forward()
    narrow = {n for n, b in net.blobs.items() if b.held.dtype == common.half()}
    assert narrow == {'c1', 'p1', 'c2', 'sum', 'both', 'roi'}  # no product reads the scores
    assert all(b.held.dtype == torch.float32 for n, b in net.blobs.items() if n not in narrow)
    assert all(b.tensor.dtype == torch.float32 and b.data.dtype == np.float32 for b in net.blobs.values())
    assert (net.blobs['rois'].data == ROIS).all() and net.blobs[
        'both'
    ].held.dtype == torch.float32  # it was looked at


def test_regions_of_a_narrow_map_are_those_of_its_values_exactly(tmp_path):
    caffe.set_precision('bf16')
    net = whole(tmp_path)
    net.run_forward()
    got, maps = net.blobs['roi'].data.copy(), net.blobs['both'].data.copy()
    caffe.set_precision('float32')
    net.blobs['both'].data[...] = maps
    assert (net.forward(start='roi', end='roi')['roi'] == got).all()


LEARNS_LATE = WHOLE.replace(
    'top: "c1" convolution', 'top: "c1" param { lr_mult: 0 } param { lr_mult: 0 } convolution', 1
)


@pytest.mark.parametrize('name', HALVES)
def test_what_a_solvers_pass_let_go_comes_back_as_narrow_as_it_was(tmp_path, name):
    """Its gradients too: at the pass's loss scale, not as they were too small without it."""
    caffe.set_precision(name)
    nets = [whole(tmp_path, caffe.TRAIN, LEARNS_LATE) for _ in range(2)]
    with common.scaled(1024.0):
        nets[0].forward_backward()
        nets[1].run_forward(), nets[1].run_backward()
    assert nets[0].blobs['c1']._data.recall and nets[0].blobs['both']._diff.recall
    for blob in 'c1', 'p1':
        got, wanted = (net.blobs[blob].held for net in nets)
        assert got.dtype == wanted.dtype == common.half() and torch.equal(got, wanted)
    for blob in 'both', 'c2':
        np.testing.assert_array_equal(*(net.blobs[blob].diff for net in nets))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.host
@pytest.mark.parametrize('name', HALVES)
def test_gradients_are_float32_and_near_those_of_float32(tmp_path, name):
    """Some eight roundings lie on a path from the loss to a weight, in both directions; they add up like steps at
    random, of which twelve are allowed."""
    diffs, passes = {}, ('float32', name)
    for precision in passes:
        caffe.set_precision(precision)
        net = whole(tmp_path, caffe.TRAIN)
        with common.scaled(1024.0):
            net.forward_backward()
            net.clear_param_diffs()
            net.run_forward(), net.run_backward()
        diffs[precision] = [(n, b.grad) for n in net.params for b in net.params[n]]
    assert all(g.dtype == torch.float32 for _, g in diffs[name])
    for (layer_name, got), (_, wanted) in zip(diffs[name], diffs['float32']):
        assert relative(got.numpy(), wanted.numpy()) < 12 * UNIT[name], layer_name
    for blob in 'p1', 'c2', 'sum', 'both':
        grad, factor = net.blobs[blob].held_grad
        assert (grad.dtype, factor) == (common.half(), {'bf16': None, 'fp16': 2.0**-10}[name]), blob
        assert net.blobs[blob].grad.dtype == torch.float32 and net.blobs[blob].diff.dtype == np.float32


@pytest.mark.host
def test_a_net_goes_back_to_float32_to_the_bit(tmp_path):
    net = whole(tmp_path)
    wanted = net.forward()['prob'].copy()
    caffe.set_precision('bf16')
    narrow = net.forward()['prob'].copy()
    caffe.set_precision('float32')
    assert (narrow != wanted).any() and (net.forward()['prob'] == wanted).all()


def test_narrow_weights_are_kept(tmp_path, monkeypatch):
    caffe.set_precision('bf16')
    net = linear_net(tmp_path, 'Convolution', AFFINE)
    (chain,) = net._runner.chains.values()
    net.run_forward()
    kept = chain._kept['weights'][1][0]
    net.run_forward()
    assert chain._kept['weights'][1][0] is kept and kept.is_contiguous(memory_format=torch.channels_last)
    before = net.blobs['y'].data.copy()
    net.params['scale'][0].data[...] *= 2
    net.run_forward()
    assert chain._kept['weights'][1][0] is not kept and (net.blobs['y'].data != before).any()


KINDS = [kind for kind in caffe.layer_type_list() if layer_class(kind).half]


def narrow_run(kind, it, name, folder):
    """(types of the tops, None where the case has no half; tops and gradients) of one layer whose bottoms are rounded to
    bf16 or fp16, without random draws."""
    rng = np.random.default_rng(7)
    arrays = [make(rng).astype(np.float32) for make in it.bottoms]
    net = layer_cases.build(kind, it, arrays, next(p for p in it.phases if p not in it.random), folder)
    for unit in net.layers[-1], *net._runner.chains.values():
        unit.narrow = True  # as if a product read it
    bottoms, keeps = [net.blobs[f'b{i}'] for i in range(len(arrays))], net.layer_dict['L'].half == 'keeps'
    for i, (blob, value) in enumerate(zip(bottoms, arrays)):
        narrow = torch.from_numpy(value).to(common.HALVES[name])
        blob.take(torch.from_numpy(value) if keeps and i else narrow)
    net.run_forward()
    tops = [blob for n, blob in net.blobs.items() if n[0] == 't']
    types = {top.held.dtype for top in tops}
    for top in tops:
        top.diff[...] = rng.standard_normal(top.shape)
    net.run_backward()
    results = [top.data for top in tops] + [b.diff for b in (*bottoms, *layer_cases.params(net))]
    return types if net.layer_dict['L'].half else None, results


@pytest.mark.parametrize('native', [False, True], ids=['by float32', 'native'])
@pytest.mark.parametrize('name', HALVES)
@pytest.mark.parametrize('kind', KINDS)
def test_every_layer_that_may_be_narrow_is_near_itself_in_float32(kind, name, native, tmp_path, monkeypatch):
    """On the same rounded bottoms: its weights, tops and gradients are rounded, some of them twice. native: as on a
    device that multiplies such numbers."""
    monkeypatch.setattr(common, 'multiplies', lambda dtype: native)
    for it in CASES[kind]:
        caffe.set_precision('float32')
        _, wanted = narrow_run(kind, it, name, tmp_path)
        caffe.set_precision(name)
        types, got = narrow_run(kind, it, name, tmp_path)
        assert types in (None, {common.half()})
        for a, b in zip(got, wanted, strict=True):
            assert np.linalg.norm(a - b) <= 4 * UNIT[name] * np.linalg.norm(b), it


def test_a_view_that_somebody_holds_follows_in_float32(tmp_path):
    caffe.set_precision('bf16')
    net = whole(tmp_path)
    held = net.blobs['c1'].data
    net.run_forward()
    first = held.copy()
    net.blobs['x'].data[...] *= 2
    net.run_forward()
    assert held.dtype == np.float32 and (held == 2 * first).any() and (net.blobs['c1'].data == held).all()


class Half(caffe.Layer):
    """Half of its bottom; its gradient is set, whatever comes from above, as losses in Python do."""

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        assert bottom[0].data.dtype == np.float32
        top[0].data[...] = bottom[0].data / 2

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 3


PYTHON = (
    data('x', 2, 4)
    + layer('y', 'InnerProduct', 'x', more=LINEAR['InnerProduct'])
    + layer('z', 'Python', 'y', more='loss_weight: 1 python_param { module: "test_precision" layer: "Half" }')
    + READS_Y
)


@pytest.mark.parametrize('name', HALVES)
def test_python_layers_see_float32_and_their_gradients_need_no_scale(tmp_path, name):
    caffe.set_precision(name)
    net = net_from(tmp_path, PYTHON, caffe.TRAIN)
    net.blobs['x'].data[...] = [[1, 2, 3, 4], [5, 6, 7, 8]]
    with common.scaled(256.0):
        net.run_forward(), net.run_backward()
    np.testing.assert_array_equal(net.params['y'][0].diff, np.tile([18, 24, 30, 36], (4, 1)))  # 3 x, summed


def test_small_gradients_of_fp16_live_by_the_scale(tmp_path):
    """2^-26 is less than half of fp16's smallest number, 2^-24."""
    caffe.set_precision('fp16')
    text = (
        data('x', 1, 1)
        + layer('y', 'InnerProduct', 'x', more='inner_product_param { num_output: 1 }')
        + layer('l', 'Reduction', 'y', more=f'loss_weight: {2.0**-26!r}')
        + READS_Y
    )
    net = net_from(tmp_path, text, caffe.TRAIN)
    net.blobs['x'].data[...] = 1
    for scale, wanted in (1.0, 0), (2.0**16, 2.0**-26):
        net.clear_param_diffs()
        with common.scaled(scale):
            net.run_forward(), net.run_backward()
        assert net.params['y'][0].diff == wanted
    assert net.blobs['y'].diff == 2.0**-26


SOLVER = """
base_lr: 0.5 lr_policy: "fixed" momentum: 0.5 snapshot_prefix: "%s/s" random_seed: 1
net_param { %s }
"""
ONE = (
    layer('x', 'DummyData', more='dummy_data_param { shape { dim: 1 dim: 1 } data_filler { value: 2 } }')
    + layer(
        'y',
        'InnerProduct',
        'x',
        more='inner_product_param { num_output: 1 bias_term: false weight_filler { value: 1 } }',
    )
    + READS_Y
    + layer('l', 'Reduction', 'y', more='loss_weight: 1')
)


def solver(tmp_path, text=ONE):
    path = tmp_path / 'solver.prototxt'
    path.write_text(SOLVER % (tmp_path, text))
    return caffe.get_solver(str(path))


def test_the_loss_scale_by_hand(tmp_path, monkeypatch):
    """y = 2 w, loss y: dy = 1, dw = 2, each held S times as large, and fp16 ends at 65504.

    S = 65536: dy is infinite. 32768: dw = 65536 is. 16384: dw = 32768 is not: h = 0.5 x 2 = 1, w = 0; then
    h = 0.5 + 1, w = -1.5. Two clean updates: 32768, where dw is infinite again: w stays.
    """
    monkeypatch.setattr(loss_scale, 'CLEAN', 2)
    caffe.set_precision('fp16')
    s = solver(tmp_path)
    rows = []
    for _ in range(5):
        s.step(1)
        rows.append((s.loss_scale.value, float(s.net.params['y'][0].data[0, 0])))
    assert rows == [(32768, 1), (16384, 1), (16384, 0), (32768, -1.5), (16384, -1.5)]
    assert s.iter == 5 and s.history[0] == 1.5


@pytest.mark.parametrize('kind', ['BINARYPROTO', 'HDF5'])
def test_snapshots_are_float32_and_states_hold_the_loss_scale(tmp_path, kind):
    caffe.set_precision('fp16')
    s = solver(tmp_path)
    s.param.snapshot_format = caffe_pb2.SolverParameter.SnapshotFormat.Value(kind)
    s.net.params['y'][0].data[...] = 1 + 2**-20  # more digits than fp16 has
    s.loss_scale = loss_scale.LossScale(512.0, 7)
    s.snapshot()
    suffix = '.h5' if kind == 'HDF5' else ''
    found = {name: arrays for name, _, arrays in read_weights(f'{tmp_path}/s_iter_0.caffemodel{suffix}')}
    (array,) = found['y']
    assert array.dtype == np.float32 and array == np.float32(1 + 2**-20)
    other = solver(tmp_path)
    other.restore(f'{tmp_path}/s_iter_0.solverstate{suffix}')
    assert (other.loss_scale.value, other.loss_scale.clean) == (512, 7)


@pytest.mark.parametrize('kind', ['BINARYPROTO', 'HDF5'])
def test_states_of_other_precisions_hold_none(tmp_path, kind):
    s = solver(tmp_path)
    s.param.snapshot_format = caffe_pb2.SolverParameter.SnapshotFormat.Value(kind)
    s.step(1)
    s.snapshot()
    assert s.net.params['y'][0].data == 0
    assert read_state(f'{tmp_path}/s_iter_1.solverstate' + '.h5' * (kind == 'HDF5'))[-1] is None
    caffe.set_precision('bf16')
    s.step(1)
    assert s.loss_scale.value == 2.0**16 and s.net.params['y'][0].data == -1.5


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="precision 'half' is not known; wanted is float32, bf16, fp16"):
        caffe.set_precision('half')
    assert caffe.precision() == 'float32'


def test_tf32_is_off_until_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(common, '_require_cuda', lambda number: None)
    monkeypatch.setattr(common._State, 'gpu', False)
    torch.backends.cudnn.allow_tf32 = True  # torch's own default
    caffe.set_mode_gpu()
    flags = lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    assert flags() == (False, False)
    caffe.set_tf32(True)
    caffe.set_mode_gpu()
    assert flags() == (True, True)
