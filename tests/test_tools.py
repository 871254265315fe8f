"""tools/: arguments and what they refuse; the toy devkit."""

import argparse
import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

import _command
import caffe
import demo
import make_toy
import plot_loss
import recipe
import rpn_generate
import train_faster_rcnn_alt_opt as alt_opt
import train_net
from datasets.factory import get_imdb
from fast_rcnn.sidecar import read_sidecar
from fast_rcnn.config import cfg, overrides
from pipeline.settings import use_device
from tool_runs import NETS, RECORDED, VAL, run_main, settings

ROOT = Path(__file__).resolve().parent.parent


def load_test_net():
    """tools/test_net.py, under a name that is not a test's too."""
    spec = importlib.util.spec_from_file_location('tool_test_net', ROOT / 'tools' / 'test_net.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    'text, ids', [('cpu', ['cpu']), ('cpu:2', ['cpu', 'cpu']), ('0', [0]), ('0,1', [0, 1])]
)
def test_gpu(text, ids):
    assert _command.parse_gpu(text) == ids


@pytest.mark.parametrize('text', ['', 'gpu', '-1', '0,0', '0,', 'cpu:0', 'cpu:', 'all'])
def test_gpu_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='wanted cpu|sees no GPU'):
        _command.parse_gpu(text)


def test_the_original_flags():
    args = alt_opt.parse_args(
        '--gpu 1 --net_name ZF --weights w --imdb voc_2007_trainval --cfg c --set EXP_DIR x'.split()
    )
    assert (args.gpu, args.net_name, args.weights, args.imdb, args.cfg_file, args.set_cfgs) == (
        [1],
        'ZF',
        'w',
        'voc_2007_trainval',
        'c',
        ['EXP_DIR', 'x'],
    )
    args = load_test_net().parse_args(
        '--gpu cpu --def d --net n --cfg c --wait --imdb i --comp --vis --num_dets 5 --set A 1'.split()
    )
    assert (args.gpu, args.prototxt, args.weights, args.wait, args.comp, args.vis, args.num_dets) == (
        ['cpu'],
        'd',
        'n',
        True,
        True,
        True,
        5,
    )
    args = train_net.parse_args(
        '--gpu 0 --solver s --iters 7 --weights w --cfg c --imdb i --rand --set A 1'.split()
    )
    assert (args.solver, args.max_iters, args.weights, args.rand) == ('s', 7, 'w', True)


def test_every_tool_that_runs_a_net_takes_the_precision():
    """As one more setting, so that children and other workers get it with the rest."""
    of_a_net = '--def d --net n --precision bf16'.split()
    trained = '--imdb i --precision bf16 --set A 1'.split()
    for args in (
        load_test_net().parse_args([*of_a_net, '--set', 'A', '1']),
        rpn_generate.parse_args([*of_a_net, '--set', 'A', '1']),
        demo.parse_args([*of_a_net, '--set', 'A', '1']),
        train_net.parse_args(['--solver', 's', *trained]),
        alt_opt.parse_args(['--net_name', 'ZF', *trained]),
    ):
        assert _command.single(args) == ['A', '1', 'PRECISION', 'bf16']
    args = recipe.parse_args('rfcn_end2end cpu ZF pascal_voc --precision fp16 --set A 1'.split())
    assert args.single == ['A', '1', 'PRECISION', 'fp16'] and 'precision' not in vars(args)
    assert recipe.parse_args('rfcn_end2end cpu ZF pascal_voc'.split()).single == []


def test_the_precision_is_settled_with_the_device(monkeypatch, caplog):
    caplog.set_level('INFO', 'caffe')
    said = []
    monkeypatch.setattr(caffe, 'set_tf32', said.append)
    try:
        with overrides({'PRECISION': 'bf16', 'TF32': True}):
            use_device(['cpu'])
        assert caffe.precision() == 'bf16' and said == [True] and 'Computing in bf16 on cpu' in caplog.text
        with overrides({'PRECISION': 'half'}), pytest.raises(ValueError, match="'half' is not known"):
            use_device(['cpu'])
    finally:
        use_device(['cpu'])
    assert caffe.precision() == 'float32' and said == [True, False, False]


# --------------------------------------------------------------------------------------------------- plot_loss
def test_plot_takes_the_last_run(tmp_path):
    log = tmp_path / 'log.jsonl'
    lines = [
        json.dumps({'iteration': i, 'lr': 0.1, 'smoothed_loss': float(i), 'loss_cls': 1.0})
        for i in (1, 2, 3, 1, 2)
    ]
    log.write_text('\n'.join(lines) + '\n')
    records = plot_loss.last_run(str(log))
    assert [record['iteration'] for record in records] == [1, 2]
    plot_loss.plot([('log', records)], str(tmp_path / 'losses.png'))
    assert cv2.imread(str(tmp_path / 'losses.png')).std() > 0


def test_running_mean():
    values = np.array([1.0, 2.0, 6.0, 3.0])
    np.testing.assert_allclose(plot_loss.running_mean(values, 2), [1, 1.5, 4, 4.5])


