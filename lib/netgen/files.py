"""The nets and solvers of a dataset and a backbone as files: models/NAME/NET/METHOD/.

Their first line holds a digest of the rest: a file that somebody has edited is kept as it is (unless told
otherwise), any other follows the generator. K classes with the background.
"""

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path

from netgen.backbones import BACKBONES
from netgen.heads import RATIOS
from netgen.methods import METHODS, Detector, Schedule
from utils.places import HOME

ROOT = Path(HOME)
COMMITTED = {'imagenet': 201, 'pascal_voc': 21}  # set -> K, by all methods for boxes
COMMITTED_NETS = ('ResNet-101', 'ResNet-50', 'VGG16', 'VGG_CNN_M_1024', 'ZF', 'ResNet-10')
COMMITTED_MASKS = {'coco': (81, 'ResNet-50-FPN')}  # set -> K, net, by all methods for masks
# The rate falls in ImageNet's schedule at 240k of 320k (He et al. 2015, appendix A); in VOC's at 60k of 80k
# (RPN), 30k of 40k (Fast R-CNN), 50k of 70k (end to end), 80k of 120k (R-FCN), 80k of 110k (R-FCN, end to end)
IMAGENET = Schedule((240000,) * 4, 240000, 240000, (240000,) * 5, 240000)
PASCAL_VOC = Schedule(
    (60000, 30000, 60000, 30000), 30000, 50000, (60000, 80000, 60000, 80000, 60000), 80000, images=2
)
# On 07+12 Fast R-CNN has 60k iterations and end to end 110k of which 80k; on COCO 240k of 320k (Ren et al. 2015, section
# 3.4), Fast R-CNN 200k of 280k, end to end 350k of 490k (both py-faster-rcnn's), R-FCN 1.28M of 1.92M
SCHEDULES = {
    'imagenet': IMAGENET,
    'pascal_voc_0712': replace(PASCAL_VOC, fast_rcnn=40000, end2end=80000),
    'coco': replace(IMAGENET, fast_rcnn=200000, end2end=350000, rfcn=1280000, images=2),
}
logger = logging.getLogger(__name__)


def schedule(set_name, max_iters=None):
    """The schedule of a set. max_iters, one number or one per stage: the rate falls after three quarters of
    them, as in the published schedules; fast_rcnn goes by the second stage, end to end by the longest."""
    if max_iters is None:
        return SCHEDULES.get(set_name, PASCAL_VOC)
    iters = (max_iters,) * 4 if isinstance(max_iters, int) else tuple(max_iters)
    if len(iters) != 4 or min(iters) < 1:
        raise ValueError(f'max_iters wants one number or four, all positive, got {max_iters}')
    steps = tuple(map(step, iters))
    return Schedule(steps, steps[1], max(steps), (*steps, steps[2]), max(steps))


def step(max_iters):
    """The iteration after which the learning rate falls, of so many."""
    return max(1, 3 * max_iters // 4)


def committed_files():
    """{path: text} of those that lie in models/ of the repository."""
    texts = {}
    for name, classes in COMMITTED.items():
        for net in COMMITTED_NETS:
            texts.update(files(name, net, classes, masks=False))
    for name, (classes, net) in COMMITTED_MASKS.items():
        texts.update(files(name, net, classes, masks=True))
    return texts


def files(
    set_name,
    net,
    num_classes,
    out_root=ROOT / 'models',
    anchors=None,
    max_iters=None,
    masks=None,
    backbone=None,
):
    """{path: text} of all nets and solvers of one backbone, by every method that it is fit for; masks: those with masks
    alone, or those without.

    num_classes K counts the background; anchors: a mapping with 'scales' and 'ratios', either optional;
    max_iters: see schedule; backbone: in place of the net's row in BACKBONES. Errors: ValueError.
    """
    if net not in BACKBONES:
        raise ValueError(f'unknown net {net!r}; the nets are {", ".join(BACKBONES)}')
    if num_classes < 2:
        raise ValueError(f'num_classes counts the background too, so it is at least 2; got {num_classes}')
    given, backbone = dict(anchors or {}), backbone or BACKBONES[net]
    scales = tuple(given.pop('scales', None) or backbone.scales)
    ratios = tuple(given.pop('ratios', None) or RATIOS)
    if given:
        raise ValueError(f'anchors have scales and ratios, not {", ".join(map(str, given))}')
    detector = Detector(backbone, num_classes, scales, ratios)
    texts = {}
    for method, row in METHODS.items():
        if not row.fits(detector.net) or masks not in (None, row.masks):
            continue
        folder = Path(out_root) / set_name / net / method
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        for name, lines in row.make(detector, schedule(set_name, max_iters), shown.as_posix()).items():
            title = [] if 'solver' in name else [f'name: "{net} {method} {Path(name).stem}"']
            texts[folder / name] = _signed('\n'.join(title + lines) + '\n')
    return texts


def end2end_text(net, num_classes, name, masks=False, backbone=None):
    """The text of one of a backbone's files for training end to end."""
    method = 'mask_rcnn_end2end' if masks else 'faster_rcnn_end2end'
    texts = files('imported', net, num_classes, masks=masks, backbone=backbone)
    return next(text for path, text in texts.items() if path.parts[-2:] == (method, name))


def generate(set_name, net, num_classes, out_root=ROOT / 'models', anchors=None, max_iters=None, force=False):
    """As `write`, of `files`."""
    return write(files(set_name, net, num_classes, out_root, anchors, max_iters), force)


def write(texts, force=False):
    """Write those of {path: text} that are missing or not up to date; returns the paths written. One that was
    edited by hand stays, with a warning, unless force."""
    written = []
    for path, text in texts.items():
        old = path.read_text() if path.exists() else None
        if old == text:
            continue
        if old is not None and not force and old != _signed(old.partition('\n')[2]):
            logger.warning('%s was edited by hand and is kept; --force overwrites it', path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f'.{path.name}.{os.getpid()}')
        temporary.write_text(text)
        os.replace(temporary, path)
        written.append(path)
    return written


def _signed(body):
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    return f'# Written by models/generate.py, digest {digest}; once edited, it is kept as it is.\n{body}'
