"""caffe.to_module: a net's answers and gradients from a torch.nn.Module."""

import copy

import numpy as np
import pytest
import torch

import caffe
from helpers import data, layer, net_from

CONV = (
    'convolution_param { num_output: %d kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } }'
)
BACKBONE = (
    data('data', 2, 3, 8, 10)
    + data('rois', 6, 5)
    + data('labels', 6)
    + layer('conv.1', 'Convolution', 'data', 'conv1', CONV % 4)
    + layer('bn', 'BatchNorm', 'conv1', 'conv1', 'batch_norm_param { use_global_stats: %s }')
    + layer('scale', 'Scale', 'conv1', 'conv1', 'scale_param { bias_term: true }')
    + layer('relu', 'ReLU', 'conv1', 'conv1')
    + layer(
        'frozen', 'Convolution', 'conv1', 'frozen', 'param { lr_mult: 0 } param { lr_mult: 0 }' + CONV % 4
    )
    + layer('sum', 'Eltwise', 'conv1 frozen', 'sum')
)
HEAD = layer('pool', '%s', 'sum rois', 'pool', '%s { pooled_h: 3 pooled_w: 3 spatial_scale: 0.5 }') + layer(
    'score',
    'InnerProduct',
    'pool',
    'score',
    'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }',
)
LOSS = layer('loss', 'SoftmaxWithLoss', 'score labels', 'loss', 'loss_weight: 2')
POOL = HEAD % ('ROIPooling', 'roi_pooling_param')
ALIGN = HEAD % ('ROIAlign', 'roi_align_param')


def filled(tmp_path, text, phase=caffe.TRAIN):
    """The net, its statistics those of some batches, and values for its inputs."""
    net, rng = net_from(tmp_path, text, phase), np.random.default_rng(0)
    if 'bn' in net.params:
        for blob, values in zip(net.params['bn'], (rng.standard_normal(4), rng.uniform(1, 2, 4), [2])):
            blob.data[...] = values
    corner = rng.uniform(0, 8, (6, 2))
    feed = {
        'data': rng.standard_normal((2, 3, 8, 10)),
        'rois': np.hstack([np.arange(6)[:, None] % 2, corner, corner + rng.uniform(3, 8, (6, 2))]),
        'labels': rng.integers(0, 5, 6),
    }
    feed = {name: feed[name].astype(np.float32) for name in net.inputs}
    for name, values in feed.items():
        net.blobs[name].data[...] = values
    return net, {name: torch.from_numpy(values) for name, values in feed.items()}


@pytest.mark.parametrize('stats', ['false', 'true'])
@pytest.mark.parametrize('head', [POOL, ALIGN], ids=['pool', 'align'])
def test_answers_gradients_and_statistics_are_the_nets(tmp_path, stats, head):
    net, feed = filled(tmp_path, BACKBONE % stats + head + LOSS)
    module = caffe.to_module(net)
    assert module.inputs == ['data', 'rois', 'labels'] and module.loss_weights == {'loss': 2}
    net.forward()
    net.backward()
    got = module(**feed)
    assert list(got) == net.outputs == ['loss']
    (2 * got['loss']).backward()
    np.testing.assert_allclose(got['loss'].item(), net.blobs['loss'].data, rtol=1e-5)
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            mine = module.get_parameter(f'{name.replace(".", "_")}.{i}') if name != 'bn' else None
            if mine is None:
                np.testing.assert_allclose(module.get_buffer(f'bn.{i}'), blob.data, rtol=1e-5)
            elif name == 'frozen':
                assert not mine.requires_grad
            else:
                np.testing.assert_allclose(mine.grad, blob.diff, rtol=1e-4, atol=1e-5)
    assert list(module.state_dict()) == [
        f'{name.replace(".", "_")}.{i}' for name, blobs in net.params.items() for i in range(len(blobs))
    ]


