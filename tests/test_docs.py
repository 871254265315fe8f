"""README.md and docs/: every path, command, flag, setting, name and link in them is there, the examples run."""

import argparse
import ast
import importlib
import logging
import os
import re
import shlex
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

import _command
import caffe
import make_toy
from caffe import registry
from datasets import factory
from datasets.metrics import METRICS
from fast_rcnn.config import cfg_from_list, cfg_values, overrides
from netgen.backbones import BACKBONES
from pipeline.methods import METHODS
from tool_runs import tool

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ('README.md', 'caffe-fast-rcnn/README.md', 'data/**/README.md', 'docs/*.md')
    for path in ROOT.glob(pattern)
)
MADE_LATER = (
    'output/',
    'build/site',
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
    'models/toy',
)


def text_of(page):
    return (ROOT / page).read_text()


# ---------------------------------------------------------------------------------------------------- paths
def paths_in(text):
    """Paths from the project's root that a text names."""
    names = set(re.findall(r'(?<![\w/.:])(?:\.?[A-Za-z][\w-]*/)+[\w.<>-]*', text))
    tops = {path.name for path in ROOT.iterdir()}
    return sorted(
        name.rstrip('.')
        for name in names
        if name.split('/')[0] in tops
        and not name.startswith(MADE_LATER)
        and not re.search(r'<|/[A-Z]+([/.]|$)', name)  # a name to be filled in
    )


@pytest.mark.parametrize('page', PAGES)
def test_every_path_is_there(page):
    places = ROOT, (ROOT / page).parent
    wrong = [
        name
        for name in paths_in(own_text(text_of(page)))
        if not any((place / name).exists() for place in places)
    ]
    assert wrong == []


def test_paths_are_found():
    assert paths_in('`tools/demo.py`, data/toy/x and (lib/fpn/).') == ['lib/fpn/', 'tools/demo.py']
    assert len(paths_in(text_of('docs/where.md'))) > 40


def test_every_folder_is_named():
    text = text_of('docs/where.md')
    rooms = [f'lib/{path.name}/' for path in (ROOT / 'lib').iterdir() if (path / '__init__.py').exists()]
    assert [room for room in rooms if f'`{room}`' not in text] == []


def test_what_the_container_is_told_is_there():
    asked = re.findall(r'--build-arg (\w+)=', text_of('docs/install.md'))
    assert asked and [name for name in asked if f'ARG {name}' not in text_of('Dockerfile')] == []


def test_every_recipe_is_named():
    text = text_of('docs/recipes.md')
    scripts = [path.name for path in (ROOT / 'experiments' / 'scripts').glob('*.sh')]
    assert [name for name in scripts if name != 'common.sh' and name not in text] == []
    assert [name for name in re.findall(r'`(\w+\.sh)`', text) if name not in scripts] == []


def test_every_tool_is_named():
    text = text_of('docs/recipes.md')
    assert [path.name for path in (ROOT / 'tools').glob('[a-z]*.py') if f'`{path.name}`' not in text] == []


def test_the_readme_stays_short():
    assert len(text_of('README.md').splitlines()) <= 120


def test_what_is_named_is_in_the_file_of_its_row():
    """docs/where.md: a table in capitals, a decorator or a function in a row is in one of the row's files."""
    rows = [line for line in text_of('docs/where.md').splitlines() if line.startswith('| ')]
    assert len(rows) > 10
    for row in rows[1:]:
        files = [ROOT / name for name in paths_in(row) if name not in ('lib/', 'tools/')]
        inside = [file for folder in files if folder.is_dir() for file in folder.glob('*.py')]
        text = '\n'.join(file.read_text() for file in files + inside if file.is_file())
        for name in re.findall(r'`@?([A-Z_]{3,}|rule|class_aps)`', row):
            assert name in text, (name, row)


