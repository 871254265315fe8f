"""Builds torchvision's recorded detectors by our importer and generator, and holds their answers against the recorded.

    python tests/replay_torchvision.py FILE [--only CASE ...]

FILE: what tests/golden/torchvision/record.py wrote, which says what its keys are; weights are drawn by their names. Prints
for each case how far what it names is off, and the limit: feature maps, objectness and deltas (digests, of the largest
value), proposals and detections (how many have none like them in the other set: IoU > 0.99, scores within 1e-3), losses
(of their size), gradients (digests, of the largest value, in float64; and of the engine how far they are from these, of
their norm); of a Mask R-CNN the masks of detections that both sets have (of their cells, before they are pasted), the areas
of these in the image (of their size). Exit status 0 if all cases hold.
"""

import json
import os
import sys
import tempfile

from replays import (
    GRADIENTS,
    MAPS,
    ROOT,
    Check,
    asked,
    body_shapes,
    feed,
    off,
    pair,
    places,
    report,
    share,
)

# isort: split
import caffe
import import_weights
import numpy as np
import torch
from caffe.format.weights import write_weights
from caffe.types.boxes import overlaps
from fast_rcnn.config import cfg, cfg_from_file, overrides
from fast_rcnn.detection import ask
from fast_rcnn.inputs import scaled_image
from fast_rcnn.masks import pasted
from fpn.boxes import FAMILIES
from mask.passes import kept_rois, masks_of
from netgen.backbones import BACKBONES
from netgen.files import end2end_text
from pycocotools import mask as coco_mask
from record import weight
from roi_data_layer.minibatch import Preparation, Prepared, get_minibatch

LOSSES, SCORES, OVERLAP, UNMET, MASKS, AREAS = 1e-3, 1e-3, 0.99, 0.02, 2e-3, 0.01
FLIPS = 0.01  # torchvision's own gradients in float32 are up to 4.2e-3 from those in float64
FAMILY = FAMILIES['torchvision']
LEVELS = {'0': 'p2', '1': 'p3', '2': 'p4', '3': 'p5', 'pool': 'p6'}
LOSS_NAMES = {
    'loss_classifier': 'loss_cls',
    'loss_box_reg': 'loss_bbox',
    'loss_objectness': 'rpn_loss_cls',
    'loss_rpn_box_reg': 'rpn_loss_bbox',
    'loss_mask': 'loss_mask',
}
GT = 'input: "gt_boxes" input_shape { dim: 1 dim: 5 }'
GT_MASKS = 'input: "gt_masks" input_shape { dim: 1 dim: 64 dim: 64 }'
DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 64 dim: 64 } input: "im_info" input_shape { dim: 1 dim: 3 }'


class Case:
    """A recorded detector, and ours with the same weights."""

    def __init__(self, recorded, folder):
        self.recorded, self.settings = recorded, json.loads(str(recorded['settings']))
        self.has_masks = self.settings['kind'] == 'mask'
        if body_name(self.settings) not in BACKBONES:
            raise NotImplementedError(f'{self.settings["backbone"]} is no backbone of a net here')
        state = drawn_state(self.settings)
        self.net, rows = import_weights.convert(state, import_weights.OWN_MEANS)
        self.places = places(state, rows)
        self.folder, self.weights = folder, os.path.join(folder, 'w.caffemodel')
        write_weights(self.weights, rows, self.net)
        self.images = [recorded[f'image{i}'] for i in range(len(self.settings['sizes']))]
        self.pixels = [255 * image[::-1].transpose(1, 2, 0) for image in self.images]

    def settings_of_run(self):
        """cfg's names for what the case was recorded with."""
        s = self.settings
        values = {}
        for phase in 'train', 'test':
            for when in 'PRE', 'POST':
                values[f'{phase.upper()}.RPN_{when}_NMS_TOP_N'] = s[f'rpn_{when.lower()}_nms_top_n_{phase}']
            values[f'{phase.upper()}.SCALES'] = [s['min_size']]
            values[f'{phase.upper()}.MAX_SIZE'] = s['max_size']
        images = len(self.images)
        values['TRAIN.RPN_BATCHSIZE'] = s['rpn_batch_size_per_image']
        values['TRAIN.BATCH_SIZE'] = s['box_batch_size_per_image'] * images
        return values | {'TRAIN.IMS_PER_BATCH': images, 'TRAIN.REAL_BATCH_SIZE': 0}

    def build(self, name, phase):
        """The generated net of this name, its inputs given by hand, with the case's weights."""
        lines = end2end_text(self.net, self.settings['num_classes'], name, self.has_masks).splitlines()
        inputs = ' '.join([DATA, GT, *([GT_MASKS] if self.has_masks else [])])
        lines = [line if '"input-data"' not in line else inputs for line in lines]
        path = os.path.join(self.folder, name)
        with open(path, 'w') as stream:
            stream.write('\n'.join(lines))
        return caffe.Net(path, self.weights, phase)

    def minibatch(self):
        """What training reads of the pictures, and of what is to be found in them."""
        entries = [
            {
                'boxes': FAMILY.datasets(self.recorded[f'target_boxes{i}']),
                'gt_classes': self.recorded[f'target_labels{i}'],
                'segms': [
                    coco_mask.encode(np.asfortranarray(mask))
                    for mask in self.recorded.get(f'target_masks{i}', ())
                ],
                'height': pixels.shape[0],
                'width': pixels.shape[1],
            }
            for i, pixels in enumerate(self.pixels)
        ]
        prepare = Preparation(cfg.TRAIN, cfg.PIXEL_MEANS, FAMILY)

        def prepared(roidb, looks):
            return prepare.scaled(Prepared(self.pixels, None, None, None, []), looks)

        return get_minibatch(entries, self.settings['num_classes'], prepared, FAMILY, self.has_masks)


