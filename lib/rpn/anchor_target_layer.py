"""From ground truth to what the RPN is to answer at every anchor (Faster R-CNN, section 3.1.2).

A anchors per position, feature map (H, W), I anchors inside the image, G ground-truth boxes.
"""

import caffe
import numpy as np
import numpy.random as npr

from fast_rcnn.bbox_transform import bbox_transform
from fast_rcnn.config import cfg
from rpn.generate_anchors import anchor_grid, anchors_of
from utils.cython_bbox import bbox_overlaps
from utils.param_str import parse_param_str

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def label_anchors(overlaps, positive_overlap, negative_overlap, clobber_positives):
    """overlaps (I, G) -> labels (I,) float32.

    Positive: each object's best anchors (ties too; where nothing meets an object at all, every anchor is such
    a tie, as in the original), and overlap >= positive_overlap. Negative: overlap with all objects below
    negative_overlap. clobber_positives lets negative win where both hold. No object: all negative.
    """
    labels = np.full(overlaps.shape[0], IGNORED, np.float32)
    if overlaps.size == 0:
        labels[:] = NEGATIVE
        return labels
    highest = overlaps.max(1)
    negative = highest < negative_overlap
    labels[negative] = NEGATIVE
    labels[(overlaps == overlaps.max(0)).any(1)] = POSITIVE
    labels[highest >= positive_overlap] = POSITIVE
    if clobber_positives:
        labels[negative] = NEGATIVE
    return labels


def subsample(labels, batch_size, fg_fraction, bg_times=None):
    """Ignore, in place, all but batch_size labels, at most fg_fraction of them positive; these draw first.

    bg_times: instead of what positive ones leave, so many times 1 - fg_fraction of the batch are negative.
    """
    for kind in POSITIVE, NEGATIVE:
        if kind == POSITIVE:
            most = int(fg_fraction * batch_size)
        elif bg_times is None:
            most = batch_size - np.sum(labels == POSITIVE)
        else:
            most = int(bg_times * (1 - fg_fraction) * batch_size)
        inds = np.where(labels == kind)[0]
        if len(inds) > most:
            labels[npr.choice(inds, size=int(len(inds) - most), replace=False)] = IGNORED


def outside_weights(labels, positive_weight):
    """The weight of every anchor's box loss (I, 4): 1 / examples each, or positive_weight shared by the
    positive ones and 1 - positive_weight by the negative ones."""
    positive, negative = labels == POSITIVE, labels == NEGATIVE
    if positive_weight < 0:
        of_positive = of_negative = 1.0 / max(np.sum(labels >= 0), 1)
    else:
        of_positive = positive_weight / max(np.sum(positive), 1)
        of_negative = (1.0 - positive_weight) / max(np.sum(negative), 1)
    weights = np.zeros((len(labels), 4), np.float32)
    weights[positive] = of_positive
    weights[negative] = of_negative
    return weights


def anchor_targets(grid, gt_boxes, im_info, train, border=0, bg_times=None):
    """Labels and box targets of the whole grid (H * W * A, 4), by gt_boxes (G, 4+) and settings cfg.TRAIN.

    Anchors that leave the image by more than border pixels are ignored; bg_times: as in subsample.
    -> labels (H * W * A,), targets, inside weights, outside weights (H * W * A, 4), float32
    """
    inside = np.where(
        (grid[:, :2] >= -border).all(1)
        & (grid[:, 2] < im_info[1] + border)
        & (grid[:, 3] < im_info[0] + border)
    )[0]
    overlaps = bbox_overlaps(grid[inside], gt_boxes[:, :4])
    labels = label_anchors(
        overlaps, train.RPN_POSITIVE_OVERLAP, train.RPN_NEGATIVE_OVERLAP, train.RPN_CLOBBER_POSITIVES
    )
    subsample(labels, train.RPN_BATCHSIZE, train.RPN_FG_FRACTION, bg_times)
    targets = np.zeros((len(inside), 4), np.float32)
    if overlaps.size:
        targets[:] = bbox_transform(grid[inside], gt_boxes[overlaps.argmax(1), :4])
        if train.RPN_NORMALIZE_TARGETS:
            targets = (targets - np.float32(train.RPN_NORMALIZE_MEANS)) / np.float32(train.RPN_NORMALIZE_STDS)
    inside_weights = np.zeros((len(inside), 4), np.float32)
    inside_weights[labels == POSITIVE] = train.RPN_BBOX_INSIDE_WEIGHTS
    return (
        _unmap(labels, len(grid), inside, IGNORED),
        *(
            _unmap(values, len(grid), inside, 0)
            for values in (targets, inside_weights, outside_weights(labels, train.RPN_POSITIVE_WEIGHT))
        ),
    )


def _unmap(values, count, inds, fill):
    """Values of some rows -> values of all `count` rows, fill elsewhere."""
    every = np.full((count,) + values.shape[1:], fill, np.float32)
    every[inds] = values
    return every


class AnchorTargetLayer(caffe.Layer):
    """Bottoms: RPN scores (1, 2A, H, W) for their shape, gt_boxes (G, 5), im_info (1, 3; a fourth number is
    subsample's bg_times), data.
    Tops: labels (1, 1, A * H, W) in 1, 0, -1; box targets, inside, outside weights (1, 4A, H, W).
    No gradient.
    param_str: feat_stride, scales, ratios, allowed_border (pixels an anchor may leave the image by; 0).
    """

    def setup(self, bottom, top):
        params = parse_param_str(self.param_str)
        self._anchors, self._feat_stride = anchors_of(params)
        self._border = params.get('allowed_border', 0)

    def reshape(self, bottom, top):
        num_anchors, (height, width) = len(self._anchors), bottom[0].shape[-2:]
        top[0].reshape(1, 1, num_anchors * height, width)
        for blob in top[1:]:
            blob.reshape(1, num_anchors * 4, height, width)

    def forward(self, bottom, top):
        images, _, height, width = bottom[0].shape
        if images != 1:
            raise ValueError(f'anchors are labelled for one image at a time, got {images}')
        grid = anchor_grid(self._anchors, height, width, self._feat_stride)
        im_info = bottom[2].data[0]
        results = anchor_targets(
            grid, bottom[1].data, im_info, cfg.TRAIN, self._border, im_info[3] if len(im_info) > 3 else None
        )
        for blob, values in zip(top, results):
            blob.data[...] = values.reshape(height, width, -1).transpose(2, 0, 1).reshape(blob.shape)

    def backward(self, top, propagate_down, bottom):
        pass
