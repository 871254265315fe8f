"""compute_image_mean [-backend lmdb] DB [FILE.binaryproto]: the mean of a database's images, pixel by pixel.

FILE is what a transform_param's mean_file names. The mean of each channel goes to the log. The images have
one size.
"""

import argparse
import sys

import numpy as np

from .common import logger
from .format.database import BACKENDS, open_database, progress
from .types.sources.transformer import read_datum
from .format.files import atomic_write
from .proto import caffe_pb2


def mean_image(source, backend):
    """The mean (K, H, W), float64, of the Datums of a database. ValueError names a record of another size."""
    database = open_database(source, backend)
    total = 0
    for key, value in progress(database, len(database), 'images'):
        name = f'record {bytes(key).decode(errors="replace")!r} of {source}'
        image, _ = read_datum(value, name)
        if np.shape(total) not in ((), image.shape):
            raise ValueError(f'{name} has the shape {image.shape}, the records before it {total.shape}')
        total = total + image.astype(np.float64)
    return total / len(database)


def write_mean(path, mean):
    """A BlobProto file (1, K, H, W), with the four old size fields that all readers know."""
    channels, height, width = mean.shape
    blob = caffe_pb2.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel())
    with atomic_write(path) as temporary, open(temporary, 'wb') as f:
        f.write(blob.SerializeToString())


def main(argv=None):
    parser = argparse.ArgumentParser(prog='compute_image_mean', allow_abbrev=False, description=__doc__)
    parser.add_argument('-backend', '--backend', default='lmdb', choices=BACKENDS)
    parser.add_argument('db')
    parser.add_argument('file', nargs='?')
    args = parser.parse_args(argv)
    try:
        mean = mean_image(args.db, args.backend)
        if args.file:
            write_mean(args.file, mean)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f'compute_image_mean: {error}')
    for channel, value in enumerate(mean.mean((1, 2))):
        logger.info('mean_value of channel %d: %g', channel, value)


if __name__ == '__main__':
    main()
