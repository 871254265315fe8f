"""tools/predict.py and tools/evaluate.py: a model by its sidecar alone; pictures and videos in, lists in many formats out."""

import csv
import json
import os
import shutil
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from tool_runs import NETS, RECORDED, VAL, run_main, settings, tool

from datasets.imagenet import imagenet
from datasets.writers import WRITERS, Seen
from fast_rcnn.config import cfg, overrides
from fast_rcnn.pictures import frames, pictures, stems
from fast_rcnn.sidecar import prototxt_path, read_sidecar, sidecar_path, write_sidecar
from pycocotools.coco import COCO

PICTURE = np.random.RandomState(0).randint(0, 255, (60, 80, 3), np.uint8)
MASK = {'size': [60, 80], 'counts': b'abc'}


@pytest.fixture
def model(tmp_path):
    """Three files, as a recipe leaves them."""
    path = str(tmp_path / 'model.caffemodel')
    shutil.copyfile(RECORDED / 'stage2_fast_rcnn.caffemodel', path)
    with overrides({'TEST.SCALES': [90], 'DATA_DIR': str(RECORDED), 'TEST.NMS': 0.45}):
        write_sidecar(path, imagenet('val2'), str(NETS / 'faster_rcnn_test.pt'))
    return path


def video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (80, 60))
    for i in range(count):
        writer.write(np.roll(PICTURE, 7 * i, 1))
    writer.release()
    return path


def test_the_sidecar_says_net_and_settings(model):
    known = read_sidecar(model)
    assert known.prototxt == prototxt_path(model) and os.path.isfile(known.prototxt)
    assert known.cfg['TEST.NMS'] == 0.45 and 'TEST.HAS_RPN' not in known.cfg
    with open(sidecar_path(model)) as stream:
        content = json.load(stream)
    content.pop('prototxt')
    with open(sidecar_path(model), 'w') as stream:
        json.dump(content, stream)
    assert read_sidecar(model).prototxt == prototxt_path(model)  # older ones say nothing


def test_files_folders_and_patterns(tmp_path):
    (tmp_path / 'in' / 'deep').mkdir(parents=True)
    for name in 'in/b.png', 'in/a.JPG', 'in/deep/c.png', 'in/v.mp4', '[x].png':
        (tmp_path / name).touch()

    def names(*given, **more):
        return [os.path.relpath(p, tmp_path) for p in pictures([str(tmp_path / n) for n in given], **more)]

    assert names('in') == ['in/a.JPG', 'in/b.png']
    assert names('in', extensions=('.mp4',)) == ['in/v.mp4']
    assert names('in/**/*.png') == ['in/b.png', 'in/deep/c.png'] and names('[x].png') == ['[x].png']
    assert names('none*') == ['none*']  # which is then told as what cannot be read
    assert list(stems(['a/x.png', 'b/x.jpg', 'x'])) == ['x', 'x_2', 'x_3']


def test_frames(tmp_path):
    path = video(tmp_path / 'v.avi', 5)
    found = list(frames(str(path), 2))
    assert [frame.number for frame in found] == [0, 2, 4] and found[0].image.shape == (60, 80, 3)
    (tmp_path / 'w.avi').write_text('no video')
    for name, said in ('w.avi', 'not a video'), ('none.mp4', 'no such file'):
        with pytest.raises(OSError, match=said):
            list(frames(str(tmp_path / name)))


def test_cameras(tmp_path, monkeypatch):
    path, opened = str(video(tmp_path / 'v.avi', 3)), cv2.VideoCapture
    asked = []
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: asked.append(source) or opened(path))
    assert [one.number for one in frames('0')] == [0, 1, 2] and len(list(frames('rtsp://a/b?c'))) == 3
    assert asked == [0, 'rtsp://a/b?c'] and list(pictures(['rtsp://a/b?c', '0'])) == ['rtsp://a/b?c', '0']
    monkeypatch.setattr(cv2, 'VideoCapture', lambda source: opened(str(tmp_path / 'none.avi')))
    with pytest.raises(OSError, match='not a video or camera'):
        list(frames('7'))


