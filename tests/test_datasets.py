"""Datasets of tiny devkits: roidb, flipping, proposals, recall, evaluation, registration."""

import logging
import os
import subprocess
import sys
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from datasets import factory, own, pascal_voc
from datasets.imagenet import SYNSETS, imagenet
from datasets.imdb import imdb, match_one_to_one
from datasets.readers.selective_search import load_selective_search, save_selective_search
from devkits import HEIGHT, WIDTH, obj, write, write_image, write_imagenet, write_voc, write_xml
from fast_rcnn.config import cfg
from utils.proposals import save_proposals

SHARED = os.path.join(os.path.dirname(__file__), '..', '..', 'shared')


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    return tmp_path / 'data'


@pytest.fixture
def voc(data):
    """VOC 2007 with two images, four objects, of which one is difficult."""
    images = {
        '000001': [obj('cat', 1, 1, 20, 20), obj('Dog', 30, 10, 60, 40, difficult=1)],
        '000002': [obj('person', 5, 6, 25, 36), obj('cat', 11, 11, 50, 40)],
    }
    write_voc(data / 'VOCdevkit2007' / 'VOC2007', images, {'trainval': images, 'test': ['000002']})
    return factory.get_imdb('voc_2007_trainval')


@pytest.fixture
def det(tmp_path):
    """A devkit of ILSVRC DET with two images of train and one of val."""
    root = str(tmp_path / 'ImageNet2015')
    images = {
        ('train', 'ILSVRC2013_train/n02084071/n02084071_1'): [obj('n02084071', 0, 0, 30, 40)],
        ('train', 'ILSVRC2014_train_0000/ILSVRC2014_train_00000001'): [],
        ('val', 'ILSVRC2012_val_00000001'): [obj('n02958343', 10, 5, 60, 39), obj('n02084071', 3, 4, 20, 30)],
    }
    ids = [image_id for _, image_id in images]
    write_imagenet(
        root,
        images,
        {
            'train': ids[:2] + ['ILSVRC2013_train_extra0/ILSVRC2013_train_00000009'],
            'val1': ids[2:],
            'val2': ids[2:],
        },
    )
    write_image(f'{root}/Data/DET/train/ILSVRC2013_train_extra0/ILSVRC2013_train_00000009.jpg')
    return root


def blood(folder, **more):
    """An own dataset in VOC layout; -> the path of its YAML file."""
    images = {
        'a': [obj('RBC', 1, 2, 30, 20), obj('WBC', 31, 5, 60, 40)],
        'b': [obj('RBC', 10, 10, 10, 30)],
        'c': [],
    }
    write_voc(folder / 'BCCD', images, {'train': ['a', 'b'], 'val': ['c', 'a']}, '.png')
    return description(folder, **{'name': 'blood', 'format': 'voc', 'root': 'BCCD', **more})


def description(folder, **values):
    return write(folder / 'blood.yml', ''.join(f'{key}: {value}\n' for key, value in values.items()))


def perfect(db):
    """Detections that are the objects themselves."""
    all_boxes = [[np.zeros((0, 5))] * db.num_images for _ in db.classes]
    for i, entry in enumerate(db.gt_roidb()):
        for cls in set(entry['gt_classes'].tolist()):
            boxes = entry['boxes'][entry['gt_classes'] == cls]
            all_boxes[cls][i] = np.hstack([boxes, np.full((len(boxes), 1), 0.9)])
    return all_boxes


# -------------------------------------------------------------------------------- roidb
def test_voc_roidb(voc):
    assert voc.num_classes == 21 and voc.num_images == 2
    first, second = voc.roidb
    np.testing.assert_array_equal(first['boxes'], [[0, 0, 19, 19]])
    np.testing.assert_array_equal(second['boxes'], [[4, 5, 24, 35], [10, 10, 49, 39]])
    assert [voc.classes[k] for k in second['gt_classes']] == ['person', 'cat']
    assert second['gt_overlaps'].toarray()[[0, 1], second['gt_classes']].tolist() == [1, 1]
    assert second['gt_overlaps'].sum() == 2 and second['gt_overlaps'].shape == (2, 21)
    assert second['seg_areas'].tolist() == [21 * 31, 40 * 30]
    assert second['boxes'].dtype == np.float32 and second['gt_classes'].dtype == np.int32
    assert first['flipped'] is False


