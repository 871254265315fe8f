"""extract_features, parse_log, plot_training_log, classification, classify.py and detect.py: against answers by hand."""

import csv
import logging

import cv2
import numpy as np
import pytest

import caffe
import classify
import detect
from caffe import classification, common, extract_features, parse_log, plot_training_log
from caffe.format.database import open_database, write_database
from caffe.proto import caffe_pb2
from helpers import layer, net_from

# ---- extract_features ----


def test_features_of_each_image(tmp_path):
    """Image i has the value i everywhere: pooled i, and the sum over 2 x 2 pixels of 3 channels 12 i; three batches of two
    of four images begin anew with the fifth."""
    images = [np.full((3, 2, 2), i, np.uint8) for i in range(4)]
    records = [(b'%d' % i, caffe.io.array_to_datum(v, i).SerializeToString()) for i, v in enumerate(images)]
    write_database(str(tmp_path / 'images'), 'lmdb', records)
    source = f'data_param {{ source: "{tmp_path}/images" batch_size: 2 backend: LMDB }}'
    text = layer('x', 'Data', tops='x label', more=source) + layer(
        'pool', 'Pooling', 'x', more='pooling_param { pool: AVE kernel_size: 2 }'
    )
    text += layer(
        'ip', 'InnerProduct', 'x', more='inner_product_param { num_output: 1 weight_filler { value: 1 } }'
    )
    net_from(tmp_path, text).save(str(tmp_path / 'w.caffemodel'))
    places = f'{tmp_path}/w.caffemodel', f'{tmp_path}/net.prototxt'
    extract_features.main([*places, 'pool,ip', f'{tmp_path}/a,{tmp_path}/b', '3', 'lmdb', 'CPU'])
    for name, shape, factor in (('a', (3, 1, 1), 1), ('b', (1, 1, 1), 12)):
        found = [
            (bytes(k), caffe_pb2.Datum.FromString(bytes(v)))
            for k, v in open_database(tmp_path / name, 'lmdb')
        ]
        assert [k for k, _ in found] == [b'%010d' % i for i in range(6)]
        arrays = [caffe.io.datum_to_array(datum) for _, datum in found]
        assert arrays[0].shape == shape
        assert [a.flat[0] for a in arrays] == [factor * i for i in (0, 1, 2, 3, 0, 1)]


@pytest.mark.parametrize(
    'words, wanted',
    [
        ('ip,pool a 1 lmdb', 'as many databases as blobs'),
        ('what a 1 lmdb', "has no blob 'what'; there are x"),
        ('x a 1 lmdb GPU 3', 'wanted CPU, or GPU and DEVICE_ID=N'),
        ('x a', 'Runs a net whose data layer'),
    ],
)
def test_features_that_cannot_be(words, wanted, tmp_path):
    net_from(tmp_path, layer('x', 'DummyData', more='dummy_data_param { shape { dim: 1 } }')).save(
        str(tmp_path / 'w.caffemodel')
    )
    with pytest.raises(SystemExit, match=wanted):
        extract_features.main([f'{tmp_path}/w.caffemodel', f'{tmp_path}/net.prototxt', *words.split()])
    assert not (tmp_path / 'a').exists()


# ---- logs ----

LOG = """\
I1231 23:59:58.250000 12 caffe.cpp:217] Using GPUs 0
I1231 23:59:59.250000 12 solver.cpp:330] Iteration 0, Testing net (#0)
I1231 23:59:59.750000 12 solver.cpp:397]     Test net output #0: accuracy = 0.125
I1231 23:59:59.750000 12 solver.cpp:397]     Test net output #1: loss = 2.5 (* 1 = 2.5 loss)
I0101 00:00:00.250000 12 solver.cpp:218] Iteration 0 (0 iter/s, 0.5s/20 iters), loss = 2.25
I0101 00:00:00.250000 12 solver.cpp:237]     Train net output #0: loss = 2.25 (* 1 = 2.25 loss)
I0101 00:00:00.250000 12 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I0101 00:00:08.250000 12 solver.cpp:218] Iteration 20 (2.5 iter/s, 8s/20 iters), loss = 1e-05
I0101 00:00:08.250000 12 solver.cpp:237]     Train net output #0: loss = 1e-05 (* 1 = 1e-05 loss)
I0101 00:00:08.250000 12 solver.cpp:237]     Train net output #1: p = 1
I0101 00:00:08.250000 12 solver.cpp:237]     Train net output #2: p = 2
I0101 00:00:08.250000 12 sgd_solver.cpp:105] Iteration 20, lr = 0.001
I0101 00:00:09.250000 12 solver.cpp:330] Iteration 21, Testing net (#0)
I0101 00:00:09.250000 12 solver.cpp:397]     Test net output #0: accuracy = 0.5
"""


@pytest.fixture
def log(tmp_path):
    (tmp_path / 'x.log').write_text(LOG)
    return str(tmp_path / 'x.log')


