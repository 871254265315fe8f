"""Scripts in the manner of pycaffe's users, as they were written ten years ago: surgery, features,
fine-tuning, dreams, segmentation, detection. Answers are found another way: a loop, a difference, a second net.
"""

import sys

import cv2
import h5py
import numpy as np
import pytest
from google.protobuf import text_format

import caffe
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each script in an empty folder; classes of this file can be Python layers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'my_layers', sys.modules[__name__])
    np.random.seed(0)
    caffe.set_random_seed(0)


def write(path, text):
    with open(path, 'w') as f:
        f.write(str(text))
    return path


def solver_for(net, **fields):
    """A solver file for a net's prototxt, in the manner of solver-writing functions."""
    s = caffe_pb2.SolverParameter(
        net=net,
        base_lr=0.01,
        momentum=0.9,
        lr_policy='fixed',
        type='SGD',
        max_iter=100,
        snapshot_prefix='snapshot',
        **fields,
    )
    return caffe.get_solver(write('solver.prototxt', s))


# A classifier in the V1 format of the zoo's VGG nets, and its fully convolutional twin.
INPUT = """name: "V1" force_backward: true
input: "data" input_dim: %d input_dim: 3 input_dim: %d input_dim: %d
"""
BODY = """
layers { bottom: "data" top: "conv1" name: "conv1" type: CONVOLUTION
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 8 pad: 1 kernel_size: 3 weight_filler { type: "xavier" } } }
layers { bottom: "conv1" top: "conv1" name: "relu1" type: RELU }
layers { bottom: "conv1" top: "pool1" name: "pool1" type: POOLING
  pooling_param { pool: MAX kernel_size: 4 stride: 4 } }
"""
HEAD = """
layers { bottom: "pool1" top: "fc6" name: "fc6" type: INNER_PRODUCT
  inner_product_param { num_output: 32 weight_filler { type: "xavier" } } }
layers { bottom: "fc6" top: "fc6" name: "relu6" type: RELU }
layers { bottom: "fc6" top: "fc6" name: "drop6" type: DROPOUT dropout_param { dropout_ratio: 0.5 } }
layers { bottom: "fc6" top: "fc8" name: "fc8" type: INNER_PRODUCT
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layers { bottom: "fc8" top: "prob" name: "prob" type: SOFTMAX }
"""
CONV_HEAD = """
layers { bottom: "pool1" top: "fc6-conv" name: "fc6-conv" type: CONVOLUTION
  convolution_param { num_output: 32 kernel_size: 4 } }
layers { bottom: "fc6-conv" top: "fc6-conv" name: "relu6" type: RELU }
layers { bottom: "fc6-conv" top: "fc8-conv" name: "fc8-conv" type: CONVOLUTION
  convolution_param { num_output: 5 kernel_size: 1 } }
layers { bottom: "fc8-conv" top: "prob" name: "prob" type: SOFTMAX }
"""


@pytest.fixture
def net():
    """deploy.prototxt with weights.caffemodel, and the net of both."""
    net = caffe.Net(write('deploy.prototxt', INPUT % (10, 16, 16) + BODY + HEAD), caffe.TEST)
    for blobs in net.params.values():
        blobs[1].data[...] = np.random.randn(*blobs[1].data.shape) * 0.1
    net.save('weights.caffemodel')
    return caffe.Net('deploy.prototxt', 'weights.caffemodel', caffe.TEST)


def image(height, width):
    """A float image as caffe.io.load_image gives it."""
    return np.random.rand(height, width, 3).astype(np.float32)


def preprocess(net):
    transformer = caffe.io.Transformer({'data': net.blobs['data'].data.shape})
    transformer.set_transpose('data', (2, 0, 1))
    transformer.set_channel_swap('data', (2, 1, 0))
    transformer.set_raw_scale('data', 255)
    transformer.set_mean('data', np.array([104, 117, 123]))
    return transformer


# Surgery on parameters


