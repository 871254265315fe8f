"""Detection: one image through a net, and a whole imdb to its mean average precision.

R RoIs, K classes; boxes x1 y1 x2 y2 in pixels of the original image, scores and boxes per RoI (R, K), (R,
4K).
"""

import os

import numpy as np

from fast_rcnn.bbox_transform import bbox_transform_inv, clip_boxes
from fast_rcnn.config import cfg, get_output_dir
from fast_rcnn.nms_wrapper import nms
from utils.blob import im_list_to_blob, prep_im_for_blob, read_image
from utils.progress import progress
from utils.proposals import save_detections

TYPICAL_AREA = 224 * 224  # with several scales, a RoI is looked at where its area comes nearest to this


def image_blobs(im):
    """im (H, W, 3) BGR -> {data: (scales, 3, H', W'), im_info: (1, 3: height, width, scale)}, the scales."""
    scaled = [prep_im_for_blob(im, cfg.PIXEL_MEANS, size, cfg.TEST.MAX_SIZE) for size in cfg.TEST.SCALES]
    data = im_list_to_blob([image for image, _ in scaled])
    scales = np.array([scale for _, scale in scaled])
    return {'data': data, 'im_info': np.array([[*data.shape[2:], scales[0]]], np.float32)}, scales


def roi_blob(boxes, scales):
    """boxes (R, 4) -> rois (R, 5): index of the scale that suits it best, the box at that scale."""
    boxes = boxes.astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    levels = np.abs(areas[:, None] * scales[None] ** 2 - TYPICAL_AREA).argmin(1)
    return np.hstack([levels[:, None], boxes * scales[levels][:, None]]).astype(np.float32)


def im_detect(net, im, boxes=None):
    """Scores (R, K) and boxes (R, 4K) of im (H, W, 3) BGR.

    boxes (R, 4): the RoIs, unless cfg.TEST.HAS_RPN: then the net proposes them.
    """
    blobs, scales = image_blobs(im)
    if cfg.TEST.HAS_RPN:
        if len(scales) != 1:
            raise ValueError(f'a net with an RPN detects at one scale; TEST.SCALES is {cfg.TEST.SCALES}')
        tops = _forward(net, blobs)
        rois, inverse = net.blobs['rois'].data[:, 1:5] / float(scales[0]), slice(None)
    else:
        if boxes is None:
            raise ValueError('im_detect wants boxes, unless cfg.TEST.HAS_RPN')
        blobs = {'data': blobs['data'], 'rois': roi_blob(boxes, scales)}
        unique, inverse = _distinct(blobs['rois'])
        blobs['rois'], rois = blobs['rois'][unique], boxes[unique]
        tops = _forward(net, blobs)
    scores = _rows(net.blobs['cls_score'].data if cfg.TEST.SVM else tops['cls_prob'])
    if cfg.TEST.BBOX_REG:
        pred_boxes = clip_boxes(bbox_transform_inv(rois, _rows(tops['bbox_pred'])), im.shape)
    else:
        pred_boxes = np.tile(rois, (1, scores.shape[1]))
    return scores[inverse], pred_boxes[inverse]


def test_net(net, imdb, max_per_image=100, thresh=0.05, vis=False):
    """Detect on every image of imdb, write detections.npz to its output folder, evaluate -> mean AP.

    Kept per image: scores > thresh, after NMS within each class the max_per_image best (0: all). vis shows
    each image's detections with matplotlib.
    """
    check_classes(net, imdb)
    roidb = None if cfg.TEST.HAS_RPN else imdb.roidb
    all_boxes = [[None] * imdb.num_images for _ in range(imdb.num_classes)]
    for i in progress(range(imdb.num_images), f'detection on {imdb.name}'):
        im = read_image(imdb.image_path_at(i))
        given = None if roidb is None else roidb[i]['boxes'][roidb[i]['gt_classes'] == 0]
        for j, boxes in enumerate(detections(*im_detect(net, im, given), max_per_image, thresh)):
            all_boxes[j][i] = boxes
        if vis:
            show_detections(im, imdb.classes, [of_class[i] for of_class in all_boxes])
    output_dir = get_output_dir(imdb, net)
    save_detections(os.path.join(output_dir, 'detections.npz'), all_boxes)
    return imdb.evaluate_detections(all_boxes, output_dir)


def check_classes(net, imdb):
    """ValueError unless the net scores as many classes as the imdb has."""
    scored = net.blobs['cls_prob'].shape[1]
    if scored != imdb.num_classes:
        raise ValueError(
            f'net {net.name!r} scores {scored} classes (background included), {imdb.name} has '
            f'{imdb.num_classes}: {", ".join(imdb.classes)}'
        )


def detections(scores, boxes, max_per_image, thresh):
    """im_detect's result -> per class (background: none) (n, 5) x1 y1 x2 y2 score: above thresh, after NMS,
    of all classes together the max_per_image best (0: all)."""
    found = [np.zeros((0, 5), np.float32)]
    for j in range(1, scores.shape[1]):
        above = np.where(scores[:, j] > thresh)[0]
        dets = np.hstack([boxes[above, 4 * j : 4 * j + 4], scores[above, j : j + 1]]).astype(np.float32)
        found.append(dets[nms(dets, cfg.TEST.NMS)])
    everything = np.hstack([dets[:, 4] for dets in found])
    if 0 < max_per_image < len(everything):
        least = np.sort(everything)[-max_per_image]
        found = [dets[dets[:, 4] >= least] for dets in found]
    return found


def apply_nms(all_boxes, thresh):
    """NMS on all_boxes[class][image] (n, 5) -> the same, suppressed; boxes without area are dropped."""
    return [[_suppressed(dets, thresh) for dets in of_class] for of_class in all_boxes]


def show_detections(im, classes, dets, thresh=0.3):
    """Show im with its detections dets[class] (n, 5) above thresh in a matplotlib window."""
    import matplotlib.pyplot as plt  # only --vis needs a window

    axes = plt.gca()
    axes.clear()
    axes.imshow(im[:, :, ::-1])
    for name, rows in zip(classes, dets):
        for x1, y1, x2, y2, score in rows[rows[:, 4] > thresh]:
            axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor='red'))
            axes.text(x1, y1 - 2, f'{name} {score:.3f}', color='white', backgroundcolor='blue')
    plt.show()


def _forward(net, blobs):
    for name, blob in blobs.items():
        net.blobs[name].reshape(*blob.shape)
    return net.forward(**blobs)


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


def _suppressed(dets, thresh):
    dets = np.asarray(dets, np.float32).reshape(-1, 5)
    dets = dets[(dets[:, 2] > dets[:, 0]) & (dets[:, 3] > dets[:, 1])]
    return dets[nms(dets, thresh)]
