"""Net: building, ranges, gradients of shared and in-place blobs, weights, errors."""

import sys
import types
import weakref

import numpy as np
import pytest

import caffe
from helpers import data, layer, net_from

GAUSS = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 }'
IP = 'inner_product_param { num_output: %d ' + GAUSS + ' }'
CONV = 'convolution_param { num_output: 4 kernel_size: 3 pad: 1 ' + GAUSS + ' }'


def small(tmp_path, **kwargs):
    return net_from(
        tmp_path,
        data('data', 2, 3)
        + layer('ip1', 'InnerProduct', 'data', more=IP % 4)
        + layer('relu1', 'ReLU', 'ip1', 'ip1')
        + layer('ip2', 'InnerProduct', 'ip1', more=IP % 2),
        **kwargs,
    )


def test_both_constructors(tmp_path):
    net = small(tmp_path)
    weights = str(tmp_path / 'w.caffemodel')
    net.save(weights)
    path = str(tmp_path / 'net.prototxt')
    for other in (
        caffe.Net(path, weights, caffe.TEST),
        caffe.Net(path, caffe.TEST, weights=weights),
        caffe.Net(tmp_path / 'net.prototxt', tmp_path / 'w.caffemodel', caffe.TEST),
    ):
        for name, blobs in net.params.items():
            for a, b in zip(blobs, other.params[name]):
                assert (a.data == b.data).all()
    with pytest.raises(TypeError, match='phase'):
        caffe.Net(path)


def test_graph_as_pycaffe_shows_it(tmp_path):
    net = small(tmp_path)
    assert list(net.blobs) == ['data', 'ip1', 'ip2'] and net.inputs == ['data'] and net.outputs == ['ip2']
    assert list(net._layer_names) == ['data', 'ip1', 'relu1', 'ip2'] and list(net.params) == ['ip1', 'ip2']
    assert net.bottom_names['ip2'] == ['ip1'] and net.top_names['relu1'] == ['ip1']
    assert net.layers[1].type == 'InnerProduct' and net.layer_dict['ip2'] is net.layers[3]
    assert net._inputs == [0] and net._outputs == [2] and net._bottom_ids(2) == [1]


def test_a_net_is_shown_as_a_table(tmp_path):
    assert repr(small(tmp_path)).splitlines() == [
        "Net '', TEST",
        'layer  type          tops         parameters',
        'data   Input         data (2, 3)',
        'ip1    InnerProduct  ip1 (2, 4)           16',
        'relu1  ReLU          ip1 (2, 4)',
        'ip2    InnerProduct  ip2 (2, 2)           10',
        'total                                     26',
    ]


def test_unknown_names_are_told_the_nearest(tmp_path):
    net = small(tmp_path)
    for things, name, message in (
        (net.blobs, 'dato', "no blob 'dato'; did you mean data"),
        (net.params, 'ip3', "no layer with parameters 'ip3'; did you mean ip2 or ip1"),
        (net.layer_dict, 'relu', "no layer 'relu'; did you mean relu1"),
        (net.top_names, 7, 'no layer 7'),
    ):
        with pytest.raises(KeyError, match=message):
            things[name]
        assert name not in things and things.get(name) is None and list(things.copy()) == list(things)


def test_forward_by_ranges_equals_whole(tmp_path):
    net = small(tmp_path)
    x = np.random.RandomState(0).randn(2, 3).astype(np.float32)
    whole = net.forward(data=x)['ip2'].copy()
    w, b = (p.data for p in net.params['ip1'])
    w2, b2 = (p.data for p in net.params['ip2'])
    np.testing.assert_allclose(whole, np.maximum(x @ w.T + b, 0) @ w2.T + b2, rtol=1e-5, atol=1e-5)
    assert list(net.forward(end='ip1')) == ['ip1']
    np.testing.assert_allclose(net.blobs['ip1'].data, x @ w.T + b, rtol=1e-5, atol=1e-5)
    net.forward(start='relu1')
    np.testing.assert_allclose(net.blobs['ip2'].data, whole, rtol=1e-5)
    net.blobs['ip1'].data[...] = 0
    np.testing.assert_allclose(net.forward(start='ip2')['ip2'], np.tile(b2, (2, 1)), rtol=1e-6)
    with pytest.raises(ValueError, match="no layer 'ip3'; did you mean ip"):
        net.forward(end='ip3')
    with pytest.raises(ValueError, match="inputs given are \\['date'\\]"):
        net.forward(date=x)


