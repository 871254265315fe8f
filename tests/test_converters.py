"""lib/converters: files of tensorpack's and Detectron's naming, with random weights, against what the formulas of these
projects give in plain torch: maps and scores of the RPN, proposals, and what the head says of RoIs.
"""

import functools
import pickle
import re
import zlib
from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import caffe
import import_weights
from caffe.format.weights import read_weights
from converters import detectron, tensorpack
from datasets.coco import CATEGORIES
from fast_rcnn.config import cfg, cfg_from_file, overrides
from fast_rcnn.detection import ask
from fast_rcnn.inputs import scaled_image
from fast_rcnn.sidecar import read_sidecar
from fpn.boxes import family_of_net
from mask.passes import masks_of
from netgen.backbones import BACKBONES
from netgen.files import end2end_text
from pipeline.settings import cfg_files_of
from replay_torchvision import unmet

BLOCKS, WIDTHS, CLASSES, RATIOS = (3, 4, 6, 3), (64, 128, 256, 512), 4, (0.5, 1, 2)
RNG_SIZES = (32, 64, 128, 256, 512)  # of anchors


@functools.cache
def drawn(name, *shape):
    """float32 numbers by a name, so that a net of them stays in range."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    fan = np.prod(shape[1:]) if len(shape) > 1 else 100
    return generator.standard_normal(shape, np.float32) * np.float32((1.5 / fan) ** 0.5)


def pair(name, *shape):
    return drawn(f'{name} w', *shape), drawn(f'{name} b', shape[0])


class Formulas:
    """What tensorpack and Detectron have in common; convolutions (outputs, inputs, height, width), by one naming:
    conv1, (stage, block, part), lateral2 ..., post2 ..., rpn_conv, rpn_scores, rpn_deltas, fc6, fc7, scores, boxes."""

    fpn, anchors = True, 3

    def __init__(self, fpn):
        self.fpn, self.anchors = fpn, 3 if fpn else 15
        self.norms, self.weights = {}, {}
        self.add_unit('conv1', 64, 3, 7)
        for s, (count, width) in enumerate(zip(BLOCKS, WIDTHS), 2):
            for i in range(count):
                inputs = 4 * width if i else (64 if s == 2 else 2 * width)
                if not i:
                    self.add_unit((s, i, 0), 4 * width, inputs, 1)
                for part, shape in enumerate(
                    [(width, inputs, 1), (width, width, 3), (4 * width, width, 1)], 1
                ):
                    self.add_unit((s, i, part), *shape)
        channels, self.out = (256, 1024) if fpn else (1024, 2048)
        if fpn:
            for i in 2, 3, 4, 5:
                self.weights[f'lateral{i}'] = pair(f'lateral{i}', 256, 128 << (i - 1), 1, 1)
                self.weights[f'post{i}'] = pair(f'post{i}', 256, 256, 3, 3)
            self.weights |= {'fc6': pair('fc6', 1024, 256 * 49), 'fc7': pair('fc7', 1024, 1024)}
        self.weights['rpn_conv'] = pair('rpn_conv', channels, channels, 3, 3)
        self.weights['rpn_scores'] = pair('rpn_scores', self.anchors, channels, 1, 1)
        self.weights['rpn_deltas'] = pair('rpn_deltas', 4 * self.anchors, channels, 1, 1)
        self.weights['scores'] = pair('scores', CLASSES, self.out)
        self.weights['boxes'] = pair('boxes', 4 * CLASSES, self.out)
        for i in range(4 if fpn else 0):
            self.weights[f'fcn{i}'] = pair(f'fcn{i}', 256, 256, 3, 3)
        self.weights['deconv'] = drawn('deconv w', 256 if fpn else 2048, 256, 2, 2), drawn('deconv b', 256)
        self.weights['masks'] = pair('masks', CLASSES - self.no_background, 256, 1, 1)
        for name in 'rpn_deltas', 'boxes':
            self.weights[name] = [values / 5 for values in self.weights[name]]
        self.weights['conv1'] = (self.weights['conv1'][0] / self.contrast,)

    def add_unit(self, name, outputs, inputs, kernel):
        self.weights[name] = (drawn(f'{name} w', outputs, inputs, kernel, kernel),)
        self.norms[name] = self.drawn_norm(str(name), outputs)

    def conv(self, x, name, stride=1, pads=(0, 0)):
        """Padded by pads (before, after) on both axes."""
        x = F.pad(x, (*pads, *pads))
        return F.conv2d(x, *map(torch.from_numpy, self.weights[name]), stride=stride)

    def unit(self, x, name, stride=1, pads=(0, 0)):
        return self.norm(self.conv(x, name, stride, pads), *map(torch.from_numpy, self.norms[name]))

    def full(self, x, name):
        return F.linear(x, *map(torch.from_numpy, self.weights[name]))

    def stage(self, x, s):
        for i in range(BLOCKS[s - 2]):
            stride = 2 if i == 0 and s > 2 else 1
            strides = (stride, 1) if self.stride_1x1 else (1, stride)
            y = self.unit(x, (s, i, 1), strides[0]).relu()
            y = self.unit(y, (s, i, 2), strides[1], self.pads(3, strides[1])).relu()
            y = self.unit(y, (s, i, 3))
            x = (y + (self.unit(x, (s, i, 0), stride) if i == 0 else x)).relu()
        return x

    def maps(self, x):
        x = self.unit(x, 'conv1', 2, self.pads(7, 2)).relu()
        pads = self.pads(3, 2)
        x = F.max_pool2d(F.pad(x, (*pads, *pads)), 3, 2)
        bodies = []
        for s in (2, 3, 4, 5) if self.fpn else (2, 3, 4):
            x = self.stage(x, s)
            bodies.append(x)
        if not self.fpn:
            return bodies[-1:]
        above, levels = None, []
        for i in 5, 4, 3, 2:
            lateral = self.conv(bodies[i - 2], f'lateral{i}')
            if above is not None:
                lateral = lateral + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
            above = lateral
            levels.insert(0, self.conv(lateral, f'post{i}', pads=(1, 1)))
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def rpn(self, x):
        hidden = self.conv(x, 'rpn_conv', pads=(1, 1)).relu()
        return self.conv(hidden, 'rpn_scores'), self.conv(hidden, 'rpn_deltas')

    def grid(self, stride, sizes, shape):
        """Anchors at each cell, anchor fastest, then x, then y."""
        cells = [(x * stride, y * stride) for y in range(shape[0]) for x in range(shape[1])]
        shifts = torch.tensor(cells, dtype=torch.float32).repeat(1, 2)
        return (shifts[:, None] + self.cell_anchors(stride, sizes)).reshape(-1, 4)

    def proposals(self, maps, size, limits):
        """size (height, width) of what proposals are cut to; limits: before and after suppression."""
        found = []
        for i, level in enumerate(maps):
            scores, deltas = (answer[0].permute(1, 2, 0) for answer in self.rpn(level))
            sizes = RNG_SIZES[i : i + 1] if self.fpn else RNG_SIZES
            grid = self.grid(4 << i if self.fpn else 16, sizes, level.shape[2:])
            scores, order = scores.reshape(-1).sort(descending=True, stable=True)
            order, scores = order[: limits[0]], scores[: limits[0]]
            boxes = self.decoded(grid[order], deltas.reshape(-1, 4)[order])
            boxes = self.cut(boxes, size)
            kept = self.suppressed(boxes, 0.7)[: limits[1]]
            found.append((boxes[kept], scores[kept]))
        boxes, scores = (torch.cat(values) for values in zip(*found))
        return boxes[scores.argsort(descending=True)[: limits[1]]]

    def suppressed(self, boxes, thresh):
        sides = (boxes[:, 2:] - boxes[:, :2] + self.plus).numpy()
        area, boxes, kept = sides.prod(1), boxes.numpy(), []
        for i in np.flatnonzero((sides > 0).all(1)):
            low, high = np.maximum(boxes[kept, :2], boxes[i, :2]), np.minimum(boxes[kept, 2:], boxes[i, 2:])
            both = (high - low + self.plus).clip(0).prod(1)
            if not (both / (area[kept] + area[i] - both) > thresh).any():
                kept.append(i)
        return kept

    def pooled(self, maps, rois, bins):
        result = []
        for roi in rois:
            side = ((roi[2:] - roi[:2] + self.plus).prod() ** 0.5).item()
            level = int(min(max(np.floor(4 + np.log2(side / 224 + 1e-6)), 2), 5)) if self.fpn else 4
            result.append(self.align(maps[level - 2 if self.fpn else 0][0], roi / (1 << level), bins))
        return torch.stack(result)

    def head(self, maps, rois):
        """Logits, codes of boxes."""
        x = self.pooled(maps, rois, 7 if self.fpn else 14)
        if self.fpn:
            x = self.full(self.full(x.flatten(1), 'fc6').relu(), 'fc7').relu()
        else:
            x = self.stage(x, 5).mean((2, 3))
        return self.full(x, 'scores'), self.full(x, 'boxes')

    def masks(self, maps, rois, classes):
        """(R, M, M), of the classes (R,)."""
        x = self.pooled(maps, rois, 14)
        for i in range(4 if self.fpn else 0):
            x = self.conv(x, f'fcn{i}', pads=(1, 1)).relu()
        x = x if self.fpn else self.stage(x, 5)
        x = F.conv_transpose2d(x, *map(torch.from_numpy, self.weights['deconv']), stride=2).relu()
        return self.conv(x, 'masks').sigmoid()[torch.arange(len(rois)), classes - self.no_background]


def bilinear(image, y, x):
    """image (C, H, W) at points (P,) each, which lie on the map's rim where they are beyond it."""
    height, width = image.shape[1:]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y0, x0 = y.floor().long().clamp(max=height - 2), x.floor().long().clamp(max=width - 2)
    fy, fx = y - y0, x - x0
    top = image[:, y0, x0] * (1 - fx) + image[:, y0, x0 + 1] * fx
    below = image[:, y0 + 1, x0] * (1 - fx) + image[:, y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + below * fy


class TensorpackNet(Formulas):
    no_background, plus, project, contrast = 1, 0, 'tensorpack', 1
    bgr_mean, bgr_std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]

    def __init__(self, fpn, tf_pad=False, stride_1x1=False):
        self.tf_pad, self.stride_1x1 = tf_pad, stride_1x1
        super().__init__(fpn)

    def drawn_norm(self, name, count):
        return [
            drawn(f'{name} mean', count),
            0.5 + np.abs(drawn(f'{name} variance', count)),
            0.5 + drawn(f'{name} gamma', count),
            drawn(f'{name} beta', count),
        ]

    def norm(self, x, mean, variance, gamma, beta):
        mean, variance, gamma, beta = (v.view(1, -1, 1, 1) for v in (mean, variance, gamma, beta))
        return (x - mean) / (variance + 1e-5).sqrt() * gamma + beta

    def pads(self, kernel, stride):
        half = kernel // 2
        if stride == 1:
            return half, half
        return (half - 1, half) if self.tf_pad else (half, half - 1)

    def seen(self, image, short, long):
        """The pixels of an image, scaled (h, w, 3)."""
        height, width = image.shape[:2]
        scale = short / min(height, width)
        scale = min(scale, long / max(scale * height, scale * width))
        size = int(scale * width + 0.5), int(scale * height + 0.5)
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)

    def data(self, pixels):
        x = (pixels.astype(np.float32) - np.float32(self.bgr_mean)) / np.float32(self.bgr_std)
        return torch.from_numpy(x.transpose(2, 0, 1)[None].copy())

    def cell_anchors(self, stride, sizes):
        anchors = []
        for size in sizes:
            for ratio in RATIOS:
                width = (size * size / ratio) ** 0.5
                anchors.append([-width / 2, -width * ratio / 2, width / 2, width * ratio / 2])
        return torch.tensor(anchors)

    def decoded(self, boxes, codes):
        sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
        half = codes[:, 2:].clamp(max=np.log((1344 if self.fpn else 1333) / 16)).exp() * sides / 2
        centres = codes[:, :2] * sides + centres
        return torch.cat([centres - half, centres + half], 1)

    def cut(self, boxes, size):
        height, width = size
        return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))

    def align(self, image, roi, bins):
        """As many points as bins twice as fine have, at their middles; a cell's value is that of its own middle."""
        bins *= 2
        middles = (torch.arange(bins) + 0.5) / bins
        x, y = (roi[i] + middles * (roi[i + 2] - roi[i]) - 0.5 for i in (0, 1))
        x, y = x.repeat(bins), y.repeat_interleave(bins)
        return F.avg_pool2d(bilinear(image, y, x).reshape(1, -1, bins, bins), 2)[0]

    def found(self, maps, rois, scaled, shape):
        """Scores, and boxes (R, 4K) in the pixels of the image of this shape."""
        logits, codes = self.head(maps, rois)
        codes = codes.reshape(-1, 4) / torch.tensor([10.0, 10, 5, 5])
        boxes = self.cut(self.decoded(rois.repeat_interleave(CLASSES, 0), codes), scaled)
        boxes = boxes / (scaled[0] / shape[0] * scaled[1] / shape[1]) ** 0.5
        return logits.softmax(1), self.cut(boxes, shape[:2]).reshape(len(rois), -1)

    def arrays(self):
        arrays = {'global_step': np.int64(5), 'learning_rate': np.float32(0.1)}
        names = {f'lateral{i}': f'fpn/lateral_1x1_c{i}' for i in (2, 3, 4, 5)}
        names |= {f'post{i}': f'fpn/posthoc_3x3_p{i}' for i in (2, 3, 4, 5)} | {'conv1': 'conv0'}
        names |= {'rpn_conv': 'rpn/conv0', 'rpn_scores': 'rpn/class', 'rpn_deltas': 'rpn/box'}
        names |= self.head_names()
        names |= {f'fcn{i}': f'maskrcnn/fcn{i}' for i in range(4)}
        names |= {'deconv': 'maskrcnn/deconv', 'masks': 'maskrcnn/conv'}
        parts = 'convshortcut', 'conv1', 'conv2', 'conv3'
        for key, (weight, *bias) in self.weights.items():
            name = names.get(key) or f'group{key[0] - 2}/block{key[1]}/{parts[key[2]]}'
            order = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
            arrays[f'{name}/W'] = weight.transpose(order)
            arrays |= {f'{name}/b': b for b in bias}
            for blob, values in zip(('mean/EMA', 'variance/EMA', 'gamma', 'beta'), self.norms.get(key, ())):
                arrays[f'{name}/bn/{blob}'] = values
        return arrays

    def head_names(self):
        outputs = 'fastrcnn/outputs' if self.fpn else 'fastrcnn'
        names = {'scores': f'{outputs}/class', 'boxes': f'{outputs}/box'}
        return names | {'fc6': 'fastrcnn/fc6', 'fc7': 'fastrcnn/fc7'}

    def file(self, path):
        arrays = {f'{name}:0' if name.endswith('/W') else name: v for name, v in self.arrays().items()}
        np.savez(path, **arrays)


