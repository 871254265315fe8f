"""Detections in files of any tool, and tools/reval.py with a metric of one's choice."""

import json

import numpy as np
import pytest
import reval
from tool_runs import run_main

from datasets import detection_files, factory, metrics
from datasets.evaluators import coco as coco_evaluator
from datasets.imagenet import SYNSETS, imagenet
from devkits import obj, write, write_coco_toy, write_imagenet, write_open_images, write_voc
from fast_rcnn.config import cfg, overrides

WNIDS = list(SYNSETS)
CAT = 8  # of VOC's classes


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    return tmp_path / 'data'


@pytest.fixture
def voc(data):
    """Two images with three cats; one is difficult."""
    images = {
        '000005': [obj('cat', 1, 1, 20, 20), obj('cat', 30, 10, 49, 29, difficult=1)],
        '000007': [obj('cat', 1, 1, 20, 20)],
    }
    write_voc(data / 'VOCdevkit2007' / 'VOC2007', images, {'test': images})
    return factory.get_imdb('voc_2007_test')


# image, box, score: the first has an IoU of exactly a half
ROWS = [
    (0, [0, 0, 19, 9], 0.9),
    (1, [0, 0, 19, 19], 0.8),
    (1, [0.5, 0, 19, 19], 0.7),
    (0, [29, 9, 48, 28], 0.95),
]


def boxes_of(all_boxes, k):
    return [np.round(np.asarray(boxes), 4).tolist() for boxes in all_boxes[k]]


WANTED = [[[0, 0, 19, 9, 0.9], [29, 9, 48, 28, 0.95]], [[0, 0, 19, 19, 0.8], [0.5, 0, 19, 19, 0.7]]]
LINES = {
    'comp4': ''.join(
        f'{("000005", "000007")[i]} {score} {" ".join(str(value + 1) for value in box)}\n'
        for i, box, score in ROWS
    ),
    'ilsvrc': ''.join(
        f'{i + 1} {CAT} {score} {" ".join(str(value + 1) for value in box)}\n' for i, box, score in ROWS
    ),
    'coco': json.dumps(
        [
            {
                'image_id': ('000005', '000007')[i],
                'category_id': CAT,
                'bbox': [box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1],
                'score': score,
            }
            for i, box, score in ROWS
        ]
    ),
    'table': 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n'
    + ''.join(
        f'{("000005", "000007")[i]},cat,{score},{b[0] / 60},{(b[2] + 1) / 60},{b[1] / 40},{(b[3] + 1) / 40}\n'
        for i, b, score in ROWS
    ),
    'kaggle': 'ImageId,PredictionString\n'
    + ''.join(
        f'{name},'
        + ' '.join(
            f'cat {score} {b[0] / 60} {b[1] / 40} {(b[2] + 1) / 60} {(b[3] + 1) / 40}'
            for i, b, score in ROWS
            if i == image
        )
        + '\n'
        for image, name in enumerate(('000005', '000007'))
    ),
}
NAMES = {
    'comp4': 'comp4_det_test_cat.txt',
    'ilsvrc': 'd.txt',
    'coco': 'd.json',
    'table': 'd.csv',
    'kaggle': 'd.csv',
}


@pytest.mark.parametrize('kind', LINES)
def test_each_form_gives_the_same(voc, tmp_path, kind):
    folder = tmp_path / 'found'
    if kind == 'comp4':
        for cls in voc.classes[1:]:
            write(folder / f'comp4_det_test_{cls}.txt', '')
    path = write(folder / NAMES[kind], LINES[kind])
    found, expanded = detection_files.read(path, voc)
    assert boxes_of(found, CAT) == WANTED and expanded == (kind in ('table', 'kaggle'))
    assert sum(len(boxes) for of_class in found for boxes in of_class) == 4
    if kind == 'comp4':
        for again in str(folder), str(folder / 'comp4_det_test_{}.txt'):
            assert boxes_of(detection_files.read(again, voc)[0], CAT) == WANTED


BY_METRIC = {
    # the difficult one aside: the half is wrong, then one right, one twice
    'voc': 1 / 2 * 1 / 2,
    'voc_devkit': 1,
    'voc07': 6 * 1 / 2 / 11,
    'voc07_devkit': 1,
    # every object counts, 3; a box of 20 x 20 wants 400 / 900
    'ilsvrc': 1,
    'ilsvrc_plain': (0 + 1 / 2) / 2,
    'openimages': 1,  # the difficult one a group that is found
    'openimages_v2': 1,
}


