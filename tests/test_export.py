"""lib/export: each kind of net that the generator writes, by onnxruntime, against the engine; the tool; what a file refuses."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import caffe
import cv2
import make_toy
import numpy as np
import pytest
from tool_runs import run_main, tool

onnx = pytest.importorskip('onnx', reason='the export wants onnx')
pytest.importorskip('onnxruntime', reason='the export is checked by onnxruntime')
from export.check import Differences, Found, compare_blobs, ours, session, theirs  # noqa: E402
from export.detector import OFF, detector_model, rpn_model  # noqa: E402
from export.graph import Graph  # noqa: E402
from export.images import picture_in  # noqa: E402
from export.model import kind_of, plain_model  # noqa: E402
from fast_rcnn.config import cfg, overrides  # noqa: E402
from fast_rcnn.inputs import looked_at_image, together  # noqa: E402
from fpn.boxes import FAMILIES  # noqa: E402
from netgen.backbones import RESNET10_FPN  # noqa: E402
from netgen.files import end2end_text, files  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ['__background__', 'a', 'b', 'c']
SETTINGS = {
    'TEST.HAS_RPN': True,
    'TEST.SCALES': [96],
    'TEST.MAX_SIZE': 200,
    'TEST.RPN_MIN_SIZE': 4,
    'TEST.RPN_POST_NMS_TOP_N': 30,
    'TEST.SCORE_THRESH': 0.1,
    'DEDUP_BOXES': 0.0,
}


@pytest.fixture(autouse=True)
def _settings():
    with overrides(SETTINGS):
        yield


def net_of(folder, text, name='net'):
    """A net whose random values are of a size as after training, so that some of each class are found."""
    path = folder / f'{name}.prototxt'
    path.write_text(text)
    caffe.set_random_seed(5)
    net = caffe.Net(str(path), caffe.TEST)
    for layer, params in net.params.items():
        if len(params) == 3:
            params[1].data[...], params[2].data[...] = 1, 1
        if 'bbox' in layer or 'cls' in layer or 'deltas' in layer:
            params[0].data[...] *= 0.1
    net.name = name
    return net


def of_method(method, name, net='ResNet-10'):
    """The text of a file that the generator writes."""
    texts = files('own', net, len(CLASSES))
    return next(text for path, text in texts.items() if path.parts[-2:] == (method, name))


def pyramid(boxes, **more):
    text = end2end_text(
        'ResNet-10-FPN', len(CLASSES), 'test.prototxt', backbone=replace(RESNET10_FPN, boxes=boxes, **more)
    )
    return text


NETS = {
    'one-map': (lambda: of_method('faster_rcnn_end2end', 'test.prototxt'), False),
    'rfcn': (lambda: of_method('rfcn_end2end', 'test_agnostic.prototxt'), True),
    'caffe': (lambda: pyramid('caffe'), True),
    'torchvision': (lambda: pyramid('torchvision'), True),
    'tensorpack': (lambda: pyramid('tensorpack'), True),
    'detectron': (lambda: pyramid('detectron'), True),
    'detnet': (lambda: pyramid('detnet'), True),
    'groups': (lambda: end2end_text('ResNet-10-FPN-GN', len(CLASSES), 'test.prototxt'), True),
    'cascade': (lambda: end2end_text('ResNet-10-FPN-Cascade', len(CLASSES), 'test.prototxt'), True),
    'masks': (lambda: end2end_text('ResNet-10-FPN', len(CLASSES), 'test.prototxt', masks=True), True),
    'masks-one-map': (lambda: end2end_text('ResNet-10', len(CLASSES), 'test.prototxt', masks=True), False),
    'context': (lambda: pyramid('caffe', context=True), True),
}


def picture(seed=0):
    return make_toy.draw(np.random.default_rng(seed))[0][:150, :160].copy()


def of_model(model, folder):
    path = str(folder / 'model.onnx')
    onnx.save(model, path)
    return session(path, 1)


def differences(net, one, ims, given=None):
    found = Differences()
    for im in ims:
        found.add(ours(net, im, given), theirs(one, net, im, given))
    return found


@pytest.mark.parametrize('name', NETS)
def test_detectors(name, tmp_path):
    """Two pictures of different sizes by one file."""
    text, whole = NETS[name]
    net = net_of(tmp_path, text())
    cfg.TEST.AGNOSTIC = net.blobs['bbox_pred'].shape[1] == 8
    assert kind_of(net) == 'detector'
    one = of_model(detector_model(net, CLASSES, whole), tmp_path)
    found = differences(net, one, [picture(0), picture(1)[:120, :150]])
    assert found.pairs > 8 and len(found.alone) <= found.ties <= 2, str(found)
    assert found.pixels < 5e-3 and found.score < 1e-4 and found.mask < 0.01, str(found)


@pytest.mark.parametrize('name', ['caffe', 'torchvision', 'tensorpack'])
@pytest.mark.parametrize('shape', [(150, 160), (97, 260)])
def test_pictures_are_scaled_as_ours(name, shape, tmp_path):
    """tensorpack's in whole numbers, as OpenCV has them."""
    graph, family = Graph(['data', 'info']), FAMILIES[name]
    data, im_info, _ = picture_in(graph, family)
    graph.output(data, 'data', [1, 3, 'h', 'w'])
    graph.output(im_info, 'info', [1, 3])
    im = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found, info = of_model(graph.model('picture', '', {}), tmp_path).run(None, {'image': im})
    wanted = looked_at_image(im, family)
    assert info[0].tolist() == np.float32([*wanted.data.shape[2:], *wanted.scales]).tolist()
    apart = np.abs(found - together([wanted], family.divisor))
    assert found.dtype == np.float32 and apart.max() < 0.02


