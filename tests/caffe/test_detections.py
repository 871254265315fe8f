"""DetectionEvaluate, mean average precision, and files of detections: by plain loops and by hand."""

import json

import numpy as np
import pytest

import caffe
from caffe import __main__ as command
from caffe.average_precision import VERSIONS, Tally, average_precision, mean
from caffe.proto import caffe_pb2
from caffe.types.detections import in_pixels, read_label_map
from helpers import data, layer, net_from

LABELS = ''.join(f'item {{ name: "{n}" label: {i} }}\n' for i, n in enumerate(('none', 'cat', 'dog')))


def evaluated(tmp_path, found, truth, more=''):
    text = data('found', 1, 1, 1, 7) + data('truth', 1, 1, 1, 8)
    text += layer(
        'eval',
        'DetectionEvaluate',
        'found truth',
        more=f'detection_evaluate_param {{ num_classes: 3 {more} }}',
    )
    net = net_from(tmp_path, text)

    def run(found, truth):
        for name, rows in (('found', found), ('truth', truth)):
            values = np.array(rows, np.float32)[None, None]
            net.blobs[name].reshape(*values.shape)
            net.blobs[name].data[...] = values
        return net.forward()['eval'][0, 0].copy()

    return run(found, truth), run


TRUTH = [
    [0, 1, 0, 0.0, 0.0, 0.5, 0.5, 0],
    [0, 1, 1, 0.5, 0.5, 1.0, 1.0, 1],
    [1, 2, 0, 0.2, 0.2, 0.6, 0.6, 0],
]
FOUND = [
    [0, 1, 0.5, 0.0, 0.0, 0.5, 0.5],  # the first object, but a better one is below
    [0, 1, 0.9, 0.0, 0.0, 0.5, 0.4],  # overlaps it 0.8
    [0, 1, 0.8, 0.5, 0.5, 1.0, 1.0],  # the difficult one
    [0, 2, 0.7, 0.0, 0.0, 0.5, 0.5],  # no dog there
    [1, 2, 0.6, 0.2, 0.2, 0.4, 0.4],  # overlaps a quarter
    [1, 2, 0.3, 0.2, 0.2, 0.6, 0.45],  # overlaps five eighths
    [2, 1, 0.2, 0.2, 0.2, 0.6, 0.4],  # an image without objects
]


def test_detections_are_right_wrong_or_neither(tmp_path):
    rows, _ = evaluated(tmp_path, FOUND, TRUTH)
    heads = [[-1, 1, 2, -1, -1], [-1, 2, 1, -1, -1]]
    judged = [
        [0, 1, 0.9, 1, 0],
        [0, 1, 0.8, 1, 0],
        [0, 1, 0.5, 0, 1],
        [0, 2, 0.7, 0, 1],
        [1, 2, 0.6, 0, 1],
        [1, 2, 0.3, 1, 0],
        [2, 1, 0.2, 0, 1],
    ]
    np.testing.assert_allclose(rows, heads + judged, rtol=1e-6)
    rows, _ = evaluated(tmp_path, FOUND, TRUTH, 'evaluate_difficult_gt: false')
    heads[0][2], judged[1][3:] = 1, [0, 0]
    np.testing.assert_allclose(rows, heads + judged, rtol=1e-6)


def test_nothing_found_and_nothing_there(tmp_path):
    rows, _ = evaluated(tmp_path, [[0, -1, -1, -1, -1, -1, -1]], [[-1] * 8])
    np.testing.assert_array_equal(rows, [[-1, 1, 0, -1, -1], [-1, 2, 0, -1, -1]])


def test_sizes_make_boxes_whole_pixels(tmp_path):
    """In an image of 10 x 10 [1, 2] is 2 pixels wide, [1, 3] 3: 2 / 3 overlap; in edges 1 / 2. The sizes' order goes
    round and round, also over an image without detections."""
    (tmp_path / 'sizes.txt').write_text('a 10 10\nb 1000 1000\n')
    truth = [[i, 1, 0, 0.1, 0.0, 0.2, 0.9, 0] for i in range(2)]
    found = [[i, 1, 0.5, 0.1, 0.0, 0.3, 0.9] for i in range(2)]
    more = f'overlap_threshold: 0.6 name_size_file: "{tmp_path}/sizes.txt"'
    rows, run = evaluated(tmp_path, found, truth, more)
    assert rows[2:, 3].tolist() == [1, 0]
    assert run(found[1:], truth)[2:, 3].tolist() == [0]
    assert run(found[:1], truth[:1])[2:, 3].tolist() == [1]
    assert run(found[:1], truth[:1])[2:, 3].tolist() == [0], "now it is the second image's turn"
    assert evaluated(tmp_path, found, truth, 'overlap_threshold: 0.6')[0][2:, 3].tolist() == [0, 0]