def test_a_log_becomes_tables(log, tmp_path):
    (tmp_path / 'out').mkdir()
    parse_log.main([log, str(tmp_path / 'out')])
    read = {k: list(csv.DictReader((tmp_path / 'out' / f'x.log.{k}').open())) for k in ('train', 'test')}
    assert [list(row.values()) for row in read['train']] == [
        ['0', '2.0', '0.01', '2.25', '', ''],
        ['20', '10.0', '0.001', '1e-05', '1.0', '2.0'],
    ]
    assert list(read['train'][0]) == ['NumIters', 'Seconds', 'LearningRate', 'loss', 'p', 'p_2']
    assert [list(row.values()) for row in read['test']] == [
        ['0', '1.5', 'nan', '0.125', '2.5'],
        ['21', '11.0', '0.001', '0.5', ''],
    ]
    with pytest.raises(SystemExit, match='parse_log: .*tells of no iteration'):
        (tmp_path / 'y.log').write_text('nothing\n')
        parse_log.main([str(tmp_path / 'y.log'), str(tmp_path)])


def test_our_own_log_becomes_tables(tmp_path):
    """What a solver says of itself, by its numbers: y = w goes from 1 by 0.25 a step to its target 0."""
    text = layer(
        'one', 'DummyData', more='dummy_data_param { shape { dim: 1 dim: 1 } data_filler { value: 1 } }'
    )
    text += layer('zero', 'DummyData', more='dummy_data_param { shape { dim: 1 dim: 1 } }')
    text += layer(
        'ip',
        'InnerProduct',
        'one',
        more='inner_product_param { num_output: 1 bias_term: false weight_filler { value: 1 } }',
    )
    (tmp_path / 'net.prototxt').write_text(text + layer('loss', 'EuclideanLoss', 'ip zero'))
    (tmp_path / 'solver.prototxt').write_text(
        f'net: "{tmp_path}/net.prototxt" test_iter: 1 test_interval: 2 base_lr: 0.5 lr_policy: "fixed" display: 1 '
        'max_iter: 2 snapshot_after_train: false'
    )
    handler = logging.FileHandler(tmp_path / 'own.log')
    handler.setFormatter(common.logger.handlers[0].formatter)
    common.logger.addHandler(handler)
    try:
        caffe.get_solver(str(tmp_path / 'solver.prototxt')).solve()
    finally:
        common.logger.removeHandler(handler)
        handler.close()
    train, test = parse_log.parse_log(str(tmp_path / 'own.log'))
    assert [(r['NumIters'], r['LearningRate'], r['loss']) for r in train] == [(0, 0.5, 0.5), (1, 0.5, 0.125)]
    assert [(r['NumIters'], r['loss']) for r in test] == [(0, 0.5), (2, 0.03125)]
    assert all(0 <= r['Seconds'] < 600 for r in train + test)


@pytest.mark.parametrize(
    'chart, wanted',
    [
        (0, [('accuracy', (0, 21), (0.125, 0.5))]),
        (1, [('accuracy', (1.5, 11), (0.125, 0.5))]),
        (2, [('loss', (0,), (2.5,))]),
        (3, [('loss', (1.5,), (2.5,))]),
        (4, [('LearningRate', (0, 20), (0.01, 0.001))]),
        (5, [('LearningRate', (2, 10), (0.01, 0.001))]),
        (6, [('loss', (0, 20), (2.25, 1e-5))]),
        (7, [('loss', (2, 10), (2.25, 1e-5))]),
    ],
)
def test_charts(chart, wanted, log):
    assert plot_training_log.curves(chart, log) == wanted


def test_a_chart_is_drawn(log, tmp_path):
    plot_training_log.main(['6', str(tmp_path / 'loss.png'), log, log])
    assert cv2.imread(str(tmp_path / 'loss.png')).std() > 10
    (tmp_path / 'x.log').write_text('\n'.join(line for line in LOG.splitlines() if 'Test' not in line))
    with pytest.raises(SystemExit, match='plot_training_log: .* has no test accuracy'):
        plot_training_log.main(['0', str(tmp_path / 'none.png'), log])


# ---- classification ----


@pytest.fixture
def deployed(tmp_path):
    """A folder as DIGITS gives it: the net says how blue, green and red an image of 2 x 2 is beyond the mean 10, 20, 30."""
    deploy = layer('data', 'Input', more='input_param { shape { dim: 1 dim: 3 dim: 2 dim: 2 } }')
    deploy += layer('pool', 'Pooling', 'data', more='pooling_param { pool: AVE kernel_size: 2 }')
    net = net_from(tmp_path, deploy + layer('flat', 'Flatten', 'pool'))
    folder = tmp_path / 'model'
    folder.mkdir()
    (tmp_path / 'net.prototxt').rename(folder / 'deploy.prototxt')
    net.save(str(folder / 'snapshot_iter_9.caffemodel'))
    mean = np.zeros((3, 4, 4)) + np.reshape([10, 20, 30], (3, 1, 1))
    mean += np.reshape(np.arange(16) - 7.5, (4, 4))  # only its mean over the pixels counts
    blob = caffe.io.array_to_blobproto(mean[None])
    (folder / 'mean.binaryproto').write_bytes(blob.SerializeToString())
    (folder / 'labels.txt').write_text('blue\ngreen\ndark red\n')
    image = np.zeros((8, 6, 3), np.uint8) + np.uint8([50, 100, 75])
    cv2.imwrite(str(tmp_path / 'x.png'), image)
    return folder


