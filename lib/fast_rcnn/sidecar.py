"""The small file beside a trained model that lets it be handed on without its dataset: <model>.classes.json.

{"classes": names, background first; "cfg": the settings that pictures must be prepared by, and that say what is kept, as --set
takes them; "prototxt": the test net's file, from the folder of the model: <model>.prototxt, unless it says otherwise}
"""

import dataclasses
import json
import os

import numpy as np

from fast_rcnn.config import DEFAULTS, cfg
from utils.files import atomic_path, read_text

# Of a test's settings, those that say how it is done: what is found is the same
HOW = 'HAS_RPN', 'PROPOSAL_METHOD', 'IMS_PER_BATCH', 'DETECTIONS_PKL', 'COCO_STYLE'
SETTINGS = ('PIXEL_MEANS', *(f'TEST.{key}' for key in DEFAULTS['TEST'] if key not in HOW))


@dataclasses.dataclass
class Sidecar:
    """Answers name, classes, class_names and num_classes as an imdb does. cfg: setting -> value. prototxt: the path of the
    model's test net."""

    name: str
    classes: tuple
    cfg: dict
    prototxt: str = ''

    @property
    def class_names(self):
        return self.classes

    @property
    def num_classes(self):
        return len(self.classes)


def sidecar_path(model):
    """a/b.caffemodel -> a/b.classes.json."""
    return os.path.splitext(model)[0] + '.classes.json'


def prototxt_path(model):
    """a/b.caffemodel -> a/b.prototxt."""
    return os.path.splitext(model)[0] + '.prototxt'


def write_sidecar(model, imdb, prototxt=None):
    """Write the sidecar of a model trained on imdb under today's cfg, and, beside it, what lies at `prototxt`, its test net;
    returns its path."""
    if prototxt:
        text = read_text(prototxt)
        with atomic_path(prototxt_path(model)) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
            stream.write(text)
    content = {
        'classes': list(imdb.class_names),
        'cfg': {name: _setting(name) for name in SETTINGS},
        'prototxt': os.path.basename(prototxt_path(model)),
    }
    path = sidecar_path(model)
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        json.dump(content, stream, ensure_ascii=False, indent=1)
    return path


def read_sidecar(model):
    """The Sidecar of a model. Errors: no such file; a file of another form (ValueError)."""
    path = sidecar_path(model)
    with open(path, encoding='utf-8') as stream:
        try:
            content = json.load(stream)
            settings = {name: content['cfg'][name] for name in content['cfg'] if name in SETTINGS}
            classes = tuple(str(name) for name in content['classes'])
            prototxt = str(content.get('prototxt') or os.path.basename(prototxt_path(model)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}: wanted {{"classes": [...], "cfg": {{...}}}} ({error!r})') from None
    return Sidecar(path, classes, settings, os.path.join(os.path.dirname(path), prototxt))


def _setting(name):
    value = cfg
    for part in name.split('.'):
        value = value[part]
    return np.asarray(value).tolist()
