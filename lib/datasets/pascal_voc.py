"""PASCAL VOC 2007 and 2012, imdb names voc_<year>_<split>, in data/VOCdevkit<year>/VOC<year>; 0712 is a devkit that
somebody made of both, whose AP is 2007's.

Objects marked difficult are not trained on (cfg.TRAIN.USE_DIFFICULT), and neither right nor wrong in a test. Pixels count from 1 in the
files.
"""

import logging
import os
import uuid
from functools import cached_property

import numpy as np

from datasets.evaluators import average_precision
from datasets.evaluators.result_files import class_file, read_results, write_results
from datasets.imdb import imdb
from datasets.readers.images import read_image_set
from datasets.readers.voc import VocLayout
from datasets.xml_imdb import xml_imdb
from fast_rcnn.config import cfg

log = logging.getLogger(__name__)

CLASSES = (
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)
YEARS = ('2007', '2012', '0712')
SPLITS = ('train', 'val', 'trainval', 'test')


class pascal_voc(xml_imdb):
    """image_set: a file of ImageSets/Main; devkit_path: the folder that holds VOC<year>.

    A class of one's own may set _classes with _class_to_ind, _data_path, _image_ext or _image_index in its
    __init__, or replace any of the methods below: they are called for whatever is done. config adds 'cleanup'
    (remove the result files once they are scored), 'use_salt' (a name for them that no other process has) -
    both off, for the files lie in the output folder - and 'matlab_eval' (keep the files for MATLAB).
    """

    base = 1
    _image_ext = '.jpg'
    _comp_id = 'comp4'
    _results_root = None

    def __init__(self, image_set, year, devkit_path=None):
        imdb.__init__(self, f'voc_{year}_{image_set}')
        self._year = str(year)
        self._image_set = image_set
        self._devkit_path = devkit_path or self._get_default_path()
        self._data_path = os.path.join(self._devkit_path, 'VOC' + self._year)
        self._classes = ('__background__',) + CLASSES
        self._class_to_ind = {cls: i for i, cls in enumerate(self._classes)}
        self._image_index = self._load_image_set_index()
        self._roidb_handler = self.gt_roidb
        self.config.update(cleanup=False, use_salt=False, use_diff=False, matlab_eval=False, min_size=2)

    @property
    def split(self):
        return self._image_set

    @property
    def layout(self):
        return VocLayout(self._data_path)

    @property
    def use_07_metric(self):
        """11 points until 2009, the area under the curve since."""
        return int(self._year) < 2010  # 0712 too

    def _get_default_path(self):
        """The folder that holds VOC<year> where none is named."""
        return os.path.join(cfg.DATA_DIR, 'VOCdevkit' + self._year)

    def _load_image_set_index(self):
        """The image ids."""
        return read_image_set(
            os.path.join(self.layout.sets_dir, self._image_set + '.txt'),
            f'The VOC devkit of {self._year}, or a link to it, is expected in {self._devkit_path}',
        )

    def class_index(self, name):
        index = super().class_index(name)
        return super().class_index(name.lower()) if index is None else index

    def image_path_from_index(self, index):
        path = os.path.join(self._data_path, 'JPEGImages', index + self._image_ext)
        return path if os.path.exists(path) else super().image_path_from_index(index)

    def gt_roidb(self):
        return [self._load_pascal_annotation(index) for index in self._originals]

    def _load_pascal_annotation(self, index):
        """The roidb entry of an image of this set, its objects alone."""
        if index not in self._places:
            raise KeyError(f'{self.name} has no image {index}')
        return self._record(self._places[index])

    @cached_property
    def _places(self):
        return {index: i for i, index in enumerate(self._originals)}

    def evaluate_detections(self, all_boxes, output_dir=None):
        """Write result files to output_dir (None: the devkit's own folder), and score them -> mean AP; in
        competition mode write only, and return nan."""
        self._check_shape(all_boxes)
        self._results_root = output_dir
        self._write_voc_results_file(all_boxes)
        print(f'Results are written to {os.path.dirname(self._get_voc_results_file_template())}')
        if self.config.get('competition'):
            return float('nan')
        mean = self._do_python_eval(output_dir)
        if self.config.get('matlab_eval'):
            log.warning('MATLAB is not started: its VOCevaldet reads the files just written')
        elif self.config.get('cleanup'):
            for cls in self.classes[1:]:
                os.remove(class_file(self._get_voc_results_file_template(), cls))
        return mean

    def _get_comp_id(self):
        return f'{self._comp_id}_{self._salt}' if self.config.get('use_salt') else self._comp_id

    @cached_property
    def _salt(self):
        return str(uuid.uuid4())

    def _get_voc_results_file_template(self):
        """Path of a class's result file, {:s} in the place of the class; packed as VOC's server wants it."""
        folder = os.path.join(self._results_root or self._devkit_path, 'results', 'VOC' + self._year, 'Main')
        return os.path.join(folder, f'{self._get_comp_id()}_det_{self._image_set}_{{:s}}.txt')

    def _write_voc_results_file(self, all_boxes):
        template = self._get_voc_results_file_template()
        write_results(template, all_boxes, self.classes, self._originals, self.base)

    def _do_python_eval(self, output_dir='output'):
        """Score the result files -> mean AP."""
        template = self._get_voc_results_file_template()
        all_boxes = read_results(template, self.classes, self._originals, self.base)
        return self.report(self.class_aps(all_boxes), self.other_figures(all_boxes))

    def class_aps(self, all_boxes, at_least=False):
        """{class: AP at IoU > 0.5}; at_least: at IoU >= 0.5, as VOC's development kit has it."""
        return average_precision.class_aps(
            all_boxes, self.truth, self.classes, self.use_07_metric, at_least=at_least
        )

    def other_figures(self, all_boxes):
        """The development kit's mean AP, and COCO's figures."""
        official = list(self.class_aps(all_boxes, at_least=True).values())
        line = f'VOC development kit (IoU >= 0.5): mean AP = {np.mean(official):.4f}' if official else ''
        return '\n'.join(filter(None, [line, self.coco_style(all_boxes)]))

    @property
    def metrics(self):
        return ('voc07', 'voc07_devkit') if self.use_07_metric else ('voc', 'voc_devkit')

    def competition_mode(self, on):
        super().competition_mode(on)
        if on:
            self.config.update(use_salt=False, cleanup=False)
