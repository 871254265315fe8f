"""One minibatch from roidb entries: images as a blob, and ground truth (RPN) or sampled RoIs (Fast R-CNN).

K classes, G ground-truth boxes, R RoIs of the whole batch, R' of an image. Draws come from numpy's global generator:
how images are looked at first (roi_data_layer.looks), then each image's RoIs. All else, `prepare`, can be done ahead of
time, anywhere.
"""

from typing import NamedTuple

import cv2
import numpy as np

from datasets.readers.masks import decoded
from datasets.record import Record, best_objects
from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import expand_bbox_targets, sample_by
from fpn.boxes import FAMILIES
from roi_data_layer.looks import draw_looks, moved, moved_record, moves_boxes, seen, seen_masks
from roi_data_layer.sampler import is_train_split
from utils.blob import im_list_to_blob, read_image


def rois_per_image(batch_size, real_batch_size, ims_per_batch):
    """RoIs of one image, given the RoIs and images of a real batch (0 images: those of one forward pass);
    without limit for a batch_size of -1."""
    if batch_size == -1:
        return np.inf
    images = real_batch_size or ims_per_batch
    if batch_size % images:
        raise ValueError(f'TRAIN.BATCH_SIZE {batch_size} (RoIs) is no multiple of the {images} images')
    return batch_size // images


class Rois(NamedTuple):
    """An image's RoIs: boxes (R', 4), the best object's overlap (R',) and class (R',), bbox_targets (R', 5) or None."""

    boxes: np.ndarray
    overlaps: np.ndarray
    classes: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, entry, with_targets, look=None):
        """look: None where it moves no boxes."""
        entry = moved_record(entry, look) if look else entry
        return cls(entry['boxes'], *best_objects(entry), entry['bbox_targets'] if with_targets else None)


class Wanted(NamedTuple):
    """The images of a minibatch, as prepare is told of them: paths, whether flipped, Looks or None where they are not
    drawn yet, and Records, or None where nothing of an entry has to be computed; segms: of each the masks of its objects,
    or None where these are not wanted yet."""

    paths: list
    flipped: list
    looks: list
    records: list
    segms: list = None


class Prepared(NamedTuple):
    """data (N, 3, H, W) float32, and of what it has of each image before its padding the scale factor, size (h, w) and
    size before it was scaled; or the images as they were read, uint8 (h, w, 3), and None, for want of Looks. rois: for
    each Record its Rois. masks: of each image those of its objects (G, h, w) uint8, or None: to be made yet."""

    data: np.ndarray
    scales: list
    sides: list
    sizes: list
    rois: list
    masks: list = None


class Preparation:
    """What comes before a minibatch's draws, by the settings cfg.TRAIN and cfg.PIXEL_MEANS, as the net's family scales
    images. masks: the objects' are wanted."""

    def __init__(self, train, means, family, masks=False):
        self.means, self.max_size, self.family, self.masks = means, train.MAX_SIZE, family, masks
        self.rois, self.targets = not train.HAS_RPN, train.BBOX_REG
        self.moves = moves_boxes(train)

    def wanted(self, roidb, looks):
        """What a call needs to know of the entries; it pickles small."""
        known = self.rois and (looks is not None or not self.moves)
        records = [entry if known and isinstance(entry, Record) else None for entry in roidb]
        segms = [object_masks(entry) for entry in roidb] if self.masks and looks is not None else None
        return Wanted([e['image'] for e in roidb], [e['flipped'] for e in roidb], looks, records, segms)

    def __call__(self, wanted):
        """Wanted -> Prepared. OSError names an image that cannot be read."""
        images = [_oriented(*image) for image in zip(wanted.paths, wanted.flipped)]
        looks = wanted.looks or [None] * len(images)
        rois = [
            record is not None and Rois.of(record, self.targets, look)
            for record, look in zip(wanted.records, looks)
        ]
        prepared = self.scaled(Prepared(images, None, None, None, rois), wanted.looks)
        if wanted.segms is None:
            return prepared
        shapes = [im.shape for im in images]
        places = zip(wanted.segms, shapes, wanted.flipped, wanted.looks, prepared.sides)
        return prepared._replace(masks=[drawn_masks(*place) for place in places])

    def scaled(self, prepared, looks):
        """Prepared, with data of these Looks if it is not scaled yet and they are known."""
        if prepared.scales is not None or looks is None:
            return prepared
        parts = [seen(im, look) for im, look in zip(prepared.data, looks)]
        scaled = [
            self.family.scaled(im, self.means, look.size, self.max_size) for im, look in zip(parts, looks)
        ]
        images, scales = zip(*scaled)
        data = im_list_to_blob(images, self.family.divisor)
        sides, sizes = ([im.shape[:2] for im in ims] for ims in (images, parts))
        return prepared._replace(data=data, scales=list(scales), sides=sides, sizes=sizes)


def object_masks(entry):
    """The masks of an entry's objects, as it holds them (G,)."""
    segms = entry.get('segms')
    if segms is None:
        raise ValueError(
            f"{entry.get('image')}: the net wants masks, and there are none: datasets in COCO's format have them"
        )
    return [segms[i] for i in np.flatnonzero(entry['gt_classes'])]