def test_snapshots_lie_where_a_training_end_to_end_leaves_them():
    """The folder is EXP_DIR of the net's own settings; the name begins with the net's prefix."""
    nets = {net.prefix: name for name, net in BACKBONES.items()}
    found = [
        path
        for page in PAGES
        for path in re.findall(r'output/(\S+)/\w+/(\S+)_iter_\d+\.caffemodel', text_of(page))
    ]
    assert len(found) >= 3
    for folder, name in found:
        net = nets[name.removesuffix('_faster_rcnn')]
        own = ROOT / 'experiments' / 'cfgs' / f'faster_rcnn_end2end_{net}.yml'
        assert folder == (own.stem if own.exists() else 'faster_rcnn_end2end')


# ------------------------------------------------------------------------------------------------- commands
def blocks_of(text):
    """Blocks of code, dedented: those that are indented, and those within fences."""
    fences = re.findall(r'(?ms)^```\w*\n(.*?)^```', text)
    text = re.sub(r'(?ms)^```\w*\n(.*?)^```', '', text)
    return fences + [textwrap.dedent(b) for b in re.findall(r'(?m)(?:^ {4,}\S.*\n|(?<=\n)\n(?= {4}))+', text)]


def own_text(text):
    """The text, of tables that have a column `here` or `ours` that column alone."""
    lines, column = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split('|')]
        if not line.startswith('|'):
            column = None
        elif column is None:
            names = [i for i, cell in enumerate(cells) if cell in ('here', 'ours')]
            column = names[0] if names else -1
        lines.append(cells[column] if column and column > 0 and len(cells) > column else line)
    return '\n'.join(lines)


def spans_of(text):
    """What stands in back quotes outside of fences."""
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', re.sub(r'(?ms)^```\w*\n.*?^```', '', text))


PROGRAM = re.compile(
    r'((\w+=\S+|srun|\.venv/bin/torchrun|torchrun|(\.venv/bin/)?python) )*'
    r'(make |pip |frcnn |(\./)?(tools|experiments|models|data|tests|caffe-fast-rcnn)/\S*(\.py|\.sh|tools/\w+)( |$)'
    r'|-m |-c )'
)


def commands_of(text):
    """The commands of a page, in words."""
    text = own_text(text)
    lines = [line for block in blocks_of(text) for line in re.sub(r'\\\n\s*', '', block).splitlines()]
    for line in [line.strip() for line in lines] + [span for span in spans_of(text) if ' ' in span]:
        if PROGRAM.match(line):
            yield words_of(line)


def words_of(line):
    words = shlex.split(re.sub(r'\$\(.*?\)', 'VALUE', line), comments=True)
    while words and (re.fullmatch(r'\w+=\S*', words[0]) or words[0] in ('srun', 'TRACEBACK=1')):
        words = words[1:]
    return words


def test_commands_are_found():
    found = list(
        commands_of(
            'a `tools/a.py --b` c\n\n    A=1 .venv/bin/python \\\n      tools/x.py 3   # d\n\n    no\n'
        )
    )
    assert found == [['.venv/bin/python', 'tools/x.py', '3'], ['tools/a.py', '--b']]
    assert sum(len(list(commands_of(text_of(page)))) for page in PAGES) > 100


class Found(Exception):
    pass


@cache
def parser_of(name):
    """The ArgumentParser of tools/NAME.py."""
    module = tool(name)

    def found(parser, args=None, namespace=None):
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', found)
        patch.setattr(sys, 'argv', ['tool'])
        with pytest.raises(Found) as got:
            module.main()
    return got.value.args[0]


