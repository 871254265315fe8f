"""Image files and image sets: finding them, their sizes, their ids."""

import glob
import os
import re

from PIL import Image, UnidentifiedImageError

EXTENSIONS = ('.jpg', '.jpeg', '.JPEG', '.JPG', '.png', '.PNG', '.bmp', '.BMP')


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


def image_size(path):
    """(width, height) of the image at path, as stored (EXIF rotation is not applied), from its header."""
    try:
        with Image.open(path) as image:
            return image.size
    except UnidentifiedImageError:
        raise OSError(f'{path}: not an image that can be read') from None


def set_names(folder):
    return sorted(name[: -len('.txt')] for name in glob.glob('*.txt', root_dir=folder))
