#!/usr/bin/env python
"""List what is wrong with a dataset's images and annotations.

    tools/check_dataset.py data/datasets/blood.yml      or a registered name, pascal_voc, imagenet, or an
    imdb's name

Exit status 1 if a problem would stop training (unreadable file, unknown class), 0 otherwise.
"""

import argparse
import difflib
import logging

import _command
from datasets.check import Survey
from datasets.factory import imdbs_of


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument(
        'dataset',
        metavar='DATASET',
        help='a .yml file, a registered name, pascal_voc, imagenet, or the name of an imdb',
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        imdbs = imdbs_of(args.dataset, tolerant=True)
    except (OSError, ValueError, KeyError) as error:
        print(error.args[0] if isinstance(error, KeyError) else error)
        return 1
    survey = Survey(imdbs)
    for problem in survey.problems:
        print(problem)
    report(imdbs, survey)
    return 1 if survey.stops else 0


def nearest_names(name, names):
    return difflib.get_close_matches(name, [n for n in names if n != name], 3, 0.6)


def report(imdbs, survey):
    """Print what the dataset holds, and the number of problems."""
    classes = imdbs[0].classes[1:]
    print(', '.join(f'{imdb.name} {imdb.num_images}' for imdb in imdbs) + ' images')
    print(f'{survey.images} different images with annotations, {survey.empty} of them without objects')
    print(
        f'{sum(survey.objects.values())} objects, {survey.difficult} of them difficult; pixels count from '
        f'{imdbs[0].base}'
    )
    found = {imdbs[0].class_index(name): count for name, count in survey.objects.items()}
    counts = [f'{imdbs[0].class_names[i]} {found[i]}' for i in sorted(found.keys() - {None})]
    print(f'{len(classes)} classes; with objects: {", ".join(counts) or "none"}')
    for name, count in survey.objects.items():
        more = [n for n in nearest_names(name, survey.objects) if survey.objects[n] > 50 * count]
        if more:
            print(
                f'class {name!r} occurs {count} times: is it {more[0]!r} ({survey.objects[more[0]]} times), misspelt?'
            )
    print(f'problems: {len(survey.problems)}, of them stop training: {survey.stops}')


if __name__ == '__main__':
    _command.run(main)
