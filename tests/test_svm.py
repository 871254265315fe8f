"""fast_rcnn.svm and tools/train_svms.py: SVMs on a toy net whose features are the largest of each colour in a region."""

import os

import caffe
import numpy as np
import pytest
from PIL import Image
from test_detect import NET
from tool_runs import NETS, RECORDED, VAL, run_main, tool

from datasets import own
from datasets.factory import get_imdb
from devkits import write
from fast_rcnn import svm
from fast_rcnn.config import cfg, overrides
from fast_rcnn.detection import im_detect
from utils.blob import read_image
from utils.proposals import save_proposals

SETTINGS = {'TEST.SCALES': [40], 'TEST.SVM': True, 'PIXEL_MEANS': np.array([[[100.0, 100.0, 100.0]]])}
RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 220, 30)
BOXES = {'red': [4, 4, 15, 15], 'blue': [40, 20, 55, 35]}
SOME = np.array(
    [[4, 4, 14, 15], [22, 4, 33, 15], [2, 24, 20, 36], [40, 20, 55, 30], [30, 2, 58, 16]], np.float32
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six pictures with a red and a blue thing, something green, and proposals; no object of the third class."""
    pytest.importorskip('sklearn', reason='scikit-learn is not installed')
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    monkeypatch.setattr(cfg, 'ROOT_DIR', str(tmp_path))
    random = np.random.default_rng(0)
    for i in range(6):
        pixels = random.integers(60, 140, (40, 60, 3)).astype(np.uint8)
        for (x1, y1, x2, y2), colour in zip([*BOXES.values(), [22, 4, 33, 15]], (RED, BLUE, GREEN)):
            pixels[y1 : y2 + 1, x1 : x2 + 1] = np.clip(colour + random.integers(-25, 25, 3), 0, 255)
        (tmp_path / 'set/images').mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f'set/images/{i}.png')
    rows = ''.join(
        f'{i}.png,{",".join(map(str, box))},{name}\n' for i in range(6) for name, box in BOXES.items()
    )
    write(tmp_path / 'set/all.csv', rows)
    write(tmp_path / 'data/datasets/toys.yml', f'name: toys\nformat: csv\nroot: {tmp_path}/set\n'
          'classes: [red, blue, none]\nsplits: {train: [0, 1, 2, 3], val: [4, 5]}\n')  # fmt: skip
    save_proposals(str(tmp_path / 'given.json'), [SOME] * 4)
    return own.make(own.load(str(tmp_path / 'data/datasets/toys.yml')), 'train')


@pytest.fixture
def net(tmp_path):
    text = NET.replace('num_output: 2', 'num_output: 4').replace('num_output: 8', 'num_output: 16')
    write(tmp_path / 'toy.prototxt', text)
    net = caffe.Net(str(tmp_path / 'toy.prototxt'), caffe.TEST)
    net.save(str(tmp_path / 'toy.caffemodel'))
    return net


def given(data, tmp_path):
    data.set_proposal_method('rpn')
    data.config['rpn_file'] = str(tmp_path / 'given.json')
    return data


def largest(path, box):
    """A region's features, by hand: the largest of each of B, G, R, less 100."""
    x1, y1, x2, y2 = np.round(box).astype(int)
    return read_image(path)[y1 : y2 + 1, x1 : x2 + 1].reshape(-1, 3).max(0).astype(float) - 100


def iou(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in range(2)]
    inner = max(sides[0], 0) * max(sides[1], 0)
    return inner / (sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)) - inner)


