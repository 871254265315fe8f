"""Runs tools: their main in this process, on the recorded devkit and its tiny nets, writing to a temporary folder; or in
a copy of the project."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import _command
import make_toy

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / 'tests' / 'golden' / 'e2e'
NETS = RECORDED / 'models' / 'Tiny' / 'faster_rcnn_alt_opt'
VAL = 'imagenet_2015_val2'
ENVIRONMENT = {**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'}
ENVIRONMENT.pop('PYTHONDONTWRITEBYTECODE', None)  # a copy is compiled once, not by each of its processes


def tool(name):
    """The module of a tool, one of tools/, under a name that no test has."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_main(monkeypatch, main, *words):
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, words)])
    monkeypatch.setattr(_command, 'start_log', lambda rank=0: None)
    main()


def settings(tmp_path, *words):
    """The --set that ends a command: results to tmp_path, the recorded devkit, small images."""
    return [
        '--set', 'ROOT_DIR', tmp_path, 'DATA_DIR', RECORDED, 'TEST.SCALES', [120], 'USE_GPU_NMS', False, *words,
    ]  # fmt: skip


def tiny(prototxt, weights):
    """--def and --net of a recorded net."""
    return ['--gpu', 'cpu', '--def', NETS / prototxt, '--net', RECORDED / f'{weights}.caffemodel']


def results(tmp_path, *parts):
    return os.path.join(tmp_path, 'output', 'default', VAL, *parts)


def copy_project(folder, train=4, val=2):
    """A copy of the project with a small toy devkit: what runs in it touches nothing else."""
    for part in ('tools', 'lib', 'models', 'caffe-fast-rcnn', 'experiments/scripts', 'experiments/cfgs'):
        ignored = shutil.ignore_patterns('build', 'toy', '*.pyc.*')  # the last: being written
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    (folder / 'experiments' / 'logs').mkdir()
    make_toy.write(str(folder / 'data' / 'toy'), train, val)
    return folder