def drawn_masks(segms, shape, flipped, look, side):
    """Masks of objects of an image of this shape, under a look scaled to `side` -> (G, h, w) uint8."""
    return seen_masks(decoded(segms, *shape[:2]), flipped, look, side)


def _oriented(path, flipped):
    im = read_image(path)
    return cv2.flip(im, 1) if flipped else im


def get_minibatch(roidb, num_classes, prepared=None, family=FAMILIES['caffe'], masks=False):
    """Entries (one minibatch) -> dict of blobs, as the net's family of boxes has them. prepared: a function of entries and
    Looks that gives what Preparation does, without which it is done now.

    data (N, 3, H, W), images padded at the right and bottom with zeros, and with cfg.TRAIN.HAS_RPN: im_info (N, 3: each
    image's own height, width, scale; a fourth number if NO_POS_SAMPLES_ON_TRAIN, see background_times), gt_boxes
    (G, 5: box, class; of several images (G, 6): the image's index last) and, with masks, gt_masks (G, H, W): 1 where that
    box's object is, 0 elsewhere; else: rois (R, 5: image, box), labels (R,), and with BBOX_REG bbox_targets,
    bbox_inside_weights, bbox_outside_weights (R, 4K; with AGNOSTIC (R, 8)).
    """
    train = cfg.TRAIN
    looks = draw_looks(train, roidb)
    prepare = Preparation(train, cfg.PIXEL_MEANS, family, masks)
    images = prepared(roidb, looks) if prepared else prepare(prepare.wanted(roidb, looks))
    if train.HAS_RPN:
        blobs, kept = _ground_truth_blobs(roidb, looks, images, train, family)
        more = {'gt_masks': _mask_blob(roidb, looks, images, kept)} if masks else {}
        return {'data': images.data, **blobs, **more}
    found = zip(images.rois, roidb, looks)
    rois = [one or Rois.of(entry, train.BBOX_REG, look) for one, entry, look in found]
    return {'data': images.data, **_roi_blobs(roidb, rois, images, num_classes, train, family)}


def background_times(entry, train):
    """How many times its share of background the entry's image gives, by the settings cfg.TRAIN; None: what
    foreground leaves. With NO_POS_SAMPLES_ON_TRAIN images of train give none, and those of val give theirs."""
    if not train.NO_POS_SAMPLES_ON_TRAIN:
        return None
    return 0 if is_train_split(entry['image']) else max(train.REAL_BATCH_SIZE, 1) / train.VAL_PER_BATCH_SIZE


def is_empty(entry):
    """Whether nothing that a class names is in the entry's image, not even an object left out as difficult."""
    return not np.any(entry['gt_classes']) and not getattr(entry, 'difficult', 0)


def _ground_truth_blobs(roidb, looks, images, train, family):
    """im_info and gt_boxes; which of each image's objects are among these."""
    infos, boxes, among = [], [], []
    places = zip(images.sizes, images.sides, images.scales)
    for i, (entry, look, (size, side, scale)) in enumerate(zip(roidb, looks, places)):
        gt, times = np.where(entry['gt_classes'] != 0)[0], background_times(entry, train)
        objects, kept = moved(entry['boxes'][gt], look, entry.get('width'))
        of_image = np.full((len(objects), 6), i, np.float32)
        of_image[:, :4] = family.seen(objects, size, side, scale)
        of_image[:, 4] = entry['gt_classes'][gt][kept]
        boxes.append(of_image if len(roidb) > 1 else of_image[:, :5])
        among.append(kept)
        infos.append([*side, scale] if times is None else [*side, scale, times])
    return {'im_info': np.array(infos, np.float32), 'gt_boxes': np.vstack(boxes)}, among


def _mask_blob(roidb, looks, images, kept):
    """(G, H, W) float32"""
    blob, first = np.zeros((sum(map(np.sum, kept)), *images.data.shape[2:]), np.float32), 0
    for i, (entry, look, side, of_image) in enumerate(zip(roidb, looks, images.sides, kept)):
        if images.masks is None:
            shape = entry.get('height'), entry.get('width')
            masks = drawn_masks(object_masks(entry), shape, entry.get('flipped', False), look, side)
        else:
            masks = images.masks[i]
        masks = masks[of_image]
        blob[first : first + len(masks), : side[0], : side[1]] = masks
        first += len(masks)
    return blob


def _roi_blobs(roidb, found, images, num_classes, train, family):
    num_rois = rois_per_image(train.BATCH_SIZE, train.REAL_BATCH_SIZE, len(roidb))
    rois, labels, targets = [], [], []
    places = zip(images.sizes, images.sides, images.scales)
    for i, (entry, of_image, place) in enumerate(zip(roidb, found, places)):
        times = background_times(entry, train)
        keep, num_fg = sample_by(train, of_image.overlaps, num_rois, not is_empty(entry), times)
        rois.append(np.hstack([np.full((len(keep), 1), i), family.seen(of_image.boxes[keep], *place)]))
        labels.append(np.where(np.arange(len(keep)) < num_fg, of_image.classes[keep], 0))
        if train.BBOX_REG:
            targets.append(of_image.targets[keep])
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
