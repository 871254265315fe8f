"""What runs on a backbone's feature maps: the region proposal network, and the heads that judge regions.

A new one is a class with lines, loss and output (unused too, where a net of alternating training carries it along)
and a row of HEADS; a net in netgen.methods names it. K classes with the background, A anchors per position; `lr` and
`bn` as in netgen.backbones.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from netgen.backbones import Backbone
from netgen.layers import (
    conv,
    inner_product,
    layer,
    propagate,
    python,
    relu,
    reshape,
    silence,
    smooth_l1_loss,
    softmax_loss,
)

SCALES, RATIOS = (8, 16, 32), (0.5, 1, 2)  # the library's own: no net mentions them
PYRAMID_SCALES = (8,)  # and of fpn.anchors
BBOX_BLOBS = 'bbox_targets bbox_inside_weights bbox_outside_weights'
RPN_BBOX_BLOBS = 'rpn_bbox_targets rpn_bbox_inside_weights rpn_bbox_outside_weights'


@dataclass(frozen=True)
class RPN:
    """The region proposal network on the last of a backbone's maps, with one set of anchors."""

    net: Backbone
    scales: tuple = SCALES
    ratios: tuple = RATIOS

    @property
    def anchors(self):  # A
        return len(self.scales) * len(self.ratios)

    @property
    def anchor_param(self):
        """param_str of the layers that lay anchors out; its \\n is the prototxt's, for a new line of YAML."""
        parts = [f"'feat_stride': {self.net.maps[-1].stride}"]
        parts += [f"'scales': {list(self.scales)}"] if self.scales != SCALES else []
        parts += [f"'ratios': {list(self.ratios)}"] if self.ratios != RATIOS else []
        return r' \n'.join(parts)

    def lines(self, lr):
        net = self.net
        return [
            conv(net.rpn_conv, net.maps[-1].blob, net.rpn_outputs, 3, lr, pad=1, std=0.01, top=net.rpn_top),
            relu(net.rpn_relu, net.rpn_top),
            conv('rpn_cls_score', net.rpn_top, 2 * self.anchors, 1, lr, std=0.01),
            conv('rpn_bbox_pred', net.rpn_top, 4 * self.anchors, 1, lr, std=0.01),
        ]

    def unused(self):
        """In a net that trains a head: frozen, so that a snapshot holds all parameters."""
        return [*self.lines(0), silence('rpn_cls_score'), silence('rpn_bbox_pred')]

    def scores(self):
        """(N, 2A, H, W) -> (N, 2, A H, W): of background and of object."""
        return [reshape('rpn_cls_score_reshape', 'rpn_cls_score', 'rpn_cls_score_reshape', 0, 2, -1, 0)]

    def loss(self):
        return [
            python(
                'rpn-data',
                'rpn.anchor_target_layer.AnchorTargetLayer',
                'rpn_cls_score gt_boxes im_info data',
                f'rpn_labels {RPN_BBOX_BLOBS}',
                self.anchor_param,
            ),
            softmax_loss(
                'rpn_loss_cls',
                'rpn_cls_score_reshape rpn_labels',
                'loss_param { ignore_label: -1 normalize: true }',
            ),
            smooth_l1_loss(
                'rpn_loss_bbox', f'rpn_bbox_pred {RPN_BBOX_BLOBS}', 'smooth_l1_loss_param { sigma: 3.0 }'
            ),
        ]

    def proposal(self, tops):
        return [
            layer('rpn_cls_prob', 'Softmax', 'rpn_cls_score_reshape', 'rpn_cls_prob'),
            reshape(
                'rpn_cls_prob_reshape', 'rpn_cls_prob', 'rpn_cls_prob_reshape', 0, 2 * self.anchors, -1, 0
            ),
            python(
                'proposal',
                'rpn.proposal_layer.ProposalLayer',
                'rpn_cls_prob_reshape rpn_bbox_pred im_info',
                tops,
                self.anchor_param,
            ),
        ]

    def roi_targets(self, head, more=''):
        """more: a top after the usual ones."""
        return python(
            'roi-data',
            'rpn.proposal_target_layer.ProposalTargetLayer',
            'rpn_rois gt_boxes',
            f'rois labels {BBOX_BLOBS} {more}',
            f"'num_classes': {head.box_classes}",
        )


