"""What `pip install` puts where, without pip: the package's files, laid out in a folder, and processes that use them.

tests/install_check.py does it all with pip, in a new environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList
from setuptools.dist import Distribution

import frcnn
from builds import ROOT, built
from pipeline.methods import METHODS
from tool_runs import tool

# Beside the modules: what a wheel does not need
NOT_SHIPPED = ('*.pyx', '*.h', '*.cu', '*.cuh')
TRACKED = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True).stdout.split()


@pytest.fixture(scope='module')
def distribution():
    """What setup.py and pyproject.toml say, read in the repository's folder."""
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        result = Distribution(
            dict(
                packages=built.packages(),
                package_dir=built.FOLDERS,
                package_data=built.package_data(),
                exclude_package_data={'': built.SOURCES},
                script_name='setup.py',
            )
        )
        result.parse_config_files()
        yield result
    finally:
        os.chdir(before)


@pytest.fixture(scope='module')
def installed(distribution, tmp_path_factory):
    """A folder with the package's files, as pip lays them out."""
    folder = tmp_path_factory.mktemp('site-packages')
    command = distribution.get_command_obj('build_py')
    command.ensure_finalized()
    command.build_lib = str(folder)
    command.run()
    return folder


def run(installed, folder, *words):
    """A Python that has the installed package, in a folder of work, with these words -> its output."""
    path = os.pathsep.join([str(installed), *(p for p in sys.path if p.endswith('site-packages'))])
    env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    for name in 'FRCNN_HOME', 'FRCNN_COMMAND':
        env.pop(name, None)
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not TRACKED, reason='needs the repository')
def test_all_that_is_needed_is_in_the_package(installed):
    """Every file of the folders that are packages, but the sources of what is compiled; and none besides."""
    found = {path.relative_to(installed).as_posix() for path in installed.rglob('*') if path.is_file()}
    found = {name for name in found if '__pycache__' not in name}
    rooms = {'lib/frcnn/': 'frcnn/', 'lib/': 'frcnn/lib/', 'caffe-fast-rcnn/python/caffe/': 'caffe/'}
    rooms.update({f'{room}/': f'frcnn/{room}/' for room in ('tools', 'experiments/cfgs')})
    wanted = {'frcnn/data/make_toy.py', 'frcnn/data/scripts/fetch.py', 'frcnn/models/generate.py'}
    for name in TRACKED:
        room = next((room for room in rooms if name.startswith(room)), None)
        if room and not any(Path(name).match(pattern) for pattern in NOT_SHIPPED) and (ROOT / name).exists():
            wanted.add(rooms[room] + name[len(room) :])
    assert wanted - found == set()
    untracked = {name for name in found - wanted if name.endswith('.py')}  # of work that goes on
    assert found - wanted == untracked
    assert 'frcnn/lib/reporting/page.html' in wanted and 'caffe/proto/caffe.proto' in wanted


@pytest.mark.skipif(not TRACKED, reason='needs the repository')
def test_the_sdist_is_the_whole_checkout(monkeypatch):
    """But what runs the tests of a change; and no results, caches or datasets."""
    monkeypatch.chdir(ROOT)
    found = FileList()
    for line in (ROOT / 'MANIFEST.in').read_text().splitlines():
        if line and not line.startswith('#'):
            found.process_template_line(line)
    found, there = set(found.files), {name for name in TRACKED if (ROOT / name).exists()}
    assert {name for name in there - found if not name.startswith('.ci/')} == set()
    untracked = subprocess.run(
        ['git', 'ls-files', '--others', '--exclude-standard'], capture_output=True, text=True
    ).stdout.split()
    assert found - there <= {*untracked}


def releases(lines):
    """{package: its bounds} of requirements' lines."""
    parts = [re.match(r'([\w-]+)(\S*)', line).groups() for line in lines if line and line[0] != '#']
    return {name: sorted(bounds.split(',')) for name, bounds in parts}


