"""The Makefile, with a stand-in for the set-up's Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
@pytest.mark.parametrize('folder', ['plain', 'with a blank'])
def test_kernels_are_compiled_in_any_folder(tmp_path, folder):
    place = tmp_path / folder
    (place / '.venv' / 'bin').mkdir(parents=True)
    shutil.copy(ROOT / 'Makefile', place)
    shutil.copy(ROOT / 'requirements.txt', place)
    for setup in 'lib', 'caffe-fast-rcnn/python':
        (place / setup).mkdir(parents=True)
        (place / setup / 'setup.py').touch()
    python = place / '.venv' / 'bin' / 'python'
    python.write_text(f'#!/bin/sh\necho "$PWD $*" >> "{tmp_path}/calls"\n')
    python.chmod(0o755)
    (place / '.venv' / 'requirements.done').touch()
    done = subprocess.run(['make', 'all', 'CC=true'], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0 and 'failed' not in done.stdout, done.stdout + done.stderr
    assert (place / '.venv' / 'kernels.done').exists()
    assert sorted((tmp_path / 'calls').read_text().splitlines()) == [
        f'{place}/{setup} setup.py -q build_ext --inplace' for setup in ('caffe-fast-rcnn/python', 'lib')
    ]
