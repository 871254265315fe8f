"""Rows that are no nets: what stands before, between and behind them."""

import importlib.util
import os
import time

import caffe
import cv2
import numpy as np
import torch
from caffe.format.prototxt import parse_net

from speed import data, nets
from speed.measure import Contender, LeftOut, Spent, in_process, synchronize
from speed.rows import row
from datasets.evaluators import imagenet as evaluator
from fast_rcnn.config import cfg, overrides
from fast_rcnn.detection import detections, im_detect
from fast_rcnn.evaluation import test_net
from fast_rcnn.nms_wrapper import nms
from roi_data_layer.layer import top_shapes
from roi_data_layer.minibatch import get_minibatch
from rpn.generate import SETTINGS as ALL_BOXES
from rpn.generate import write_proposals

IMAGES = 9  # of a row over an imdb; one more than a multiple of the images of a pass
BATCH = 8  # images that a call of a loader's row takes
RPN = {**nets.ONE_IMAGE, 'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_REG': False}
DETECTOR = {**nets.ONE_IMAGE, 'TRAIN.HAS_RPN': False, 'TRAIN.BATCH_SIZE': 64}


class Watch:
    """When each of a net's passes began, and how long it took."""

    def __init__(self, net):
        self.begun, self.seconds, self._run = [], [], net.run_forward
        net.run_forward = self.run

    def run(self, *range_, **to):
        synchronize()
        self.begun.append(time.perf_counter())
        loss = self._run(*range_, **to)
        synchronize()
        self.seconds.append(time.perf_counter() - self.begun[-1])
        return loss

    def clear(self):
        self.begun.clear()
        self.seconds.clear()


def detector(case, file):
    """A test net of ResNet-101, or of the pyramid, with drawn weights, and its Watch."""
    name = nets.PYRAMID if case.pyramid else nets.FIRST
    net = caffe.Net(os.path.join(case.net(name), file), caffe.TEST)
    nets.draw_weights(net)
    return net, Watch(net)


# ------------------------------------------------------------------------------------------------ detection
def one_image(case, file, *boxes):
    net, watch = detector(case, file)
    height, width = case.size
    im = data.image(width, height, np.random.RandomState(0))

    def call():
        watch.clear()
        im_detect(net, im, *boxes)
        return Spent(parts={'net': sum(watch.seconds)})

    return Contender(call)


@row('detect/im_detect', settings={'TEST.HAS_RPN': True})
def detect(case):
    return {'ours': lambda: one_image(case, 'faster_rcnn_alt_opt/faster_rcnn_test.pt')}, None


@row(f'detect/im_detect/{nets.PYRAMID}', settings={'TEST.HAS_RPN': True})
def detect_by_pyramid(case):
    return {'ours': lambda: one_image(case, 'faster_rcnn_end2end/test.prototxt')}, None


@row('detect/im_detect_boxes', settings={'TEST.HAS_RPN': False})
def detect_boxes(case):
    boxes = nets.roi_arrays(case)['rois'][:, 1:]
    return {'ours': lambda: one_image(case, 'faster_rcnn_alt_opt/fast_rcnn_test.pt', boxes)}, None


def all_images(case, file, run, together=1):
    """run(net, imdb, folder) over IMAGES images, `together` of them a pass; what counts is an image's share of the time
    from the first pass's begin to the last one's."""
    net, watch = detector(case, file)
    height, width = case.size
    imdb = data.Images(data.images(case.folder, IMAGES, width, height), nets.CLASSES)

    def call():
        watch.clear()
        with overrides({'ROOT_DIR': case.folder, 'TEST.IMS_PER_BATCH': together}):
            run(net, imdb, case.folder)
        images = IMAGES - 1  # the last pass is of one
        seconds, of_net = watch.begun[-1] - watch.begun[0], sum(watch.seconds[:-1])
        return Spent(seconds / images, {'net': of_net / images})

    return Contender(call)


def in_batches(case, file, run):
    return {
        'ours': lambda: all_images(case, file, run),
        'ours, 4 images': lambda: all_images(case, file, run, 4),
    }, None


@row('detect/test_net', settings={'TEST.HAS_RPN': True})
def tested(case):
    return in_batches(
        case, 'faster_rcnn_alt_opt/faster_rcnn_test.pt', lambda net, imdb, folder: test_net(net, imdb)
    )


@row('detect/proposals', settings=ALL_BOXES)
def proposed(case):
    def run(net, imdb, folder):
        write_proposals(net, imdb, os.path.join(folder, 'proposals.json'))
        for name in os.listdir(folder):  # or the next call finds them done
            if name.startswith('proposals'):
                os.remove(os.path.join(folder, name))

    return in_batches(case, 'faster_rcnn_alt_opt/rpn_test.pt', run)