def test_classes_of_an_image(deployed, tmp_path, capsys):
    wanted = f'---------- Prediction for {tmp_path}/x.png ----------\n'
    wanted += '80.0000 - "green"\n45.0000 - "dark red"\n40.0000 - "blue"\n'
    classification.main([str(deployed), f'{tmp_path}/x.png'])
    assert capsys.readouterr().out == wanted
    files = [
        f'{deployed}/{n}'
        for n in ('deploy.prototxt', 'snapshot_iter_9.caffemodel', 'mean.binaryproto', 'labels.txt')
    ]
    classification.main([*files, f'{tmp_path}/x.png'])
    assert capsys.readouterr().out == wanted


def test_the_same_by_pycaffe(deployed, tmp_path):
    """As the example scripts do it: a Transformer of transpose, channel_swap, raw_scale and mean."""
    net = caffe.Classifier(
        f'{deployed}/deploy.prototxt',
        f'{deployed}/snapshot_iter_9.caffemodel',
        mean=np.array([10, 20, 30]),
        channel_swap=(2, 1, 0),
        raw_scale=255,
    )
    scores = net.predict([caffe.io.load_image(f'{tmp_path}/x.png')], oversample=False)
    np.testing.assert_allclose(scores, [[40, 80, 45]], atol=1e-3)


def test_classify_and_detect(deployed, tmp_path):
    """The left half of an image is dark, the right half bright: 40 and 80 of every channel."""
    image = np.full((8, 8, 3), 40, np.uint8)
    image[:, 4:] = 80
    cv2.imwrite(str(tmp_path / 'halves.png'), image)
    files = [
        '--model_def',
        f'{deployed}/deploy.prototxt',
        '--pretrained_model',
        f'{deployed}/snapshot_iter_9.caffemodel',
    ]
    files += ['--mean_file', f'{deployed}/mean.binaryproto']
    classify.main(
        [
            f'{tmp_path}',
            f'{tmp_path}/scores.npy',
            *files,
            '--ext',
            'png',
            '--center_only',
            '--images_dim',
            '2,2',
        ]
    )
    np.testing.assert_allclose(np.load(tmp_path / 'scores.npy'), [[50, 40, 30], [40, 80, 45]], atol=1e-3)
    np.save(tmp_path / 'images.npy', np.ones((1, 4, 4, 3)))
    classify.main([f'{tmp_path}/images.npy', f'{tmp_path}/scores.npy', *files, '--images_dim', '4,4'])
    np.testing.assert_allclose(np.load(tmp_path / 'scores.npy'), [[245, 235, 225]], atol=1e-3)
    (tmp_path / 'windows.csv').write_text(
        f'filename,ymin,xmin,ymax,xmax\n{tmp_path}/halves.png,0,0,8,4\n{tmp_path}/halves.png,0,4,8,8\n'
    )
    detect.main(
        [f'{tmp_path}/windows.csv', f'{tmp_path}/out.csv', *files, '--crop_mode=list', '--context_pad=0']
    )
    rows = list(csv.DictReader((tmp_path / 'out.csv').open()))
    assert [float(rows[i][f'class{k}']) for i in range(2) for k in range(3)] == pytest.approx(
        [30, 20, 10, 70, 60, 50], abs=1e-3
    )
    assert rows[1]['xmin'] == '4' and rows[1]['filename'].endswith('halves.png')
    (tmp_path / 'windows.csv').write_text('filename,ymin\nx,1\n')
    with pytest.raises(ValueError, match='wanted are the columns filename, ymin, xmin, ymax, xmax'):
        detect.main([f'{tmp_path}/windows.csv', f'{tmp_path}/out.csv', *files, '--crop_mode=list'])


def test_classes_that_cannot_be(deployed, tmp_path):
    (deployed / 'labels.txt').write_text('blue\n')
    with pytest.raises(SystemExit, match='has 3 classes, but there are 1 labels'):
        classification.main([str(deployed), f'{tmp_path}/x.png'])
    (deployed / 'snapshot_iter_9.caffemodel').unlink()
    with pytest.raises(SystemExit, match='has 0 .caffemodel files'):
        classification.main([str(deployed), f'{tmp_path}/x.png'])
