"""The layout of PASCAL VOC."""

import os
import re

from datasets.readers.images import find_image, set_names


class VocLayout:
    """JPEGImages/ID.jpg (or another of EXTENSIONS), Annotations/ID.xml, ImageSets/Main/SET.txt"""

    default_base = None  # guessed from the boxes: see boxes.guess_base

    def __init__(self, root, split=''):
        self.root = root
        self.sets_dir = os.path.join(root, 'ImageSets', 'Main')

    def sets(self):
        """Image sets, without VOC's lists per class (lines 'ID -1', 'ID 0' or 'ID 1')."""
        return [name for name in set_names(self.sets_dir) if not self._is_class_list(name)]

    def image(self, image_id):
        return find_image(os.path.join(self.root, 'JPEGImages', image_id))

    def annotation(self, image_id):
        return os.path.join(self.root, 'Annotations', image_id + '.xml')

    def _is_class_list(self, name):
        with open(os.path.join(self.sets_dir, name + '.txt'), encoding='utf-8-sig') as stream:
            return re.search(r'\s(-1|0|1)$', stream.readline().rstrip()) is not None