def test_fully_connected_layers_become_convolutions(net):
    """Each place of the map is what the classifier says of the window there."""
    write('full_conv.prototxt', INPUT % (1, 32, 24) + BODY + CONV_HEAD)
    net_full_conv = caffe.Net('full_conv.prototxt', 'weights.caffemodel', caffe.TEST)
    params, params_full_conv = ['fc6', 'fc8'], ['fc6-conv', 'fc8-conv']
    fc_params = {pr: (net.params[pr][0].data, net.params[pr][1].data) for pr in params}
    conv_params = {
        pr: (net_full_conv.params[pr][0].data, net_full_conv.params[pr][1].data) for pr in params_full_conv
    }
    for pr, pr_conv in zip(params, params_full_conv):
        conv_params[pr_conv][0].flat = fc_params[pr][0].flat
        conv_params[pr_conv][1][...] = fc_params[pr][1]
    net_full_conv.save('full_conv.caffemodel')
    net_full_conv = caffe.Net('full_conv.prototxt', 'full_conv.caffemodel', caffe.TEST)
    prob = net_full_conv.forward_all(data=np.asarray([np.random.randn(3, 32, 24)]))['prob'][0]
    assert prob.shape == (5, 5, 3)
    pooled = net_full_conv.blobs['pool1'].data
    net.blobs['data'].reshape(1, 3, 16, 16)
    net.reshape()
    for y, x in np.ndindex(5, 3):
        net.blobs['pool1'].data[...] = pooled[:, :, y : y + 4, x : x + 4]
        np.testing.assert_allclose(net.forward(start='fc6')['prob'][0], prob[:, y, x], rtol=1e-4)


def test_a_filter_is_written_by_hand(net):
    """Parameters are edited in place between passes; the next pass knows."""
    data = net.blobs['data'].data
    data[...] = np.random.rand(*data.shape)
    net.params['conv1'][1].data[0] = 1.0
    net.params['conv1'][0].data[0] = 0
    net.params['conv1'][0].data[0, 1, 1, 1] = 3.0
    net.forward()
    np.testing.assert_allclose(net.blobs['conv1'].data[:, 0], 3 * data[:, 1] + 1, rtol=1e-5)
    net.params['conv1'][0].data[0] *= 2
    net.forward()
    np.testing.assert_allclose(net.blobs['conv1'].data[:, 0], 6 * data[:, 1] + 1, rtol=1e-5)


