"""A net as a row: ours, the plain one in PyTorch (as it is, and compiled), OpenCV's dnn, torchvision's nearest.

All load the same weights, which are drawn, and get the same image; what plain.py is given (see there) comes from one
pass of ours. Times are from arrays in memory to arrays in memory; training: from a roidb to updated weights, for ours.
"""

import contextlib
import importlib.util
import json
import os
import shutil

import caffe
import cv2
import numpy as np
import torch
from caffe import common
from caffe.format.prototxt import read_net
from caffe.limits import flops
from caffe.proto import caffe_pb2

from speed import data
from speed.measure import Contender, LeftOut
from speed.plain import Plain, computed
from speed.rows import CLASSES, row
from fast_rcnn.config import cfg, cfg_from_dict, overrides
from roi_data_layer.roidb import add_bbox_regression_targets
from rpn.generate import SETTINGS as ALL_BOXES

LINEAR = dict(
    rpn_cls_score=0.1, cls_score=0.5, rfcn_cls=0.5, rpn_bbox_pred=0.01, bbox_pred=0.01, rfcn_bbox=0.01
)
LINEAR |= {f'p{level}_lateral': 0.2 for level in range(2, 6)}  # they are added up
SEED = 3
ALIKE = {'float32': 1e-3, 'bf16': 0.1}  # the share of its largest number that an answer may be off


def draw_weights(net):
    """Sets a net's weights so that numbers neither grow nor fade from layer to layer, and boxes move a little."""
    generator = torch.Generator().manual_seed(SEED)
    for layer in net.layers:
        values = [torch.zeros(blob.shape) for blob in layer.blobs]
        if layer.type == 'BatchNorm':
            values[1].fill_(1)
            values[2].fill_(1)
        elif layer.type == 'Scale':
            values[0].fill_(0.5)
        elif values:
            std = LINEAR.get(layer.name, 2**0.5) / values[0][0].numel() ** 0.5
            values[0].normal_(0, std, generator=generator)
        for blob, value in zip(layer.blobs, values):
            blob.data[...] = value.numpy()


class Prepared:
    """A net's files in the case's folder, made by one pass of ours where they are not there: weights, what the plain
    net is given, and the operations of the pass."""

    def __init__(self, case, path, phase, inputs=None):
        self.path, self.phase, self.case = path, phase, case
        stem = os.path.join(case.folder, case.row.replace('/', '_'))
        self.weights, self.arrays, self.numbers = stem + '.caffemodel', stem + '.npz', stem + '.json'
        if not os.path.exists(self.numbers):
            self._make(inputs or {})
        self.given = dict(np.load(self.arrays))
        with open(self.numbers) as stream:
            self.flops = json.load(stream)['flops']

    def _make(self, inputs):
        net = caffe.Net(self.path, self.phase)
        draw_weights(net)
        net.save(self.weights)
        self.run(net, inputs)
        layers, names, _ = computed(self.path, self.phase)
        np.savez(self.arrays, **{name: net.blobs[name].data for name in {*names, *inputs}})
        with open(self.numbers, 'w') as stream:
            json.dump({'flops': sum(self._flops(net, layer) for layer in net.layers)}, stream)

    def _flops(self, net, layer):
        """Operations of a layer in a pass; a gradient costs as much as the result."""
        bottoms, tops = (
            [net.blobs[x] for x in names[layer.name]] for names in (net.bottom_names, net.top_names)
        )
        count = flops(layer, bottoms, tops)
        if count and self.phase == caffe.TRAIN:
            count *= 1 + any(layer.propagate_down) + any(layer.param_propagate_down)
        return count

    def run(self, net, inputs):
        """One pass: of a test net with these inputs, of a training net with the first minibatch of the roidb."""
        if self.phase == caffe.TRAIN:
            np.random.seed(SEED)
            caffe.set_random_seed(SEED)
            net.layers[0].set_roidb(training_roidb(self.case))
            return net.forward()
        for name, value in inputs.items():
            net.blobs[name].reshape(*value.shape)
        return net.forward(**inputs)

    def remove(self):
        for path in self.weights, self.arrays, self.numbers:
            os.remove(path)


