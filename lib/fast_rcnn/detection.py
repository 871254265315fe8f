"""Detection: one image through a net, and what is kept of its answer.

R RoIs, K classes; boxes x1 y1 x2 y2 in pixels of the original image, scores (R, K), boxes (R, 4K), or (R, 8) of a
class-agnostic net: columns 4 to 7 are then the box whatever the class.
"""

import numpy as np

from fast_rcnn.bbox_transform import bbox_transform_inv, clip_boxes
from fast_rcnn.config import cfg
from fast_rcnn.nms_wrapper import nms
from nms.soft_nms import soft_nms
from utils.blob import im_list_to_blob, prep_im_for_blob

TYPICAL_AREA = 224 * 224  # with several scales, a RoI is looked at where its area comes nearest to this


def image_blob(im):
    """im (H, W, 3) BGR -> data (scales, 3, H', W'), the factors (scales,) it was scaled by, by cfg.TEST."""
    scaled = [prep_im_for_blob(im, cfg.PIXEL_MEANS, size, cfg.TEST.MAX_SIZE) for size in cfg.TEST.SCALES]
    return im_list_to_blob([image for image, _ in scaled]), np.array([scale for _, scale in scaled])


def proposing_blobs(im):
    """What a net with an RPN reads: {data (1, 3, H', W'), im_info (1, 3: height, width, scale)}, the scale."""
    if len(cfg.TEST.SCALES) != 1:
        raise ValueError(f'a net with an RPN looks at one scale; TEST.SCALES is {cfg.TEST.SCALES}')
    data, (scale,) = image_blob(im)
    return {'data': data, 'im_info': np.array([[*data.shape[2:], scale]], np.float32)}, float(scale)


def roi_blob(boxes, scales):
    """boxes (R, 4) -> rois (R, 5): index of the scale that suits it best, the box at that scale."""
    boxes = boxes.astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    levels = np.abs(areas[:, None] * scales[None] ** 2 - TYPICAL_AREA).argmin(1)
    return np.hstack([levels[:, None], boxes * scales[levels][:, None]]).astype(np.float32)


def image_and_roi_blobs(im, rois):
    """im and rois (R, 4) in its pixels -> {data, rois (R, 5); None where cfg.TEST.HAS_RPN}, the scales."""
    data, scales = image_blob(im)
    return {'data': data, 'rois': None if cfg.TEST.HAS_RPN else roi_blob(rois, scales)}, scales


def im_detect(net, im, boxes=None):
    """Scores (R, K) and boxes (R, 4K or 8) of im (H, W, 3) BGR.

    boxes (R, 4): the RoIs, unless cfg.TEST.HAS_RPN: then the net proposes them.
    """
    if cfg.TEST.HAS_RPN:
        blobs, scale = proposing_blobs(im)
        tops = forward(net, blobs)
        rois, inverse = _rows(net.blobs['rois'].data)[:, 1:5] / scale, slice(None)
    else:
        if boxes is None:
            raise ValueError('im_detect wants boxes, unless cfg.TEST.HAS_RPN')
        blobs, _ = image_and_roi_blobs(im, boxes)
        unique, inverse = _distinct(blobs['rois'])
        blobs['rois'], rois = blobs['rois'][unique], boxes[unique]
        tops = forward(net, blobs)
    scores = _rows(net.blobs['cls_score'].data if cfg.TEST.SVM else tops['cls_prob'])
    if cfg.TEST.BBOX_REG:
        pred_boxes = clip_boxes(bbox_transform_inv(rois, _rows(tops['bbox_pred'])), im.shape)
    else:
        pred_boxes = np.tile(rois, (1, 2 if cfg.TEST.AGNOSTIC else scores.shape[1]))
    return scores[inverse], pred_boxes[inverse]


def forward(net, blobs):
    """The outputs of net, its inputs reshaped to blobs and filled with them."""
    for name, blob in blobs.items():
        net.blobs[name].reshape(*blob.shape)
    return net.forward(**blobs)


def detections(scores, boxes, max_per_image, thresh):
    """im_detect's result -> per class (background: none) (n, 5) x1 y1 x2 y2 score: above thresh, after NMS,
    of all classes together the max_per_image best (0: all)."""
    found = [np.zeros((0, 5), np.float32)]
    for j in range(1, scores.shape[1]):
        above = np.where(scores[:, j] > thresh)[0]
        of_class = _boxes_of_class(boxes, j, scores.shape[1])[above]
        found.append(suppressed(np.hstack([of_class, scores[above, j : j + 1]]), cfg.TEST.NMS))
    everything = np.hstack([dets[:, 4] for dets in found])
    if 0 < max_per_image < len(everything):
        least = np.sort(everything)[-max_per_image]
        found = [dets[dets[:, 4] >= least] for dets in found]
    return found


def _boxes_of_class(boxes, j, num_classes):
    """boxes (R, 4K) or, whatever the class, (R, 8) -> those of class j (R, 4)."""
    if boxes.shape[1] not in (8, 4 * num_classes) or (cfg.TEST.AGNOSTIC and boxes.shape[1] != 8):
        wanted = (
            '8 (TEST.AGNOSTIC)' if cfg.TEST.AGNOSTIC else f'{4 * num_classes}, or 8 of a class-agnostic net'
        )
        raise ValueError(f'{num_classes} classes want boxes of {wanted} columns, got {boxes.shape[1]}')
    column = 4 if boxes.shape[1] == 8 else 4 * j
    return boxes[:, column : column + 4]


def suppressed(dets, thresh):
    """dets (n, 5) of one class after NMS at IoU thresh, or, by cfg.TEST.SOFT_NMS, with the scores it leaves."""
    dets = dets.astype(np.float32)
    if cfg.TEST.SOFT_NMS:
        return soft_nms(dets, cfg.TEST.SOFT_NMS, thresh, cfg.TEST.SOFT_NMS_SIGMA, cfg.TEST.SOFT_NMS_MIN_SCORE)
    return dets[nms(dets, thresh)]


def _distinct(rois):
    """Indices of the RoIs that differ on the feature map (cfg.DEDUP_BOXES); which of these each RoI is."""
    if cfg.DEDUP_BOXES <= 0:
        return slice(None), slice(None)
    hashes = np.round(rois * cfg.DEDUP_BOXES).dot(np.array([1, 1e3, 1e6, 1e9, 1e12]))
    _, unique, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return unique, inverse


def _rows(values):
    """A copy of (R, n) or (R, n, 1, 1) as (R, n)."""
    return values.reshape(values.shape[:2]).copy()
