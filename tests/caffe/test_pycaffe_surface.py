"""What scripts written for pycaffe rely on: names, orders, memory, the meaning of start and end, errors."""

import collections
import gc
import itertools
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import caffe
from caffe import layers as L
from caffe import params as P
from caffe.coord_map import coord_map_from_to, crop
from caffe.proto import caffe_pb2
from helpers import data, layer

CLASSES = 7
DATA = layer(
    'data',
    'DummyData',
    tops='data label',
    more="""dummy_data_param {
    num: 4 channels: 2 height: 3 width: 5  num: 4 channels: 1 height: 1 width: 1
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } }""",
)
NET = (
    'name: "small" force_backward: true\n'
    + DATA
    + layer(
        'conv',
        'Convolution',
        'data',
        more="""param { decay_mult: 1 } param { decay_mult: 0 }
          convolution_param { num_output: 6 kernel_size: 2 pad: 1 weight_filler { type: "gaussian" std: 1 }
                              bias_filler { type: "constant" value: 2 } }""",
    )
    + layer(
        'ip',
        'InnerProduct',
        'conv',
        'scores',
        more=f"""inner_product_param {{ num_output: {CLASSES}
          weight_filler {{ type: "gaussian" std: 2.5 }} bias_filler {{ value: -3 }} }}""",
    )
    + layer('loss', 'SoftmaxWithLoss', 'scores label', 'loss')
)
SOLVER = '''net: "net.prototxt" test_iter: 3 test_interval: 10 base_lr: 0.01 momentum: 0.9
            weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 power: 0.75 display: 100 max_iter: 20
            snapshot_after_train: false snapshot_prefix: "model"'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder with net.prototxt and solver.prototxt; classes here can be Python layers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'my_layers', sys.modules[__name__])
    caffe.set_random_seed(3)
    (tmp_path / 'net.prototxt').write_text(NET)
    (tmp_path / 'solver.prototxt').write_text(SOLVER)


def fill_labels(net):
    net.blobs['label'].data[...] = np.random.randint(CLASSES, size=net.blobs['label'].data.shape)


@pytest.fixture
def net():
    net = caffe.Net('net.prototxt', caffe.TRAIN)
    fill_labels(net)
    return net


@pytest.fixture
def solver():
    solver = caffe.SGDSolver('solver.prototxt')
    for net in [solver.net, *solver.test_nets]:
        fill_labels(net)
    return solver


def net_of(text, phase=caffe.TEST, **kwargs):
    with open('other.prototxt', 'w') as f:
        f.write(text)
    return caffe.Net('other.prototxt', phase, **kwargs)


# Net


def test_blobs_and_parameters_outlive_their_net(net):
    net.forward()
    net.backward()
    held = sum(map(list, net.params.values()), []) + list(net.blobs.values())
    values = [(b.data.copy(), b.diff.copy()) for b in held]
    del net
    gc.collect()
    for blob, (value, diff) in zip(held, values):
        assert (blob.data == value).all() and (blob.diff == diff).all()


def test_names_of_layers_bottoms_and_tops(net):
    assert list(net._layer_names) == ['data', 'conv', 'ip', 'loss'] == list(net.layer_dict)
    assert [net.layer_dict[n].type for n in net._layer_names] == [x.type for x in net.layers]
    assert net.inputs == [] and net.outputs == ['loss']
    assert net.top_names == collections.OrderedDict(
        [('data', ['data', 'label']), ('conv', ['conv']), ('ip', ['scores']), ('loss', ['loss'])]
    )
    assert net.bottom_names == collections.OrderedDict(
        [('data', []), ('conv', ['data']), ('ip', ['conv']), ('loss', ['scores', 'label'])]
    )


def test_a_range_of_one_layer_looks_at_the_blobs_as_they_are(net):
    """No pass has been run before: forward takes the written bottom, backward the written diff."""
    rng = np.random.default_rng(0)
    conv, scores, (weight, bias) = net.blobs['conv'], net.blobs['scores'], net.params['ip']
    conv.data[:] = rng.random(conv.data.shape)
    assert set(net.forward(start='ip', end='ip')) == {'scores'}
    want = [weight.data.dot(x.ravel()) + bias.data for x in conv.data]
    np.testing.assert_allclose(scores.data, want, rtol=1e-4, atol=1e-4)


def test_backward_without_a_forward(net):
    rng = np.random.default_rng(0)
    conv, scores, (weight, bias) = net.blobs['conv'], net.blobs['scores'], net.params['ip']
    conv.data[:] = rng.random(conv.data.shape)
    scores.diff[:] = diff = rng.random(scores.data.shape)
    assert set(net.backward(start='ip', end='ip')) == {'conv'}
    flat = conv.data.reshape(len(diff), -1)
    for got, want in (
        (conv.diff, diff.dot(weight.data)),
        (weight.diff, diff.T.dot(flat)),
        (bias.diff, diff.sum(0)),
    ):
        np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-4, atol=1e-5)


def test_ranges_with_extra_blobs_and_diffs(net):
    out = net.forward(blobs=['conv'], end='ip')
    assert set(out) == {'conv', 'scores'} and out['conv'].shape == (4, 6, 4, 6)
    assert set(net.forward(start='loss')) == {'loss'}
    assert set(net.backward(diffs=['data', 'conv'], start='loss', end='ip')) == {'data', 'conv'}
    assert set(net.backward(diffs=['data'])) == {'data'} and net.blobs['data'].diff.any()


def test_parameter_diffs_are_cleared_in_place(net):
    net.forward()
    net.backward()
    diff = net.params['conv'][0].diff
    assert diff.any()
    net.clear_param_diffs()
    assert not diff.any()


@pytest.mark.parametrize('save, load', [('save', 'copy_from'), ('save_hdf5', 'load_hdf5')])
def test_weights_come_back(net, save, load):
    getattr(net, save)('weights')
    others = [
        caffe.Net('net.prototxt', caffe.TRAIN),
        caffe.Net('net.prototxt', 'weights', caffe.TRAIN),
        caffe.Net('net.prototxt', caffe.TEST, weights='weights'),
    ]
    getattr(others[0], load)('weights')
    for other, (name, blobs) in itertools.product(others, net.params.items()):
        assert all((a.data == b.data).all() for a, b in zip(blobs, other.params[name]))


def ip(name, rules=''):
    return layer(name, 'InnerProduct', 'data', more=rules + ' inner_product_param { num_output: 1 }')


RULES = (
    data('data', 1, 1, 4, 4)
    + ip('any')
    + ip('level_0', 'include { min_level: 0 max_level: 0 }')
    + ip('level_1', 'include { min_level: 1 max_level: 1 }')
    + ip('from_0', 'include { min_level: 0 }')
    + ip('from_1', 'include { min_level: 1 }')
    + ip('a', 'include { stage: "A" }')
    + ip('b', 'include { stage: "B" }')
    + ip('a_or_b', 'include { stage: "A" } include { stage: "B" }')
    + ip('a_and_b', 'include { stage: "A" stage: "B" }')
    + ip('not_a', 'include { not_stage: "A" }')
    + ip('but_b', 'exclude { stage: "B" }')
    + ip('train', 'include { phase: TRAIN }')
)
ANY = ['any', 'from_0']


@pytest.mark.parametrize(
    'kwargs, wanted',
    [
        ({}, ['any', 'level_0', 'from_0', 'not_a', 'but_b']),
        ({'level': 1}, ['any', 'level_1', 'from_0', 'from_1', 'not_a', 'but_b']),
        ({'stages': ['A']}, ['any', 'level_0', 'from_0', 'a', 'a_or_b', 'but_b']),
        ({'stages': ['B']}, ['any', 'level_0', 'from_0', 'b', 'a_or_b', 'not_a']),
        ({'stages': ['A', 'B']}, ['any', 'level_0', 'from_0', 'a', 'b', 'a_or_b', 'a_and_b']),
        ({'level': 2, 'stages': ('C',)}, ['any', 'from_0', 'from_1', 'not_a', 'but_b']),
    ],
)
def test_level_and_stages_choose_layers(kwargs, wanted):
    full = net_of(RULES, **kwargs)
    assert [b for b in full.blobs if b != 'data'] == wanted
    full.save('weights')  # what was left out is in no snapshot, and is not asked for
    again = net_of(RULES, weights='weights', **kwargs)
    assert list(again.params) == wanted
    assert (again.params['any'][0].data == full.params['any'][0].data).all()


TRAIN_VAL_DEPLOY = (
    ''.join(
        layer(
            name,
            'DummyData',
            tops='data label',
            more=f'''
          dummy_data_param {{ shape {{ dim: 1 dim: 1 dim: 4 dim: 4 }} shape {{ dim: 1 }} }}
          include: {{ phase: {phase} stage: "{stage}" }}''',
        )
        for name, phase, stage in (('train_data', 'TRAIN', 'train'), ('val_data', 'TEST', 'val'))
    )
    + """
layer { name: "deploy_data" type: "Input" top: "data" input_param { shape: { dim: [1, 1, 4, 4] } }
        include { phase: TEST stage: "deploy" } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
        include { phase: TRAIN stage: "train" } include { phase: TEST stage: "val" } }
layer { name: "pred" type: "Softmax" bottom: "ip" top: "pred" include { phase: TEST stage: "deploy" } }"""
)


@pytest.mark.parametrize(
    'phase, stage, outputs',
    [(caffe.TRAIN, 'train', ['loss']), (caffe.TEST, 'val', ['loss']), (caffe.TEST, 'deploy', ['pred'])],
)
def test_one_file_for_training_validation_and_deployment(phase, stage, outputs):
    net = net_of(TRAIN_VAL_DEPLOY, phase, stages=[stage])
    assert list(net.blobs['data'].shape) == [1, 1, 4, 4] and net.outputs == outputs
    assert set(net.forward()) == set(outputs)


SHARED = (
    'force_backward: true\n'
    + data('data', 2, 3)
    + ''.join(
        layer(
            name,
            'InnerProduct',
            bottom,
            more='param { name: "w" } param { name: "b" } '
            'inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } }',
        )
        for name, bottom in (('one', 'data'), ('two', 'one'))
    )
)


def test_shared_weights_are_one_memory():
    net = net_of(SHARED)
    one, two = net.params['one'], net.params['two']
    two[0].data[...] = 2
    assert (one[0].data == 2).all()
    net.forward(data=np.ones((2, 3)))
    net.backward(two=np.ones((2, 3)))
    assert (one[0].diff == two[0].diff).all() and one[0].diff[0].tolist() == [24, 24, 24]  # 2 (6 1 + 6 1)
    net.save('weights.caffemodel')
    other = net_of(SHARED, weights='weights.caffemodel')
    assert (other.params['one'][0].data == 2).all() and (other.params['two'][0].data == 2).all()


# solvers


def test_a_solver_solves(solver):
    assert solver.iter == 0 and solver.max_iter == 20
    solver.solve()
    assert solver.iter == 20
    assert type(caffe.get_solver('solver.prototxt')) is caffe.SGDSolver


@pytest.mark.host
def test_an_update_by_hand_reaches_arrays_that_are_held(solver):
    weight = solver.net.layers[1].blobs[0]
    values = weight.data[...]
    values[...] = 0
    weight.diff[...] = 1
    solver.apply_update()
    np.testing.assert_allclose(values, -0.01, rtol=1e-6)  # the first learning rate is 0.01
    assert solver.iter == 1 and solver.lr == pytest.approx(0.01 * 1.0001**-0.75)


def test_a_training_loop_by_hand_equals_step(solver):
    """Clear, forward, backward, update: what step() does."""
    other = caffe.SGDSolver('solver.prototxt')
    other.net.share_with(solver.net)
    weights = {n: [b.data.copy() for b in blobs] for n, blobs in solver.net.params.items()}
    caffe.set_random_seed(8)
    for _ in range(4):
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        solver.apply_update()
    by_hand = {n: [b.data.copy() for b in blobs] for n, blobs in solver.net.params.items()}
    for n, blobs in solver.net.params.items():
        for blob, value in zip(blobs, weights[n]):
            blob.data[...] = value
    other.net.blobs['label'].data[...] = solver.net.blobs['label'].data
    other.param.test_interval = 0
    caffe.set_random_seed(8)
    other.step(4)
    assert other.iter == 4
    for n, blobs in other.net.params.items():
        for blob, value in zip(blobs, by_hand[n]):
            np.testing.assert_allclose(blob.data, value, rtol=1e-5, atol=1e-7)


def test_nets_outlive_their_solver(solver):
    nets = [solver.net, *solver.test_nets]
    assert len(nets) == 2
    del solver
    gc.collect()
    for net in nets:
        for blob in [*net.blobs.values(), *itertools.chain(*net.params.values())]:
            assert np.isfinite(blob.data.sum() + blob.diff.sum())
        assert np.isfinite(net.forward()['loss'])


def test_a_snapshot_goes_on_where_it_was(solver):
    solver.step(3)
    solver.snapshot()
    assert os.path.isfile('model_iter_3.caffemodel') and os.path.isfile('model_iter_3.solverstate')
    saved = solver.net.params['ip'][0].data.copy()
    solver.step(2)
    solver.restore('model_iter_3.solverstate')
    assert solver.iter == 3 and (solver.net.params['ip'][0].data == saved).all()


def test_share_weights_with_another_net(solver):
    net = caffe.Net('net.prototxt', caffe.TEST)
    solver.share_weights(net)
    solver.step(1)
    assert (net.params['ip'][0].data == solver.net.params['ip'][0].data).all()


# Python layers


class Tenfold(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str or 10)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff


class Fails(caffe.Layer):
    def setup(self, bottom, top):
        raise RuntimeError


class Learns(caffe.Layer):
    """Ignores its bottom; its one parameter always has the gradient 1."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] = 1


class TellsPhase(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase


def python(name, bottom, cls, more=''):
    return layer(name, 'Python', bottom, more=f'python_param {{ module: "my_layers" layer: "{cls}" {more} }}')


OLD_INPUT = 'force_backward: true input: "data" input_shape { dim: 10 dim: 9 dim: 8 }\n'
CHAIN = (
    OLD_INPUT
    + python('one', 'data', 'Tenfold')
    + python('two', 'one', 'Tenfold', "param_str: '10'")
    + python('three', 'two', 'Tenfold', "param_str: '2'")
)


def test_python_is_a_type_like_others():
    assert {'Python', 'Data', 'Convolution', 'InnerProduct'} <= set(caffe.layer_type_list())


def test_python_layers_forward_backward_and_reshape():
    net = net_of(CHAIN, caffe.TRAIN)
    net.blobs['data'].data[...] = 8
    assert (net.forward()['three'] == 1600).all()
    net.blobs['three'].diff[...] = 7
    assert (net.backward()['data'] == 1400).all()
    net.blobs['data'].reshape(4, 4, 4, 4)
    net.forward()
    assert {b.data.shape for b in net.blobs.values()} == {(4, 4, 4, 4)}


def test_an_error_in_setup_keeps_its_type():
    with pytest.raises(RuntimeError):
        net_of(OLD_INPUT + python('layer', 'data', 'Fails'))


def test_a_python_layer_has_parameters():
    net = net_of(OLD_INPUT + python('layer', 'data', 'Learns'), caffe.TRAIN)
    net.forward()
    net.backward()
    blob = net.layers[list(net._layer_names).index('layer')].blobs[0]
    assert blob.data[0] == 0 and blob.diff[0] == 1
    blob.data[0] += blob.diff[0]
    net.save('weights')
    blob.data[0] = -1
    net.copy_from('weights')
    assert blob.data[0] == 1
    other = caffe.Net('other.prototxt', caffe.TRAIN)
    other.share_with(net)
    assert other.params['layer'][0].data[0] == 1


def test_a_solver_trains_the_parameter_of_a_python_layer():
    net = (
        data('data', 1, 1)
        + python('layer', 'data', 'Learns')
        + layer('loss', 'Reduction', 'layer', more='loss_weight: 1')
    )
    with open('other.prototxt', 'w') as f:
        f.write(net)
    with open('other_solver.prototxt', 'w') as f:
        f.write('net: "other.prototxt" base_lr: 0.5 lr_policy: "fixed" max_iter: 3 snapshot_prefix: "x"')
    solver = caffe.get_solver('other_solver.prototxt')
    solver.step(3)
    assert solver.net.params['layer'][0].data[0] == -1.5


@pytest.mark.parametrize('phase, name', [(caffe.TRAIN, 'TRAIN'), (caffe.TEST, 'TEST')])
def test_a_python_layer_knows_its_phase(phase, name):
    net = net_of(python('layer', '', 'TellsPhase'), phase)
    assert net.forward()['layer'] == phase and str(net.layers[0].phase) == name


# NetSpec, coordinate maps, drawing, the rest


def lenet(n, batch_size):
    n.data, n.label = L.DummyData(
        shape=[dict(dim=[batch_size, 1, 28, 28]), dict(dim=[batch_size, 1, 1, 1])],
        transform_param=dict(scale=1.0 / 255),
        ntop=2,
    )
    n.conv = L.Convolution(n.data, kernel_size=5, num_output=8, weight_filler=dict(type='xavier'))
    n.pool = L.Pooling(n.conv, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool, num_output=20, weight_filler=dict(type='xavier'))
    n.relu = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu, num_output=10, weight_filler=dict(type='xavier'))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n


def test_a_written_net_runs_with_and_without_names():
    n = lenet(caffe.NetSpec(), 5)
    anonymous = lenet(caffe.NetSpec(), 5).loss.to_proto()
    for proto, loss in ((n.to_proto(), 'loss'), (anonymous, 'SoftmaxWithLoss1')):
        assert proto.layer[4].bottom == proto.layer[4].top
        net = net_of(str(proto))
        assert len(net.layers) == 7 and set(net.forward()) == {loss}
    assert list(n.tops) == ['data', 'label', 'conv', 'pool', 'ip1', 'relu', 'ip2', 'loss']
    assert text_format.Parse(str(n.to_proto()), caffe_pb2.NetParameter()) == n.to_proto()


def test_layers_without_tops_leave_no_outputs():
    n = caffe.NetSpec()
    n.data, n.data2 = L.DummyData(shape=dict(dim=3), ntop=2)
    n.silence, n.silence2 = (L.Silence(top, ntop=0) for top in (n.data, n.data2))
    assert net_of(str(n.to_proto())).forward() == {}
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(L.DummyData(ntop=2), ntop=0)


def up_and_down(kernel=3, stride=1, pad=0, pool=2, up=2, up_pad=0):
    n = caffe.NetSpec()
    n.data, n.aux = L.Input(shape=dict(dim=[2, 1, 100, 100])), L.Input(shape=dict(dim=[2, 1, 20, 20]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool, pad=0)
    kernel = [2 * u for u in up] if isinstance(up, list) else 2 * up
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=kernel, stride=up, pad=up_pad)
    return n


def test_coordinates_map_through_a_net():
    n, padded = up_and_down(), up_and_down(pad=3)
    ax, a, b = coord_map_from_to(n.deconv, n.data)
    assert ax == 1 and np.all(a == 1)
    assert coord_map_from_to(padded.deconv, padded.data) == (ax, a, b - 3)
    n.relu = L.ReLU(n.deconv)
    n.one = L.Convolution(n.relu, num_output=10, kernel_size=1, stride=1, pad=0)
    for top in (n.relu, n.one):
        assert coord_map_from_to(top, n.data) == (ax, a, b)
    n.cut = L.Crop(n.deconv, n.data, axis=2, offset=4)
    assert coord_map_from_to(n.cut, n.data) == (ax, a, b + 4)
    n.both = L.Convolution(n.data, n.aux, ntop=2, num_output=10, kernel_size=5, stride=2, pad=0)
    assert coord_map_from_to(n.both[0], n.data) == coord_map_from_to(n.both[1], n.aux)


def test_axes_map_each_by_its_own_parameters():
    both, small, large = (
        up_and_down(kernel=k, stride=s, pad=p)
        for k, s, p in (([3, 5], [1, 2], [0, 10]), (3, 1, 0), (5, 2, 10))
    )
    ax, a, b = coord_map_from_to(both.deconv, both.data)
    for i, n in enumerate((small, large)):
        assert coord_map_from_to(n.deconv, n.data) == (ax, a[i], b[i])
    n = up_and_down()
    n.data = L.Input(shape=dict(dim=[2, 3, 100, 100, 100]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=[3, 3, 3], stride=[1, 1, 1], pad=[0, 1, 2])
    ax, a, b = coord_map_from_to(n.conv, n.data)
    assert ax == 1 and np.all(a == 1) and list(b) == [1, 0, -1]


def test_tops_that_cannot_be_aligned():
    n = up_and_down()
    n.ip = L.InnerProduct(n.deconv, num_output=10)
    with pytest.raises(RuntimeError):
        coord_map_from_to(n.ip, n.data)
    for wrong in (up_and_down(pool=3, up=2), up_and_down(up_pad=10)):
        with pytest.raises(AssertionError):
            crop(wrong.deconv, wrong.data)
    # x of the data is x + 20 - 1 of conv, (x + 19 - .5) / 2 of pool, 2 (x + 18.5) / 2 + 1.5 of deconv
    fits = up_and_down(pad=20)
    assert crop(fits.deconv, fits.data).fn.params['crop_param'] == dict(axis=2, offset=[20])


MODELS = Path(__file__).parents[2] / 'models' / 'pascal_voc'


def test_every_net_here_can_be_drawn():
    files = [p.read_text() for p in MODELS.glob('*/*/*t') if 'solver' not in p.name]
    assert len(files) > 20
    written = str(lenet(caffe.NetSpec(), 2).to_proto())
    for proto in (NET, RULES, TRAIN_VAL_DEPLOY, SHARED, CHAIN, written, *files):
        net = text_format.Merge(proto, caffe_pb2.NetParameter())
        for rankdir in ('LR', 'TB'):
            picture = caffe.draw.draw_net(net, rankdir, ext='dot').decode()
            assert all(f'"{top}"' in picture for x in net.layer for top in x.top)


def test_blob_protos_of_old_and_new_form():
    old = caffe_pb2.BlobProto(num=1, channels=1, height=10, width=10, data=range(100))
    new = caffe_pb2.BlobProto(shape=dict(dim=[10, 10]), data=range(100))
    assert caffe.io.blobproto_to_array(old).shape == (1, 1, 10, 10)
    assert (caffe.io.blobproto_to_array(new) == np.arange(100).reshape(10, 10)).all()
    assert caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    with pytest.raises(ValueError):
        caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=range(100)))


def test_a_timer_and_a_uid():
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert timer.ms >= 0
    uid = caffe.NCCL.new_uid()
    assert isinstance(uid, bytes) and pickle.loads(pickle.dumps(uid)) == uid


def test_hooks_and_callbacks_time_a_training(solver):
    """As upstream's own train.py does with -timing."""
    timers = [caffe.Timer() for _ in solver.net.layers]
    seen = []
    solver.net.before_forward(lambda i: timers[i].start())
    solver.net.after_forward(lambda i: (timers[i].stop(), seen.append(i)))
    solver.net.before_backward(lambda i: timers[i].start())
    solver.net.after_backward(lambda i: (timers[i].stop(), seen.append(i)))
    solver.add_callback(lambda: seen.append('start'), lambda: seen.append('ready'))
    solver.add_callback(caffe.NCCL(solver, caffe.NCCL.new_uid()))
    solver.step(2)
    assert seen == ['start', 0, 1, 2, 3, 3, 2, 1, 0, 'ready'] * 2


def test_all_names_of_the_package():
    names = """Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver NCCL Timer
        init_log log set_mode_cpu set_mode_gpu set_device Layer get_solver layer_type_list set_random_seed
        solver_count set_solver_count solver_rank set_solver_rank set_multiprocess has_nccl __version__ TRAIN
        TEST Classifier Detector io layers params NetSpec to_proto net_spec proto draw coord_map classifier
        detector pycaffe"""
    assert not [n for n in names.split() if not hasattr(caffe, n)]
    from caffe.pycaffe import Net

    assert Net is caffe.Net
