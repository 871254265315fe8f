"""ImageData: batches of image files."""

import torch

from ... import common
from ...proto import caffe_pb2
from ...registry import layer
from .batch import BatchLayer
from .transformer import decode_image, read_file


@layer('ImageData')
class ImageData(BatchLayer):
    """Tops data (N, K, h, w) and label (N,) of image files, resized to new_height, new_width where given.

    source: a text file with lines `path label`; root_folder is put before each path as it stands. shuffle: a
    new order each round. rand_skip: a number of lines below it is skipped in the first round. Several solvers
    all read all lines.
    """

    fields = (
        'source',
        'batch_size',
        'rand_skip',
        'shuffle',
        'new_height',
        'new_width',
        'is_color',
        'root_folder',
    )

    def samples(self, param, transformer):
        transformer.check_color(param.is_color)
        size = param.new_height, param.new_width
        if any(size) and not all(size):
            raise ValueError(f'new_height and new_width come together, got {size}')
        lines = read_list(param.source)
        if param.rand_skip > len(lines):
            raise ValueError(f'rand_skip {param.rand_skip}, but {param.source} has only {len(lines)} lines')
        alone = self.phase == caffe_pb2.TEST or common.solver_count() == 1
        if not (alone or param.shuffle or param.rand_skip):
            common.logger.warning(
                'layer %r: without shuffle or rand_skip all solvers see the same images', self.name
            )
        skip = transformer.draw(param.rand_skip) if param.rand_skip else 0
        files = [(param.root_folder + path, label) for path, label in lines]
        return file_samples(files, param.is_color, size, transformer, param.shuffle, skip)


def read_list(source):
    """[(path, label)] of a text file with lines `path label`, label an integer; errors name the line."""
    pairs = []
    with open(source, encoding='utf-8', errors='surrogateescape') as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                path, label = line.rsplit(None, 1)
                pairs.append((path, int(label)))
            except ValueError:
                raise ValueError(
                    f'{source}, line {number}: wanted a path and an integer label, got {line.strip()!r}'
                ) from None
    if not pairs:
        raise ValueError(f'{source} is empty; wanted are lines with a path and a label')
    return pairs


def file_samples(files, color, size, transformer, shuffle, skip):
    """Samples of [(path, label)], round and round, from number `skip` of the first round on."""
    count, generator = len(files), transformer.generator
    while True:
        order = torch.randperm(count, generator=generator).tolist() if shuffle else range(count)
        for i in order[skip:]:
            path, label = files[i]
            name = f'image {path}'
            image = decode_image(read_file(path), name, color, size)
            yield transformer(image.transpose(2, 0, 1), name), label, name
        skip = 0