@dataclass(frozen=True)
class PyramidRPN(RPN):
    """The region proposal network on every map of a pyramid, the same on each: one score per anchor, a logit.

    scales: of every level, or a tuple for each."""

    anchor_scores = 1  # of an anchor

    @property
    def anchors(self):
        scales = self.scales[0] if isinstance(self.scales[0], tuple) else self.scales
        return len(scales) * len(self.ratios)

    @property
    def anchor_param(self):
        parts = [f"'boxes': {self.net.boxes}", f"'strides': {[m.stride for m in self.net.maps]}"]
        scales = [list(level) if isinstance(level, tuple) else level for level in self.scales]
        parts += [f"'scales': {scales}"] if self.scales != PYRAMID_SCALES else []
        parts += [f"'ratios': {list(self.ratios)}"] if self.ratios != RATIOS else []
        return r' \n'.join(parts)

    def blobs(self, kind):
        return [f'rpn_{kind}_{m.blob}' for m in self.net.maps]

    def lines(self, lr):
        lines, outputs = [], {'scores': self.anchor_scores * self.anchors, 'deltas': 4 * self.anchors}
        for m in self.net.maps:
            top, shape = f'rpn_conv_{m.blob}', (self.net.rpn_outputs, 3)
            lines += [
                conv(top, m.blob, *shape, lr, pad=1, std=0.01, share='rpn_conv'),
                relu(f'rpn_relu_{m.blob}', top),
            ]
            for kind, count in outputs.items():
                lines.append(conv(f'rpn_{kind}_{m.blob}', top, count, 1, lr, std=0.01, share=f'rpn_{kind}'))
        return lines

    def unused(self):
        return [*self.lines(0), silence(' '.join(self.blobs('scores') + self.blobs('deltas')))]

    def scores(self):
        return []

    def loss(self):
        """The levels' answers in a row, (N, A H W + ...), to as many labels."""
        targets = 'fpn.anchor_target_layer.AnchorTargetLayer'
        bottoms = ' '.join([*self.blobs('scores'), 'gt_boxes im_info data'])
        return [
            *self.score_row(),
            *self.row('deltas'),
            python('rpn-data', targets, bottoms, f'rpn_labels {RPN_BBOX_BLOBS}', self.anchor_param),
            self.score_loss(),
            smooth_l1_loss(
                'rpn_loss_bbox', f'rpn_deltas {RPN_BBOX_BLOBS}', 'smooth_l1_loss_param { sigma: 3.0 }'
            ),
        ]

    def row(self, kind):
        rows = [f'{blob}_row' for blob in self.blobs(kind)]
        lines = [layer(row, 'Flatten', blob, row) for row, blob in zip(rows, self.blobs(kind))]
        return [*lines, layer(f'rpn_{kind}', 'Concat', ' '.join(rows), f'rpn_{kind}')]

    def score_row(self):
        return self.row('scores')

    def score_loss(self):
        return layer(
            'rpn_loss_cls',
            'SigmoidCrossEntropyLoss',
            'rpn_scores rpn_labels',
            'rpn_loss_cls',
            propagate(1, 0),
            'loss_weight: 1 loss_param { ignore_label: -1 normalization: VALID }',
        )

    def proposal(self, tops):
        bottoms = ' '.join([*self.blobs('scores'), *self.blobs('deltas'), 'im_info data'])
        return [python('proposal', 'fpn.proposal_layer.ProposalLayer', bottoms, tops, self.anchor_param)]

    def roi_targets(self, head, more=''):
        return python(
            'roi-data',
            'fpn.proposal_target_layer.ProposalTargetLayer',
            'rpn_rois gt_boxes im_info',
            f'rois labels {BBOX_BLOBS} {more}',
            rf"'boxes': {self.net.boxes} \n'num_classes': {head.box_classes}{head.target_param}",
        )


class PyramidPairsRPN(PyramidRPN):
    """One whose anchors have two scores each, of background and of object: those of all anchors, then those."""

    anchor_scores = 2

    def score_row(self):
        """(N, 2, A H W + ...)"""
        rows = [f'{blob}_row' for blob in self.blobs('scores')]
        lines = [reshape(row, blob, row, 0, 2, -1) for row, blob in zip(rows, self.blobs('scores'))]
        axis = 'concat_param { axis: 2 }'
        return [*lines, layer('rpn_scores', 'Concat', ' '.join(rows), 'rpn_scores', axis)]

    def score_loss(self):
        ignore = 'loss_param { ignore_label: -1 normalize: true }'
        return softmax_loss('rpn_loss_cls', 'rpn_scores rpn_labels', ignore)


