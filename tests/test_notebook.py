"""docs/detector.ipynb: it was run, its pictures are small, and its cells run on other models of the same names."""

import json
import sys
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import make_toy
import numpy as np
import pytest
from test_mask_detection import SETTINGS, mask_net
from tool_runs import NETS, RECORDED

from datasets.imagenet import imagenet
from fast_rcnn.config import overrides
from fast_rcnn.sidecar import write_sidecar

PATH = Path(__file__).resolve().parent.parent / 'docs' / 'detector.ipynb'
CELLS = [cell for cell in json.loads(PATH.read_text())['cells'] if cell['cell_type'] == 'code']


def test_it_was_run():
    assert [cell['execution_count'] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell['outputs']]
    assert all(output['output_type'] in ('stream', 'execute_result') for output in outputs)
    assert sum('image/jpeg' in output.get('data', ()) for output in outputs) == 2
    assert PATH.stat().st_size < 500_000 and '/tmp' not in PATH.read_text()


@pytest.fixture
def models(tmp_path):
    """Nets that were hardly trained, and pictures, where the notebook has its own."""
    folders = 'faster_rcnn_end2end/bccd_trainval', 'mask_rcnn_end2end/toy_masks_train'
    boxes, masks = (tmp_path / 'output' / name for name in folders)
    pictures, drawn = tmp_path / 'data/BCCD/JPEGImages', tmp_path / 'data/toy/Data/DET/val'
    for folder in boxes, masks, pictures, drawn, tmp_path / 'docs':
        folder.mkdir(parents=True)
    path = boxes / 'resnet10_faster_rcnn_iter_1500.caffemodel'
    shutil.copyfile(RECORDED / 'stage2_fast_rcnn.caffemodel', path)
    with overrides({'TEST.SCALES': [90], 'DATA_DIR': str(RECORDED)}):
        write_sidecar(str(path), imagenet('val2'), str(NETS / 'faster_rcnn_test.pt'))
    path, net = masks / 'resnet10_fpn_mask_rcnn_iter_700.caffemodel', mask_net(tmp_path)
    net.save(str(path))
    known = SimpleNamespace(class_names=['__background__', *make_toy.CLASSES], name='drawn')
    with overrides(SETTINGS):
        write_sidecar(str(path), known, str(tmp_path / 'test.prototxt'))
    random = np.random.RandomState(0)
    for name in '07', '16', '19', '30', '38':
        picture = random.randint(0, 255, (480, 640, 3), np.uint8)
        cv2.imwrite(str(pictures / f'BloodImage_000{name}.jpg'), picture)
    cv2.imwrite(str(drawn / 'toy_val_0016.JPEG'), make_toy.draw(np.random.default_rng(0))[0])
    return tmp_path


def test_its_cells_run(models, monkeypatch, capsys):
    monkeypatch.chdir(models / 'docs')
    monkeypatch.setattr('sys.path', [*sys.path])
    monkeypatch.setitem(sys.modules, 'IPython.display', SimpleNamespace(Image=bytes))
    monkeypatch.setitem(sys.modules, 'IPython', SimpleNamespace())
    names = {}
    for cell in CELLS:
        exec(''.join(cell['source']), names)
    assert 'frame 20 ' in capsys.readouterr().out