def check_command(words):
    """AssertionError for a command that would not start."""
    program, *rest = words
    if program.endswith('torchrun'):
        start = next(i for i, word in enumerate(rest) if word == '-m' or word.startswith('tools/'))
        return check_command(['python', *rest[start:]])
    if program.endswith('python'):
        if rest[0] == '-c':
            return ast.parse(rest[1])
        program, *rest = rest if rest[0] != '-m' else rest[1:]
    name = Path(program).name
    if program in ('pip', 'your_script.py', 'my_program.py') or program.startswith('your_'):
        return
    if program == 'make':
        return check_make(rest)
    if name == 'caffe':
        return check_flags(rest[1:], [f'-{flag}' for flag in caffe_flags()])
    if program == 'frcnn' and rest[0] in ('--help', '--version'):
        return
    if program == 'frcnn':
        name = rest.pop(0)
        program = os.path.relpath(frcnn().commands()[frcnn().SHORT.get(name, name)], ROOT)
        name = Path(program).name
    assert (ROOT / program).is_file(), f'{program}: no such file'
    if name.endswith('.sh'):
        method = re.search(r'common\.sh" (\w+)', (ROOT / program).read_text())
        name, rest = 'recipe.py', [method[1], *rest] if method else None
    if name.endswith('.py') and (ROOT / 'tools' / name).is_file() and rest is not None:
        check_tool(name.removesuffix('.py'), rest)
    elif program.endswith('.py'):
        check_flags(rest, re.findall(r"'(-[\w-]+)'", (ROOT / program).read_text()))


def frcnn():
    return importlib.import_module('frcnn.__main__')


def caffe_flags():
    return importlib.import_module('caffe.__main__').FLAGS


def check_make(words):
    text = text_of('Makefile')
    for word in words:
        target, given, _ = word.partition('=')
        assert re.search(rf'(?m)^{target}(:| *\?=)' if not given else rf'\b{target}\b', text), word


def check_flags(words, known):
    for word in words:
        if re.match(r'--?[a-z]', word) and word != '--set':
            assert word.partition('=')[0] in known, word


def check_tool(name, words):
    parser = parser_of(name)
    before = words[: words.index('--set')] if '--set' in words else words
    check_flags([word.strip('[]') for word in before], parser._option_string_actions)
    with overrides({}):
        settings = _command.settings(words[len(before) :])
        cfg_from_list([word for word in settings if '...' not in word])
    if any(re.match(r'NAME$|\.\.\.|\[-|\[options|.*\||--help', word) for word in before) or not before:
        return
    args = parser.parse_args(before)
    if name == 'recipe':
        assert args.method in METHODS
        assert args.net in BACKBONES or args.net in ('NET', 'ResNet-14'), args.net
        known = *factory.BUILT_IN, 'toy', 'toy_hard', 'toy_masks', 'DATASET', 'YAML'
        assert args.dataset in known or factory.is_path(args.dataset), args.dataset


@pytest.mark.parametrize('page', PAGES)
def test_every_command_would_start(page, monkeypatch, capsys):
    monkeypatch.setattr(_command, 'parse_gpu', lambda text: [text])
    wrong = []
    for words in commands_of(text_of(page)):
        try:
            check_command(words)
        except (AssertionError, SystemExit, KeyError, ValueError, TypeError, SyntaxError) as error:
            wrong.append((' '.join(words), str(error).splitlines()[:1], capsys.readouterr().err[-200:]))
    assert wrong == []


def test_a_wrong_command_is_seen(monkeypatch, capsys):
    for line in (
        'tools/nowhere.py',
        'python tools/demo.py --nosuch',
        'make nothing',
        'frcnn nothing',
        'frcnn predict --nosuch 1',
        'experiments/scripts/faster_rcnn_end2end.sh cpu ResNet-11 coco',
        'tools/test_net.py --net a --set TEST.NOSUCH=1',
        'caffe-fast-rcnn/build/tools/caffe train -nosuch 1',
        'python tests/accuracy.py --nosuch',
    ):
        with pytest.raises((AssertionError, SystemExit, KeyError)):
            check_command(words_of(line))


# ------------------------------------------------------------------------------------- flags, settings, names
def flags_there_are():
    tools = [path.stem for path in (ROOT / 'tools').glob('[a-z]*.py')]
    others = ('models/generate.py', 'data/make_toy.py', 'tests/accuracy.py', 'tests/open_images_scale.py')
    found = {flag for name in tools for flag in parser_of(name)._option_string_actions}
    found.update(flag for name in others for flag in re.findall(r"'(--[\w-]+)'", text_of(name)))
    return found | {'--node-rank', '--build-arg'}  # torchrun's and docker's


