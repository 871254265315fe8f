"""What forks import from datasets, called as they call it: names, arguments, files and results."""

import os

import numpy as np
import pytest

from datasets import ds_utils, factory
from datasets.imdb import imdb
from datasets.pascal_voc import pascal_voc
from datasets.record import Record
from datasets.voc_eval import parse_rec, voc_ap, voc_eval
from devkits import HEIGHT, WIDTH, obj, write, write_image, write_voc, write_xml
from fast_rcnn.config import cfg

IMAGES = {
    'a': [obj('square', 1, 1, 20, 20), obj('Circle', 30, 10, 60, 40, difficult=1)],
    'b': [obj('circle', 5, 6, 25, 36)],
}


@pytest.fixture
def devkit(tmp_path, monkeypatch):
    """A devkit with two classes that are not VOC's; -> its folder."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    write_voc(tmp_path / 'kit' / 'VOC2007', IMAGES, {'train': IMAGES, 'test': ['b']})
    return str(tmp_path / 'kit')


# ------------------------------------------------------------------------------- ds_utils
def test_unique_boxes():
    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4.2], [5, 6, 7, 8]])
    assert ds_utils.unique_boxes(boxes).tolist() == [0, 1]
    assert ds_utils.unique_boxes(boxes, scale=10.0).tolist() == [0, 1, 2]


def test_box_formats():
    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 6]])
    sizes = ds_utils.xyxy_to_xywh(boxes)
    assert sizes.tolist() == [[1, 2, 3, 3], [5, 6, 3, 1]]
    assert ds_utils.xywh_to_xyxy(sizes).tolist() == boxes.tolist()


@pytest.mark.parametrize('box', [[-1, 0, 5, 5], [0, 0, 10, 5], [0, 0, 5, 8], [6, 0, 5, 5], [0, 6, 5, 5]])
def test_boxes_that_are_none(box):
    ds_utils.validate_boxes(np.array([[0, 0, 9, 7], [5, 5, 5, 5]]), width=10, height=8)
    with pytest.raises(AssertionError, match='box 1'):
        ds_utils.validate_boxes(np.array([[0, 0, 9, 7], box]), width=10, height=8)


def test_small_boxes():
    """Of a width of min_size a box stays, of a height of min_size it goes."""
    boxes = np.array([[0, 0, 4, 5], [0, 0, 3, 9], [0, 0, 9, 4]])
    assert ds_utils.filter_small_boxes(boxes, 4).tolist() == [0]


# ------------------------------------------------------------------------------- voc_eval
def test_parse_rec(tmp_path):
    path = write_xml(tmp_path / 'a.xml', [obj('cat', 1, 2, '30.6', 40, difficult=1)])
    wanted = {'name': 'cat', 'pose': 'Unspecified', 'truncated': 0, 'difficult': 1, 'bbox': [1, 2, 30, 40]}
    assert parse_rec(path) == [wanted]


def test_voc_eval_of_files(tmp_path, devkit):
    """Two squares, one found first, one never; between them a box that meets none."""
    root = f'{devkit}/VOC2007'
    write_xml(f'{root}/Annotations/b.xml', [obj('square', 5, 6, 25, 36), obj('circle', 1, 1, 9, 9)])
    write(tmp_path / 'det_square.txt', 'a 0.900 1.0 1.0 20.0 20.0\nb 0.800 40.0 1.0 50.0 9.0\n')
    rec, prec, ap = voc_eval(
        str(tmp_path / 'det_{:s}.txt'),
        os.path.join(root, 'Annotations', '{:s}.xml'),
        os.path.join(root, 'ImageSets', 'Main', 'train.txt'),
        'square',
        str(tmp_path / 'cache'),
        ovthresh=0.5,
        use_07_metric=False,
    )
    assert rec.tolist() == [0.5, 0.5] and prec.tolist() == [1, 0.5] and ap == 0.5
    assert voc_ap(rec, prec) == 0.5 and voc_ap(rec, prec, True) == pytest.approx(6 / 11)


def test_voc_eval_names_an_image_that_is_not_in_the_set(tmp_path, devkit):
    write(tmp_path / 'det_square.txt', 'z 0.900 1.0 1.0 20.0 20.0\n')
    root = f'{devkit}/VOC2007'
    with pytest.raises(ValueError, match='det_square.txt: z is none of the 2 images'):
        voc_eval(
            f'{tmp_path}/det_{{}}.txt',
            f'{root}/Annotations/{{}}.xml',
            f'{root}/ImageSets/Main/train.txt',
            'square',
            '',
        )


# ------------------------------------------------------------------------- pascal_voc as own class
class shapes(pascal_voc):
    """A fork's dataset: VOC's files, classes of its own."""

    def __init__(self, image_set, devkit_path):
        pascal_voc.__init__(self, image_set, '2007', devkit_path)
        self._name = 'shapes_' + image_set
        self._classes = ('__background__', 'square', 'circle')
        self._class_to_ind = dict(zip(self.classes, range(self.num_classes)))


def perfect(db):
    all_boxes = [[np.zeros((0, 5)) for _ in range(db.num_images)] for _ in db.classes]
    for i, entry in enumerate(db.gt_roidb()):
        for box, cls in zip(entry['boxes'], entry['gt_classes']):
            all_boxes[cls][i] = np.append(box, 0.9)[None]
    return all_boxes


def test_own_classes(devkit, tmp_path, capsys):
    db = shapes('train', devkit)
    assert [entry['gt_classes'].tolist() for entry in db.roidb] == [[1], [2]]
    assert db._load_pascal_annotation('b')['boxes'].tolist() == [[4, 5, 24, 35]]
    assert db.image_path_from_index('a') == db.image_path_at(0) == f'{devkit}/VOC2007/JPEGImages/a.jpg'
    assert db._get_widths() == [WIDTH, WIDTH]
    assert db.evaluate_detections(perfect(db), str(tmp_path / 'out')) == 1
    assert 'AP for circle = 1.0000' in capsys.readouterr().out
    db.append_flipped_images()
    assert db.roidb[3]['boxes'].tolist() == [[35, 5, 55, 35]] and db.roidb[3]['flipped']


def test_own_class_that_sets_everything_itself(devkit):
    """As many forks begin: imdb's own __init__, then pascal_voc's members by hand."""

    class bare(pascal_voc):
        def __init__(self, image_set):
            imdb.__init__(self, 'bare_' + image_set)
            self._year, self._image_set = '2007', image_set
            self._devkit_path = self._get_default_path()
            self._data_path = os.path.join(self._devkit_path, 'VOC' + self._year)
            self._classes = ('__background__', 'square', 'circle')
            self._class_to_ind = dict(zip(self.classes, range(self.num_classes)))
            self._image_ext = '.jpg'
            self._image_index = self._load_image_set_index()
            self._roidb_handler = self.selective_search_roidb
            self._comp_id = 'comp4'
            self.config = {'cleanup': True, 'use_salt': True, 'use_diff': True, 'rpn_file': None}

        def _get_default_path(self):
            return devkit

    db = bare('train')
    db.set_proposal_method('gt')
    assert [len(entry['boxes']) for entry in db.roidb] == [2, 1]
    template = db._get_voc_results_file_template()
    assert template.startswith(f'{devkit}/results/VOC2007/Main/comp4_') and '_det_train_{:s}.txt' in template
    assert db.evaluate_detections(perfect(db), None) == 1
    assert os.listdir(f'{devkit}/results/VOC2007/Main') == []
    db.competition_mode(True)
    assert np.isnan(db.evaluate_detections(perfect(db), None))
    assert sorted(os.listdir(f'{devkit}/results/VOC2007/Main')) == [
        'comp4_det_train_circle.txt',
        'comp4_det_train_square.txt',
    ]


def test_own_methods_take_effect(devkit, tmp_path):
    """Each member that a fork may replace is called for what it does."""
    calls = []

    class own(shapes):
        def _get_widths(self):
            calls.append('_get_widths')
            return [100] * self.num_images

        def _load_image_set_index(self):
            return ['b']

        def image_path_from_index(self, index):
            return write_image(tmp_path / f'other_{index}.png')

        def _load_pascal_annotation(self, index):
            return {
                'boxes': np.array([[1, 2, 3, 4]], np.uint16),
                'gt_classes': np.array([1], np.int32),
                'gt_overlaps': Record([[1, 2, 3, 4]], [1], 3)['gt_overlaps'],
                'flipped': False,
            }

        def _write_voc_results_file(self, all_boxes):
            calls.append('_write_voc_results_file')

        def _do_python_eval(self, output_dir='output'):
            calls.append('_do_python_eval')

    db = own('train', devkit)
    assert db.image_path_at(0) == f'{tmp_path}/other_b.png'
    db.append_flipped_images()
    assert [entry['boxes'].tolist() for entry in db.roidb] == [[[1, 2, 3, 4]], [[96, 2, 98, 4]]]
    merged = db.merge_roidbs(db.gt_roidb(), db.gt_roidb())
    assert merged[0]['boxes'].shape == (2, 4) and merged[0]['gt_overlaps'].shape == (2, 3)
    db.evaluate_detections([[[]], [[]], [[]]], str(tmp_path))
    assert calls == ['_get_widths', '_write_voc_results_file', '_do_python_eval']


def test_an_imdb_from_the_bottom_up(devkit):
    """Nothing but imdb: dicts for entries, no seg_areas, boxes of uint16, a config of its own."""

    class boxes_only(imdb):
        def __init__(self):
            imdb.__init__(self, 'boxes_only')
            self._classes = ('__background__', 'square')
            self._image_index = ['a', 'b']
            self._roidb_handler = self.gt_roidb
            self.config = {'cleanup': True}

        def image_path_at(self, i):
            return os.path.join(devkit, 'VOC2007', 'JPEGImages', self._image_index[i] + '.jpg')

        def gt_roidb(self):
            overlaps = Record([[0, 0, 9, 9]], [1], 2)['gt_overlaps']
            box = np.array([[0, 0, 9, 9]], np.uint16)
            entry = {'boxes': box, 'gt_classes': np.ones(1, np.int32), 'gt_overlaps': overlaps}
            return [{**entry, 'flipped': False, 'mark': i} for i in range(2)]

        def half_roidb(self):
            halves = [np.array([[0, 0, 9, 4]], np.float32)] * 2
            given = self.create_roidb_from_box_list(halves, self.gt_roidb())
            return imdb.merge_roidbs(self.gt_roidb(), given)

    db = boxes_only()
    assert db.image_size_at(0) == (WIDTH, HEIGHT)
    db.set_proposal_method('half')
    assert db.roidb[1]['gt_overlaps'].toarray().tolist() == [[0, 1], [0, 0.5]] and db.roidb[1]['mark'] == 1
    assert db.evaluate_recall(thresholds=[0.5, 0.6])['recalls'].tolist() == [1, 0]
    again = db.create_roidb_from_box_list([np.array([[0, 0, 9, 9]])] * 2, db.roidb)
    assert again[0]['gt_overlaps'].toarray().tolist() == [[0, 1]]
    db.append_flipped_images()
    assert db.roidb[2]['boxes'].tolist() == [[50, 0, 59, 9], [50, 0, 59, 4]]
    db.roidb_handler = db.gt_roidb
    assert len(db.roidb) == 2


# ------------------------------------------------------------------------------- registration
def test_an_imdb_class_joins_by_its_name(devkit, monkeypatch):
    monkeypatch.setattr(factory, '_added', {})
    factory.register('shapes_train', lambda: shapes('train', devkit))
    assert isinstance(factory.get_imdb('shapes_train'), shapes)
    assert 'shapes_train' in factory.list_imdbs()
    assert factory.imdbs_of('shapes_train')[0].num_images == 2
    with pytest.raises(KeyError, match='unknown imdb shapes_trian; the nearest is shapes_train'):
        factory.get_imdb('shapes_trian')
    with pytest.raises(ValueError, match="voc_2007_test: a built-in imdb's name"):
        factory.register('voc_2007_test', lambda: None)
    with pytest.raises(ValueError, match='x_train: wanted a function that makes the imdb, got 3'):
        factory.register('x_train', 3)


def test_a_file_beside_the_registered_ones_is_run(devkit, tmp_path, monkeypatch):
    monkeypatch.setattr(factory, '_added', {})
    write(
        tmp_path / 'data' / 'datasets' / 'mine.py',
        'from datasets.factory import register\n'
        'from datasets.pascal_voc import pascal_voc\n'
        f'register("mine_test", lambda: pascal_voc("test", "2007", {devkit!r}))\n',
    )
    assert factory.get_imdb('mine_test').image_index == ['b']