def body_name(settings):
    """The net of netgen.backbones for a case, if there is one."""
    return 'ResNet-' + settings['backbone'].removeprefix('resnet') + '-FPN'


def drawn_state(settings):
    """torchvision's state_dict of a case's detector, as record.py draws it."""
    net = BACKBONES[body_name(settings)].body
    shapes = body_shapes(net, 'backbone.body.')
    for i, stage in enumerate(net.stages):
        shapes |= pair(f'backbone.fpn.inner_blocks.{i}.0', 256, stage.channels, 1, 1)
        shapes |= pair(f'backbone.fpn.layer_blocks.{i}.0', 256, 256, 3, 3)
    shapes |= pair('rpn.head.conv.0.0', 256, 256, 3, 3) | pair('rpn.head.cls_logits', 3, 256, 1, 1)
    shapes |= pair('rpn.head.bbox_pred', 12, 256, 1, 1)
    classes = settings['num_classes']
    for name, *shape in (
        ('box_head.fc6', 1024, 256 * 7 * 7),
        ('box_head.fc7', 1024, 1024),
        ('box_predictor.cls_score', classes, 1024),
        ('box_predictor.bbox_pred', 4 * classes, 1024),
    ):
        shapes |= pair('roi_heads.' + name, *shape)
    if settings['kind'] == 'mask':
        for i in range(4):
            shapes |= pair(f'roi_heads.mask_head.{i}.0', 256, 256, 3, 3)
        shapes |= pair('roi_heads.mask_predictor.conv5_mask', 256, 256, 2, 2)
        shapes |= pair('roi_heads.mask_predictor.mask_fcn_logits', classes, 256, 1, 1)
    return {name: weight(name, shape) for name, shape in shapes.items()}


def alike(found, wanted):
    """Which boxes of two sets are alike (n, m): (boxes (n, 4), further columns that are to be within SCORES)."""
    boxes, others = (torch.as_tensor(np.asarray(values[0], np.float64)) for values in (found, wanted))
    like = overlaps(boxes, others).numpy() > OVERLAP
    for mine, theirs in zip(found[1:], wanted[1:], strict=True):
        like &= np.abs(np.subtract.outer(mine, theirs)) <= SCORES
    return like


def unmet(found, wanted):
    """The share of boxes of either set that have none like it in the other."""
    like = alike(found, wanted)
    if 0 in like.shape:
        return float(max(like.shape) > 0)
    return max(1 - like.any(1).mean(), 1 - like.any(0).mean())


