"""COCO's format: loading, crowds, the evaluation, results; what is wrong in a file is named."""

import json
import os
import pickle

import cv2
import numpy as np
import pytest

import coco_scale
from datasets import coco, factory, own
from datasets.coco_imdb import coco_imdb
from datasets.readers import coco as coco_reader
from devkits import (
    TOY_CATEGORIES,
    coco_object,
    write,
    write_coco,
    write_coco_toy,
    write_image,
    write_xml,
    obj,
)
from fast_rcnn.config import cfg, overrides
from roi_data_layer.looks import Crop, Look, moved_record

SHARED = os.path.join(os.path.dirname(__file__), '..', '..', 'shared')
CATEGORIES = {1: 'cat', 3: 'dog', 90: 'yak'}
IMAGES = {
    'a.jpg': (
        60,
        40,
        [
            coco_object(90, 10, 5, 21, 11),
            coco_object(1, 0, 0, 60, 40, iscrowd=1, segmentation={'size': [40, 60], 'counts': [0, 2400]}),
            coco_object(3, 2.5, 3.25, 10.5, 8),
            coco_object(3, 50, 30, 20, 20),
        ],
    ),
    'b.jpg': (60, 40, []),
    'c.jpg': (60, 40, [coco_object(3, 5, 5, 1, 9), coco_object(1, 5, 6, 7, 8, area=30.5)]),
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    return tmp_path / 'data'


def kit(folder, images=IMAGES, categories=CATEGORIES, lines='', **more):
    """A dataset in COCO's format with one annotation file for two splits -> the path of its YAML file."""
    for name, (width, height, _) in images.items():
        write_image(folder / 'images' / name, width, height)
    write_coco(folder / 'annotations' / 'all.json', images, categories, **more)
    splits = 'splits: {train: annotations/all.json, val: annotations/all.json}\n'
    return write(folder / 'zoo.yml', f'name: zoo\nformat: coco\nroot: .\n{splits}{lines}')


def zoo(folder, **more):
    return own.make(own.load(kit(folder, **more)), 'train')


def test_boxes_and_classes(data, tmp_path):
    db = zoo(tmp_path)
    assert db.name == 'zoo_train' and db.classes == ('__background__', 'cat', 'dog', 'yak')
    assert db.image_index == [10, 20, 30] and db.image_path_at(1) == str(tmp_path / 'images' / 'b.jpg')
    assert db.image_size_at(2) == (60, 40)
    first, empty, last = db.roidb
    assert first['boxes'].tolist() == [[10, 5, 30, 15], [2.5, 3.25, 12, 10.25], [50, 30, 59, 39]]
    assert first['gt_classes'].tolist() == [3, 2, 2] and first['seg_areas'].tolist() == [231, 84, 400]
    assert len(empty['boxes']) == 0 and empty.difficult == 0
    assert last['boxes'].tolist() == [[5, 6, 11, 13]] and last['seg_areas'].tolist() == [30.5]
    assert first.difficult == 1  # the crowd: the image is no negative


def test_crowds_are_no_objects_on_request_either(data, tmp_path):
    db = zoo(tmp_path)
    with overrides({'TRAIN.USE_DIFFICULT': True}):
        assert [len(entry['boxes']) for entry in db.roidb] == [3, 0, 1]


def test_proposals_in_a_crowd_are_neither_foreground_nor_background(data, tmp_path):
    """By 0.7 of their own area, whatever they overlap."""
    images = {
        'a.jpg': (60, 40, [coco_object(1, 10, 10, 20, 20), coco_object(1, 0, 0, 30, 40, iscrowd=1)]),
        'b.jpg': (60, 40, [coco_object(1, 10, 10, 20, 20)]),
    }
    db = zoo(tmp_path, images=images)
    proposals = np.array(
        [[10, 10, 29, 29], [0, 0, 5, 5], [21, 0, 33, 9], [20, 0, 33, 9], [40, 0, 50, 9]], np.float32
    )
    with_crowd, without = (entry.with_proposals(proposals) for entry in db.gt_roidb())
    for record in (
        with_crowd,
        with_crowd.mirrored() if with_crowd.width else None,
        pickle.loads(pickle.dumps(with_crowd)),
    ):
        assert record['max_overlaps'].tolist()[0] == 1  # the object itself
        held = record['max_overlaps'][1:]
        assert held[:2].tolist() == [-1, -1]
        assert held[2] >= 0 and held[3] == -1 and held[4] == 0  # 9 of 13 columns are 0.69, 10 of 14 are 0.714
        assert record['max_classes'].tolist()[1:3] == [0, 0]
        assert record['gt_overlaps'].toarray().min() == 0
    assert without['max_overlaps'].min() == 0
    assert pickle.loads(pickle.dumps(without)).crowds is None


@pytest.mark.parametrize('flipped', [False, True])
def test_crowds_move_with_their_image(data, tmp_path, flipped):
    """Mirrored and cropped; the crowd is the left half, which a mirror image has on the right."""
    images = {'a.jpg': (60, 40, [coco_object(1, 40, 10, 15, 20), coco_object(1, 0, 0, 30, 40, iscrowd=1)])}
    (entry,) = zoo(tmp_path, images=images).gt_roidb()
    entry = entry.with_proposals(np.array([[12, 12, 20, 20], [41, 12, 50, 20]], np.float32))
    entry = entry.mirrored() if flipped else entry
    look = Look(60, mirrored=True, crop=Crop(8, 10, 55, 35, False))
    overlaps = moved_record(entry, look)['max_overlaps']
    assert overlaps[0] == 1 and overlaps[1] == -1 and overlaps[2] > 0


def test_the_digest_of_columns_knows_crowds(data, tmp_path):
    images = {'a.jpg': (60, 40, [coco_object(1, 1, 1, 9, 9), coco_object(1, 0, 0, 30, 40, iscrowd=1)])}
    one = zoo(tmp_path / 'one', images=images).gt_roidb()[0].source.digest
    images['a.jpg'][2][1]['bbox'] = [0, 0, 30, 30]
    assert zoo(tmp_path / 'two', images=images).gt_roidb()[0].source.digest != one


def test_flipped_images(data, tmp_path):
    db = zoo(tmp_path)
    db.append_flipped_images()
    assert db.num_images == 6 and db.image_path_at(3) == db.image_path_at(0)
    assert db.roidb[3]['boxes'][0].tolist() == [29, 5, 49, 15] and db.image_size_at(5) == (60, 40)


# -------------------------------------------------------------------------------- evaluation
def some_detections(db, seed=0):
    """The objects, moved a little, and others, of the images of an imdb."""
    random = np.random.default_rng(seed)
    found = [[np.zeros((0, 5), np.float32) for _ in range(db.num_images)] for _ in db.classes]
    for i, entry in enumerate(db.roidb):
        for k, box in zip(entry['gt_classes'], entry['boxes']):
            boxes = box + random.normal(0, 2, (3, 4)) + [[0, 0, 0, 0]]
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
            rows = np.hstack([boxes, random.random((3, 1))]).astype(np.float32)
            found[k][i] = np.vstack([found[k][i], rows])
    return found


def test_the_evaluation_is_pycocotools(data, tmp_path, capsys):
    """Run as its own demonstration does, on the annotation file and the results file; a crowd is among the objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    db = own.make(own.load(write_coco_toy(tmp_path, train=2, val=5)), 'val')
    detections = some_detections(db)
    mean = db.evaluate_detections(detections, str(tmp_path / 'out'))
    said = capsys.readouterr().out
    path = tmp_path / 'out' / 'results' / 'detections_val_results.json'
    assert f'Results are written to {path}' in said
    rows = json.loads(path.read_text())
    assert {row['category_id'] for row in rows} <= TOY_CATEGORIES.keys() and rows[0][
        'image_id'
    ] in db.image_index
    truth = COCO(str(tmp_path / 'annotations' / 'instances_val.json'))
    scoring = COCOeval(truth, truth.loadRes(str(path)), 'bbox')
    scoring.evaluate()
    scoring.accumulate()
    capsys.readouterr()
    scoring.summarize()
    summary = capsys.readouterr().out
    assert 0.1 < mean < 0.9 and mean == pytest.approx(scoring.stats[0], abs=1e-12)
    np.testing.assert_array_equal(db.scores(detections).stats, scoring.stats)
    lines = said.splitlines()
    assert '\n'.join(lines[-13:-1]) == summary.rstrip('\n') and lines[-1].startswith(f'Mean AP = {mean:.4f}')
    precision = scoring.eval['precision'][:, :, 0, 0, -1]
    if (precision > -1).any():
        assert f'AP for circle = {precision.mean():.4f}' in lines


def test_results_have_coco_ids_and_sides(data, tmp_path):
    db = zoo(tmp_path)
    found = [[np.zeros((0, 5))] * 3 for _ in range(4)]
    found[3][1] = np.array([[1, 2, 10, 21, 0.123456789]])
    path = db.write_results(found, str(tmp_path / 'out'))
    assert json.load(open(path)) == [
        {'image_id': 20, 'category_id': 90, 'bbox': [1, 2, 10, 20], 'score': 0.123457}
    ]


def test_no_detections_at_all(data, tmp_path, capsys):
    db = zoo(tmp_path)
    assert db.evaluate_detections([[np.zeros((0, 5))] * 3 for _ in range(4)]) == 0
    assert 'AP for yak = 0.0000' in capsys.readouterr().out


def test_annotations_without_area_or_from_id_0(data, tmp_path):
    """pycocotools itself ends with an error at the first, and takes the object with id 0 for one that nobody finds."""
    path = kit(tmp_path)
    file = tmp_path / 'annotations' / 'all.json'
    content = json.loads(file.read_text())
    for number, row in enumerate(content['annotations']):
        row['id'] = number
        row.pop('area'), row['iscrowd'] or row.pop('iscrowd')
    file.write_text(json.dumps(content))
    db = own.make(own.load(path), 'val')
    found = [[np.zeros((0, 5))] * 3 for _ in range(4)]
    found[3][0] = np.array([[10, 5, 30, 15, 0.9]])
    assert db.scores(found).aps[3] == pytest.approx(1) and db.roidb[2]['seg_areas'].tolist() == [56]


def test_images_to_be_tested_on_alone(data, tmp_path, capsys):
    """A file without annotations, as that of COCO's test."""
    path = kit(tmp_path)
    file = tmp_path / 'annotations' / 'all.json'
    file.write_text(
        json.dumps(
            {key: value for key, value in json.loads(file.read_text()).items() if key != 'annotations'}
        )
    )
    db = own.make(own.load(path), 'val')
    assert np.isnan(db.evaluate_detections([[np.zeros((0, 5))] * 3 for _ in range(4)], str(tmp_path / 'out')))
    assert os.listdir(tmp_path / 'out' / 'results') == ['detections_val_results.json']
    with pytest.raises(ValueError, match='all.json: has no annotations'):
        db.gt_roidb()


def test_coco_figures_of_a_voc_dataset(data, tmp_path, capsys):
    """Perfect detections; the difficult object is neither right nor wrong; on request not at all."""
    for name in 'ab':
        write_xml(
            tmp_path / 'Annotations' / f'{name}.xml',
            [obj('cat', 1, 1, 20, 20), obj('dog', 30, 10, 60, 40, difficult=1)],
        )
        write_image(tmp_path / 'JPEGImages' / f'{name}.jpg')
    lines = (
        'name: pets\nformat: voc\nroot: .\nclasses: [cat, dog]\nbase: 1\nsplits: {train: [a], val: [a, b]}\n'
    )
    db = own.make(own.load(write(tmp_path / 'pets.yml', lines)), 'val')
    found = [[], [np.array([[0, 0, 19, 19, 0.9]])] * 2, [np.array([[29, 9, 59, 39, 0.9]])] * 2]
    assert db.evaluate_detections(found) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith(
        'COCO-style AP 1.0000, AP50 1.0000, AP75 1.0000, small 1.0000, medium -, large -; AR1 1.0000'
    )
    assert said[-1].startswith('Mean AP = 1.0000')
    with overrides({'TEST.COCO_STYLE': False}):
        db.evaluate_detections(found)
    assert 'COCO-style' not in capsys.readouterr().out


# -------------------------------------------------------------------------------- the loader of VOC's boxes
def test_a_coco_copy_of_bccd(data, tmp_path):
    """The same boxes, classes and sizes; two boxes have no area in either."""
    root = os.path.abspath(os.path.join(SHARED, 'data', 'BCCD'))
    if not os.path.exists(root):
        pytest.skip('the BCCD dataset is not here')
    voc = own.make(
        own.load(write(tmp_path / 'voc.yml', f'name: one\nformat: voc\nroot: {root}\n')), 'trainval'
    )
    images = {}
    for i in range(voc.num_images):
        found = voc.annotation_at(i)
        boxes = found.boxes - [voc.base, voc.base, voc.base - 1, voc.base - 1]
        objects = [
            coco_object(2 * voc.class_index(name), x1, y1, x2 - x1, y2 - y1)
            for name, (x1, y1, x2, y2) in zip(found.names, boxes.tolist())
        ]
        images[os.path.basename(voc.image_path_at(i))] = *voc.image_size_at(i), objects
    write_coco(tmp_path / 'a.json', images, {2 * k: name for k, name in list(enumerate(voc.classes))[1:]})
    lines = (
        f'name: two\nformat: coco\nroot: {root}\nimages: JPEGImages\nsplits: {{train: a.json, val: a.json}}\n'
    )
    other = own.make(own.load(write(tmp_path / 'coco.yml', lines)), 'train')
    assert other.classes == voc.classes and other.num_images == 292
    for one, two in zip(voc.roidb, other.roidb, strict=True):
        assert one['image'] == two['image'] and (one['width'], one['height']) == (two['width'], two['height'])
        for key in 'boxes', 'gt_classes', 'seg_areas':
            np.testing.assert_array_equal(one[key], two[key])


# -------------------------------------------------------------------------------- what is wrong is named
def changed(key, number, **values):
    """A change of one row of a file; a value of None: its key is missing."""

    def change(content):
        for name, value in values.items():
            content[key][number][name] = value
            if value is None:
                del content[key][number][name]

    return change


WRONG = {
    'unknown image': (
        changed('annotations', 0, image_id=11),
        'annotation 1: image_id 11 is none of the 3 images',
    ),
    'no image': (changed('annotations', 0, image_id=None), 'annotation 1 has no image_id'),
    'unknown category': (
        changed('annotations', 1, category_id=2),
        'annotation 2: category_id 2 is none of the 3 cat',
    ),
    'box of three': (
        changed('annotations', 2, bbox=[1, 2, 3]),
        r'annotation 3: bbox: wanted 4 finite numbers, got \[1, 2',
    ),
    'box of a word': (
        changed('annotations', 2, bbox=[1, 2, 3, '4']),
        'annotation 3: bbox: wanted 4 finite numbers',
    ),
    'box of nan': (
        changed('annotations', 2, bbox=[1, 2, 3, float('nan')]),
        'annotation 3: bbox: wanted 4 finite numbers',
    ),
    'no box': (changed('annotations', 2, bbox=None), 'annotation 3 has no bbox'),
    'area': (changed('annotations', 2, area='big'), 'annotation 3: area: wanted 1 finite numbers'),
    'image without id': (changed('images', 1, id=None), 'image .*b.jpg.* has no id'),
    'image twice': (changed('images', 1, id=10), 'image with the id 10: there are two'),
    'ids of two kinds': (changed('images', 1, id='b'), 'image b: id: wanted a whole number or a word'),
    'no width': (changed('images', 1, width=None), 'image 20 has no width'),
    'width of 0': (changed('images', 1, width=0), r'image 20: a size of \[0, 40\] pixels'),
    'no name': (changed('images', 1, file_name=None), 'image 20 has no file_name'),
    'number as name': (changed('images', 1, file_name=7), 'image 20: file_name: wanted a name, got 7'),
    'category twice': (changed('categories', 1, name='cat'), "category with the name 'cat': there are two"),
    'no images': (lambda content: content.pop('images'), 'images: wanted a list of mappings, got None'),
    'images of none': (lambda content: content['images'].clear(), 'images: there are none'),
    'no categories': (lambda content: content['categories'].clear(), 'categories: wanted some'),
    'a word among them': (
        lambda content: content['annotations'].append('x'),
        'annotations: wanted a list of mappings',
    ),
}


@pytest.mark.parametrize('case', WRONG)
def test_wrong_files(data, tmp_path, case):
    change, message = WRONG[case]
    path = kit(tmp_path)
    file = tmp_path / 'annotations' / 'all.json'
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'^{file}: {message}'):
        own.load(path)


