"""What runs on a backbone's feature maps: the region proposal network, and the heads that judge regions.

A row of HEADS is all that a new one needs. K classes with the background, A anchors per position; `lr` and
`bn` as in netgen.backbones.
"""

from dataclasses import dataclass

from netgen.backbones import Backbone
from netgen.layers import (
    conv,
    inner_product,
    layer,
    python,
    relu,
    reshape,
    silence,
    smooth_l1_loss,
    softmax_loss,
)

SCALES, RATIOS = (8, 16, 32), (0.5, 1, 2)  # the library's own: no net mentions them
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
        return [reshape('rpn_cls_score', 2)]

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
            reshape('rpn_cls_prob', 2 * self.anchors),
            python(
                'proposal',
                'rpn.proposal_layer.ProposalLayer',
                'rpn_cls_prob_reshape rpn_bbox_pred im_info',
                tops,
                self.anchor_param,
            ),
        ]


@dataclass(frozen=True)
class FastRCNN:
    """RoI pooling, the backbone's own head, class scores and a box per class (Girshick, 2015)."""

    net: Backbone
    classes: int  # K

    @property
    def box_classes(self):
        """How many classes the box regression tells apart."""
        return self.classes

    def lines(self, lr, bn):
        net = self.net
        size = f'pooled_w: {net.pooled} pooled_h: {net.pooled} spatial_scale: {1 / net.maps[-1].stride}'
        return [
            layer(
                net.roi_pool,
                'ROIPooling',
                f'{net.maps[-1].blob} rois',
                net.roi_pool,
                f'roi_pooling_param {{ {size} }}',
            ),
            *net.head(net.roi_pool, lr, bn),
            inner_product('cls_score', net.head_top, self.classes, lr, 'type: "gaussian" std: 0.01'),
            inner_product('bbox_pred', net.head_top, 4 * self.classes, lr, 'type: "gaussian" std: 0.001'),
        ]

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


HEADS = {'fast_rcnn': FastRCNN}
