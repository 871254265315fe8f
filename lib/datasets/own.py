"""Anybody's dataset, described by a YAML file. Paths in it are relative to the file.

    name: blood                     imdb names are blood_<split>
    format: voc                     or imagenet: see readers; or coco; or yolo, csv, labelme, cvat: see labels
    root: ../BCCD                   the folder that holds Annotations, ImageSets ...; of others: annotations, images
The rest may be left out:
    classes: [RBC, WBC]             default `from annotations`: the names that occur, sorted
    splits: {train: sets/a.txt}     name: a file of image ids, or a list; default: the layout's image sets
    train: trainval                 what the scripts train and test on; default: trainval and test where both
    test: test                      exist, else train and the first of val, valid, validation, test
    base: 0                         the number of the first pixel, 0 or 1; default: imagenet 0; voc 0 if a
                                    coordinate of the whole dataset lies in [0, 1), else 1
Of coco there is no base, classes are by default the file's categories by rising id, and
    splits: {train: annotations/a.json}    name: annotation file; default: annotations/instances_<split>.json or, where
                                    there is none so called, <split>.json; or <split>/_annotations.coco.json
    images: photos                  the images' folder below root, or one for each split; default: the first of
                                    images/<split>, <split>, images, data and root itself that has a split's first image
Of yolo, csv, labelme and cvat classes are as they list them, or those that occur, sorted, and
    splits: {train: lists/a.txt}    name: a list of images, by their paths, names or ids; in a file, or here; or a folder of
                                    images, or a file of labels; default: splits/<split>.txt, <split>.txt, or as the format has it
    images: photos                  the images' folder below root; default: wherever in it they are
They are kept in COCO's format in the cache. Further, of all:
    cfg: {TRAIN: {SCALES: [480]}}   settings, as in experiments/cfgs, over OWN_SETTINGS
    anchors: {scales: [8, 16], ratios: [0.5, 1, 2]}      default scales 2 4 8 16 32 (times 16 pixels), ratios as here
    max_iters: 4000                 or four numbers, one per training stage; default by the number of images
                                    (lib/pipeline/recipe.py)

AP is VOC's area under the curve at IoU > 0.5; difficult objects count neither way and are not trained on. That of coco
is COCO's.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property

from datasets.coco_imdb import coco_imdb
from datasets.imagenet import SYNSETS
from datasets.labels.kept import keep
from datasets.readers import FORMATS
from datasets.readers.boxes import guess_base
from datasets.readers.coco import annotation_files, image_folder, load_json, read_coco
from datasets.readers.images import read_image_set, without_extensions
from datasets.readers.voc_xml import read_annotations
from datasets.xml_imdb import xml_imdb
from fast_rcnn.config import cfg, overrides
from utils.files import read_text
from utils.param_str import parse_yaml
from utils.words import nearest

FROM_ANNOTATIONS = 'from annotations'
COCO = 'coco'
LABELS = 'yolo', 'csv', 'labelme', 'cvat'  # which are kept in COCO's

# Settings of every described dataset: its images without objects are negatives
OWN_SETTINGS = {'TRAIN': {'USE_EMPTY': True}}


@dataclass
class Description:
    """What the scripts need to know of a dataset. classes begin with '__background__'; train and test are
    split names, train_imdb and test_imdb the imdbs', which imdbs names where they are not made of these; splits: name ->
    image ids; files: name -> annotation file and folder of images, of coco; anchors, max_iters: None where not given."""

    name: str
    format: str
    classes: tuple
    splits: dict
    train: str
    test: str
    imdbs: tuple = ()
    root: str = ''
    base: int = 1
    cfg: dict = field(default_factory=dict)
    anchors: dict = None
    max_iters: object = None
    path: str = ''
    images: object = None
    files: dict = field(default_factory=dict)
    faults: tuple = ()

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def train_imdb(self):
        return self.imdbs[0] if self.imdbs else f'{self.name}_{self.train}'

    @property
    def test_imdb(self):
        return self.imdbs[1] if self.imdbs else f'{self.name}_{self.test}'


class own(xml_imdb):
    """A split of a described dataset."""

    def __init__(self, description, split):
        super().__init__(
            f'{description.name}_{split}',
            split,
            description.classes[1:],
            FORMATS[description.format](description.root, split),
            description.splits[split],
            description.base,
        )
        self.description = description
        self._by_synset = description.format == 'imagenet'

    @property
    def class_names(self):
        return tuple(SYNSETS.get(cls, cls) for cls in self.classes) if self._by_synset else self.classes

    def class_index(self, name):
        """In the imagenet format a class may be listed by WordNet id or by name, whichever the files have."""
        index = super().class_index(name)
        if index is None and self._by_synset:
            other = SYNSETS.get(name) or next((wnid for wnid, word in SYNSETS.items() if word == name), None)
            index = super().class_index(other)
        return index


class own_coco(coco_imdb):
    """A split of a described dataset in COCO's format."""

    def __init__(self, description, split):
        classes = description.classes[1:]
        super().__init__(f'{description.name}_{split}', split, *description.files[split], classes)
        self.description = description


