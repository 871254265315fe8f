"""Pictures that a net is to look at: files, folders, patterns, frames of videos and cameras; and names for what is made of each."""

import glob
import itertools
import os
from typing import NamedTuple

import cv2
import numpy as np

from utils.blob import read_upright

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')


class Frame(NamedTuple):
    """A picture, or one of a video, which has a number, from 0."""

    path: str
    number: int | None
    image: np.ndarray


def pictures(names, extensions=EXTENSIONS):
    """The files among `names`: folders replaced by those in them with such an ending, and patterns (*, ?, [..], ** for
    folders within folders), where no file has that name, by what they fit."""
    for name in names:
        if os.path.isdir(name):
            inside = glob.glob(os.path.join(glob.escape(name), '*'))
            yield from sorted(path for path in inside if path.lower().endswith(extensions)) or [name]
        elif glob.has_magic(name) and not os.path.exists(name):
            yield from sorted(filter(os.path.isfile, glob.glob(name, recursive=True))) or [name]
        else:
            yield name


def stems(paths):
    """A name for each path, all different: its own without an ending, numbered where it is taken."""
    taken = set()
    for path in paths:
        stem = os.path.splitext(os.path.basename(os.path.normpath(path)))[0]
        names = itertools.chain([stem], (f'{stem}_{i}' for i in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield name


def frames(path, every=1):
    """The Frame of a picture, or each `every`th of a video; of a camera ('0', the first one) or a stream (rtsp://...) without end.
    OSError: it cannot be read."""
    streamed = '://' in path or (path.isdigit() and not os.path.exists(path))
    if not streamed and not path.lower().endswith(VIDEOS):
        yield Frame(path, None, read_upright(path))
        return
    if not streamed and not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: no such file')
    video, number = cv2.VideoCapture(int(path) if streamed and path.isdigit() else path), 0
    try:
        while video.grab():
            if number % every == 0:
                read, image = video.retrieve()
                if not read:
                    raise OSError(f'{path}: frame {number} cannot be read')
                yield Frame(path, number, image)
            number += 1
    finally:
        video.release()
    if not number:
        raise OSError(f'{path}: not a video or camera that can be read')