def test_batch_normalization_is_merged_into_a_convolution():
    """The script everybody has: read the statistics, scale the filters, write another net's parameters."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 3, 9, 9]))
    n.conv = L.Convolution(
        n.data, num_output=4, kernel_size=3, bias_term=False, weight_filler=dict(type='msra')
    )
    merged = caffe.NetSpec()
    merged.data = n.data
    merged.conv = L.Convolution(n.data, num_output=4, kernel_size=3)
    n.bn = L.BatchNorm(n.conv, in_place=True)
    n.scale = L.Scale(n.bn, bias_term=True, in_place=True)
    net = caffe.Net(write('bn.prototxt', n.to_proto()), caffe.TEST)
    net.params['bn'][0].data[...] = np.random.randn(4)
    net.params['bn'][1].data[...] = np.random.rand(4) + 1
    net.params['bn'][2].data[0] = 2
    net.params['scale'][0].data[...] = np.random.rand(4)
    net.params['scale'][1].data[...] = np.random.randn(4)
    other = caffe.Net(write('merged.prototxt', merged.to_proto()), caffe.TEST)
    mean, var, factor = (net.params['bn'][i].data for i in range(3))
    alpha = net.params['scale'][0].data / np.sqrt(var / factor[0] + 1e-5)
    other.params['conv'][0].data[...] = net.params['conv'][0].data * alpha[:, None, None, None]
    other.params['conv'][1].data[...] = net.params['scale'][1].data - mean / factor[0] * alpha
    x = np.random.randn(2, 3, 9, 9)
    want = net.forward(data=x)['conv']
    np.testing.assert_allclose(other.forward(data=x)['conv'], want, rtol=1e-4, atol=1e-5)


def test_weights_are_edited_as_a_message(net):
    model = caffe_pb2.NetParameter()
    with open('weights.caffemodel', 'rb') as f:
        model.ParseFromString(f.read())
    found = {
        layer.name: [caffe.io.blobproto_to_array(b) for b in layer.blobs]
        for layer in model.layer
        if layer.blobs
    }
    assert list(found) == ['conv1', 'fc6', 'fc8'] and (found['fc8'][0] == net.params['fc8'][0].data).all()
    for layer in model.layer:
        if layer.name == 'fc8':
            layer.blobs[1].data[:] = [1, 2, 3, 4, 5]
    with open('edited.caffemodel', 'wb') as f:
        f.write(model.SerializeToString())
    edited = caffe.Net('deploy.prototxt', 'edited.caffemodel', caffe.TEST)
    assert edited.params['fc8'][1].data.tolist() == [1, 2, 3, 4, 5]
    assert (edited.params['fc6'][0].data == net.params['fc6'][0].data).all()


# Inputs, features, scores


def test_features_by_blob_name(net):
    """A batch of one, then of five; each row stands for its image, whatever the batch."""
    transformer = preprocess(net)
    images = [image(20, 30) for _ in range(5)]
    single = []
    for im in images:
        net.blobs['data'].reshape(1, 3, 16, 16)
        net.blobs['data'].data[...] = transformer.preprocess('data', im)
        net.forward()
        single.append(net.blobs['fc6'].data[0].copy())
    net.blobs['data'].reshape(5, 3, 16, 16)
    net.blobs['data'].data[...] = list(map(lambda im: transformer.preprocess('data', im), images))
    out = net.forward(blobs=['fc6', 'pool1'])
    np.testing.assert_allclose(out['fc6'], single, rtol=1e-4, atol=1e-3)
    assert out['pool1'].shape == (5, 8, 4, 4) and out['prob'].shape == (5, 5)
    shapes = [(k, v.data.shape) for k, v in net.blobs.items()]
    assert shapes[:2] == [('data', (5, 3, 16, 16)), ('conv1', (5, 8, 16, 16))]


def test_a_classifier_averages_ten_crops(net):
    classifier = caffe.Classifier(
        'deploy.prototxt',
        'weights.caffemodel',
        image_dims=(20, 20),
        raw_scale=255,
        mean=np.array([104, 117, 123]),
        channel_swap=(2, 1, 0),
    )
    images = [image(20, 20), image(20, 20)]
    scores = classifier.predict(images, oversample=True)
    transformer = preprocess(net)
    for im, score in zip(images, scores):
        crops = [im[y : y + 16, x : x + 16] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
        crops += [crop[:, ::-1] for crop in crops]
        prob = net.forward(data=np.array([transformer.preprocess('data', c) for c in crops]))['prob']
        np.testing.assert_allclose(score, prob.mean(0), rtol=1e-4, atol=1e-6)


def test_a_deploy_as_digits_runs_it(net):
    """Dims from the prototxt, the mean pixel from a binaryproto, images in chunks of a smaller last one."""
    mean = np.random.rand(1, 3, 20, 20) * 100
    with open('mean.binaryproto', 'wb') as f:
        f.write(caffe.io.array_to_blobproto(mean).SerializeToString())
    network = caffe_pb2.NetParameter()
    with open('deploy.prototxt') as f:
        text_format.Merge(f.read(), network)
    dims = network.input_shape[0].dim if network.input_shape else network.input_dim[:4]
    t = caffe.io.Transformer(inputs={'data': dims})
    t.set_transpose('data', (2, 0, 1))
    t.set_channel_swap('data', (2, 1, 0))
    blob = caffe_pb2.BlobProto()
    with open('mean.binaryproto', 'rb') as f:
        blob.MergeFromString(f.read())
    pixel = np.reshape(blob.data, blob.shape.dim[1:]).mean(1).mean(1)
    t.set_mean('data', pixel)
    images = [(image(16, 16) * 255).astype(np.uint8) for _ in range(5)]
    scores = None
    for chunk in [images[i : i + 2] for i in range(0, 5, 2)]:
        new_shape = (len(chunk),) + tuple(t.inputs['data'][1:])
        if net.blobs['data'].data.shape != new_shape:
            net.blobs['data'].reshape(*new_shape)
        for index, im in enumerate(chunk):
            net.blobs['data'].data[index] = t.preprocess('data', im)
        output = net.forward()[net.outputs[-1]]
        scores = np.copy(output) if scores is None else np.vstack((scores, output))
    net.blobs['data'].reshape(5, 3, 16, 16)
    whole = np.array([im[:, :, ::-1].transpose(2, 0, 1) - pixel[:, None, None] for im in images])
    np.testing.assert_allclose(scores, net.forward(data=whole)['prob'], rtol=1e-4, atol=1e-6)


# Gradients by hand


def test_what_moves_a_score(net):
    """A saliency map: the diff of the output is set, backward reaches the image; checked by differences."""
    x = np.random.randn(10, 3, 16, 16).astype(np.float32) * 3
    net.forward(data=x)
    top = np.zeros_like(net.blobs['prob'].data)
    top[:, 2] = 1
    grad = net.backward(prob=top)['data'].copy()
    for place in [(0, 0, 3, 5), (4, 2, 15, 0), (9, 1, 8, 8)]:
        scores = []
        for step in (-0.05, 0.05):
            moved = x.copy()
            moved[place] += step
            scores.append(net.forward(data=moved)['prob'][place[0], 2])
        assert grad[place] == pytest.approx((scores[1] - scores[0]) / 0.1, rel=0.05, abs=1e-4)


def test_a_deep_dream(net):
    """Ascend the norm of an inner blob from octave to octave."""
    model = caffe_pb2.NetParameter()
    with open('deploy.prototxt') as f:
        text_format.Merge(f.read(), model)
    model.force_backward = True
    write('tmp.prototxt', model)
    net = caffe.Classifier(
        'tmp.prototxt', 'weights.caffemodel', mean=np.float32([104.0, 116.0, 122.0]), channel_swap=(2, 1, 0)
    )
    src, dst = net.blobs['data'], net.blobs['pool1']
    for height, width in ((16, 16), (22, 22)):
        src.reshape(1, 3, height, width)
        src.data[0] = np.random.randn(3, height, width)
        norms = []
        for _ in range(5):
            oy, ox = np.random.randint(-3, 4, 2)
            src.data[0] = np.roll(np.roll(src.data[0], ox, -1), oy, -2)
            net.forward(end='pool1')
            norms.append((dst.data**2).sum())
            dst.diff[:] = dst.data
            net.backward(start='pool1')
            g = src.diff[0]
            src.data[:] += 0.3 / np.abs(g).mean() * g
            src.data[0] = np.roll(np.roll(src.data[0], -ox, -1), -oy, -2)
        assert dst.data.shape == (1, 8, -(-height // 4), -(-width // 4)) and norms[-1] > 2 * norms[0]


def test_all_samples_forward_and_backward(net):
    x = np.random.randn(13, 3, 16, 16)
    out, diffs = net.forward_backward_all(blobs=['fc6'], diffs=['fc8'], data=x, prob=np.ones((13, 5)))
    assert out['fc6'].shape == (13, 32) and diffs['data'].shape == (13, 3, 16, 16)
    assert diffs['fc8'].shape == (13, 5)
    np.testing.assert_allclose(diffs['fc8'], 0, atol=1e-6)  # the sum of a softmax never changes


# Training


def test_learning_step_by_step():
    """The lenet notebook: NetSpec, solver, losses and test accuracies collected between steps."""

    def spec(batch):
        n = caffe.NetSpec()
        n.data, n.label = L.HDF5Data(batch_size=batch, source='list.txt', ntop=2)
        n.ip1 = L.InnerProduct(n.data, num_output=16, weight_filler=dict(type='xavier'))
        n.relu1 = L.ReLU(n.ip1, in_place=True)
        n.score = L.InnerProduct(n.relu1, num_output=2, weight_filler=dict(type='xavier'))
        n.accuracy = L.Accuracy(n.score, n.label, include=dict(phase=caffe.TEST))
        n.loss = L.SoftmaxWithLoss(n.score, n.label)
        return n.to_proto()

    x = np.random.randn(200, 4)
    with h5py.File('rows.h5', 'w') as f:
        f['data'], f['label'] = x, (x[:, 0] * x[:, 1] > 0).astype(float)
    write('list.txt', 'rows.h5\n')
    write('train.prototxt', spec(20))
    write('test.prototxt', spec(100))
    s = caffe_pb2.SolverParameter(
        train_net='train.prototxt',
        test_net=['test.prototxt'],
        test_iter=[2],
        test_interval=50,
        base_lr=0.1,
        momentum=0.9,
        lr_policy='fixed',
        snapshot_prefix='snapshot',
    )
    solver = caffe.SGDSolver(write('solver.prototxt', s))
    solver.net.forward()
    solver.test_nets[0].forward()
    niter = 120
    train_loss, test_acc = np.zeros(niter), np.zeros(niter // 30)
    test_blobs = solver.test_nets[0].blobs
    for it in range(niter):
        solver.step(1)
        train_loss[it] = solver.net.blobs['loss'].data
        if it % 30 == 29:
            correct = 0
            for _ in range(2):
                solver.test_nets[0].forward()
                correct += sum(test_blobs['score'].data.argmax(1) == test_blobs['label'].data)
            test_acc[it // 30] = correct / 200
    assert train_loss[-20:].mean() < 0.4 * train_loss[:5].mean() and test_acc[-1] > 0.9
    assert (solver.net.params['ip1'][0].diff[:, 0] != 0).any()


def test_fine_tuning_from_other_weights(net):
    """A new head by a new name; what has the old name starts from the old weights, frozen with lr_mult 0."""
    n = caffe.NetSpec()
    n.data = L.DummyData(shape=dict(dim=[6, 3, 16, 16]), data_filler=dict(type='uniform', max=1))
    n.label = L.DummyData(shape=dict(dim=[6]), data_filler=dict(type='constant', value=2))
    n.conv1 = L.Convolution(
        n.data, num_output=8, pad=1, kernel_size=3, param=[dict(lr_mult=0), dict(lr_mult=0)]
    )
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=4, stride=4)
    n.fc6 = L.InnerProduct(
        n.pool1, num_output=32, param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)]
    )
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.fc8_style = L.InnerProduct(n.relu6, num_output=3, weight_filler=dict(type='gaussian', std=0.01))
    n.loss = L.SoftmaxWithLoss(n.fc8_style, n.label)
    solver = solver_for(write('style.prototxt', n.to_proto()))
    solver.net.copy_from('weights.caffemodel')
    assert (solver.net.params['fc6'][0].data == net.params['fc6'][0].data).all()
    losses = []
    for _ in range(12):
        solver.step(1)
        losses.append(float(solver.net.blobs['loss'].data))
    assert losses[-1] < 0.2 * losses[0]
    assert (solver.net.params['conv1'][0].data == net.params['conv1'][0].data).all()
    assert (solver.net.params['fc6'][0].data != net.params['fc6'][0].data).any()
    solver.net.save('style.caffemodel')
    untrained = caffe.Net('style.prototxt', caffe.TEST)
    untrained.copy_from('style.caffemodel')
    assert (untrained.params['fc8_style'][0].data == solver.net.params['fc8_style'][0].data).all()


class PyEuclidean(caffe.Layer):
    """The loss of the linear-regression example, in numpy."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception('Need two inputs to compute distance.')

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception('Inputs must have the same dimension.')
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            bottom[i].diff[...] = (1 if i == 0 else -1) * self.diff / bottom[i].num


