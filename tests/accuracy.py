#!/usr/bin/env python3
"""What refinement, voting, mirrored images, several scales and Soft-NMS give a trained detector, and what each costs.

    python tests/accuracy.py --def NET --net MODEL [MODEL ...] --imdb NAME_SPLIT [--images N] [--rows WORDS] [--set ...]

A row a way to test: AP50 and COCO's AP over the first N images, seconds an image (on the CPU, of one core: OMP_NUM_THREADS=1). Of several
models (the same net trained from other seeds) each figure is the mean, +- half the range. Scales are factors of
TEST.SCALES; a region is seen best at the geometric mean of the objects' sides (--side).
"""

import argparse
import json
import os
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, 'tools'), os.path.join(ROOT, 'lib')]
import _command  # noqa: E402

VOTED = {'TEST.VOTE': 0.5}
REFINED = {'TEST.REFINE': 1}
FLIPPED = {'TEST.FLIP': True}
SOFT = {'TEST.SOFT_NMS': 'gaussian'}


def rows(short, factors, side):
    """{title: settings} of the ways to test, for images of this short side."""
    scales = {
        'TEST.REGION_SCALES': [round(short * factor) for factor in factors],
        'TEST.REGION_SIDE': float(side),
    }
    return {
        'plain': {},
        'voting': VOTED,
        'Soft-NMS': SOFT,
        'Soft-NMS, linear': {'TEST.SOFT_NMS': 'linear'},
        'refinement': REFINED,
        'refinement, voting': {**REFINED, **VOTED},
        'flips': FLIPPED,
        'scales': scales,
        'scales, mean': {**scales, 'TEST.REGION_MERGE': 'mean'},
        'scales, proposals joined': {**scales, 'TEST.JOIN_PROPOSALS': True},
        'scales, flips': {**scales, **FLIPPED},
        'all': {**REFINED, **VOTED, **scales, **FLIPPED},
        'all, proposals joined': {**REFINED, **VOTED, **scales, **FLIPPED, 'TEST.JOIN_PROPOSALS': True},
    }


def object_side(imdb, images):
    """The geometric mean of the sides of objects, where the images have the scale of cfg.TEST."""
    from fast_rcnn.inputs import image_blob
    from utils.blob import read_image

    sides = []
    for i in range(images):
        entry = imdb.roidb[i]
        _, (scale, *_) = image_blob(read_image(imdb.image_path_at(i)))
        boxes = entry['boxes'][entry['gt_classes'] > 0]
        sides.extend(np.log(np.sqrt((boxes[:, 2:] - boxes[:, :2] + 1).prod(1)) * scale))
    return np.exp(np.mean(sides))


def measured(net, imdb, images, ways):
    """{title: (AP50, AP, seconds an image)}; each image is tested in all ways in turn."""
    from caffe import common
    from fast_rcnn.config import overrides
    from utils.progress import progress

    found = {title: [] for title in ways}
    seconds = dict.fromkeys(ways, 0.0)
    clock = time.process_time if common.device().type == 'cpu' else time.perf_counter
    for i in progress(range(images), f'{net.name} on {imdb.name}', images):
        for title, settings in ways.items():
            begin = clock()
            with overrides(settings):
                found[title].append(detected(net, imdb, i))
            seconds[title] += clock() - begin
    return {title: (*scored(imdb, of_way), seconds[title] / images) for title, of_way in found.items()}


def detected(net, imdb, i):
    """Per class (n, 5) of image i."""
    from fast_rcnn.config import cfg
    from fast_rcnn.detection import ask, by_number
    from fast_rcnn.inputs import looked_at_image
    from fpn.boxes import family_of_net
    from utils.blob import read_image

    family, entry = family_of_net(net), imdb.roidb[i]
    image = looked_at_image(read_image(imdb.image_path_at(i)), family)
    given = None if cfg.TEST.HAS_RPN else [entry['boxes'][entry['gt_classes'] == 0]]
    (answer,) = ask(net, [image], given)()
    dets, classes = answer.best(cfg.TEST.MAX_PER_IMAGE, cfg.TEST.SCORE_THRESH)
    dets = np.hstack([family.datasets(dets[:, :4]), dets[:, 4:]])
    return by_number(dets, classes, imdb.num_classes)


def scored(imdb, found):
    """AP50 and AP, COCO's, of the detections found[image][class]."""
    from datasets.evaluators import coco

    all_boxes, numbers = list(zip(*found)), range(len(found))
    categories = {k: k for k in range(1, imdb.num_classes)}
    truth = coco.of_truth(imdb.truth, imdb.num_classes)
    stats = coco.evaluate(truth, coco.results(all_boxes, numbers, categories), numbers, categories).stats
    return float(stats[1]), float(stats[0])


def table(figures):
    """The lines of a Markdown table of {title: [(AP50, AP, seconds) of each model]}."""
    lines = ['| | AP50 | AP | s/image |', '|---|---|---|---|']
    for title, of_models in figures.items():
        values = np.array(of_models)
        spread = np.ptp(values, 0) / 2
        some = [f' ±{s:.4f}' if len(values) > 1 else '' for s in spread]
        ap50, ap, seconds = values.mean(0)
        lines.append(f'| {title} | {ap50:.4f}{some[0]} | {ap:.4f}{some[1]} | {seconds:.2f} |')
    return lines


def main():
    args = parse_args()
    _command.start_log()
    cfg = _command.load_cfg(args)
    data = _command.get_imdb(args.imdb)
    if not cfg.TEST.HAS_RPN:
        _command.set_proposals(data, cfg.TEST.PROPOSAL_METHOD)
    images = min(args.images or data.num_images, data.num_images)
    side = args.side or object_side(data, images)
    ways = rows(cfg.TEST.SCALES[0], args.factors, side)
    if args.rows:
        ways = {title: ways[title] for title in args.rows}
    of_models = [
        measured(_command.load_named(args.prototxt, path), data, images, ways) for path in args.weights
    ]
    figures = {title: [of_model[title] for of_model in of_models] for title in ways}
    print(f'{data.name}: {images} images, regions seen best at {side:.0f} pixels')
    print('\n'.join(table(figures)))
    if args.json:
        with open(args.json, 'w') as stream:
            json.dump(figures, stream, indent=1)


def parse_args():
    flags = 'gpu', 'def', 'imdb', 'cfg', 'precision'
    parser = _command.parser(__doc__, *flags, required=('def', 'imdb'))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _command.add(parser, 'net', nargs='+', required=True)
    parser.add_argument('--images', type=int, metavar='N', help='the first N images (default: all)')
    parser.add_argument('--rows', nargs='+', metavar='TITLE', help='those ways alone')
    parser.add_argument('--factors', type=float, nargs='+', default=[0.8, 1, 1.25], metavar='F')
    parser.add_argument('--side', type=float, metavar='PIXELS', help='TEST.REGION_SIDE')
    parser.add_argument('--json', metavar='FILE', help='the figures, too')
    _command.add(parser, 'set')
    return parser.parse_args()


if __name__ == '__main__':
    _command.run(main)
