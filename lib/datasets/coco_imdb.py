"""Datasets in COCO's format: an annotation file per split, and a folder of images."""

import functools
import os
from functools import cached_property

import numpy as np

from datasets.annotated import annotated
from datasets.evaluators import coco as evaluator
from datasets.readers.coco import MaskFile, Segms, load_json, read_coco, read_masks
from datasets.readers.masks import meet
from datasets.readers.truth import make_truth
from fast_rcnn.config import cfg


class coco_imdb(annotated):
    """path: the annotation file; folder: of the images; classes: without background, default: the file's categories by
    rising id; hint: where the file comes from.

    Crowds are no ground truth. config adds 'crowd_thresh': given proposals that lie in a crowd by more than this share
    of their area are neither foreground nor background. A file without annotations has images to be tested on, and
    detections are only written: 'competition' is on.
    """

    left_out = 'crowds'
    metrics = ('coco',)
    scores_masks = True

    def __init__(self, name, split, path, folder, classes=None, hint=''):
        self.path, self.folder = path, folder
        self.file = read_coco(path, os.path.join(cfg.DATA_DIR, 'cache'), hint)
        super().__init__(
            name, split, self.file.names.tolist() if classes is None else classes, self.file.ids.tolist()
        )
        self.config.update(competition=not self.file.annotated, crowd_thresh=0.7)

    @property
    def category_ids(self):
        """{class number: id in the file}, of the classes that the file has."""
        numbers = map(self.class_index, self.file.names.tolist())
        return {k: number for k, number in zip(numbers, self.file.category_ids.tolist()) if k is not None}

    def image_path_at(self, i):
        return os.path.join(self.folder, str(self.file.files[i % len(self.file.files)]))

    def image_size_at(self, i):
        return tuple(self.file.sizes[i % len(self.file.sizes)].tolist())

    def annotation_path_at(self, i):
        return f'{self.path}, image {self._originals[i]}'

    def annotation_at(self, i):
        return self.file.annotation(i)

    @property
    def _image_names(self):
        return [os.path.splitext(name)[0] for name in self.file.files.tolist()]

    def _truth(self):
        data = self.file.annotations()
        return make_truth(data, self._known_classes(data), self.base, self.file.areas)

    def _columns(self, use_diff):
        return super()._columns(False)  # a crowd is not an object that is difficult to see

    def _objects(self, use_diff):
        thresh = self.config.get('crowd_thresh')
        return self.truth.objects(
            self.num_classes,
            self._image_paths,
            crowd_thresh=thresh,
            segms_of=functools.partial(Segms, self._mask_file),
        )

    @cached_property
    def _mask_file(self):
        return MaskFile(self.path, os.path.join(cfg.DATA_DIR, 'cache'))

    def gt_roidb(self):
        if not self.file.annotated:
            raise ValueError(
                f'{self.path}: has no annotations: {self.name} can be tested on only, not scored'
            )
        return super().gt_roidb()

    def mask_faults_at(self, i):
        """What is wrong with masks of image i: (number of the object, from 1, text); nothing in a file where no object but
        crowds has any."""
        found = self._masks_as_written
        if found.boxed[~self.file.crowd].all():
            return []
        first = int(self.file.counts[:i].sum())
        rows = range(first, first + int(self.file.counts[i]))
        listed = zip(found.faulty.tolist(), found.faults.tolist())
        what = 'its box stands for it', 'the others are its mask'
        texts = [(row, f'{text}; {what[not found.boxed[row]]}') for row, text in listed if row in rows]
        texts += [
            (row, 'its mask does not touch its box')
            for row in rows
            if not found.boxed[row] and not meet(found.rle(row), self.file.boxes[row])
        ]
        return [(row - first + 1, text) for row, text in sorted(texts)]

    @cached_property
    def _masks_as_written(self):
        return read_masks(self.path, os.path.join(cfg.DATA_DIR, 'cache'))

    def write_results(self, all_boxes, output_dir, masks=None):
        """Write the detections in COCO's format, their masks into another file -> the file or files."""
        folder = os.path.join(output_dir, 'results')
        path = os.path.join(folder, f'detections_{self.split}_results.json')
        evaluator.write(path, self._results(all_boxes))
        if masks is None:
            return path
        more = os.path.join(folder, f'masks_{self.split}_results.json')
        evaluator.write(more, self._mask_results(all_boxes, masks))
        return f'{path} and {more}'

    def _results(self, all_boxes):
        return evaluator.results(all_boxes, self._originals, self.category_ids)

    def _mask_results(self, all_boxes, masks):
        return evaluator.mask_results(all_boxes, masks, self._originals, self.category_ids)

    @cached_property
    def _given_truth(self):
        data = load_json(self.path)
        return evaluator.ground_truth(*(data[key] for key in ('images', 'categories', 'annotations')))

    @cached_property
    def _given_masks(self):
        """The ground truth with masks."""
        data, found = load_json(self.path), self._mask_file.columns
        places = {image_id: i for i, image_id in enumerate(self._originals)}
        rows = [
            row for row in data['annotations'] if row['image_id'] in places
        ]  # of the images that are kept
        order = np.argsort([places[row['image_id']] for row in rows], kind='stable')
        for i, row in enumerate(order.tolist()):
            rows[row]['segmentation'] = found.rle(i)
        return evaluator.ground_truth(data['images'], data['categories'], rows)

    def scores(self, all_boxes):
        """COCO's evaluation: evaluators.coco.Scores."""
        found = self._results(all_boxes)
        return evaluator.evaluate(self._given_truth, found, self._originals, self.category_ids)

    def mask_scores(self, all_boxes, masks):
        """The same of masks[class][image], the RLEs of those boxes."""
        found = self._mask_results(all_boxes, masks)
        return evaluator.evaluate(self._given_masks, found, self._originals, self.category_ids, 'segm')

    def evaluate_detections(self, all_boxes, output_dir=None, masks=None):
        """Write the results file to output_dir (None: nowhere), print the AP of each class and COCO's twelve figures ->
        AP, the mean over IoUs .50, .55 ... .95; where the file has no annotations write only, and return nan.

        masks[class][image]: the RLEs of those boxes: the same of them after it; the AP that is returned is that of boxes.
        """
        self._check_shape(all_boxes)
        if output_dir is not None:
            print(f'Results are written to {self.write_results(all_boxes, output_dir, masks)}')
        if self.config.get('competition'):
            return float('nan')
        mean = self._reported(self.scores(all_boxes))
        if masks is not None:
            print('Masks:')
            self._reported(self.mask_scores(all_boxes, masks))
        return mean

    def _reported(self, scores):
        return self.report({self.classes[k]: ap for k, ap in scores.aps.items()}, scores.summary)
