"""A model as one file, and frcnn.Detector; what a sidecar says of its model."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import make_toy
import numpy as np
import pytest
import torch
from test_mask_detection import SETTINGS as MASK_SETTINGS
from test_mask_detection import mask_net
import _command
import rpn.generate
from caffe.format.weights import read_weights
from tool_runs import NETS, RECORDED, ROOT, VAL, run_main, settings, tool

from datasets.imagenet import imagenet
from fast_rcnn.config import cfg, overrides
from fast_rcnn.detection import detect_all
from fast_rcnn.packs import opened, pack, unpack
from fast_rcnn.sidecar import net_facts, note_metrics, read_content, read_sidecar, sidecar_path, write_sidecar
from frcnn import Detector
from utils.files import file_digest

PICTURE = np.random.RandomState(0).randint(0, 255, (60, 80, 3), np.uint8)


@pytest.fixture
def model(tmp_path):
    path = str(tmp_path / 'model.caffemodel')
    shutil.copyfile(RECORDED / 'stage2_fast_rcnn.caffemodel', path)
    with overrides({'TEST.SCALES': [90], 'DATA_DIR': str(RECORDED), 'TEST.NMS': 0.45}):
        write_sidecar(path, imagenet('val2'), str(NETS / 'faster_rcnn_test.pt'))
    return path


def test_what_a_sidecar_says(model):
    content = read_content(sidecar_path(model))
    anchors = {'feat_stride': 16, 'scales': [2, 4, 8], 'ratios': [0.5, 1, 2]}
    assert content['anchors'] == {'proposal': anchors}
    assert content['digests']['weights'] == file_digest(model) and content['imdb'] == 'imagenet_2015_val2'
    assert content['command'] and content['metrics'] == {}
    data = SimpleNamespace(name='toy', reported=[{'mean_ap': 0.5, 'aps': {'cat': 0.5}, 'more': ''}])
    note_metrics(model, data)
    assert read_content(sidecar_path(model))['metrics']['toy']['mean_ap'] == 0.5
    assert read_sidecar(model).cfg['TEST.NMS'] == 0.45


def test_anchors_that_a_net_says_nothing_of():
    pyramid, plain = (
        net_facts(str(ROOT / 'models' / name))['anchors']['proposal']
        for name in (
            'coco/ResNet-50-FPN/mask_rcnn_end2end/test.prototxt',
            'pascal_voc/ZF/faster_rcnn_end2end/test.prototxt',
        )
    )
    assert plain == {'feat_stride': 16, 'scales': [8, 16, 32], 'ratios': [0.5, 1, 2]}
    assert pyramid == {
        'boxes': 'torchvision',
        'strides': [4, 8, 16, 32, 64],
        'scales': [8],
        'ratios': [0.5, 1, 2],
    }


def test_a_pack_is_its_three_files(model, tmp_path):
    path = pack(model)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ['model.caffemodel', 'model.prototxt', 'model.classes.json']
    with opened(path) as inside:
        assert file_digest(inside) == file_digest(model) and read_sidecar(inside) != read_sidecar(model)
        assert read_sidecar(inside).classes == read_sidecar(model).classes
    with open(model, 'ab') as stream:
        stream.write(b'more')
    with pytest.raises(ValueError, match='not the weights that .*model.classes.json is of'):
        pack(model, str(tmp_path / 'b.frcnn'))
    assert not (tmp_path / 'b.frcnn').exists()


def test_broken_packs_are_named(model, tmp_path):
    with open(pack(model), 'rb') as stream:
        whole = bytearray(stream.read())
    bad = tmp_path / 'bad.frcnn'
    flipped = whole.copy()
    flipped[len(whole) // 2] ^= 255
    for content in whole[:-30], whole[:100], b'', flipped:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match='bad.frcnn: not a whole .frcnn file'):
            unpack(str(bad), str(tmp_path / 'x'))
    for names in (['a.caffemodel'], ['../a.caffemodel', '../a.prototxt', '../a.classes.json']):
        with zipfile.ZipFile(bad, 'w') as archive:
            for name in names:
                archive.writestr(name, 'x')
        with pytest.raises(ValueError, match='bad.frcnn: not a whole'):
            unpack(str(bad), str(tmp_path / 'x'))


def test_a_detector_finds_what_predict_finds(monkeypatch, tmp_path, model):
    """From one file as from three; alone as in a pass with others of its size; settings stay as they were."""
    (tmp_path / 'in').mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / 'in' / f'{i}.png'), np.roll(PICTURE, 7 * i, 1))
    packed, out = pack(model, str(tmp_path / 'm.frcnn')), tmp_path / 'out'
    before = cfg.TEST.NMS
    detector = Detector(packed, 'cpu', batch=2, thresh=0.2)
    found = detector(str(tmp_path / 'in'))
    boxes, scores, labels, masks = detector(PICTURE)
    assert cfg.TEST.NMS == before and len(found) == 3 and masks is None and len(boxes) == len(labels) > 0
    assert (np.diff(scores) <= 0).all() and np.allclose(found[0].boxes, boxes, atol=1e-3)
    assert np.allclose(
        Detector(model, 'cpu', thresh=0.2)(str(tmp_path / 'in' / '0.png')).boxes, boxes, atol=1e-3
    )
    words = [tmp_path / 'in', '--load', packed, '--gpu', 'cpu', '--out', out, '--thresh', 0.2]
    run_main(monkeypatch, tool('predict').main, *words, '--write', 'json', '--format', 'none')
    listed = json.loads((out / 'detections.json').read_text())
    for one, seen in zip(found, listed, strict=True):
        assert one.labels == [each['class'] for each in seen['detections']]
        assert np.allclose(one.boxes, [each['box'] for each in seen['detections']], atol=1e-2)
    with pytest.raises(ValueError, match='wanted a picture'):
        detector([PICTURE[:, :, 0]])


def test_a_detector_of_masks_on_a_video(tmp_path, monkeypatch):
    """Two frames a pass, as one by one; masks in pixels, inside their boxes; threads are as they were."""
    net, path = mask_net(tmp_path), str(tmp_path / 'masks.caffemodel')
    net.save(path)
    known = SimpleNamespace(class_names=['__background__', 'a', 'b', 'c', 'd'], name='drawn')
    with overrides(MASK_SETTINGS):
        write_sidecar(path, known, str(tmp_path / 'test.prototxt'))
    drawn = make_toy.draw(np.random.default_rng(0))[0][:150, :160].copy()
    writer = cv2.VideoWriter(str(tmp_path / 'v.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (160, 150))
    for i in range(5):
        writer.write(np.roll(drawn, 5 * i, 1))
    writer.release()
    passes, threads = [], torch.get_num_threads()

    def counted(net, images, *more):
        passes.append((len(images), torch.get_num_threads()))
        return detect_all(net, images, *more)

    monkeypatch.setattr('frcnn.detector.detect_all', counted)
    detector = Detector(
        path, 'cpu', batch=2, thresh=0.1, threads=threads + 1, settings={'TEST.MAX_PER_IMAGE': 3}
    )
    found = detector(str(tmp_path / 'v.avi'), every=2)
    assert passes == [(2, threads + 1), (1, threads + 1)] and torch.get_num_threads() == threads
    for one in found:
        assert (
            one.masks.shape == (len(one.boxes), 150, 160) and one.masks.dtype == bool and len(one.boxes) > 0
        )
        for mask, (x1, y1, x2, y2) in zip(one.masks, one.boxes):
            down, across = np.nonzero(mask)
            assert not len(down) or (
                across.min() >= x1 - 8 and across.max() <= x2 + 8 and down.min() >= y1 - 8
            )
    numbers, alone = zip(*((frame.number, one) for frame, one in Detector(path, 'cpu', thresh=0.1, settings={
        'TEST.MAX_PER_IMAGE': 3}).each(str(tmp_path / 'v.avi'), every=2)))  # fmt: skip
    assert numbers == (0, 2, 4)
    for one, other in zip(found, alone, strict=True):
        assert one.labels == other.labels and np.allclose(one.boxes, other.boxes, atol=1e-2)
        assert (one.masks != other.masks).mean() < 1e-3
    nothing = Detector(path, 'cpu', thresh=1.0)(drawn)
    assert nothing.masks.shape == (0, 150, 160) and nothing.boxes.shape == (0, 4) and nothing.labels == []
    with pytest.raises(ValueError, match='batch: wanted 1 or more, got 0'):
        Detector(path, 'cpu', batch=0)


def test_the_tool_packs(monkeypatch, tmp_path, model, capsys):
    run_main(monkeypatch, tool('pack').main, model)
    assert capsys.readouterr().out == f'Model: {tmp_path / "model.frcnn"}\n'
    with pytest.raises(ValueError, match='ends in .frcnn'):
        run_main(monkeypatch, tool('pack').main, model, '--out', tmp_path / 'x.zip')


@pytest.fixture
def packed(model, tmp_path):
    return pack(model, str(tmp_path / 'm.frcnn'))


@pytest.mark.parametrize('how', ['pack', 'beside', 'given'])
def test_a_model_stands_for_def_and_net(monkeypatch, tmp_path, model, packed, capsys, how):
    """Its net, its settings, and that it proposes; --set and --def all the same win. A .caffemodel likewise, by its sidecar."""
    net = {'pack': [packed], 'beside': [model], 'given': [model, '--def', NETS / 'faster_rcnn_test.pt']}[how]
    more = ['TEST.HAS_RPN', True] if how == 'given' else []
    words = ['--net', *net, '--imdb', VAL, '--gpu', 'cpu', *settings(tmp_path, *more)]
    run_main(monkeypatch, tool('test_net').main, *words)
    assert 'Mean AP' in capsys.readouterr().out
    assert cfg.TEST.HAS_RPN and cfg.TEST.NMS == (0.3 if how == 'given' else 0.45)  # the model's
    assert cfg.TEST.SCALES == (120,)  # of --set
    os.remove(sidecar_path(model))
    if how == 'beside':
        with pytest.raises(SystemExit, match='--def is missing'):
            run_main(monkeypatch, tool('test_net').main, *words)


def test_what_a_model_brings(model, packed, tmp_path):
    """open_model: nothing where --def is given, or weights are initial ones; a net that is given proposals says so."""

    def opened(weights, **more):
        args = SimpleNamespace(weights=weights, **more)
        return _command.open_model(args), args

    assert opened(model, prototxt='a.pt')[0] is None and opened(packed)[0] is None
    known, args = opened(packed, prototxt='a.pt')  # the settings of a pack hold all the same
    assert args.prototxt == 'a.pt' and args.pack == packed and known.cfg['TEST.NMS'] == 0.45
    known, args = opened(model, prototxt=None)
    assert args.prototxt == known.prototxt and args.weights == model
    for name, proposing in ('faster_rcnn_test.pt', True), ('fast_rcnn_test.pt', False), ('rpn_test.pt', True):
        words = _command.words_of(known, str(NETS / name), keep=('TEST.NMS',))
        said = dict(zip(words[::2], words[1::2]))
        assert said['TEST.HAS_RPN'] is proposing and 'TEST.NMS' not in said and said['TEST.SCALES'] == [90]


def test_an_rpn_proposes_as_many_as_ever(monkeypatch, tmp_path):
    """Whatever the TEST.RPN_* of the model's sidecar."""
    model, made = str(tmp_path / 'rpn.caffemodel'), []
    shutil.copyfile(RECORDED / 'stage2_rpn.caffemodel', model)
    with overrides({'DATA_DIR': str(RECORDED), 'TEST.RPN_POST_NMS_TOP_N': 17, 'TEST.SCALES': [90]}):
        write_sidecar(model, imagenet('val2'), str(NETS / 'rpn_test.pt'))
    monkeypatch.setattr(
        rpn.generate, 'write_proposals', lambda *args: made.append(cfg.TEST.RPN_POST_NMS_TOP_N)
    )
    words = [
        '--net',
        pack(model),
        '--imdb',
        VAL,
        '--gpu',
        'cpu',
        '--set',
        'DATA_DIR',
        RECORDED,
        'ROOT_DIR',
        tmp_path,
    ]
    run_main(monkeypatch, tool('rpn_generate').main, *words)
    assert made == [2000] and cfg.TEST.SCALES == (90,)