def test_difficult_objects_on_request(data, voc):
    voc.config['use_diff'] = True
    assert voc.gt_roidb()[0]['boxes'].tolist() == [[0, 0, 19, 19], [29, 9, 59, 39]]


def test_flipped_entries_follow_the_others(voc):
    voc.append_flipped_images()
    assert voc.num_images == len(voc.roidb) == 4
    assert [entry['flipped'] for entry in voc.roidb] == [False, False, True, True]
    np.testing.assert_array_equal(voc.roidb[3]['boxes'], [[35, 5, 55, 35], [10, 10, 49, 39]])
    assert voc.image_path_at(3) == voc.image_path_at(1) and voc.image_size_at(3) == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match='already'):
        voc.append_flipped_images()


def test_another_handler_starts_from_the_unflipped_images(voc):
    voc.append_flipped_images()
    voc.set_proposal_method('gt')
    assert len(voc.roidb) == voc.num_images == 2


def test_a_coordinate_below_the_first_pixel_does_not_wrap(data):
    images = {'1': [obj('cat', 0, 0, 20, 20)]}
    write_voc(data / 'VOCdevkit2012' / 'VOC2012', images, {'train': images})
    assert factory.get_imdb('voc_2012_train').roidb[0]['boxes'].tolist() == [[0, 0, 19, 19]]


def test_an_unknown_class_is_named_with_file_and_nearest(data, voc):
    write_xml(data / 'VOCdevkit2007' / 'VOC2007' / 'Annotations' / '000002.xml', [obj('catt', 1, 1, 9, 9)])
    with pytest.raises(ValueError, match="000002.xml: unknown class 'catt'; the nearest .* is 'cat'"):
        factory.get_imdb('voc_2007_trainval').roidb


def test_boxes_are_cut_to_the_real_image_whatever_the_xml_says(data, voc):
    path = data / 'VOCdevkit2007' / 'VOC2007' / 'Annotations' / '000001.xml'
    write_xml(path, [obj('cat', 1, 1, 200, 30)], width=640)
    assert factory.get_imdb('voc_2007_trainval').roidb[0]['boxes'].tolist() == [[0, 0, WIDTH - 1, 29]]


def test_imagenet_roidb(det):
    db = imagenet('val2', '2015', det)
    assert (db.name, db.num_classes) == ('imagenet_2015_val2', 201)
    np.testing.assert_array_equal(db.roidb[0]['boxes'], [[10, 5, 59, 39], [3, 4, 20, 30]])
    assert [db.class_names[k] for k in db.roidb[0]['gt_classes']] == ['car', 'dog']
    assert db.image_path_at(0) == f'{det}/Data/DET/val/ILSVRC2012_val_00000001.JPEG'


def test_synsets_are_in_class_order():
    assert len(SYNSETS) == 200
    assert list(SYNSETS.items())[0] == ('n02672831', 'accordion') and list(SYNSETS)[36] == 'n02958343'


def test_images_without_objects(det):
    db = imagenet('train', '2015', det)
    assert [len(entry['boxes']) for entry in db.roidb] == [1, 0, 0]
    db.append_flipped_images()
    for entry in db.roidb[1:3]:
        assert entry['boxes'].shape == (0, 4) and entry['gt_overlaps'].shape == (0, 201)
        assert entry['gt_classes'].shape == entry['seg_areas'].shape == (0,)
        assert entry['gt_overlaps'].toarray().max(axis=1).shape == (0,)


def test_trainval1_woextra_is_made_of_train_and_val1(det):
    assert imagenet('trainval1_woextra', '2015', det).image_index == [
        'ILSVRC2013_train/n02084071/n02084071_1',
        'ILSVRC2014_train_0000/ILSVRC2014_train_00000001',
        'ILSVRC2012_val_00000001',
    ]