def test_against_one_fit_by_hand(data, net, tmp_path):
    """No retraining on the way and all scores 0 at first: all negatives are there at the only fit."""
    from sklearn.svm import LinearSVC

    given(data, tmp_path)
    with overrides(SETTINGS):
        counts = svm.train_svms(net, data)
    # A CSV's box of 4, 4, 15, 15 lies between pixels: its last one is 14
    objects = {name: [x1, y1, x2 - 1, y2 - 1] for name, (x1, y1, x2, y2) in BOXES.items()}
    paths = [data.image_path_at(i) for i in range(4)]
    regions = [*objects.values(), *SOME]
    every = {path: [largest(path, box) for box in regions] for path in paths}
    scale = 20 / np.mean([np.linalg.norm(feature) for features in every.values() for feature in features])
    assert counts == {'red': 4, 'blue': 4, 'none': 0}
    for k, (name, box) in enumerate(objects.items(), 1):
        positives = [every[path][k - 1] for path in paths]
        negatives = [
            feature
            for path in paths
            for feature, region in zip(every[path][2:], SOME)
            if iou(region, box) < 0.3
        ]
        labels = [1] * len(positives) + [-1] * len(negatives)
        wanted = LinearSVC(
            C=0.001, class_weight={1: 2, -1: 1}, intercept_scaling=10, loss='hinge', random_state=cfg.RNG_SEED
        )
        wanted.fit(np.array(positives + negatives) * scale, labels)
        weights, bias = (blob.data[k] for blob in net.params['cls_score'])
        np.testing.assert_allclose(weights, wanted.coef_[0] * scale, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(bias, wanted.intercept_[0], rtol=1e-4)
    assert not net.params['cls_score'][0].data[[0, 3]].any() and net.params['cls_score'][1].data[
        [0, 3]
    ].tolist() == [0, svm.NEVER]


def test_hard_negatives_are_mined(data, net, tmp_path, monkeypatch):
    """Fitted again and again on what is wrong; what is easy is let go."""
    monkeypatch.setattr(svm, 'C', 1.0)
    fits, fit = [], svm.Svm.fit
    monkeypatch.setattr(svm.Svm, 'fit', lambda self: (fits.append(len(self.negatives)), fit(self)))
    with overrides(SETTINGS):
        svm.train_svms(net, given(data, tmp_path), retrain=3)
        scores = im_detect(
            net, read_image(data.image_path_at(0)), np.array([*BOXES.values(), *SOME], np.float32)
        )[0]
    assert len(fits) > 3 and max(fits) < 16
    assert (
        scores[0, 1] > 0 > scores[0, 2] and scores[1, 2] > 0 > scores[1, 1] and (scores[[3, 4], 1:] < 0).all()
    )


def test_of_what_is_hard_and_what_is_easy(monkeypatch):
    pytest.importorskip('sklearn', reason='scikit-learn is not installed')
    monkeypatch.setattr(svm, 'C', 1.0)
    one = svm.Svm(np.array([[4.0, 0.0]]), 0.5, retrain=2)
    one.w, one.b = np.array([1.0, 0.0]), -2.0
    one.add(np.array([[2.0, 5.0], [1.9, 0.0], [2.1, 0.0], [-8.0, 0.0]], np.float32))  # -1, -1.05, -0.95, -6
    assert one.negatives.tolist() == [[2.0, 5.0], pytest.approx([2.1, 0.0])]
    one.negatives = np.array([[-200.0, 0.0], [3.0, 0.0]], np.float32)
    one.fit()
    assert one.negatives.tolist() == [[3.0, 0.0]] and one.added == 0


def test_mirror_images_are_seen_mirrored(data, net, tmp_path):
    data = given(data, tmp_path)
    data.append_flipped_images()
    with overrides(SETTINGS):
        features = svm.Features(net)
        (boxes, here), (mirrored, there) = features.of(data, 1), features.of(data, 5)
    np.testing.assert_allclose(mirrored[:, [0, 2]], 59 - boxes[:, [2, 0]])
    np.testing.assert_array_equal(here, there)


def test_the_tool(data, net, tmp_path, monkeypatch, capsys):
    """Writes the model that test_net.py takes, whose raw scores find every object of new pictures."""
    monkeypatch.setattr(svm, 'C', 1.0)
    files = ['--gpu', 'cpu', '--def', tmp_path / 'toy.prototxt', '--imdb']
    sets = [
        '--set',
        'TEST.SCALES',
        [40],
        'DATA_DIR',
        tmp_path / 'data',
        'ROOT_DIR',
        tmp_path,
        'TEST.BBOX_REG',
        False,
        'USE_GPU_NMS',
        False,
    ]
    with overrides({}):
        run_main(monkeypatch, tool('train_svms').main, *files, 'toys_train', '--net', tmp_path / 'toy.caffemodel',
                 '--rpn_file', tmp_path / 'given.json', *sets, 'TRAIN.USE_FLIPPED', False)  # fmt: skip
    said = capsys.readouterr().out
    assert 'none: no objects, so it is never found' in said and 'TEST.SVM=True TEST.SCORE_THRESH=-1' in said
    regions = np.vstack([SOME, [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in BOXES.values()]])
    save_proposals(str(tmp_path / 'val.json'), [regions.astype(np.float32)] * 2)
    with overrides({}):
        run_main(monkeypatch, tool('test_net').main, *files, 'toys_val', '--net', tmp_path / 'toy_svm.caffemodel',
                 '--rpn_file', tmp_path / 'val.json', *sets, 'TEST.SVM=True', 'TEST.SCORE_THRESH=-1')  # fmt: skip
    out = capsys.readouterr().out
    assert 'AP for red = 1.0000' in out or 'AP for red = 0.9' in out, out
    assert os.path.exists(tmp_path / 'toy_svm.caffemodel')


def test_what_cannot_be_done_is_told(data, tmp_path):
    write(tmp_path / 'odd.prototxt', NET.replace('bottom: "pool" top: "cls_score"', 'bottom: "pool" top: "cls"')
          .replace('bottom: "cls_score"', 'bottom: "cls"'))  # fmt: skip
    with pytest.raises(ValueError, match='wanted an InnerProduct with a bias that makes cls_score'):
        svm.Features(caffe.Net(str(tmp_path / 'odd.prototxt'), caffe.TEST))
    write(tmp_path / 'plain.prototxt', NET)
    with overrides({'TEST.SCALES': [40, 80]}), pytest.raises(ValueError, match='one look at an image'):
        svm.Features(caffe.Net(str(tmp_path / 'plain.prototxt'), caffe.TEST))


def test_without_scikit_learn_it_says_so(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'sklearn.svm', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        svm.linear_svc()


def test_of_a_net_that_proposes(monkeypatch):
    """The recorded net: behind the objects come its proposals, with the features that its scores are made of."""
    monkeypatch.chdir(RECORDED)
    net = caffe.Net(
        str(NETS / 'faster_rcnn_test.pt'), str(RECORDED / 'stage2_fast_rcnn.caffemodel'), caffe.TEST
    )
    proposing = {'HAS_RPN': True, 'SCALES': [120], 'RPN_POST_NMS_TOP_N': 9, 'SVM': True, 'BBOX_REG': False}
    with overrides({f'TEST.{key}': value for key, value in proposing.items()} | {'DATA_DIR': str(RECORDED)}):
        data = get_imdb(VAL)
        objects = len(data.roidb[0]['boxes'])
        boxes, values = svm.Features(net).of(data, 0)
        scores, found = im_detect(net, read_image(data.image_path_at(0)))
    assert objects and len(boxes) == objects + len(scores)
    np.testing.assert_allclose(boxes[:objects], data.roidb[0]['boxes'])
    np.testing.assert_allclose(boxes[objects:], found[:, :4], atol=1e-3)
    weights, bias = (blob.data for blob in net.params['cls_score'])
    np.testing.assert_allclose(values[objects:] @ weights.T + bias, scores, atol=1e-4)