def test_a_truncated_file_and_a_missing_one(data, tmp_path):
    path = kit(tmp_path)
    file = tmp_path / 'annotations' / 'all.json'
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f'^{file}: not whole JSON'):
        own.load(path)
    file.write_text('[' * 100000)
    with pytest.raises(ValueError, match=f'^{file}: not whole JSON'):
        own.load(path)
    file.write_text('[]')
    with pytest.raises(ValueError, match=f'^{file}: wanted a mapping'):
        own.load(path)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=f'^{file}: no such annotation file. .*zoo.yml names it as split train'
    ):
        own.load(path)


def test_missing_images(data, tmp_path):
    path = kit(tmp_path)
    (tmp_path / 'images' / 'a.jpg').unlink()
    with pytest.raises(
        FileNotFoundError, match='zoo.yml: split train: its first image, a.jpg, is not in .*images/train or'
    ):
        own.load(path)


DESCRIBED = {
    'base': ('base: 1\n', 'base: the format coco has none'),
    'images of no folder': ('images: [1]\n', 'images: wanted a folder'),
    'unknown class': ('classes: [cat, dog]\n', "all.json, image 10: unknown class 'yak'; the nearest"),
}


@pytest.mark.parametrize('case', DESCRIBED)
def test_wrong_descriptions(data, tmp_path, case):
    lines, message = DESCRIBED[case]
    with pytest.raises(ValueError, match=message):
        own.make(own.load(kit(tmp_path, lines=lines)), 'train').gt_roidb()


