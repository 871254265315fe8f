"""The layout of ILSVRC DET."""

import os
import re

from datasets.readers.images import EXTENSIONS, find_image, image_ids, set_names


class ImagenetLayout:
    """Data/DET/FOLDER/ID.JPEG (or another of EXTENSIONS), Annotations/DET/FOLDER/ID.xml,
    ImageSets/DET/SET.txt

    FOLDER is train, val or test. ILSVRC's own ids say which (ILSVRC2012_val_..., ILSVRC2014_train_0000/...).
    Others lie in the folder that their image set is named after (val1: val), or else in the only one that has
    the id.
    """

    default_base = 0

    def __init__(self, root, split=''):
        self.root = root
        self.sets_dir = os.path.join(root, 'ImageSets', 'DET')
        self._own_folder = re.sub(r'\d+$', '', split)

    def given(self):
        """{set: its list's path}: image sets, without ILSVRC's lists per class (train_1 ... train_200)."""
        names = [name for name in set_names(self.sets_dir) if not re.fullmatch(r'train_\d+', name)]
        return {name: os.path.join(self.sets_dir, name + '.txt') for name in names}

    def ids(self):
        """Ids of all images, with their folder: FOLDER/ID."""
        return image_ids(os.path.join(self.root, 'Data', 'DET'))

    def image(self, image_id):
        return find_image(
            os.path.join(self.root, 'Data', 'DET', self.folder(image_id), image_id), ('.JPEG',) + EXTENSIONS
        )

    def annotation(self, image_id):
        """None for the 'extra' images of train: they are negatives and have no file."""
        if re.match(r'ILSVRC\d{4}_(DET_)?train_extra', image_id):
            return None
        return os.path.join(self.root, 'Annotations', 'DET', self.folder(image_id), image_id + '.xml')

    def folder(self, image_id):
        named = re.match(r'ILSVRC\d{4}_(?:DET_)?(train|val|test)(?![a-z])', image_id)
        if named:
            return named.group(1)
        held = [name for name in ('train', 'val', 'test', '') if self._holds(name, image_id)]
        if self._own_folder in held:
            return self._own_folder
        if not held:
            exists = os.path.isdir(os.path.join(self.root, 'Data', 'DET', self._own_folder))
            return self._own_folder if exists else ''
        if len(held) > 1:
            raise ValueError(
                f'{self.root}: image {image_id} lies in more than one of the folders '
                f'{", ".join(held)} of Annotations/DET; list it as FOLDER/{image_id}'
            )
        return held[0]

    def _holds(self, folder, image_id):
        return os.path.exists(os.path.join(self.root, 'Annotations', 'DET', folder, image_id + '.xml'))
