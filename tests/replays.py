"""What the replays of recorded detectors share: drawn weights by name, digests held against recorded ones, the report."""

import argparse
import os
import sys
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [
    os.path.join(ROOT, folder)
    for folder in ('caffe-fast-rcnn/python', 'lib', 'tools', 'tests/golden/torchvision')
]

import numpy as np  # noqa: E402
from record import digest  # noqa: E402

MAPS, GRADIENTS = 1e-3, 2e-3  # of the largest recorded value


class Check(NamedTuple):
    what: str
    found: float
    limit: float

    @property
    def holds(self):
        return self.found <= self.limit  # not so where found is no number


def feed(net, **blobs):
    for name, values in blobs.items():
        net.blobs[name].reshape(*values.shape)
        net.blobs[name].data[...] = values


def norm(name, channels):
    return {f'{name}.{part}': (channels,) for part in ('weight', 'bias', 'running_mean', 'running_var')}


def pair(name, *shape):
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def body_shapes(body, prefix='', extra=()):
    """{name: shape} of what a state_dict has of a ResNet of netgen.backbones. extra: the layers whose shortcut is an
    extra_conv."""
    shapes, inputs = {f'{prefix}conv1.weight': (64, 3, 7, 7), **norm(f'{prefix}bn1', 64)}, 64
    kernels = (1, 3, 1) if body.bottleneck else (3, 3)
    for layer, (count, width) in enumerate(zip(body.blocks, body.widths), 1):
        for block in range(count):
            name, sides = f'{prefix}layer{layer}.{block}', [width] * len(kernels)
            sides[-1] *= body.expansion
            if block == 0 and (inputs != sides[-1] or layer in extra):
                shortcut = name + ('.extra_conv' if layer in extra else '.downsample')
                shapes[f'{shortcut}.0.weight'] = (sides[-1], inputs, 1, 1)
                shapes |= norm(f'{shortcut}.1', sides[-1])
            for i, (kernel, outputs) in enumerate(zip(kernels, sides), 1):
                shapes[f'{name}.conv{i}.weight'] = (outputs, inputs, kernel, kernel)
                shapes |= norm(f'{name}.bn{i}', outputs)
                inputs = outputs
    return shapes


def places(state, rows):
    """{a state_dict's name: (layer, blob)} of what the importer takes as it is."""
    found = {}
    names = {id(values): name for name, values in state.items()}
    for layer, _, arrays, *_ in rows:
        for i, values in enumerate(arrays):
            if id(values) in names:
                found.setdefault(names[id(values)], (layer, i))
    return found


def off(found, wanted):
    """How far a digest of an array is from the recorded one, of the largest recorded value; where all are 0 so must it."""
    return share(np.abs(digest(found) - wanted).max(), np.abs(wanted).max())


def share(part, whole):
    """part / whole; 0 / 0 is 0."""
    return part / whole if whole else np.inf * part if part else 0.0


def report(case, checks):
    """Prints a case's checks -> whether one fails."""
    for check in checks:
        print(f'{case}: {check.what} {check.found:.2g} of {check.limit:.2g}{"" if check.holds else " FAILS"}')
    print(f'{case}: {sum(check.holds for check in checks)} of {len(checks)} hold', flush=True)
    return not all(check.holds for check in checks)


def cases_of(path):
    """{case: {key: array}} of a recording, whose keys are <case>/<key>."""
    cases = {}
    with np.load(path) as file:
        for key in file.files:
            case, _, rest = key.partition('/')
            cases.setdefault(case, {})[rest] = file[key]
    return cases


def asked(description):
    """{case: its arrays} that a replay's command line names: FILE [--only CASE ...]."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('file', metavar='FILE')
    parser.add_argument('--only', nargs='+', metavar='CASE')
    args = parser.parse_args()
    cases = cases_of(args.file)
    unknown = set(args.only or ()) - set(cases)
    if unknown or not cases:
        parser.error(f'{args.file} has no case {" ".join(sorted(unknown)[:1])}; it has {", ".join(cases)}')
    return {name: cases[name] for name in args.only or cases}
