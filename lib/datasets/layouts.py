"""Where a dataset's images, annotations and image sets lie under its root: the VOC and the ILSVRC DET layout.

A layout has sets_dir, sets() (names of the image sets found there), image(id), annotation(id). Both raise or
name a path that does not exist when a file is missing; nothing is skipped.
"""

import glob
import os
import re

EXTENSIONS = ('.jpg', '.jpeg', '.JPEG', '.JPG', '.png', '.PNG', '.bmp', '.BMP')


class VocLayout:
    """JPEGImages/ID.jpg (or another of EXTENSIONS), Annotations/ID.xml, ImageSets/Main/SET.txt"""

    default_base = None  # guessed from the boxes: see annotations.guess_base

    def __init__(self, root, split=''):
        self.root = root
        self.sets_dir = os.path.join(root, 'ImageSets', 'Main')

    def sets(self):
        """Image sets, without VOC's lists per class (lines 'ID -1', 'ID 0' or 'ID 1')."""
        return [name for name in _stems(self.sets_dir) if not self._is_class_list(name)]

    def image(self, image_id):
        return find_image(os.path.join(self.root, 'JPEGImages', image_id))

    def annotation(self, image_id):
        return os.path.join(self.root, 'Annotations', image_id + '.xml')

    def _is_class_list(self, name):
        with open(os.path.join(self.sets_dir, name + '.txt'), encoding='utf-8-sig') as stream:
            return re.search(r'\s(-1|0|1)$', stream.readline().rstrip()) is not None


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

    def sets(self):
        """Image sets, without ILSVRC's lists per class (train_1 ... train_200)."""
        return [name for name in _stems(self.sets_dir) if not re.fullmatch(r'train_\d+', name)]

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


LAYOUTS = {'voc': VocLayout, 'imagenet': ImagenetLayout}


def find_image(stem, extensions=EXTENSIONS):
    """The image file whose path without extension is stem."""
    for extension in extensions:
        if os.path.exists(stem + extension):
            return stem + extension
    raise FileNotFoundError(f'{stem}: no such image, with any of the extensions {" ".join(EXTENSIONS)}')


def read_image_set(path, hint=''):
    """Image ids of a text file: one a line, a number after it (index or flag) ignored. At least one."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such image set.{" " * bool(hint)}{hint}')
    with open(path, encoding='utf-8-sig') as stream:
        ids = [re.sub(r'\s+-?\d+$', '', line.strip()) for line in stream if line.strip()]
    if not ids:
        raise ValueError(f'{path}: an image set without images')
    return ids


def _stems(folder):
    return sorted(name[: -len('.txt')] for name in glob.glob('*.txt', root_dir=folder))
