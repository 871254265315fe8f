"""Prints how many images a second the data layer serves against who reads them: nobody ahead, threads, processes.

python tests/loader_speed.py [--width 1000 --height 600] [--images 64] [--seconds 5] [--processes 1 2 4]
    [--set KEY VALUE ...]

The images are JPEGs of noise over a smooth picture, made in a temporary folder; each has 5 objects and 2000
proposals. Beside it: processor time for an image, of the thread that computes the net and of all threads and processes
together (which tells what a busy machine does not), and the seconds until the first minibatch is there.
"""

import argparse
import gc
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

import conftest  # noqa: F401  (the path)
import cv2
import numpy as np
from layer_runs import one_layer_net

from datasets.record import Record
from fast_rcnn.config import cfg, cfg_from_list, overrides
from roi_data_layer.roidb import add_bbox_regression_targets

FORMS = {'nobody ahead': {'USE_PREFETCH': False}, '2 threads': {'LOADER_WORKERS': 0}}
RPN = {'TRAIN.HAS_RPN': True, 'TRAIN.BBOX_REG': False, 'TRAIN.IMS_PER_BATCH': 1}
STAGES = {
    'RPN': (RPN, ['data', 'im_info', 'gt_boxes']),
    'Fast R-CNN': (
        {},
        ['data', 'rois', 'labels', 'bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights'],
    ),
}


def jpeg(path, width, height, random):
    smooth = cv2.resize(random.randint(0, 256, (9, 15, 3)).astype(np.float32), (width, height))
    noisy = smooth + random.randint(-8, 9, smooth.shape)
    cv2.imwrite(path, np.clip(noisy, 0, 255).astype(np.uint8))
    return path


def boxes(number, width, height, random):
    low = random.rand(number, 2) * (0.8 * width, 0.8 * height)
    return np.hstack([low, low + (10 + random.rand(number, 2) * (0.2 * width - 10, 0.2 * height - 10))])


def images(folder, number, width, height):
    """Records of that many images and of their mirror images."""
    random, size = np.random.RandomState(0), (width, height)
    records = [
        Record(
            boxes(5, *size, random),
            random.randint(1, 21, 5),
            21,
            image=jpeg(os.path.join(folder, f'{i}.jpg'), *size, random),
            width=width,
            height=height,
            proposals=boxes(2000, *size, random),
        )
        for i in range(number)
    ]
    return records + [record.mirrored() for record in records]


def measure(folder, roidb, tops, seconds):
    """-> images a second, processor seconds of this thread and of all for each, seconds until the first were there"""
    net = one_layer_net(
        pathlib.Path(folder), 'roi_data_layer.layer', 'RoIDataLayer', tops, "'num_classes': 21"
    )
    net.layers[0].set_roidb(roidb)
    start = time.perf_counter()
    net.forward()
    first = time.perf_counter() - start
    for _ in range(20):
        net.forward()
    start, own, everybody, number = time.perf_counter(), time.thread_time(), processor_seconds(), 0
    while time.perf_counter() - start < seconds:
        net.forward()
        number += len(net.layers[0].drawn)
    speed = number / (time.perf_counter() - start)
    return speed, (time.thread_time() - own) / number, (processor_seconds() - everybody) / number, first


def processor_seconds():
    """Of this process and its children so far."""
    ticks = 0
    for child in multiprocessing.active_children():
        with open(f'/proc/{child.pid}/stat') as stream:
            ticks += sum(map(int, stream.read().rpartition(')')[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf('SC_CLK_TCK')


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in ('width', 1000), ('height', 600), ('images', 64), ('seconds', 5):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--processes', type=int, nargs='*', default=[1, 2, 3, 4, 8])
    parser.add_argument('--set', dest='settings', nargs='+', default=[], metavar='KEY VALUE')
    args = parser.parse_args()
    cfg_from_list(args.settings)
    forms = {**FORMS, **{f'{n} process{"es" * (n > 1)}': {'LOADER_WORKERS': n} for n in args.processes}}
    cores = len(os.sched_getaffinity(0))
    print(f'JPEGs of {args.width} x {args.height}, TRAIN.SCALES {cfg.TRAIN.SCALES}, {cores} cores')
    with tempfile.TemporaryDirectory() as folder:
        roidb = images(folder, args.images, args.width, args.height)
        add_bbox_regression_targets(roidb)
        for stage, (settings, tops) in STAGES.items():
            for form, more in forms.items():
                with overrides({**settings, **{f'TRAIN.{key}': value for key, value in more.items()}}):
                    speed, own, everybody, first = measure(folder, roidb, tops, args.seconds)
                    gc.collect()  # its processes end
                print(
                    f'{stage:11} {form:12} {speed:6.1f} images/s, {1e3 * own:5.1f} ms an image here, '
                    f'{1e3 * everybody:5.1f} ms in all, the first after {first:.2f} s'
                )
                sys.stdout.flush()


if __name__ == '__main__':
    main()