def test_padding_is_taken_off():
    """An image of 200 x 100 within 50 x 50 is 50 x 25, with 12 rows above it."""
    text = 'resize_mode: FIT_LARGE_SIZE_AND_PAD height: 50 width: 50'
    resize = caffe_pb2.ResizeParameter()
    caffe.format.prototxt.parse_text(text, resize, 'resize')
    boxes = np.array([[0.5, 0.25, 1.0, 0.75], [0, 0.5, 0.1, 0.6]])
    wanted = [[100, 0, 200, 100], [0, 50, 20, 70]]
    np.testing.assert_allclose(in_pixels(boxes, (100, 200), resize), wanted, atol=1e-9)
    np.testing.assert_allclose(in_pixels(boxes, (100, 200)), boxes * [200, 100, 200, 100])


# ---- average precision ----


def average_by_hand(scores, right, objects, version):
    """By a plain loop."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    points, hits = [], 0
    for n, i in enumerate(order, 1):
        hits += right[i]
        points.append((hits / objects, hits / n))
    if version == '11point':
        return sum(max([p for r, p in points if r >= t / 10], default=0) for t in range(11)) / 11
    total, before = 0, 0
    for k, (recall, precision) in enumerate(points):
        best = max(p for _, p in points[k:]) if version == 'MaxIntegral' else precision
        total, before = total + best * (recall - before), recall
    return total


@pytest.mark.parametrize('version', VERSIONS)
def test_average_precision(version):
    rng = np.random.default_rng(0)
    for count, objects in ((1, 1), (5, 3), (30, 20), (40, 10)):
        scores, right = rng.random(count), rng.random(count) < 0.4
        right[right.cumsum() > objects] = False
        found = average_precision(scores, right, objects, version)
        assert found == pytest.approx(average_by_hand(scores.tolist(), right.tolist(), objects, version))
    assert average_precision([0.5], [True], 0, version) == average_precision([], [], 3, version) == 0


def test_average_precision_in_figures():
    """Of two objects the first and the third detection are right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    found = [
        average_precision([0.9, 0.8, 0.7], [1, 0, 1], 2, v) for v in ('11point', 'MaxIntegral', 'Integral')
    ]
    assert found == pytest.approx([(6 * 1 + 5 * 2 / 3) / 11, 1 / 2 + 1 / 3, 1 / 2 + 1 / 3])


def test_what_a_batch_gave_stays():
    """Though the next one is written to the same memory."""
    tally, rows = Tally('Integral'), np.array([[-1, 1, 1, -1, -1], [0, 1, 0.9, 1, 0]])
    tally.add(rows)
    rows[1] = 0, 1, 0.8, 0, 1
    tally.add(rows)
    assert tally.by_class() == {1: 0.5}  # one of two objects, by the better score


def test_batches_add_up():
    tally = Tally('Integral')
    tally.add(np.float32([[[[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.5, 0, 0]]]]))
    tally.add(np.float32([[[[-1, 1, 1, -1, -1], [-1, 2, 2, -1, -1], [0, 1, 0.8, 0, 1]]]]))
    assert tally.by_class() == {1: 0.5, 2: 0} and mean(tally.by_class()) == 0.25
    with pytest.raises(ValueError, match='known: 11point, MaxIntegral, Integral'):
        Tally('12point')


# ---- solver and command ----


class Rows(caffe.Layer):
    """Two cats found at 0.9 and 0.8, and a dog that is wrong; the objects."""

    def reshape(self, bottom, top):
        found = [[0, 1, 0.9, 0, 0, 0.5, 0.5], [0, 1, 0.8, 0.5, 0.5, 1, 1], [0, 2, 0.7, 0, 0, 1, 1]]
        for blob, rows in zip(top, (found, TRUTH)):
            blob.reshape(1, 1, *np.shape(rows))
            blob.data[0, 0] = rows

    def forward(self, bottom, top):
        pass


TRAINED = layer(
    'x', 'DummyData', more='dummy_data_param { shape { dim: 1 dim: 2 } }'
) + layer('ip', 'InnerProduct', 'x', more='inner_product_param { num_output: 1 }')  # fmt: skip


SCORED = layer(
    'rows', 'Python', tops='found truth', more='python_param { module: "test_detections" layer: "Rows" }'
) + layer('eval', 'DetectionEvaluate', 'found truth', more='detection_evaluate_param { num_classes: 3 }')  # fmt: skip


def solver_of(tmp_path, more):
    (tmp_path / 'train.prototxt').write_text(TRAINED)
    (tmp_path / 'test.prototxt').write_text(TRAINED + SCORED)
    (tmp_path / 'solver.prototxt').write_text(
        f'train_net: "{tmp_path}/train.prototxt" test_net: "{tmp_path}/test.prototxt" test_iter: 2 '
        f'base_lr: 0 lr_policy: "fixed" {more}'
    )
    return caffe.get_solver(str(tmp_path / 'solver.prototxt'))


@pytest.fixture
def lines(caplog):
    caplog.set_level('INFO')
    return lambda: [r.getMessage().strip() for r in caplog.records]