def little_training_net(case, path):
    """The net of a prototxt with normalization by fixed statistics and frozen first stages, as the large nets have
    it -> path of its file in the case's folder."""
    param = read_net(path)
    for layer in param.layer:
        if layer.type == 'BatchNorm':
            layer.batch_norm_param.use_global_stats = True
        if layer.type in ('BatchNorm', 'Scale') or layer.name.startswith(('conv1', 'res2', 'res3')):
            for blob in layer.param:
                blob.lr_mult = 0
    path = os.path.join(case.folder, 'little.prototxt')
    with open(path, 'w') as stream:
        stream.write(str(param))
    return path


def training_roidb(case):
    height, width = case.size
    roidb = data.records(data.images(case.folder, 2, width, height), width, height, CLASSES)
    if cfg.TRAIN.BBOX_REG and not cfg.TRAIN.HAS_RPN:
        add_bbox_regression_targets(roidb)
    return roidb


def on_device(arrays):
    return {name: torch.from_numpy(array).to(common.device()) for name, array in arrays.items()}


# ------------------------------------------------------------------------------------------------ test nets
def test_net(case, path, inputs):
    """The contenders of a test net: inputs {blob: array} -> its outputs."""
    ready = Prepared(case, path, caffe.TEST, inputs)
    found = {
        'ours': lambda: ours(ready, inputs),
        'ours, bf16': lambda: ours(ready, inputs, 'bf16'),
        'PyTorch': lambda: plain(ready),
        'PyTorch, bf16': lambda: plain(ready, half),
        'compiled': lambda: plain(ready, compiled),
        'OpenCV': lambda: opencv(ready),
    }
    if 'im_info' in inputs and 'mask_rois' not in inputs:
        found['ours, 4 images'] = lambda: ours(ready, inputs, images=4)
    return found, ready


@contextlib.contextmanager
def computing_in(precision):
    before = caffe.precision()
    caffe.set_precision(precision)
    try:
        yield
    finally:
        caffe.set_precision(before)


def require(precision):
    """LeftOut where the device does not multiply numbers of this precision."""
    if precision != 'float32' and not common.multiplies(common.HALVES[precision]):
        raise LeftOut(f'this device multiplies no {precision}')


def ours(ready, inputs, precision='float32', images=1):
    """images: that many times the same in one pass."""
    require(precision)
    inputs = {name: np.repeat(array, images, 0) for name, array in inputs.items()}
    with computing_in(precision):
        net = caffe.Net(ready.path, caffe.TEST, weights=ready.weights)
    for name, array in inputs.items():
        net.blobs[name].reshape(*array.shape)

    def call():
        with computing_in(precision):
            net.forward(**inputs)

    def answer():
        call()
        return {
            name: net.blobs[name].data[:1].copy() if images > 1 else net.blobs[name].data.copy()
            for name in told
        }

    _, _, told = computed(ready.path, caffe.TEST)
    if precision != 'float32' or images > 1:  # other proposals may come
        told = [name for name in told if name.startswith('rpn')] or told
    return Contender(call, answer, alike=ALIKE[precision], images=images)


def plain(ready, wrapped=lambda module: module):
    module = Plain(ready.path, caffe.TEST, ready.weights).to(common.device())
    run = wrapped(module)
    given = {name: ready.given[name] for name in module.inputs}

    def call():
        with torch.inference_mode():
            return {name: top.cpu().float().numpy() for name, top in run(on_device(given)).items()}

    return Contender(lambda: call() and None, call, alike=ALIKE['bf16' if wrapped is half else 'float32'])


def half(module):
    """A module that computes in bf16 by torch.autocast."""
    require('bf16')

    def run(given):
        with torch.autocast(common.device().type, torch.bfloat16):
            return module(given)

    return run


def compiled(module):
    """torch.compile's version of a module; LeftOut without a compiler for its code."""
    needs = 'triton' if common.device().type == 'cuda' else 'g++'
    if not (importlib.util.find_spec(needs) if needs == 'triton' else shutil.which(needs)):
        raise LeftOut(f'torch.compile wants {needs}')
    faster = torch.compile(module)

    def run(given):
        try:
            return faster(given)
        except RuntimeError as error:
            raise LeftOut(f'torch.compile: {str(error).strip().splitlines()[0]}') from error

    return run


