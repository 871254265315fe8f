"""The small file beside a trained model that lets it be handed on without its dataset: <model>.classes.json.

{"classes": names, background first; "cfg": the settings that pictures must be prepared by (PIXEL_MEANS, TEST.SCALES ...), and
that say what is kept, as --set takes them; "prototxt": the test net's file, from the folder of the model: <model>.prototxt,
unless it says otherwise}

For who reads it, and not needed: "net" and "method"; "anchors", {layer: what they are}; "imdb" that it was
trained on; "digests", SHA-256 of "weights" and "prototxt"; "command" that made it; "metrics", {imdb: what a test gave}.
"""

import dataclasses
import json
import os
import shlex
import sys

import numpy as np
from caffe.format.prototxt import read_net

from datasets.writers import write_json
from fast_rcnn.config import DEFAULTS, cfg
from netgen.heads import PYRAMID_SCALES, RATIOS, SCALES
from utils.files import atomic_path, file_digest, read_text
from utils.param_str import parse_param_str
from utils.places import command

# Of a test's settings, those that say how it is done: what is found is the same
HOW = 'HAS_RPN', 'PROPOSAL_METHOD', 'IMS_PER_BATCH', 'DETECTIONS_PKL', 'COCO_STYLE'
ANCHORS = 'boxes', 'feat_stride', 'strides', 'scales', 'ratios'  # what layers that propose are told of them
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
    beside = prototxt_path(model)
    content = {
        'classes': list(imdb.class_names),
        'cfg': {name: _setting(name) for name in SETTINGS},
        'prototxt': os.path.basename(beside),
        'imdb': getattr(imdb, 'name', ''),
        'command': shlex.join([*command().split(), *sys.argv[1:]]),
        **(net_facts(beside) if os.path.isfile(beside) else {}),
        'digests': {
            name: file_digest(path)
            for name, path in (('weights', model), ('prototxt', beside))
            if os.path.isfile(path)
        },
        'metrics': {},
    }
    path = sidecar_path(model)
    write_json(path, content)
    return path


def net_facts(prototxt):
    """{net, method, anchors} of a test net's file, as the generator names nets."""
    net = read_net(prototxt)
    name, method, *_ = [*net.name.split(), '', '']
    given = {layer.name: parse_param_str(layer.python_param.param_str) for layer in net.layer}
    anchors = {
        layer: _anchors(params)
        for layer, params in given.items()
        if 'feat_stride' in params or 'strides' in params
    }
    return {'net': name, 'method': method, 'anchors': anchors}


def _anchors(params):
    """What a param_str says of anchors, and what the library has where it says nothing."""
    known = {
        'scales': list(PYRAMID_SCALES if 'strides' in params else SCALES),
        'ratios': list(RATIOS),
        **params,
    }
    return {key: known[key] for key in ANCHORS if key in known}


def proposes(prototxt):
    """Whether a test net makes its own proposals: TEST.HAS_RPN, of its inputs."""
    net = read_net(prototxt)
    return any('im_info' in layer.top for layer in net.layer if layer.type == 'Input')


def note_metrics(model, data):
    """Adds what the tests of an imdb gave, as data.reported has it, to the sidecar of a model, where there is one."""
    path = sidecar_path(model)
    if data.reported and os.path.isfile(path):
        content = read_content(path)
        boxes, *masks = data.reported
        found = {**boxes, **({'masks': masks[0]} if masks else {})}
        content['metrics'] = {**content.get('metrics', {}), data.name: found}
        write_json(path, content)


def read_content(path):
    """What a sidecar says. Errors: no such file; a file of another form (ValueError)."""
    try:
        content = json.loads(read_text(path))
        if not isinstance(content['classes'], list) or not isinstance(content['cfg'], dict):
            raise TypeError('values of other types')
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path}: wanted {{"classes": [...], "cfg": {{...}}}} ({error!r})') from None
    return content


def read_sidecar(model):
    """The Sidecar of a model. Errors: no such file; a file of another form (ValueError)."""
    path = sidecar_path(model)
    content = read_content(path)
    settings = {name: value for name, value in content['cfg'].items() if name in SETTINGS}
    classes = tuple(str(name) for name in content['classes'])
    prototxt = str(content.get('prototxt') or os.path.basename(prototxt_path(model)))
    return Sidecar(path, classes, settings, os.path.join(os.path.dirname(path), prototxt))


def _setting(name):
    value = cfg
    for part in name.split('.'):
        value = value[part]
    return np.asarray(value).tolist()