# --------------------------------------------------------------------------------------------- the toy devkit
@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('devkit') / 'toy'
    make_toy.write(str(folder), train=4, val=3, seed=5)
    return folder


def test_the_toy_is_the_same_each_time(toy, tmp_path):
    make_toy.write(str(tmp_path / 'toy'), train=4, val=3, seed=5)
    files = sorted(path.relative_to(toy) for path in toy.rglob('*') if path.is_file())
    assert len(files) == 7 * 2 + 3 + 3
    assert all((tmp_path / 'toy' / name).read_bytes() == (toy / name).read_bytes() for name in files)


def test_toy_boxes_lie_around_what_is_drawn(toy):
    for path in toy.rglob('*.xml'):
        image = cv2.imread(str(toy / 'Data' / 'DET' / path.parent.name / f'{path.stem}.JPEG'))
        root = ElementTree.parse(path).getroot()
        assert (int(root.find('size/height').text), int(root.find('size/width').text)) == image.shape[:2]
        boxes = [
            [int(box.find(tag).text) for tag in ('xmin', 'ymin', 'xmax', 'ymax')]
            for box in root.iter('bndbox')
        ]
        assert boxes and {o.find('name').text for o in root.iter('object')} <= set(make_toy.CLASSES)
        for x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 < image.shape[1] and 0 <= y1 < y2 < image.shape[0]
            inside = image[(y1 + y2) // 2, (x1 + x2) // 2].astype(int)
            assert np.abs(inside - image[y1 + 1, max(x1 - 3, 0)]).max() > 20


def test_the_toy_has_no_faults(toy):
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'check_dataset.py', toy / 'toy.yml'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_sliding_windows():
    windows = make_toy.sliding_windows(50, 40, sides=(32,))
    assert windows.tolist() == [[x, y, x + 31, y + 31] for y in (0, 8, 16) for x in (0, 8)]


@pytest.mark.parametrize('words, alike', [([], True), (['--rand'], False)])
def test_seeds_of_train_net(monkeypatch, tmp_path, words, alike):
    """Weights, and draws of every worker, begin with cfg.RNG_SEED: the given one, or one by chance."""
    seeds = []
    monkeypatch.setattr('pipeline.stages.training_data', lambda imdb: (get_imdb(VAL), []))
    monkeypatch.setattr(
        'fast_rcnn.train.train_net',
        lambda *args, **more: seeds.append((cfg.RNG_SEED, np.random.rand())) or ['x'],
    )
    for _ in range(2):
        with overrides({}):
            run_main(monkeypatch, train_net.main, '--gpu', 'cpu', '--solver', NETS / 'stage1_rpn_solver60k80k.pt',
                     '--imdb', VAL, *words, *settings(tmp_path))  # fmt: skip
    assert (seeds[0] == seeds[1]) == alike and (seeds[0][0] == cfg.RNG_SEED) == alike


def test_train_net_trains_nets_by_name(monkeypatch, tmp_path):
    """By the settings, iterations and files that a recipe has; its model is then handed on with its test net."""
    calls, model = [], str(tmp_path / 'm.caffemodel')
    monkeypatch.setattr('pipeline.recipe.Recipe.write_nets', lambda recipe, *more: calls.append(recipe.net))
    monkeypatch.setattr('pipeline.stages.training_data', lambda imdb: (get_imdb(VAL), []))
    monkeypatch.setattr('pipeline.stages.training_sets', lambda imdb: [get_imdb(VAL)])
    monkeypatch.setattr(
        'fast_rcnn.train.train_net', lambda *args, **more: calls.append((args, more)) or [model]
    )
    words = '--gpu', 'cpu', '--imdb', 'imagenet_2015_val2', '--model', 'ResNet-10'
    more = '--set', f'DATA_DIR={RECORDED}', 'TRAIN.SCALES=[200]'
    with overrides({}):
        run_main(monkeypatch, train_net.main, *words, *more)
        assert cfg.TRAIN.HAS_RPN and cfg.TRAIN.SCALES == (200,)  # by faster_rcnn_end2end.yml, and --set
    net, (args, how) = calls
    assert net == 'ResNet-10' and how['max_iters'] == 320000 and how['pretrained_model'] is None
    assert args[0] == str(ROOT / 'models/imagenet/ResNet-10/faster_rcnn_end2end/solver.prototxt')
    test_net = (ROOT / 'models/imagenet/ResNet-10/faster_rcnn_end2end/test.prototxt').read_text()
    assert (tmp_path / 'm.prototxt').read_text() == test_net and read_sidecar(model).num_classes == 201
    for wrong in ['--model', 'ResNet-11'], ['--model', 'ZF', '--method', 'faster_rcnn_alt_opt']:
        with overrides({}), pytest.raises(SystemExit, match='wanted one of'):
            run_main(monkeypatch, train_net.main, *words[:4], *wrong)