def opencv(ready):
    if common.device().type == 'cuda':
        raise LeftOut("OpenCV's dnn computes on the CPU")
    layers, names, wanted = computed(ready.path, caffe.TEST)
    param = caffe_pb2.NetParameter(layer=layers, input=names)
    for name in names:
        param.input_shape.add(dim=ready.given[name].shape)
    path = ready.weights + '.opencv'
    with open(path, 'w') as stream:
        stream.write(str(param))
    net = cv2.dnn.readNetFromCaffe(path, ready.weights)
    os.remove(path)
    makers = {layer.top[0]: layer.name for layer in layers}  # OpenCV calls blobs by these
    makers = [makers[top] for top in wanted]

    def call():
        for name in names:
            net.setInput(ready.given[name], name)
        return dict(zip(wanted, net.forward(makers)))

    return Contender(lambda: call() and None, call)


def torchvision(case):
    """torchvision's fasterrcnn_resnet50_fpn at the size of ours: a net of its own, so there is no answer to compare."""
    if not importlib.util.find_spec('torchvision'):
        raise LeftOut('torchvision is not installed')
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    height, width = case.size
    net = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=height, max_size=width,
        rpn_post_nms_top_n_test=300, box_score_thresh=0.0,
    )  # fmt: skip
    net = net.eval().to(common.device(), memory_format=torch.channels_last)
    pixels = torch.from_numpy(data.image(width, height, np.random.RandomState(0))).permute(2, 0, 1) / 255

    def call():
        with torch.inference_mode():
            net([pixels.to(common.device())])

    return Contender(call)


# ------------------------------------------------------------------------------------------------ training
def training_net(case, path):
    """The contenders of a training iteration: forward, backward, update."""
    ready = Prepared(case, path, caffe.TRAIN)
    return {
        'ours': lambda: our_training(ready),
        'ours, bf16': lambda: our_training(ready, 'bf16'),
        'ours, 2 images': lambda: our_training(ready, images=2),
        'PyTorch': lambda: plain_training(ready),
        'PyTorch, bf16': lambda: plain_training(ready, half),
        'compiled': lambda: plain_training(ready, compiled),
    }, ready


RATE = dict(momentum=0.9, weight_decay=0.0005)
LEARNING_RATE = 1e-6


def our_training(ready, precision='float32', images=1):
    """images: of a pass, each with as many RoIs as one alone has."""
    require(precision)
    rois = cfg.TRAIN.BATCH_SIZE * images if cfg.TRAIN.BATCH_SIZE > 0 else cfg.TRAIN.BATCH_SIZE
    settings = {'TRAIN.IMS_PER_BATCH': images, 'TRAIN.BATCH_SIZE': rois}
    param = caffe_pb2.SolverParameter(
        train_net=ready.path,
        base_lr=LEARNING_RATE,
        lr_policy='fixed',
        snapshot_prefix=os.path.join(ready.case.folder, 'snapshot'),
        **RATE,
    )
    with computing_in(precision), overrides(settings):
        solver = caffe.get_solver(param)
        solver.net.copy_from(ready.weights)
        solver.net.layers[0].set_roidb(training_roidb(ready.case))
    layers, _, wanted = computed(ready.path, caffe.TRAIN)
    if images > 1 or any(layer.type == 'Dropout' for layer in layers):  # which draws
        wanted = []

    def answer():
        with computing_in(precision), overrides(settings):
            ready.run(solver.net, {})
        return {name: solver.net.blobs[name].data.copy() for name in wanted}

    def call():
        with computing_in(precision):
            cfg_from_dict(settings)  # the row puts them back
            solver.step(1)

    return Contender(call, answer, alike=ALIKE[precision], images=images)


def plain_training(ready, wrapped=lambda module: module):
    module = Plain(ready.path, caffe.TRAIN, ready.weights).to(common.device())
    run = wrapped(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, foreach=True, **RATE)
    given = {name: ready.given[name] for name in module.inputs}

    def answer():
        return {name: loss.detach().cpu() for name, loss in run(on_device(given)).items()}

    def call():
        optimizer.zero_grad(set_to_none=True)
        sum(run(on_device(given)).values()).backward()
        optimizer.step()

    return Contender(call, answer, alike=ALIKE['bf16' if wrapped is half else 'float32'])


