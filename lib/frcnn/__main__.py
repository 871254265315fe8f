"""The command `frcnn COMMAND ...`: each of the tools, by its name."""

import ast
import os
import runpy
import sys

from utils.places import HOME, PROGRAM

TOOLS = os.path.join(PROGRAM, 'tools')
SHORT = {'train': 'train_net', 'test': 'test_net'}  # also called so
# Commands that lie elsewhere -> file, words before the user's
MORE = {
    'data': ('data/scripts/fetch.py', ['--data', os.path.join(HOME, 'data')]),
    'nets': ('models/generate.py', []),
    'toy': ('data/make_toy.py', []),
}


def commands():
    """{name: path} of all commands, without those of SHORT."""
    found = {
        os.path.splitext(name)[0]: os.path.join(TOOLS, name)
        for name in os.listdir(TOOLS)
        if name.endswith('.py')
    }
    found = {name: path for name, path in found.items() if not name.startswith('_')}
    found.update((name, os.path.join(PROGRAM, *path.split('/'))) for name, (path, _) in MORE.items())
    return dict(sorted(found.items()))


def about(path):
    """The first line of what a program says of itself."""
    with open(path, encoding='utf-8') as stream:
        return (ast.get_docstring(ast.parse(stream.read())) or '').partition('\n')[0]


def usage():
    """What `frcnn --help` prints."""
    short = {name: key for key, name in SHORT.items()}
    rows = [(short.get(name, name), about(path)) for name, path in commands().items()]
    width = max(len(name) for name, _ in rows)
    lines = [f'  {name:{width}}  {text}' for name, text in sorted(rows)]
    return '\n'.join(
        [
            'usage: frcnn COMMAND ...      (frcnn COMMAND --help: what it takes)',
            '',
            *lines,
            '',
            f'Data, nets and results lie in {HOME}: the current folder, or the one that FRCNN_HOME names.',
        ]
    )


def main(argv=None):
    """Runs the tool that the first word names, in this process, as if its file had been started."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ('-h', '--help', 'help'):
        print(usage())
        sys.exit(0 if words else 2)
    if words[0] == '--version':
        import frcnn

        sys.exit(print(f'frcnn {frcnn.__version__}'))
    name, known = words[0].replace('-', '_'), commands()
    name = SHORT.get(name, name)
    if name not in known:
        from utils.words import nearest

        names = sorted([*known, *SHORT])
        sys.exit(
            f'frcnn: there is no command {words[0]}; the nearest is {nearest(name, names)}, known: {", ".join(names)}'
        )
    os.environ['FRCNN_COMMAND'] = f'frcnn {words[0]}'
    sys.argv = [known[name], *MORE.get(name, ('', []))[1], *words[1:]]
    sys.path.insert(0, os.path.dirname(known[name]))
    runpy.run_path(known[name], run_name='__main__')


if __name__ == '__main__':
    main()
