"""Datasets with annotated boxes: ground truth made records to train on, and detections scored.

N images, B objects of all of them, K classes.
"""

import logging
import os
from functools import cached_property

import numpy as np

from datasets.ds_utils import filter_small_boxes, unique_boxes
from datasets.evaluators import average_precision, coco
from datasets.evaluators.result_files import write_results
from datasets.imdb import imdb
from datasets.readers.boxes import clean_boxes
from datasets.readers.images import image_size
from datasets.readers.selective_search import load_selective_search
from datasets.record import Record
from fast_rcnn.config import cfg
from utils.words import nearest

log = logging.getLogger(__name__)


class annotated(imdb):
    """A dataset says by its methods where an image lies and what its annotations are. split: a word in result files'
    names; base: the number of the first pixel in its files. config adds 'use_diff' (train on difficult objects too, as
    cfg.TRAIN.USE_DIFFICULT has it for all) and 'min_size' (smallest given proposal, pixels)."""

    base = 0
    left_out = (
        'difficult'  # what the objects are that are not trained on, and neither right nor wrong to find
    )
    turned = 'boxes are taken as of the pixels stored'  # of an image that its EXIF tag turns
    metrics = ('voc',)  # of datasets.metrics: those by which detections in a file are scored

    def __init__(self, name, split, classes, image_index):
        super().__init__(name)
        self._classes = ('__background__',) + tuple(classes)
        self._class_to_ind = {cls: i for i, cls in enumerate(self._classes)}
        self._image_index = list(image_index)
        self._roidb_handler = self.gt_roidb
        self.split = split
        self.config.update(use_diff=False, min_size=2)

    def class_index(self, name):
        """Index of the class that an annotation calls name, or None."""
        return self._class_to_ind.get(name) if name != '__background__' else None

    @property
    def sizes(self):
        """(N, 2) width and height of the images."""
        return self.truth.sizes

    def image_size_at(self, i):
        return tuple(self.sizes[i % len(self.sizes)].tolist())

    def image_key(self, i):
        """What tells image i from every other, of other datasets too."""
        return self.image_path_at(i)

    def annotation_path_at(self, i):
        """What messages call the place of image i's annotation."""
        raise NotImplementedError(f'{type(self).__name__} has no annotation_path_at')

    def annotation_at(self, i):
        """Image i's Annotation, as written in the files: see readers.voc_xml."""
        raise NotImplementedError(f'{type(self).__name__} has no annotation_at')

    def mask_faults_at(self, i):
        """What is wrong with masks of image i: (number of the object, from 1, text)."""
        return []

    def _truth(self):
        """What readers.truth.make_truth gives."""
        raise NotImplementedError(f'{type(self).__name__} has no _truth')

    @cached_property
    def _image_paths(self):
        return [self.image_path_at(i) for i in range(len(self._originals))]

    @cached_property
    def truth(self):
        """The objects: a readers.truth.Truth."""
        truth, faults = self._truth()
        dropped = faults['outside'] + faults['zero area']
        if any(faults.values()):
            log.warning(
                '%s: %d boxes clipped, %d inverted, %d dropped (%d zero area, %d outside the image): '
                'tools/check_dataset.py lists them',
                self.name,
                faults['clipped'],
                faults['inverted'],
                dropped,
                faults['zero area'],
                faults['outside'],
            )
        return truth

    def _known_classes(self, data):
        known = [self.class_index(name) for name in data.vocabulary.tolist()]
        for number in np.unique(data.names):
            if known[number] is not None:
                continue
            name = str(data.vocabulary[number])
            images = np.repeat(np.arange(len(data.counts)), data.counts)
            path = self.annotation_path_at(images[np.argmax(data.names == number)])
            raise ValueError(
                f'{path}: unknown class {name!r}; the nearest class of {self.name} is '
                f'{nearest(name, self.classes[1:])!r}'
            )
        return [known_as or 0 for known_as in known]

    def gt_roidb(self):
        return [self._record(i) for i in range(len(self._originals))]

    def _record(self, i):
        return Record.of(self._columns(bool(cfg.TRAIN.USE_DIFFICULT or self.config.get('use_diff'))), i)

    def _columns(self, use_diff):
        """The Objects that the records refer to, made once."""
        if use_diff not in self._made:
            self._made[use_diff] = self._objects(use_diff)
        return self._made[use_diff]

    def _objects(self, use_diff):
        return self.truth.objects(self.num_classes, self._image_paths, use_diff)

    @cached_property
    def _made(self):
        return {}

    def _get_widths(self):
        return np.resize(self.sizes[:, 0], self.num_images).tolist()

    def selective_search_roidb(self):
        """Objects and the proposals in data/selective_search_data/<imdb name>.mat."""
        path = os.path.join(cfg.DATA_DIR, 'selective_search_data', self.name + '.mat')
        found = load_selective_search(path, self._image_names)
        return self._roidb_of([self._given_boxes(i, boxes) for i, boxes in enumerate(found)], path)

    @property
    def _image_names(self):
        return self._originals

    def _given_boxes(self, i, boxes):
        """boxes less repeated, small and (by the rule for annotated boxes) impossible ones."""
        boxes, faults = clean_boxes(boxes, *image_size(self.image_path_at(i)), 0)
        boxes = boxes[~(faults['outside'] | faults['zero area'])]
        boxes = boxes[unique_boxes(boxes)]
        return boxes[filter_small_boxes(boxes, self.config.get('min_size', 2))]

    def evaluate_detections(self, all_boxes, output_dir=None):
        """Write result files to output_dir (None: nowhere), print the AP of each class that has ground truth,
        and return their mean; in competition mode write only, and return nan."""
        self._check_shape(all_boxes)
        if output_dir is not None:
            print(f'Results are written to {self.write_results(all_boxes, output_dir)}')
        if self.config.get('competition'):
            return float('nan')
        return self.report(self.class_aps(all_boxes), self.other_figures(all_boxes))

    def other_figures(self, all_boxes):
        """What report says before the mean AP, in lines."""
        return self.coco_style(all_boxes)

    def coco_style(self, all_boxes):
        """COCO's figures in a line, or '' as cfg.TEST.COCO_STYLE has it."""
        if not cfg.TEST.COCO_STYLE:
            return ''
        truth, classes = coco.of_truth(self.truth, self.num_classes), range(1, self.num_classes)
        numbers = {k: k for k in classes}
        images = range(len(self.truth.sizes))
        return coco.evaluate(truth, coco.results(all_boxes, images, numbers), images, numbers).line

    def report(self, aps, more=''):
        """Print {class: AP}, which classes have no object to find, and more -> the mean AP of those that have."""
        if not aps:
            raise ValueError(f'{self.name}: no object to be found, so there is no AP')
        names = zip(self.classes[1:], self.class_names[1:])
        titles = {cls: cls if cls == name else f'{cls} ({name})' for cls, name in names}
        for cls in filter(aps.__contains__, titles):
            print(f'AP for {titles[cls]} = {aps[cls]:.4f}')
        absent = [title for cls, title in titles.items() if cls not in aps]
        if absent:
            print(f'No objects here: {", ".join(absent)}')
        if more:
            print(more)
        mean = float(np.mean(list(aps.values())))
        figures = {cls: float(ap) for cls, ap in aps.items()}
        self.reported.append({'mean_ap': mean, 'aps': figures, 'more': more})
        print(
            f'Mean AP = {mean:.4f}'
            + f' (of {len(aps)} classes; {len(absent)} without objects here are left out)' * bool(absent)
        )
        return mean

    def class_aps(self, all_boxes):
        """{class: AP at IoU > 0.5}, of classes with ground truth."""
        return average_precision.class_aps(all_boxes, self.truth, self.classes)

    def write_results(self, all_boxes, output_dir):
        """Write result files (see evaluators.result_files) -> their folder."""
        folder = os.path.join(output_dir, 'results')
        template = os.path.join(folder, f'comp4_det_{self.split}_{{}}.txt')
        write_results(template, all_boxes, self.classes, self._originals, self.result_base)
        return folder

    @property
    def result_base(self):
        """The number of the first pixel in result files."""
        return self.base

    def _check_shape(self, all_boxes):
        lengths = [len(images) for images in all_boxes]
        wanted = len(self._originals)
        if len(lengths) != self.num_classes or any(length != wanted for length in lengths[1:]):
            raise ValueError(
                f'{self.name}: wanted detections of {self.num_classes} classes (background '
                f'first) in {wanted} images, got {len(lengths)} classes, images by class: '
                f'{sorted(set(lengths[1:]))}'
            )
