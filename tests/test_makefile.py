"""The Makefile, with stand-ins for the set-up's Python and for nvcc."""

import os
import shutil
import subprocess
from pathlib import Path

import conftest
import pytest
from setuptools import Distribution

from builds import built

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
@pytest.mark.parametrize('folder', ['plain', 'with a blank'])
def test_kernels_are_compiled_in_any_folder(tmp_path, folder):
    place = tmp_path / folder
    (place / '.venv' / 'bin').mkdir(parents=True)
    shutil.copy(ROOT / 'Makefile', place)
    shutil.copy(ROOT / 'requirements.txt', place)
    (place / 'setup.py').touch()
    python = place / '.venv' / 'bin' / 'python'
    python.write_text(f'#!/bin/sh\necho "$PWD $*" >> "{tmp_path}/calls"\n')
    python.chmod(0o755)
    (place / '.venv' / 'requirements.done').touch()
    done = subprocess.run(
        ['make', 'all', 'CC=true', 'NVCC=no-nvcc'], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0 and 'failed' not in done.stdout, done.stdout + done.stderr
    assert 'No CUDA compiler (no-nvcc)' in done.stdout
    assert (place / '.venv' / 'kernels.done').exists()
    assert (tmp_path / 'calls').read_text().splitlines() == [f'{place} setup.py -q build_ext --inplace']


def test_compiled_parts_are_put_in_place_by_renaming(tmp_path):
    """Who has the old file open keeps it, whole; nothing but the new one is left."""
    (tmp_path / 'new').write_bytes(b'new')
    place = tmp_path / 'place' / 'kernel.so'
    place.parent.mkdir()
    place.write_bytes(b'old and longer')
    with open(place, 'rb') as stream:
        built.Build(Distribution()).copy_file(str(tmp_path / 'new'), str(place), level=0)
        assert stream.read() == b'old and longer'
    assert place.read_bytes() == b'new' and os.listdir(place.parent) == ['kernel.so']


KERNELS = 'caffe-fast-rcnn/python/caffe/kernels'
NVCC = """#!/bin/sh
echo "$*" >> calls
case "$*" in
  --list-gpu-arch) printf 'compute_75\\ncompute_100\\ncompute_103\\n';;
  *) while [ "$1" != -o ]; do shift; done; echo made > "$2"; exit ${STATUS:-0};;
esac
"""


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
@pytest.mark.parametrize('status', [0, 1])
def test_cuda_kernels_are_compiled_for_what_nvcc_knows(tmp_path, status):
    """sm_70 and sm_90 are left out, 10 is not taken for 100; a failure is told and stops nothing."""
    shutil.copy(ROOT / 'Makefile', tmp_path)
    (tmp_path / KERNELS).mkdir(parents=True)
    for name in 'a.cu', 'b.cu', 'c.cuh':
        (tmp_path / KERNELS / name).touch()
    (tmp_path / 'nvcc').write_text(NVCC)
    (tmp_path / 'nvcc').chmod(0o755)
    command = ['make', f'{KERNELS}/kernels.so', 'NVCC=./nvcc', 'CUDA_ARCHS=10 70 75 90 100']
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, 'STATUS': str(status)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and ('failed' in done.stdout) == bool(status), done.stdout + done.stderr
    assert 'kernels for sm_75 sm_100\n' in done.stdout
    assert [p.name for p in (tmp_path / KERNELS).glob('*.so*')] == ['kernels.so'] * (not status)
    words = (tmp_path / 'calls').read_text().splitlines()[1].split()
    codes = [word for word in words if word.startswith('arch')]
    assert [code.split('code=')[1] for code in codes] == ['sm_75', 'sm_100', 'compute_100']
    assert words[-2:] == [f'{KERNELS}/a.cu', f'{KERNELS}/b.cu'] and '-fmad=false' in words


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
def test_the_demo_trains_and_then_looks():
    """Its recall, pictures and losses are made side by side, after the training."""
    command = ['make', '-n', '-o', 'all', 'demo']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tools = 'make_toy', 'faster_rcnn_alt_opt', 'rpn_generate', 'eval_recall', 'demo', 'plot_loss'
    places = [done.stdout.index(f'/{tool}.{"sh cpu" if "alt" in tool else "py"}') for tool in tools]
    assert places[:3] == sorted(places[:3]) and places[3] > places[2] and min(places[4:]) > places[1]
    assert done.stdout.index('On the test images') > max(places)


@pytest.mark.parametrize(
    'cores, gigabytes, processes', [(1, 64, 0), (2, 7, 2), (4, 7, 2), (4, 3, 0), (64, 256, 8)]
)
def test_as_many_processes_as_there_are_cores_and_memory_for(monkeypatch, cores, gigabytes, processes):
    sizes = {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': gigabytes << 18}
    monkeypatch.setattr(conftest, 'CORES', cores)
    monkeypatch.setattr(conftest.os, 'sysconf', sizes.get, raising=False)
    assert conftest.pytest_xdist_auto_num_workers() == processes


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
def test_the_tests_of_a_file_stay_in_one_process():
    done = subprocess.run(['make', '-n', '-o', 'all', 'test'], cwd=ROOT, capture_output=True, text=True)
    assert '-n auto --dist loadfile --no-loadscope-reorder --timeout 900 tests' in done.stdout, done.stderr
