"""What `make docs` adds to the Markdown files of docs/, so that nothing is written down twice.

- Pages that lie elsewhere in the repository (ELSEWHERE), and the settings, from the comments of lib/fast_rcnn/config.py.
- `docs/NAME.md` in a page's text becomes a link to that page; links to files that are no pages become their text.
- Pages of docs/ that mkdocs.yml does not name come last, under "More".
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    'index.md': 'README.md',
    'engine.md': 'caffe-fast-rcnn/README.md',
    'data.md': 'data/README.md',
    'datasets.md': 'data/datasets/README.md',
}
SETTINGS = 'settings.md'
HEAD = """# Settings

All settings of training and testing, with their defaults. A recipe's settings come from files in `experiments/cfgs`;
a dataset's YAML file sets more under `cfg`, and `--set KEY=VALUE` at the end of a command goes over all:

    .venv/bin/python tools/test_net.py --net model.frcnn --imdb mine_val --set TEST.NMS=0.4 TEST.SCALES=[800]

This page is made from the comments of `lib/fast_rcnn/config.py`. [Which settings](pyramids.md#which-settings) says which files
a recipe reads.
"""


def on_config(config):
    named = set(pages_of(config.nav))
    rest = [path.name for path in sorted(Path(config.docs_dir).glob('*.md')) if path.name not in named]
    if rest:
        config.nav.append({'More': rest})
    return config


def on_files(files, config):
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=moved((ROOT / source).read_text(), source)))
    settings = settings_page((ROOT / 'lib' / 'fast_rcnn' / 'config.py').read_text())
    files.append(File.generated(config, SETTINGS, content=settings))
    return files


def on_page_markdown(markdown, page, config, files):
    source = ELSEWHERE.get(page.file.src_uri)
    return linked(markdown) if source else linked(moved(markdown, f'docs/{page.file.src_uri}'))


def pages_of(nav):
    """The pages that a nav names."""
    for entry in nav:
        entry = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [entry] if isinstance(entry, str) else pages_of(entry)


def page_of(path):
    """The page of a file, a path from the repository's root; None where it is none."""
    for page, source in ELSEWHERE.items():
        if source == path:
            return page
    folder, name = posixpath.split(path)
    return name if folder == 'docs' and (name == SETTINGS or (ROOT / path).exists()) else None


def moved(text, source):
    """The Markdown of a file, its links as they are from docs/; those to files that are no pages are their text."""

    def link(found):
        label, target, anchor = found.groups()
        page = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        return f'[{label}]({page}{anchor or ""})' if page else label

    return re.sub(r'\[([^]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)', link, text)


def linked(text):
    """The Markdown with `docs/NAME.md`, and the other pages' paths, as links that have their titles."""

    def link(found):
        page = page_of(found[1])
        return f'[{title(found[1])}]({page})' if page else found[0]

    return re.sub(r'`((?:[\w-]+/)*[\w-]+\.md)`', link, text)


def title(path):
    """The title of a page."""
    return (ROOT / path).read_text().partition('\n')[0].lstrip('# ') if (ROOT / path).exists() else 'Settings'


def settings_page(code):
    """The Markdown of all settings: their sections, each setting with its default and its comment."""
    parts, names, comment = [HEAD], [], []
    for line in code.partition('\ndef ')[0].splitlines() + ['']:
        section = re.match(r'# -{20,} (.+)', line)
        setting = re.match(r'cfg\.(\S+) = (.+)', line)
        if section:
            parts.append(f'\n## {SECTIONS[section[1]]}\n')
            comment = []
        elif line.startswith('# '):
            comment.append(line[2:])
        elif setting and not setting[2].startswith('EasyDict'):
            names.append(setting.groups())
        elif not line:
            if names:
                terms = '\n'.join(f'`{name}`{{: #{name} }} = `{value}`' for name, value in names)
                parts.append(f'\n{terms}\n:   {escaped(" ".join(comment))}\n')
            names, comment = [], []
    return ''.join(parts)


SECTIONS = {'training': 'Training', 'testing': 'Testing', 'Open Images': 'Open Images', 'both': 'Both'}


def escaped(text):
    """A comment as Markdown: names in capitals as code, nothing in it that Markdown reads."""
    text = re.sub(r'([*<\[\]`|])', r'\\\1', text)
    return re.sub(r'(?<![\w.])((?:[A-Z]+\.)?[A-Z]+(?:_[A-Z]+)+(?:\.[A-Z_]+)?)(?!\w)', r'`\1`', text)
