"""Datasets annotated by VOC-style XML files: ground truth, given proposals, result files and mean AP.

N images, B objects of all of them, K classes.
"""

import logging
import os
import re
from functools import cached_property

import numpy as np
import scipy.sparse

from datasets.annotations import clean_boxes, image_size, nearest, read_annotations
from datasets.imdb import imdb
from datasets.selective_search import filter_small_boxes, load_selective_search, unique_boxes
from datasets.voc_eval import voc_eval
from fast_rcnn.config import cfg
from utils.files import atomic_path

log = logging.getLogger(__name__)


class xml_imdb(imdb):
    """split (a word in result files' names), classes (without background), layout and image_index say what
    the dataset is; base is the number of the first pixel in its files. config adds 'use_diff' (train on
    difficult objects too) and 'min_size' (smallest given proposal, pixels)."""

    use_07_metric = False

    def __init__(self, name, split, classes, layout, image_index, base):
        super().__init__(name)
        self._classes = ('__background__',) + tuple(classes)
        self._class_to_ind = {cls: i for i, cls in enumerate(self._classes)}
        self._image_index = list(image_index)
        self._originals = tuple(image_index)
        self._roidb_handler = self.gt_roidb
        self.split = split
        self.layout = layout
        self.base = base
        self.config.update(use_diff=False, min_size=2)

    def class_index(self, name):
        """Index of the class that an annotation calls name, or None."""
        return self._class_to_ind.get(name) if name != '__background__' else None

    def image_path_at(self, i):
        return self.layout.image(self._image_index[i])

    def image_size_at(self, i):
        return tuple(self._annotations.sizes[i % len(self._originals)].tolist())

    def annotation_path_at(self, i):
        """The XML file of image i, None if it is known to have no objects."""
        return self.layout.annotation(self._image_index[i])

    @cached_property
    def _annotations(self):
        files = [
            (self.layout.annotation(image_id), self.layout.image(image_id)) for image_id in self._originals
        ]
        return read_annotations(files, self.name)

    @cached_property
    def _objects(self):
        """images (B,), classes (B,), boxes (B, 4) by clean_boxes, difficult (B,), of the objects that are
        kept, and written (B, 4), their boxes as in the files."""
        data = self._annotations
        images = np.repeat(np.arange(len(data.counts)), data.counts)
        classes = self._class_indices(data, images)
        boxes, faults = clean_boxes(data.boxes, *data.sizes[images].T, self.base)
        kept = ~(faults['outside'] | faults['zero area'])
        self._report(faults)
        return {
            'images': images[kept],
            'classes': classes[kept],
            'boxes': boxes[kept],
            'difficult': data.difficult[kept],
            'written': data.boxes[kept],
        }

    def _class_indices(self, data, images):
        known = [self.class_index(name) for name in data.vocabulary.tolist()]
        if None in known:
            number = known.index(None)
            name = str(data.vocabulary[number])
            path = self.annotation_path_at(images[np.argmax(data.names == number)])
            raise ValueError(
                f'{path}: unknown class {name!r}; the nearest class of {self.name} is '
                f'{nearest(name, self.classes[1:])!r}'
            )
        return np.array(known, np.int32)[data.names] if known else np.zeros(0, np.int32)

    def _report(self, faults):
        count = {rule: int(mask.sum()) for rule, mask in faults.items()}
        dropped = count['outside'] + count['zero area']
        if any(count.values()):
            log.warning(
                '%s: %d boxes clipped, %d inverted, %d dropped (%d zero area, %d outside the image): '
                'tools/check_dataset.py lists them',
                self.name,
                count['clipped'],
                count['inverted'],
                dropped,
                count['zero area'],
                count['outside'],
            )

    def gt_roidb(self):
        objects = self._objects
        chosen = np.ones(len(objects['images']), bool) if self.config['use_diff'] else ~objects['difficult']
        boxes, classes = objects['boxes'][chosen], objects['classes'][chosen]
        areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
        cuts = np.searchsorted(objects['images'][chosen], np.arange(1, len(self._originals)))
        parts = [np.split(array, cuts) for array in (boxes, classes, areas)]
        return [self._gt_entry(*image_parts) for image_parts in zip(*parts)]

    def _gt_entry(self, boxes, classes, areas):
        n = len(classes)
        overlaps = scipy.sparse.csr_matrix(
            (np.ones(n, np.float32), classes, np.arange(n + 1)), shape=(n, self.num_classes)
        )
        return {
            'boxes': boxes,
            'gt_classes': classes,
            'gt_overlaps': overlaps,
            'seg_areas': areas,
            'flipped': False,
        }

    def selective_search_roidb(self):
        """Objects and the proposals in data/selective_search_data/<imdb name>.mat."""
        path = os.path.join(cfg.DATA_DIR, 'selective_search_data', self.name + '.mat')
        found = load_selective_search(path, self._originals)
        return self._roidb_of([self._given_boxes(i, boxes) for i, boxes in enumerate(found)], path)

    def _given_boxes(self, i, boxes):
        """boxes less repeated, small and (by the rule for annotated boxes) impossible ones."""
        boxes, faults = clean_boxes(boxes, *image_size(self.image_path_at(i)), 0)
        boxes = boxes[~(faults['outside'] | faults['zero area'])]
        boxes = boxes[unique_boxes(boxes)]
        return boxes[filter_small_boxes(boxes, self.config['min_size'])]

    def evaluate_detections(self, all_boxes, output_dir=None):
        """Write result files to output_dir (None: nowhere), print the AP of each class that has ground truth,
        and return their mean; in competition mode write only, and return nan."""
        self._check_shape(all_boxes)
        if output_dir is not None:
            print(f'Results are written to {self.write_results(all_boxes, output_dir)}')
        if self.config['competition']:
            return float('nan')
        aps = self.class_aps(all_boxes)
        for cls, name in zip(self.classes[1:], self.class_names[1:]):
            if cls in aps:
                print(f'AP for {cls if cls == name else f"{cls} ({name})"} = {aps[cls]:.4f}')
        if not aps:
            raise ValueError(f'{self.name}: no object to be found, so there is no AP')
        mean = float(np.mean(list(aps.values())))
        print(f'Mean AP = {mean:.4f}')
        return mean

    def class_aps(self, all_boxes):
        """{class: AP at IoU > 0.5}, of classes with ground truth."""
        images, classes = self._objects['images'], self._objects['classes']
        truth, difficult = self.truth_boxes(), self._objects['difficult']
        aps = {}
        for k, cls in enumerate(self.classes):
            mine = classes == k
            if k and np.any(mine & ~difficult):
                det_images, rows = _rows(all_boxes[k])
                aps[cls] = voc_eval(
                    det_images,
                    self.scored_boxes(rows[:, :4]),
                    rows[:, 4],
                    images[mine],
                    truth[mine],
                    difficult[mine],
                    use_07_metric=self.use_07_metric,
                )[2]
        return aps

    def truth_boxes(self):
        """Objects' boxes (B, 4) as detections are held against them."""
        return self._objects['boxes']

    def scored_boxes(self, boxes):
        """Detections' boxes (n, 4) as they are held against truth_boxes."""
        return boxes

    def results_dir(self, output_dir):
        return os.path.join(output_dir, 'results')

    def write_results(self, all_boxes, output_dir):
        """One file per class, lines 'image score x1 y1 x2 y2', pixels from result_base on. -> the folder"""
        folder = self.results_dir(output_dir)
        for k, cls in enumerate(self.classes[1:], 1):
            name = re.sub(r'[/\\:%]', lambda match: f'%{ord(match[0]):02X}', cls)
            with (
                atomic_path(os.path.join(folder, f'comp4_det_{self.split}_{name}.txt')) as temporary,
                open(temporary, 'w', encoding='utf-8') as stream,
            ):
                for image, row in zip(*_rows(all_boxes[k])):
                    corners = ' '.join(f'{value + self.result_base:.1f}' for value in row[:4])
                    stream.write(f'{self._originals[image]} {row[4]:.6f} {corners}\n')
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


def _rows(boxes_by_image):
    """A class's detections: images (D,), rows (D, 5) float64."""
    rows = [np.asarray(boxes, float).reshape(-1, 5) for boxes in boxes_by_image]
    images = np.repeat(np.arange(len(rows)), [len(boxes) for boxes in rows])
    return images, np.concatenate(rows or [np.zeros((0, 5))])