class own_labelled(own_coco):
    """A split of one of LABELS. What is said of an image names the file that speaks of it."""

    turned = 'its boxes, which are of the image as it is shown, are turned to the pixels stored'

    def image_path_at(self, i):
        return os.path.normpath(super().image_path_at(i))

    def annotation_path_at(self, i):
        return os.path.join(self.folder, self._sources[i % len(self._sources)])

    @cached_property
    def _sources(self):
        return [row['source'] for row in load_json(self.path)['images']]


def make(description, split):
    """The imdb of a split of a described dataset."""
    kinds = {COCO: own_coco, **dict.fromkeys(LABELS, own_labelled)}
    return kinds.get(description.format, own)(description, split)


def load(path, tolerant=False):
    """The Description in a YAML file. tolerant: annotations that cannot be read are passed over."""
    path = os.path.realpath(path)
    values = _checked(path, _read(path))
    try:
        with overrides(values.get('cfg', {})):
            pass
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: cfg: {error.args[0]}') from None
    values['cfg'] = _over(OWN_SETTINGS, values.get('cfg', {}))
    values['root'] = os.path.normpath(os.path.join(os.path.dirname(path), values['root']))
    if not os.path.isdir(values['root']):
        raise FileNotFoundError(f'{path}: root: no such folder {values["root"]}')
    values.update(_read_as(values['format'])(path, values, tolerant))
    values['train'], values['test'] = _train_and_test(path, values)
    if not values['classes']:
        raise ValueError(f'{path}: no classes, neither listed nor in the annotations')
    return Description(**{**values, 'classes': ('__background__', *values['classes']), 'path': path})


def _read_as(format_):
    return {COCO: _from_coco, **dict.fromkeys(LABELS, _from_labels)}.get(format_, _from_xml)


def _from_xml(path, values, tolerant):
    """splits, classes, base"""
    splits = _splits(path, values)
    classes, base = values.get('classes', FROM_ANNOTATIONS), values.get('base')
    base = FORMATS[values['format']].default_base if base is None else base
    if classes == FROM_ANNOTATIONS or base is None:
        found = _all_annotations({**values, 'splits': splits}, tolerant)
        base = guess_base(found.boxes) if base is None else base
        classes = _occurring(found) if classes == FROM_ANNOTATIONS else classes
    return {'splits': splits, 'classes': classes, 'base': base}


