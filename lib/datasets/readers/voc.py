"""The layout of PASCAL VOC."""

import os
import re

from datasets.readers.images import find_image, image_ids, set_names
from utils.files import read_text


class VocLayout:
    """JPEGImages/ID.jpg (or another of EXTENSIONS), Annotations/ID.xml, ImageSets/Main/SET.txt"""

    default_base = None  # guessed from the boxes: see boxes.guess_base

    def __init__(self, root, split=''):
        self.root = root
        self.sets_dir = os.path.join(root, 'ImageSets', 'Main')

    def sets(self):
        """Image sets, without VOC's lists per class (lines 'ID -1', 'ID 0' or 'ID 1')."""
        return [name for name in set_names(self.sets_dir) if not self._is_class_list(name)]

    def ids(self):
        """Ids of all images."""
        return image_ids(os.path.join(self.root, 'JPEGImages'))

    def image(self, image_id):
        return find_image(os.path.join(self.root, 'JPEGImages', image_id))

    def annotation(self, image_id):
        return os.path.join(self.root, 'Annotations', image_id + '.xml')

    def _is_class_list(self, name):
        first = read_text(os.path.join(self.sets_dir, name + '.txt')).partition('\n')[0]
        return re.search(r'\s(-1|0|1)$', first.rstrip()) is not None