@pytest.mark.parametrize('name', BY_METRIC)
def test_by_hand(voc, tmp_path, capsys, monkeypatch, name):
    path = write(tmp_path / 'd.txt', LINES['ilsvrc'])
    run_main(monkeypatch, reval.main, path, '--imdb', voc.name, '--metric', name)
    assert f'{name}:\nAP for cat = {BY_METRIC[name]:.4f}' in capsys.readouterr().out


def test_cocos_figures(voc, tmp_path, capsys):
    found, _ = detection_files.read(write(tmp_path / 'd.txt', LINES['ilsvrc']), voc)
    means = metrics.evaluate(voc, found, ['coco'])
    out = capsys.readouterr().out
    assert 'Average Precision  (AP) @[ IoU=0.50      ' in out
    truth, numbers = coco_evaluator.of_truth(voc.truth, 21), {k: k for k in range(1, 21)}
    results = coco_evaluator.results(found, range(2), numbers)
    assert means == {'coco': coco_evaluator.evaluate(truth, results, range(2), numbers).aps[CAT]}


def test_the_datasets_own_metrics_and_nothing_written(voc, tmp_path, capsys, monkeypatch):
    path = write(tmp_path / 'found' / 'd.txt', LINES['ilsvrc'])
    run_main(monkeypatch, reval.main, path, '--imdb', voc.name)
    out = capsys.readouterr().out
    assert (
        out.index('voc07:')
        < out.index(f'= {3 / 11:.4f}')
        < out.index('voc07_devkit:')
        < out.index('= 1.0000')
    )
    assert [entry.name for entry in (tmp_path / 'found').iterdir()] == ['d.txt']


def test_the_devkits_figure_beside_the_python_one(voc, capsys):
    found, _ = detection_files.read(write(cfg.DATA_DIR + '/d.txt', LINES['ilsvrc']), voc)
    assert voc.evaluate_detections(found, cfg.DATA_DIR) == pytest.approx(3 / 11)
    out = capsys.readouterr().out
    assert 'VOC development kit (IoU >= 0.5): mean AP = 1.0000\nCOCO-style' in out


def test_cocos_results(data, tmp_path, monkeypatch, capsys):
    write_coco_toy(tmp_path / 'toy')
    path = write(tmp_path / 'toy.yml', 'name: cocotoy\nformat: coco\nroot: toy\n')
    factory.register(path)
    db = factory.get_imdb('cocotoy_val')
    all_boxes = [[np.zeros((0, 5))] * db.num_images for _ in db.classes]
    for i, entry in enumerate(db.roidb):
        for k in range(1, db.num_classes):
            mine = entry['boxes'][entry['gt_classes'] == k].astype(float)
            all_boxes[k][i] = np.hstack([mine, np.full((len(mine), 1), 0.5)])
    results = db.write_results(all_boxes, str(tmp_path / 'out'))
    found, _ = detection_files.read(results, db)
    for k in range(db.num_classes):
        assert boxes_of(found, k) == [np.round(boxes, 4).tolist() for boxes in all_boxes[k]]
    run_main(monkeypatch, reval.main, results, '--imdb', db.name)
    assert 'coco:\n' in capsys.readouterr().out


def test_open_images_tables(data, tmp_path, capsys, monkeypatch):
    """What the imdb writes gives the same figures again: classes above are in it, and not added twice."""
    write_open_images(data / 'OpenImages')
    db = factory.get_imdb('openimages_v4_val')
    all_boxes = [[np.zeros((0, 5))] * 4 for _ in db.classes]
    all_boxes[1][1], all_boxes[3][0] = np.array([[10, 10, 49, 29, 0.9]]), np.array([[0, 0, 80, 49, 0.8]])
    mean = db.evaluate_detections(all_boxes, str(tmp_path))
    said = capsys.readouterr().out
    table = str(tmp_path / 'results' / 'detections_val.csv')
    with overrides({}):
        run_main(monkeypatch, reval.main, table, '--imdb', db.name)
    again = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith('AP for')]
    assert again.startswith('openimages:\n' + '\n'.join(lines)) and f'Mean AP = {mean:.4f}' in again
    v2 = [line.split(' = ')[1] for line in said.splitlines() if 'V2 metric' in line][0]
    assert f'Mean AP = {v2}' in again.split('openimages_v2:')[1]