def test_a_loss_in_python_trains_as_the_built_in_one():
    def weights_after(kind, more):
        text = """name: "linreg"
            layer { type: "DummyData" name: "x" top: "x" dummy_data_param { shape { dim: 10 dim: 3 dim: 2 }
                    data_filler { type: "gaussian" } } }
            layer { type: "DummyData" name: "y" top: "y" dummy_data_param { shape { dim: 10 dim: 2 }
                    data_filler { type: "gaussian" } } }
            layer { type: "InnerProduct" name: "ipx" bottom: "x" top: "ipx"
                    inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
            layer { type: "InnerProduct" name: "ipy" bottom: "y" top: "ipy"
                    inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
            layer { type: "%s" name: "loss" bottom: "ipx" bottom: "ipy" top: "loss" loss_weight: 1 %s }"""
        caffe.set_random_seed(5)
        solver = solver_for(write(f'{kind}.prototxt', text % (kind, more)))
        solver.step(5)
        return np.concatenate([b.data.ravel() for name in ('ipx', 'ipy') for b in solver.net.params[name]])

    by_python = weights_after('Python', 'python_param { module: "my_layers" layer: "PyEuclidean" }')
    np.testing.assert_allclose(by_python, weights_after('EuclideanLoss', ''), rtol=1e-5, atol=1e-6)


