"""From proposals and ground truth to what the head trains on, end to end (Faster R-CNN, section 3.2).

R RoIs in, S sampled RoIs out, K classes.
"""

import caffe
import numpy as np

from fast_rcnn.bbox_transform import bbox_transform
from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import background_from, box_classes, expand_bbox_targets, sample_rois
from roi_data_layer.minibatch import rois_per_image
from utils.cython_bbox import bbox_overlaps
from utils.param_str import parse_param_str


def proposal_targets(rois, gt_boxes, num_classes, num_rois, train):
    """Sample rois (R, 5: batch index, box) joined by gt_boxes (G, 5: box, class), by the settings cfg.TRAIN.

    -> rois (S, 5), labels (S,), targets (S, 4K; AGNOSTIC: (S, 8)), inside weights, the same
    """
    rois = np.vstack([rois, np.hstack([np.zeros((len(gt_boxes), 1), gt_boxes.dtype), gt_boxes[:, :4]])])
    overlaps = bbox_overlaps(rois[:, 1:5], gt_boxes[:, :4])
    best = overlaps.argmax(1) if len(gt_boxes) else np.zeros(len(rois), np.int64)
    highest = overlaps.max(1) if len(gt_boxes) else np.zeros(len(rois))
    keep, num_fg = sample_rois(
        highest,
        num_rois,
        train.FG_FRACTION,
        train.FG_THRESH,
        train.BG_THRESH_HI,
        background_from(train, len(gt_boxes)),
    )
    targets = np.zeros((len(keep), 5), np.float32)
    fg = keep[:num_fg]
    targets[:num_fg, 0] = gt_boxes[best[fg], 4]
    targets[:num_fg, 1:] = bbox_transform(rois[fg, 1:5], gt_boxes[best[fg], :4])
    if train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        targets[:num_fg, 1:] = (targets[:num_fg, 1:] - train.BBOX_NORMALIZE_MEANS) / train.BBOX_NORMALIZE_STDS
    expanded = expand_bbox_targets(targets, num_classes, train.BBOX_INSIDE_WEIGHTS, train.AGNOSTIC)
    return (rois[keep], targets[:, 0], *expanded)


class ProposalTargetLayer(caffe.Layer):
    """Bottoms: rois (R, 5), gt_boxes (G, 5).
    Tops: rois (S, 5), labels (S,), box targets, inside weights, outside weights (S, 4K). No gradient.
    param_str: num_classes.
    """

    def setup(self, bottom, top):
        if cfg.TRAIN.NO_POS_SAMPLES_ON_TRAIN:
            raise ValueError(
                'TRAIN.NO_POS_SAMPLES_ON_TRAIN is for alternating optimization: end to end, '
                'nothing tells this layer which images are annotated in full'
            )
        self._num_classes = parse_param_str(self.param_str)['num_classes']
        columns = 4 * box_classes(self._num_classes, cfg.TRAIN.AGNOSTIC)
        for blob, shape in zip(top, [(1, 5), (1,)] + 3 * [(1, columns)]):
            blob.reshape(*shape)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rois = bottom[0].data
        if np.any(rois[:, 0] != 0):
            raise ValueError('RoIs are sampled for one image at a time, got a batch index other than 0')
        num_rois = rois_per_image(cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.REAL_BATCH_SIZE, 1)
        rois, labels, targets, weights = proposal_targets(
            rois, bottom[1].data, self._num_classes, num_rois, cfg.TRAIN
        )
        for blob, values in zip(top, [rois, labels, targets, weights, weights > 0]):
            blob.reshape(*values.shape)
            blob.data[...] = values

    def backward(self, top, propagate_down, bottom):
        pass