def test_train_is_made_of_the_lists_per_class(det):
    sets = f'{det}/ImageSets/DET'
    os.remove(f'{sets}/train.txt')
    write(f'{sets}/train_2.txt', 'ILSVRC2013_train/n02084071/n02084071_1 -1\nB 1\n')
    write(f'{sets}/train_10.txt', 'C 1\n')
    write(f'{sets}/train_1.txt', 'A 1\nILSVRC2013_train/n02084071/n02084071_1 0\n')
    assert imagenet('train', '2015', det).image_index == [
        'A',
        'ILSVRC2013_train/n02084071/n02084071_1',
        'B',
        'C',
    ]


def test_missing_image_sets_say_where_they_come_from(det, data):
    os.remove(f'{det}/ImageSets/DET/val1.txt')
    with pytest.raises(FileNotFoundError, match='val1.txt: no such image set.*R-CNN'):
        imagenet('trainval1_woextra', '2015', det)
    with pytest.raises(FileNotFoundError, match='VOC2007/ImageSets/Main/trainval.txt.*devkit'):
        factory.get_imdb('voc_2007_trainval')
    with pytest.raises(FileNotFoundError, match='ImageNet2015/ImageSets/DET/train.txt'):
        factory.get_imdb('imagenet_2015_train')


def test_readers_and_evaluators_know_neither_each_other_nor_training():
    for room, other in ('readers', 'evaluators'), ('evaluators', 'readers'):
        for path in Path(factory.__file__).parent.glob(f'{room}/*.py'):
            imports = re.findall(r'^(?:from|import) ([\w.]+)', path.read_text(), re.M)
            assert not [
                name for name in imports if re.match(rf'datasets\.{other}|fast_rcnn|roi_data_layer', name)
            ], path


# -------------------------------------------------------------------------------- proposals
def test_rpn_roidb_has_objects_first_then_proposals(voc, tmp_path):
    path = str(tmp_path / 'proposals.npz')
    save_proposals(path, [np.zeros((0, 4)), [[10, 10, 49, 39], [0, 0, 3, 3], [4, 5, 24, 20]]])
    voc.config['rpn_file'] = path
    voc.set_proposal_method('rpn')
    first, second = voc.roidb
    assert len(first['boxes']) == 1 and len(second['boxes']) == 5
    assert second['gt_classes'].tolist() == [15, 8, 0, 0, 0] and second['seg_areas'].tolist()[2:] == [0, 0, 0]
    overlaps = second['gt_overlaps'].toarray()
    assert overlaps[2, 8] == 1 and overlaps[3].sum() == 0
    assert overlaps[4, 15] == pytest.approx(21 * 16 / (21 * 31))
    assert scipy.sparse.issparse(second['gt_overlaps']) and overlaps.shape == (5, 21)


def test_proposals_of_another_number_of_images(voc, tmp_path):
    path = str(tmp_path / 'proposals.npz')
    save_proposals(path, [np.zeros((1, 4))])
    voc.config['rpn_file'] = path
    with pytest.raises(ValueError, match='proposals of 1 images, but voc_2007_trainval has 2'):
        voc.rpn_roidb()
    voc.config['rpn_file'] = None
    with pytest.raises(ValueError, match='rpn_file'):
        voc.rpn_roidb()


def test_unknown_proposal_method(voc):
    with pytest.raises(ValueError, match="'edge_boxes', known: default, gt, rpn, selective_search"):
        voc.set_proposal_method('edge_boxes')


def test_selective_search(voc, data):
    """As MATLAB writes it: unsigned numbers, y before x, from 1; image order is the file's own."""
    cells, names = np.empty((1, 2), object), np.empty((2, 1), object)
    cells[0, 0] = np.array([[11, 11, 40, 50], [1, 1, 40, 60], [1, 1, 40, 60], [7, 7, 7, 7]], np.uint16)
    cells[0, 1] = np.array([[1, 1, 1, 30], [2, 1, 21, 500]], np.uint16)
    names[:, 0] = ['000002', '000001']
    path = data / 'selective_search_data' / 'voc_2007_trainval.mat'
    os.makedirs(path.parent)
    scipy.io.savemat(str(path), {'boxes': cells, 'images': names})
    voc.set_proposal_method('selective_search')
    first, second = voc.roidb
    assert first['boxes'].tolist() == [[0, 0, 19, 19], [0, 1, 59, 20]]
    assert second['boxes'].tolist()[2:] == [[10, 10, 49, 39], [0, 0, 59, 39]]
    assert second['gt_overlaps'].toarray()[2, 8] == 1


