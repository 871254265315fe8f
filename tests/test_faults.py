"""A full disk, a folder that may not be written to, an image that vanishes or breaks, in the middle of each kind of run:
one line that names the file, and what was done before stays."""

import os

import numpy as np
import pytest
from caffe.format.state import write_state
from caffe.format.weights import write_weights
from faults import KINDS, devkit, fill, may_mount, meanwhile, mount, run, small_disk

from fast_rcnn.config import cfg

WRITING = [name for name in KINDS if name != 'checking']
# The read before which it happens: some images are done by then, though others are read ahead; and the read that a run
# which goes on does not come to
READS = {'training': (4, 3), 'proposing': (9, 11), 'testing': (9, 11)}
needs_mount = pytest.mark.skipif(not may_mount(), reason='mounting a disk is not permitted here')


def is_one_line(said, *words):
    assert isinstance(said, str) and '\n' not in said and said.startswith('tool: '), said
    for word in words:
        assert word in said, said


def results(folder, name):
    return folder / 'output' / 'default' / KINDS[name].made


def vanish(images):
    for path in images:
        path.unlink()


def damage(images):
    for path in images:
        path.write_bytes(b'\xff\xd8\xff no more')


@pytest.mark.parametrize('fault, why', [(vanish, 'no such file'), (damage, 'image')])
@pytest.mark.parametrize('name', WRITING)
def test_an_image_that_is_lost_meanwhile(monkeypatch, tmp_path, name, fault, why):
    images = devkit(tmp_path)
    kept = {path: path.read_bytes() for path in images}
    with monkeypatch.context() as patch:
        meanwhile(patch, KINDS[name], lambda: fault(images), READS[name][0])
        is_one_line(run(patch, KINDS[name], tmp_path), '.JPEG: ', why)
    assert not results(tmp_path, name).exists()
    for path, content in kept.items():
        path.write_bytes(content)
    looked = []
    meanwhile(monkeypatch, KINDS[name], lambda: looked.append(1), image=READS[name][1])
    assert not run(monkeypatch, KINDS[name], tmp_path) and results(tmp_path, name).exists()
    assert not looked  # what was done before is not done again


@needs_mount
@pytest.mark.parametrize('name', WRITING)
def test_a_disk_that_fills_up_meanwhile(monkeypatch, tmp_path, name):
    devkit(tmp_path)
    with small_disk(tmp_path / 'output', 8000):
        fillers = []
        with monkeypatch.context() as patch:
            meanwhile(patch, KINDS[name], lambda: fillers.append(fill(tmp_path / 'output')), READS[name][0])
            is_one_line(
                run(patch, KINDS[name], tmp_path), str(tmp_path / 'output'), 'No space left on device'
            )
        left = [path for _, _, names in os.walk(tmp_path / 'output') for path in names if path[0] == '.']
        assert not left and not results(tmp_path, name).exists()
        fillers[0].unlink()
        looked = []
        meanwhile(monkeypatch, KINDS[name], lambda: looked.append(1), image=READS[name][1])
        assert not run(monkeypatch, KINDS[name], tmp_path) and results(tmp_path, name).exists()
        assert not looked


@needs_mount
@pytest.mark.parametrize('name', WRITING)
def test_a_folder_that_may_not_be_written_to(monkeypatch, tmp_path, name):
    devkit(tmp_path)
    with small_disk(tmp_path / 'output', 8000):
        mount(tmp_path / 'output', 'remount,ro')
        is_one_line(
            run(monkeypatch, KINDS[name], tmp_path), str(tmp_path / 'output'), 'Read-only file system'
        )


def test_the_check_of_a_dataset_lists_images_lost_meanwhile(monkeypatch, tmp_path, capsys):
    images = devkit(tmp_path)
    lost = [path for path in images if 'val' in str(path.parent)]
    meanwhile(monkeypatch, KINDS['checking'], lambda: (vanish(lost[-3:-1]), damage(lost[-1:])))
    cfg.DATA_DIR = str(tmp_path)
    assert run(monkeypatch, KINDS['checking'], tmp_path) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.endswith('[stops training]')]
    assert len(said) == 3 and all(path.stem in ''.join(said) for path in lost[-3:])


@needs_mount
@pytest.mark.parametrize('name', ['w.caffemodel', 'w.h5', 's.solverstate', 's.solverstate.h5'])
def test_a_full_disk_names_what_could_not_be_written(tmp_path, name):
    """And what stood there before still does."""
    array = np.arange(90000, dtype='f')
    write = {
        'w': lambda path, array: write_weights(path, [('ip', 'X', [array], [], [])]),
        's': lambda path, array: write_state(path, 3, '', 0, [array]),
    }[name[0]]
    with small_disk(tmp_path / 'disk', 300):
        path = str(tmp_path / 'disk' / name)
        write(path, array[:20000])
        before = os.path.getsize(path)
        with pytest.raises(OSError, match='(?i)no space left') as error:
            write(path, array)
        assert path in f'{error.value} {error.value.filename}'
        assert os.listdir(tmp_path / 'disk') == [name] and os.path.getsize(path) == before