# A fully convolutional segmenter: data layer in Python, Deconvolution with bilinear filters, Crop


class SquaresLayer(caffe.Layer):
    """Images of one bright square of changing size, and their labels: 1 inside, 0 outside, 255 on its top."""

    def setup(self, bottom, top):
        params = eval(self.param_str)
        self.random = np.random.RandomState(params['seed'])
        if len(top) != 2 or len(bottom) != 0:
            raise Exception('Need two tops: data and label. Do not define a bottom.')

    def reshape(self, bottom, top):
        height, width, size = self.random.randint([17, 17, 6], [25, 25, 12])
        y, x = self.random.randint(0, [height - size, width - size])
        self.data = self.random.randn(3, height, width).astype(np.float32) * 0.1
        self.label = np.zeros((1, height, width), np.uint8)
        self.data[:, y : y + size, x : x + size] += 1
        self.label[0, y : y + size, x : x + size] = 1
        self.label[0, y, x : x + size] = 255
        top[0].reshape(1, *self.data.shape)
        top[1].reshape(1, *self.label.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.data
        top[1].data[...] = self.label

    def backward(self, top, propagate_down, bottom):
        pass


def fcn(split):
    n = caffe.NetSpec()
    n.data, n.label = L.Python(
        module='my_layers', layer='SquaresLayer', ntop=2, param_str=str(dict(split=split, seed=1337))
    )
    n.conv1 = L.Convolution(
        n.data,
        kernel_size=3,
        num_output=8,
        pad=10,
        weight_filler=dict(type='xavier'),
        param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)],
    )
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.drop1 = L.Dropout(n.pool1, dropout_ratio=0.1, in_place=True)
    n.score_fr = L.Convolution(n.drop1, num_output=2, kernel_size=3, pad=0, weight_filler=dict(type='xavier'))
    up = dict(num_output=2, kernel_size=4, stride=2, bias_term=False)
    n.upscore = L.Deconvolution(n.score_fr, convolution_param=up, param=[dict(lr_mult=0)])
    n.score = caffe.coord_map.crop(n.upscore, n.data)
    n.loss = L.SoftmaxWithLoss(n.score, n.label, loss_param=dict(normalize=False, ignore_label=255))
    return write(f'{split}.prototxt', n.to_proto())