def test_selective_search_round_trip_and_errors(tmp_path):
    path = str(tmp_path / 'p.mat')
    boxes = [np.array([[0, 1, 20, 30.0]]), np.zeros((0, 4)), np.array([[3, 4, 5, 6.0]])]
    save_selective_search(path, ['a', 'b', 'c'], boxes)
    for got, wanted in zip(load_selective_search(path, ['c', 'b', 'a']), boxes[::-1]):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match='no proposals for 1 of 2 images, first d'):
        load_selective_search(path, ['a', 'd'])
    with pytest.raises(FileNotFoundError, match='none.mat'):
        load_selective_search(str(tmp_path / 'none.mat'), ['a'])
    scipy.io.savemat(path, {'rois': 1})
    with pytest.raises(ValueError, match='got rois'):
        load_selective_search(path, ['a'])


def test_merge_and_box_list(voc):
    a = voc.create_roidb_from_box_list([np.array([[0, 0, 9, 9, 0.5]]), []], voc.gt_roidb())
    assert a[0]['boxes'].shape == (1, 4) and a[1]['boxes'].shape == (0, 4)
    merged = imdb.merge_roidbs(a, a)
    assert merged[0]['boxes'].shape == (2, 4) and merged[0]['gt_overlaps'].shape == (2, 21)
    assert len(a[0]['boxes']) == 1
    with pytest.raises(ValueError, match='2 and 1'):
        imdb.merge_roidbs(a, a[:1])


def test_recall(voc):
    """Image 1: one box covers its object by half; image 2: one box for two objects, and one elsewhere."""
    boxes = [np.array([[0, 0, 19, 9]]), np.array([[10, 10, 49, 39], [50, 0, 59, 5]])]
    result = voc.evaluate_recall(boxes, thresholds=[0.5, 0.6, 1.0])
    np.testing.assert_allclose(result['gt_overlaps'], [0, 0.5, 1])
    np.testing.assert_allclose(result['recalls'], [2 / 3, 1 / 3, 1 / 3])
    assert result['ar'] == pytest.approx(4 / 9)
    assert voc.evaluate_recall(boxes, [0.4], area='medium')['recalls'].tolist() == [1]
    assert voc.evaluate_recall(boxes, [0.4], area='small')['recalls'].tolist() == [0.5]
    assert np.isnan(voc.evaluate_recall(boxes, area='large')['ar'])
    assert voc.evaluate_recall([boxes[0], boxes[1][::-1]], [0.4], limit=1)['recalls'].tolist() == [1 / 3]
    with pytest.raises(ValueError, match="'tiny', known: all, small"):
        voc.evaluate_recall(area='tiny')


def test_recall_of_the_roidbs_own_proposals(voc, tmp_path):
    voc.config['rpn_file'] = str(tmp_path / 'p.npz')
    save_proposals(voc.config['rpn_file'], [np.array([[0, 0, 19, 19.0]]), np.zeros((0, 4))])
    voc.set_proposal_method('rpn')
    assert voc.evaluate_recall()['ar'] == pytest.approx(1 / 3)


def test_one_box_serves_one_object():
    assert sorted(match_one_to_one([[0, 0, 9, 9]], [[0, 0, 9, 9], [0, 0, 9, 9]])) == [0, 1]
    assert match_one_to_one(np.zeros((0, 4)), [[0, 0, 9, 9]]).tolist() == [0]