def test_splits_of_other_categories(data, tmp_path):
    path = kit(tmp_path)
    write_coco(tmp_path / 'annotations' / 'other.json', IMAGES, {**CATEGORIES, 3: 'wolf'})
    text = (
        (tmp_path / 'zoo.yml').read_text().replace('val: annotations/all.json', 'val: annotations/other.json')
    )
    write(path, text)
    with pytest.raises(ValueError, match='other.json: its categories .*wolf.* are not those of .*all.json'):
        own.load(path)


def test_default_splits_and_folders(data, tmp_path):
    described = own.load(write_coco_toy(tmp_path, train=2, val=2))
    assert list(described.splits) == ['train', 'val'] and described.splits['val'] == [10, 20]
    assert described.files['val'][1] == str(tmp_path / 'images' / 'val')
    assert described.classes[1:] == tuple(TOY_CATEGORIES.values()) and described.num_classes == 5
    factory.register(str(tmp_path / 'toycoco.yml'))
    assert {'toycoco_train', 'toycoco_val', 'coco_2014_minival', 'coco_2017_train'} <= set(
        factory.list_imdbs()
    )
    assert factory.get_imdb('toycoco_val').num_images == 2


# -------------------------------------------------------------------------------- COCO itself
def write_official(root, word, images, folder, stem='instances'):
    for name, (width, height, _) in images.items():
        write_image(f'{root}/{folder}/{name}', width, height)
    write_coco(f'{root}/annotations/{stem}_{word}.json', images, coco.CATEGORIES)


