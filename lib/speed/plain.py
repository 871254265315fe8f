"""A prototxt's net written plainly in PyTorch: what the engine is measured against.

As a person would write it who knows PyTorch: channels last; batch normalization by fixed statistics is folded into the
convolution before it, once where that does not learn, else as a product in each pass; in place where nobody else reads;
what nobody reads any more is let go; one autograd graph over all. Training computes the losses alone.

What Python layers, data layers and the like make is given as arrays: it costs nothing here. ROIPooling, PSROIPooling and
ROIAlign are the engine's functions.
"""

import caffe
import torch
import torch.nn.functional as F
from caffe.format.prototxt import filter_net, read_net
from caffe.format.weights import read_weights
from caffe.types.roi import psroi_pooling, roi_align, roi_pooling


class Filter(torch.nn.Module):
    """A Convolution or InnerProduct with the BatchNorm, Scale and ReLU that follow in place. weights: {layer: arrays}"""

    def __init__(self, layer, tail, weights, learns):
        super().__init__()
        weight, *bias = map(torch.tensor, weights[layer.name])
        factor, shift = affine(tail, weights)
        along = (-1,) + (1,) * (weight.dim() - 1)
        if bias:
            shift = bias[0] if shift is None else bias[0] * factor + shift
        if factor is not None and not learns:
            weight, factor = weight * factor.reshape(along), None
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        own = torch.nn.Parameter if learns else torch.nn.Buffer
        self.weight = own(weight)
        self.bias = own(shift) if bias else None if shift is None else torch.nn.Buffer(shift)
        self.factor = None if factor is None else torch.nn.Buffer(factor.reshape(along))
        self.relu = any(follower.type == 'ReLU' for follower in tail)
        self.convolve = PRODUCTS[layer.type](layer)

    def forward(self, x):
        weight = self.weight if self.factor is None else self.weight * self.factor
        y = self.convolve(x, weight, self.bias)
        return y.relu_() if self.relu else y


def affine(tail, weights):
    """Factor and shift (C,) of the BatchNorm and Scale in tail; None, None without."""
    factor = shift = None
    for layer in tail:
        if layer.type == 'BatchNorm':
            mean, variance, count = map(torch.tensor, weights[layer.name])
            factor = (variance / count + layer.batch_norm_param.eps).rsqrt()
            shift = -mean / count * factor
        if layer.type == 'Scale':
            scale, bias = map(torch.tensor, weights[layer.name])
            factor, shift = factor * scale, shift * scale + bias
    return factor, shift


def convolution(param):
    one = lambda values, default: values[0] if values else default
    stride, pad, dilation = one(param.stride, 1), one(param.pad, 0), one(param.dilation, 1)

    def convolve(x, weight, bias):
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, bias, stride, pad, dilation, param.group)

    return convolve


def deconvolution(param):
    (stride,) = param.stride
    return lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, stride)


def inner_product(x, weight, bias):
    return F.linear(x.flatten(1), weight, bias)


PRODUCTS = {
    'Convolution': lambda layer: convolution(layer.convolution_param),
    'Deconvolution': lambda layer: deconvolution(layer.convolution_param),
    'InnerProduct': lambda layer: inner_product,
}


def pooling(layer):
    param = layer.pooling_param
    method = F.max_pool2d if param.pool == param.MAX else F.avg_pool2d
    return lambda x: method(x, param.kernel_size, param.stride, param.pad, ceil_mode=param.ceil_mode)


def reshape(layer):
    dims = layer.reshape_param.shape.dim
    return lambda x: x.reshape([d or x.shape[i] for i, d in enumerate(dims)])


def pooled_rois(layer):
    p = layer.roi_pooling_param
    sizes = dict(pooled_h=p.pooled_h, pooled_w=p.pooled_w, spatial_scale=p.spatial_scale)
    return lambda x, rois: roi_pooling(x.float(), rois, **sizes)


def pooled_votes(layer):
    p = layer.psroi_pooling_param
    sizes = dict(output_dim=p.output_dim, group_size=p.group_size, spatial_scale=p.spatial_scale)
    return lambda x, rois: psroi_pooling(x.float(), rois, **sizes)


def aligned_rois(layer):
    p = layer.roi_align_param
    sizes = dict(pooled_h=p.pooled_h, pooled_w=p.pooled_w, spatial_scale=p.spatial_scale)
    return lambda x, rois: roi_align(x.float(), rois, **sizes, sampling_ratio=p.sampling_ratio)


def enlarged(layer):
    return lambda x, like: F.interpolate(x, like.shape[2:], mode='nearest')


def joined(layer):
    return lambda *parts: torch.cat(parts, layer.concat_param.axis)


def binary_loss(layer):
    if not layer.loss_param.HasField('ignore_label'):
        return F.binary_cross_entropy_with_logits

    def loss(x, label):
        counts = (label != layer.loss_param.ignore_label).reshape(x.shape)
        terms = F.binary_cross_entropy_with_logits(x, label.reshape(x.shape), reduction='none')
        return (terms * counts).sum() / counts.sum()

    return loss