def test_chosen_outputs_leave_out_what_they_do_not_need(tmp_path):
    net, feed = filled(tmp_path, BACKBONE % 'true' + POOL + LOSS)
    module = caffe.to_module(net, outputs=['sum', 'conv1'])
    assert module.inputs == ['data'] and not hasattr(module, 'score')
    net.forward()
    for name, top in module(feed['data']).items():
        np.testing.assert_allclose(top.detach(), net.blobs[name].data, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no blob 'nothing'; it has data, "):
        caffe.to_module(net, outputs=['nothing'])


def test_inputs_by_place_or_name_each_once(tmp_path):
    net, feed = filled(tmp_path, BACKBONE % 'true' + POOL, caffe.TEST)
    module = caffe.to_module(net)
    for values, named in ((), {}), ((1, 2, 3, 4), {}), ((1,), {'data': 1, 'rois': 2, 'labels': 3}):
        with pytest.raises(TypeError, match='wanted the inputs data, rois, '):
            module(*values, **named)


def test_an_optimizer_trains_it_and_the_net_where_they_share(tmp_path):
    net, feed = filled(tmp_path, BACKBONE % 'true' + POOL + LOSS)
    shared, own = caffe.to_module(net, share=True), caffe.to_module(net)
    net.forward()  # folds the weights of the chain
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        losses.append(shared(**feed)['loss'])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(net.forward()['loss'], shared(**feed)['loss'].item(), rtol=1e-5)
    assert own(**feed)['loss'] == losses[0]
    net.params['score'][1].data[...] = [9, 0, 0, 0, 0]
    assert shared.score.get_parameter('1').tolist() == [9, 0, 0, 0, 0]


def test_copies_of_a_module_are_independent(tmp_path):
    net, feed = filled(tmp_path, BACKBONE % 'false' + POOL + LOSS)
    module = caffe.to_module(net)
    other = copy.deepcopy(module)
    other(**feed)
    assert not torch.equal(other.bn.get_buffer('0'), module.bn.get_buffer('0'))
    other.load_state_dict(module.state_dict())
    assert other(**feed)['loss'] == module(**feed)['loss']


def test_a_parameter_of_two_layers_is_one(tmp_path):
    one = 'param { name: "w" } inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } }'
    text = (
        data('x', 2, 3)
        + layer('a', 'InnerProduct', 'x', 'a', one)
        + layer('b', 'InnerProduct', 'a', 'b', one)
    )
    module = caffe.to_module(net_from(tmp_path, text))
    assert [n for n, _ in module.named_parameters()] == ['a.0'] and module.a.get_parameter(
        '0'
    ) is module.b.get_parameter('0')


class Doubled(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff


class Learned(Doubled):
    def setup(self, bottom, top):
        self.blobs.add_blob(3)


def python(name):
    return layer('two', 'Python', 'x', 'y', f'python_param {{ module: "{__name__}" layer: "{name}" }}')


@pytest.mark.parametrize('wide', [torch.float32, torch.float64])
def test_python_layers_run(tmp_path, wide):
    """In float32; what follows them has the width of what they were given."""
    module = caffe.to_module(net_from(tmp_path, data('x', 2, 3) + python('Doubled')))
    x = torch.randn(4, 3).to(wide).requires_grad_()
    y = module(x)['y']
    y.sum().backward()
    assert y.dtype == wide and torch.equal(y, 2 * x) and (x.grad == 2).all()


def test_python_layers_are_not_exported(tmp_path):
    module = caffe.to_module(net_from(tmp_path, data('x', 2, 3) + python('Doubled')))
    with pytest.raises(
        ValueError, match=r"layer 'two' \(Python\) runs code of its own .* cannot be exported"
    ):
        torch.export.export(module, (torch.ones(2, 3),))
    with pytest.raises(
        ValueError, match=r"layer 'two' \(Python\) runs code of its own on parameters of its own"
    ):
        caffe.to_module(net_from(tmp_path, data('x', 2, 3) + python('Learned')))


def test_torch_compiles_and_exports_it(tmp_path):
    net, feed = filled(tmp_path, BACKBONE % 'true' + ALIGN, caffe.TEST)
    module = caffe.to_module(net, outputs=['score'])
    want = module(**{name: feed[name] for name in module.inputs})['score']
    inputs = [feed[name] for name in module.inputs]
    compiled = torch.compile(module, backend='eager', fullgraph=True)
    assert torch.equal(compiled(*inputs)['score'], want)
    exported = torch.export.export(module, tuple(inputs)).module()
    torch.testing.assert_close(exported(*inputs)['score'], want)
