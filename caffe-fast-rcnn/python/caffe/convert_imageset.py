"""convert_imageset [flags] ROOT/ LIST DB: a database of the images that LIST names, for Data layers.

LIST has lines `path label`; ROOT is put before each path as it stands. Records have the keys 00000000_path
and so on, in the list's order. Flags as Caffe's, with one dash or two.
"""

import argparse
import os
import random
import re
import sys

import cv2
import numpy as np

from . import io
from .common import logger
from .format.database import BACKENDS, progress, write_database
from .types.sources.images import read_list
from .types.sources.transformer import decode_image, read_file
from .proto import caffe_pb2

SWITCHES = {
    'gray': 'store the images with one channel',
    'shuffle': 'in random order',
    'check_size': 'stop at an image of another size than the first',
    'encoded': 'store image files rather than pixels',
}


def parse(argv):
    parser = argparse.ArgumentParser(prog='convert_imageset', allow_abbrev=False, description=__doc__)
    return parsed(parser, SWITCHES, argv)


def parsed(parser, switches, argv):
    """The arguments of a program that makes a database of ROOT/ and LIST: with the flags that all have, and `switches`."""
    for name, text in switches.items():
        parser.add_argument(f'-{name}', f'--{name}', action='store_true', help=text)
    parser.add_argument('-backend', '--backend', default='lmdb', choices=BACKENDS)
    for name in ('resize_width', 'resize_height'):
        parser.add_argument(f'-{name}', f'--{name}', type=int, default=0, help='pixels; 0: as it is')
    parser.add_argument(
        '-encode_type',
        '--encode_type',
        default='',
        help="image format to store, png, jpg ...; '': with -encoded, each file's own",
    )
    for name in ('root', 'list', 'db'):
        parser.add_argument(name)
    args = parser.parse_args(list(plain_switches(argv, switches)))
    if bool(args.resize_width) != bool(args.resize_height) or min(args.resize_width, args.resize_height) < 0:
        parser.error('-resize_width and -resize_height come together and are positive')
    args.encoded = args.encoded or bool(args.encode_type)
    return args


def plain_switches(argv, switches):
    """-gray=true and -nogray, as gflags has them: -gray, and nothing."""
    for arg in argv:
        match = re.fullmatch(rf'--?(no)?({"|".join(switches)})(?:=(true|t|yes|y|1|false|f|no|n|0))?', arg)
        if match is None:
            yield arg
        elif ((match[3] or 'true') in ('true', 't', 'yes', 'y', '1')) != bool(match[1]):
            yield f'-{match[2]}'


def make_datum(path, label, args, size_of=None):
    """(Datum, (height, width, channels)) of one image file; size_of((height, width)) of an image gives that to store it
    in, by default -resize_height and -resize_width, 0: as it is."""
    data = read_file(path)
    image = decode_image(data, f'image {path}', not args.gray)
    size = size_of(image.shape[:2]) if size_of else (args.resize_height, args.resize_width)
    resized = all(size)
    if resized:
        image = cv2.resize(image, size[::-1]).reshape(*size, -1)
    if not args.encoded:
        return io.array_to_datum(image.transpose(2, 0, 1), label), image.shape
    suffix = os.path.splitext(path)[1][1:].lower()
    kind = args.encode_type or suffix
    same = kind == suffix or {kind, suffix} == {'jpg', 'jpeg'}
    if not (same and not resized and not args.gray):  # else the file itself is what is wanted
        data = encode(image, kind, path)
    return caffe_pb2.Datum(data=data.tobytes(), label=label, encoded=True), image.shape


def encode(image, kind, path):
    if not cv2.haveImageWriter(f'x.{kind}'):
        raise ValueError(f'image {path} cannot be stored as {kind!r}; say -encode_type png, jpg, ...')
    return np.asarray(cv2.imencode(f'.{kind}', image)[1])


def records(lines, args, make=make_datum):
    """The database's (key, value) for [(path, label)]; make(path, label, args): (message, (height, width, channels))."""
    first = None
    for i, (path, label) in enumerate(lines):
        message, shape = make(args.root + path, label, args)
        first = first or shape
        if args.check_size and shape != first:
            raise ValueError(f'image {args.root}{path} is {shape} (height, width, channels), not {first}')
        yield f'{i:08d}_{path}'.encode(errors='surrogateescape'), message.SerializeToString()


def convert(lines, args, make=make_datum):
    """Write the database of [(path, label)]."""
    if args.shuffle:
        random.shuffle(lines)
    logger.info('%d images', len(lines))
    write_database(args.db, args.backend, progress(records(lines, args, make), len(lines), 'images'))


def main(argv=None):
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        convert(read_list(args.list), args)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f'convert_imageset: {error}')


if __name__ == '__main__':
    main()
