"""Runs a tool's main in this process: on the recorded devkit and its tiny nets, writing to a temporary folder."""

import os
import sys
from pathlib import Path

import _command

RECORDED = Path(__file__).resolve().parent / 'golden' / 'e2e'
NETS = RECORDED / 'models' / 'Tiny' / 'faster_rcnn_alt_opt'
VAL = 'imagenet_2015_val2'


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
