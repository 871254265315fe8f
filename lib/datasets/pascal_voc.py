"""PASCAL VOC 2007 and 2012, imdb names voc_<year>_<split>, in data/VOCdevkit<year>/VOC<year>.

Objects marked difficult are not trained on, and neither right nor wrong in a test. Pixels count from 1 in the
files.
"""

import os

from datasets.layouts import VocLayout, read_image_set
from datasets.xml_imdb import xml_imdb
from fast_rcnn.config import cfg

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
YEARS = ('2007', '2012')
SPLITS = ('train', 'val', 'trainval', 'test')


class pascal_voc(xml_imdb):
    """image_set: a file of ImageSets/Main; devkit_path: the folder that holds VOC<year>."""

    def __init__(self, image_set, year, devkit_path=None):
        self._year = str(year)
        devkit_path = devkit_path or os.path.join(cfg.DATA_DIR, 'VOCdevkit' + self._year)
        layout = VocLayout(os.path.join(devkit_path, 'VOC' + self._year))
        ids = read_image_set(
            os.path.join(layout.sets_dir, image_set + '.txt'),
            f'The VOC devkit of {self._year}, or a link to it, is expected in {devkit_path}',
        )
        super().__init__(f'voc_{self._year}_{image_set}', image_set, CLASSES, layout, ids, base=1)

    @property
    def use_07_metric(self):
        """11 points until 2009, the area under the curve since."""
        return int(self._year) < 2010

    def class_index(self, name):
        return super().class_index(name.lower())

    def results_dir(self, output_dir):
        """As VOC's server wants them packed."""
        return os.path.join(output_dir, 'results', 'VOC' + self._year, 'Main')
