"""tools/demo.py: which pictures, where to, what becomes of bad ones, whose class names."""

import json
import os
import shutil

import caffe
import cv2
import demo
import numpy as np
import pytest
from tool_runs import NETS, RECORDED, VAL, run_main, settings

from datasets.imagenet import imagenet
from datasets.pascal_voc import CLASSES
from fast_rcnn.config import cfg, overrides
from fast_rcnn.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar

PICTURE = np.random.RandomState(0).randint(0, 255, (60, 80, 3), np.uint8)


def test_files_and_folders(tmp_path):
    (tmp_path / 'in').mkdir()
    for name in 'b.png', 'a.JPG', 'c.webp', 'd.tif', 'notes.txt', 'a_2.bmp':
        (tmp_path / 'in' / name).touch()
    (tmp_path / 'a.png').touch()
    paths = list(demo.pictures([str(tmp_path / 'in'), str(tmp_path / 'a.png'), 'nowhere']))
    assert list(map(os.path.basename, paths)) == 'a.JPG a_2.bmp b.png c.webp d.tif a.png nowhere'.split()
    args = demo.parse_args(['--out', 'out', '--format', 'jpg'])
    names = [os.path.basename(target) for target in demo.targets(paths, args)]
    assert names == 'a.jpg a_2.jpg b.jpg c.jpg d.jpg a_3.jpg nowhere.jpg'.split()


@pytest.fixture
def model(tmp_path):
    """A copy of the recorded detector's weights; its sidecar as its training would have written it."""
    path = str(tmp_path / 'model.caffemodel')
    shutil.copyfile(RECORDED / 'stage2_fast_rcnn.caffemodel', path)
    with overrides({'TEST.SCALES': [90], 'DATA_DIR': str(RECORDED)}):
        write_sidecar(path, imagenet('val2'))
    return path


def words(model, *more):
    return ['--cpu', '--def', NETS / 'faster_rcnn_test.pt', '--net', model, *more]


def test_bad_pictures_are_skipped_and_named(monkeypatch, tmp_path, model):
    for name in 'good.png', 'other.webp':
        cv2.imwrite(str(tmp_path / name), PICTURE)
    (tmp_path / 'bad.jpg').write_text('no picture')
    (tmp_path / 'empty.jpg').touch()
    pictures = [tmp_path / name for name in ('bad.jpg', 'good.png', 'empty.jpg', 'other.webp')]
    with pytest.raises(SystemExit, match='2 of 4 pictures could not be read: .*bad.jpg, .*empty.jpg'):
        run_main(monkeypatch, demo.main, *words(model, *pictures, '--out', tmp_path / 'out', '--thresh', 0.2))
    assert sorted(os.listdir(tmp_path / 'out')) == ['good.png', 'other.png']
    assert cfg.TEST.SCALES == (90,)  # the sidecar's
    assert cv2.imread(str(tmp_path / 'out' / 'good.png')).shape[1] >= 400


def test_pictures_of_an_imdb(monkeypatch, tmp_path, model):
    os.remove(sidecar_path(model))
    more = ['--imdb', VAL, '--most', 2, '--out', tmp_path / 'out', '--format', 'jpg']
    run_main(monkeypatch, demo.main, *words(model, *more, *settings(tmp_path)))
    assert [name[-4:] for name in os.listdir(tmp_path / 'out')] == ['.jpg'] * 2


def test_without_an_imdb_and_a_sidecar(monkeypatch, model):
    os.remove(sidecar_path(model))
    with pytest.raises(SystemExit, match='model.classes.json is not there; give --imdb'):
        run_main(monkeypatch, demo.main, *words(model, __file__))


@pytest.mark.parametrize(
    'wrong, said',
    [
        (['--def', 'no.pt'], '--def no.pt: no such file'),
        (['--net', 'no.caffemodel'], '--net no.caffemodel: no such file'),
        (['--net', os.path.dirname(__file__)], '--net .*tests: is a folder, not a file'),
        ([__file__, 'no.jpg'], 'picture no.jpg: no such file or folder'),
        (['--out', f'{__file__}/a'], '--out .*/a: .*test_demo.py is a file, not a folder'),
    ],
)
def test_wrong_paths_are_told_first(monkeypatch, model, wrong, said):
    """Before anybody is asked for the classes, and before a net is made."""
    os.remove(sidecar_path(model))
    with pytest.raises(SystemExit, match=said):
        run_main(monkeypatch, demo.main, *words(model), *wrong)


def test_a_published_net_is_looked_for_where_it_belongs(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match='faster_rcnn_models/ZF_faster_rcnn_final.caffemodel: no such file'):
        run_main(monkeypatch, demo.main, '--cpu', '--net', 'zf', '--set', 'DATA_DIR', tmp_path)
    with pytest.raises(SystemExit, match='--def is missing'):
        run_main(monkeypatch, demo.main, '--cpu', '--net', 'mine.caffemodel')


def test_sidecar(model):
    sidecar = read_sidecar(model)
    assert sidecar.num_classes == 201 and sidecar.class_names[:2] == ('__background__', 'accordion')
    assert sidecar.cfg['PIXEL_MEANS'] == cfg.PIXEL_MEANS.tolist() and sidecar.cfg['TEST.SCALES'] == [90]
    with open(sidecar_path(model), 'w') as stream:
        json.dump({'classes': ['__background__', 'a']}, stream)
    with pytest.raises(ValueError, match='model.classes.json: wanted'):
        read_sidecar(model)


def test_a_class_agnostic_rfcn_net(monkeypatch, tmp_path):
    prototxt = 'models/pascal_voc/ResNet-10/rfcn_end2end/test_agnostic.prototxt'
    net = caffe.Net(prototxt, caffe.TEST)
    for layer in 'rfcn_cls', 'rfcn_bbox':  # every class scores alike without
        net.params[layer][0].data[...] = np.random.RandomState(0).randn(*net.params[layer][0].shape) * 0.1
    path = str(tmp_path / 'rfcn.caffemodel')
    net.save(path)
    with overrides({'TEST.SCALES': [120]}):
        write_sidecar(path, Sidecar('voc', ('__background__', *CLASSES), {}))
    cv2.imwrite(str(tmp_path / 'a.png'), PICTURE)
    more = ['--net', path, tmp_path / 'a.png', '--out', tmp_path / 'out', '--thresh', 0.06]
    more += ['--set', 'TEST.RPN_POST_NMS_TOP_N', 10, 'TEST.RPN_MIN_SIZE', 1]
    run_main(monkeypatch, demo.main, '--cpu', '--def', prototxt, *more)
    drawn = cv2.imread(str(tmp_path / 'out' / 'a.png'))
    plain = cv2.resize(PICTURE, drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert (drawn != plain).any()
