"""Holds our metrics against recorded answers of the official evaluations, class by class.

    python tests/replay_metrics.py FILE [--only CASE ...]

FILE: an .npz file of cases, whose names come before a slash. Of ILSVRC DET's development kit, <case>/: K, gt_img_ids (images
evaluated), gt_image, gt_label (1 ... K), gt_box (x1 y1 x2 y2), bl_image, bl_label (blacklisted), det_image, det_label,
det_score, det_box; ap (K). Of the Open Images evaluators, <case>/<i>/ for image i: gt (y1 x1 y2 x2), gt_labels (1 ... K),
group_of, verified, boxes, labels, scores; <case>/challenge_ap (K), v2_ap (K), nan without objects, challenge_map, v2_map.
A class without objects has no AP: the development kit makes 0 or nan of it, and either will do. Prints how far each class is
off where it is by more than 1e-9, and the most of each case; exit status 0 if all hold.
"""

import sys

from replays import asked

# isort: split
import numpy as np
from datasets.evaluators import imagenet, open_images
from datasets.evaluators.open_images import Wanted
from utils.found import Found

LIMIT = 1e-9
PARTS = 'gt', 'gt_labels', 'group_of', 'verified', 'boxes', 'labels', 'scores'


def ilsvrc(case):
    """[(metric, ours (K,), recorded (K,))] of a case of the development kit."""
    count, evaluated = int(np.ravel(case['K'])[0]), np.unique(case['gt_img_ids'])
    aps = np.full(count, np.nan)
    gt, det, black = (np.isin(case[f'{what}_image'], evaluated) for what in ('gt', 'det', 'bl'))
    gt_images, det_images, black_images = (
        np.searchsorted(evaluated, case[f'{what}_image'][mine])
        for what, mine in (('gt', gt), ('det', det), ('bl', black))
    )
    for k in range(1, count + 1):
        g, d = case['gt_label'][gt] == k, case['det_label'][det] == k
        aps[k - 1] = imagenet.official_average_precision(
            det_images[d],
            case['det_box'][det][d],
            case['det_score'][det][d],
            gt_images[g],
            case['gt_box'][gt][g],
            black_images[case['bl_label'][black] == k],
        )
    return [('ap', aps, np.where(np.isnan(aps) & (case['ap'].ravel() == 0), np.nan, case['ap'].ravel()))]


def of_open_images(case):
    """The same of a case of the Open Images evaluators."""
    numbers = sorted({int(key.split('/')[0]) for key in case if '/' in key})
    count = len(case['challenge_ap'])
    images = {part: [case[f'{i}/{part}'] for i in numbers] for part in PARTS}
    joined = {part: np.concatenate(values) for part, values in images.items()}
    of = {part: np.repeat(np.arange(len(numbers)), list(map(len, values))) for part, values in images.items()}
    wanted = Wanted(of['gt'], joined['gt_labels'], joined['gt'], joined['group_of'].astype(bool))
    rows = np.hstack([joined['boxes'], joined['scores'][:, None]])
    found = Found(joined['labels'], of['boxes'], rows, count + 1, len(numbers))
    verified, classes = (of['verified'], joined['verified']), range(count + 1)
    answers = []
    for metric, *how in ('challenge', verified, 1.0), ('v2', None, 0.0):
        aps = open_images.class_aps(found, wanted, classes, *how)
        ours = np.array([aps.get(k, np.nan) for k in classes[1:]])
        mean = np.mean(list(aps.values())) if aps else np.nan
        answers.append((f'{metric}_ap', ours, case[f'{metric}_ap']))
        answers.append((f'{metric}_map', np.array([mean]), np.ravel(case[f'{metric}_map'])))
    return answers


def replay(name, case):
    """Prints how a case compares -> whether it fails."""
    failed = False
    for metric, ours, recorded in of_open_images(case) if 'challenge_ap' in case else ilsvrc(case):
        off = np.where(np.isnan(ours) & np.isnan(recorded), 0, np.abs(ours - recorded))
        wrong = np.flatnonzero(~(off <= LIMIT))
        for k in wrong:
            print(f'{name}: {metric} {k + 1}: {ours[k]}, recorded {recorded[k]} FAILS')
        print(
            f'{name}: {metric}: {len(off) - len(wrong)} of {len(off)} hold, {np.nanmax(off):.2g} of {LIMIT:.2g}'
        )
        failed |= len(wrong) > 0
    return failed


def main():
    sys.exit(max([replay(name, case) for name, case in asked(__doc__.splitlines()[0]).items()]))


if __name__ == '__main__':
    main()
