"""The small file beside a trained model that lets it be handed on without its dataset: <model>.classes.json.

{"classes": names, background first; "cfg": the settings that pictures must be prepared by, as --set takes them}
"""

import dataclasses
import json
import os

import numpy as np

from fast_rcnn.config import cfg
from utils.files import atomic_path

SETTINGS = ('PIXEL_MEANS', 'TEST.SCALES', 'TEST.MAX_SIZE')


@dataclasses.dataclass
class Sidecar:
    """Answers name, classes, class_names and num_classes as an imdb does. cfg: setting -> value."""

    name: str
    classes: tuple
    cfg: dict

    @property
    def class_names(self):
        return self.classes

    @property
    def num_classes(self):
        return len(self.classes)


def sidecar_path(model):
    """a/b.caffemodel -> a/b.classes.json."""
    return os.path.splitext(model)[0] + '.classes.json'


def write_sidecar(model, imdb):
    """Write the sidecar of a model trained on imdb under today's cfg; returns its path."""
    values = {name: _setting(name) for name in SETTINGS}
    path = sidecar_path(model)
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        json.dump({'classes': list(imdb.class_names), 'cfg': values}, stream, ensure_ascii=False, indent=1)
    return path


def read_sidecar(model):
    """The Sidecar of a model. Errors: no such file; a file of another form (ValueError)."""
    path = sidecar_path(model)
    with open(path, encoding='utf-8') as stream:
        try:
            content = json.load(stream)
            settings = {name: content['cfg'][name] for name in content['cfg'] if name in SETTINGS}
            classes = tuple(str(name) for name in content['classes'])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}: wanted {{"classes": [...], "cfg": {{...}}}} ({error!r})') from None
    return Sidecar(path, classes, settings)


def _setting(name):
    value = cfg
    for part in name.split('.'):
        value = value[part]
    return np.asarray(value).tolist()
