"""get_image_size [-name_id_file FILE] ROOT/ LIST OUT: lines `name height width` of the images that LIST names.

LIST has lines `image` or `image annotations`; a name is the file's without folder and suffix, or the number that FILE's
lines `name number` give it. It is what save_output_param and detection_evaluate_param read as name_size_file.
"""

import argparse
import os
import sys

from PIL import Image, UnidentifiedImageError

from .format.files import atomic_write, read_text


def size_line(path, numbers):
    """The line of one image file."""
    name = os.path.splitext(os.path.basename(path))[0]
    if numbers is not None and name not in numbers:
        raise ValueError(f'{name} is not in -name_id_file')
    try:
        with Image.open(path) as image:
            width, height = image.size
    except UnidentifiedImageError as error:
        raise ValueError(str(error)) from None
    return f'{name if numbers is None else numbers[name]} {height} {width}\n'


def main(argv=None):
    parser = argparse.ArgumentParser(prog='get_image_size', allow_abbrev=False, description=__doc__)
    parser.add_argument('-name_id_file', '--name_id_file', default='')
    for name in ('root', 'list', 'out'):
        parser.add_argument(name)
    args = parser.parse_args(argv)
    try:
        numbers = None
        if args.name_id_file:
            numbers = dict(line.split() for line in read_text(args.name_id_file, 'names').splitlines())
        images = [line.split()[0] for line in read_text(args.list, 'list').splitlines() if line.strip()]
        text = ''.join(size_line(args.root + path, numbers) for path in images)
        with atomic_write(args.out) as path, open(path, 'w') as f:
            f.write(text)
    except (OSError, ValueError) as error:
        sys.exit(f'get_image_size: {error}')


if __name__ == '__main__':
    main()
