"""ImageNet DET (ILSVRC 2015), imdb names imagenet_2015_<split>, in data/ImageNet2015.

The devkit holds ImageSets/DET, Annotations/DET and Data/DET. Classes are the 200 WordNet ids of
imagenet_det_synsets.tsv, in the order of ILSVRC's class index. As in the recipe that this follows, boxes in
the XML files are not shifted, only cut at width - 1 and height - 1; AP is that of evaluators.imagenet, with the
development kit's beside it.
"""

import glob
import logging
import os
import re
from functools import cached_property

import numpy as np

from datasets.evaluators import imagenet as evaluator
from datasets.readers.imagenet import ImagenetLayout
from datasets.readers.images import read_image_set
from datasets.xml_imdb import xml_imdb
from fast_rcnn.config import cfg
from utils.files import read_text

log = logging.getLogger(__name__)

SPLITS = ('train', 'val', 'val1', 'val2', 'trainval1_woextra')

VAL_HINT = (
    'val1 and val2 are the halves of val published with R-CNN (its data/splits/ilsvrc13: val1 has '
    '9,887 lines "id index", val2 has 9,917); copy the lists there'
)


def _synsets():
    path = os.path.join(os.path.dirname(__file__), 'imagenet_det_synsets.tsv')
    with open(path, encoding='utf-8') as stream:
        rows = [line.rstrip('\n').split('\t') for line in stream][1:]
    return {wnid: name for _, wnid, name in rows}


# WordNet id -> name, by class index
SYNSETS = _synsets()


class imagenet(xml_imdb):
    """image_set: one of SPLITS, or another file of ImageSets/DET; devkit_path: the folder of ImageSets."""

    def __init__(self, image_set, year='2015', devkit_path=None):
        layout = ImagenetLayout(devkit_path or os.path.join(cfg.DATA_DIR, f'ImageNet{year}'), image_set)
        super().__init__(
            f'imagenet_{year}_{image_set}',
            image_set,
            tuple(SYNSETS),
            layout,
            image_set_ids(layout, image_set),
            base=0,
        )

    @property
    def class_names(self):
        return ('__background__',) + tuple(SYNSETS.values())

    result_base = evaluator.RESULT_BASE

    metrics = 'ilsvrc_plain', 'ilsvrc'

    def class_aps(self, all_boxes):
        return evaluator.class_aps(all_boxes, self.truth, self.classes)

    def official_class_aps(self, all_boxes):
        """{class: AP} as the development kit has it, less the blacklisted images of a class."""
        return evaluator.official_class_aps(all_boxes, self.truth, self.classes, self.blacklist)

    def other_figures(self, all_boxes):
        aps = self.official_class_aps(all_boxes)
        titles = dict(zip(self.classes, self.class_names))
        lines = [f'Official AP for {cls} ({titles[cls]}) = {ap:.4f}' for cls, ap in aps.items()]
        count = sum(map(len, self.blacklist.values()))
        what = f'Official ILSVRC metric (IoU by the size of an object; {count} blacklisted images of a class)'
        return '\n'.join([*lines, f'{what}: mean AP = {np.mean(list(aps.values())):.4f}' if aps else what])

    @cached_property
    def image_numbers(self):
        """{image id: ILSVRC's number of it}: of val1 and val2 those of val.txt where that is there, else those of their own
        list; a line without a number counts from 1."""
        paths = [os.path.join(self.layout.sets_dir, f'{name}.txt') for name in ('val', self.split)]
        known = {}
        for path in filter(os.path.exists, paths[not self.split.startswith('val') :]):
            known = {**_numbers(path), **known}
        return known

    @cached_property
    def blacklist(self):
        """{class number: images (n,)}, of the development kit's list for val; empty for other sets."""
        name = '*det_validation_blacklist.txt'
        folders = [
            os.path.join(self.layout.root, at) for at in ('', 'data', 'devkit/data', 'ILSVRC/devkit/data')
        ]
        paths = [os.path.join(at, found) for at in folders for found in sorted(glob.glob(name, root_dir=at))]
        if not self.split.startswith('val'):
            return {}
        if not paths:
            log.warning('%s/devkit/data/%s: no such file: no image is left out', self.layout.root, name)
            return {}
        return _blacklist(paths[0], self._class_to_ind, self._places_by_number())

    def _places_by_number(self):
        numbers = self.image_numbers
        return {numbers[name]: i for i, name in enumerate(self._originals) if name in numbers}


def _numbers(path):
    """{image id: number} of an image set."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    return {line[0]: int(line[1]) if len(line) > 1 else count for count, line in enumerate(lines, 1)}


def _blacklist(path, classes, places):
    """{class number: images (n,)} of lines `number WordNet-id`; places: {number: image}."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    odd = next(
        (line for line in lines if len(line) != 2 or not line[0].isdigit() or line[1] not in classes), None
    )
    if odd:
        raise ValueError(f'{path}: wanted lines `image number, WordNet id`, got {" ".join(odd)!r}')
    found = {}
    for number, wnid in lines:
        if int(number) in places:
            found.setdefault(classes[wnid], []).append(places[int(number)])
    return {k: np.unique(images) for k, images in found.items()}


def image_set_ids(layout, image_set):
    """Ids of an image set. Where the devkit lacks the file, train is made of train_1 ... train_200, and
    trainval1_woextra of train without the 'extra' images, which hold no annotated object, and val1."""
    path = os.path.join(layout.sets_dir, image_set + '.txt')
    if not os.path.exists(path) and image_set == 'train':
        return _train_ids(layout, path)
    if not os.path.exists(path) and image_set == 'trainval1_woextra':
        log.info('%s is made of train without extra and val1', path)
        train = [image_id for image_id in image_set_ids(layout, 'train') if '_extra' not in image_id]
        return train + image_set_ids(layout, 'val1')
    return read_image_set(path, VAL_HINT if image_set.startswith('val') else _devkit_hint(layout))


def _train_ids(layout, path):
    lists = glob.glob('train_*.txt', root_dir=layout.sets_dir)
    numbered = sorted(
        (int(found[1]), os.path.join(layout.sets_dir, name))
        for name in lists
        if (found := re.fullmatch(r'train_(\d+)\.txt', name))
    )
    if not numbered:
        raise FileNotFoundError(
            f'{path}: no such image set, nor are there train_1.txt ... train_200.txt. {_devkit_hint(layout)}'
        )
    return list(dict.fromkeys(image_id for _, name in numbered for image_id in read_image_set(name)))


def _devkit_hint(layout):
    return f'The ILSVRC 2015 DET data, or a link to it, is expected in {layout.root}'
