#!/usr/bin/env python3
"""Public weights, lists and datasets: what there is, and from where; weights are downloaded and converted to a .caffemodel.

    tools/fetch.py --list               what there is, and what of it lies here
    tools/fetch.py --list resnet50      all that is known of one
    tools/fetch.py resnet50             to data/imagenet_models/ResNet-50-torchvision.caffemodel
    tools/fetch.py imagenet_val2        to its place below data/

A download that was cut off is gone on with by the same command. A file that lies where it would be put is checked and
converted without one: where an address no longer answers, put the file there, or name another address with --url. Datasets are
not downloaded, most want registration or a licence accepted: their names say where they are, and check what lies here.
"""

import argparse
import os

import _command

from fast_rcnn.config import cfg
from netgen.backbones import starting_from
from public.check import missing, show
from public.lists import LISTS, list_fault, place
from public.sources import SOURCES
from public.weights import WEIGHTS
from utils.download import download, file_fault

NAMES = [*WEIGHTS, *LISTS, *SOURCES]


def main(argv=None):
    args = parse_args(argv)
    if args.list:
        print('\n'.join(described(args.name, args.data) if args.name else listed(args.data)))
    elif args.name in LISTS:
        fetch_list(LISTS[args.name], args)
    elif args.name in SOURCES:
        return 0 if show(args.name, SOURCES[args.name], args.data) else 1
    else:
        fetch_weights(WEIGHTS[args.name], args)


def parse_args(argv):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument('name', nargs='?', choices=NAMES, metavar='NAME', help=', '.join(NAMES))
    parser.add_argument('--list', action='store_true', help='say what there is, or what is known of NAME')
    parser.add_argument('--url', help='another address of the file')
    parser.add_argument('--data', default=cfg.DATA_DIR, metavar='FOLDER', help='default: the data folder')
    parser.add_argument('--cfg', metavar='FILE', help='as for tools/import_weights.py')
    args = parser.parse_args(argv)
    if not args.name and not args.list:
        parser.error('a NAME is wanted, or --list')
    return args


def fetch_weights(public, args):
    """Downloads weights, unless they lie here, and converts them."""
    import import_weights

    path = file_of(public, args.data)
    fetched(public, path, args.url)
    target = os.path.join(args.data, public.target) if public.target else None
    arguments = [path, *([target] if target else []), *public.arguments]
    import_weights.main(arguments + (['--cfg', args.cfg] if args.cfg else []))


def fetch_list(row, args):
    """Downloads a list, unless it lies here; ValueError where it is not what it should be."""
    path = place(row, args.data)
    if not os.path.exists(path):
        got_or_told(args.url or row.url, path, f'have it from {row.page}, and put it at {path}')
        fault = list_fault(path, row.lines)
        if fault:
            os.remove(path)
            raise ValueError(f'{args.url or row.url}: {fault}; what came is not kept')
    fault = list_fault(path, row.lines)
    if fault:
        raise ValueError(f'{path}: {fault}; remove it, to have it downloaded')
    print(f'{path}: {row.lines:,} lines')


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
    got_or_told(url, path, by_hand, public.size, public.digest)


def got_or_told(url, path, by_hand, size=None, digest=None):
    """download, whose OSError says what to do by hand."""
    try:
        download(url, path, size, digest)
    except ConnectionError as error:
        raise OSError(f'{error}; the same command goes on from there') from error
    except OSError as error:
        raise OSError(f'{error}. Or {by_hand}') from error


# ------------------------------------------------------------------------------------ what there is


def listed(data):
    """All names, by what becomes of them, and of weights the nets that they fit."""
    yield 'Weights, downloaded and converted by tools/fetch.py NAME:'
    for name, public in WEIGHTS.items():
        size = f'{public.size:,} bytes' if public.size else 'size not known'
        yield line(name, state_of_file(public, data), f'{public.about}; {size}')
        yield line('', '', f'for {", ".join(starting_from(public.becomes))}')
    yield 'Lists, downloaded to their place:'
    for name, row in LISTS.items():
        yield line(name, state_of_list(row, data), f'{row.about} ({row.lines:,} lines)')
    yield 'Datasets and archives of weights, not downloaded (tools/fetch.py NAME says where, and checks what lies here):'
    for name, source in SOURCES.items():
        yield line(name, state_of_source(source, data), source.about)
        if source.fits:
            yield line('', '', f'for {source.fits}')


def line(name, state, about):
    return f'  {name:24} {state:10} {about}'


def state_of_file(public, data):
    path = file_of(public, data)
    if not os.path.exists(path):
        return 'by hand' if public.url is None else 'not here'
    return 'WRONG' if file_fault(path, public.size, public.digest) else 'here'


def state_of_list(row, data):
    path = place(row, data)
    if not os.path.exists(path):
        return 'not here'
    return 'WRONG' if list_fault(path, row.lines) else 'here'


def state_of_source(source, data):
    lacking = missing(source, data)
    if not lacking:
        return 'here'
    return 'not here' if len(lacking) == len(source.lies) else 'in part'


def described(name, data):
    """What there is to know of one, in lines."""
    if name in SOURCES:
        show(name, SOURCES[name], data)
        return
    row = WEIGHTS.get(name) or LISTS[name]
    yield f'{name}: {row.about}'
    yield f'  from     {row.url or row.page}'
    yield f'  page     {row.page}'
    yield f'  licence  {row.licence or "not known: see its page"}'
    if name in LISTS:
        yield f'  lines    {row.lines:,}'
        path = place(row, data)
        fault = os.path.exists(path) and list_fault(path, row.lines)
    else:
        size = f'{row.size:,} bytes' if row.size else 'size not known'
        digest = f'{row.digest[0]} begins with {row.digest[1]}' if row.digest else 'digest not known'
        yield f'  file     {size}, {digest}'
        yield f'  fits     {", ".join(starting_from(row.becomes))}'
        path = file_of(row, data)
        fault = os.path.exists(path) and file_fault(path, row.size, row.digest)
    yield f'  {path}: {fault or ("here" if os.path.exists(path) else "not here")}'


if __name__ == '__main__':
    _command.run(main)