@pytest.mark.parametrize('page', PAGES)
def test_every_flag_and_setting_is_there(page):
    text, flags, settings = own_text(text_of(page)), flags_there_are(), set(flat(cfg_values()))
    named = {span.split()[0].partition('=')[0] for span in spans_of(text) if re.match('--[a-z]', span)}
    assert sorted(named - flags) == []
    named = set(re.findall(r'(?<![\w.])((?:TRAIN|TEST|OPEN_IMAGES)\.[A-Z][A-Z0-9_]+)(?!\w)', text))
    assert sorted(named - settings) == []


def flat(values, prefix=''):
    for key, value in values.items():
        yield from flat(value, f'{key}.') if isinstance(value, dict) else [prefix + key]


@pytest.mark.parametrize('page', PAGES)
def test_every_net_is_there(page):
    nets = r'(?:ResNet|DetNet|VGG|ZF)[\w-]*-(?:FPN|C4|Context|DCN|DCNv2|GN|Cascade)[\w-]*'
    named = {span for span in spans_of(text_of(page)) if re.fullmatch(nets, span)}
    assert sorted(named - set(BACKBONES) - {'ResNet-50-P7'}) == []


@pytest.mark.parametrize('page', PAGES)
def test_every_python_name_is_there(page):
    for block in blocks_of(text_of(page)):
        if not re.search(r'(?m)^ *(import|from) \w', block):
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module != 'shapes':
                module = importlib.import_module(node.module)
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []
            if isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') == 'caffe':
                assert hasattr(caffe, node.attr), node.attr


# ------------------------------------------------------------------------------------------------- examples
def test_the_pycaffe_example_runs_as_it_stands(tmp_path):
    block = re.search(r'(?ms)^```python\n(import caffe\n.*?)^```', text_of('README.md'))[1]
    done = subprocess.run(
        [sys.executable, '-c', block],
        cwd=tmp_path,
        env={'PYTHONPATH': str(ROOT / 'caffe-fast-rcnn' / 'python')},
        text=True,
        capture_output=True,
    )
    assert done.stdout.startswith('(1, 8, 15, 15) '), done.stderr


def test_the_steps_of_the_readme_lead_to_a_dataset(tmp_path, monkeypatch, capsys):
    """Its description of a dataset, and the commands that need no training, on a folder as it says."""
    text = text_of('README.md').partition('## Your own images')[2]
    description, *others = [block for block in blocks_of(text) if 'name: mine' in block]
    assert not others
    make_toy.write(str(tmp_path / 'toy'), 4, 2)
    for path in (tmp_path / 'toy').rglob('DET/*/*.*'):
        place = ('Annotations', '.xml') if path.suffix == '.xml' else ('JPEGImages', '.jpg')
        (tmp_path / 'images' / place[0]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / 'images' / place[0] / (path.stem + place[1]))
    (tmp_path / 'mine.yml').write_text(description.replace('[cat, dog]', 'from annotations'))
    monkeypatch.chdir(tmp_path)
    for words in commands_of(text):
        if words[-1] == 'mine.yml' and words[0].endswith('python') or 'tools/split_dataset.py' in words:
            assert not tool(Path(words[1]).stem).main(words[2:])
    assert 'mine_train' in capsys.readouterr().out


