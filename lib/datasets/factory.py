"""Datasets by name: get_imdb for tools, describe and register for the scripts.

Built in: voc_<year>_<split>, imagenet_2015_<split>, coco_<year>_<split>, openimages_<v4 or challenge>_<split>. Names with + between are one imdb of several:
voc_2007_trainval+voc_2012_trainval. Own datasets are registered as data/datasets/NAME.yml
(the file, or a link to it) and give imdbs NAME_<split>. An imdb class of one's own joins by
    register('shapes_train', lambda: shapes('train'))
which may stand in a file data/datasets/NAME.py: such files are run, once a process, before a name is looked
up.
"""

import functools
import glob
import os
import re
import runpy

from datasets import coco, imagenet, openimages, own, pascal_voc
from datasets.joined import joined
from fast_rcnn.config import cfg
from utils.files import read_text
from utils.words import nearest

# Dataset -> its format, classes (or a function that reads them), and the imdbs that the scripts train and test on
BUILT_IN = {
    'pascal_voc': ('voc', pascal_voc.CLASSES, 'voc_2007_trainval', 'voc_2007_test'),
    'pascal_voc_0712': ('voc', pascal_voc.CLASSES, 'voc_2007_trainval+voc_2012_trainval', 'voc_2007_test'),
    'imagenet': (
        'imagenet',
        tuple(imagenet.SYNSETS),
        'imagenet_2015_trainval1_woextra',
        'imagenet_2015_val2',
    ),
    'coco': ('coco', coco.CLASSES, 'coco_2017_train', 'coco_2017_val'),
    **{
        f'openimages_{kind}': (
            'openimages',
            functools.partial(openimages.class_ids, kind),
            f'openimages_{kind}_train',
            f'openimages_{kind}_val',
        )
        for kind in openimages.KINDS
    },
}
# Of Open Images: the length of its training in tensorpack's example, and its images without objects are negatives
OPEN_IMAGES = {'max_iters': 360000, 'cfg': own.OWN_SETTINGS}
# Dataset -> anchors that the nets of other datasets do not have: the smaller ones of py-faster-rcnn's nets for COCO
ANCHORS = {'coco': {'scales': [4, 8, 16, 32], 'ratios': [0.5, 1, 2]}}

# imdb name -> function without arguments that makes it
_built_in = {
    f'voc_{year}_{split}': functools.partial(pascal_voc.pascal_voc, split, year)
    for year in pascal_voc.YEARS
    for split in pascal_voc.SPLITS
}
_built_in.update(
    {f'imagenet_2015_{split}': functools.partial(imagenet.imagenet, split) for split in imagenet.SPLITS}
)
_built_in.update(
    {
        f'coco_{year}_{split}': functools.partial(coco.coco, split, year)
        for year, splits in coco.SPLITS.items()
        for split in splits
    }
)
_built_in.update(
    {
        f'openimages_{kind}_{split}': functools.partial(openimages.of_split, kind, split)
        for kind in openimages.KINDS
        for split in openimages.SPLITS
    }
)
_added = {}


def get_imdb(name, **how):
    """A new imdb by its name, or by several with + between. how: passed on to own.load."""
    if '+' in name:
        return joined([get_imdb(part, **how) for part in name.split('+')])
    makers = _makers()
    if name in makers:
        return makers[name]()
    owners = [dataset for dataset in registered() if name.startswith(dataset + '_')]
    for dataset in sorted(owners, key=len, reverse=True):
        description = _load_registered(dataset, **how)
        split = name[len(dataset) + 1 :]
        if split in description.splits:
            return own.make(description, split)
    raise KeyError(_unknown_imdb(name, owners))


def list_imdbs():
    """Names of all imdbs there are, built in and registered."""
    names = list(_makers())
    for dataset in registered():
        names += [f'{dataset}_{split}' for split in _load_registered(dataset).splits]
    return names


def registered():
    """Names of the own datasets in data/datasets."""
    folder = os.path.dirname(_registry_path(''))
    return sorted(name[: -len('.yml')] for name in glob.glob('*.yml', root_dir=folder))