def test_a_solver_tells_mean_average_precision(tmp_path, lines):
    solver = solver_of(tmp_path, 'eval_type: "detection" ap_version: "11point" show_per_class_result: true')
    solver.test_all()
    assert lines()[1:4] == ['class1: 1', 'class2: 0', 'Test net output #0: eval = 0.5']


@pytest.mark.parametrize(
    'more, wanted',
    [
        ('eval_type: "segmentation"', 'known: classification, detection'),
        ('eval_type: "detection" ap_version: "7point"', "unknown ap_version '7point'"),
    ],
)
def test_a_solver_refuses(more, wanted, tmp_path):
    with pytest.raises(ValueError, match=wanted):
        solver_of(tmp_path, more)


def test_the_command_tells_it_too(tmp_path, lines):
    solver = solver_of(tmp_path, '')
    solver.net.save(str(tmp_path / 'w.caffemodel'))
    args = ['test', '-model', f'{tmp_path}/test.prototxt', '-weights', f'{tmp_path}/w.caffemodel']
    command.main([*args, '-iterations', '2'])
    assert lines()[-3:] == ['class1: 1', 'class2: 0', 'eval = 0.5']


# ---- files ----


def saving_net(tmp_path, form, images=2, more='', labels='labels.prototxt'):
    (tmp_path / 'labels.prototxt').write_text(
        LABELS if form != 'COCO' else LABELS.replace('cat', '17').replace('dog', '18')
    )
    (tmp_path / 'sizes.txt').write_text('11 100 200\n12 50 50\n13 10 10\n')
    save = (
        f'output_directory: "{tmp_path}/out/made" output_name_prefix: "comp4_" output_format: "{form}" '
        f'label_map_file: "{tmp_path}/{labels}" name_size_file: "{tmp_path}/sizes.txt" {more}'
    )
    text = data('loc', images, 8) + data('conf', images, 6) + data('prior', 1, 2, 8)
    text += layer(
        'out',
        'DetectionOutput',
        'loc conf prior',
        more='detection_output_param { num_classes: 3 nms_param { nms_threshold: 0.4 } confidence_threshold: 0.1 '
        f'save_output_param {{ {save} }} }}',
    )
    net = net_from(tmp_path, text)
    net.blobs['prior'].data[0, 0] = [
        0.1,
        0.2,
        0.5,
        0.6,
        0.5,
        0.5,
        1,
        1.2,
    ]  # a box beyond the image is clipped
    net.blobs['conf'].data[...] = [0, 0.75, 0, 0, 0, 0.5]  # the first prior a cat, the second a dog
    return net


def test_detections_in_voc_files(tmp_path):
    net = saving_net(tmp_path, 'VOC', 1, 'num_test_image: 2')
    out = tmp_path / 'out' / 'made'
    net.forward()
    assert not out.exists(), 'one image is lacking'
    net.forward()
    assert (out / 'comp4_cat.txt').read_text() == '11 0.75 20 20 100 60\n12 0.75 5 10 25 30\n'
    assert (out / 'comp4_dog.txt').read_text() == '11 0.5 100 50 200 100\n12 0.5 25 25 50 50\n'
    assert len(list(out.iterdir())) == 2
    net.blobs['conf'].data[...] = 0
    for _ in range(2):
        net.forward()
    assert (out / 'comp4_cat.txt').read_text() == '', 'the next round begins anew'


def test_detections_in_other_files(tmp_path):
    saving_net(tmp_path, 'ILSVRC', 3).forward()
    out = tmp_path / 'out' / 'made'
    assert (out / 'comp4_.txt').read_text().splitlines()[:2] == [
        '11 1 0.75 20 20 100 60',
        '11 2 0.5 100 50 200 100',
    ]
    saving_net(tmp_path, 'COCO', 3).forward()
    found = json.loads((out / 'comp4_.json').read_text())
    assert found[3] == {'image_id': 12, 'category_id': 18, 'bbox': [25, 25, 25, 25], 'score': 0.5}


@pytest.mark.parametrize(
    'form, more, labels, wanted',
    [
        ('YOLO', '', 'labels.prototxt', 'wanted VOC, COCO or ILSVRC'),
        ('VOC', 'num_test_image: 4', 'labels.prototxt', 'num_test_image 4, but .*sizes.txt has 3 lines'),
        ('VOC', '', 'nowhere', 'nowhere does not exist'),
    ],
)
def test_files_that_cannot_be(form, more, labels, wanted, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=wanted):
        saving_net(tmp_path, form, more=more, labels=labels)


def test_label_maps(tmp_path):
    path = tmp_path / 'map.prototxt'
    path.write_text(LABELS)
    assert read_label_map(path) == {0: 'none', 1: 'cat', 2: 'dog'}
    path.write_text(LABELS + 'item { name: "cat" label: 3 }')
    with pytest.raises(ValueError, match='there twice'):
        read_label_map(path)
    path.write_text('item { nam: "x" }')
    with pytest.raises(ValueError, match="did you mean 'name'|Did you mean 'name'"):
        read_label_map(path)
