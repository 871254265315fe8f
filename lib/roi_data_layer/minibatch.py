"""One minibatch from roidb entries: images as a blob, and ground truth (RPN) or sampled RoIs (Fast R-CNN).

K classes, G ground-truth boxes, R RoIs of the whole batch. Draws come from numpy's global generator: the
scales of all images first, then each image's RoIs.
"""

import functools

import numpy as np
import numpy.random as npr

from datasets.record import best_objects
from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import background_from, expand_bbox_targets, sample_rois
from roi_data_layer.sampler import is_train_split
from utils.blob import im_list_to_blob, prep_im_for_blob, read_image


def rois_per_image(batch_size, real_batch_size, ims_per_batch):
    """RoIs of one image, given the RoIs and images of a real batch (0 images: those of one forward pass);
    without limit for a batch_size of -1."""
    if batch_size == -1:
        return np.inf
    images = real_batch_size or ims_per_batch
    if batch_size % images:
        raise ValueError(f'TRAIN.BATCH_SIZE {batch_size} (RoIs) is no multiple of the {images} images')
    return batch_size // images


def scaled_image(path, flipped, target_size, means, max_size):
    """The image at path, mirrored if flipped, scaled for training -> (float32 (H, W, 3), scale factor)."""
    im = read_image(path)
    if flipped:
        im = im[:, ::-1]
    return prep_im_for_blob(im, means, target_size, max_size)


def get_minibatch(roidb, num_classes, read=None):
    """Entries (one minibatch) -> dict of blobs. read(path, flipped, target size): as scaled_image.

    data (N, 3, H, W), and with cfg.TRAIN.HAS_RPN: im_info (1, 3: height, width, scale; a fourth number if
    NO_POS_SAMPLES_ON_TRAIN, see background_times), gt_boxes (G, 5: box, class); else: rois (R, 5: image,
    box), labels (R,), and with BBOX_REG bbox_targets, bbox_inside_weights, bbox_outside_weights (R, 4K; with
    AGNOSTIC (R, 8)).
    """
    train = cfg.TRAIN
    read = read or functools.partial(scaled_image, means=cfg.PIXEL_MEANS, max_size=train.MAX_SIZE)
    scales = [train.SCALES[i] for i in npr.randint(0, high=len(train.SCALES), size=len(roidb))]
    images = [read(entry['image'], entry['flipped'], scale) for entry, scale in zip(roidb, scales)]
    blobs = {'data': im_list_to_blob([im for im, _ in images])}
    if train.HAS_RPN:
        if len(roidb) != 1:
            raise ValueError(
                f'an RPN trains on one image at a time: TRAIN.IMS_PER_BATCH is {len(roidb)}, wanted 1'
            )
        return {**blobs, **_ground_truth_blobs(roidb[0], images[0][1], blobs['data'].shape[2:], train)}
    return {**blobs, **_roi_blobs(roidb, [scale for _, scale in images], num_classes, train)}


def background_times(entry, train):
    """How many times its share of background the entry's image gives, by the settings cfg.TRAIN; None: what
    foreground leaves. With NO_POS_SAMPLES_ON_TRAIN images of train give none, and those of val give theirs."""
    if not train.NO_POS_SAMPLES_ON_TRAIN:
        return None
    return 0 if is_train_split(entry['image']) else max(train.REAL_BATCH_SIZE, 1) / train.VAL_PER_BATCH_SIZE


def is_empty(entry):
    """Whether nothing that a class names is in the entry's image, not even an object left out as difficult."""
    return not np.any(entry['gt_classes']) and not getattr(entry, 'difficult', 0)


def _ground_truth_blobs(entry, im_scale, size, train):
    gt = np.where(entry['gt_classes'] != 0)[0]
    boxes = np.empty((len(gt), 5), np.float32)
    boxes[:, :4] = entry['boxes'][gt] * im_scale
    boxes[:, 4] = entry['gt_classes'][gt]
    info, times = [*size, im_scale], background_times(entry, train)
    if times is not None:
        info.append(times)
    return {'im_info': np.array([info], np.float32), 'gt_boxes': boxes}


def _roi_blobs(roidb, im_scales, num_classes, train):
    num_rois = rois_per_image(train.BATCH_SIZE, train.REAL_BATCH_SIZE, len(roidb))
    rois, labels, targets = [], [], []
    for i, (entry, im_scale) in enumerate(zip(roidb, im_scales)):
        overlaps, classes = best_objects(entry)
        keep, num_fg = sample_rois(
            overlaps,
            num_rois,
            train.FG_FRACTION,
            train.FG_THRESH,
            train.BG_THRESH_HI,
            background_from(train, not is_empty(entry)),
            background_times(entry, train),
        )
        rois.append(np.hstack([np.full((len(keep), 1), i), entry['boxes'][keep] * im_scale]))
        labels.append(np.where(np.arange(len(keep)) < num_fg, classes[keep], 0))
        if train.BBOX_REG:
            targets.append(entry['bbox_targets'][keep])
    blobs = {'rois': np.vstack(rois), 'labels': np.hstack(labels)}
    if train.BBOX_REG:
        targets, weights = expand_bbox_targets(
            np.vstack(targets), num_classes, train.BBOX_INSIDE_WEIGHTS, train.AGNOSTIC
        )
        blobs.update(
            bbox_targets=targets,
            bbox_inside_weights=weights,
            bbox_outside_weights=(weights > 0).astype(np.float32),
        )
    return blobs
