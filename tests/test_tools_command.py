"""tools/_command.py: how a tool ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import _command
from fast_rcnn.config import cfg, overrides
from frcnn.__main__ import about, commands
from pipeline.settings import settle

ROOT = Path(__file__).resolve().parent.parent
TOOLS = sorted(path.name for path in (ROOT / 'tools').glob('*.py') if not path.name.startswith('_'))


def fail(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    'error, said',
    [
        (
            FileNotFoundError(2, 'No such file or directory', 'a.yml'),
            'some.py: a.yml: no such file or folder',
        ),
        (PermissionError(13, 'Permission denied', 'a.yml'), 'some.py: a.yml: Permission denied'),
        (FileExistsError(17, 'File exists', __file__), f'some.py: {__file__}: is a file, not a folder'),
        (NotADirectoryError(20, 'x', f'{__file__}/a/b'), f'some.py: {__file__}: is a file, not a folder'),
        (ValueError('a.pt: wanted 3,\n got 4'), 'a.pt: wanted 3, got 4'),
        (KeyError('unknown imdb x'), 'unknown imdb x'),
        (KeyError('boxes'), 'KeyError: boxes'),
        (RuntimeError('no GPU 7'), 'no GPU 7'),
        (FloatingPointError('iteration 3: loss is nan'), 'iteration 3: loss is nan'),
        (ModuleNotFoundError("layer 'b': no module 'x'", name='x'), "layer 'b': no module 'x'"),
    ],
)
def test_an_error_is_one_line(error, said, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/some.py'])
    monkeypatch.delenv('TRACEBACK', raising=False)
    with pytest.raises(SystemExit) as ended:
        _command.run(fail(error))
    assert str(ended.value).startswith('some.py: ') and str(ended.value).endswith(said)
    assert '\n' not in str(ended.value)
    monkeypatch.setenv('TRACEBACK', '1')
    with pytest.raises(type(error)):
        _command.run(fail(error))


def test_a_mistake_in_the_program_is_not_hidden():
    with pytest.raises(AttributeError):
        _command.run(fail(AttributeError('no such attribute')))


@pytest.mark.parametrize('status', [None, 0, 1])
def test_the_exit_status_is_mains(status):
    with pytest.raises(SystemExit) as ended:
        _command.run(lambda: status)
    assert ended.value.code == status


def test_ctrl_c(capsys):
    with pytest.raises(SystemExit) as ended:
        _command.run(fail(KeyboardInterrupt()))
    assert ended.value.code == 130 and capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize('name', TOOLS)
def test_every_tool_ends_so(name):
    assert '_command.run(' in (ROOT / 'tools' / name).read_text()


@pytest.mark.parametrize('name', TOOLS)
def test_a_python_that_lacks_the_packages_says_what_to_do(name, tmp_path):
    done = subprocess.run(
        [sys.executable, '-S', ROOT / 'tools' / name, '--help'],
        text=True,
        capture_output=True,
        env={**os.environ, 'PYTHONPATH': ''},
    )
    assert done.returncode == 1 and done.stderr.count('\n') == 1, done.stderr
    assert 'lacks torch' in done.stderr and 'make all' in done.stderr and f'tools/{name}' in done.stderr


def test_every_command_is_described_by_a_whole_sentence():
    """`frcnn --help` shows the first line of what a program says of itself, and no more."""
    told = {name: about(path) for name, path in commands().items()}
    assert [name for name, text in told.items() if not text.endswith('.')] == []


@pytest.mark.parametrize(
    'path, called',
    [('models/generate.py', 'nets'), ('data/make_toy.py', 'toy'), ('data/scripts/fetch.py', 'data')],
)
def test_usage_has_the_name_that_was_called(path, called):
    done = subprocess.run(
        [sys.executable, ROOT / path, '--help'],
        text=True,
        capture_output=True,
        env={**os.environ, 'FRCNN_COMMAND': f'frcnn {called}'},
    )
    assert done.stdout.startswith(f'usage: frcnn {called} '), done.stderr


def test_what_was_stopped_says_so(capsys):
    stop = KeyboardInterrupt('stage1_rpn was stopped')
    stop.status = 143
    with pytest.raises(SystemExit) as ended:
        _command.run(fail(stop))
    assert ended.value.code == 143 and capsys.readouterr().err == 'stage1_rpn was stopped\n'


@pytest.mark.parametrize(
    'words',
    [
        ['TEST.NMS', '0.4', 'TRAIN.SCALES', '[400,500]', 'EXP_DIR', 'a=b'],
        ['TEST.NMS=0.4', 'TRAIN.SCALES=[400,500]', 'EXP_DIR=a=b'],
        ['TEST.NMS=0.4', 'TRAIN.SCALES', '[400,500]', '--set', 'EXP_DIR=a=b'],
    ],
)
def test_single_settings_by_pairs_or_with_a_sign_between(words):
    args = _command.parser('x', 'set').parse_args(['--set', *words])
    single = _command.single(args)
    assert single == ['TEST.NMS', '0.4', 'TRAIN.SCALES', '[400,500]', 'EXP_DIR', 'a=b']
    with overrides({}):
        settle(None, (), single)
        assert (cfg.TEST.NMS, cfg.TRAIN.SCALES, cfg.EXP_DIR) == (0.4, (400, 500), 'a=b')


@pytest.mark.parametrize('words, said', [(['TEST.NMS'], 'TEST.NMS has no value'), (['=3'], '=3 has no key')])
def test_single_settings_that_are_half(words, said):
    with pytest.raises(ValueError, match=f'wants KEY=VALUE or KEY VALUE; {said}'):
        _command.settings(words)


@pytest.mark.parametrize('name', [name for name in TOOLS if "'set'" in (ROOT / 'tools' / name).read_text()])
def test_every_tool_and_recipe_takes_both_forms(name):
    """They all go by single(): none reads the words behind --set itself."""
    assert 'set_cfgs' not in (ROOT / 'tools' / name).read_text().replace('del args.set_cfgs', '')