@dataclass(frozen=True)
class FastRCNN:
    """RoI pooling, the backbone's own head, class scores and a box per class (Girshick, 2015)."""

    net: Backbone
    classes: int  # K
    target_param = ''  # more for the param_str of what samples RoIs

    @property
    def box_classes(self):
        """How many classes the box regression tells apart."""
        return self.classes

    @property
    def prefix(self):
        """Of the blobs of what is pooled: regions, or these and whole images."""
        return 'context_' if self.net.context else ''

    @property
    def pooled(self):
        """The blob of what is pooled."""
        return self.prefix + self.net.roi_pool

    def lines(self, lr, bn):
        net = self.net
        whole = [self.whole_images()] if net.context else []
        outputs = self.outputs_in_context(lr) if net.context else self.outputs(lr)
        return [*whole, *self.pooling(), *net.head(self.pooled, lr, bn), *outputs]

    def pooling(self):
        """RoIs -> the blob self.pooled (R, channels, pooled, pooled)."""
        net = self.net
        size = f'pooled_w: {net.pooled} pooled_h: {net.pooled} spatial_scale: {1 / net.maps[-1].stride}'
        bottoms = f'{net.maps[-1].blob} {self.prefix}rois'
        return [layer(self.pooled, 'ROIPooling', bottoms, self.pooled, f'roi_pooling_param {{ {size} }}')]

    def outputs(self, lr):
        return [inner_product(name, self.net.head_top, *rest) for name, *rest in self.products(lr)]

    def products(self, lr):
        """Name, outputs, rate and filler of what tells scores and boxes."""
        return [
            ('cls_score', self.classes, lr, 'type: "gaussian" std: 0.01'),
            ('bbox_pred', 4 * self.classes, lr, 'type: "gaussian" std: 0.001'),
        ]

    def whole_images(self):
        """Global context (He et al. 2015, appendix B): each image as one more RoI."""
        tops, param = 'context_rois region_rows image_rows', f"'boxes': {self.net.boxes}"
        return python('context', 'fast_rcnn.context_layer.ContextLayer', 'rois data', tops, param)

    def outputs_in_context(self, lr):
        """Of a region's features and its image's: a product of the two in a row is the sum of one of each, so that the first
        has the names, and may have the weights, of a net without context; the second begins at 0."""
        top, parts, lines = self.net.head_top, ('region', 'image'), []
        for part in parts:
            blob = f'{top}_{part}'
            lines.append(layer(blob, 'BatchReindex', f'{top} {part}_rows', blob, propagate(1, 0)))
        for name, count, rate, filler in self.products(lr):
            tops = [f'{name}_{part}' for part in parts]
            of_image = inner_product(tops[1], f'{top}_image', count, rate, 'type: "constant"', bias=False)
            lines += [
                inner_product(name, f'{top}_region', count, rate, filler, top=tops[0]),
                of_image,
                layer(f'{name}_sum', 'Eltwise', ' '.join(tops), name),
            ]
        return lines

    def unused(self):
        """In an RPN net: fed by noise and frozen, so that a snapshot holds all parameters."""
        net = self.net
        shape = f'shape {{ dim: 1 dim: {net.maps[-1].channels} dim: {net.pooled} dim: {net.pooled} }}'
        return [
            layer(
                'dummy_roi_pool',
                'DummyData',
                '',
                'dummy_roi_pool',
                f'dummy_data_param {{ {shape} data_filler {{ type: "gaussian" std: 0.01 }} }}',
            ),
            *net.head('dummy_roi_pool', 0, 0),
            silence(net.head_top),
        ]

    def loss(self):
        return [
            softmax_loss('loss_cls', 'cls_score labels'),
            smooth_l1_loss('loss_bbox', f'bbox_pred {BBOX_BLOBS}'),
        ]

    def output(self):
        return [layer('cls_prob', 'Softmax', 'cls_score', 'cls_prob')]


class PyramidRCNN(FastRCNN):
    """RoIs go to the level of the pyramid that suits their size, and what is pooled from there comes back in their order
    (Lin et al., 2017, section 4.2), by the layer that the backbone names."""

    def pooling(self):
        return level_pooling(self.net, self.net.pooled, self.prefix)

    @property
    def sigma(self):
        return 3.0 if self.net.boxes == 'torchvision' else 1.0

    def loss(self):
        return [
            softmax_loss('loss_cls', 'cls_score labels'),
            smooth_l1_loss(
                'loss_bbox', f'bbox_pred {BBOX_BLOBS}', f'smooth_l1_loss_param {{ sigma: {self.sigma} }}'
            ),
        ]


