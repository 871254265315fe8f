"""Open Images: tables read, the tree of classes, what is trained on, the metric of an imdb, and COCO's JSON of it."""

import json
import os

import numpy as np
import pytest

from datasets import factory
from datasets.openimages import find_files, of_split
from datasets.readers import openimages as reader
from devkits import (
    OPEN_IMAGES_BOXES,
    OPEN_IMAGES_CLASSES,
    OPEN_IMAGES_HEAD,
    OPEN_IMAGES_TREE,
    write,
    write_open_images,
)
from fast_rcnn.config import cfg, cfg_from_list, overrides
from pipeline.methods import METHODS
from pipeline.recipe import iterations


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """data/OpenImages with four images of 100 x 50 pixels."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path))
    root = tmp_path / 'OpenImages'
    write_open_images(root)
    return root


def test_what_is_read(kit):
    data = factory.get_imdb('openimages_v4_val')
    assert data.classes == ('__background__', *OPEN_IMAGES_CLASSES) and data.class_names[-1] == 'Toy, small'
    assert list(data.image_index) == ['a', 'b', 'c', 'd'] and data.image_size_at(1) == (100, 50)
    assert data.image_path_at(2) == str(kit / 'validation' / 'c.jpg')
    file = data._columns_of_files()
    assert file.counts.tolist() == [1, 2, 0, 1] and file.classes.tolist() == [3, 1, 4, 1]
    assert file.boxes[1].tolist() == [0.1, 0.2, 0.5, 0.6]
    assert file.flags.tolist() == [0, 2, 1 | 4, 8]  # -1, not known, is not set
    assert file.has('truncated', 'depiction').tolist() == [False, True, False, True]
    labels = zip(file.label_images.tolist(), file.label_classes.tolist(), file.positive.tolist())
    assert sorted(labels) == [(0, 2, True), (1, 2, False), (2, 5, True), (3, 4, False)]


def test_what_is_trained_on(kit):
    data = factory.get_imdb('openimages_v4_val')
    a, b, c, d = data.roidb
    assert a['boxes'].tolist() == [[0, 0, 99, 49]] and a['gt_classes'].tolist() == [3] and a.difficult == 0
    assert b['boxes'].tolist() == [[10, 10, 49, 29]] and b['gt_classes'].tolist() == [1]
    assert b.difficult == 1 and b.crowds.boxes.tolist() == [[50, 25, 99, 49]]  # the group
    assert len(c['boxes']) == 0 and c.difficult == 1  # there is a toy, nobody knows where: no negative
    assert d['gt_classes'].tolist() == [1] and d.difficult == 0
    assert (b['width'], b['height'], b['image']) == (100, 50, str(kit / 'validation' / 'b.jpg'))
    with overrides({'OPEN_IMAGES': {'LEFT_OUT': ['depiction', 'truncated']}}):
        counts = [len(entry['boxes']) for entry in factory.get_imdb('openimages_v4_val').roidb]
    assert counts == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="'groups' is none of occluded, truncated, group_of"):
        with overrides({'OPEN_IMAGES': {'LEFT_OUT': ['groups']}}):
            factory.get_imdb('openimages_v4_val').roidb


def test_mirror_images(kit):
    data = factory.get_imdb('openimages_v4_val')
    data.append_flipped_images()
    assert list(data.image_index) == [*'abcd'] * 2 and data.num_images == 8
    assert data.roidb[5]['boxes'].tolist() == [[50, 10, 89, 29]] and data.image_path_at(5).endswith('b.jpg')


def test_boxes_count_for_the_classes_above(kit):
    with overrides({'OPEN_IMAGES': {'EXPAND': True, 'LEFT_OUT': []}}):
        a, b, _, d = factory.get_imdb('openimages_v4_val').roidb
    assert a['gt_classes'].tolist() == [3, 2] and d['gt_classes'].tolist() == [1, 2]
    assert b['gt_classes'].tolist() == [1, 2, 4, 5] and b['boxes'][0].tolist() == b['boxes'][1].tolist()


def test_the_tree(tmp_path):
    """A class may have two places; parts are no kinds; what is no class hands its own on."""
    path = write(tmp_path / 'tree.json', json.dumps(OPEN_IMAGES_TREE))
    above = reader.read_hierarchy(path, ('__background__', *OPEN_IMAGES_CLASSES))
    pairs = [tuple(pair) for pair in np.argwhere(above).tolist()]
    assert pairs == [(1, 2), (3, 2), (4, 5)]
    above = reader.read_hierarchy(path, ('__background__', '/m/cat', '/m/car'))
    assert not above.any()
    rows, classes = reader.expanded(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], bool), [1, 2, 1])
    assert rows.tolist() == [0, 0, 1, 2, 2] and classes.tolist() == [1, 2, 2, 1, 2]
    assert [part.tolist() for part in reader.expanded(above, [])] == [[], []]
    for text in '[]', '{', '{"Subcategory": [{"Name": 3}]}':
        with pytest.raises(ValueError, match='t.json: not a tree of classes'):
            reader.read_hierarchy(write(tmp_path / 't.json', text), ('__background__',))


def found(data, detections):
    """all_boxes of (class, image, box, score)."""
    boxes = [[np.zeros((0, 5))] * data.num_images for _ in data.classes]
    for k, image, box, score in detections:
        boxes[k][image] = np.append(boxes[k][image], [[*box, score]], 0)
    return boxes


def test_the_metric(kit, capsys, tmp_path):
    """A cat and a dog are animals; in b animals are said not to be, and a cat is there: its box is one.

    cat: both found, 1. animal: cats of b and d, the dog of a; the cats alone are found: 2/3; in c nothing is known of
    animals, which does not count. dog: 0 of 1 found; that of c does not count. car: the group, with half of the detection in
    it; toy: that group too. In c there is said to be a toy: a wrong one, with the higher score."""
    data = factory.get_imdb('openimages_v4_val')
    boxes = found(
        data,
        [
            (1, 1, [10, 10, 49, 29], 0.9),
            (1, 3, [25, 13, 74, 36], 0.8),
            (3, 2, [0, 0, 99, 49], 0.95),
            (4, 1, [50, 25, 99, 49], 0.7),
            (4, 1, [60, 25, 80, 49], 0.6),
            (5, 2, [0, 0, 9, 9], 0.99),
        ],
    )
    aps = {'/m/cat': 1, '/m/animal': 2 / 3, '/m/dog': 0, '/m/car': 1, '/m/toy': 1 / 2}
    assert data.class_aps(boxes) == pytest.approx(aps)
    # V2: groups count neither way; the dog of c counts against animals, and comes first: 1/2, 2/3 at 2/3 of them
    v2 = {'/m/cat': 1, '/m/animal': 2 / 3 * 2 / 3, '/m/dog': 0}
    assert data.class_aps(boxes, group_weight=0) == pytest.approx(v2)
    assert data.evaluate_detections(boxes, str(tmp_path)) == pytest.approx(np.mean(list(aps.values())))
    told = capsys.readouterr().out
    assert 'AP for /m/toy (Toy, small) = 0.5000' in told and 'V2 metric' in told
    assert f'mean AP = {np.mean(list(v2.values())):.4f}' in told
    with overrides({'OPEN_IMAGES': {'EXPAND_DETECTIONS': False}}):
        alone = data.class_aps(boxes)
    assert alone == pytest.approx({**aps, '/m/animal': 0, '/m/toy': 0})
    rows = open(tmp_path / 'results' / 'detections_val.csv').read().splitlines()
    assert rows[0] == 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax' and len(rows) == 1 + 6 + 3 + 2
    assert rows[1] == 'b,/m/cat,0.900000,0.100000,0.500000,0.200000,0.600000'
    data.competition_mode(True)
    assert np.isnan(data.evaluate_detections(boxes))


def test_negative_labels_hold_for_the_classes_below(kit):
    data = factory.get_imdb('openimages_v4_val')
    verified = data.verified(data._columns_of_files())
    pairs = set(zip(*(column.tolist() for column in verified)))
    assert pairs == {(0, 2), (2, 5), (1, 2), (1, 1), (1, 3), (3, 4)}


def in_json(kit):
    """The same images as one file in COCO's format, with the fields that converters add."""
    rows = [
        {'id': 7 - i, 'file_name': f'{name}.jpg', 'width': 100, 'height': 50} for i, name in enumerate('dcba')
    ]
    rows[3]['pos_category_ids'], rows[1]['pos_category_ids'], rows[0]['neg_category_ids'] = [2], [5], [4]
    rows[2]['neg_category_ids'] = [2]
    boxes = [
        (5, 1, [10, 10, 40, 20], {'istruncated': True}),
        (4, 3, [0, 0, 100, 50], {}),
        (5, 4, [50, 25, 50, 25], {'isgroupof': 1, 'isoccluded': 1}),
        (7, 1, [25, 12.5, 50, 25], {'isdepiction': 1}),
    ]
    objects = [
        {'id': i, 'image_id': image, 'category_id': k, 'bbox': box, **flags}
        for i, (image, k, box, flags) in enumerate(boxes)
    ]
    categories = [{'id': i, 'name': name} for i, name in enumerate(OPEN_IMAGES_CLASSES, 1)]
    data = {'images': rows, 'annotations': objects, 'categories': categories}
    return write(kit / 'annotations' / 'val.json', json.dumps(data))