def class_loss(layer):
    param = layer.loss_param
    ignored = param.ignore_label if param.HasField('ignore_label') else -100
    return lambda x, label: F.cross_entropy(
        x, label.reshape(len(x), *x.shape[2:]).long(), ignore_index=ignored
    )


def box_loss(layer):
    beta = 1 / layer.smooth_l1_loss_param.sigma**2

    def loss(x, target, inside, outside):
        terms = F.smooth_l1_loss(x * inside, target * inside, reduction='none', beta=beta)
        return (terms * outside).sum() / len(x)

    return loss


def mined_box_loss(layer):
    count = layer.loss_param.pre_fixed_normalizer
    return lambda x, target, weight: (
        F.smooth_l1_loss(x * weight, target * weight.view_as(x), reduction='sum') / count
    )


FUNCTIONS = {
    'Pooling': pooling,
    'Eltwise': lambda layer: lambda x, branch: branch.add_(x),
    'ReLU': lambda layer: torch.relu_,
    'Softmax': lambda layer: lambda x: x.softmax(1),
    'Sigmoid': lambda layer: torch.sigmoid,
    'Reshape': reshape,
    'Dropout': lambda layer: torch.nn.Dropout(layer.dropout_param.dropout_ratio),
    'ROIPooling': pooled_rois,
    'PSROIPooling': pooled_votes,
    'ROIAlign': aligned_rois,
    'Interp': enlarged,
    'Flatten': lambda layer: lambda x: x.flatten(1),
    'Concat': joined,
    'BatchReindex': lambda layer: lambda x, order: x[order.flatten().long()],
    'SigmoidCrossEntropyLoss': binary_loss,
    'SoftmaxWithLoss': class_loss,
    'SmoothL1Loss': box_loss,
    'SmoothL1LossOHEM': mined_box_loss,
}
AFFINE = 'BatchNorm', 'Scale'
LOSSES = 'SoftmaxWithLoss', 'SigmoidCrossEntropyLoss', 'SmoothL1Loss', 'SmoothL1LossOHEM'


def computed(path, phase):
    """Of the layers of a prototxt those that this module computes and somebody waits for -> layers, names of the blobs
    that they are given, wanted tops.

    Wanted at TRAIN: the losses; at TEST: what no other layer here reads.
    """
    param = read_net(path)
    param.state.phase = phase
    layers = [x for x in filter_net(param, param.state).layer if x.type in (*FUNCTIONS, *PRODUCTS, *AFFINE)]
    made, read = {x.top[0] for x in layers}, set()
    for layer in layers:
        read.update(set(layer.bottom) - set(layer.top))
    weighs = lambda x: x.type in LOSSES and list(x.loss_weight[:1]) != [0]
    wanted = [x.top[0] for x in layers if weighs(x)] if phase == caffe.TRAIN else sorted(made - read)
    needed, kept = set(wanted), []
    for layer in reversed(layers):
        if needed & set(layer.top):
            kept.insert(0, layer)
            needed.update(layer.bottom)
    return kept, sorted(needed - {layer.top[0] for layer in kept}), wanted


class Plain(torch.nn.Module):
    """The net of a prototxt at a phase, with the weights of a .caffemodel. Called with {blob: tensor} of all that
    `inputs` names -> {blob: tensor} of what is wanted; at TRAIN these are losses."""

    def __init__(self, path, phase, weights):
        super().__init__()
        layers, self.inputs, self.wanted = computed(path, phase)
        weights = {name: arrays for name, _, arrays in read_weights(weights) if arrays}
        self.steps, self.parts = [], torch.nn.ModuleDict()  # function, names of its arguments, of its result
        while layers:
            layer, *layers = layers
            tail = []
            while layer.type in PRODUCTS and layers and list(layers[0].bottom) == list(layer.top):
                if layers[0].type not in (*AFFINE, 'ReLU') or layers[0].top[0] != layer.top[0]:
                    break
                tail.append(layers.pop(0))
            function = self._function(layer, tail, weights, phase)
            self.steps.append((function, list(layer.bottom), layer.top[0]))
            if isinstance(function, torch.nn.Module):
                self.parts[layer.name] = function
        last = {name: i for i, (_, names, _) in enumerate(self.steps) for name in names}
        self.done = [
            [n for n in last if last[n] == i and n not in self.wanted] for i in range(len(self.steps))
        ]
        self.train(phase == caffe.TRAIN)

    def _function(self, layer, tail, weights, phase):
        if layer.type not in PRODUCTS:
            return FUNCTIONS[layer.type](layer)
        learns = phase == caffe.TRAIN and (not layer.param or layer.param[0].lr_mult > 0)
        return Filter(layer, tail, weights, learns)

    def forward(self, given):
        blobs = dict(given)
        for (function, names, top), done in zip(self.steps, self.done):
            blobs[top] = function(*[blobs[name] for name in names])
            for name in done:
                del blobs[name]
        return {name: blobs[name] for name in self.wanted}