def test_extra_blobs_and_reshape(tmp_path):
    net = small(tmp_path)
    net.blobs['data'].reshape(5, 3)
    net.reshape()
    assert net.blobs['ip2'].shape == (5, 2)
    out = net.forward(blobs=['ip1'])
    assert set(out) == {'ip1', 'ip2'} and out['ip2'].shape == (5, 2)


def test_held_output_view_follows_forward(tmp_path):
    net = small(tmp_path)
    out = net.forward(data=np.zeros((2, 3)))['ip2']
    before = out.copy()
    net.forward(data=np.ones((2, 3)))
    assert not np.allclose(out, before) and (out == net.blobs['ip2'].data).all()


def test_forward_all_pads_and_cuts(tmp_path):
    net = small(tmp_path)
    x = np.random.RandomState(1).randn(5, 3).astype(np.float32)
    got = net.forward_all(data=x)['ip2']
    assert got.shape == (5, 2)
    np.testing.assert_allclose(got[4], net.forward(data=x[[4, 4]])['ip2'][0], rtol=1e-5)


def test_backward_needs_force_without_loss(tmp_path):
    net = small(tmp_path)
    net.forward(data=np.ones((2, 3)))
    assert (net.backward(ip2=np.ones((2, 2)))['data'] == 0).all()


def test_fan_out_adds_gradients_and_in_place_versions_stay_apart(tmp_path):
    """a -> (b = 2a), then a' = relu(a) in place -> (c = 3a'); loss = sum(b) + sum(c), so d/da = 2 + 3 [a > 0]."""
    text = (
        'force_backward: true\n'
        + data('a', 4)
        + layer('b', 'Power', 'a', more='power_param { scale: 2 }')
        + layer('relu', 'ReLU', 'a', 'a')
        + layer('c', 'Power', 'a', more='power_param { scale: 3 }')
        + layer('sum', 'Eltwise', 'b c')
        + layer('loss', 'Reduction', 'sum', more='loss_weight: 1')
    )
    net = net_from(tmp_path, text)
    for _ in range(2):  # diffs of a second pass do not pile up on the first
        net.forward(a=np.array([-1, 2, -3, 4]))
        net.backward()
        assert net.blobs['a'].diff.tolist() == [2, 5, 2, 5]
    assert net.blobs['c'].diff.tolist() == [1, 1, 1, 1]


def test_same_blob_twice_as_bottom(tmp_path):
    net = net_from(
        tmp_path,
        'force_backward: true\n' + data('a', 3) + layer('s', 'Eltwise', 'a a', more='loss_weight: 1'),
    )
    net.forward(a=np.ones(3))
    net.backward()
    assert net.blobs['a'].diff.tolist() == [2, 2, 2]


def test_backward_from_a_hand_set_diff(tmp_path):
    net = net_from(
        tmp_path,
        'force_backward: true\n'
        + data('a', 3)
        + layer('b', 'Power', 'a', more='power_param { scale: 2 }')
        + layer('c', 'Power', 'b', more='power_param { scale: 5 }'),
    )
    net.forward(a=np.ones(3))
    net.blobs['b'].diff[...] = [1, 2, 3]
    assert net.backward(start='b')['a'].tolist() == [2, 4, 6]
    assert net.backward(c=np.ones(3))['a'].tolist() == [10, 10, 10]


def test_loss_weight_and_propagate_down(tmp_path):
    text = (
        'force_backward: true\n'
        + data('a', 1, 3)
        + data('b', 1, 3)
        + layer('loss', 'EuclideanLoss', 'a b', more='loss_weight: 4')
    )
    net = net_from(tmp_path, text)
    net.forward(a=np.array([[1.0, 2, 3]]), b=np.zeros((1, 3)))
    assert (
        float(net.blobs['loss'].data) == 7 and net._forward(0, 2) == 28 and net.blob_loss_weights['loss'] == 4
    )
    net.backward()
    assert net.blobs['a'].diff.tolist() == [[4, 8, 12]] and net.blobs['b'].diff.tolist() == [[-4, -8, -12]]