def upsample_filter(size):
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    og = np.ogrid[:size, :size]
    return (1 - abs(og[0] - center) / factor) * (1 - abs(og[1] - center) / factor)


def interp(net, names):
    for name in names:
        m, k, h, w = net.params[name][0].data.shape
        net.params[name][0].data[range(m), range(k), :, :] = upsample_filter(h)


def pixel_accuracy(net, count):
    hist = np.zeros((2, 2))
    for _ in range(count):
        net.forward()
        truth, said = net.blobs['label'].data[0, 0].flatten(), net.blobs['score'].data[0].argmax(0).flatten()
        known = truth < 2
        hist += np.bincount(2 * truth[known].astype(int) + said[known], minlength=4).reshape(2, 2)
    return (np.diag(hist) / hist.sum(1)).mean()


def test_training_a_segmenter():
    s = caffe_pb2.SolverParameter(
        train_net=fcn('train'),
        test_net=[fcn('val')],
        test_iter=[5],
        test_interval=999999999,
        test_initialization=False,
        base_lr=2e-4,
        momentum=0.9,
        lr_policy='fixed',
        iter_size=1,
        max_iter=100,
        snapshot_prefix='snapshot',
    )
    solver = caffe.SGDSolver(write('solver.prototxt', s))
    interp(solver.net, [k for k in solver.net.params.keys() if 'up' in k])
    frozen = solver.net.params['upscore'][0].data.copy()
    for _ in range(4):
        solver.step(20)
        solver.test_nets[0].share_with(solver.net)
    assert pixel_accuracy(solver.test_nets[0], 5) > 0.9
    assert (solver.net.params['upscore'][0].data == frozen).all()
    assert solver.net.blobs['score'].data.shape[2:] == solver.net.blobs['data'].data.shape[2:]


# Detectors of the forks, written with NetSpec as their scripts do


class OneSquare(caffe.Layer):
    """SSD's input: images (4, 3, 32, 32) of one bright square and its label (1, 1, 4, 8): image, class,
    number, box in 0..1, difficult."""

    def setup(self, bottom, top):
        self.random = np.random.RandomState(int(self.param_str))

    def reshape(self, bottom, top):
        top[0].reshape(4, 3, 32, 32)
        top[1].reshape(1, 1, 4, 8)

    def forward(self, bottom, top):
        top[0].data[...] = self.random.randn(4, 3, 32, 32) * 0.1
        for i in range(4):
            x, y = self.random.randint(0, 22, 2)
            top[0].data[i, :, y : y + 10, x : x + 10] += 1
            top[1].data[0, 0, i] = i, 1, 0, x / 32, y / 32, (x + 10) / 32, (y + 10) / 32, 0

    def backward(self, top, propagate_down, bottom):
        pass


def ssd(deploy):
    """One feature map of 8 x 8, one prior each; the head in the manner of SSD's model_libs."""
    net = caffe.NetSpec()
    if deploy:
        net.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
    else:
        net.data, net.label = L.Python(module='my_layers', layer='OneSquare', param_str='1', ntop=2)
    top = net.data
    for i, stride in enumerate((2, 2, 1)):
        name = f'conv{i + 1}'
        kwargs = dict(
            num_output=16,
            kernel_size=5,
            pad=2,
            stride=stride,
            weight_filler=dict(type='xavier'),
            param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)],
        )
        net[name] = L.Convolution(top, **kwargs)
        net[f'relu{i + 1}'] = top = L.ReLU(net[name], in_place=True)
    for kind, outputs in (('loc', 4), ('conf', 2)):
        net[f'mbox_{kind}_conv'] = L.Convolution(
            top, num_output=outputs, kernel_size=3, pad=1, weight_filler=dict(type='xavier')
        )
        net[f'mbox_{kind}_perm'] = L.Permute(net[f'mbox_{kind}_conv'], order=[0, 2, 3, 1])
        net[f'mbox_{kind}'] = L.Flatten(net[f'mbox_{kind}_perm'], axis=1)
    net.mbox_priorbox = L.PriorBox(top, net.data, min_size=10.0, clip=False, variance=[0.1, 0.1, 0.2, 0.2])
    shared = dict(num_classes=2, share_location=True, background_label_id=0, code_type=P.PriorBox.CENTER_SIZE)
    (ssd_output if deploy else ssd_loss)(net, shared)
    return net.to_proto()