def _from_labels(path, values, tolerant):
    """splits, classes, base, files, faults"""
    faults = [] if tolerant else None
    name = f'{values["name"]}_{hashlib.sha256(path.encode()).hexdigest()[:8]}'
    images, given = values.get('images') or '', values.get('splits')
    if not isinstance(images, str):
        raise ValueError(f'{path}: images: wanted a folder, got {images!r}')
    odd = next((split for split, one in (given or {}).items() if not isinstance(one, (str, list))), None)
    if odd is not None:
        raise ValueError(f'{path}: split {odd}: wanted a list, a file or a folder, got {given[odd]!r}')
    where = {'at': os.path.dirname(path), 'given': given, 'images': images, 'faults': faults}
    cache = os.path.join(cfg.DATA_DIR, 'cache')
    try:
        kept = keep(values['format'], values['root'], os.path.abspath(cache), name, **where)
    except ValueError as error:  # nothing is left to go on with: then what was passed over tells more
        raise ValueError('\n'.join([*(faults or ()), str(error)])) from None
    found = _from_coco(path, {**values, 'splits': kept, 'images': '.'}, tolerant)
    return {**found, 'faults': tuple(faults or ())}


def _from_coco(path, values, tolerant):
    """splits, classes, base, files"""
    at = os.path.dirname(path)
    given = values.get('splits') or annotation_files(values['root'])
    if not given:
        raise ValueError(
            f'{path}: no splits are listed, and there is neither {values["root"]}/annotations/*.json nor a _annotations.coco.json in a folder of it'
        )
    names, splits, files = {}, {}, {}
    for split, source in given.items():
        if not isinstance(source, str):
            raise ValueError(f'{path}: split {split}: wanted an annotation file, got {source!r}')
        source = os.path.join(at, source)
        found = read_coco(source, os.path.join(cfg.DATA_DIR, 'cache'), f'{path} names it as split {split}')
        splits[_word(path, 'split', split)] = found.ids.tolist()
        files[split] = source, _image_folder(path, values, split, source, str(found.files[0]))
        names[source] = found.names.tolist()
    first = next(iter(names))
    odd = next((source for source in names if names[source] != names[first]), None)
    if odd:
        raise ValueError(f'{odd}: its categories {names[odd]} are not those of {first}: {names[first]}')
    classes = values.get('classes', FROM_ANNOTATIONS)
    return {
        'splits': splits,
        'classes': names[first] if classes == FROM_ANNOTATIONS else classes,
        'base': 0,
        'files': files,
    }


def _image_folder(path, values, split, source, name):
    """Where a split's images are, of which `name` is one."""
    given = values.get('images')
    given = given.get(split) if isinstance(given, dict) else given
    try:
        return image_folder(values['root'], split, source, [name], given)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{path}: {error}') from None


def _over(settings, more):
    """settings with those of `more` over them, section by section."""
    sections = {key: {**settings[key], **more.get(key, {})} for key in settings}
    return {**sections, **{key: value for key, value in more.items() if key not in settings}}


def _read(path):
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such dataset description')
    values = parse_yaml(read_text(path), path)
    if not isinstance(values, dict):
        raise ValueError(f'{path}: wanted a mapping with name, format and root, got {type(values).__name__}')
    return values


def _all_annotations(values, tolerant):
    files = [
        (FORMATS[values['format']](values['root'], split).annotation(image_id), None)
        for split, ids in values['splits'].items()
        for image_id in ids
    ]
    cache = os.path.join(cfg.DATA_DIR, 'cache')
    return read_annotations(list(dict.fromkeys(files)), values['name'], cache, tolerant)


def _occurring(annotations):
    return sorted(name for name in annotations.vocabulary.tolist() if name != '__background__')


def _splits(path, values):
    """{split: image ids}"""
    layout = FORMATS[values['format']](values['root'])
    given = values.get('splits') or layout.given()
    if not given:
        raise ValueError(
            f'{path}: no splits are listed, and there are no image sets {layout.sets_dir}/*.txt; '
            f'tools/split_dataset.py writes such lists'
        )
    return {_word(path, 'split', name): _ids(path, name, source) for name, source in given.items()}


def _ids(path, name, source):
    if isinstance(source, str):
        return read_image_set(os.path.join(os.path.dirname(path), source), f'{path} names it as split {name}')
    if not isinstance(source, list) or not source:
        raise ValueError(f'{path}: split {name}: wanted a file or a list of image ids, got {source!r}')
    return without_extensions(f'{path}: split {name}', [str(image_id) for image_id in source])


