"""README.md and docs/: every path, name and command in them is there, the examples run."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MADE_LATER = (
    'output/',
    'data/toy',
    'data/imagenet_models',
    'data/faster_rcnn_models',
    'data/cache',
    'data/selective_search_data',
    'data/BCCD',
    'data/VOCdevkit2007',
    'data/VOCdevkit2012',
    'data/ImageNet2015',
    'data/coco',
    'data/OpenImages',
    'data/datasets/',
    '.venv',
    'models/mine',
)


def paths_in(text):
    """Paths from the project's root that a text names."""
    names = set(re.findall(r'(?<![\w/.:])(?:\.?[A-Za-z][\w-]*/)+[\w.<>-]*', text))
    tops = {path.name for path in ROOT.iterdir()}
    return sorted(
        name.rstrip('.')
        for name in names
        if name.split('/')[0] in tops and '<' not in name and not name.startswith(MADE_LATER)
    )


@pytest.mark.parametrize(
    'page, least', [('README.md', 20), ('docs/where.md', 12), ('docs/workers.md', 1), ('docs/pyramids.md', 8)]
)
def test_every_path_is_there(page, least):
    paths = paths_in((ROOT / page).read_text())
    assert len(paths) > least
    assert [name for name in paths if not (ROOT / name).exists()] == []


def test_the_readme_names_every_folder():
    text = (ROOT / 'README.md').read_text().partition('## What lies where')[2]
    rooms = [f'lib/{path.name}/' for path in (ROOT / 'lib').iterdir() if (path / '__init__.py').exists()]
    assert [room for room in rooms if f'`{room}`' not in text] == []


def test_the_readme_names_every_recipe():
    text = (ROOT / 'README.md').read_text()
    scripts = [path.name for path in (ROOT / 'experiments' / 'scripts').glob('*.sh')]
    assert [name for name in scripts if name != 'common.sh' and name not in text] == []
    assert [name for name in re.findall(r'`(\w+\.sh)`', text) if name not in scripts] == []


def test_the_readme_stays_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 155


def test_the_pycaffe_example_runs_as_it_stands(tmp_path):
    block = re.search(r'(?m)^    import caffe\n(?:    .*\n|\n)+', (ROOT / 'README.md').read_text())[0]
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(block)],
        cwd=tmp_path,
        env={'PYTHONPATH': str(ROOT / 'caffe-fast-rcnn' / 'python')},
        text=True,
        capture_output=True,
    )
    assert done.stdout.startswith('(1, 8, 15, 15) '), done.stderr


def test_what_is_named_is_in_the_file_of_its_row():
    """docs/where.md: a table in capitals, a decorator or a function in a row is in one of the row's files."""
    rows = [line for line in (ROOT / 'docs' / 'where.md').read_text().splitlines() if line.startswith('| ')]
    assert len(rows) > 10
    for row in rows[1:]:
        files = [ROOT / name for name in paths_in(row) if name not in ('lib/', 'tools/')]
        inside = [file for folder in files if folder.is_dir() for file in folder.glob('*.py')]
        text = '\n'.join(file.read_text() for file in files + inside if file.is_file())
        for name in re.findall(r'`@?([A-Z_]{3,}|rule|class_aps)`', row):
            assert name in text, (name, row)