def test_requirements_and_the_package_want_the_same(distribution):
    pinned = releases((ROOT / 'requirements.txt').read_text().splitlines())
    needed, extras = releases(distribution.install_requires), distribution.extras_require.values()
    wanted = {**needed, **releases(line for lines in extras for line in lines)}
    assert pinned.pop('torch')[0].startswith('==') and needed.pop('torch') == ['>=2.6']
    assert {name: wanted.get(name) for name in pinned} == pinned
    assert needed.items() <= pinned.items()
    more = releases((ROOT / 'requirements-extra.txt').read_text().splitlines())
    assert more and {name: wanted.get(name) for name in more} == more
    assert distribution.get_version() == frcnn.__version__


def test_the_command_lists_every_tool_and_nothing_is_loaded_for_it(installed, tmp_path):
    code = """
import sys, frcnn.__main__ as command
try:
    command.main(['--help'])
finally:
    print('loaded', [name for name in ('torch', 'caffe', 'cv2') if name in sys.modules])
"""
    text = run(installed, tmp_path, '-c', code)
    names = {path.stem for path in (ROOT / 'tools').glob('[a-z]*.py')} - {'train_net', 'test_net'}
    rows = dict(re.findall(r'(?m)^  (\w+)  +(\S.*)$', text))
    assert {*names, 'train', 'test', 'toy', 'data', 'nets'} == set(rows)
    assert f'lie in {tmp_path}' in text and text.endswith('loaded []\n')


def test_a_tool_of_the_installed_package_works_in_the_folder_of_work(installed, tmp_path):
    """Nets are written there, settings found in the package, and nobody's `utils` is hidden before frcnn is imported."""
    (tmp_path / 'utils.py').write_text('ours = False')
    code = """
import utils; assert not utils.ours; del __import__('sys').modules['utils']
import frcnn.__main__ as command
from utils.places import CFGS, INSTALLED; assert INSTALLED
print(CFGS)
command.main(['nets', 'mine', 'ResNet-10', '--num_classes', '3'])
"""
    path, written = run(installed, tmp_path, '-c', code).splitlines()
    assert (
        Path(path) == installed / 'frcnn' / 'experiments' / 'cfgs' and (Path(path) / 'imagenet.yml').exists()
    )
    assert written.endswith('files written')
    solver = tmp_path / 'models/mine/ResNet-10/faster_rcnn_end2end/solver.prototxt'
    assert 'train_net: "models/mine/ResNet-10/faster_rcnn_end2end/train.prototxt"' in solver.read_text()


def test_other_modules_of_the_librarys_names_are_told(monkeypatch):
    """Whoever has imported a `datasets` of another project hears of it, rather than of a missing name."""
    from types import ModuleType

    other = ModuleType('datasets')
    other.__file__ = '/somewhere/datasets/__init__.py'
    assert frcnn.strangers({'datasets': other, 'utils': sys.modules['utils']}) == [
        ('datasets', other.__file__)
    ]
    monkeypatch.setitem(sys.modules, 'datasets', other)
    with pytest.raises(
        ImportError, match='modules called datasets, .* from /somewhere/datasets.*import frcnn first'
    ):
        frcnn._begin()


def test_an_unknown_command_names_the_nearest():
    import frcnn.__main__ as command

    with pytest.raises(SystemExit, match='no command trian; the nearest is train, known: bench, '):
        command.main(['trian'])


def test_recipes_methods_are_those_there_are():
    assert set(tool('recipe').METHODS) == set(METHODS)


def test_newer_grammar_than_python_3_10_has_is_refused(tmp_path):
    """By the check of tests/test_style.py, which reads all sources."""
    (tmp_path / 'new.py').write_text("type Number = int\ntext = f'{'a'}'\n")
    command = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--config', ROOT / 'ruff.toml', tmp_path]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert 'type` alias statement on Python 3.10' in said and 'f-strings on Python 3.10' in said, said


def test_no_compiler_fails_no_installation(monkeypatch):
    """Each extension may be left out, but where make compiles in place, and tells of it."""
    monkeypatch.chdir(ROOT)
    optional = {}
    for words in ['bdist_wheel'], ['build_ext', '--inplace']:
        monkeypatch.setattr(sys, 'argv', ['setup.py', *words])
        optional[words[-1]] = [one.optional for one in built.extensions()]
    assert set(optional['bdist_wheel']) == {True} and sum(optional['--inplace']) == 1
