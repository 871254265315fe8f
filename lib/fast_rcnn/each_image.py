"""What a net answers to every image of an imdb: each rank looks at its images and writes a shard (utils.shards) as it
goes, which it goes on with after a stop. All ranks write to one folder.

While the net runs for some images, threads read those that follow, and one more finishes with those before.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Callable

import caffe
import cv2
import numpy as np
import torch
from caffe.parallel import barrier
from caffe.watch import beat, busy, waiting

from fast_rcnn.config import cfg, cfg_values
from utils.ahead import ahead, threads
from utils.blob import read_image
from utils.progress import progress
from utils.shards import Shard

log = logging.getLogger(__name__)

# Settings that no answer depends on
HARMLESS = 'ROOT_DIR', 'DATA_DIR', 'MODELS_DIR', 'MATLAB', 'EXP_DIR', 'GPU_ID', 'USE_GPU_NMS', 'TENSORBOARD'

READERS = 2  # threads that read images
AHEAD = 2  # images that each has under way or done
WINDOW = 4  # passes of several images that are made up together, images of like shape in one


@dataclasses.dataclass
class Steps:
    """What is done with an image: scale(im) by the threads that read; run(numbers, scaled) in this one, a pass of the
    net over one or more of them; finish(what that gave) -> the rows of each (n, C), by one more thread; show(im, rows)
    in this one again, None: nothing is shown. Of several images in a pass, a scaled one tells its `data.shape`."""

    scale: Callable
    run: Callable
    finish: Callable
    show: Callable | None = None


def each_image(net, imdb, stem, steps, columns, limit, title, *given):
    """Writes the rows (n, columns), n <= limit (0: any), of the images of this rank; returns once all ranks have. stem:
    of the shards. given: values that decide the answers, besides net, settings and images."""
    rank, count = caffe.solver_rank(), caffe.solver_count()
    mine = [(i, imdb.image_path_at(i)) for i in range(rank, imdb.num_images, count)]
    with busy(title):  # what is there already is looked through
        shard = Shard(stem, columns, _mark(net, mine, given), rank, count)
    with shard:
        if len(shard):
            log.info('%s: %d of %d images are done: %s', title, len(shard), len(mine), shard.path)
        left = len(mine) - len(shard)
        _warn_of_space(shard.path, left * count * max(limit, 0) * columns * 4)
        shown = f'{title}, by one of {count} workers' if count > 1 else title
        with contextlib.closing(answers(mine, steps, title, len(shard))) as found:
            for rows in progress(found, shown, left) if rank == 0 else found:
                shard.append(rows)
    with waiting():
        barrier()


def answers(images, steps, title, done=0):
    """The rows of images, pairs (number, path), in their order; of the first `done` they are known.

    The images of a pass are the same ones whatever is done, so that their padding is. Errors name the images.
    """
    size = cfg.TEST.IMS_PER_BATCH
    window = size * WINDOW if size > 1 else 1
    begin, found = done // window * window, {}
    with threads(READERS) as readers, threads(1, _own_stream) as finisher:
        read = ahead(functools.partial(_read, steps), images[begin:], readers, size + READERS * AHEAD)
        passes = _passes(enumerate(read, begin), size, window, done)
        under_way = (_run(images, steps, title, of_pass) for of_pass in passes)
        for ims, rows in ahead(functools.partial(_finish, images, steps), under_way, finisher, 2):
            new = ((place, (im, part)) for (place, im), part in zip(ims, rows, strict=True) if place >= done)
            found.update(new)
            while done in found:
                im, of_image = found.pop(done)
                if steps.show:
                    steps.show(im, of_image)
                done += 1
                yield of_image


def _read(steps, image):
    """(number, path) -> the image, if it is to be shown; what steps.scale makes of it."""
    with _naming(image[1]):
        im = read_image(image[1])
        return im if steps.show else None, steps.scale(im)


def _passes(read, size, window, done):
    """(place, (im, scaled)) in order -> lists of up to `size` of these, of a window those of like shape together, but
    for lists whose places are all below `done`."""
    while together := list(itertools.islice(read, window)):
        if window > 1:
            together.sort(key=lambda one: one[1][1].data.shape[-2:])
        of_passes = (together[i : i + size] for i in range(0, len(together), size))
        yield from (of_pass for of_pass in of_passes if max(place for place, _ in of_pass) >= done)


def _run(images, steps, title, of_pass):
    """-> the (place, im) of a pass, what steps.run gave."""
    numbers, paths = zip(*(images[place] for place, _ in of_pass))
    beat(title, numbers[0])
    with _naming(*paths):
        given = steps.run(numbers, [scaled for _, (_, scaled) in of_pass])
    return [(place, im) for place, (im, _) in of_pass], given


def _finish(images, steps, ran):
    """-> the (place, im) of a pass, the rows of each."""
    ims, given = ran
    with _naming(*(images[place][1] for place, _ in ims)):
        return ims, steps.finish(given)


def _own_stream():
    """What this thread computes on a GPU does not wait for what the net does there."""
    if caffe.common.device().type == 'cuda':
        torch.cuda.set_stream(torch.cuda.Stream(caffe.common.device()))


@contextlib.contextmanager
def _naming(*paths):
    """Errors within name these images."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{", ".join(paths)}: {error}') from error
    except (RuntimeError, cv2.error) as error:
        raise RuntimeError(f'{", ".join(paths)}: {error}') from error


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
