#!/usr/bin/env python3
"""Make ready what a recipe in experiments/scripts needs, and print its settings as shell assignments.

Registers the dataset, writes the nets that are missing, finds the initial weights.
"""

import argparse
import os
import shlex

import _command
from _init_paths import ROOT

# Iterations of the published schedules: alternating optimization (four stages), end to end, Fast R-CNN
PUBLISHED = {
    'imagenet': ((320000,) * 4, 320000, 320000),
    'pascal_voc': ((80000, 40000, 80000, 40000), 70000, 40000),
}
# An own dataset that names no anchors gets those for objects of 32 to 512 pixels: it may have small ones
OWN_ANCHORS = {'scales': [2, 4, 8, 16, 32], 'ratios': [0.5, 1, 2]}
METHODS = ('faster_rcnn_alt_opt', 'faster_rcnn_end2end', 'fast_rcnn')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('net', help='e.g. ResNet-101')
    parser.add_argument('dataset', help='pascal_voc, imagenet, a YAML file, or the name of a registered one')
    parser.add_argument('method', choices=METHODS)
    args = parser.parse_args()
    _command.start_log()
    for name, value in prepare(args.net, args.dataset, args.method).items():
        print(f'{name}={shlex.quote(str(value))}')


def prepare(net, dataset, method):
    """{shell variable: value} of a recipe."""
    from datasets.factory import describe, is_path, register
    from netgen.backbones import BACKBONES
    from netgen.files import generate

    data = register(dataset) if is_path(dataset) else describe(dataset)
    own = data.name not in PUBLISHED
    iters = four_iterations(data.max_iters, len(data.splits[data.train])) if own else None
    anchors = data.anchors or (OWN_ANCHORS if own else None)
    generate(data.name, net, data.num_classes, anchors=anchors, max_iters=iters)
    cfg = cfg_file(data.name, method)
    return {
        'MODELS': os.path.join('models', data.name, net, method),
        'CFG': cfg,
        'STAGES': stages(cfg),
        'TRAIN_IMDB': data.train_imdb,
        'TEST_IMDB': data.test_imdb,
        'MAX_ITERS': ' '.join(map(str, iterations(data.name, iters)[METHODS.index(method)])),
        'WEIGHTS': '' if getattr(BACKBONES[net], 'scratch', False) else initial_weights(net),
    }


def cfg_file(dataset, method):
    """The settings of a method; alternating optimization may have a dataset's own."""
    own = os.path.join('experiments', 'cfgs', f'{dataset}.yml')
    if method == 'faster_rcnn_alt_opt' and os.path.exists(os.path.join(ROOT, own)):
        return own
    return os.path.join('experiments', 'cfgs', f'{method}.yml')


def stages(cfg):
    """1 where the settings test a Fast R-CNN net on another's proposals: it needs no second round; else 2."""
    import yaml

    with open(os.path.join(ROOT, cfg)) as f:
        return 2 if yaml.safe_load(f)['TEST']['HAS_RPN'] else 1


def four_iterations(given, images):
    """Iterations of the four training stages of an own dataset: as given, one or four, or by its images:
    each eight times, at least 2000, at most as published; half of that for the second RPN."""
    if given:
        given = given if isinstance(given, list) else [given]
        return tuple(given * (4 // len(given)))
    wanted = max(2000, 8 * images)
    rpn, fast_rcnn = (min(wanted, most) for most in PUBLISHED['pascal_voc'][0][:2])
    return rpn, fast_rcnn, rpn // 2, fast_rcnn


def iterations(dataset, four):
    """Iterations by method, each a tuple; `four` of the dataset's stages or None: the published schedule."""
    alt_opt, end2end, fast_rcnn = (
        (four, max(four), four[1]) if four else PUBLISHED.get(dataset, PUBLISHED['pascal_voc'])
    )
    return alt_opt, (end2end,), (fast_rcnn,)


def initial_weights(net):
    """The weights a net that is not trained from scratch starts from."""
    names = [os.path.join('data', 'imagenet_models', f'{net}{version}.caffemodel') for version in ('.v2', '')]
    for name in names:
        if os.path.exists(os.path.join(ROOT, name)):
            return name
    raise FileNotFoundError(
        f'{" or ".join(names)}: no such file. {net} starts from weights trained on '
        f"ImageNet: put its public .caffemodel there, or make one of torchvision's "
        f'weights with tools/import_weights.py. ResNet-10 needs none'
    )


if __name__ == '__main__':
    _command.run(main)
