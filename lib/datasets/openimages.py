"""Open Images V4 and its challenge of 500 classes, imdb names openimages_v4_<split> and openimages_challenge_<split>, in
data/OpenImages: tables there or in its annotations/, images in <split>/ or images/<split>/.

Classes are MIDs, in the order of the table of classes. Instead of tables there may be annotations/train.json, val.json in
COCO's format. Groups, as the settings OPEN_IMAGES say, are not trained on; AP is that of evaluators.open_images.
"""

import csv
import glob
import itertools
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from datasets.annotated import annotated
from datasets.evaluators import open_images as evaluator
from datasets.evaluators.average_precision import flat
from datasets.readers import openimages as reader
from datasets.readers.coco import corners
from datasets.readers.truth import make_truth
from datasets.readers.voc_xml import Annotation, Annotations
from fast_rcnn.config import cfg
from utils.files import atomic_path
from utils.found import OfClass

log = logging.getLogger(__name__)

SPLITS = ('train', 'val', 'test')
HINT = 'Open Images, or a link to it, is expected in {}: docs/openimages.md says how it is laid out'
# What the names of files match, the first that does: {split} is train, validation or val, test
V4 = {
    'boxes': ['{split}-annotations-bbox.csv', 'oidv*-{split}-annotations-bbox.csv'],
    'labels': ['{split}-annotations-human-imagelabels-boxable.csv'],
    'images': ['{split}-images-boxable*.csv', '{split}-images.csv', '{split}-images-with*.csv'],
    'classes': ['class-descriptions-boxable.csv', 'oidv*-class-descriptions*boxable*.csv'],
    'hierarchy': ['bbox_labels_600_hierarchy.json'],
}
CHALLENGE = {
    'boxes': ['challenge-*-{split}-*bbox.csv', *V4['boxes']],
    'labels': ['challenge-*-{split}-*human-imagelabels.csv', *V4['labels']],
    'images': ['challenge-*-{split}-*image*ids*.csv', *V4['images']],
    'classes': ['challenge-*-class*-description*-500.csv'],
    'hierarchy': ['bbox_labels_500_hierarchy.json', 'challenge-*-label500-hierarchy.json'],
}
KINDS = {'v4': V4, 'challenge': CHALLENGE}


class Files(NamedTuple):
    """Paths: boxes, or annotations (a file in COCO's format, which may do without classes) in place of boxes, labels and
    images; None: there are none."""

    boxes: str = None
    labels: str = None
    images: str = None
    classes: str = None
    hierarchy: str = None
    annotations: str = None


