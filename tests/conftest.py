"""Puts engine, library and tools on the path; undoes what a test changed in cfg.

pytest --on-gpu tests/caffe: nets of the tests compute on GPU 0, but where a test is marked host."""

import os
import sys

import cv2
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ('data', 'tools', 'lib', 'caffe-fast-rcnn', os.path.join('caffe-fast-rcnn', 'python')):
    sys.path.insert(0, os.path.join(ROOT, folder))
import _init_paths  # noqa: E402, F401  (before torch: it settles how threads wait)


def pytest_addoption(parser):
    parser.addoption(
        '--on-gpu', action='store_true', help='nets compute on GPU 0 from the start of each test'
    )


def pytest_configure(config):
    config.addinivalue_line('markers', 'host: about memory or kernels of the CPU; not run with --on-gpu')
    if not hasattr(cv2.dnn, 'readNetFromCaffe'):
        cv2.dnn.readNetFromCaffe = lambda *_: pytest.skip('OpenCV 5 reads no Caffe files')


@pytest.fixture(autouse=True)
def _on_gpu(request):
    if request.config.getoption('--on-gpu'):
        import caffe

        if request.node.get_closest_marker('host'):
            pytest.skip('about the CPU')
        caffe.set_device(0)
        caffe.set_mode_gpu()


@pytest.fixture(autouse=True)
def _same_settings():
    from fast_rcnn.config import cfg_restore, cfg_values

    before = cfg_values()
    yield
    cfg_restore(before)
