"""Puts engine, library and tools on the path; undoes what a test changed in cfg."""

import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ('data', 'tools', 'lib', 'caffe-fast-rcnn', os.path.join('caffe-fast-rcnn', 'python')):
    sys.path.insert(0, os.path.join(ROOT, folder))
import _init_paths  # noqa: E402, F401  (before torch: it settles how threads wait)


@pytest.fixture(autouse=True)
def _same_settings():
    from fast_rcnn.config import cfg_restore, cfg_values

    before = cfg_values()
    yield
    cfg_restore(before)