def test_proposals_and_judging(tmp_path):
    """The two nets of alternating training: what the first proposes, the second judges."""
    rpn = net_of(tmp_path, of_method('faster_rcnn_alt_opt', 'rpn_test.pt'), 'rpn')
    assert kind_of(rpn) == 'rpn'
    one = of_model(rpn_model(rpn, (), True), tmp_path)
    found = differences(rpn, one, [picture()])
    assert found.pairs > 20 and not found.alone and found.pixels < 5e-3, str(found)
    boxes = theirs(one, rpn, picture()).boxes
    cfg.TEST.HAS_RPN = False
    judge = net_of(tmp_path, of_method('faster_rcnn_alt_opt', 'fast_rcnn_test.pt'), 'judge')
    one = of_model(detector_model(judge, CLASSES, True), tmp_path)
    found = differences(judge, one, [picture()], boxes)
    assert found.pairs > 8 and not found.alone and found.pixels < 5e-3, str(found)


def test_nothing_is_found(tmp_path):
    """No detection, and so no mask, is an answer too."""
    net = net_of(tmp_path, NETS['masks'][0]())
    with overrides({'TEST.SCORE_THRESH': 0.999}):
        one = of_model(detector_model(net, CLASSES, True), tmp_path)
    boxes, scores, labels, masks = one.run(None, {'image': picture()})
    assert boxes.shape == (0, 4) and masks.shape == (0, 150, 160) and not len(scores) + len(labels)


def test_standard_operators_alone(tmp_path):
    model = detector_model(net_of(tmp_path, NETS['masks'][0]()), CLASSES, True)
    assert {node.domain for node in model.graph.node} == {''}
    assert [opset.domain for opset in model.opset_import] == ['']


def test_what_a_file_says_of_itself(tmp_path):
    model = detector_model(net_of(tmp_path, pyramid('torchvision')), CLASSES, False)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(facts['classes']) == CLASSES and facts['channels'] == 'BGR'
    assert json.loads(facts['means']) == np.ravel(cfg.PIXEL_MEANS).tolist()
    assert [json.loads(facts[key]) for key in ('short_side', 'long_side', 'divisor')] == [96, 200, 32]
    assert facts['kind'] == 'detector' and facts['input'] == 'data'
    inputs = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input
    }
    assert inputs == {'data': [1, 3, 'h', 'w'], 'im_info': [1, 3], 'im_size': [1, 2]}


@pytest.mark.parametrize('name, value', [('FLIP', True), ('SOFT_NMS', 'linear'), ('REGION_SCALES', [80, 96])])
def test_settings_of_several_looks_are_refused(name, value, tmp_path):
    net = net_of(tmp_path, NETS['one-map'][0]())
    with overrides({f'TEST.{name}': value}), pytest.raises(ValueError, match=f'TEST.{name}'):
        detector_model(net, CLASSES)


def test_every_setting_that_is_refused_is_off_by_default(tmp_path):
    assert all(cfg.TEST[name] == off or list(cfg.TEST[name]) == list(off) for name, off in OFF.items())