def test_official_layouts(data):
    one = {'COCO_val2014_1.jpg': (60, 40, [coco_object(90, 1, 2, 30, 20)])}
    write_official(data / 'coco', 'minival2014', one, 'images/val2014')
    write_official(data / 'coco', 'val2017', {'000.jpg': one['COCO_val2014_1.jpg']}, 'val2017')
    write_official(data / 'coco', 'test-dev2017', {'001.jpg': (60, 40, [])}, 'images/test2017', 'image_info')
    for name, path in (
        ('coco_2014_minival', 'images/val2014/COCO_val2014_1.jpg'),
        ('coco_2017_val', 'val2017/000.jpg'),
        ('coco_2017_test-dev', 'images/test2017/001.jpg'),
    ):
        db = factory.get_imdb(name)
        assert (db.name, db.num_classes) == (name, 81) and db.image_path_at(0) == str(data / 'coco' / path)
        assert cv2.imread(db.image_path_at(0)) is not None
    assert factory.get_imdb('coco_2017_val').roidb[0]['gt_classes'].tolist() == [80]
    with pytest.raises(
        FileNotFoundError, match='instances_train2017.json: no such annotation file. COCO, or a link'
    ):
        factory.get_imdb('coco_2017_train')
    write_coco(
        data / 'coco' / 'annotations' / 'instances_train2014.json', one, {**coco.CATEGORIES, 90: 'toothpick'}
    )
    with pytest.raises(ValueError, match="80 categories, not the 80 of COCO: 'tooth.*' with id 90"):
        factory.get_imdb('coco_2014_train')


