"""The layout of PASCAL VOC."""

import os
import re

from datasets.readers.images import find_image, image_ids, set_names
from utils.files import read_text


class VocLayout:
    """JPEGImages/ID.jpg (or another of EXTENSIONS), Annotations/ID.xml, ImageSets/Main/SET.txt

    Where there is neither of the first two, files lie beside images, in root or, an ID being FOLDER/NAME, in folders of it; these
    are then the image sets, if there are no others: so do labelImg and Roboflow leave them."""

    default_base = None  # guessed from the boxes: see boxes.guess_base

    def __init__(self, root, split=''):
        self.root = root
        self.sets_dir = os.path.join(root, 'ImageSets', 'Main')
        beside = not any(os.path.isdir(os.path.join(root, name)) for name in ('JPEGImages', 'Annotations'))
        self.images, self.annotations = (
            root if beside else os.path.join(root, name) for name in ('JPEGImages', 'Annotations')
        )
        self.beside = beside

    def given(self):
        """{set: its list's path, or its ids}: image sets, without VOC's lists per class (lines 'ID -1', 'ID 0' or 'ID 1')."""
        names = [name for name in set_names(self.sets_dir) if not self._is_class_list(name)]
        if names or not self.beside:
            return {name: os.path.join(self.sets_dir, name + '.txt') for name in names}
        sets = {}
        for image_id in self.ids():
            folder = image_id.rpartition('/')[0]
            if folder and os.path.exists(self.annotation(image_id)):
                sets.setdefault(folder.replace('/', '_'), []).append(image_id)
        return sets

    def ids(self):
        """Ids of all images."""
        return image_ids(self.images)

    def image(self, image_id):
        return find_image(os.path.join(self.images, image_id))

    def annotation(self, image_id):
        return os.path.join(self.annotations, image_id + '.xml')

    def _is_class_list(self, name):
        first = read_text(os.path.join(self.sets_dir, name + '.txt')).partition('\n')[0]
        return re.search(r'\s(-1|0|1)$', first.rstrip()) is not None