# -------------------------------------------------------------------------------- evaluation
def test_perfect_detections_have_an_ap_of_one(voc, tmp_path, capsys):
    assert voc.evaluate_detections(perfect(voc), str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert 'AP for cat = 1.0000' in out and 'Mean AP = 1.0000' in out
    (absent,) = re.findall('No objects here: (.*)', out)
    assert len(absent.split(', ')) == 18 and {'dog', 'sheep'} <= set(absent.split(', '))
    assert out.endswith('Mean AP = 1.0000 (of 2 classes; 18 without objects here are left out)\n')


def test_voc_result_files(voc, tmp_path):
    all_boxes = perfect(voc)
    all_boxes[8][0] = np.array([[0, 0, 19, 19, 0.1234567]])
    voc.evaluate_detections(all_boxes, str(tmp_path))
    folder = tmp_path / 'results' / 'VOC2007' / 'Main'
    assert len(os.listdir(folder)) == 20
    assert (folder / 'comp4_det_trainval_cat.txt').read_text() == (
        '000001 0.123457 1.0 1.0 20.0 20.0\n000002 0.900000 11.0 11.0 50.0 40.0\n'
    )


def test_metric_by_year(data, voc):
    images = {'1': [obj('cat', 1, 1, 20, 20)]}
    write_voc(data / 'VOCdevkit2012' / 'VOC2012', images, {'val': images})
    assert voc.use_07_metric and not factory.get_imdb('voc_2012_val').use_07_metric


def test_competition_mode_needs_no_annotations(data):
    images = {'000001': []}
    write_voc(data / 'VOCdevkit2012' / 'VOC2012', images, {'test': images})
    os.remove(data / 'VOCdevkit2012' / 'VOC2012' / 'Annotations' / '000001.xml')
    db = factory.get_imdb('voc_2012_test')
    all_boxes = [[[]] for _ in db.classes]
    with pytest.raises(FileNotFoundError, match='000001.xml'):
        db.evaluate_detections(all_boxes, str(data))
    db.competition_mode(True)
    assert np.isnan(db.evaluate_detections(all_boxes, str(data / 'out')))
    assert len(os.listdir(data / 'out' / 'results' / 'VOC2012' / 'Main')) == 20


def test_detections_of_another_shape(voc):
    with pytest.raises(ValueError, match='21 classes .* 2 images, got 3 classes'):
        voc.evaluate_detections([[[], []]] * 3)


def test_imagenet_scores_detections_as_written(det, tmp_path):
    """One is added to detections, nothing to the XML: a box of 2x2 pixels at the same place has IoU 1/7."""
    write_xml(f'{det}/Annotations/DET/val/ILSVRC2012_val_00000001.xml', [obj('n02958343', 10, 10, 11, 11)])
    db = imagenet('val2', '2015', det)
    all_boxes = perfect(db)
    assert db.class_aps(all_boxes) == {'n02958343': 0}
    all_boxes[37][0][:, :4] -= 1
    assert db.class_aps(all_boxes) == {'n02958343': 1}
    db.evaluate_detections(all_boxes, str(tmp_path))
    assert (tmp_path / 'results' / 'comp4_det_val2_n02958343.txt').read_text() == (
        'ILSVRC2012_val_00000001 0.900000 10.0 10.0 11.0 11.0\n'
    )


@pytest.mark.parametrize('run', ['ap', 'ap_two_nets'])
def test_imagenet_ap_as_recorded(tmp_path, run):
    """Detections of the original on 12 images, and the AP it gave them, class by class."""
    golden = np.load(os.path.join(os.path.dirname(__file__), 'golden', 'imagenet_ap.npz'))
    ids = golden['ids'].tolist()
    for i, (image_id, size) in enumerate(zip(ids, golden['sizes'])):
        mine = golden['gt_images'] == i
        objects = [obj(name, *box) for name, box in zip(golden['gt_wnids'][mine], golden['gt_boxes'][mine])]
        write_xml(tmp_path / 'Annotations' / 'DET' / 'val' / f'{image_id}.xml', objects)
        write_image(tmp_path / 'Data' / 'DET' / 'val' / f'{image_id}.jpg', *size.tolist())
    write(tmp_path / 'ImageSets' / 'DET' / 'val2.txt', '\n'.join(ids))
    rows = golden[f'rows_{run}']
    all_boxes = [
        [rows[(rows[:, 0] == k) & (rows[:, 1] == i), 2:] for i in range(len(ids))] for k in range(201)
    ]
    aps = imagenet('val2', '2015', str(tmp_path)).class_aps(all_boxes)
    assert aps == pytest.approx(dict(zip(golden[f'wnids_{run}'].tolist(), golden[run].tolist())), abs=1e-9)


# -------------------------------------------------------------------------------- own datasets
def test_own_dataset_with_three_keys(data, tmp_path, caplog):
    described = factory.register(blood(tmp_path))
    assert described.classes == ('__background__', 'RBC', 'WBC') and described.num_classes == 3
    assert (described.train_imdb, described.test_imdb, described.base) == ('blood_train', 'blood_val', 1)
    assert (described.cfg, described.anchors, described.max_iters) == (
        {'TRAIN': {'USE_EMPTY': True}},
        None,
        None,
    )
    db = factory.get_imdb('blood_train')
    with caplog.at_level(logging.WARNING):
        assert [len(entry['boxes']) for entry in db.roidb] == [2, 0]
        db.gt_roidb()
    assert [record.getMessage() for record in caplog.records] == [
        'blood_train: 0 boxes clipped, 0 inverted, 1 dropped (1 zero area, 0 outside the image): '
        'tools/check_dataset.py lists them'
    ]
    np.testing.assert_array_equal(db.roidb[0]['boxes'], [[0, 1, 29, 19], [30, 4, 59, 39]])
    assert [len(entry['boxes']) for entry in factory.get_imdb('blood_val').roidb] == [0, 2]
    assert db.evaluate_detections(perfect(db), str(tmp_path / 'out')) == 1
    results = tmp_path / 'out' / 'results' / 'comp4_det_train_WBC.txt'
    assert results.read_text() == 'a 0.900000 31.0 5.0 60.0 40.0\n'


def test_own_dataset_with_every_key(data, tmp_path):
    write(tmp_path / 'ids.txt', 'b\nc\n')
    path = blood(
        tmp_path,
        classes='[WBC, RBC]',
        splits='{one: [a], two: ids.txt}',
        train='one',
        test='two',
        base='0',
        cfg='{TRAIN: {SCALES: [480]}}',
        anchors='{scales: [2, 4], ratios: [1]}',
        max_iters='[1, 2, 3, 4]',
    )
    described = factory.register(path)
    assert described.classes[1:] == ('WBC', 'RBC') and described.train_imdb == 'blood_one'
    assert described.splits == {'one': ['a'], 'two': ['b', 'c']}
    assert described.cfg == {'TRAIN': {'USE_EMPTY': True, 'SCALES': [480]}} and described.max_iters == [
        1,
        2,
        3,
        4,
    ]
    assert described.anchors == {'scales': [2, 4], 'ratios': [1]}
    db = factory.get_imdb('blood_one')
    assert db.roidb[0]['boxes'].tolist() == [[1, 2, 30, 20], [31, 5, 59, 39]]
    assert db.roidb[0]['gt_classes'].tolist() == [2, 1]


def test_base_is_one_for_all_splits(data, tmp_path):
    path = blood(tmp_path)
    write_xml(tmp_path / 'BCCD' / 'Annotations' / 'c.xml', [obj('RBC', 0, 5, 9, 9)])
    assert factory.register(path).base == 0
    assert factory.get_imdb('blood_train').roidb[0]['boxes'][0].tolist() == [1, 2, 30, 20]


def test_own_dataset_in_imagenet_layout(data, tmp_path):
    images = {
        ('train', '1'): [obj('n02084071', 1, 2, 30, 20)],
        ('val', '1'): [obj('star', 1, 2, 20, 30)],
        ('val', '2'): [],
    }
    write_imagenet(
        tmp_path / 'kit',
        images,
        {'train': ['1'], 'val': ['1', '2'], 'train_1': ['1'], 'both': ['train/1', 'val/1']},
    )
    factory.register(description(tmp_path, name='blood', format='imagenet', root='kit'))
    db = factory.get_imdb('blood_val')
    assert db.classes == ('__background__', 'n02084071', 'star') and db.class_names[1:] == ('dog', 'star')
    assert [entry['gt_classes'].tolist() for entry in db.roidb] == [[2], []]
    assert factory.get_imdb('blood_train').roidb[0]['boxes'].tolist() == [[1, 2, 30, 20]]
    assert [len(entry['boxes']) for entry in factory.get_imdb('blood_both').roidb] == [1, 1]
    assert factory.describe('blood').splits.keys() == {'train', 'val', 'both'}


def test_synsets_may_be_listed_by_name(data, tmp_path):
    images = {('train', '1'): [obj('n02084071', 1, 2, 30, 20), obj('n02958343', 1, 2, 30, 20)]}
    write_imagenet(tmp_path / 'kit', images, {'train': ['1'], 'val': ['1']})
    path = description(tmp_path, name='blood', format='imagenet', root='kit', classes='[car, dog]')
    factory.register(path)
    assert factory.get_imdb('blood_train').roidb[0]['gt_classes'].tolist() == [2, 1]


def test_an_id_in_two_folders_of_a_split_of_another_name(data, tmp_path):
    images = {('train', '1'): [obj('a', 1, 2, 30, 20)], ('val', '1'): []}
    write_imagenet(tmp_path / 'kit', images, {'train': ['1'], 'val': ['1'], 'both': ['1']})
    with pytest.raises(ValueError, match='image 1 lies in more than one of the folders train, val'):
        factory.register(description(tmp_path, name='blood', format='imagenet', root='kit'))


def test_voc_lists_per_class_are_no_splits(data, tmp_path):
    path = blood(tmp_path)
    write(tmp_path / 'BCCD' / 'ImageSets' / 'Main' / 'RBC_train.txt', 'a  1\nb -1\n')
    assert list(factory.register(path).splits) == ['train', 'val']


BAD_YAML = {
    'unknown setting': (
        {'cfg': '{TRAIN: {SCALESS: [480]}}'},
        'blood.yml: cfg: unknown setting TRAIN.SCALESS',
    ),
    'setting of a wrong type': (
        {'cfg': '{TRAIN: {SCALES: abc}}'},
        'blood.yml: cfg: TRAIN.SCALES wants tuple',
    ),
    'unknown key': ({'anchor': '{}'}, "blood.yml: unknown key 'anchor'; the nearest is 'anchors'"),
    'format': (
        {'format': 'kitti'},
        "format: wanted voc or imagenet or coco or yolo or csv or labelme or cvat, got 'kitti'",
    ),
    'root': ({'root': 'nowhere'}, 'root: no such folder .*nowhere'),
    'name': ({'name': 'a/b'}, "name: wanted a word .* got 'a/b'"),
    'yes is no name': ({'classes': '[yes, RBC]'}, 'classes: wanted a list of names .* in quotes'),
    'twice': ({'classes': '[RBC, WBC, RBC]'}, "'RBC' is listed twice"),
    'split': ({'train': 'trainval'}, "train: there is no split 'trainval', but train, val"),
    'split file': ({'splits': '{train: none.txt, val: [a]}'}, 'none.txt: no such image set'),
    'anchors': ({'anchors': '{scale: [2]}'}, 'anchors: wanted scales and ratios'),
    'max_iters': ({'max_iters': '[1, 2]'}, 'max_iters: wanted a whole number'),
    'base': ({'base': '2'}, 'base: wanted 0 or 1, got 2'),
    'built-in name': ({'name': 'imagenet'}, "'imagenet' is a built-in"),
    'built-in prefix': ({'name': 'voc_2007'}, "'voc_2007' is a built-in"),
}


@pytest.mark.parametrize('case', BAD_YAML)
def test_bad_descriptions(data, tmp_path, case):
    values, message = BAD_YAML[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        factory.register(blood(tmp_path, **values))
    assert not os.path.exists(data / 'datasets')


def test_descriptions_that_are_no_mapping(tmp_path):
    with pytest.raises(ValueError, match=r'x\.yml:1:6: [^\n]+$'):
        own.load(write(tmp_path / 'x.yml', 'a: [1'))
    with pytest.raises(ValueError, match='x.yml: wanted a mapping'):
        own.load(write(tmp_path / 'x.yml', 'just words'))
    with pytest.raises(ValueError, match='x.yml: root is missing'):
        own.load(write(tmp_path / 'x.yml', 'name: x\nformat: voc'))
    with pytest.raises(FileNotFoundError, match='y.yml'):
        own.load(str(tmp_path / 'y.yml'))


def test_a_name_belongs_to_one_file(data, tmp_path):
    first, second = blood(tmp_path / '1'), blood(tmp_path / '2')
    assert factory.register(first).path == factory.register(first).path == os.path.realpath(first)
    with pytest.raises(ValueError, match='2/blood.yml.*registered for .*1/blood.yml'):
        factory.register(second)
    os.remove(first)
    factory.register(second)
    assert factory.describe('blood').path == os.path.realpath(second)
    assert os.listdir(data / 'datasets') == ['blood.yml']


def test_the_longest_name_that_has_the_split(data, tmp_path):
    factory.register(blood(tmp_path / '1', name='toy', splits='{train: [b], val: [c, a], x_train: [c]}'))
    factory.register(blood(tmp_path / '2', name='toy_x', splits='{train: [a], val: [b], x_val: [c]}'))
    assert factory.get_imdb('toy_x_train').image_index == ['a']
    assert factory.get_imdb('toy_val').image_index == ['c', 'a']
    assert {'toy_val', 'toy_x_x_val', 'voc_2007_test', 'imagenet_2015_val2'} <= set(factory.list_imdbs())


def test_unknown_names_list_what_there_is(data, tmp_path):
    factory.register(blood(tmp_path))
    with pytest.raises(KeyError, match='imdb blood_trian; the nearest is blood_train.*datasets .*: blood'):
        factory.get_imdb('blood_trian')
    with pytest.raises(KeyError, match='nearest is voc_2007_test'):
        factory.get_imdb('voc_2007_tset')
    with pytest.raises(KeyError, match='unknown dataset blod; the nearest is blood'):
        factory.describe('blod')


def test_built_in_descriptions():
    described = factory.describe('pascal_voc')
    assert (described.train_imdb, described.test_imdb) == ('voc_2007_trainval', 'voc_2007_test')
    assert described.name == 'pascal_voc' and described.num_classes == 21
    assert described.classes[1:] == pascal_voc.CLASSES
    described = factory.describe('imagenet')
    assert described.num_classes == 201
    assert described.train_imdb == 'imagenet_2015_trainval1_woextra'
    assert described.test_imdb == 'imagenet_2015_val2'


def test_bccd(data, tmp_path):
    """A real dataset, with two boxes of zero area."""
    root = os.path.join(SHARED, 'data', 'BCCD')
    if not os.path.exists(root):
        pytest.skip('the BCCD dataset is not here')
    factory.register(description(tmp_path, name='blood', format='voc', root=os.path.abspath(root)))
    db = factory.get_imdb('blood_trainval')
    assert db.classes == ('__background__', 'Platelets', 'RBC', 'WBC')
    assert db.num_images == 292 and db.base == 1
    db.append_flipped_images()
    boxes = np.concatenate([entry['boxes'] for entry in db.roidb])
    assert boxes.min() == 0 and boxes[:, 2].max() == 639 and boxes[:, 3].max() == 479
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    total = sum(
        len(entry['boxes'])
        for split in ('trainval', 'test')
        for entry in factory.get_imdb(f'blood_{split}').roidb
    )
    assert total == 4888 - 2


def test_datasets_need_no_engine():
    """data/make_toy.py, the first of what `make demo` runs, finds lib alone."""
    lib = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'lib')
    environment = {**os.environ, 'PYTHONPATH': lib}
    subprocess.run([sys.executable, '-c', 'import datasets.factory'], env=environment, check=True)
