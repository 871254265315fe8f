"""Image files and image sets: finding them, their sizes, their ids."""

import glob
import logging
import os
import re

from PIL import Image, UnidentifiedImageError

from utils.files import read_text

log = logging.getLogger(__name__)

EXIF_ORIENTATION = 0x0112
EXTENSIONS = ('.jpg', '.jpeg', '.JPEG', '.JPG', '.png', '.PNG', '.bmp', '.BMP')


def find_image(stem, extensions=EXTENSIONS):
    """The image file whose path without extension is stem."""
    for extension in extensions:
        if os.path.exists(stem + extension):
            return stem + extension
    raise FileNotFoundError(f'{stem}: no such image, with any of the extensions {" ".join(EXTENSIONS)}')


def read_image_set(path, hint=''):
    """Image ids of a text file: one a line, a number after it (index or flag) ignored. At least one.

    An id is the file's name without extension; one that has it is taken without, and that is logged.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such image set.{" " * bool(hint)}{hint}')
    lines = [re.sub(r'\s+-?\d+$', '', line.strip()) for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f'{path}: an image set without images')
    return without_extensions(path, lines)


def without_extensions(path, ids):
    """ids without an image's extension; path: where they come from."""
    wrong = [image_id for image_id in ids if image_id.endswith(EXTENSIONS)]
    if wrong:
        log.warning(
            '%s: %d of %d lines end in an extension (first: %s), which is left out: an image id has none',
            path,
            len(wrong),
            len(ids),
            wrong[0],
        )
    return [os.path.splitext(name)[0] if name.endswith(EXTENSIONS) else name for name in ids]


def image_size(path):
    """(width, height) of the image at path, as stored (EXIF rotation is not applied), from its header."""
    return _opened(path, lambda image: image.size)


def image_header(path):
    """Width and height, likewise, and the EXIF orientation, 1 where there is none."""
    return _opened(path, lambda image: (*image.size, _orientation(image)))


def _orientation(image):
    if image.format == 'PNG' and 'exif' not in image.info:  # else all its pixels would be read
        return 1
    found = image.getexif().get(EXIF_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _opened(path, ask):
    try:
        with Image.open(path) as image:
            return ask(image)
    except UnidentifiedImageError:
        raise OSError(f'{path}: not an image that can be read') from None
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise OSError(f'{path}: {getattr(error, "strerror", None) or error}') from None


def set_names(folder):
    """Names of the lists FOLDER/NAME.txt."""
    return sorted(name[: -len('.txt')] for name in glob.glob('*.txt', root_dir=folder))


def image_ids(folder):
    """Ids of all images in a folder and the folders in it: their paths from there, without extension."""
    found = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    ids = (os.path.relpath(os.path.splitext(path)[0], folder) for path in found if path.endswith(EXTENSIONS))
    return sorted(name.replace(os.sep, '/') for name in ids)