def test_the_examples_of_how_to_extend_run(tmp_path, monkeypatch, capsys):
    for table in registry._REGISTRY, factory._added, METRICS, BACKBONES, METHODS:
        for key in table:  # what the examples add goes with the test
            monkeypatch.setitem(table, key, table[key])
    before = [
        (table, set(table)) for table in (registry._REGISTRY, factory._added, METRICS, BACKBONES, METHODS)
    ]
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        for block in re.findall(r'(?ms)^```python\n(.*?)^```', text_of('docs/extend.md')):
            exec(compile(block, 'docs/extend.md', 'exec'), names)
        data = factory.get_imdb('squares_train')
        shares = METRICS['share'](data, [[[], []], [[], [[0, 0, 9, 9, 0.5]]]])[0]
    finally:
        for table, keys in before:
            for key in set(table) - keys:
                del table[key]
    lines = capsys.readouterr().out.splitlines()
    assert lines == ['[[-0.5   0.    0.5   0.75]]', '[[10. 10. 49. 49.]]', '3']
    assert shares == {'square': 0.5}
    net = caffe.Net('nets/mine/ResNet-14/faster_rcnn_end2end/test.prototxt', caffe.TEST)
    assert 'res4c' in net.blobs
    net.save('net.caffemodel')
    path = names['count']({'stem': 'out', 'weights': 'net.caffemodel'})
    assert int(Path(path).read_text()) == sum(blob.count for blobs in net.params.values() for blob in blobs)
    counter = names['Count']()
    counter.on_start(None)
    counter.on_step(None, {})
    assert counter.steps == 1


def test_every_message_of_the_troubleshooting_page_is_one_of_ours():
    """Parts between words in capitals, which stand for what differs, are in the code."""
    files = [path for folder in ('lib', 'tools', 'caffe-fast-rcnn') for path in (ROOT / folder).rglob('*.py')]
    code = '\n'.join(path.read_text() for path in [*files, ROOT / 'Makefile'])
    code = re.sub(r"""['"]\s*\n\s*\+? *f?['"]""", '', code)  # strings over several lines
    code = re.sub(r'%[sd]|\$\(\w+\)|\{[^{}\n]*\}|\(\.\+\?\)', 'X', code)
    messages = re.findall(r'(?m)^> `(.+)`$', text_of('docs/troubleshooting.md'))
    assert len(messages) > 20
    for message in messages:
        pieces = re.split(
            r'\b(?!COCO|TRAIN|RPN|JPEG|IMS|CUDA|GPU\b|ROI|CPU|AP\b)[A-Z]+\b(?!\.[A-Z]|_)(?<!REAL_)',
            message,
        )
        assert [
            piece for piece in pieces if len(piece.strip()) > 6 and piece.strip(' ;:,.') not in code
        ] == [], message


# ------------------------------------------------------------------------------------------------- the site
def test_the_site_builds_without_a_warning(tmp_path, monkeypatch, caplog):
    """Links and anchors among them; all pages are named, and so are all settings."""
    monkeypatch.setenv('NO_MKDOCS_2_WARNING', '1')
    pytest.importorskip('material', reason='needs mkdocs-material')
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with caplog.at_level(logging.WARNING, logger='mkdocs'):
        build(load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(tmp_path)))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    pages = {path.stem for path in tmp_path.glob('*.html')} - {'404'}
    assert {path.stem for path in (ROOT / 'docs').glob('*.md')} | {'index', 'settings', 'engine'} <= pages
    first = (tmp_path / 'index.html').read_text()
    assert [page for page in pages if f'href="{page}.html"' not in first and page != 'index'] == []
    assert re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', first) == []  # no network
    for page in pages:  # a block of code that is indented too little becomes text
        assert not re.search(r'<p>[^<]*\.venv/bin/python ', (tmp_path / f'{page}.html').read_text()), page
    settings = (tmp_path / 'settings.html').read_text()
    assert [name for name in flat(cfg_values()) if f'<code id="{name}">{name}</code>' not in settings] == []


def test_a_dead_link_stops_the_site(monkeypatch):
    pytest.importorskip('mkdocs')
    monkeypatch.syspath_prepend(ROOT / 'docs')
    hooks = importlib.import_module('hooks')
    assert hooks.moved('[a](../data/README.md#b) [c](../lib/setup.py)', 'docs/x.md') == '[a](data.md#b) c'
    assert hooks.linked('`docs/where.md` `docs/no.md`') == '[Where things lie](where.md) `docs/no.md`'
    assert hooks.escaped('a <b> TRAIN.X_Y *') == r'a \<b> `TRAIN.X_Y` \*'