def test_annotations_in_cocos_format(kit):
    tables = factory.get_imdb('openimages_v4_val')
    file = tables._columns_of_files()
    in_json(kit)
    os.remove(kit / 'annotations' / 'validation-annotations-bbox.csv')
    os.rename(kit / 'validation', kit / 'val')
    data = factory.get_imdb('openimages_v4_val')
    assert data.files.annotations.endswith('val.json') and data.image_path_at(0) == str(kit / 'val' / 'a.jpg')
    for name, wanted, got in zip(file._fields, file, data._columns_of_files()):
        if name == 'sizes':
            assert got.tolist() == [[100, 50]] * 4
        elif not name.startswith(('label', 'positive')):
            np.testing.assert_allclose(got, wanted) if name == 'boxes' else np.testing.assert_array_equal(
                got, wanted
            )
    assert [set(part) for part in zip(*data.verified(data._columns_of_files()))] and sorted(
        zip(*(part.tolist() for part in data.verified(data._columns_of_files())))
    ) == sorted(zip(*(part.tolist() for part in tables.verified(file))))
    os.remove(kit / 'class-descriptions-boxable.csv')
    assert factory.get_imdb('openimages_v4_val').classes == ('__background__', *OPEN_IMAGES_CLASSES)


def test_groups_as_crowds(kit):
    path = write(
        kit / 'c.json',
        json.dumps(
            {
                'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 10, 'height': 10}],
                'categories': [{'id': 3, 'name': 'Cat', 'freebase_id': '/m/cat'}],
                'annotations': [{'image_id': 1, 'category_id': 3, 'bbox': [0, 0, 5, 5], 'iscrowd': 1}],
            }
        ),
    )
    assert reader.json_classes(path) == {'/m/cat': 'Cat'}
    assert reader.read_json(path, ('__background__', '/m/cat'), str(kit)).has('group_of').tolist() == [True]