def test_checks(case):
    """What the net says of the pictures."""
    net, recorded, s = case.build('test.prototxt', caffe.TEST), case.recorded, case.settings
    images = [scaled_image(pixels, FAMILY) for pixels in case.pixels]
    answers = ask(net, images)
    yield Check('batch', float(net.blobs['data'].shape != tuple(recorded['batch'])), 0)
    yield Check('sizes', np.abs(net.blobs['im_info'].data[:, :2] - recorded['sizes']).max(), 0)
    for i, (level, blob) in enumerate(LEVELS.items()):
        for key, name in (
            (f'feature_{level}', blob),
            (f'objectness_{i}', f'rpn_scores_{blob}'),
            (f'deltas_{i}', f'rpn_deltas_{blob}'),
        ):
            yield Check(key, off(net.blobs[name].data, recorded[f'digest/{key}']), MAPS)
    for i, answer in enumerate(answers()):
        yield Check(f'proposals of image {i}', unmet([answer.rois], [recorded[f'proposals{i}']]), UNMET)
        dets, labels = answer.best(s['box_detections_per_img'], s['box_score_thresh'])
        ours = dets[:, :4], dets[:, 4], labels
        theirs = [recorded[f'{name}{i}'] for name in ('boxes', 'scores', 'labels')]
        yield Check(f'detections of image {i}', unmet(ours, theirs), UNMET)
        if case.has_masks:
            masks = masks_of(net, kept_rois(dets[:, :4], i, images[i], FAMILY), labels)()
            yield from mask_checks(case, i, masks, alike(ours, theirs))


def mask_checks(case, i, masks, like):
    """Of boxes of image i the masks, and those of recorded boxes that are alike (n, m). They are pasted where the recorded
    boxes lie: a mask is cut at whole pixels of its box, and one that ends at such a pixel is rounded to either side."""
    wanted = case.recorded[f'masks{i}'].astype(np.float32)
    mine, theirs = np.nonzero(like)
    yield Check(f'masks of image {i}', np.abs(masks[mine] - wanted[theirs]).max(initial=0), MASKS)
    boxes = case.recorded[f'boxes{i}'][theirs]
    areas = coco_mask.area(pasted(masks[mine], boxes, *case.pixels[i].shape[:2])).astype(float)
    wanted = case.recorded[f'pasted_area{i}'][theirs]
    off = [share(abs(found - area), area) for found, area in zip(areas, wanted)]
    yield Check(f'areas of image {i}', max(off, default=0.0), AREAS)


def train_checks(case):
    """What it learns from them."""
    net, recorded = case.build('train.prototxt', caffe.TRAIN), case.recorded
    feed(net, **case.minibatch())
    net.forward()
    for name, wanted in json.loads(str(recorded['losses'])).items():
        found = float(net.blobs[LOSS_NAMES[name]].data)
        yield Check(name, share(abs(found - wanted), abs(wanted)), LOSSES)
    net.backward()
    module = doubly_learned(net)
    for key in recorded:
        if key.startswith('grad/'):
            layer, i = case.places[key.removeprefix('grad/')]
            exact = module[layer, i]
            yield Check(key, off(exact, recorded[key]), GRADIENTS)
            far = np.linalg.norm(net.params[layer][i].diff - exact)
            yield Check(f'{key}, of the engine', share(far, np.linalg.norm(exact)), FLIPS)


def doubly_learned(net):
    """{(layer, blob): gradient} of a net on what its inputs hold, in float64: in float32 a sum whose sign rounding
    decides, a ReLU's, moves a gradient by more than GRADIENTS, torchvision's own too."""
    module = caffe.to_module(net).double()
    given = {name: torch.from_numpy(np.float64(net.blobs[name].data)) for name in module.inputs}
    tops = module(**given)
    sum(weight * tops[name].sum() for name, weight in module.loss_weights.items()).backward()
    learned = {}
    for name, parameter in module.named_parameters():
        layer, i = name.rsplit('.', 1)
        if parameter.grad is not None:
            learned[layer, int(i)] = parameter.grad.numpy()
    return learned


def replay(recorded, parts=(test_checks, train_checks)):
    """The Checks of one recorded case."""
    with tempfile.TemporaryDirectory() as folder:
        case = Case(recorded, folder)
        cfg_from_file(os.path.join(ROOT, 'experiments/cfgs/faster_rcnn_end2end_torchvision.yml'))
        with overrides(case.settings_of_run()):
            return [check for part in parts for check in part(case)]


def main():
    failed = False
    for name, recorded in asked(__doc__.splitlines()[0]).items():
        try:
            checks = replay(recorded)
        except NotImplementedError as error:
            print(f'{name}: {error}')
            failed = True
            continue
        failed |= report(name, checks)
    sys.exit(failed)


if __name__ == '__main__':
    main()
