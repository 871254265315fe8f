"""imdb: what every dataset offers to training and testing.

A dataset is a class that sets _classes and _image_index and defines image_path_at and gt_roidb. Its roidb has
one entry per image, R boxes each, K classes with '__background__' first. An entry is a Record, or a dict:
    boxes (R, 4) float32 x1 y1 x2 y2, 0-based, inclusive     gt_classes (R,) int32, 0 for proposals
    gt_overlaps (R, K) sparse: IoU with the best object, in its class's column
    seg_areas (R,) float32: pixels of objects, 0 for proposals        flipped: mirror the image left to right
    and may have segms: masks (datasets.readers.masks) of the R boxes in the image as it is on disk, None of proposals
A Record refers to what its imdb holds of all images, and to proposals where they lie: about 100 bytes an image.
"""

import os

import numpy as np

from datasets.readers.images import image_size
from datasets.record import Objects, Record
from fast_rcnn.config import cfg
from utils.cython_bbox import bbox_overlaps
from utils.proposals import load_proposals

# Ranges of an object's area in pixels, for evaluate_recall
AREAS = {
    'all': (0, 1e5**2),
    'small': (0, 32**2),
    'medium': (32**2, 96**2),
    'large': (96**2, 1e5**2),
    '96-128': (96**2, 128**2),
    '128-256': (128**2, 256**2),
    '256-512': (256**2, 512**2),
    '512-inf': (512**2, 1e5**2),
}