def test_coco_has_80_classes_of_90_numbers():
    assert (
        len(coco.CATEGORIES) == 80 and coco.CATEGORIES[1] == 'person' and coco.CATEGORIES[90] == 'toothbrush'
    )
    assert sorted({*range(1, 91)} - coco.CATEGORIES.keys()) == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    described = factory.describe('coco')
    assert (described.train_imdb, described.test_imdb) == ('coco_2017_train', 'coco_2017_val')
    assert described.num_classes == 81


def test_large_files_are_kept(data, tmp_path, monkeypatch):
    """In the cache folder, until they change."""
    monkeypatch.setattr(coco_reader, 'CACHE_FROM', 0)
    path = kit(tmp_path)
    first = own.make(own.load(path), 'train').roidb[0]['boxes']
    coco_reader._kept.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(coco_reader, '_columns', None)
        np.testing.assert_array_equal(own.make(own.load(path), 'train').roidb[0]['boxes'], first)
    images = {**IMAGES, 'b.jpg': (60, 40, [coco_object(1, 1, 1, 5, 5)])}
    assert len(zoo(tmp_path, images=images).roidb[1]['boxes']) == 1


def test_five_thousand_images(data, tmp_path):
    """Of which some are compared with what the file says, by a plain loop."""
    path = str(tmp_path / 'large.json')
    coco_scale.write(path, 5000, corners=3)
    db = coco_imdb('large_train', 'train', path, 'images')
    content = json.load(open(path))
    assert sum(map(len, (entry.objects for entry in db.roidb))) > 30000
    for number in 1, 77, 5000:
        rows = [row for row in content['annotations'] if row['image_id'] == number and not row['iscrowd']]
        wanted = [
            [x, y, x + width - 1, y + height - 1] for x, y, width, height in (row['bbox'] for row in rows)
        ]
        entry = db.roidb[number - 1]
        np.testing.assert_allclose(
            entry['boxes'], np.reshape(wanted, (-1, 4)).clip(0, [639, 479] * 2), atol=1e-4
        )
        assert entry['gt_classes'].tolist() == [row['category_id'] for row in rows]
        assert entry['seg_areas'].tolist() == pytest.approx([row['area'] for row in rows])
