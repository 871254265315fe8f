"""What a net answers to every image of an imdb: each rank looks at its images and writes a shard (utils.shards) as it
goes, which it goes on with after a stop. All ranks write to one folder."""

import hashlib
import logging
import os
import shutil

import caffe
import numpy as np
from caffe.watch import beat, busy, waiting
from caffe.parallel import barrier

from fast_rcnn.config import cfg_values
from utils.blob import read_image
from utils.progress import progress
from utils.shards import Shard

log = logging.getLogger(__name__)

# Settings that no answer depends on
HARMLESS = 'ROOT_DIR', 'DATA_DIR', 'MODELS_DIR', 'MATLAB', 'EXP_DIR', 'GPU_ID', 'USE_GPU_NMS'


def each_image(net, imdb, stem, answer, columns, limit, title, *given):
    """Writes answer(i, im) -> rows (n, columns), n <= limit (0: any), of the images i of this rank; returns once all
    ranks have. stem: of the shards. given: values that decide the answers, besides net, settings and images."""
    rank, count = caffe.solver_rank(), caffe.solver_count()
    mine = [(i, imdb.image_path_at(i)) for i in range(rank, imdb.num_images, count)]
    with busy(title):  # what is there already is looked through
        shard = Shard(stem, columns, _mark(net, mine, given), rank, count)
    with shard:
        if len(shard):
            log.info('%s: %d of %d images are done: %s', title, len(shard), len(mine), shard.path)
        left = mine[len(shard) :]
        _warn_of_space(shard.path, len(left) * count * max(limit, 0) * columns * 4)
        shown = f'{title}, by one of {count} workers' if count > 1 else title
        for i, path in progress(left, shown) if rank == 0 else left:
            beat(title, i)
            shard.append(answer(i, read_image(path)))
    with waiting():
        barrier()


def _mark(net, images, given):
    """A digest of all that decides the answers: the net and its weights, settings, the images' paths, given."""
    settings = {key: value for key, value in cfg_values().items() if key not in (*HARMLESS, 'TRAIN')}
    digest = hashlib.sha256(repr((sorted(settings.items()), images, given)).encode())
    for layer in net.layers:
        digest.update(layer.layer_param.SerializeToString(deterministic=True))
        for blob in layer.blobs:
            digest.update(np.ascontiguousarray(blob.data))
    return digest.digest()


def _warn_of_space(path, most):
    free = shutil.disk_usage(os.path.dirname(path)).free
    if most > free:
        log.warning('%s: up to %.3g GB are to be written, %.3g GB are free', path, most / 1e9, free / 1e9)