CLASSIFIER = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 21 dim: 18 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { local_size: 5 alpha: 0.1 beta: 0.75 } }
layer { name: "pool1" type: "Pooling" bottom: "norm1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool1" top: "pool1" }
%s
layer { name: "fc" type: "InnerProduct" bottom: "top" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
GLOBAL = 'layer { name: "top" type: "Pooling" bottom: "pool1" top: "top" pooling_param { pool: AVE global_pooling: true } }'
FLAT = 'layer { name: "top" type: "Flatten" bottom: "pool1" top: "top" }'


@pytest.mark.parametrize('middle, free', [(GLOBAL, ['N', 3, 'H', 'W']), (FLAT, ['N', 3, 21, 18])])
def test_classifiers_vary_where_the_net_does(middle, free, tmp_path):
    net = net_of(tmp_path, CLASSIFIER % middle)
    model = plain_model(net, ['prob', 'conv1'])  # of which the ReLU in place is the last
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == free
    apart = compare_blobs(net, of_model(model, tmp_path))
    assert list(apart) == ['prob', 'conv1'] and max(apart.values()) < 1e-5


def test_a_layer_without_a_form_is_named(tmp_path):
    text = (
        CLASSIFIER % FLAT
        + 'layer { name: "columns" type: "Im2col" bottom: "conv1" top: "c" convolution_param { kernel_size: 2 } }'
    )
    net = net_of(tmp_path, text)
    with pytest.raises(ValueError, match=r"layer 'columns' \(Im2col\): .*no form"):
        plain_model(net)
    assert plain_model(net, ['prob'])


def test_differences():
    boxes = np.float32([[0, 0, 9, 9], [20, 20, 40, 40], [5, 5, 8, 8]])
    a = Found(np.array([1, 1, 2]), boxes, np.float32([0.9, 0.8, 0.3]))
    b = Found(np.array([1, 1, 2]), boxes + np.float32([[0], [9], [0.25]]), np.float32([0.9, 0.8, 0.299]))
    found = Differences()
    found.add(a, b)
    assert (found.pairs, found.ties, found.alone) == (2, 1, [])
    assert found.pixels == 0.25 and found.score == pytest.approx(1e-3, rel=1e-3)
    found.add(a, Found(np.array([1]), boxes[:1], np.float32([0.95])))
    assert sorted(found.alone) == pytest.approx([0.3, 0.8, 0.9, 0.95])


# ---------------------------------------------------------------------------------------------- the tool


@pytest.fixture
def toy(tmp_path):
    """A toy dataset's description, and a model of it."""
    make_toy.write(str(tmp_path / 'data' / 'toy'), 2, 2)
    net = net_of(tmp_path, end2end_text('ResNet-10-FPN', 5, 'test.prototxt'), 'model')
    net.save(str(tmp_path / 'model.caffemodel'))
    return tmp_path


def test_tool(toy, monkeypatch, capsys):
    """Without its dataset a model is written by what lies beside it; with one it is checked."""
    main = tool('export_onnx').main
    settings = {'TEST.SCALES': [96], 'TEST.MAX_SIZE': 200, 'TEST.SCORE_THRESH': 0.1, 'TEST.RPN_MIN_SIZE': 4}
    names = ['__background__', 'circle', 'square', 'triangle', 'star']
    (toy / 'model.classes.json').write_text(json.dumps({'classes': names, 'cfg': settings}))
    words = ['--load', toy / 'model.caffemodel', '--out', toy / 'out' / 'model.onnx', '--picture']
    (toy / 'data' / 'datasets').mkdir()
    (toy / 'data' / 'datasets' / 'toy.yml').symlink_to(toy / 'data' / 'toy' / 'toy.yml')
    with pytest.raises(ValueError, match='--check of a detector wants pictures: --imdb'):
        run_main(monkeypatch, main, *words, '--check')
    assert not (toy / 'out').exists()  # before anything is written
    checked = [
        '--check',
        '--imdb',
        'toy_val',
        '--images',
        1,
        '--threads',
        1,
        '--set',
        'DATA_DIR',
        toy / 'data',
    ]
    run_main(monkeypatch, main, *words, *checked)
    text = capsys.readouterr().out
    assert 'a detector' in text and '1 pictures of toy_val' in text and '0 of one alone' in text
    means = re.findall(r'mean AP, \w+: ([\d.]+)', text)
    assert len(means) == 2 and means[0] == means[1]


def test_example_in_the_docs(toy, monkeypatch):
    """Both are run as they stand there, by a Python that has no more than onnxruntime and OpenCV on its path."""
    parts = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'export.md').read_text(), re.DOTALL)
    assert len(parts) == 2
    net = net_of(toy, end2end_text('ResNet-10-FPN', 5, 'test.prototxt'), 'model')
    cv2.imwrite(str(toy / 'picture.png'), picture())
    for whole, part in zip((False, True), parts):
        onnx.save(detector_model(net, ['__background__', *'abcd'], whole), str(toy / 'model.onnx'))
        run = subprocess.run(
            [sys.executable, '-c', part],
            cwd=toy,
            capture_output=True,
            text=True,
            env={'OMP_NUM_THREADS': '1'},
        )
        assert not run.returncode, run.stderr
        wanted = ours(net, picture())
        rows = [line.split() for line in run.stdout.splitlines()]
        assert len(rows) == len(wanted.scores)
        np.testing.assert_allclose([float(row[1]) for row in rows], -np.sort(-wanted.scores), atol=2e-3)