def test_another_net_of_a_test(monkeypatch, model, packed):
    nets = [
        _command.another_net(words)
        for words in ([packed], [model], [str(NETS / 'faster_rcnn_test.pt'), model])
    ]
    assert [net.name for net in nets] == ['model'] * 3 and all('im_info' in net.blobs for net in nets)
    with pytest.raises(ValueError, match='--also a b c: wanted a prototxt and a .caffemodel, or a model'):
        _command.another_net(['a', 'b', 'c'])
    os.remove(sidecar_path(model))
    with pytest.raises(ValueError, match='model.caffemodel: what is its net'):
        _command.another_net([model])


def test_the_engine_reads_the_weights_of_a_pack(model, packed, tmp_path):
    ours, theirs = read_weights(packed), read_weights(model)
    assert [row[:2] for row in ours] == [row[:2] for row in theirs] and len(ours) > 5
    for (_, _, one), (_, _, other) in zip(ours, theirs):
        assert all(np.array_equal(*both) for both in zip(one, other))
    bad = tmp_path / 'bad.zip'
    for names, kind, why in (
        (['a.txt'], zipfile.ZIP_STORED, 'it has a.txt'),
        (['a.caffemodel', 'b.caffemodel'], zipfile.ZIP_STORED, 'wanted one .caffemodel'),
        (['a.caffemodel'], zipfile.ZIP_DEFLATED, 'stored as it is'),
    ):
        with zipfile.ZipFile(bad, 'w', kind) as archive:
            for name in names:
                archive.write(model, name)
        with pytest.raises(ValueError, match=f'weights .*bad.zip .*{why}'):
            read_weights(bad)
    whole = bytearray(Path(packed).read_bytes())
    whole[len(whole) // 2] ^= 255
    for content in whole, whole[:-9]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match='weights .*bad.zip .*not a caffemodel or cut off'):
            read_weights(bad)


def test_to_caffe_takes_a_pack(monkeypatch, tmp_path, packed, capsys):
    run_main(
        monkeypatch, tool('to_caffe').main, packed, '--out', tmp_path / 'out', '--dialect', 'py-faster-rcnn'
    )
    assert 'model.prototxt: ' in capsys.readouterr().out and (tmp_path / 'out/model.caffemodel').exists()
