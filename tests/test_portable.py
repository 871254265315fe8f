"""What Windows and macOS lack is done without: links, locks, forked processes, `tee`, signals. Tried here by taking it away."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import make_toy
from datasets.factory import describe, get_imdb, register, registered
from fast_rcnn.config import overrides
from pipeline.recipe import TEE
from roi_data_layer.loader import Loader
from utils import files, processes
from utils.shards import MappedRows, mmap


@pytest.fixture
def no_forks(monkeypatch):
    monkeypatch.setattr(processes, 'FORKS', False)
    monkeypatch.setattr(processes, '_forked', None)


def no_links(source, target):
    raise OSError(1314, 'A required privilege is not held by the client')


def test_a_dataset_is_registered_without_links(tmp_path, monkeypatch):
    """Twice is once; another of that name is refused, the file that it is registered for is named."""
    monkeypatch.setattr('os.symlink', no_links)
    places = {name: make_toy.write(str(tmp_path / name), 2, 1)[0] for name in ('here', 'there')}
    with overrides({'DATA_DIR': str(tmp_path)}):
        description = register(places['here'])
        assert register(places['here']).path == description.path == places['here']
        assert not (tmp_path / 'datasets' / 'toy.yml').is_symlink() and registered() == ['toy']
        assert describe('toy').path == places['here'] and get_imdb('toy_train').num_images == 2
        with pytest.raises(ValueError, match=f"'toy' is registered for {places['here']}; choose another"):
            register(places['there'])


def test_work_is_done_in_this_process(no_forks):
    calls = []
    assert list(processes.in_processes(lambda i: calls.append(i) or 2 * i, 4, 4)) == [0, 2, 4, 6]
    assert calls == [0, 1, 2, 3] and processes.apart(lambda: 7) == 7
    with pytest.raises(ValueError, match='no such'):
        list(processes.in_processes(lambda i: int('no such'), 4, 4))


def test_images_are_read_by_threads(no_forks):
    """In their order; a result is what make gave, in no other process's memory."""
    made = Loader(lambda job: np.full(3, job.number), lambda i: SimpleNamespace(number=i, paths=[]), 2, 100)
    assert [made.take(range(i, 6)).tolist() for i in range(6)] == [[i] * 3 for i in range(6)]


def test_files_are_written_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'fcntl', None)
    with files.locked(str(tmp_path / 'a')), files.atomic_path(str(tmp_path / 'a')) as temporary:
        open(temporary, 'w').close()
    assert (tmp_path / 'a').exists()


def test_rows_are_mapped_without_advice(tmp_path, monkeypatch):
    for name in 'MADV_DONTNEED', 'MADV_WILLNEED':
        monkeypatch.delattr(mmap, name, raising=False)
    monkeypatch.setattr(MappedRows, 'RESIDENT', 4)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows.tofile(tmp_path / 'rows')
    mapped = MappedRows(str(tmp_path / 'rows'), 3)
    assert (mapped[1:3] == rows[1:3]).all() and (mapped[0:4] == rows).all()


@pytest.mark.parametrize('closed', [False, True])
def test_what_is_printed_goes_to_a_file_too(tmp_path, closed):
    """All of it, also when nobody reads on at the terminal; a file that is there is gone on with."""
    path = tmp_path / 'log'
    path.write_text('before\n')
    tee = subprocess.Popen(
        [sys.executable, '-S', '-c', TEE, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if closed:
        tee.stdout.close()
    text = b'a line\n' * 30000
    tee.stdin.write(text[:7])
    tee.stdin.flush()
    out = b'' if closed else tee.stdout.read(7)
    if closed:
        tee.stdin.write(text[7:])
        tee.stdin.close()
    else:
        rest, _ = tee.communicate(text[7:])
        assert out + rest == text
    assert tee.wait() == 0 and (not closed or tee.stderr.read() == b'')
    assert path.read_bytes() == b'before\n' + text