def test_a_loss_that_another_layer_reads_keeps_its_weight(tmp_path):
    """s = sum(a) with weight 2, and t = 3 s with weight 1: the loss is 5 sum(a), its gradient 5."""
    text = (
        'force_backward: true\n'
        + data('a', 4)
        + layer('s', 'Reduction', 'a', more='loss_weight: 2')
        + layer('t', 'Power', 's', more='power_param { scale: 3 } loss_weight: 1')
    )
    net = net_from(tmp_path, text)
    for _ in range(2):
        net.blobs['a'].data[...] = [1, 2, 3, 4]
        assert net._forward(0, 2) == 50
        net.backward()
        assert net.blobs['a'].diff.tolist() == [5, 5, 5, 5] and float(net.blobs['s'].diff) == 5


def test_frozen_layers_get_no_gradient(tmp_path):
    text = (
        data('data', 2, 3)
        + data('label', 2, 2)
        + layer('ip1', 'InnerProduct', 'data', more='param { lr_mult: 0 } param { lr_mult: 0 } ' + IP % 4)
        + layer('ip2', 'InnerProduct', 'ip1', more=IP % 2)
        + layer('loss', 'EuclideanLoss', 'ip2 label')
    )
    net = net_from(tmp_path, text, caffe.TRAIN)
    net.forward(data=np.ones((2, 3)), label=np.zeros((2, 2)))
    net.backward()
    assert (net.params['ip1'][0].diff == 0).all() and (net.blobs['ip1'].diff == 0).all()
    assert (net.params['ip2'][0].diff != 0).any()


def test_parameter_diffs_add_up_and_clear(tmp_path):
    net = net_from(
        tmp_path,
        data('data', 1, 3)
        + data('label', 1, 2)
        + layer('ip', 'InnerProduct', 'data', more=IP % 2)
        + layer('loss', 'EuclideanLoss', 'ip label'),
        caffe.TRAIN,
    )
    net.forward(data=np.ones((1, 3)), label=np.zeros((1, 2)))
    net.backward()
    once = net.params['ip'][0].diff.copy()
    net.backward()
    np.testing.assert_allclose(net.params['ip'][0].diff, 2 * once, rtol=1e-6)
    net.clear_param_diffs()
    assert (net.params['ip'][0].diff == 0).all()


def test_shared_parameters_are_one(tmp_path):
    share = 'param { name: "w" } param { name: "b" } '
    text = (
        'force_backward: true\n'
        + data('data', 1, 3)
        + layer('ip1', 'InnerProduct', 'data', more=share + IP % 3)
        + layer('ip2', 'InnerProduct', 'ip1', more=share + IP % 3 + ' loss_weight: 1')
    )
    net = net_from(tmp_path, text)
    net.params['ip1'][0].data[...] = np.eye(3)
    assert (net.params['ip2'][0].data == np.eye(3)).all() and len(net.learnable_params) == 2
    net.forward(data=np.ones((1, 3)))
    net.backward()
    np.testing.assert_allclose(
        net.params['ip1'][1].diff, [2, 2, 2]
    )  # through ip2's bias and, by W = I, through ip1's
    with pytest.raises(ValueError, match="'w' has the shape \\(4, 3\\), but layer 'ip1'"):
        net_from(
            tmp_path,
            text.replace('num_output: 3', 'num_output: 4', 2).replace('num_output: 4', 'num_output: 3', 1),
        )


def test_copy_from_and_share_with(tmp_path):
    net, other = small(tmp_path), small(tmp_path)
    net.params['ip1'][0].data[...] = 2
    other.share_with(net)
    net.params['ip1'][0].data[0, 0] = 3
    assert other.params['ip1'][0].data[0, 0] == 3
    for name in ('w.caffemodel', 'w.caffemodel.h5'):
        net.save(str(tmp_path / name))
        fresh = small(tmp_path)
        fresh.copy_from(str(tmp_path / name))
        assert (fresh.params['ip1'][0].data == net.params['ip1'][0].data).all()
        assert [f for f in tmp_path.iterdir() if f.name.startswith(name)] == [
            tmp_path / name
        ]  # no temporary file stays


def test_copy_from_tells_what_it_leaves_aside(tmp_path, caplog):
    net, path = small(tmp_path), str(tmp_path / 'w.caffemodel')
    net.save(path)
    text = 'name: "bare" layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    net_from(tmp_path, text).copy_from(path)
    count, layers = len(net.params), ', '.join(net.params)
    assert f"{path} has {count} layers that net 'bare' leaves aside: {layers}" in caplog.text