@row('detect/detections')
def kept(case):
    """What im_detect's answer becomes: NMS of all classes, the best of the image."""
    random, (height, width) = np.random.RandomState(0), case.size
    objects = data.boxes(data.OBJECTS, width, height, random)
    boxes = data.proposals(objects, case.rois, width, height, random).astype(np.float32)
    boxes, scores = np.tile(boxes, nets.CLASSES), data.scores(case.rois, nets.CLASSES, random)
    forms = {'ours': 0.05, 'ours, all scores': 0.0}
    return {
        who: lambda t=t: Contender(lambda: detections(scores, boxes, 100, t)) for who, t in forms.items()
    }, None


@row('nms/2000', images=0)
def nms_2000(case):
    return suppression(2000), None


@row('nms/6000', images=0)
def nms_6000(case):
    return suppression(6000), None


@row('nms/12000', images=0)
def nms_12000(case):
    return suppression(12000), None


def suppression(count):
    """NMS at 0.7 of so many boxes of an image, best first as an RPN gives them."""
    random = np.random.RandomState(0)
    boxes = data.proposals(data.boxes(data.OBJECTS, 800, 600, random), count, 800, 600, random)
    dets = np.hstack([boxes, np.sort(random.rand(count, 1), 0)[::-1]]).astype(np.float32)
    sides = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1])

    def torchvision():
        if not importlib.util.find_spec('torchvision'):
            raise LeftOut('torchvision is not installed')
        from torchvision.ops import nms as other

        both = torch.from_numpy(dets).to(caffe.common.device())
        return Contender(lambda: other(both[:, :4], both[:, 4], 0.7).cpu() is None)

    return {
        'ours': lambda: Contender(lambda: nms(dets, 0.7) and None),
        'OpenCV': lambda: Contender(lambda: cv2.dnn.NMSBoxes(sides, dets[:, 4], 0.0, 0.7) is None),
        'torchvision': torchvision,
    }


# ------------------------------------------------------------------------------------------------ training's data
def roidb(case, number):
    height, width = case.size
    entries = data.records(data.images(case.folder, number, width, height), width, height, nets.CLASSES)
    if cfg.TRAIN.BBOX_REG:
        nets.add_bbox_regression_targets(entries)
    return entries


def loader(case):
    """The data layer alone, by who reads ahead."""
    forms = {'ours': {}, 'nobody ahead': {'USE_PREFETCH': False}, '2 processes': {'LOADER_WORKERS': 2}}
    return {who: lambda form=form: data_layer(case, form) for who, form in forms.items()}, None


def data_layer(case, form):
    tops = ' '.join(f'top: "{name}"' for name in top_shapes(cfg.TRAIN, nets.CLASSES))
    python = (
        f'module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "\'num_classes\': {nets.CLASSES}"'
    )
    text = f'layer {{ name: "data" type: "Python" {tops} python_param {{ {python} }} }}'
    with overrides({f'TRAIN.{key}': value for key, value in form.items()}):
        net = caffe.Net.from_param(parse_net(text), caffe.TRAIN)
        net.layers[0].set_roidb(roidb(case, BATCH))

    def call():
        processor = time.thread_time()
        for _ in range(BATCH):
            net.run_forward()
        return Spent(parts={"the net's thread": (time.thread_time() - processor) / BATCH})

    return Contender(call)


def minibatch(case):
    entries = roidb(case, BATCH)
    call = lambda: [get_minibatch([entry], nets.CLASSES) for entry in entries] and None
    return {'ours': lambda: Contender(call)}, None


for name, settings in {'rpn': RPN, 'fast_rcnn': DETECTOR}.items():
    row(f'data/loader/{name}', settings=settings, images=BATCH)(loader)
    row(f'data/minibatch/{name}', settings=settings, images=BATCH)(minibatch)


@row('evaluation', images=0)
def evaluation(case):
    """Average precision of 200 classes over 10,000 images with 50 detections each."""
    images = 100 if case.small else 10000
    all_boxes, truth = data.detections(images, nets.CLASSES, 50, np.random.RandomState(0))
    classes = [str(k) for k in range(nets.CLASSES)]
    return {'ours': lambda: Contender(lambda: evaluator.class_aps(all_boxes, truth, classes) and None)}, None


# ------------------------------------------------------------------------------------------------ start
@row('start', images=0)
def start(case):
    """A new process until a training net has its weights; `import torch` alone beside it."""
    path = os.path.join(case.net('ResNet-101'), 'faster_rcnn_alt_opt/stage1_fast_rcnn_train.pt')
    weights = os.path.join(case.folder, 'start.caffemodel')
    net = caffe.Net(path, caffe.TRAIN)
    nets.draw_weights(net)
    net.save(weights)
    program = os.path.join(os.path.dirname(__file__), 'start.py')
    torch_alone = 'import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)'

    def ours():
        parts = in_process(program, path, weights)
        return Spent(sum(parts.values()), parts)

    return {
        'ours': lambda: Contender(ours, close=lambda: os.remove(weights)),
        'import torch': lambda: Contender(lambda: Spent(in_process('-c', torch_alone))),
    }, None