class CascadeRCNN(PyramidRCNN):
    """Three heads (Cai and Vasconcelos, 2018, arXiv 1712.00726), as in tensorpack's examples/FasterRCNN: each judges all boxes
    that the one before has moved, and learns of those that overlap an object by its own IOUS; one box for all classes, whose
    codes have WEIGHTS; of the heads' gradients a third goes to the features. At test their scores' mean counts, and the boxes
    of the last. Stage s's layers are named stage<s>_...; rois, labels and the like of the first have no prefix."""

    IOUS = (0.5, 0.6, 0.7)  # the first is TRAIN.FG_THRESH
    WEIGHTS = ([10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15])
    STAGES = (1, 2, 3)

    @property
    def target_param(self):
        return rf" \n'agnostic': true \n'weights': {self.WEIGHTS[0]}"

    def lines(self, lr, bn):
        return [line for stage in self.STAGES for line in self.stage(stage, lr, bn)]

    def stage(self, stage, lr, bn):
        mine, pooled = f'stage{stage}_', of_stage(stage, self.net.roi_pool)
        lines = self.moved(stage, lr is not None) if stage > 1 else []
        lines += level_pooling(self.net, self.net.pooled, of_stage(stage, ''))
        if lr is not None:
            lines.append(self.share(f'{mine}share', pooled))
            pooled = f'{mine}share'
        top = mine + self.net.head_top
        return [
            *lines,
            *self.net.head(pooled, lr, bn, mine),
            inner_product(f'{mine}cls_score', top, self.classes, lr, 'type: "gaussian" std: 0.01'),
            inner_product(f'{mine}bbox_pred', top, 8, lr, 'type: "gaussian" std: 0.001'),
        ]

    def share(self, name, blob):
        """The same values, to which one of two summands takes the gradient."""
        part = 1 / len(self.STAGES)
        coefficients = f'eltwise_param {{ coeff: {1 - part:.9g} coeff: {part:.9g} }}'
        return layer(name, 'Eltwise', f'{blob} {blob}', name, propagate(0, 1), coefficients)

    def moved(self, stage, train):
        """The RoIs of a stage, and what it is to answer for them."""
        mine, before = f'stage{stage}_', of_stage(stage - 1, 'rois')
        bottoms, rois = f'{before} stage{stage - 1}_bbox_pred im_info', f'{mine}rois'
        lines = [self.between(f'{mine}refine', 'RefineLayer', bottoms, rois, stage - 1)]
        if train:
            tops = ' '.join(mine + blob for blob in f'labels {BBOX_BLOBS}'.split())
            overlap = rf" \n'overlap': {self.IOUS[stage - 1]}"
            bottoms = f'{rois} gt_boxes im_info'
            lines.append(self.between(f'{mine}data', 'StageTargetLayer', bottoms, tops, stage, overlap))
        return lines

    def between(self, name, kind, bottoms, tops, stage, more=''):
        """A layer of fpn.cascade_layer that reads or makes the codes of a stage."""
        param = rf"'boxes': {self.net.boxes} \n'weights': {self.WEIGHTS[stage - 1]}{more}"
        none = propagate(*[0] * len(bottoms.split()))
        return python(name, f'fpn.cascade_layer.{kind}', bottoms, tops, param, none)

    def loss(self):
        lines, sigma = [], f'smooth_l1_loss_param {{ sigma: {self.sigma} }}'
        for stage in self.STAGES:
            mine = f'stage{stage}_'
            boxes = ' '.join(of_stage(stage, blob) for blob in BBOX_BLOBS.split())
            lines += [
                softmax_loss(f'{mine}loss_cls', f'{mine}cls_score {of_stage(stage, "labels")}'),
                smooth_l1_loss(f'{mine}loss_bbox', f'{mine}bbox_pred {boxes}', sigma),
            ]
        return lines

    def output(self):
        last, probs = f'stage{self.STAGES[-1]}_', [f'stage{stage}_cls_prob' for stage in self.STAGES]
        lines = [layer(prob, 'Softmax', prob.replace('prob', 'score'), prob) for prob in probs]
        mean = ' '.join([f'coeff: {1 / len(probs):.9g}'] * len(probs))
        bottoms = f'rois {last}rois {last}bbox_pred im_info'
        return [
            *lines,
            layer('cls_prob', 'Eltwise', ' '.join(probs), 'cls_prob', f'eltwise_param {{ {mean} }}'),
            self.between('bbox_pred', 'WholeWayLayer', bottoms, 'bbox_pred', self.STAGES[-1]),
        ]


