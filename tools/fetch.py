#!/usr/bin/env python3
"""Download public weights and convert them to a .caffemodel.

    tools/fetch.py --list               what there is, and what lies here
    tools/fetch.py resnet50             to data/imagenet_models/ResNet-50-torchvision.caffemodel

A download that was cut off is gone on with by the same command. A file that lies where it would be put is checked and
converted without one: where an address no longer answers, put the file there, or name another address with --url.
"""

import argparse
import os
from typing import NamedTuple

import _command
import import_weights

from fast_rcnn.config import cfg
from utils.download import download, file_fault

TORCHVISION = 'https://download.pytorch.org/models/'
PAGE = 'https://pytorch.org/vision/stable/models.html'
LICENCE = "torchvision's BSD-3-Clause; trained on {}, which has terms of its own"


class Public(NamedTuple):
    """file: its name. size in bytes and digest (algorithm, hexadecimal digits, all or the first): None where they are not
    known; so is an address that a program could download from. target: below data/, None: as import_weights has it."""

    about: str
    page: str
    licence: str
    file: str
    url: str = None
    size: int = None
    digest: tuple = None
    target: str = None
    arguments: tuple = ()  # of import_weights


def _torchvision(about, file, size=None, data='ImageNet', **more):
    """The names of torchvision's files end in the first digits of their sha256."""
    digest = 'sha256', file.rsplit('-', 1)[1].removesuffix('.pth')
    return Public(about, PAGE, LICENCE.format(data), file, TORCHVISION + file, size, digest, **more)


WEIGHTS = {
    'resnet18': _torchvision('ResNet-18, ImageNet', 'resnet18-f37072fd.pth', 46830571),
    'resnet34': _torchvision('ResNet-34, ImageNet', 'resnet34-b627a593.pth'),
    'resnet50': _torchvision('ResNet-50, ImageNet (IMAGENET1K_V1)', 'resnet50-0676ba61.pth', 102530333),
    'resnet101': _torchvision('ResNet-101, ImageNet (IMAGENET1K_V1)', 'resnet101-63fe2227.pth'),
    'vgg16': _torchvision('VGG16, ImageNet', 'vgg16-397923af.pth'),
    'fasterrcnn_resnet50_fpn': _torchvision(
        'Faster R-CNN with ResNet-50 and FPN, COCO (COCO_V1), of the 80 classes that there are',
        'fasterrcnn_resnet50_fpn_coco-258fb6c6.pth',
        data='COCO',
        target='faster_rcnn_models/ResNet-50-FPN_coco.caffemodel',
        arguments=('--eps', '0', '--coco'),
    ),
    'maskrcnn_resnet50_fpn': _torchvision(
        'Mask R-CNN with ResNet-50 and FPN, COCO (COCO_V1), of the 80 classes that there are',
        'maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth',
        data='COCO',
        target='faster_rcnn_models/ResNet-50-FPN_masks_coco.caffemodel',
        arguments=('--eps', '0', '--coco'),
    ),
    'detnet59': Public(
        'DetNet-59, ImageNet',
        'https://github.com/guoruoqian/DetNet_pytorch, its README: Pretrained Model',
        'not known: see its page',
        'detnet59.pth',
    ),
}


def main(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument('name', nargs='?', choices=WEIGHTS, metavar='NAME', help=', '.join(WEIGHTS))
    parser.add_argument(
        '--list', action='store_true', help='say where each is from, and whether it lies here'
    )
    parser.add_argument('--url', help='another address of the file')
    parser.add_argument('--data', default=cfg.DATA_DIR, metavar='FOLDER', help='default: the data folder')
    parser.add_argument('--cfg', metavar='FILE', help='as for tools/import_weights.py')
    args = parser.parse_args(argv)
    if not args.name and not args.list:
        parser.error('a NAME is wanted, or --list')
    if args.list:
        for name in [args.name] if args.name else WEIGHTS:
            print(described(name, args.data))
        return
    public = WEIGHTS[args.name]
    path = file_of(public, args.data)
    fetched(public, path, args.url)
    target = os.path.join(args.data, public.target) if public.target else None
    arguments = [path, *([target] if target else []), *public.arguments]
    import_weights.main(arguments + (['--cfg', args.cfg] if args.cfg else []))


def file_of(public, data):
    """Where the file is put."""
    return os.path.join(data, 'imagenet_models', public.file)


def fetched(public, path, url=None):
    """Downloads the file to `path`, unless it lies there; ValueError where it is not as published, OSError where it cannot
    be had."""
    url = url or public.url
    if os.path.exists(path):
        fault = file_fault(path, public.size, public.digest)
        if fault:
            raise ValueError(f'{path}: {fault}; remove it, to have it downloaded')
        return
    by_hand = f'have it from {public.page}, put it at {path}, and this command converts it'
    if not url:
        raise OSError(f'{public.file}: no program can download it: {by_hand}')
    if not public.digest:
        print(f'{url}: no digest of it is known; it is taken as it comes')
    try:
        download(url, path, public.size, public.digest)
    except ConnectionError as error:
        raise OSError(f'{error}; the same command goes on from there') from error
    except OSError as error:
        raise OSError(f'{error}. Or {by_hand}') from error


def described(name, data):
    """What there is to know of a file."""
    public = WEIGHTS[name]
    path = file_of(public, data)
    size = f'{public.size:,} bytes' if public.size else 'size not known'
    digest = 'digest not known'
    if public.digest:
        digest = f'{public.digest[0]} begins with {public.digest[1]}'
    lies = 'not here'
    if os.path.exists(path):
        lies = file_fault(path, public.size, public.digest) or 'here'
    return '\n'.join(
        (
            f'{name}: {public.about}',
            f'  from     {public.url or public.page}',
            f'  licence  {public.licence}',
            f'  file     {size}, {digest}',
            f'  {path}: {lies}',
        )
    )


if __name__ == '__main__':
    _command.run(main)
