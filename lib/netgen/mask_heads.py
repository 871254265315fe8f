"""The heads that say which cells of a RoI are its object's, and their registry.

A class with lines, targets, loss and output; MASK_HEADS has it under the name that a backbone gives. F RoIs with an object in
training, or the boxes of a test; K classes with the background; masks are of M x M cells. docs/masks.md says what flows where.
"""

from dataclasses import dataclass

from netgen.backbones import Backbone
from netgen.heads import level_pooling
from netgen.layers import conv, deconv, layer, propagate, python, relu, reshape

ROI_OBJECTS = 'roi_objects'  # of the layer that samples RoIs: the row of gt_boxes that each is matched with
MASK_ROIS = 'input: "mask_rois" input_shape { dim: 1 dim: 5 }'
MASK_ROWS = 'input: "mask_rows" input_shape { dim: 1 }'


@dataclass(frozen=True)
class SharedMasks:
    """On what the last stage of a ResNet makes of a RoI for its box as well (He et al., Mask R-CNN, 2017, arXiv 1703.06870,
    figure 4 left, after Ren et al.): a deconvolution to twice its size, scores. In a test net the boxes that are kept take
    the place of the RoIs."""

    net: Backbone
    classes: int  # K
    inputs = [MASK_ROWS]  # of a test net

    @property
    def size(self):
        """M."""
        return 2 * ((self.net.pooled + 1) // 2)

    def targets(self):
        """Of sampled RoIs -> mask_picks (F,), which of them have an object, mask_rows (F,), mask_targets (F, 1, M, M)."""
        param = rf"'boxes': {self.net.boxes} \n'num_classes': {self.classes} \n'size': {self.size}"
        return python(
            'mask-data',
            'mask.target_layer.MaskTargetLayer',
            f'rois labels {ROI_OBJECTS} gt_masks',
            'mask_picks mask_rows mask_targets',
            param,
        )

    def lines(self, lr):
        return [*self.features(lr), *self.scores(self.top(lr), lr)]

    def features(self, lr):
        blob = self.net.block_names(5)[-1]
        return [] if lr is None else [picked(blob, 'mask_res5')]

    def top(self, lr):
        """The blob that masks are told from."""
        return self.net.block_names(5)[-1] if lr is None else 'mask_res5'

    def scores(self, bottom, lr):
        """-> mask_score (F, K, M, M), and of it mask_logits (F, 1, M, M), which are of one class: row mask_rows[f] = f K +
        the class, of F K."""
        return [
            deconv('mask_deconv', bottom, self.net.mask_outputs, lr),
            relu('mask_deconv_relu', 'mask_deconv'),
            conv('mask_score', 'mask_deconv', self.classes, 1, lr),
            reshape('mask_score_rows', 'mask_score', 'mask_score_rows', -1, 1, self.size, self.size),
            layer('mask_logits', 'BatchReindex', 'mask_score_rows mask_rows', 'mask_logits', propagate(1, 0)),
        ]

    def loss(self):
        """The mean over F M M."""
        return [
            layer(
                'loss_mask',
                'SigmoidCrossEntropyLoss',
                'mask_logits mask_targets',
                'loss_mask',
                propagate(1, 0),
                'loss_weight: 1 loss_param { normalization: FULL }',
            )
        ]

    def output(self):
        return [layer('mask_prob', 'Sigmoid', 'mask_logits', 'mask_prob')]


class PyramidMasks(SharedMasks):
    """On what is pooled for it from the levels of a pyramid, twice as finely as for boxes: four convolutions first (figure 4
    right)."""

    inputs = [MASK_ROIS, MASK_ROWS]
    CONVS = 4

    @property
    def size(self):
        return 2 * self.net.mask_pooled

    def features(self, lr):
        lines = [] if lr is None else [picked('rois', 'mask_rois')]
        lines += level_pooling(self.net, self.net.mask_pooled, 'mask_')
        bottom = 'mask_' + self.net.roi_pool
        for i in range(1, self.CONVS + 1):
            top = f'mask_fcn{i}'
            lines += [
                conv(top, bottom, self.net.mask_outputs, 3, lr, pad=1),
                relu(f'mask_fcn{i}_relu', top),
            ]
            bottom = top
        return lines

    def top(self, lr):
        return f'mask_fcn{self.CONVS}'


def picked(blob, top):
    """Those of a blob's items that mask_picks numbers."""
    return layer(top, 'BatchReindex', f'{blob} mask_picks', top, propagate(1, 0))


MASK_HEADS = {'shared': SharedMasks, 'pyramid': PyramidMasks}