def of_stage(stage, blob):
    """The name of a blob of a cascade's stage, of which the first has those of a net with one head."""
    return blob if stage == 1 else f'stage{stage}_{blob}'


class C4RCNN(PyramidRCNN):
    """RoIs are pooled from one map, by the layer that the backbone names."""

    def pooling(self):
        net, (kind, param, how, _) = self.net, ROI_LAYERS[self.net.roi_layer]
        size = [
            f'pooled_w: {net.pooled} pooled_h: {net.pooled} spatial_scale: {1 / net.maps[-1].stride}',
            *how,
        ]
        bottoms = f'{net.maps[-1].blob} {self.prefix}rois'
        return [layer(self.pooled, kind, bottoms, self.pooled, f'{param} {{ {" ".join(size)} }}')]


class RoILayer(NamedTuple):
    """What pools RoIs: the layer's type, its message and fields of that; whether RoIs come in cells of the map, as many to
    a pixel as its height has to that of the data, or in pixels."""

    kind: str
    param: str
    how: tuple = ()
    in_cells: bool = False


def level_pooling(net, pooled, prefix=''):
    """From a blob `rois` and the levels of a pyramid -> the blob roi_pool (R, channels, pooled, pooled). prefix: of the names
    of all these blobs but the levels."""
    maps = net.pooled_maps
    rois, pools = ([f'{prefix}{blob}_{m.blob}' for m in maps] for blob in ('rois', 'roi_pool'))
    kind, param, how, in_cells = ROI_LAYERS[net.roi_layer]
    bottoms = [f'{prefix}rois', *([*[m.blob for m in maps], 'data'] if in_cells else [])]
    tops, first = ' '.join([*rois, f'{prefix}order']), maps[0].stride.bit_length() - 1
    levels = rf"'boxes': {net.boxes} \n'first': {first}"
    lines = [python(f'{prefix}roi-levels', 'fpn.level_layer.RoILevelsLayer', ' '.join(bottoms), tops, levels)]
    for m, mine, top in zip(maps, rois, pools):
        scale = [] if in_cells else [f'spatial_scale: {1 / m.stride}']
        size = [f'pooled_w: {pooled} pooled_h: {pooled}', *scale, *how]
        lines.append(layer(top, kind, f'{m.blob} {mine}', top, f'{param} {{ {" ".join(size)} }}'))
    joined, top = f'{prefix}roi_pools', prefix + net.roi_pool
    return [
        *lines,
        layer(joined, 'Concat', ' '.join(pools), joined, 'concat_param { axis: 0 }'),
        layer(top, 'BatchReindex', f'{joined} {prefix}order', top, propagate(1, 0)),
    ]


ROI_LAYERS = {
    'align': RoILayer('ROIAlign', 'roi_align_param', ('sampling_ratio: 2',)),
    'aligned': RoILayer('ROIAlign', 'roi_align_param', ('sampling_ratio: 2', 'aligned: true')),
    'adaptive': RoILayer('ROIAlign', 'roi_align_param', ('sampling_ratio: 0',)),
    'corners': RoILayer('ROIAlign', 'roi_align_param', ('corners: true',), True),
    'pool': RoILayer('ROIPooling', 'roi_pooling_param'),
    'crop': RoILayer('ROICrop', 'roi_crop_param', ('max_pool: true',)),
}


