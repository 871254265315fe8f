"""Several imdbs as one: a+b, VOC 07+12, and proposals of them all in a file."""

import numpy as np
import pytest

from datasets import factory
from devkits import obj, write_voc
from fast_rcnn.config import cfg, overrides
from pipeline.settings import dataset_of
from pipeline.stages import training_data
from utils.proposals import save_proposals

NAME = 'voc_2007_trainval+voc_2012_trainval'


@pytest.fixture
def devkits(tmp_path, monkeypatch):
    """VOC 2007 with two images, VOC 2012 with one."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path))
    old = {
        '000001': [obj('cat', 1, 1, 20, 20), obj('dog', 30, 10, 60, 40, difficult=1)],
        '000002': [obj('person', 5, 6, 25, 36)],
    }
    new = {'2008_000001': [obj('cow', 3, 3, 33, 33)]}
    write_voc(tmp_path / 'VOCdevkit2007' / 'VOC2007', old, {'trainval': old, 'test': ['000002']})
    write_voc(tmp_path / 'VOCdevkit2012' / 'VOC2012', new, {'trainval': new})
    write_voc(
        tmp_path / 'VOCdevkit0712' / 'VOC0712', {**old, **new}, {'trainval': [*old, *new], 'test': ['000002']}
    )
    return tmp_path


def test_images_are_those_of_the_parts(devkits):
    db = factory.get_imdb(NAME)
    assert (db.name, db.num_images, db.num_classes) == (NAME, 3, 21)
    assert db.image_index == ['000001', '000002', '2008_000001']
    assert db.image_path_at(1).endswith('VOC2007/JPEGImages/000002.jpg')
    assert db.image_path_at(2).endswith('VOC2012/JPEGImages/2008_000001.jpg') and db.image_size_at(2) == (
        60,
        40,
    )
    assert [entry['boxes'].tolist() for entry in db.roidb] == [
        [[0, 0, 19, 19]],
        [[4, 5, 24, 35]],
        [[2, 2, 32, 32]],
    ]
    db.append_flipped_images()
    assert db.num_images == 6 and db.image_path_at(5) == db.image_path_at(2)
    assert db.roidb[5]['boxes'].tolist() == [[27, 2, 57, 32]]


def test_difficult_objects_by_setting(devkits):
    for used in False, True:
        with overrides({'TRAIN.USE_DIFFICULT': used}):
            assert [len(entry['boxes']) for entry in factory.get_imdb(NAME).roidb] == [1 + used, 1, 1]


def test_a_merged_devkit(devkits):
    db = factory.get_imdb('voc_0712_trainval')
    assert db.num_images == 3 and len(db.roidb) == 3 and db.use_07_metric


def test_datasets_of_names(devkits):
    assert dataset_of(NAME) == dataset_of('voc_0712_test') == 'pascal_voc_0712'
    assert dataset_of('voc_2007_train+voc_2007_val') == dataset_of('voc_2012_test') == 'pascal_voc'
    assert dataset_of('coco_2014_train+coco_2014_valminusminival') == 'coco'
    described = factory.describe('pascal_voc_0712')
    assert (described.train_imdb, described.test_imdb, described.num_classes) == (NAME, 'voc_2007_test', 21)
    assert [db.name for db in factory.imdbs_of('pascal_voc_0712')] == [*NAME.split('+'), 'voc_2007_test']


def test_what_does_not_join_is_named(devkits):
    with pytest.raises(ValueError, match='is named twice'):
        factory.get_imdb('voc_2007_test+voc_2007_test')
    with pytest.raises(KeyError, match='unknown imdb voc_2013_test; the nearest is voc_201'):
        factory.get_imdb('voc_2007_test+voc_2013_test')
    factory.register('beasts', lambda: beasts())
    try:
        with pytest.raises(ValueError, match=r'voc_2007_test\+beasts: these have different classes'):
            factory.get_imdb('voc_2007_test+beasts')
    finally:
        factory._added.pop('beasts')


def beasts():
    db = factory.get_imdb('voc_2007_test')
    db._classes, db._name = ('__background__', 'beast'), 'beasts'
    return db


def test_proposals_of_all_are_one_file(devkits):
    """As rpn_generate.py writes it for the name: testing, and training set by set."""
    path = str(devkits / 'a_rpn_proposals.json')
    given = [np.full((1, 4), 10 * i, np.float32) + [0, 0, 9, 9] for i in range(3)]
    save_proposals(path, given)
    db = factory.get_imdb(NAME)
    db.set_proposal_method('rpn')
    db.config['rpn_file'] = path
    assert [entry['boxes'][-1].tolist() for entry in db.roidb] == [boxes[0].tolist() for boxes in given]
    with overrides({'TRAIN.PROPOSAL_METHOD': 'rpn', 'TRAIN.USE_FLIPPED': True}):
        data, roidb = training_data(NAME, path)
    assert data.name == NAME
    assert [(entry['boxes'][-1][1], entry['flipped']) for entry in roidb] == [
        (0, False), (10, False), (0, True), (10, True), (20, False), (20, True),
    ]  # fmt: skip
    save_proposals(path, given[:2])
    with pytest.raises(ValueError, match='proposals of 2 images, but .* has 3'):
        training_data_by_rpn(path)


def training_data_by_rpn(path):
    with overrides({'TRAIN.PROPOSAL_METHOD': 'rpn'}):
        return training_data(NAME, path)


def test_each_part_is_scored_by_its_own_rule(devkits, capsys, tmp_path):
    db = factory.get_imdb(NAME)
    found = [[np.zeros((0, 5))] * 3 for _ in db.classes]
    found[db.classes.index('cat')] = [np.array([[0, 0, 19, 19, 0.9]]), *[np.zeros((0, 5))] * 2]
    found[db.classes.index('cow')] = [*[np.zeros((0, 5))] * 2, np.array([[2, 2, 32, 32, 0.9]])]
    assert db.evaluate_detections(found, str(tmp_path / 'out')) == 0.75
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == 'Mean AP = 0.7500 (the mean of 2 sets)'
    assert 'Mean AP = 0.5000' in said and 'Mean AP = 1.0000' in said
    assert (tmp_path / 'out' / 'voc_2012_trainval').is_dir()
