"""What a net with masks finds: in the image, on disk, in COCO's results, by the tools."""

import json

import caffe
import demo
import make_toy
import numpy as np
import pytest
import reval
from tool_runs import run_main

import cv2
from datasets import own
from fast_rcnn import evaluation
from fast_rcnn.config import cfg, overrides
from fast_rcnn.detection import detect, detect_masks, find, im_detect
from fast_rcnn.inputs import looked_at_image
from fast_rcnn.masks import pasted
from fpn.boxes import family_of_net
from netgen.files import end2end_text
from pipeline.settings import cfg_files
from pycocotools import mask as coco_mask
from utils.proposals import load_detections, load_masks, save_detections

SETTINGS = {
    'TEST.HAS_RPN': True,
    'TEST.SCALES': [96],
    'TEST.MAX_SIZE': 200,
    'TEST.RPN_MIN_SIZE': 4,
    'TEST.RPN_POST_NMS_TOP_N': 12,
    'TEST.SCORE_THRESH': 0.1,
}


@pytest.fixture(autouse=True)
def _settings():
    with overrides(SETTINGS):
        yield


def mask_net(folder, name='ResNet-10-FPN'):
    path = folder / 'test.prototxt'
    path.write_text(end2end_text(name, 5, 'test.prototxt', masks=True))
    caffe.set_random_seed(5)
    net = caffe.Net(str(path), caffe.TEST)
    for (
        layer,
        params,
    ) in net.params.items():  # values of a size as after training, so that some of each class are found
        if len(params) == 3:
            params[1].data[...], params[2].data[...] = 1, 1
        if 'bbox_pred' in layer or 'cls_score' in layer:
            params[0].data[...] *= 0.1
    return net


def images():
    random = np.random.default_rng(0)
    return [make_toy.draw(random)[0][:150, :160].copy() for _ in range(2)]


@pytest.mark.parametrize('name', ['ResNet-10-FPN', 'ResNet-10'])
def test_masks_are_of_what_is_kept(tmp_path, name):
    """As the second pass gives them, pasted; each image by itself as both together; a box of Caffe's reaches one further."""
    net, family = mask_net(tmp_path, name), family_of_net(mask_net(tmp_path, name))
    scaled = [looked_at_image(im, family) for im in images()]
    together = find(net, scaled, 5, 0.1)()
    for im, one in zip(images(), together):
        boxes, masks = detect_masks(net, im, 5, 0.1)
        assert [len(rows) for rows in boxes] == [len(rles) for rles in masks]
        assert len(one.dets) >= 1 and one.masks.shape[0] == len(one.dets)
        edges = one.dets[:, :4] + [0, 0, 1, 1]
        assert one.rles() == pasted(one.masks, edges, *im.shape[:2])
        assert all(rle['size'] == list(im.shape[:2]) for rle in one.rles())
        flat = [rle for rles in masks for rle in rles]
        for alone, rle in zip(flat, one.rles(), strict=True):
            assert coco_mask.iou([alone], [rle], [0])[0, 0] > 0.98 or alone == rle
        assert all((a == b).all() for a, b in zip(detect(net, im, 5, 0.1), boxes))


def test_nothing_found_has_no_masks(tmp_path):
    net = mask_net(tmp_path)
    assert detect_masks(net, images()[0], 5, 1.0)[1] == [[]] * 5


def test_im_detect_gives_each_rois_mask(tmp_path):
    net, im = mask_net(tmp_path), images()[0]
    scores, boxes = im_detect(net, im)
    again, same, masks = im_detect(net, im, masks=True)
    assert (scores == again).all() and (boxes == same).all()
    assert masks.shape == (len(scores), 28, 28) and 0 <= masks.min() < masks.max() <= 1
    (found,) = find(net, [looked_at_image(im, family_of_net(net))], 0, 0.0)()
    best = scores[:, 1:].argmax(1) + 1
    of_best = boxes.reshape(len(boxes), 5, 4)[np.arange(len(best)), best]
    met = 0
    for box, k, mask in zip(found.dets[:, :4], found.classes, found.masks):
        for i in np.flatnonzero((of_best == box).all(1) & (best == k)):
            np.testing.assert_allclose(masks[i], mask, atol=1e-5)
            met += 1
    assert met > 2


def test_who_asks_a_net_without_masks_is_told(tmp_path):
    path = tmp_path / 'plain.prototxt'
    path.write_text(end2end_text('ResNet-10-FPN', 5, 'test.prototxt'))
    net = caffe.Net(str(path), caffe.TEST)
    assert detect_masks(net, images()[0], 5, 0.1)[1] is None
    with pytest.raises(ValueError, match='has no masks: it reads no mask_rows'):
        im_detect(net, images()[0], masks=True)


