"""data/scripts/fetch.py, public.check: what is printed of a source, and what is found wrong with what lies there."""

import hashlib
import os
import subprocess
import sys

import pytest

from conftest import ROOT

from public import check
from public.sources import SOURCES, Source

DATA = os.path.join(ROOT, 'data')


@pytest.fixture
def one(monkeypatch):
    """A source of one archive that unpacks to a folder of two files, a list of three lines, and weights."""
    lies = {'kit/images': ('files', 2), 'kit/list.txt': ('lines', 3), 'net.caffemodel': ('bytes', 8)}
    archive = ('kit.tar', 'http://example.org/kit.tar', 5, ('md5', hashlib.md5(b'whole').hexdigest()))
    monkeypatch.setattr(
        check, 'SOURCES', {'kit': Source('a kit', 'http://example.org', (archive,), 'unpack', lies)}
    )


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


WHOLE = {
    'kit.tar': b'whole',
    'kit/images/1.jpg': b'',
    'kit/images/more/2.jpg': b'',
    'kit/list.txt': b'1\n2\n\n3\n',
    'net.caffemodel': b'12345678',
}


def test_all_there(tmp_path, capsys, one):
    lay(tmp_path, WHOLE)
    assert check.main(DATA, ['--data', str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'kit: a kit',
        '  from   http://example.org',
        f'  file   kit.tar, 5 bytes, md5 {hashlib.md5(b"whole").hexdigest()}',
        '         http://example.org/kit.tar',
        '  then   unpack',
        f'  {tmp_path}/kit.tar: as published',
        f'  {tmp_path}/kit/images: here',
        f'  {tmp_path}/kit/list.txt: here',
        f'  {tmp_path}/net.caffemodel: here',
    ]


@pytest.mark.parametrize(
    'name, content, line',
    [
        ('kit.tar', b'who', 'kit.tar: WRONG: wanted 5 bytes, got 3: not whole?'),
        ('kit.tar', b'other', f'kit.tar: WRONG: its md5 is {hashlib.md5(b"other").hexdigest()}'),
        ('kit/images/3.jpg', b'', 'kit/images: WRONG: wanted 2 files, got 3'),
        ('kit/list.txt', b'1\n', 'kit/list.txt: WRONG: wanted 3 lines, got 1'),
        ('net.caffemodel', b'1', 'net.caffemodel: WRONG: wanted at least 8 bytes, got 1'),
    ],
)
def test_something_wrong(tmp_path, capsys, one, name, content, line):
    lay(tmp_path, {**WHOLE, name: content})
    check.main(DATA, ['--data', str(tmp_path), 'kit'])
    assert f'  {tmp_path}/{line}' in capsys.readouterr().out.splitlines()


def test_nothing_there(tmp_path, capsys):
    assert check.main(DATA, ['--data', str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    wanted = sum(len(source.lies) for source in SOURCES.values())
    assert sum(line.endswith(': MISSING') for line in lines) == wanted


def test_a_reader_that_leaves_early(tmp_path):
    """`data/scripts/fetch.py | head` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)
    script = os.path.join(ROOT, 'data', 'scripts', 'fetch.py')
    done = subprocess.run(
        [sys.executable, script, '--data', str(tmp_path)], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, '')


def test_names(tmp_path, capsys):
    with pytest.raises(SystemExit):
        check.main(DATA, ['voc_2008'])
    assert 'unknown voc_2008; known: voc_2007' in capsys.readouterr().err
    for script in ('imagenet_models', 'faster_rcnn_models', 'selective_search_data', 'rfcn_models'):
        path = os.path.join(ROOT, 'data', 'scripts', f'fetch_{script}.sh')
        done = subprocess.run([path, '--data', str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout.startswith(f'{script}: '), done.stderr