def ssd_output(net, shared):
    net.mbox_conf_reshape = L.Reshape(net.mbox_conf, shape=dict(dim=[0, -1, 2]))
    net.mbox_conf_softmax = L.Softmax(net.mbox_conf_reshape, axis=2)
    net.mbox_conf_flatten = L.Flatten(net.mbox_conf_softmax, axis=1)
    net.detection_out = L.DetectionOutput(
        net.mbox_loc,
        net.mbox_conf_flatten,
        net.mbox_priorbox,
        include=dict(phase=caffe_pb2.Phase.Value('TEST')),
        detection_output_param=dict(
            nms_param=dict(nms_threshold=0.45, top_k=100),
            keep_top_k=20,
            confidence_threshold=0.01,
            **shared,
        ),
    )


def ssd_loss(net, shared):
    net.mbox_loss = L.MultiBoxLoss(
        net.mbox_loc,
        net.mbox_conf,
        net.mbox_priorbox,
        net.label,
        propagate_down=[True, True, False, False],
        loss_param=dict(normalization=P.Loss.VALID),
        include=dict(phase=caffe_pb2.Phase.Value('TRAIN')),
        multibox_loss_param=dict(
            loc_loss_type=P.MultiBoxLoss.SMOOTH_L1,
            conf_loss_type=P.MultiBoxLoss.SOFTMAX,
            match_type=P.MultiBoxLoss.PER_PREDICTION,
            mining_type=P.MultiBoxLoss.MAX_NEGATIVE,
            overlap_threshold=0.5,
            neg_pos_ratio=3.0,
            neg_overlap=0.5,
            loc_weight=1.0,
            **shared,
        ),
    )


def test_ssd_is_trained_and_detects():
    solver = solver_for(write('train.prototxt', ssd(deploy=False)))
    solver.step(100)
    solver.net.save('ssd.caffemodel')
    net = caffe.Net(write('deploy.prototxt', ssd(deploy=True)), 'ssd.caffemodel', caffe.TEST)
    transformer = caffe.io.Transformer({'data': net.blobs['data'].data.shape})
    transformer.set_transpose('data', (2, 0, 1))
    random = np.random.RandomState(9)
    for _ in range(5):
        x, y = random.randint(0, 22, 2)
        im = random.randn(32, 32, 3) * 0.1
        im[y : y + 10, x : x + 10] += 1
        net.blobs['data'].data[...] = transformer.preprocess('data', im)
        detections = net.forward()['detection_out']
        det_conf, det_label = detections[0, 0, :, 2], detections[0, 0, :, 1]
        best = np.argmax(det_conf)
        box = detections[0, 0, best, 3:7] * 32
        assert det_label[best] == 1 and det_conf[best] > 0.6
        np.testing.assert_allclose(box, [x, y, x + 10, y + 10], atol=2.5)
        other = cv2.dnn.readNetFromCaffe('deploy.prototxt', 'ssd.caffemodel')
        other.setInput(net.blobs['data'].data)
        theirs = other.forward()[0, 0]
        np.testing.assert_allclose(theirs[theirs.any(1)], detections[0, 0], rtol=1e-3, atol=1e-3)


class SquareAndRegions(caffe.Layer):
    """R-FCN's input: an image (1, 3, 64, 64) of one bright square; regions (24, 5), a third of them near it;
    their labels (24, 1, 1, 1), and targets and weights (24, 8, 1, 1) of the boxes, which always move right by
    .1 of a width."""

    def setup(self, bottom, top):
        self.random = np.random.RandomState(4)

    def reshape(self, bottom, top):
        for blob, shape in zip(top, [(1, 3, 64, 64), (24, 5), (24, 1, 1, 1), (24, 8, 1, 1), (24, 8, 1, 1)]):
            blob.reshape(*shape)

    def forward(self, bottom, top):
        data, rois, labels, targets, weights = (blob.data for blob in top)
        x, y = self.random.randint(0, 32, 2)
        data[...] = self.random.randn(1, 3, 64, 64) * 0.1
        data[0, :, y : y + 32, x : x + 32] += 1
        labels.flat = np.arange(24) < 8
        corners = np.where(
            labels[:, 0, 0] > 0,
            [x, y] + self.random.randint(-3, 4, (24, 2)),
            [x, y] + self.random.choice([-40, 40], (24, 2)),
        )
        rois[...] = np.hstack([np.zeros((24, 1)), corners, corners + 31]).clip(0, 63)
        targets[...] = 0
        targets[:8, 4] = 0.1
        weights[...] = 0
        weights[:8, 4:] = 1

    def backward(self, top, propagate_down, bottom):
        pass