@pytest.mark.parametrize('settings', [{'TEST.FLIP': True}, {'TEST.REFINE': 1}])
@pytest.mark.parametrize('name', ['ResNet-10-FPN', 'ResNet-10'])
def test_masks_of_several_looks_are_those_of_the_image_itself(tmp_path, settings, name):
    """Whatever the net has looked at last: as many as there are boxes, and as a fresh net gives them for these."""
    net, im = mask_net(tmp_path, name), images()[0]
    with overrides(settings):
        (found,) = find(net, [looked_at_image(im, family_of_net(net))], 5, 0.1)()
        again = find(mask_net(tmp_path, name), [looked_at_image(im)], 5, 0.1)()[0].masks
    assert len(found.dets) and len(found.masks) == len(found.dets)
    np.testing.assert_allclose(again, found.masks, atol=1e-5)


# ----------------------------------------------------------------------------------------- over a data set
@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy's test set, and a folder for results."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    monkeypatch.setattr(cfg, 'ROOT_DIR', str(tmp_path))
    make_toy.write(str(tmp_path / 'data' / 'toy'), train=1, val=3, seed=2)
    make_toy.register(str(tmp_path / 'data' / 'toy' / 'toy_masks.yml'))
    return own.make(own.load(tmp_path / 'data' / 'toy' / 'toy_masks.yml'), 'val')


def test_masks_are_kept_and_scored(toy, tmp_path, monkeypatch, capsys):
    """The same ones that detect_masks gives are in detections.npz and in the file for COCO; reval.py scores them again."""
    net = mask_net(tmp_path)
    mean = evaluation.test_net(net, toy, 5, 0.1)
    printed = capsys.readouterr().out
    assert 0 <= mean <= 1 and 'Masks:' in printed
    folder = next((tmp_path / 'output').rglob('detections.npz')).parent
    boxes, masks = load_detections(folder / 'detections.npz'), load_masks(str(folder / 'detections.npz'))
    for i in range(3):
        found, rles = detect_masks(net, cv2.imread(toy.image_path_at(i)), 5, 0.1)
        for k in range(1, 5):
            np.testing.assert_allclose(boxes[k][i], found[k], atol=1e-4)
            assert masks[k][i] == rles[k]
    (path,) = folder.glob('results/masks_val_results.json')
    results = json.loads(path.read_text())
    assert len(results) == sum(len(rows) for of_class in boxes for rows in of_class)
    assert not list(folder.glob('*.rows'))
    run_main(monkeypatch, reval.main, folder, '--imdb', 'toy_masks_val', '--set', 'DATA_DIR', cfg.DATA_DIR)
    assert capsys.readouterr().out.partition('AP for')[2] == printed.partition('AP for')[2]


def test_detections_without_masks_say_so(tmp_path):
    path = str(tmp_path / 'd.npz')
    boxes = [[np.zeros((0, 5))] * 2, [np.ones((1, 5)), np.zeros((0, 5))]]
    save_detections(path, boxes)
    assert load_masks(path) is None
    rle = {'size': [3, 4], 'counts': b'0<'}
    save_detections(path, boxes, [[[], []], [[rle], []]])
    assert load_masks(path) == [[[], []], [[rle], []]]
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, 'ends': arrays['ends'] + 1})
    with pytest.raises(ValueError, match='d.npz: wanted masks of 1 boxes'):
        load_masks(path)


def test_the_demo_draws_masks(toy, tmp_path, monkeypatch):
    net = mask_net(tmp_path)
    net.save(str(tmp_path / 'w.caffemodel'))
    words = [
        '--cpu',
        '--def',
        tmp_path / 'test.prototxt',
        '--net',
        tmp_path / 'w.caffemodel',
        '--imdb',
        'toy_masks_val',
    ]
    words += ['--out', tmp_path / 'out', '--most', 1, '--thresh', 0.2]
    settings = [word for key in SETTINGS for word in (key, SETTINGS[key])]
    drawn = []
    monkeypatch.setattr('fast_rcnn.drawing._tint', lambda *args: drawn.append(args))
    run_main(monkeypatch, demo.main, *words, '--set', 'DATA_DIR', cfg.DATA_DIR, *settings)
    assert drawn and len(list((tmp_path / 'out').glob('*.png'))) == 1


def test_settings_of_masks_go_over_those_of_boxes():
    names = [
        path.rpartition('/')[2]
        for path in cfg_files('mask_rcnn_end2end', 'ResNet-50-FPN', 'torchvision', 'coco')
    ]
    assert names == [
        'faster_rcnn_end2end_torchvision.yml',
        'faster_rcnn_end2end_torchvision_coco.yml',
        'mask_rcnn_end2end.yml',
    ]
