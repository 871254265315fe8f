"""Whole nets and the solvers that train them: a function per method, which gives the files of its folder.

A row of METHODS is all that a new one needs. `stage`: of alternating optimization; in the second the shared
layers stay as they are.
"""

from dataclasses import dataclass

from netgen.backbones import Backbone
from netgen.heads import BBOX_BLOBS, RATIOS, RPN, SCALES, FastRCNN
from netgen.layers import python

IMAGE_AND_BOXES = 'data im_info gt_boxes'
DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }'
IM_INFO = 'input: "im_info" input_shape { dim: 1 dim: 3 }'
ROIS = 'input: "rois" input_shape { dim: 1 dim: 5 }'


@dataclass(frozen=True)
class Detector:
    """The nets of a backbone for K classes and one set of anchors."""

    net: Backbone
    classes: int  # K
    scales: tuple = SCALES
    ratios: tuple = RATIOS

    @property
    def rpn(self):
        return RPN(self.net, self.scales, self.ratios)

    @property
    def head(self):
        return FastRCNN(self.net, self.classes)

    def data(self, name, tops):
        param = f"'num_classes': {self.classes}"
        return [python(name, 'roi_data_layer.layer.RoIDataLayer', '', tops, param)]

    def rpn_train(self, stage):
        return [
            *self.data('input-data', IMAGE_AND_BOXES),
            *self.net.trunk(int(stage == 1)),
            *self.rpn.lines(1),
            *self.rpn.scores(),
            *self.rpn.loss(),
            *self.head.unused(),
        ]

    def head_train(self, stage, rpn=True):
        learn = int(stage == 1)
        return [
            *self.data('data', f'data rois labels {BBOX_BLOBS}'),
            *self.net.trunk(learn),
            *self.head.lines(1, learn),
            *self.head.loss(),
            *(self.rpn.unused() if rpn else []),
        ]

    def end2end_train(self):
        """Approximate joint training: the head takes proposals as given, no gradient goes to them."""
        targets = python(
            'roi-data',
            'rpn.proposal_target_layer.ProposalTargetLayer',
            'rpn_rois gt_boxes',
            f'rois labels {BBOX_BLOBS}',
            f"'num_classes': {self.head.box_classes}",
        )
        return [
            *self.data('input-data', IMAGE_AND_BOXES),
            *self.net.trunk(1),
            *self.rpn.lines(1),
            *self.rpn.scores(),
            *self.rpn.loss(),
            *self.rpn.proposal('rpn_rois'),
            targets,
            *self.head.lines(1, 1),
            *self.head.loss(),
        ]

    def rpn_test(self, tops='rois scores'):
        rpn = self.rpn
        return [
            DATA,
            IM_INFO,
            *self.net.trunk(None),
            *rpn.lines(None),
            *rpn.scores(),
            *rpn.proposal(tops),
        ]

    def head_test(self):
        return [DATA, ROIS, *self.net.trunk(None), *self.head.lines(None, None), *self.head.output()]

    def joint_test(self):
        return [*self.rpn_test('rois'), *self.head.lines(None, None), *self.head.output()]


# -------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Schedule:
    """Iterations after which the learning rate falls to a tenth."""

    stages: tuple  # RPN and Fast R-CNN of stage 1, the same of stage 2
    fast_rcnn: int
    end2end: int
    end2end_images: int = 1  # images an update sees, end to end


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
        for kind, iters, lines in (
            ('rpn', '60k80k', detector.rpn_train(stage)),
            ('fast_rcnn', '30k40k', detector.head_train(stage)),
        ):
            name = f'stage{stage}_{kind}'
            files[f'{name}_train.pt'] = lines
            files[f'{name}_solver{iters}.pt'] = solver(
                f'{folder}/{name}_train.pt', f'{net.prefix}_{kind}', net.base_lr, next(steps)
            )
    return {
        **files,
        'rpn_test.pt': detector.rpn_test(),
        'fast_rcnn_test.pt': detector.head_test(),
        'faster_rcnn_test.pt': detector.joint_test(),
    }


def end2end(detector, plan, folder):
    net = detector.net
    return {
        'train.prototxt': detector.end2end_train(),
        'test.prototxt': detector.joint_test(),
        'solver.prototxt': solver(
            f'{folder}/train.prototxt',
            f'{net.prefix}_faster_rcnn',
            net.base_lr,
            plan.end2end,
            f'iter_size: {plan.end2end_images}',
        ),
    }


def fast_rcnn(detector, plan, folder):
    net = detector.net
    return {
        'train.prototxt': detector.head_train(1, rpn=False),
        'test.prototxt': detector.head_test(),
        'solver.prototxt': solver(
            f'{folder}/train.prototxt', f'{net.prefix}_fast_rcnn', net.base_lr, plan.fast_rcnn
        ),
    }


METHODS = {'faster_rcnn_alt_opt': alt_opt, 'faster_rcnn_end2end': end2end, 'fast_rcnn': fast_rcnn}