class TensorpackCascade(TensorpackNet):
    """Each of three heads judges the boxes that the one before has moved, which are of no class. fc6 and fc7 are narrow."""

    def __init__(self):
        super().__init__(True)
        for name in 'fc6', 'fc7', 'scores', 'boxes':
            del self.weights[name]
        for i in 1, 2, 3:
            self.weights[f'fc6 {i}'] = pair(f'fc6 {i}', 64, 256 * 49)
            self.weights[f'fc7 {i}'] = pair(f'fc7 {i}', 64, 64)
            self.weights[f'scores {i}'] = pair(f'scores {i}', CLASSES, 64)
            self.weights[f'boxes {i}'] = pair(f'boxes {i}', 4, 64)

    def head_names(self):
        names, parts = (
            {},
            {'fc6': 'head/fc6', 'fc7': 'head/fc7', 'scores': 'outputs/class', 'boxes': 'outputs/box'},
        )
        for i in 1, 2, 3:
            names |= {f'{mine} {i}': f'cascade_rcnn_stage{i}/{theirs}' for mine, theirs in parts.items()}
        return names

    def found(self, maps, rois, scaled, shape):
        """Boxes (R, 8): where they began, and where they end."""
        scores, first = 0, rois
        for i in 1, 2, 3:
            x = self.full(self.pooled(maps, rois, 7).flatten(1), f'fc6 {i}').relu()
            x = self.full(x, f'fc7 {i}').relu()
            scores = scores + self.full(x, f'scores {i}').softmax(1) / 3
            codes = self.full(x, f'boxes {i}') / (i * torch.tensor([10.0, 10, 5, 5]))
            rois = self.cut(self.decoded(rois, codes), scaled)
        ratio = (scaled[0] / shape[0] * scaled[1] / shape[1]) ** 0.5
        return scores, self.cut(torch.stack([first, rois], 1) / ratio, shape[:2]).flatten(1)