class openimages(annotated):
    """files: Files; folder: of the images. config adds 'crowd_thresh': given proposals that lie in an object that is left out
    by more than this share of their area are neither foreground nor background.

    An image for which a class is said to be there, with no box of it, is no negative."""

    left_out = 'groups'
    metrics = 'openimages', 'openimages_v2'

    def __init__(self, name, split, files, folder):
        self.files, self.folder = files, folder
        self._names = _class_names(files)
        super().__init__(name, split, self._names, ())
        self._image_index = reader.Ids(self._columns_of_files().ids)
        self.config.update(crowd_thresh=0.7)

    @property
    def class_names(self):
        return ('__background__', *self._names.values())

    @cached_property
    def above(self):
        """(K, K) bool: above[k, a], class a holds class k."""
        if not self.files.hierarchy:
            return np.zeros((self.num_classes,) * 2, bool)
        return reader.read_hierarchy(self.files.hierarchy, self.classes)

    def _columns_of_files(self):
        """The OpenImagesFile. It is not held: read again, a large one comes from the cache."""
        cache, files = os.path.join(cfg.DATA_DIR, 'cache'), self.files
        if files.annotations:
            return reader.read_json(files.annotations, self.classes, cache)
        return reader.read_tables(files.boxes, files.labels, files.images, self.classes, cache)

    @cached_property
    def sizes(self):
        """(N, 2) width and height."""
        file = self._columns_of_files()
        if file.sizes.all():
            return file.sizes
        return reader.image_sizes(self.folder, file.ids, os.path.join(cfg.DATA_DIR, 'cache'), self.name)

    @cached_property
    def _image_paths(self):
        return reader.Paths(self.folder, self._originals.ids)

    def image_path_at(self, i):
        return self._image_paths[i % len(self._image_paths)]

    def append_flipped_images(self):
        ids = self._originals
        super().append_flipped_images()
        self._image_index = ids * 2

    def annotation_path_at(self, i):
        return f'{self.files.annotations or self.files.boxes}, image {self._originals[i]}'

    def annotation_at(self, i):
        file, size = self._columns_of_files(), self.image_size_at(i)
        first = file.counts[:i].sum()
        mine = slice(first, first + file.counts[i])
        names = [self.classes[k] for k in file.classes[mine]]
        return Annotation(
            names,
            _pixels(file.boxes[mine], np.tile(size, (file.counts[i], 1))),
            self._left_out(file)[mine],
            size,
        )

    def _left_out(self, file):
        names = list(cfg.OPEN_IMAGES.LEFT_OUT)
        unknown = [name for name in names if name not in reader.BITS]
        if unknown:
            raise ValueError(
                f'OPEN_IMAGES.LEFT_OUT: {unknown[0]!r} is none of {", ".join(reader.BITS)}, what boxes may be'
            )
        return file.has(*names)

    def _truth(self):
        file = self._columns_of_files()
        rows, classes = np.arange(len(file.classes)), file.classes
        if cfg.OPEN_IMAGES.EXPAND:
            rows, classes = reader.expanded(self.above, file.classes)
        images = file.images[rows]
        counts = np.bincount(images, minlength=len(file.ids))
        boxes = _pixels(file.boxes[rows], self.sizes[images])
        left_out = self._left_out(file)[rows]
        found = Annotations(counts, self.sizes, boxes, left_out, classes, np.array(self.classes))
        truth, faults = make_truth(found, range(self.num_classes), self.base)
        return truth._replace(dropped=truth.dropped + self._without_box(file)), faults

    def _without_box(self, file):
        """(N,): how many classes are said to be in an image that has no box of them, or of what they hold."""
        images, classes = file.label_images[file.positive], file.label_classes[file.positive]
        rows, below = reader.expanded(self.above.T, classes)
        boxed = np.sort(file.images.astype(np.int64) * self.num_classes + file.classes)
        said = images[rows].astype(np.int64) * self.num_classes + below
        found = np.searchsorted(boxed, said, 'right') > np.searchsorted(boxed, said)
        missing = np.bincount(rows, found, minlength=len(images)) == 0
        return np.bincount(images[missing], minlength=len(file.ids))

    def _columns(self, use_diff):
        return super()._columns(False)  # a group is not an object that is difficult to see

    def _objects(self, use_diff):
        truth = annotated.truth.func(self)  # which is not held: the records need less
        return truth.objects(
            self.num_classes, self._image_paths, crowd_thresh=self.config.get('crowd_thresh')
        )

    def other_figures(self, all_boxes):
        """The V2 metric's mean AP."""
        aps = list(self.class_aps(all_boxes, group_weight=0.0).values())
        return (
            f'Open Images V2 metric (groups count neither way): mean AP = {np.mean(aps):.4f}' if aps else ''
        )

    def wanted(self, file):
        """What the metric looks for: evaluators.open_images.Wanted, boxes in the unit square, classes and those above."""
        rows, classes = reader.expanded(self.above, file.classes)
        return evaluator.Wanted(file.images[rows], classes, file.boxes[rows], file.has('group_of')[rows])

    def verified(self, file):
        """Images (V,) and classes (V,): what labels say is there, with the classes above, or is not, with those below."""
        there = file.positive
        rows, classes = reader.expanded(self.above, file.label_classes[there])
        others, below = reader.expanded(self.above.T, file.label_classes[~there])
        images = file.label_images[there][rows], file.label_images[~there][others]
        return np.concatenate(images), np.append(classes, below)

    def as_edges(self, all_boxes):
        """all_boxes[class][image] of pixels, in the unit square; with OPEN_IMAGES.EXPAND_DETECTIONS what is found of a class
        is found of those above it, too."""
        return InUnit(all_boxes, self.sizes, self.above if cfg.OPEN_IMAGES.EXPAND_DETECTIONS else None)

    def class_aps(self, all_boxes, group_weight=1.0):
        """{class: AP} by the challenge's metric; by the V2 one with group_weight 0."""
        file = self._columns_of_files()
        if group_weight and not len(file.label_images):
            log.warning('%s: no image-level labels, so that only classes of boxes are known', self.name)
        verified, found = self.verified(file) if group_weight else None, self.as_edges(all_boxes)
        return evaluator.class_aps(found, self.wanted(file), self.classes, verified, group_weight)

    def write_results(self, all_boxes, output_dir):
        """Write detections as the challenge wants them -> the file."""
        path = os.path.join(output_dir, 'results', f'detections_{self.split}.csv')
        found = self.as_edges(all_boxes)
        with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as stream:
            rows = csv.writer(stream)
            rows.writerow(RESULT_COLUMNS)
            for k in range(1, self.num_classes):
                images, boxes = flat(found[k])
                for i, (x1, y1, x2, y2, score) in zip(images.tolist(), boxes.tolist()):
                    numbers = (f'{value:.6f}' for value in (score, x1, x2, y1, y2))
                    rows.writerow([self._originals[i], self.classes[k], *numbers])
        return path


