"""What lies in an output folder of one training: its stages, with their logs, its model, and the tests of its nets."""

import glob
import json
import os
import re
from typing import NamedTuple

import numpy as np

from fast_rcnn.sidecar import read_content
from pipeline.methods import METHODS


class Stage(NamedTuple):
    """name; records: of its log, by iteration; settings: of the manifest; seconds in all: {} and None where no manifest says that
    it was done; validations: [(iteration, mean AP)] of the tests while it was trained."""

    name: str
    records: list
    settings: dict
    seconds: float | None
    validations: list


class Test(NamedTuple):
    """net: its name; iteration: None where the name has none; imdb: its name; file: the detections."""

    net: str
    iteration: int | None
    imdb: str
    file: str


class Run(NamedTuple):
    """stages and tests, the latest last; data: the imdb trained on, by name; model: what the file beside the last model says
    (fast_rcnn.sidecar), {} where there is none."""

    title: str
    folder: str
    data: str
    stages: list
    tests: list
    model: dict


def last_run(path):
    """The records of the last run in a log that all runs append to: [{iteration, lr, smoothed_loss, ...}]."""
    records = _records(path)
    if not records:
        raise ValueError(f'{path}: no iteration in it')
    return records


def _records(path):
    """As last_run, of a log that may have none. A line without an end was being written when the training was killed."""
    with open(path) as stream:
        records = [json.loads(line) for line in stream if line.endswith('\n')]
    starts = [i for i in range(1, len(records)) if records[i]['iteration'] <= records[i - 1]['iteration']]
    return records[starts[-1] if starts else 0 :]


def running_mean(values, window):
    """The mean of the last `window` values (fewer at the start) at each place; what is nan does not count."""
    known = ~np.isnan(values)
    sums, counts = (
        np.cumsum(np.insert(of, 0, 0)) for of in (np.where(known, values, 0.0), known.astype(int))
    )
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    counts = counts[stop] - counts[start]
    return np.divide(sums[stop] - sums[start], counts, out=np.full(len(values), np.nan), where=counts > 0)


def read_run(path):
    """The Run of a folder, output/METHOD/NAME_SPLIT, or of one of several recipes' in it, by its manifest <net>_<method>.json;
    of a folder with several: the last that went on. What no other manifest has counts as its own. ValueError: no log there."""
    folder = os.path.abspath(path if os.path.isdir(path) else os.path.dirname(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(2, 'no such folder', folder)
    manifests = {found: _read(found) for found in _manifests(folder)}
    mine = max(manifests, key=os.path.getmtime, default=None)
    if not os.path.isdir(path):
        mine = os.path.abspath(path)
        if mine not in manifests:
            raise ValueError(f'{path}: wanted an output folder, or in it the <net>_<method>.json of a recipe')
    others = [stem for found in manifests if found != mine for stem in _stems(found, manifests[found])]
    own = _stems(mine, manifests[mine]) if mine else []
    stages = _stages(folder, manifests.get(mine, {}), others)
    if not stages:
        raise ValueError(f'{folder}: no training was logged there (*_log.jsonl)')
    tests = [test for test in _tests(folder) if _is_of(test.net, own) or not _is_of(test.net, others)]
    title = os.path.basename(mine or folder).removesuffix('.json')
    sidecars = [path for path in _sidecars(folder) if _is_of(path, own) or not _is_of(path, others)]
    model = read_content(os.path.join(folder, f'{sidecars[-1]}.classes.json')) if sidecars else {}
    return Run(title, folder, os.path.basename(folder), stages, tests, model)


def _manifests(folder):
    """Their paths."""
    found = glob.glob(os.path.join(glob.escape(folder), '*.json'))
    return [
        path for path in found if path.removesuffix('.json').endswith(tuple(f'_{name}' for name in METHODS))
    ]


def _read(path):
    with open(path, encoding='utf-8') as stream:
        return json.load(stream)


def _stems(path, manifest):
    """What the names of its nets begin with, and those of its final files, as patterns."""
    name = os.path.basename(path).removesuffix('.json')
    net = next(name.removesuffix(f'_{method}') for method in METHODS if name.endswith(f'_{method}'))
    trained = [re.escape(_prefix(entry)) + r'_iter_\d+' for entry in manifest.values() if _prefix(entry)]
    return [*trained, re.escape(net) + '_[a-z_]*_final']


def _is_of(net, stems):
    return any(re.fullmatch(stem, net) for stem in stems)


def _prefix(entry):
    """Of the snapshots of a manifest's training stage, '' for a stage of another kind."""
    name, found, _ = os.path.basename(entry['result']).rpartition('_iter_')
    return name if found and entry['result'].endswith('.caffemodel') else ''


def _stages(folder, manifest, others):
    """The manifest's, and those that are not done, or were trained without a recipe."""
    logs = {os.path.basename(path).removesuffix('_log.jsonl'): path for path in _logs(folder)}
    stages = []
    for name, entry in manifest.items():
        path = logs.pop(_prefix(entry), None)
        stages.append(
            Stage(
                name,
                _records(path) if path else [],
                entry['settings'],
                entry.get('seconds'),
                _validations(path),
            )
        )
    for prefix, path in logs.items():
        if not _is_of(f'{prefix}_iter_0', others):
            stages.append(Stage(prefix, _records(path), {}, None, _validations(path)))
    return stages


def _validations(log):
    """What fast_rcnn.hooks.Validation left beside a log."""
    path = log and log.removesuffix('_log.jsonl') + '_validation.json'
    if not path or not os.path.exists(path):
        return []
    return [(one['iteration'], one['figure']) for one in _read(path)]


def _logs(folder):
    found = glob.glob(os.path.join(glob.escape(folder), '*_log.jsonl'))
    return sorted((path for path in found if os.path.getsize(path)), key=os.path.getmtime)


def _sidecars(folder):
    """The names of the models that have one, the latest last."""
    found = glob.glob(os.path.join(glob.escape(folder), '*.classes.json'))
    names = [os.path.basename(path) for path in sorted(found, key=os.path.getmtime)]
    return [name.removesuffix('.classes.json') for name in names]


def _tests(folder):
    """Tests of nets in that folder, by falling age."""
    beside = glob.escape(os.path.dirname(folder))
    files = sorted(glob.glob(os.path.join(beside, '*', '*', 'detections.npz')), key=os.path.getmtime)
    for path in files:
        imdb, net = path.split(os.sep)[-3:-1]
        if os.path.exists(os.path.join(folder, f'{net}.caffemodel')):
            iteration = re.search(r'_iter_(\d+)$', net)
            yield Test(net, iteration and int(iteration[1]), imdb, path)