class DetectronNet(Formulas):
    no_background, plus, project, contrast, stride_1x1 = 0, 1, 'Detectron', 57, True

    def drawn_norm(self, name, count):
        return [0.5 + drawn(f'{name} s', count), drawn(f'{name} b', count)]

    def norm(self, x, scale, shift):
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    def pads(self, kernel, stride):
        return kernel // 2, kernel // 2

    def seen(self, image, short, long):
        scale = min(short / min(image.shape[:2]), long / max(image.shape[:2]))
        pixels = image.astype(np.float32) - np.float32([102.9801, 115.9465, 122.7717])
        self.scale = scale
        return cv2.resize(pixels, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)

    def data(self, pixels):
        return torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())

    def cell_anchors(self, stride, sizes):
        """Sides are rounded at a cell's size, then scaled, around its middle; the last pixel is included."""
        anchors, middle = [], (stride - 1) / 2
        for ratio in RATIOS:
            width = np.round((stride * stride / ratio) ** 0.5)
            height = np.round(width * ratio)
            for size in sizes:
                x, y = (side * size / stride / 2 - 0.5 for side in (width, height))
                anchors.append([middle - x, middle - y, middle + x, middle + y])
        return torch.tensor(anchors, dtype=torch.float32)

    def decoded(self, boxes, codes):
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        centres = codes[:, :2] * sides + boxes[:, :2] + sides / 2
        half = codes[:, 2:].clamp(max=np.log(1000 / 16)).exp() * sides / 2
        return torch.cat([centres - half, centres + half - 1], 1)

    def cut(self, boxes, size):
        height, width = size
        return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]) - 1.0)

    def align(self, image, roi, bins):
        """Two points along a bin's side, or one for each cell; a cell's value is that of its corner."""
        columns = []
        for i in 0, 1:
            length = (roi[i + 2] - roi[i]).clamp(min=1)
            points = 2 if self.fpn else int((length / bins).ceil())
            columns.append(roi[i] + (torch.arange(bins * points) + 0.5) / points * length / bins)
        x, y = columns
        values = bilinear(image, y.repeat_interleave(len(x)), x.repeat(len(y)))
        return values.reshape(-1, bins, len(y) // bins, bins, len(x) // bins).mean((2, 4))

    def found(self, maps, rois, scaled, shape):
        logits, codes = self.head(maps, rois)
        codes = codes.reshape(-1, 4) / torch.tensor([10.0, 10, 5, 5])
        boxes = self.decoded((rois / self.scale).repeat_interleave(CLASSES, 0), codes)
        return logits.softmax(1), self.cut(boxes, shape[:2]).reshape(len(rois), -1)

    def arrays(self):
        names = {f'lateral{i}': f'fpn_inner_res{i}_{n}_sum_lateral' for i, n in ((2, 2), (3, 3), (4, 5))}
        names |= {f'post{i}': f'fpn_res{i}_{n}_sum' for i, n in ((2, 2), (3, 3), (4, 5), (5, 2))}
        names |= {'lateral5': 'fpn_inner_res5_2_sum', 'scores': 'cls_score', 'boxes': 'bbox_pred'}
        level = '_fpn2' if self.fpn else ''
        names |= {'rpn_conv': f'conv_rpn{level}', 'rpn_scores': f'rpn_cls_logits{level}'}
        names |= {'rpn_deltas': f'rpn_bbox_pred{level}', 'deconv': 'conv5_mask', 'masks': 'mask_fcn_logits'}
        names |= {f'fcn{i}': f'_[mask]_fcn{i + 1}' for i in range(4)}
        parts, blobs = ('branch1', 'branch2a', 'branch2b', 'branch2c'), {}
        for key, (weight, *bias) in self.weights.items():
            name = f'res{key[0]}_{key[1]}_{parts[key[2]]}' if isinstance(key, tuple) else names.get(key, key)
            blobs[f'{name}_w'] = weight
            blobs[f'{name}_w_momentum'] = np.zeros_like(weight[:1])
            blobs |= {f'{name}_b': b for b in bias}
            norm = 'res_conv1_bn' if key == 'conv1' else f'{name}_bn'
            blobs |= {f'{norm}_{blob}': values for blob, values in zip('sb', self.norms.get(key, ()))}
        return blobs

    def file(self, path, cfg='MODEL: {BBOX_REG_WEIGHTS: [10, 10, 5, 5]}'):
        blobs = self.arrays() | {'lr': np.float32(0.1), 'kps_score_w': np.zeros(3, np.float32)}
        with open(path, 'wb') as stream:
            pickle.dump({'blobs': blobs, 'cfg': cfg}, stream, 2)


def picture(height, width):
    """Smooth noise, uint8."""
    small = np.random.default_rng(5).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(small, (width, height))


CASES = {
    'tensorpack, FPN': (partial(TensorpackNet, True), [], (75, 90), 'ResNet-50-FPN-tensorpack'),
    'tensorpack, C4, padded late': (
        partial(TensorpackNet, False, tf_pad=True),
        ['--tf_pad'],
        (80, 96),
        'ResNet-50-C4-tensorpack',
    ),
    'tensorpack, cascade': (TensorpackCascade, [], (75, 90), 'ResNet-50-FPN-tensorpack-Cascade'),
    'Detectron, FPN': (partial(DetectronNet, True), [], (75, 90), 'ResNet-50-FPN-Detectron'),
    'Detectron, C4': (partial(DetectronNet, False), [], (75, 90), 'ResNet-50-C4-Detectron'),
}


@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_answers_are_those_of_the_formulas(tmp_path, capsys, case):
    make, flags, size, name = CASES[case]
    theirs, image = make(), picture(60, 72)
    source = tmp_path / ('m.npz' if theirs.project == 'tensorpack' else 'm.pkl')
    theirs.file(source)
    target = tmp_path / 'm.caffemodel'
    import_weights.main([str(source), str(target), *flags])
    said = capsys.readouterr().out
    assert (
        f'for the net {name};' in said
        and ('left out' in said) == (theirs.project == 'Detectron')
        and f'of {CLASSES} classes' in said
    )
    prototxt = str(tmp_path / 'm.prototxt')
    with overrides({}):
        for path in cfg_files_of(prototxt, None):
            cfg_from_file(path)
        cfg.TEST.SCALES, cfg.TEST.RPN_PRE_NMS_TOP_N, cfg.TEST.RPN_POST_NMS_TOP_N = (size[0],), 200, 20
        net = caffe.Net(prototxt, str(target), caffe.TEST)
        (answer,) = ask(net, [scaled_image(image, family_of_net(net))])()
        boxes = answer.boxes()
        pixels = theirs.seen(image, size[0], cfg.TEST.MAX_SIZE)
    data = theirs.data(pixels)
    assert data.shape[2:] == size
    whole = (-size[0] % 32, -size[1] % 32) if theirs.fpn else (0, 0)
    maps = theirs.maps(F.pad(data, (0, whole[1], 0, whole[0])))
    names = ['p2', 'p3', 'p4', 'p5', 'p6'] if theirs.fpn else ['res4f']
    for blob, level in zip(names, maps, strict=True):
        close(net.blobs[blob].data, level)
        for kind, wanted in zip(('scores', 'deltas'), theirs.rpn(level)):
            close(net.blobs[f'rpn_{kind}_{blob}'].data, wanted)
    window = [s + more for s, more in zip(size, whole)] if theirs.project == 'Detectron' else size
    proposals, rois = (
        theirs.proposals(maps, window, (200, 20)),
        torch.from_numpy(net.blobs['rois'].data[:, 1:]),
    )
    assert len(proposals) == 20 and unmet([rois], [proposals]) <= 0.05
    scores, wanted = theirs.found(maps, rois, size, image.shape)
    close(answer.scores, scores)
    close(boxes, wanted)
    classes = np.arange(len(rois)) % (CLASSES - 1) + 1
    close(
        masks_of(net, net.blobs['rois'].data, classes)(), theirs.masks(maps, rois, torch.from_numpy(classes))
    )


def close(found, wanted):
    assert found.shape == tuple(wanted.shape)
    assert np.abs(found - wanted.numpy()).max() < 1e-4 * np.abs(wanted.numpy()).max()


@pytest.mark.parametrize('project, neck', [('tensorpack', 'FPN'), ('tensorpack', 'C4'), ('Detectron', 'FPN')])
def test_every_layer_is_filled(project, neck):
    """Of a net as the generator writes it, which learns too."""
    theirs = (TensorpackNet if project == 'tensorpack' else DetectronNet)(neck == 'FPN')
    found = (tensorpack if project == 'tensorpack' else detectron).convert(theirs.arrays())
    assert found.net == f'ResNet-50-{neck}-{project}' and found.backbone == BACKBONES[found.net]
    text = end2end_text(found.net, CLASSES, 'train.prototxt', masks=True)
    kinds = 'Deconvolution|Convolution|BatchNorm|Scale|InnerProduct'
    assert sorted(name for name, *_ in found.rows) == sorted(
        re.findall(rf'name: "(\S+)" type: "(?:{kinds})"', text)
    )


def test_strides_and_padding_of_older_models():
    arrays = TensorpackNet(True).arrays()
    body = tensorpack.convert(arrays, late=True, stride_1x1=True).backbone.body
    lines = {line.split('"')[1]: line for line in body.whole(None)}
    assert 'stride: 2' in lines['res3a_branch2a'] and 'stride: 1' in lines['res3a_branch2b']
    assert 'kernel_size: 8 stride: 2 pad: 3' in lines['conv1'] and 'pad' not in lines['pool1']
    rows = {name: blobs for name, _, blobs in tensorpack.convert(arrays, late=True).rows}
    for name, kernel in ('conv1', 8), ('res3a_branch2b', 4), ('res3b_branch2b', 3), ('res3a_branch1', 1):
        assert rows[name][0].shape[2:] == (kernel, kernel)
    assert not rows['conv1'][0][:, :, 0].any() and not rows['conv1'][0][:, :, :, 0].any()


def test_classifiers(tmp_path, capsys):
    """What training starts from."""
    other = r'^(rpn|fpn|fastrcnn|maskrcnn|mask_|_|conv5_mask|conv_rpn|fc[67]|cls_score|bbox_pred)'
    arrays = {
        name: value for name, value in TensorpackNet(True).arrays().items() if not re.match(other, name)
    }
    np.savez(
        tmp_path / 'r.npz', **arrays, **{'linear/W': drawn('linear', 2048, 10), 'linear/b': drawn('b', 10)}
    )
    import_weights.main([str(tmp_path / 'r.npz'), str(tmp_path / 'r.caffemodel')])
    assert 'for the net ResNet-50-torchvision' in capsys.readouterr().out
    names = [name for name, *_ in read_weights(str(tmp_path / 'r.caffemodel'))]
    assert len(names) == 3 * 53 + 1 and names[-1] == 'fc1000'
    blobs = {name: value for name, value in DetectronNet(True).arrays().items() if not re.match(other, name)}
    found = detectron.convert(blobs | {'pred_w': np.zeros(3), 'conv1_b': np.zeros(64)})
    assert (found.net, found.is_detector, len(found.rows)) == ('ResNet-50', False, 3 * 53)


def test_boxes_from_before_they_had_weights(tmp_path):
    """They say ten times, and five times, less."""
    path = str(tmp_path / 'm.pkl')
    for cfg_text, factors in ('MODEL: {BBOX_REG_WEIGHTS: 1}', 1), ('MODEL: {}', [10, 10, 5, 5] * CLASSES):
        theirs = DetectronNet(False)
        theirs.weights = {'boxes': theirs.weights['boxes']}
        theirs.file(path, cfg_text)
        np.testing.assert_allclose(detectron.read(path)['bbox_pred_b'], theirs.weights['boxes'][1] * factors)


class Runs:
    """What a pickle may do to him who loads it."""

    def __reduce__(self):
        return print, ('it ran',)


def broken(path, content):
    with open(path, 'wb') as stream:
        if isinstance(content, bytes):
            stream.write(content)
        elif str(path).endswith('pkl'):
            pickle.dump(content, stream, 2)
        else:
            np.savez(stream, **content)


@pytest.mark.parametrize(
    'ending, content, message',
    [
        ('pkl', {'blobs': {'conv1_w': Runs()}}, 'builtin'),
        ('pkl', [1], 'wanted a pickled mapping'),
        ('pkl', b'no pickle', 'broken pickle'),
        ('pkl', {'conv1_w': np.zeros(3)}, 'wanted a ResNet-50 or 101'),
        ('npz', b'no archive', 'cannot be read as an .npz'),
        ('npz', {'conv0/W': np.array([Runs()])}, 'cannot be read as an .npz'),
        ('npz', {'fastrcnn/conv0/b': np.zeros(3)}, 'without a head of convolutions'),
        ('npz', {'group0/block0/conv1/gn/gamma': np.zeros(3)}, 'without GroupNorm'),
    ],
)
def test_files_that_are_refused(tmp_path, capsys, ending, content, message):
    source = tmp_path / f'm.{ending}'
    broken(source, content)
    with pytest.raises(SystemExit) as error:
        import_weights.main([str(source), str(tmp_path / 'm.caffemodel')])
    assert message in str(error.value) and str(error.value).count(str(source)) == 1
    if message == 'builtin':
        assert 'only arrays and plain containers are read' in str(error.value)
    assert 'it ran' not in capsys.readouterr().out and not (tmp_path / 'm.caffemodel').exists()


@pytest.mark.parametrize(
    'change, message', [('rpn/box/b', 'is missing'), ('mine/W', "no place for 'mine/W'")]
)
def test_parts_that_are_missing_or_too_many(change, message):
    arrays = TensorpackNet(True).arrays()
    if arrays.pop(change, None) is None:
        arrays[change] = np.zeros(3)
    with pytest.raises(ValueError, match=message):
        tensorpack.convert(arrays)


def test_coco_is_asked_for(tmp_path, monkeypatch, capsys):
    """A detector of 81 classes has its names beside it then."""
    source, target = str(tmp_path / 'm.pkl'), str(tmp_path / 'm.caffemodel')
    monkeypatch.setattr(import_weights, 'write_weights', lambda *args: None)
    monkeypatch.setattr(detectron, 'read', lambda path: DetectronNet(False).arrays())
    with pytest.raises(SystemExit, match='wants a detector of 81 classes'):
        import_weights.main([source, target, '--coco'])
    monkeypatch.setattr('test_converters.CLASSES', 81)
    import_weights.main([source, target, '--coco'])
    sidecar = read_sidecar(target)
    assert sidecar.classes == ('__background__', *CATEGORIES.values())
    assert sidecar.cfg['TEST.SCALES'] == [800] and sidecar.cfg['PIXEL_MEANS'] == cfg.PIXEL_MEANS.tolist()
    assert 'of 81 classes' in capsys.readouterr().out
