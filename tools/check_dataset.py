#!/usr/bin/env python
"""List what is wrong with a dataset's images and annotations.

    tools/check_dataset.py data/datasets/blood.yml      or a registered name, pascal_voc, pascal_voc_0712, imagenet,
    coco, or an imdb's name

Exit status 1 if a problem would stop training (unreadable file, unknown class), 0 otherwise.
"""

import argparse
import collections
import difflib
import logging

import _command
from datasets.check import Survey
from datasets.factory import imdbs_of


def main(argv=None):
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__.split('\n', 1)[0])
    parser.add_argument(
        'dataset',
        metavar='DATASET',
        help='a .yml file, a registered name, one of pascal_voc, pascal_voc_0712, imagenet, coco, or the name of an imdb',
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        imdbs = imdbs_of(args.dataset, tolerant=True)
    except (OSError, ValueError, KeyError) as error:
        print(_command.message(error))
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
    print(', '.join(f'{imdb.name} {imdb.num_images}' for imdb in imdbs) + ' images')
    print(f'{survey.images} different images with annotations, {survey.empty} of them without objects')
    print(
        f'{sum(survey.objects.values())} objects, {survey.difficult} of them {imdbs[0].left_out}; pixels count from '
        f'{imdbs[0].base}'
    )
    print_classes(imdbs, survey)
    for name, count in survey.objects.items():
        more = [n for n in nearest_names(name, survey.objects) if survey.objects[n] > 50 * count]
        if more:
            often = survey.objects[more[0]]
            print(f'class {name!r} occurs {count} times: is it {more[0]!r} ({often} times), misspelt?')
    print(verdict(len(survey.problems), survey.stops))


def print_classes(imdbs, survey):
    """A table: objects of each class (annotations may call one by several names) in each imdb."""
    by_class = [sum_by_class(imdbs[0], names) for names in survey.by_split]
    titles = [imdb.name for imdb in imdbs]
    width = max(map(len, ['objects', *imdbs[0].class_names[1:]]))
    print(' '.join(['objects'.ljust(width), *titles]))
    for k, name in list(enumerate(imdbs[0].class_names))[1:]:
        row = [str(counts[k]).rjust(len(title)) for counts, title in zip(by_class, titles)]
        none = '' if any(counts[k] for counts in by_class) else '  a class without objects'
        print(' '.join([name.ljust(width), *row]) + none)


def sum_by_class(imdb, names):
    counts = collections.Counter()
    for name, count in names.items():
        counts[imdb.class_index(name)] += count
    return counts


def verdict(problems, stops):
    if not problems:
        return 'No problems'
    some = f'{problems} problem{"s" * (problems > 1)}, listed above'
    return f'{some}; training stops at {stops} of them' if stops else f'{some}; training goes on all the same'


if __name__ == '__main__':
    _command.run(main)
