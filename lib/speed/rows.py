"""The register of rows, and how one is measured.

A row is a function of a Case under @row(name, ...) that gives {who: function() -> Contender}, which others are held
against the first of; or raises LeftOut, which says why one is not there. A net's row gives its Prepared files as well.
"""

import gc
import math
import os
from dataclasses import dataclass
from typing import Callable, NamedTuple

from speed.measure import LeftOut, Times, difference, interleaved
from fast_rcnn.config import overrides
from netgen.files import generate

CLASSES = 201  # of the nets, those in models/imagenet among them


class Row(NamedTuple):
    """function(case) -> {who: function() -> Contender}, and the Prepared files or None; settings over cfg; how many
    images a call handles (0: none); memory: whether that of a process of each contender's own is measured."""

    function: Callable
    settings: dict = {}
    images: int = 1
    memory: bool = False


ROWS = {}


@dataclass
class Case:
    """What all rows share: a folder for files; small: little nets and images, to see that all works; the row."""

    folder: str
    small: bool = False
    row: str = ''

    @property
    def pyramid(self):
        """Whether the row is of a net with a pyramid: another size, and nets that are not among the committed ones."""
        return self.row.endswith('FPN')

    @property
    def size(self):
        """Height and width of images."""
        return (160, 224) if self.small else (800, 1333) if self.pyramid else (600, 800)

    @property
    def rois(self):
        return 20 if self.small else 300

    def net(self, name):
        """The folder of the nets of a backbone."""
        if self.small:
            name = 'ResNet-10-FPN' if self.pyramid else 'ResNet-10'
        family = 'bench' if self.pyramid else 'imagenet'
        generate(family, name, CLASSES, self.folder)
        return os.path.join(self.folder, family, name)

    def settings(self, row):
        size, most = [self.size[0]], max(1000, self.size[1])
        sizes = {'TRAIN.SCALES': size, 'TRAIN.MAX_SIZE': most, 'TEST.SCALES': size, 'TEST.MAX_SIZE': most}
        return {**sizes, **row.settings}


def row(name, **more):
    def put(function):
        ROWS[name] = Row(function, **more)
        return function

    return put


def contenders_of(case, wanted=None):
    """Of the case's row: {who: Contender} of those that are wanted and can run, {who: why not}, its Prepared."""
    found, ready = ROWS[case.row].function(case)
    there, absent = {}, {}
    for who, make in found.items():
        if wanted and who not in wanted:
            continue
        try:
            there[who] = make()
        except LeftOut as error:
            absent[who] = str(error)
    return there, absent, ready


def measure(case, rounds, wanted=None, memory=None, seconds=math.inf):
    """{who: Times} of the case's row; the operations of a pass of its net, or 0. memory: a function of a contender that
    tells its bytes. seconds: as interleaved has it. ValueError where an answer is not ours."""
    settled = ROWS[case.row]
    with overrides(case.settings(settled)):
        there, absent, ready = contenders_of(case, wanted)
        answers = {}
        for who, contender in list(there.items()):
            try:
                answers[who] = contender.answer() if contender.answer else {}
            except LeftOut as error:
                absent[who] = str(error)
                del there[who]
        times = interleaved(there, rounds, seconds=seconds)
        for contender in there.values():
            if contender.close:
                contender.close()
        alike = {who: contender.alike for who, contender in there.items()}
        there.clear()
        gc.collect()
    for who, answer in answers.items():
        times[who].difference = None if who == 'ours' else difference(answers.get('ours', {}), answer)
        if (times[who].difference or 0) > alike[who]:
            raise ValueError(
                f'{case.row}: the answer of {who} differs from ours by {times[who].difference:.2g}'
            )
    times.update({who: Times(left_out=why) for who, why in absent.items()})
    if memory and settled.memory:
        for who in alike.keys() - {'compiled'}:
            times[who].memory = memory(who)
    if ready:
        ready.remove()
    return times, ready.flops if ready else 0