def rfcn():
    """R-FCN's head with online hard example mining: the regions of the largest losses count."""
    n = caffe.NetSpec()
    n.data, n.rois, n.labels, n.bbox_targets, n.bbox_inside_weights = L.Python(
        module='my_layers', layer='SquareAndRegions', ntop=5
    )
    fill = dict(weight_filler=dict(type='gaussian', std=0.05))
    n.conv1 = L.Convolution(
        n.data, num_output=8, kernel_size=5, stride=4, pad=2, weight_filler=dict(type='xavier')
    )
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    for kind, outputs in (('cls', 2), ('bbox', 8)):
        n[f'rfcn_{kind}'] = L.Convolution(n.relu1, num_output=outputs * 9, kernel_size=1, **fill)
        n[f'psroipooled_{kind}_rois'] = L.PSROIPooling(
            n[f'rfcn_{kind}'], n.rois, spatial_scale=0.25, output_dim=outputs, group_size=3
        )
    n.cls_score, n.bbox_pred = (
        L.Pooling(n[f'psroipooled_{kind}_rois'], pool=P.Pooling.AVE, kernel_size=3, stride=3)
        for kind in ('cls', 'bbox')
    )
    hardest(n)
    n.silence = L.Silence(n.temp_loss_cls, n.temp_prob_cls, n.temp_loss_bbox, ntop=0)
    n.loss_cls = L.SoftmaxWithLoss(
        n.cls_score,
        n.labels_ohem,
        loss_weight=1,
        propagate_down=[True, False],
        loss_param=dict(ignore_label=-1),
    )
    n.loss_bbox = L.SmoothL1LossOHEM(
        n.bbox_pred,
        n.bbox_targets,
        n.bbox_loss_weights_ohem,
        loss_weight=1,
        loss_param=dict(normalization=P.Loss.PRE_FIXED, pre_fixed_normalizer=10),
        propagate_down=[True, False, False],
    )
    n.accuracy = L.Accuracy(n.cls_score, n.labels)
    return n.to_proto()


def hardest(n):
    """labels_ohem and bbox_loss_weights_ohem: those of the regions whose losses are the largest."""
    n.temp_loss_cls, n.temp_prob_cls, n.per_roi_loss_cls = L.SoftmaxWithLossOHEM(
        n.cls_score, n.labels, ntop=3, loss_weight=[0, 0, 0], propagate_down=[False] * 2
    )
    n.temp_loss_bbox, n.per_roi_loss_bbox = L.SmoothL1LossOHEM(
        n.bbox_pred,
        n.bbox_targets,
        n.bbox_inside_weights,
        ntop=2,
        loss_weight=[0, 0],
        propagate_down=[False] * 3,
    )
    n.per_roi_loss = L.Eltwise(n.per_roi_loss_cls, n.per_roi_loss_bbox, propagate_down=[False] * 2)
    n.labels_ohem, n.bbox_loss_weights_ohem = L.BoxAnnotatorOHEM(
        n.rois,
        n.per_roi_loss,
        n.labels,
        n.bbox_inside_weights,
        ntop=2,
        propagate_down=[False] * 4,
        roi_per_img=10,
        ignore_label=-1,
    )


def test_rfcn_is_trained_on_the_hardest_regions():
    solver = solver_for(write('rfcn.prototxt', rfcn()))
    accuracy, smooth = [], []
    for _ in range(150):
        solver.step(1)
        net = solver.net
        hardest = np.sort(np.argsort(-net.blobs['per_roi_loss'].data.ravel(), kind='stable')[:10])
        np.testing.assert_array_equal(np.flatnonzero(net.blobs['labels_ohem'].data.ravel() != -1), hardest)
        accuracy.append(float(net.blobs['accuracy'].data))
        smooth.append(float(net.blobs['temp_loss_bbox'].data))
    assert np.mean(accuracy[-20:]) > 0.95 > np.mean(accuracy[:5])
    assert np.mean(smooth[-20:]) < 0.3 * np.mean(smooth[:5])