def test_the_challenges_classes_are_a_part(kit):
    write(kit / 'challenge-2018-class-descriptions-500.csv', '/m/dog,Dog\n/m/animal,Animal\n')
    write(kit / 'bbox_labels_500_hierarchy.json', json.dumps(OPEN_IMAGES_TREE))
    data = factory.get_imdb('openimages_challenge_val')
    assert data.classes == ('__background__', '/m/dog', '/m/animal')
    assert [len(entry['boxes']) for entry in data.roidb] == [1, 0, 0, 0] and data.above[1, 2]
    write(kit / 'challenge-2018-train-annotations-bbox.csv', f'{OPEN_IMAGES_HEAD}\n{OPEN_IMAGES_BOXES}')
    assert find_files('challenge', 'train', str(kit)).boxes.endswith(
        'challenge-2018-train-annotations-bbox.csv'
    )
    described = factory.describe('openimages_challenge')
    assert described.classes == data.classes and described.cfg == {'TRAIN': {'USE_EMPTY': True}}
    planned = iterations(METHODS['faster_rcnn_end2end'], 'openimages_challenge')[0]
    assert set(planned) == {360000}


def test_a_large_table_is_kept(kit, monkeypatch):
    monkeypatch.setattr(reader, 'CACHE_FROM', 0)
    monkeypatch.setattr(reader, 'IMAGES_FROM', 0)
    monkeypatch.setattr(reader, 'ROWS', 2)
    wanted = [entry['boxes'].tolist() for entry in factory.get_imdb('openimages_v4_val').roidb]
    assert len(os.listdir(kit.parent / 'cache')) == 4  # tables and sizes, and their locks
    monkeypatch.setattr(reader, '_chunks', lambda *some: 1 / 0)
    os.remove(kit / 'validation' / 'a.jpg')
    assert [entry['boxes'].tolist() for entry in factory.get_imdb('openimages_v4_val').roidb] == wanted