@pytest.mark.parametrize('spoiled', ['', 'text', 'half', 'gif'])
def test_pictures_of_every_kind(spoiled, tmp_path):
    """Each a Frame as a viewer shows it, or an OSError that names it."""
    path = tmp_path / 'a.jpg'
    if spoiled == 'gif':
        from PIL import Image

        Image.fromarray(PICTURE[:, :, 0]).save(path, 'GIF')
        assert next(frames(str(path))).image.shape == (60, 80, 3)
        return
    whole = cv2.imencode('.jpg', PICTURE)[1].tobytes()
    path.write_bytes({'': b'', 'text': b'no picture', 'half': whole[: len(whole) // 2]}[spoiled])
    with pytest.raises(OSError, match='a.jpg'):
        list(frames(str(path)))


def test_every_format_says_the_same(tmp_path):
    """A box of 10 to 30 across, 5 to 25 down, edges between pixels, of 80 x 60."""
    classes, box = ['__background__', 'cat', 'dög'], (10.0, 5.0, 30.0, 25.0)
    found = [('dög', 0.75, box, MASK), ('cat', 0.5, (0.0, 0.0, 80.0, 60.0))]
    for kind in WRITERS.values():
        writer = kind(str(tmp_path), classes)
        writer.add(Seen('a/x.png', None, 'x', 80, 60, found))
        writer.add(Seen('v.mp4', 3, 'v_000003', 80, 60, []))
        writer.close()
        assert os.path.exists(writer.path)
    first, second = json.loads((tmp_path / 'detections.json').read_text())
    assert first['detections'][0] == {
        'class': 'dög', 'score': 0.75, 'box': list(box), 'mask': {'size': [60, 80], 'counts': 'abc'}
    }  # fmt: skip
    assert (second['frame'], second['detections'], first['width']) == (3, [], 80)
    with open(tmp_path / 'detections.csv', newline='', encoding='utf-8') as stream:
        rows = list(csv.reader(stream))
    assert rows[1] == ['a/x.png', '', 'dög', '0.75', '10.0', '5.0', '30.0', '25.0'] and len(rows) == 3
    coco = COCO(str(tmp_path / 'coco.json'))
    (row, whole) = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert row['bbox'] == [10, 5, 20, 20] and row['area'] == 400 and 'segmentation' not in whole
    assert coco.loadCats(row['category_id'])[0]['name'] == 'dög' and coco.imgs[2]['frame'] == 3
    root = ElementTree.parse(tmp_path / 'voc' / 'x.xml').getroot()
    assert [child.text for child in root.find('object/bndbox')] == ['11', '6', '30', '25']
    assert [child.text for child in root.findall('object/bndbox')[1]] == ['1', '1', '80', '60']
    assert (tmp_path / 'yolo' / 'classes.txt').read_text().split() == ['cat', 'dög']
    line = (tmp_path / 'yolo' / 'x.txt').read_text().splitlines()[0]
    assert line == '1 0.250000 0.250000 0.250000 0.333333 0.750000'
    assert (tmp_path / 'yolo' / 'v_000003.txt').read_text() == ''


def test_predict(monkeypatch, tmp_path, model, capsys):
    """Pictures, a folder, a video; what cannot be read is left out and named."""
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / 'good.png'), PICTURE)
    (tmp_path / 'in' / 'bad.jpg').write_text('no picture')
    video(tmp_path / 'v.avi', 3)
    out = tmp_path / 'out'
    words = [tmp_path / 'in', tmp_path / 'v.avi', '--load', model, '--gpu', 'cpu', '--out', out, '--every', 2]
    predict = tool('predict')
    with pytest.raises(SystemExit, match='1 of 3 files could not be read: .*bad.jpg$'):
        run_main(monkeypatch, predict.main, *words, '--thresh', 0.2, '--write', 'json,yolo,coco')
    assert cfg.TEST.SCALES == (90,) and cfg.TEST.NMS == 0.45  # the sidecar's
    found = json.loads((out / 'detections.json').read_text())
    assert [(os.path.basename(one['image']), one.get('frame')) for one in found] == [
        ('good.png', None), ('v.avi', 0), ('v.avi', 2)
    ]  # fmt: skip
    assert sorted(path.name for path in out.glob('*.png')) == ['good.png', 'v_000000.png', 'v_000002.png']
    boxes = [one['box'] for seen in found for one in seen['detections']]
    assert boxes and all(0 <= x1 < x2 <= 80 and 0 <= y1 < y2 <= 60 for x1, y1, x2, y2 in boxes)
    lines = [line for path in (out / 'yolo').glob('[gv]*.txt') for line in path.read_text().splitlines()]
    assert len(lines) == len(boxes) == len(json.loads((out / 'coco.json').read_text())['annotations'])
    assert f'Json: {out}/detections.json' in capsys.readouterr().out
    run_main(monkeypatch, predict.main, tmp_path / 'in' / 'good.png', *words[2:], '--format', 'none')


def test_what_was_found_before_ctrl_c_is_kept(monkeypatch, tmp_path, model):
    """Of a video of five frames two, and of the next the first, when it comes."""
    predict = tool('predict')
    for name in 'ab':
        video(tmp_path / f'{name}.avi', 5)
    one, seen = predict.one, []

    def stopped(net, frame, *more):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append((os.path.basename(frame.path), frame.number))
        one(net, frame, *more)

    monkeypatch.setattr(predict, 'one', stopped)
    words = [
        '--load',
        model,
        '--gpu',
        'cpu',
        '--out',
        tmp_path / 'out',
        '--frames',
        2,
        '--write',
        'csv,json,voc',
    ]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_main(monkeypatch, predict.main, tmp_path / 'a.avi', tmp_path / 'b.avi', *words)
    assert seen == [('a.avi', 0), ('a.avi', 1), ('b.avi', 0)]
    assert len(json.loads((tmp_path / 'out' / 'detections.json').read_text())) == 3
    assert (tmp_path / 'out' / 'detections.csv').exists() and len(
        list((tmp_path / 'out' / 'voc').iterdir())
    ) == 3


@pytest.mark.parametrize(
    'lacking, said',
    [('prototxt', 'what is its net\\? .*model.prototxt is not there'), ('classes.json', 'give --imdb')],
)
def test_what_a_model_lacks_is_told(monkeypatch, tmp_path, model, lacking, said):
    os.remove(model.replace('caffemodel', lacking))
    with pytest.raises(SystemExit, match=said):
        run_main(monkeypatch, tool('predict').main, __file__, '--load', model, '--gpu', 'cpu')
    with pytest.raises(SystemExit):
        tool('predict').parse_args(['x', '--load', model, '--write', 'json,xls'])


def test_evaluate(monkeypatch, tmp_path, model, capsys):
    """As test_net.py does, and the figures as JSON."""
    words = ['--load', model, '--imdb', VAL, '--gpu', 'cpu', '--json', tmp_path / 'out.json']
    more = settings(tmp_path, 'TEST.RPN_MIN_SIZE=16')
    run_main(monkeypatch, tool('evaluate').main, *words, *more)
    figures = json.loads((tmp_path / 'out.json').read_text())
    printed = capsys.readouterr().out
    assert f'Mean AP = {figures["mean_ap"]:.4f}' in printed and figures['imdb'] == VAL
    assert figures['aps'] and all(f'{ap:.4f}' in printed for ap in figures['aps'].values())
    assert np.isclose(np.mean(list(figures['aps'].values())), figures['mean_ap'])
    assert os.path.exists(os.path.join(figures['results'], 'detections.npz')) and 'masks' not in figures
