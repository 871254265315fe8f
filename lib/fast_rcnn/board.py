"""What a test shows in TensorBoard, where cfg.TENSORBOARD is on and the package is there: mean AP, precision over recall of each
class, pictures with objects and detections. What a training shows is hooks.Board's.

T thresholds, D detections of a class, best first.
"""

import logging
import os
import re

import numpy as np

from datasets.evaluators.errors import IGNORED, KINDS, RIGHT, all_errors
from fast_rcnn.drawing import draw, listed
from utils.blob import read_image

log = logging.getLogger(__name__)

PICTURES = 8  # of a test, at most, as far apart in its list as can be
SHOWN = 0.3  # the least score of detections in them
THRESHOLDS = 101  # of the curves: 0, 0.01 ... 1


def summary_writer(folder, **how):
    """A SummaryWriter; None where the package tensorboard is missing, which is said."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # which few have
    except ImportError as error:
        log.warning('TENSORBOARD: nothing is written for it: %s', error)
        return None
    return SummaryWriter(folder, **how)


def write_test(folder, step, imdb, all_boxes, mean_ap, masks=None):
    """Writes a test on imdb to <folder>/board. all_boxes[class][image] (n, 5), masks the RLEs of these; step: the iteration that
    the net was trained to."""
    writer = None if np.isnan(mean_ap) else summary_writer(os.path.join(folder, 'board'))
    if writer is None:
        return
    with writer:
        writer.add_scalar('mean AP', mean_ap, step)
        truth = getattr(imdb, 'truth', None)
        if truth is None:  # several datasets joined
            return
        for k, errors in all_errors(all_boxes, truth, {}).items():
            writer.add_scalar(f'AP/{imdb.class_names[k]}', errors.ap, step)
            curve = counts(errors.scores, errors.kinds, len(errors.objects))
            writer.add_pr_curve_raw(
                f'precision over recall/{imdb.class_names[k]}', *curve, step, num_thresholds=THRESHOLDS
            )
        chosen = np.linspace(0, imdb.num_images - 1, min(PICTURES, imdb.num_images)).astype(int)
        for i in chosen:
            _add_pictures(writer, step, imdb, all_boxes, masks, i)


def counts(scores, kinds, objects):
    """scores (D,), what each is (D,), a place in KINDS, and how many objects there are -> of detections from each threshold up: right,
    wrong, none (what is rightly not detected cannot be counted), objects missed, precision, recall: (T,) each."""
    least = np.linspace(0, 1, THRESHOLDS)
    right, wrong = (
        (scores[np.isin(kinds, of)][:, None] >= least).sum(0)
        for of in (
            [KINDS.index(RIGHT)],
            [i for i, kind in enumerate(KINDS) if kind not in (RIGHT, IGNORED)],
        )
    )
    precision = right / np.maximum(right + wrong, 1)
    return right, wrong, np.zeros(THRESHOLDS), objects - right, precision, right / objects


def iteration_of(name):
    """Of a snapshot's name or path; 0 where it has none."""
    found = re.search(r'_iter_(\d+)', name)
    return int(found[1]) if found else 0


def _add_pictures(writer, step, imdb, all_boxes, masks, i):
    path = imdb.image_path_at(i)
    image, name = read_image(path), os.path.splitext(os.path.basename(path))[0]
    mine = slice(imdb.truth.starts[i], imdb.truth.starts[i + 1])
    objects = [
        (imdb.class_names[k], None, tuple(map(float, box)))
        for k, box in zip(imdb.truth.classes[mine], imdb.truth.boxes[mine])
    ]
    rles = masks and [of_class[i] for of_class in masks]
    found = listed(
        [np.reshape(of_class[i], (-1, 5)) for of_class in all_boxes], imdb.class_names, SHOWN, rles
    )
    for what, shown in ('objects', objects), ('found', found):
        picture = draw(image, shown, imdb.class_names)[:, :, ::-1]
        writer.add_image(f'{name}/{what}', picture, step, dataformats='HWC')