BLOCK = 1 << 18  # boxes computed on at a time, which bounds the memory
RESULT_COLUMNS = ('ImageID', 'LabelName', 'Score', 'XMin', 'XMax', 'YMin', 'YMax')


def _pixels(boxes, sizes):
    """Edges in the unit square (n, 4) -> x1 y1 x2 y2 in pixels, the last one included, float32."""
    pixels = np.empty(boxes.shape, np.float32)
    for first in range(0, len(boxes), BLOCK):
        edges = boxes[first : first + BLOCK] * np.tile(sizes[first : first + BLOCK], 2)
        pixels[first : first + BLOCK] = corners(np.hstack([edges[:, :2], edges[:, 2:] - edges[:, :2]]))
    return pixels


class InUnit(Sequence):
    """[class] -> detections of all images as edges in the unit square, of all_boxes[class][image] (n, 5) in pixels, made when
    they are asked for; above (K, K) bool: those of the classes that a class holds are its own too; None: they are not."""

    def __init__(self, all_boxes, sizes, above=None):
        self.all_boxes, self.sizes, self.above = all_boxes, sizes, above

    def __len__(self):
        return len(self.all_boxes)

    def __getitem__(self, k):
        below = [] if self.above is None else np.flatnonzero(self.above[:, k]).tolist()
        parts = [flat(self.all_boxes[c]) for c in [k, *below]]
        images = np.concatenate([images for images, _ in parts])
        rows, order = np.concatenate([rows for _, rows in parts]), np.argsort(images, kind='stable')
        images, rows = images[order], rows[order]
        rows[:, 2:4] += 1
        rows[:, :4] /= np.tile(self.sizes[images], 2)
        return OfClass(images, rows, len(self.sizes))


def _class_names(files):
    """{class id: name}"""
    if files.classes:
        return reader.read_classes(files.classes)
    if not files.annotations:
        raise ValueError('Open Images: wanted a table of classes, or annotations that have them')
    return reader.json_classes(files.annotations)


def find_files(kind, split, root):
    """The Files of a split of KINDS[kind] in root or its annotations/."""
    words = _words(split)
    found = {key: _first(root, patterns, words) for key, patterns in KINDS[kind].items()}
    if found['boxes'] or split == 'test':
        return Files(**found)
    annotations = _first(root, ['{split}.json'], words)
    return Files(classes=found['classes'], hierarchy=found['hierarchy'], annotations=annotations)


def _first(root, patterns, words):
    """The first path that matches, or None."""
    for word, pattern, at in itertools.product(words, patterns, ('', 'annotations')):
        folder = os.path.join(root, at)
        names = sorted(glob.glob(pattern.format(split=word), root_dir=folder))
        if names:
            return os.path.join(folder, names[0])
    return None


def _words(split):
    """What files and folders call a split."""
    return ('validation', 'val') if split == 'val' else (split,)


def class_ids(kind):
    """The classes of KINDS[kind], of the tables in data/OpenImages."""
    return tuple(_class_names(_found(kind, SPLITS[0], _root())))


def _root():
    return os.path.join(cfg.DATA_DIR, 'OpenImages')


def of_split(kind, split, root=None):
    """The imdb openimages_<kind>_<split>."""
    root = root or _root()
    files = _found(kind, split, root)
    folders = [os.path.join(root, at, word) for word in _words(split) for at in ('', 'images')]
    folder = next(filter(os.path.isdir, folders), folders[0])
    return openimages(f'openimages_{kind}_{split}', split, files, folder)


def _found(kind, split, root):
    files = find_files(kind, split, root)
    if not files.annotations and not (files.boxes and files.classes):
        what = V4['boxes'][0].format(split=_words(split)[0]) if files.classes else KINDS[kind]['classes'][0]
        raise FileNotFoundError(f'{os.path.join(root, what)}: no such file. {HINT.format(root)}')
    return files