# ------------------------------------------------------------------------------------------------ rows
def image_arrays(case):
    height, width = case.size
    sides = [-(-side // 32) * 32 for side in case.size] if case.pyramid else case.size
    data = np.random.RandomState(0).randn(1, 3, *sides).astype(np.float32) * 50
    return {'data': data, 'im_info': np.array([[height, width, 1]], np.float32)}


def roi_arrays(case):
    height, width = case.size
    boxes = data.boxes(case.rois, width, height, np.random.RandomState(1))
    rois = np.hstack([np.zeros((case.rois, 1)), boxes]).astype(np.float32)
    return {'data': image_arrays(case)['data'], 'rois': rois}


def mask_arrays(case):
    """Both passes as one: the boxes that are kept are given, 100 of them."""
    arrays, random = roi_arrays(case), np.random.RandomState(2)
    rois = arrays['rois'][:100]
    rows = np.arange(len(rois)) * CLASSES + random.randint(1, CLASSES, len(rois))
    return {**image_arrays(case), 'mask_rois': rois, 'mask_rows': rows.astype(np.float32)}


def add_nets():
    """The rows test/METHOD/NET and train/METHOD/NET."""
    for method, (file, backbones, settings, arrays) in TEST_NETS.items():
        for backbone in backbones:

            def test(case, file=file, backbone=backbone, arrays=arrays, method=method):
                found, ready = test_net(case, os.path.join(case.net(backbone), file), arrays(case))
                if backbone != FIRST:
                    del found['compiled']
                if case.pyramid:
                    del found['OpenCV']  # has not all of its layers
                if (method, backbone) in (('faster_rcnn', 'ResNet-50'), ('end2end', PYRAMID)):
                    found['torchvision, FPN'] = lambda: torchvision(case)
                return found, ready

            row(f'test/{method}/{backbone}', settings=settings)(test)
    for method, (file, backbones, settings) in TRAIN_NETS.items():
        for backbone in backbones:

            def train(case, file=file, backbone=backbone):
                path = os.path.join(case.net(backbone), file)
                found, ready = training_net(case, little_training_net(case, path) if case.small else path)
                if backbone != FIRST:
                    del found['compiled']
                return found, ready

            row(f'train/{method}/{backbone}', settings=settings, memory=True)(train)


FIRST = 'ResNet-101'  # whose nets are compiled as well, which takes minutes
RESNETS = [FIRST, 'ResNet-50']
BACKBONES = [*RESNETS, 'VGG16']
PYRAMID = 'ResNet-50-FPN'
ONE_IMAGE = {'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.BG_THRESH_LO': 0.0}
RFCN = {
    'TRAIN.AGNOSTIC': True,
    'TRAIN.BATCH_SIZE': -1,
    'TRAIN.RPN_PRE_NMS_TOP_N': 6000,
    'TRAIN.RPN_POST_NMS_TOP_N': 300,
}
TEST_NETS = {
    'rpn': ('faster_rcnn_alt_opt/rpn_test.pt', BACKBONES, ALL_BOXES, image_arrays),
    'fast_rcnn': ('faster_rcnn_alt_opt/fast_rcnn_test.pt', BACKBONES, {}, roi_arrays),
    'faster_rcnn': ('faster_rcnn_alt_opt/faster_rcnn_test.pt', BACKBONES, {}, image_arrays),
    'rfcn': ('rfcn_end2end/test_agnostic.prototxt', RESNETS, {}, image_arrays),
    'end2end': ('faster_rcnn_end2end/test.prototxt', [PYRAMID], {}, image_arrays),
    'masks': ('mask_rcnn_end2end/test.prototxt', [PYRAMID], {}, mask_arrays),
}
TRAIN_NETS = {
    'rpn': (
        'faster_rcnn_alt_opt/stage1_rpn_train.pt', BACKBONES,
        {**ONE_IMAGE, 'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_REG': False},
    ),
    'fast_rcnn': (
        'faster_rcnn_alt_opt/stage1_fast_rcnn_train.pt', BACKBONES,
        {**ONE_IMAGE, 'TRAIN.HAS_RPN': False, 'TRAIN.BATCH_SIZE': 64},
    ),
    'end2end': (
        'faster_rcnn_end2end/train.prototxt', [*BACKBONES, PYRAMID],
        {**ONE_IMAGE, 'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': True},
    ),
    'masks': (
        'mask_rcnn_end2end/train.prototxt', [PYRAMID],
        {**ONE_IMAGE, 'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': True},
    ),
    'rfcn': (
        'rfcn_end2end/train_agnostic_ohem.prototxt', RESNETS,
        {**ONE_IMAGE, **RFCN, 'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED': True},
    ),
}  # fmt: skip
add_nets()
