"""Puts engine, library and tools on the path; undoes what a test changed in cfg.

pytest --on-gpu tests/caffe: nets of the tests compute on GPU 0, but where a test is marked host.

pytest -n auto --dist loadfile --no-loadscope-reorder: in several processes, a file's tests in one of them, the files that
take longest first. The processes share the cores out as threads, where OMP_NUM_THREADS does not tell."""

import os
import sys

import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
if 'PYTEST_XDIST_WORKER_COUNT' in os.environ:  # before torch
    os.environ.setdefault(
        'OMP_NUM_THREADS', str(max(1, CORES // int(os.environ['PYTEST_XDIST_WORKER_COUNT'])))
    )
import cv2  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for folder in ('data', 'tools', 'lib', 'caffe-fast-rcnn', os.path.join('caffe-fast-rcnn', 'python')):
    sys.path.insert(0, os.path.join(ROOT, folder))
import _init_paths  # noqa: E402, F401  (before torch: it settles how threads wait)

PAGE = os.sysconf('SC_PAGE_SIZE') if hasattr(os, 'sysconf') else 4096
MEMORY = 3 << 30  # bytes that a process of the tests may come to, with those that it starts
LONGEST = 'test_recipes test_layers test_kill test_replay_e2e test_launch test_replay_torchvision test_world_training'
LONGEST = *LONGEST.split(), 'test_models', 'test_converters', 'test_import_weights', 'test_resnet101'


def pytest_addoption(parser):
    parser.addoption(
        '--on-gpu', action='store_true', help='nets compute on GPU 0 from the start of each test'
    )


def pytest_configure(config):
    config.addinivalue_line('markers', 'host: about memory or kernels of the CPU; not run with --on-gpu')
    if not hasattr(cv2.dnn, 'readNetFromCaffe'):
        cv2.dnn.readNetFromCaffe = lambda *_: pytest.skip('OpenCV 5 reads no Caffe files')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """As many as there are cores and memory for; 0, where that is one: no other process."""
    pages = (
        os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else 2 * MEMORY // PAGE
    )  # Windows does not tell
    count = min(CORES, pages * PAGE // MEMORY, 8)
    return count if count > 1 else 0


def pytest_collection_modifyitems(items):
    """The files that take longest come first: short ones are left to fill the end with, whoever is done early."""
    items.sort(key=lambda item: [*LONGEST, item.path.stem].index(item.path.stem))


@pytest.fixture(autouse=True)
def _on_gpu(request):
    if request.config.getoption('--on-gpu'):
        import caffe

        if request.node.get_closest_marker('host'):
            pytest.skip('about the CPU')
        caffe.set_device(0)
        caffe.set_mode_gpu()


@pytest.fixture
def two_threads():
    """torch computes with two threads, as it does for most users: what is recorded must hold there too, where each process of
    the tests has but one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _same_settings():
    from fast_rcnn.config import cfg_restore, cfg_values

    before = cfg_values()
    yield
    cfg_restore(before)