@pytest.fixture
def det(data):
    """ILSVRC's val2 with three images of two dogs and a small one; the last is blacklisted for dogs."""
    dog = WNIDS[83 - 1]
    images = {
        ('val', 'ILSVRC2012_val_00000011'): [obj(dog, 10, 10, 49, 29)],
        ('val', 'ILSVRC2012_val_00000012'): [obj(dog, 10, 10, 19, 19)],
        ('val', 'ILSVRC2012_val_00000013'): [obj(dog, 10, 10, 49, 29)],
    }
    root = data / 'ImageNet2015'
    write_imagenet(root, images, {'val2': [name for _, name in images]})
    lines = ''.join(f'{name} {number}\n' for number, (_, name) in zip((7, 9, 30), images))
    write(root / 'ImageSets' / 'DET' / 'val.txt', lines)
    write(root / 'devkit' / 'data' / 'ILSVRC2015_det_validation_blacklist.txt', f'30 {dog}\n31 {dog}\n')
    return imagenet('val2')


def test_ilsvrcs_figures(det, tmp_path, capsys):
    """Of the small dog the box has an IoU of 100 / 324, enough for its size; the third image does not count."""
    k, lines = 83, '9 83 0.9 6 6 23 23\n7 83 0.8 10 10 49 29\n30 83 0.99 1 1 5 5\n'
    found, _ = detection_files.read(write(tmp_path / 'd.txt', lines), det)
    assert [boxes[:, :4].tolist() for boxes in found[k]] == [
        [[9, 9, 48, 28]],
        [[5, 5, 22, 22]],
        [[0, 0, 4, 4]],
    ]
    assert det.evaluate_detections(found, str(tmp_path / 'out')) == pytest.approx(1 / 3 * 1 / 3)
    out = capsys.readouterr().out
    assert (
        f'Official AP for {WNIDS[82]} (' in out
        and '1 blacklisted images of a class): mean AP = 1.0000' in out
    )
    assert det.blacklist[k].tolist() == [2] and det.image_numbers['ILSVRC2012_val_00000013'] == 30


def test_no_blacklist(det, caplog):
    (path,) = (
        det.layout.root + '/devkit/data/' + name for name in ['ILSVRC2015_det_validation_blacklist.txt']
    )
    write(path, '7 n0\n')
    with pytest.raises(
        ValueError, match="blacklist.txt: wanted lines `image number, WordNet id`, got '7 n0'"
    ):
        imagenet('val2').blacklist
    write(path, '')
    assert imagenet('val2').blacklist == {}


@pytest.mark.parametrize(
    'name, text, message',
    [
        ('d.txt', '1 8 0.5 1 1 2\n', 'wanted lines `image class score x1 y1 x2 y2`'),
        ('d.txt', '3 8 0.5 1 1 2 2\n', '3 is none of the 2 images'),
        ('d.txt', '1 21 0.5 1 1 2 2\n', 'classes are 1 ... 20, got 21 ... 21'),
        ('d.json', '{"a": 1}', "not COCO's results"),
        (
            'd.json',
            '[{"image_id": "000005", "category_id": 8, "bbox": [1], "score": 1}]',
            "not COCO's results",
        ),
        (
            'd.json',
            '[{"image_id": "000005", "category_id": 91, "bbox": [1, 1, 1, 1], "score": 1}]',
            'category 91',
        ),
        ('d.json', '[{"image_id": 5, "category_id": 8, "bbox": [1, 1, 1, 1], "score": 1}]', '5 is none of'),
        ('d.csv', 'ImageID,Score\n', 'wanted the columns imageid, labelname'),
        (
            'd.csv',
            'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n000005,ox,1,0,1,0,1\n',
            'class ox is none of the 20',
        ),
        ('d.csv', 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n000005,cat,1,0,1,0,x\n', 'could not convert'),
        ('d.csv', 'ImageId,PredictionString\n000005,cat 1 0 0 1\n', 'wanted class, score and four corners'),
        ('d.csv', 'ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n000005,cat\n', 'wanted 7 columns, got'),
        (
            'd.json',
            '[{"image_id": [], "category_id": 8, "bbox": [1, 1, 1, 1], "score": 1}]',
            'image_id and category_id',
        ),
        ('comp4_det_test_ox.txt', '', 'the file of none of the classes of voc_2007_test'),
        ('d.xml', '', 'wanted a folder, or a file that ends in .npz, .pkl, .json'),
    ],
)
def test_wrong_files_are_named(voc, tmp_path, name, text, message):
    with pytest.raises(ValueError, match=f'{name}: {message}'):
        detection_files.read(write(tmp_path / name, text), voc)


def test_unknown_metrics_are_refused(voc, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match='--metric map: known are voc, voc07'):
        run_main(monkeypatch, reval.main, tmp_path, '--imdb', voc.name, '--metric', 'map')
    both = factory.joined([voc])
    with pytest.raises(ValueError, match='name one of its parts'):
        metrics.evaluate(both, [], ['voc'])
