#!/usr/bin/env python3
"""How long a large annotation file of COCO's format takes to read, and in how much memory.

    python tests/coco_scale.py FOLDER [--images 50000]

Writes the file to the folder where it is not there yet, drawn by chance: seven objects an image, masks of 22 corners, as
COCO's train2017 has them on average. Run it again for the figures of what is kept in FOLDER/cache.
"""

import argparse
import json
import os
import resource
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CATEGORIES = [{'id': k, 'name': f'class {k}'} for k in range(1, 81)]


def write(path, images, corners=22, seed=0):
    """An annotation file of so many images, and corners of a mask."""
    random = np.random.default_rng(seed)
    rows, objects = [], []
    for number in range(1, images + 1):
        rows.append(
            {'id': number, 'file_name': f'{number:012d}.jpg', 'width': 640, 'height': 480, 'license': 3}
        )
        for box, mask in zip(*_drawn(random, random.integers(0, 15), corners)):
            category, crowd = int(random.integers(1, 81)), int(random.random() < 0.01)
            row = {
                'id': len(objects) + 1,
                'image_id': number,
                'category_id': category,
                'bbox': box,
                'iscrowd': crowd,
            }
            objects.append({**row, 'segmentation': [mask], 'area': round(box[2] * box[3] / 2, 4)})
    with open(path, 'w', encoding='utf-8') as stream:
        json.dump({'images': rows, 'annotations': objects, 'categories': CATEGORIES}, stream)


def _drawn(random, count, corners):
    boxes = np.hstack([random.uniform(0, 300, (count, 2)), random.uniform(2, 180, (count, 2))])
    return boxes.round(2).tolist(), random.uniform(0, 640, (count, 2 * corners)).round(2).tolist()


def usage(what):
    used, whole = resource.getrusage(resource.RUSAGE_SELF), open('/proc/self/statm')
    now = int(whole.read().split()[1]) * resource.getpagesize() >> 20
    print(
        f'{what}: {used.ru_utime + used.ru_stime:.1f} s of a core, {used.ru_maxrss >> 10} MiB at most, {now} now'
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder')
    parser.add_argument('--images', type=int, default=50000)
    args = parser.parse_args()
    sys.path[:0] = [os.path.join(ROOT, 'lib'), os.path.join(ROOT, 'caffe-fast-rcnn', 'python')]
    from datasets.coco_imdb import coco_imdb
    from fast_rcnn.config import cfg

    path, cfg.DATA_DIR = os.path.join(args.folder, f'{args.images}.json'), args.folder
    if not os.path.exists(path):
        write(path, args.images)
        print(f'{path}: {os.path.getsize(path) / 1e6:.0f} MB; once more for the figures')
        return
    usage('before')
    data = coco_imdb('large_train', 'train', path, 'images')
    usage('read')
    objects = sum(len(entry.objects) for entry in data.roidb)
    data.append_flipped_images()
    usage(f'a roidb of {len(data.roidb)} entries, {objects} objects twice')


if __name__ == '__main__':
    main()