@dataclass(frozen=True)
class RFCN:
    """Position-sensitive score maps of the whole image, pooled on each RoI, vote (Dai et al., 2016, arXiv
    1605.06409). One box for all classes: 8 columns, the last four an object's.

    ohem: every RoI gets a loss, and the ROIS of an image with the largest ones train.
    """

    net: Backbone
    classes: int  # K
    ohem: bool = False
    box_classes = 2
    GROUP, ROIS = 7, 128

    def lines(self, lr, bn):
        lines, blob = self.net.dilated(lr, bn)
        suffix = '_pre' if lr is None else ''  # a test net's are reshaped, see output
        return [
            *lines,
            conv('conv_new_1', blob, self.net.rfcn_outputs, 1, lr, std=self.net.rfcn_std),
            relu('conv_new_1_relu', 'conv_new_1'),
            conv('rfcn_cls', 'conv_new_1', self.classes * self.GROUP**2, 1, lr, std=0.01),
            conv('rfcn_bbox', 'conv_new_1', 4 * self.box_classes * self.GROUP**2, 1, lr, std=0.01),
            *self.vote('rfcn_cls', 'cls', 'cls_score', self.classes),
            *self.vote('rfcn_bbox', 'loc', 'bbox_pred', 4 * self.box_classes, suffix),
        ]

    def vote(self, maps, word, name, outputs, suffix=''):
        pooled, scale = f'psroipooled_{word}_rois', 1 / self.net.maps[-1].stride
        size = f'spatial_scale: {scale} output_dim: {outputs} group_size: {self.GROUP}'
        size_of_pool = f'pool: AVE kernel_size: {self.GROUP} stride: {self.GROUP}'
        return [
            layer(pooled, 'PSROIPooling', f'{maps} rois', pooled, f'psroi_pooling_param {{ {size} }}'),
            layer(
                f'ave_{name}_rois', 'Pooling', pooled, name + suffix, f'pooling_param {{ {size_of_pool} }}'
            ),
        ]

    def loss(self):
        labels, weights, ignore = 'labels', 'bbox_inside_weights', ''
        if self.ohem:
            labels, weights, ignore = 'labels_ohem', 'bbox_loss_weights_ohem', 'ignore_label: -1'
        normalizer = f'normalization: PRE_FIXED pre_fixed_normalizer: {self.ROIS}'
        return [
            *(self.hardest() if self.ohem else []),
            silence('bbox_outside_weights'),
            softmax_loss('loss_cls', f'cls_score {labels}', ignore and f'loss_param {{ {ignore} }}'),
            layer(
                'accuracy',
                'Accuracy',
                f'cls_score {labels}',
                'accuracy',
                propagate(0, 0),
                ignore and f'accuracy_param {{ {ignore} }}',
            ),
            layer(
                'loss_bbox',
                'SmoothL1LossOHEM',
                f'bbox_pred bbox_targets {weights}',
                'loss_bbox',
                propagate(1, 0, 0),
                f'loss_weight: 1 loss_param {{ {normalizer} }}',
            ),
        ]

    def hardest(self):
        """The losses of each RoI, and the labels and weights of those with the largest."""
        choice = f'box_annotator_ohem_param {{ roi_per_img: {self.ROIS} ignore_label: -1 }}'
        cls, bbox = 'temp_loss_cls temp_prob_cls per_roi_loss_cls', 'temp_loss_bbox per_roi_loss_bbox'
        rows = (
            ('per_roi_loss_cls', 'SoftmaxWithLossOHEM', 'cls_score labels', cls),
            ('per_roi_loss_bbox', 'SmoothL1LossOHEM', 'bbox_pred bbox_targets bbox_inside_weights', bbox),
            ('per_roi_loss', 'Eltwise', 'per_roi_loss_cls per_roi_loss_bbox', 'per_roi_loss'),
            (
                'annotator_detector',
                'BoxAnnotatorOHEM',
                'rois per_roi_loss labels bbox_inside_weights',
                'labels_ohem bbox_loss_weights_ohem',
                choice,
            ),
        )
        lines = []
        for name, kind, bottom, top, *fields in rows:
            weights = ['loss_weight: 0'] * (len(top.split()) if 'Loss' in kind else 0)
            fields = propagate(*[0] * len(bottom.split())), *weights, *fields
            lines.append(layer(name, kind, bottom, top, *fields))
        return lines + [silence('temp_loss_cls temp_prob_cls temp_loss_bbox')]

    def output(self):
        return [
            layer('cls_prob', 'Softmax', 'cls_score', 'cls_prob_pre'),
            reshape('cls_prob_reshape', 'cls_prob_pre', 'cls_prob', -1, self.classes),
            reshape('bbox_pred_reshape', 'bbox_pred_pre', 'bbox_pred', -1, 4 * self.box_classes),
        ]


HEADS = {
    'fast_rcnn': FastRCNN,
    'pyramid': PyramidRCNN,
    'cascade': CascadeRCNN,
    'c4': C4RCNN,
    'rfcn': RFCN,
    'rfcn_ohem': partial(RFCN, ohem=True),
}
