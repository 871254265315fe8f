"""tools/make_ssd.py: databases, label map and nets of a dataset, which train and are scored as they are."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import caffe
import make_ssd
import make_toy
from caffe.format.database import open_database
from caffe.proto import caffe_pb2
from caffe.types.detections import read_label_map, read_sizes
from datasets import own
from fast_rcnn.config import cfg


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """(devkit, what the tool wrote for it), of 6 and 3 images."""
    folder = tmp_path_factory.mktemp('ssd')
    yaml, _ = make_toy.write(str(folder / 'kit'), 6, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('datasets.factory.get_imdb', lambda name: own.make(own.load(yaml), name.split('_')[1]))
        patch.setitem(cfg, 'DATA_DIR', str(folder))
        numbers = ['--size', '64', '--batch', '2', '--max_iters', '2']
        make_ssd.main([str(folder / 'out'), '--train', 'toy_train', '--test', 'toy_val', *numbers])
    return folder / 'kit', folder / 'out'


def test_the_database_has_the_boxes_of_the_files(made):
    kit, out = made
    names = read_label_map(out / 'labelmap.prototxt')
    assert list(names.values()) == ['background', *make_toy.CLASSES]
    sizes = read_sizes(out / 'toy_train_name_size.txt')
    records = [bytes(value) for _, value in open_database(out / 'toy_train_lmdb', 'lmdb')]
    assert len(records) == len(sizes) == 6
    for value, (name, (height, width)) in zip(records, sizes):
        root = ElementTree.parse(kit / 'Annotations' / 'DET' / 'train' / f'{name}.xml').getroot()
        assert [root.findtext(f'size/{n}') for n in ('height', 'width')] == [str(height), str(width)]
        wanted = []
        for element in root.findall('object'):
            x1, y1, x2, y2 = (int(element.findtext(f'bndbox/{n}')) for n in ('xmin', 'ymin', 'xmax', 'ymax'))
            box = x1 / width, y1 / height, (x2 + 1) / width, (y2 + 1) / height
            wanted.append((element.findtext('name'), *np.round(box, 5)))
        record = caffe_pb2.AnnotatedDatum.FromString(value)
        found = [
            (names[g.group_label], *np.round([b.xmin, b.ymin, b.xmax, b.ymax], 5))
            for g in record.annotation_group
            for b in (a.bbox for a in g.annotation)
        ]
        assert sorted(found) == sorted(wanted)


def test_the_nets_train_and_are_scored(made, caplog):
    out = made[1]
    caplog.set_level('INFO')
    caffe.set_random_seed(0)
    solver = caffe.get_solver(str(out / 'solver.prototxt'))
    solver.solve()
    assert np.isfinite(solver.smoothed_loss) and solver.smoothed_loss > 0
    lines = [r.getMessage().strip() for r in caplog.records]
    scores = [line for line in lines if line.startswith('Test net output #0: detection_eval = ')]
    assert len(scores) == 2 and 'class4: ' in ' '.join(lines)
    deploy = caffe.Net(str(out / 'deploy.prototxt'), str(out / 'ssd_iter_2.caffemodel'), caffe.TEST)
    assert deploy.forward()['detection_out'].shape[3] == 7
    resumed = caffe.get_solver(str(out / 'solver.prototxt'))
    resumed.restore(str(out / 'ssd_iter_2.solverstate'))
    assert resumed.iter == 2
    for a, b in zip(solver.net.learnable_params, resumed.net.learnable_params):
        np.testing.assert_array_equal(a.data, b.data)


def test_nothing_is_overwritten(made):
    with pytest.raises(FileExistsError, match='toy_train_lmdb exists'):
        with pytest.MonkeyPatch.context() as patch:
            yaml = str(made[0] / 'toy.yml')
            patch.setattr(
                'datasets.factory.get_imdb', lambda name: own.make(own.load(yaml), name.split('_')[1])
            )
            make_ssd.main([str(made[1]), '--train', 'toy_train', '--test', 'toy_val'])