def trained_and_tested(splits):
    """The names of those splits that are trained and tested on, where nothing else is said; where they are not there, what was
    looked for."""
    val = next((split for split in ('val', 'valid', 'validation', 'test') if split in splits), 'val')
    return ('trainval', 'test') if {'trainval', 'test'} <= set(splits) else ('train', val)


def _train_and_test(path, values):
    splits, default = values['splits'], trained_and_tested(values['splits'])
    chosen = values.get('train', default[0]), values.get('test', default[1])
    for key, split in zip(('train', 'test'), chosen):
        if split not in splits:
            raise ValueError(
                f'{path}: {key}: there is no split {split!r}, but {", ".join(splits)}; '
                f'say which to {key} on with `{key}: SPLIT`'
            )
    return chosen


def _word(path, what, value):
    if not isinstance(value, str) or not re.fullmatch(r'[A-Za-z0-9][\w.-]*', value):
        raise ValueError(f'{path}: {what}: wanted a word of letters, digits, _ . and -, got {value!r}')
    return value


def _checked(path, values):
    for key in values:
        if key not in CHECKS:
            raise ValueError(f'{path}: unknown key {key!r}; the nearest is {nearest(key, CHECKS)!r}')
    for key in ('name', 'format', 'root'):
        if key not in values:
            raise ValueError(f'{path}: {key} is missing')
    foreign = 'base' if values['format'] in (COCO, *LABELS) else 'images'
    if foreign in values:
        raise ValueError(f'{path}: {foreign}: the format {values["format"]} has none')
    for key, value in values.items():
        wanted, holds = CHECKS[key]
        if not holds(value):
            raise ValueError(f'{path}: {key}: wanted {wanted}, got {value!r}')
    _word(path, 'name', values['name'])
    classes = values.get('classes', FROM_ANNOTATIONS)
    if classes != FROM_ANNOTATIONS:
        names = [str(name).strip() for name in classes if name != '__background__']
        values = {**values, 'classes': names}
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f'{path}: classes: {twice[0]!r} is listed twice')
    return values


def _numbers(value):
    return isinstance(value, list) and bool(value) and all(type(n) in (int, float) and n > 0 for n in value)


def _is_classes(value):
    return value == FROM_ANNOTATIONS or (
        isinstance(value, list) and bool(value) and all(type(name) in (str, int) for name in value)
    )


def _is_anchors(value):
    return (
        isinstance(value, dict)
        and value.keys() <= {'scales', 'ratios'}
        and all(map(_numbers, value.values()))
    )


def _is_iters(value):
    numbers = value if isinstance(value, list) else [value]
    return len(numbers) in (1, 4) and all(type(n) is int and n > 0 for n in numbers)


# key -> (what is wanted, does a value fit)
CHECKS = {
    'name': ('a word', lambda value: isinstance(value, str)),
    'format': (' or '.join([*FORMATS, COCO, *LABELS]), lambda value: value in [*FORMATS, COCO, *LABELS]),
    'root': ('a folder', lambda value: isinstance(value, str)),
    'classes': (f'a list of names (yes, no, on, off in quotes) or `{FROM_ANNOTATIONS}`', _is_classes),
    'images': ('a folder, or one for each split', lambda value: isinstance(value, (str, dict))),
    'splits': ('names: image-set files or lists of ids', lambda value: isinstance(value, dict) and value),
    'train': ('the name of a split', lambda value: isinstance(value, str)),
    'test': ('the name of a split', lambda value: isinstance(value, str)),
    'base': ('0 or 1', lambda value: type(value) is int and value in (0, 1)),
    'cfg': ('a mapping of settings', lambda value: isinstance(value, dict)),
    'anchors': ('scales and ratios, lists of numbers above 0', _is_anchors),
    'max_iters': ('a whole number above 0, or four', _is_iters),
}
