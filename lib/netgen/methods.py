"""Whole nets and the solvers that train them: a function per method, which gives the files of its folder.

A row of METHODS is all that a new one's nets need; its key is the `folder` or name of its row in pipeline.methods.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from netgen.backbones import Backbone
from netgen.heads import BBOX_BLOBS, HEADS, RATIOS, RPN, SCALES, PyramidPairsRPN, PyramidRPN
from netgen.layers import python
from netgen.mask_heads import MASK_HEADS, ROI_OBJECTS

IMAGE_AND_BOXES = 'data im_info gt_boxes'
DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }'
IM_INFO = 'input: "im_info" input_shape { dim: 1 dim: 3 }'
ROIS = 'input: "rois" input_shape { dim: 1 dim: 5 }'


@dataclass(frozen=True)
class Detector:
    """The nets of a backbone for K classes and one set of anchors; `head` is a name of HEADS."""

    net: Backbone
    classes: int  # K
    scales: tuple = SCALES
    ratios: tuple = RATIOS

    @property
    def rpn(self):
        kind = RPN
        if self.net.is_pyramid:
            kind = PyramidPairsRPN if self.net.rpn_pairs else PyramidRPN
        return kind(self.net, self.scales, self.ratios)

    def head(self, name):
        return HEADS[name](self.net, self.classes)

    @property
    def masks(self):
        return MASK_HEADS[self.net.mask_head](self.net, self.classes)

    def data(self, name, tops):
        param = f"'num_classes': {self.classes}"
        if self.net.boxes != 'caffe':
            param = rf"{param} \n'boxes': {self.net.boxes}"
        return [python(name, 'roi_data_layer.layer.RoIDataLayer', '', tops, param)]

    def rpn_train(self, lr, head=None, more=''):
        """lr: of the shared layers. head: one whose parameters a snapshot is to hold too. more: of the data layer, a top."""
        return [
            *self.data('input-data', f'{IMAGE_AND_BOXES} {more}'),
            *self.net.trunk(lr),
            *self.rpn.lines(1),
            *self.rpn.scores(),
            *self.rpn.loss(),
            *(self.head(head).unused() if head else []),
        ]

    def head_train(self, head, lr, rpn=False):
        """lr: of the shared layers. rpn: a snapshot is to hold its parameters too."""
        head = self.head(head)
        return [
            *self.data('data', f'data rois labels {BBOX_BLOBS}'),
            *self.net.trunk(lr),
            *head.lines(1, lr),
            *head.loss(),
            *(self.rpn.unused() if rpn else []),
        ]

    def joint_train(self, head):
        """Approximate joint training: the head takes proposals as given, no gradient goes to them."""
        head = self.head(head)
        return [
            *self.rpn_train(1),
            *self.rpn.proposal('rpn_rois'),
            self.rpn.roi_targets(head),
            *head.lines(1, 1),
            *head.loss(),
        ]

    def mask_train(self, head):
        """As joint_train, and RoIs with an object have a mask."""
        head, masks = self.head(head), self.masks
        return [
            *self.rpn_train(1, more='gt_masks'),
            *self.rpn.proposal('rpn_rois'),
            self.rpn.roi_targets(head, ROI_OBJECTS),
            masks.targets(),
            *head.lines(1, 1),
            *head.loss(),
            *masks.lines(1),
            *masks.loss(),
        ]

    def rpn_test(self, tops='rois scores', inputs=()):
        rpn = self.rpn
        return [
            DATA,
            IM_INFO,
            *inputs,
            *self.net.trunk(None),
            *rpn.lines(None),
            *rpn.scores(),
            *rpn.proposal(tops),
        ]

    def head_test(self, head):
        head = self.head(head)
        return [DATA, ROIS, *self.net.trunk(None), *head.lines(None, None), *head.output()]

    def joint_test(self, head):
        head = self.head(head)
        return [*self.rpn_test('rois'), *head.lines(None, None), *head.output()]

    def mask_test(self, head):
        """As joint_test; a second pass, over the layers that begin with `mask`, masks the boxes that are kept."""
        head, masks = self.head(head), self.masks
        return [
            *self.rpn_test('rois', masks.inputs),
            *head.lines(None, None),
            *head.output(),
            *masks.lines(None),
            *masks.output(),
        ]


# -------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Schedule:
    """Iterations after which the learning rate falls to a tenth."""

    stages: tuple  # RPN and Fast R-CNN of stage 1, the same of stage 2
    fast_rcnn: int
    end2end: int
    rfcn_stages: tuple  # RPN and R-FCN of stages 1 and 2, RPN of stage 3
    rfcn: int  # R-FCN, end to end
    images: int = 1  # that an update sees, where the published solvers differ: end to end, and R-FCN


def solver(train_net, prefix, base_lr, step, *fields):
    return [
        f'train_net: "{train_net}"',
        f'base_lr: {base_lr}',
        'lr_policy: "step"',
        'gamma: 0.1',
        f'stepsize: {step}',
        'display: 20',
        'average_loss: 100',
        'momentum: 0.9',
        'weight_decay: 0.0005',
        '# the training tools write snapshots, and set iter_size where TRAIN.REAL_BATCH_SIZE asks for it',
        'snapshot: 0',
        f'snapshot_prefix: "{prefix}"',
        *fields,
    ]


def alt_opt(detector, plan, folder):
    """{file name: lines}. Stage 2 starts from stage 1 and moves only what is not shared."""
    net, files, steps = detector.net, {}, iter(plan.stages)
    for stage in 1, 2:
        learn = int(stage == 1)
        for kind, iters, lines in (
            ('rpn', '60k80k', detector.rpn_train(learn, net.roi_head)),
            ('fast_rcnn', '30k40k', detector.head_train(net.roi_head, learn, rpn=True)),
        ):
            name = f'stage{stage}_{kind}'
            files[f'{name}_train.pt'] = lines
            files[f'{name}_solver{iters}.pt'] = solver(
                f'{folder}/{name}_train.pt', f'{net.prefix}_{kind}', net.base_lr, next(steps)
            )
    return {
        **files,
        'rpn_test.pt': detector.rpn_test(),
        'fast_rcnn_test.pt': detector.head_test(net.roi_head),
        'faster_rcnn_test.pt': detector.joint_test(net.roi_head),
    }


def end2end(detector, plan, folder):
    net = detector.net
    nets = detector.joint_train(net.roi_head), detector.joint_test(net.roi_head)
    return joint_files(net, plan, folder, 'faster_rcnn', *nets)


def mask_end2end(detector, plan, folder):
    net = detector.net
    nets = detector.mask_train(net.roi_head), detector.mask_test(net.roi_head)
    return joint_files(net, plan, folder, 'mask_rcnn', *nets)


def joint_files(net, plan, folder, word, train, test):
    return {
        'train.prototxt': train,
        'test.prototxt': test,
        'solver.prototxt': solver(
            f'{folder}/train.prototxt',
            f'{net.prefix}_{word}',
            net.base_lr,
            plan.end2end,
            f'iter_size: {plan.images}',
        ),
    }


def fast_rcnn(detector, plan, folder):
    net = detector.net
    return {
        'train.prototxt': detector.head_train(net.roi_head, 1),
        'test.prototxt': detector.head_test(net.roi_head),
        'solver.prototxt': solver(
            f'{folder}/train.prototxt', f'{net.prefix}_fast_rcnn', net.base_lr, plan.fast_rcnn
        ),
    }


def rfcn_end2end(detector, plan, folder):
    detector = replace(detector, net=replace(detector.net, frozen=2))
    net, files = detector.net, {'test_agnostic.prototxt': detector.joint_test('rfcn')}
    for suffix in '', '_ohem':
        train = f'train_agnostic{suffix}.prototxt'
        files[train] = detector.joint_train(f'rfcn{suffix}')
        files[f'solver{suffix}.prototxt'] = solver(
            f'{folder}/{train}',
            f'{net.prefix}_rfcn{suffix}',
            net.base_lr,
            plan.rfcn,
            f'iter_size: {plan.images}',
        )
    return files


def rfcn_alt_opt(detector, plan, folder):
    """Five stages. Stage 2's R-FCN starts anew, on better proposals; stage 3's RPN starts from it and leaves
    its layers as they are, so that the two share them."""
    detector = replace(detector, net=replace(detector.net, frozen=2, rpn_outputs=256))
    net, files, steps = detector.net, {}, iter(plan.rfcn_stages)
    for stage, kind in (1, 'rpn'), (1, 'rfcn_ohem'), (2, 'rpn'), (2, 'rfcn_ohem'), (3, 'rpn'):
        name, rpn = f'stage{stage}_{kind}', kind == 'rpn'
        files[f'{name}_train.pt'] = (
            detector.rpn_train(int(stage < 3)) if rpn else detector.head_train('rfcn_ohem', 1)
        )
        files[f'{name}_solver{"60k80k" if rpn else "80k120k"}.pt'] = solver(
            f'{folder}/{name}_train.pt',
            f'{net.prefix}_{kind}',
            net.base_lr,
            next(steps),
            f'iter_size: {1 if rpn else plan.images}',
        )
    return {**files, 'rpn_test.pt': detector.rpn_test(), 'rfcn_test.pt': detector.head_test('rfcn')}


class Method(NamedTuple):
    make: Callable  # Detector, Schedule, folder -> {file name: lines}
    fits: Callable = lambda net: True  # whether a backbone has what it takes
    masks: bool = False  # it learns from objects' masks


def has_dilated_stage(net):
    return net.rfcn_outputs > 0


def has_one_head(net):
    """A cascade learns where objects are known: end to end."""
    return net.roi_head != 'cascade'


def has_masks(net):
    return bool(net.mask_head)


METHODS = {
    'faster_rcnn_alt_opt': Method(alt_opt, has_one_head),
    'faster_rcnn_end2end': Method(end2end),
    'mask_rcnn_end2end': Method(mask_end2end, has_masks, masks=True),
    'fast_rcnn': Method(fast_rcnn, has_one_head),
    'rfcn_end2end': Method(rfcn_end2end, has_dilated_stage),
    'rfcn_alt_opt_5step_ohem': Method(rfcn_alt_opt, has_dilated_stage),
}