class imdb:
    """An image database. config: 'rpn_file' (proposals for rpn_roidb), 'rpn_first' and 'rpn_images' (where that file is of
    more images: the place of the first of these, and how many there are), 'competition' (see competition_mode), and what
    a dataset adds. scores_masks: whether evaluate_detections takes masks."""

    scores_masks = False

    def __init__(self, name):
        self._name = name
        self._classes = ()
        self._image_index = []
        self._roidb = None
        self._roidb_handler = self.default_roidb
        self._flipped = False
        self.config = {'rpn_file': None, 'competition': False}
        self.reported = []  # of each evaluation {'mean_ap': AP, 'aps': {class: AP}, 'more': other figures as printed}

    @property
    def name(self):
        return self._name

    @property
    def classes(self):
        return self._classes

    @property
    def class_names(self):
        """Classes as a person would call them."""
        return self._classes

    @property
    def num_classes(self):
        return len(self._classes)

    @property
    def image_index(self):
        return self._image_index

    @property
    def num_images(self):
        return len(self._image_index)

    def keep_first(self, count):
        """Have no more than its first `count` images; to be said before anything is asked of them."""
        self._image_index = self._image_index[:count]

    @property
    def _originals(self):
        """The image index less the flipped images."""
        return self._image_index[: self.num_images // 2] if self._flipped else self._image_index

    @property
    def cache_path(self):
        path = os.path.join(cfg.DATA_DIR, 'cache')
        os.makedirs(path, exist_ok=True)
        return path

    @property
    def roidb_handler(self):
        return self._roidb_handler

    @roidb_handler.setter
    def roidb_handler(self, handler):
        self._roidb_handler, self._roidb = handler, None
        self._image_index, self._flipped = self._originals, False

    @property
    def roidb(self):
        """The list of entries, made by the handler when first asked for."""
        if self._roidb is None:
            self._roidb = self._roidb_handler()
        return self._roidb

    def set_proposal_method(self, method):
        """Where the roidb's boxes come from: 'gt', 'rpn' ..., any that has a method <method>_roidb."""
        known = [name[: -len('_roidb')] for name in dir(self) if name.endswith('_roidb') and name[0] != '_']
        if method not in known:
            raise ValueError(f'{self.name}: unknown proposal method {method!r}, known: {", ".join(known)}')
        self.roidb_handler = getattr(self, method + '_roidb')

    def default_roidb(self):
        raise NotImplementedError(f'{self.name}: no roidb handler is set; see set_proposal_method')

    def gt_roidb(self):
        """Entries of the annotated objects alone."""
        raise NotImplementedError(f'{type(self).__name__} has no gt_roidb')

    def image_path_at(self, i):
        raise NotImplementedError(f'{type(self).__name__} has no image_path_at')

    def image_size_at(self, i):
        """(width, height) in pixels."""
        return image_size(self.image_path_at(i))

    def evaluate_detections(self, all_boxes, output_dir=None):
        """Mean AP of all_boxes[class][image] = (n, 5) x1 y1 x2 y2 score; writes results to output_dir."""
        raise NotImplementedError(f'{type(self).__name__} has no evaluate_detections')

    def competition_mode(self, on):
        """On: detections are only written, for a competition's server to score; annotations may lack."""
        self.config['competition'] = bool(on)

    def rpn_roidb(self):
        """Objects and the proposals in config['rpn_file'] (any form utils.proposals.load_proposals reads)."""
        path = self.config.get('rpn_file')
        if path is None:
            raise ValueError(f"{self.name}: config['rpn_file'] does not say where the proposals are")
        first, images = (self.config.get(key) for key in ('rpn_first', 'rpn_images'))
        return self._roidb_of(load_proposals(path), path, first or 0, images)

    def _roidb_of(self, box_list, source, first=0, images=None):
        """Objects (where there are annotations) and given boxes, of `images` images (default: of these), these being the
        ones from the first on."""
        wanted = self.num_images if images is None else images
        if len(box_list) != wanted:
            raise ValueError(f'{source}: proposals of {len(box_list)} images, but {self.name} has {wanted}')
        gt_roidb = self._no_objects() if self.config.get('competition') else self.gt_roidb()
        if all(isinstance(entry, Record) for entry in gt_roidb):
            return [entry.with_proposals(box_list, i) for i, entry in enumerate(gt_roidb, first)]
        box_list = box_list[first : first + self.num_images]
        return self.merge_roidbs(gt_roidb, self.create_roidb_from_box_list(box_list, gt_roidb))

    def _no_objects(self):
        counts = np.zeros(self.num_images + 1, np.int64)
        boxes, classes = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        nothing = Objects(self.num_classes, counts, boxes, classes, counts)
        return [Record.of(nothing, i) for i in range(self.num_images)]

    def create_roidb_from_box_list(self, box_list, gt_roidb):
        """Entries for boxes (n, >= 4) of each image; gt_roidb (or None): the objects they may overlap."""
        if len(box_list) != self.num_images:
            raise ValueError(f'{self.name}: boxes of {len(box_list)} images, wanted {self.num_images}')
        objects = gt_roidb if gt_roidb is not None else [None] * len(box_list)
        return [self._proposal_entry(boxes, entry) for boxes, entry in zip(box_list, objects)]

    def _proposal_entry(self, boxes, entry):
        """A dict of boxes alone, with their overlaps with the entry's objects."""
        record = self._objects_of(entry or {'boxes': [], 'gt_classes': []}).with_proposals(boxes)
        first, keys = len(record.objects), ('boxes', 'gt_classes', 'gt_overlaps', 'seg_areas')
        return {**{key: record[key][first:] for key in keys}, 'flipped': False}

    def _objects_of(self, entry):
        """A Record of an entry's objects alone."""
        chosen = np.flatnonzero(entry['gt_classes'])
        areas = np.asarray(entry['seg_areas'])[chosen] if 'seg_areas' in entry else None
        boxes, classes = (np.asarray(entry[key])[chosen] for key in ('boxes', 'gt_classes'))
        return Record(boxes, classes, self.num_classes, areas=areas)

    @staticmethod
    def merge_roidbs(a, b):
        """Entries with a's boxes followed by b's. What else a's dicts hold stays."""
        if len(a) != len(b):
            raise ValueError(f'roidbs of {len(a)} and {len(b)} images cannot be merged')
        return [_merged(x, y) for x, y in zip(a, b)]

    def _get_widths(self):
        """The images' widths in pixels."""
        return [self.image_size_at(i)[0] for i in range(self.num_images)]

    def append_flipped_images(self):
        """Append each entry's mirror image: with n images, entry i + n is entry i flipped."""
        if self._flipped:
            raise ValueError(f'{self.name}: flipped images have been appended already')
        flipped = [
            self._mirrored(*item) for item in zip(range(self.num_images), self.roidb, self._get_widths())
        ]
        self._roidb = self._roidb + flipped
        self._image_index = list(self._image_index) * 2
        self._flipped = True

    def _mirrored(self, i, entry, width):
        if isinstance(entry, Record):
            if entry.width != width:
                entry['width'] = width
            return entry.mirrored()
        boxes = entry['boxes'].copy()
        boxes[:, [0, 2]] = width - 1 - entry['boxes'][:, [2, 0]]
        if (boxes[:, 2] < boxes[:, 0]).any():
            raise ValueError(f'{self.image_path_at(i)}: a box with x1 > x2 cannot be flipped')
        return {**entry, 'boxes': boxes, 'flipped': True}

    def evaluate_recall(self, candidate_boxes=None, thresholds=None, area='all', limit=None):
        """How many objects the proposals cover. The roidb must hold the objects.

        candidate_boxes: (n, 4) per image, best first; None: the roidb's boxes that are no objects. limit: use
        only so many per image. thresholds: IoUs, default .5 .55 ... .95. area: a key of AREAS.
        Objects and boxes are matched one to one: again and again the pair of the highest IoU that is left.
        Returns {'recalls' (T,), 'ar': their mean, 'thresholds' (T,), 'gt_overlaps': the matches' IoUs,
        rising}; without objects in that range recalls are nan.
        """
        if area not in AREAS:
            raise ValueError(f'unknown area {area!r}, known: {", ".join(AREAS)}')
        thresholds = np.arange(0.5, 0.95 + 1e-5, 0.05) if thresholds is None else np.asarray(thresholds)
        matched, total = [np.zeros(0)], 0
        for i, entry in enumerate(self.roidb):
            objects = self._objects_of(entry)
            low, high = AREAS[area]
            objects = objects['boxes'][(objects['seg_areas'] >= low) & (objects['seg_areas'] <= high)]
            own_boxes = entry['boxes'][entry['gt_classes'] == 0]
            boxes = own_boxes if candidate_boxes is None else candidate_boxes[i]
            total += len(objects)
            matched.append(match_one_to_one(boxes[:limit], objects))
        overlaps = np.sort(np.concatenate(matched))
        hits = np.array([np.count_nonzero(overlaps >= threshold) for threshold in thresholds])
        recalls = hits / total if total else np.full(len(thresholds), np.nan)
        return {'ar': recalls.mean(), 'recalls': recalls, 'thresholds': thresholds, 'gt_overlaps': overlaps}


def _merged(x, y):
    import scipy.sparse  # takes its time, and few merge

    keys = [key for key in ('boxes', 'gt_classes', 'seg_areas') if key in x and key in y]
    return {
        **({'flipped': x['flipped']} if isinstance(x, Record) else x),
        **{key: np.concatenate([x[key], y[key]]) for key in keys},
        'gt_overlaps': scipy.sparse.vstack([x['gt_overlaps'], y['gt_overlaps']], format='csr'),
    }


def match_one_to_one(boxes, objects):
    """IoUs (G,) of objects (G, 4) with the boxes (n, 4) given to them, greedily; 0 where there is none."""
    result = np.zeros(len(objects))
    if not len(boxes) or not len(objects):
        return result
    overlaps = bbox_overlaps(np.asarray(boxes, float)[:, :4], np.asarray(objects, float))
    for _ in range(min(overlaps.shape)):
        box, found = np.unravel_index(overlaps.argmax(), overlaps.shape)
        result[found] = overlaps[box, found]
        overlaps[box, :] = overlaps[:, found] = -1
    return result