def test_copy_from_says_what_does_not_fit(tmp_path):
    net = small(tmp_path)
    path = str(tmp_path / 'w.caffemodel')
    net.save(path)
    other = net_from(tmp_path, data('data', 2, 3) + layer('ip1', 'InnerProduct', 'data', more=IP % 5))
    with pytest.raises(
        ValueError, match="w.caffemodel.*parameter 0 of layer 'ip1'.*shape mismatch.*\\(4, 3\\).*\\(5, 3\\)"
    ):
        other.copy_from(path)
    other = net_from(
        tmp_path,
        data('data', 2, 3)
        + layer('ip1', 'InnerProduct', 'data', more='inner_product_param { num_output: 4 bias_term: false }'),
    )
    with pytest.raises(ValueError, match="'ip1' has 2 parameter blobs.*wants 1"):
        other.copy_from(path)
    with pytest.raises(FileNotFoundError, match='nowhere.caffemodel'):
        net.copy_from(str(tmp_path / 'nowhere.caffemodel'))


@pytest.mark.parametrize(
    'text, message',
    [
        (
            data('data', 1, 2) + layer('x', 'Relu', 'data'),
            "layer 'x': unknown layer type 'Relu'; did you mean ReLU",
        ),
        (data('data', 1, 2) + layer('x', 'ReLU', 'dota'), "bottom 0 is 'dota'.*did you mean data"),
        (data('data', 1, 2) + data('data', 1, 2), "top 'data' is already made"),
        (
            data('data', 1, 2) + layer('x', 'ReLU', 'data', more='loss_weight: 1 loss_weight: 2'),
            '2 loss_weight for 1 tops',
        ),
        (
            data('data', 1, 2) + layer('x', 'ReLU', 'data', more='param { lr_mult: 1 }'),
            '1 param {} for 0 parameter blobs',
        ),
        (
            data('data', 1, 2) + layer('x', 'InnerProduct', 'data'),
            "layer 'x' \\(InnerProduct\\), bottom shapes \\(1, 2\\): num_output",
        ),
        (
            data('a', 1, 2) + data('b', 1, 3) + layer('x', 'Eltwise', 'a b'),
            "layer 'x' \\(Eltwise\\).*\\(1, 2\\), \\(1, 3\\)",
        ),
    ],
)
def test_wrong_nets(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        net_from(tmp_path, text)


def test_missing_prototxt(tmp_path):
    with pytest.raises(FileNotFoundError, match='no.prototxt'):
        caffe.Net(str(tmp_path / 'no.prototxt'), caffe.TEST)


class Twice(caffe.Layer):
    """A user's layer: top = param_str * bottom."""

    def setup(self, bottom, top):
        self.factor = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff


class Silent(Twice):
    """Writes no diff."""

    def backward(self, top, propagate_down, bottom):
        pass


class Counts(caffe.Layer):
    """Writes its phase and a parameter."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom, top):
        top[0].reshape(2)

    def forward(self, bottom, top):
        self.blobs[0].data[0] += 1
        top[0].data[:] = [self.phase, self.blobs[0].data[0]]

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += 1


@pytest.fixture
def user_module():
    module = types.ModuleType('user_layers')
    module.Twice, module.Silent, module.Counts = Twice, Silent, Counts
    sys.modules['user_layers'] = module
    yield module
    del sys.modules['user_layers']


def python(name, bottoms, cls, param_str='', more=''):
    return layer(
        name,
        'Python',
        bottoms,
        more=f'python_param {{ module: "user_layers" layer: "{cls}" param_str: "{param_str}" }} {more}',
    )


def test_python_layers(tmp_path, user_module):
    text = (
        'force_backward: true\n'
        + data('a', 2)
        + python('b', 'a', 'Twice', '2')
        + python('c', 'a', 'Twice', '5')
        + layer('s', 'Eltwise', 'b c', more='loss_weight: 1')
        + python('n', '', 'Counts')
    )
    net = net_from(tmp_path, text, caffe.TRAIN)
    assert isinstance(net.layers[1], Twice) and net.layers[1].param_str == net.layers[1].param_str_ == '2'
    net.forward(a=np.array([1, 3]))
    out = net.forward(a=np.array([1, 3]))
    assert (
        net.blobs['s'].data.tolist() == [7, 21]
        and out['n'].tolist() == [0, 2]
        and net.params['n'][0].data[0] == 2
    )
    assert net.layers[1].phase == 0 and str(net.layers[1].phase) == 'TRAIN' and f'{caffe.TEST}' == 'TEST'
    net.backward()
    assert net.blobs['a'].diff.tolist() == [7, 7]


def test_python_layer_that_writes_no_diff_has_none(tmp_path, user_module):
    text = (
        'force_backward: true\n'
        + data('a', 2)
        + python('b', 'a', 'Twice', '2')
        + python('c', 'a', 'Silent', '5')
        + layer('s', 'Eltwise', 'b c', more='loss_weight: 1')
    )
    net = net_from(tmp_path, text, caffe.TRAIN)
    for _ in range(2):
        net.forward()
        net.backward()
        assert net.blobs['a'].diff.tolist() == [2, 2]


def test_python_layer_errors(tmp_path, user_module, monkeypatch):
    with pytest.raises(ImportError, match="layer 'b'.*'exit' of module 'sys' is .*subclass of caffe.Layer"):
        net_from(
            tmp_path,
            data('x') + layer('b', 'Python', 'x', more='python_param { module: "sys" layer: "exit" }'),
        )
    with pytest.raises(ImportError, match="layer 'b'.*no class 'Thrice'"):
        net_from(tmp_path, data('a', 2) + python('b', 'a', 'Thrice'))
    with pytest.raises(ModuleNotFoundError, match="layer 'b': no module 'nowhere'"):
        net_from(tmp_path, data('a', 2) + python('b', 'a', 'Twice').replace('user_layers', 'nowhere'))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'needy_layers.py').write_text('import elsewhere\n')
    with pytest.raises(
        ModuleNotFoundError, match="layer 'b': module 'needy_layers' .*No module named 'elsewhere'"
    ):
        net_from(tmp_path, data('a', 2) + python('b', 'a', 'Twice').replace('user_layers', 'needy_layers'))


@pytest.mark.parametrize(
    'allowed, right',
    [
        (None, True),
        (['user_layers'], True),
        (['other', 'user_layers.sub'], False),
        (['user'], False),
        ([], False),
    ],
)
def test_a_prototxt_names_only_python_modules_that_are_allowed(
    allowed, right, tmp_path, user_module, monkeypatch
):
    monkeypatch.setenv('CAFFE_PYTHON_LAYERS', 'nothing')
    caffe.set_python_layers(allowed)
    text = data('a', 2) + python('b', 'a', 'Twice', '2')
    if right:
        net_from(tmp_path, text)
    else:
        with pytest.raises(
            ValueError, match=f"layer 'b'.*'user_layers' .*: {', '.join(allowed) or 'none'} .*CAFFE_"
        ):
            net_from(tmp_path, text)


def test_the_environment_allows_python_modules_before_they_are_imported(tmp_path, monkeypatch):
    monkeypatch.setenv('CAFFE_PYTHON_LAYERS', 'rpn, bundle')
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'bundle').mkdir()
    (tmp_path / 'bundle' / 'good.py').write_text('import caffe\nclass Twice(caffe.Layer): forward = print')
    (tmp_path / 'bundled.py').write_text('raise SystemExit')
    text = data('a', 2) + python('b', '', 'Twice')
    net_from(tmp_path, text.replace('user_layers', 'bundle.good'))
    with pytest.raises(ValueError, match="'bundled' is not among"):
        net_from(tmp_path, text.replace('user_layers', 'bundled'))
    with pytest.raises(TypeError, match='list'):
        caffe.set_python_layers('rpn')


def test_memory_goes_with_the_net(tmp_path):
    net = small(tmp_path)
    net.forward()
    tensor = weakref.ref(net.blobs['ip1'])
    del net
    assert tensor() is None  # without waiting for the cycle collector


FROZEN = 'batch_norm_param { use_global_stats: true }'


def chain_text(force=True):
    """conv + bn + scale + relu in place, then conv + relu, added to a side branch."""
    return (
        ('force_backward: true\n' if force else '')
        + data('data', 2, 3, 6, 5)
        + layer('conv', 'Convolution', 'data', more=CONV)
        + layer('bn', 'BatchNorm', 'conv', 'conv', FROZEN)
        + layer(
            'scale',
            'Scale',
            'conv',
            'conv',
            'scale_param { bias_term: true filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 } }',
        )
        + layer('relu', 'ReLU', 'conv', 'conv')
        + layer('conv2', 'Convolution', 'conv', more=CONV)
        + layer('sum', 'Eltwise', 'conv conv2')
        + layer('relu2', 'ReLU', 'sum', 'sum')
        + layer('loss', 'Reduction', 'sum', more='loss_weight: 1')
    )


def test_chains_equal_their_layers_one_by_one(tmp_path):
    rng = np.random.RandomState(2)
    net = net_from(tmp_path, chain_text())
    net.params['bn'][0].data[...] = rng.randn(4)
    net.params['bn'][1].data[...] = rng.rand(4) + 0.5
    net.params['bn'][2].data[...] = 2
    plain = net_from(tmp_path, chain_text())
    plain.share_with(net)
    plain._runner.chains = {}
    assert {len(c.layers) for c in net._runner.chains.values()} == {4, 1, 2}
    x = rng.randn(2, 3, 6, 5)
    for _ in range(2):
        for n in (net, plain):
            n.clear_param_diffs()
            n.forward(data=x)
            n.backward()
        for name in net.blobs:
            np.testing.assert_allclose(
                net.blobs[name].data, plain.blobs[name].data, rtol=1e-4, atol=1e-4, err_msg=name
            )
            np.testing.assert_allclose(
                net.blobs[name].diff, plain.blobs[name].diff, rtol=1e-3, atol=1e-3, err_msg=name
            )
        for name in net.params:
            for a, b in zip(net.params[name], plain.params[name]):
                np.testing.assert_allclose(a.diff, b.diff, rtol=1e-3, atol=1e-3, err_msg=name)
        net.params['scale'][0].data[...] = rng.randn(4)  # kept products must notice


@pytest.mark.host
def test_chain_notices_every_kind_of_write(tmp_path):
    net = net_from(tmp_path, chain_text(force=False))
    x = np.random.RandomState(3).randn(2, 3, 6, 5)
    first = net.forward(data=x, blobs=['conv'])['conv'].copy()
    assert (net.forward(data=x, blobs=['conv'])['conv'] == first).all()
    held = net.params['conv'][1].data
    held += 1  # a view taken before
    second = net.forward(data=x, blobs=['conv'])['conv'].copy()
    held += 1  # and written again, with nobody asked
    third = net.forward(data=x, blobs=['conv'])['conv'].copy()
    assert not np.allclose(first, second) and not np.allclose(second, third)


def test_part_of_a_chain_backward(tmp_path):
    net = net_from(tmp_path, chain_text())
    net.params['bn'][1].data[...] = 1
    net.params['bn'][2].data[...] = 1
    net.forward(data=np.random.RandomState(4).randn(2, 3, 6, 5))
    net.backward()
    want = net.blobs['conv'].diff.copy(), net.blobs['data'].diff.copy()
    net.backward(end='conv2')
    net.backward(start='relu', end='scale')  # inside the chain
    net.backward(start='bn', end='conv')
    np.testing.assert_allclose(net.blobs['data'].diff, want[1], rtol=1e-3, atol=1e-4)


def test_hooks_see_each_layer(tmp_path):
    net, seen = small(tmp_path), []
    net.after_forward(lambda i: seen.append((net._layer_names[i], float(net.blobs['ip1'].data.min()))))
    net.forward(data=-np.ones((2, 3)))
    assert [name for name, _ in seen] == ['data', 'ip1', 'relu1', 'ip2'] and seen[2][1] >= 0
    assert seen[1][1] == pytest.approx(
        float((net.params['ip1'][1].data - net.params['ip1'][0].data.sum(1)).min()), abs=1e-5
    )


def test_losses_without_tops_count_and_are_no_outputs(tmp_path):
    """As in old nets; the two losses are 1 / 2 and 4 / 2."""
    net = net_from(
        tmp_path,
        data('a', 1, 1)
        + data('b', 1, 1)
        + data('c', 1, 1)
        + layer('one', 'EuclideanLoss', 'a b', '')
        + layer('two', 'EuclideanLoss', 'a c', ''),
        caffe.TRAIN,
    )
    assert net.forward(a=[[0]], b=[[1]], c=[[2]]) == {} and net.outputs == [] and len(net.blobs) == 5
    assert net._forward(0, 4) == 2.5