@pytest.mark.parametrize(
    'text, message',
    [
        ('ImageID,LabelName\n', 'no column XMin, but ImageID, LabelName'),
        (f'{OPEN_IMAGES_HEAD}\na,x,/m/cat,1,0,1,0\n', 'after line 1: invalid column index'),
        (
            f'{OPEN_IMAGES_HEAD}\na,x,/m/cat,1,0,1,zero,1,0,0,0,0,0\n',
            "after line 1: could not convert string 'zero'",
        ),
        (f'{OPEN_IMAGES_HEAD}\na,x,/m/cat,1,0,1,nan,1,0,0,0,0,0\n', 'a corner that is no number, of image'),
        (
            f'{OPEN_IMAGES_HEAD}\n{"a" * 40},x,/m/cat,1,0,1,0,1,0,0,0,0,0\n',
            'ImageID: wanted less than 32 letters',
        ),
    ],
)
def test_wrong_tables_are_named(kit, text, message):
    write(kit / 'annotations' / 'validation-annotations-bbox.csv', text)
    with pytest.raises(ValueError, match=f'validation-annotations-bbox.csv: {message}'):
        factory.get_imdb('openimages_v4_val').roidb


def test_what_is_missing_is_named(kit, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match='train-annotations-bbox.csv: no such file. Open Images, or a link'
    ):
        factory.get_imdb('openimages_v4_train')
    with pytest.raises(FileNotFoundError, match='challenge-.*500.csv: no such file'):
        of_split('challenge', 'val')
    for text, message in ('', 'got none'), ('/m/a,A\n/m/a,B\n', 'listed twice'), ('/m/a\n', 'class id,name'):
        write(kit / 'class-descriptions-boxable.csv', text)
        with pytest.raises(ValueError, match=message):
            of_split('v4', 'val')


@pytest.mark.parametrize(
    'change, message',
    [
        ({'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 0, 'height': 5}]}, 'an image without size'),
        ({'images': [{'id': 1, 'file_name': 5, 'width': 9, 'height': 5}]}, "not COCO's format: TypeError"),
        (
            {'annotations': [{'image_id': 1, 'category_id': 1, 'bbox': [1, 2]}]},
            "not COCO's format: ValueError",
        ),
        (
            {'annotations': [{'image_id': 1, 'bbox': [1, 2, 3, 4]}]},
            "not COCO's format: KeyError: 'category_id'",
        ),
        ({'categories': [{'id': 1}]}, 'categories: wanted mappings with id and name'),
    ],
)
def test_wrong_json_is_named(tmp_path, change, message):
    sound = {'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 9, 'height': 5}], 'annotations': []}
    path = write(tmp_path / 'a.json', json.dumps({**sound, 'categories': [{'id': 1, 'name': 'x'}], **change}))
    with pytest.raises(ValueError, match=f'a.json: {message}'):
        classes = reader.json_classes(path)
        reader.read_json(path, ('__background__', *classes), str(tmp_path))


def test_tables_that_are_no_text(kit):
    for name in 'annotations/validation-annotations-bbox.csv', 'validation-images.csv':
        text = (kit / name).read_bytes()
        (kit / name).write_bytes(text + b'\xff\xfe,\n')
        with pytest.raises(ValueError, match=f'{name}: not a table in UTF-8'):
            factory.get_imdb('openimages_v4_val')
        (kit / name).write_bytes(text)
    write(kit / 'validation-images.csv', 'Subset,ImageID\nvalidation\n')
    with pytest.raises(ValueError, match='validation-images.csv: wanted an ImageID in each row'):
        factory.get_imdb('openimages_v4_val')


def test_settings_of_words():
    cfg_from_list(['OPEN_IMAGES.LEFT_OUT', "['group_of', 'inside']"])
    assert cfg.OPEN_IMAGES.LEFT_OUT == ('group_of', 'inside')