def register(name_or_path, maker=None):
    """Make a dataset known: that of a YAML file, if no other has its name -> its Description; or one imdb by
    its name: maker is a function without arguments that returns it."""
    if maker is None:
        return _register_file(name_or_path)
    if not callable(maker):
        raise ValueError(f'{name_or_path}: wanted a function that makes the imdb, got {maker!r}')
    if name_or_path in _built_in:
        raise ValueError(f"{name_or_path}: a built-in imdb's name")
    _added[name_or_path] = maker


def _register_file(path):
    description = own.load(path)
    name, link = description.name, _registry_path(description.name)
    if name in BUILT_IN or re.match(
        r'(voc_\d{4}|imagenet_2015|coco_\d{4}|openimages_(v4|challenge))(_|$)', name + '_'
    ):
        raise ValueError(f"{path}: name: {name!r} is a built-in dataset's")
    if os.path.exists(link):
        if place_of(link) != description.path:
            raise ValueError(
                f'{description.path}: name: {name!r} is registered for '
                f'{place_of(link)}; choose another name, or remove {link}'
            )
        return description
    os.makedirs(os.path.dirname(link), exist_ok=True)
    temporary = f'{link}.{os.getpid()}'
    try:
        os.symlink(description.path, temporary)
    except OSError:  # Windows lets few make links
        with open(temporary, 'w', encoding='utf-8') as stream:
            stream.write(f'{INSTEAD}{description.path}\n')
    os.replace(temporary, link)
    return description


INSTEAD = '# In place of a link to '


def place_of(link):
    """The YAML file that a registered one is, leads to, or names where there are no links."""
    real = os.path.realpath(link)
    text = read_text(real) if os.path.isfile(real) else ''
    return os.path.realpath(text[len(INSTEAD) :].strip()) if text.startswith(INSTEAD) else real


def describe(dataset):
    """The Description of one of BUILT_IN, a registered name, or a YAML file."""
    if dataset in BUILT_IN:
        format_, classes, train, test = BUILT_IN[dataset]
        classes = classes() if callable(classes) else classes
        more = OPEN_IMAGES if format_ == 'openimages' else {}
        return own.Description(
            dataset, format_, ('__background__', *classes), {}, train, test, imdbs=(train, test), **more
        )
    return own.load(dataset) if is_path(dataset) else _load_registered(dataset)


def imdbs_of(dataset, **how):
    """The imdbs a DATASET stands for: of built-in ones those of training and test, of own ones all; or the
    one imdb of that name. how: passed on to own.load."""
    if dataset in BUILT_IN:
        names = '+'.join(BUILT_IN[dataset][2:])
        return [get_imdb(name) for name in names.split('+')]
    if not is_path(dataset) and dataset not in registered():
        return [get_imdb(name, **how) for name in dataset.split('+')]
    description = own.load(dataset, **how) if is_path(dataset) else _load_registered(dataset, **how)
    return [own.make(description, split) for split in description.splits]


def is_path(dataset):
    """Whether a DATASET argument is a YAML file rather than a name."""
    return dataset.endswith(('.yml', '.yaml'))


def _load_registered(name, **how):
    if name not in registered():
        known = list(BUILT_IN) + registered()
        raise KeyError(
            f'unknown dataset {name}; the nearest is {nearest(name, known)}, known: '
            f'{", ".join(known)} (or the path of a .yml file)'
        )
    description = own.load(place_of(_registry_path(name)), **how)
    if description.name != name:
        raise ValueError(
            f'{_registry_path(name)}: name: wanted {name}, as the file is called, got {description.name}'
        )
    return description


def _makers():
    """All makers, once the files data/datasets/*.py have been run."""
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(_registry_path(''))), '*.py'))):
        _run(path)
    return {**_built_in, **_added}


@functools.cache
def _run(path):
    runpy.run_path(path)


def _registry_path(name):
    return os.path.join(cfg.DATA_DIR, 'datasets', name + '.yml')


def _unknown_imdb(name, owners):
    known = list(_makers()) + [
        f'{dataset}_{split}' for dataset in owners for split in _load_registered(dataset).splits
    ]
    return (
        f'unknown imdb {name}; the nearest is {nearest(name, known)}. Known: {", ".join(known)}; '
        f'registered datasets (imdb NAME_SPLIT): {", ".join(registered()) or "none"}'
    )
