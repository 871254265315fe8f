"""Small lists that a recipe needs, which tools/fetch.py downloads to their place."""

import os
from typing import NamedTuple


class Listed(NamedTuple):
    """path: its place below data/. lines: how many, and line i is `<name> <i>`: nothing else is known of it that would tell
    whether it is whole."""

    about: str
    page: str
    licence: str
    url: str
    path: str
    lines: int


RCNN = 'https://github.com/rbgirshick/rcnn'
AT = 'https://raw.githubusercontent.com/rbgirshick/rcnn/ffcc484e3be5cdf174e6ec58ccbc7a92de2331af/imdb/data-splits/det_lists/'


def _half(number, lines):
    return Listed(
        f"val{number} of ILSVRC DET: R-CNN's half of the validation images, less those of the blacklist",
        f'{RCNN}, data/splits/ilsvrc13/val{number}.txt.tgz',
        "R-CNN's, in its LICENSE",
        f'{AT}val{number}.txt',
        f'ImageNet2015/ImageSets/DET/val{number}.txt',
        lines,
    )


LISTS = {'imagenet_val1': _half(1, 9887), 'imagenet_val2': _half(2, 9917)}


def list_fault(path, wanted):
    """What is wrong with a list of so many lines, or None."""
    with open(path, encoding='utf-8', errors='replace') as stream:
        lines = [line.split() for line in stream]
    if len(lines) != wanted:
        return f'wanted {wanted:,} lines, got {len(lines):,}'
    wrong = [i for i, words in enumerate(lines, 1) if len(words) != 2 or words[1] != str(i)]
    return f'line {wrong[0]}: wanted `<name> {wrong[0]}`' if wrong else None


def place(listed, data):
    return os.path.join(data, listed.path)
