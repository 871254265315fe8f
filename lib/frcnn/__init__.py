"""The library as a package: `from frcnn import Detector`.

detector = Detector('model.frcnn')
boxes, scores, labels, masks = detector('picture.jpg')

The library's modules go by short names (datasets, utils, rpn ...), which nets name too. Importing this package puts them, and
the engine `caffe`, on the path; nothing does so before. ImportError: the process has other modules of these names already.
"""

import os
import sys

__version__ = '1.0.0'
HERE = os.path.dirname(os.path.abspath(__file__))
LIB = os.path.join(HERE, 'lib') if os.path.isdir(os.path.join(HERE, 'lib')) else os.path.dirname(HERE)


def strangers(modules):
    """[(name, where it comes from)] of the loaded modules that have a name of the library's and are not the library's."""
    names = [name for name in os.listdir(LIB) if os.path.exists(os.path.join(LIB, name, '__init__.py'))]
    found = {
        name: getattr(modules[name], '__file__', None) or 'elsewhere' for name in names if name in modules
    }
    ours = {name: os.path.realpath(os.path.join(LIB, name)) for name in found}
    return sorted(
        (n, path)
        for n, path in found.items()
        if not os.path.realpath(path).startswith(ours[n]) and n != 'frcnn'
    )


def _begin():
    others = strangers(sys.modules)
    if others:
        raise ImportError(
            f'frcnn has modules called {", ".join(name for name, _ in others)}, and others of these names were imported before, '
            f'from {", ".join(path for _, path in others)}: import frcnn first, or in a process of its own'
        )
    if LIB not in sys.path:
        sys.path.insert(0, LIB)
    from utils.places import ENGINE

    if ENGINE not in sys.path:
        sys.path.insert(1, ENGINE)
    # Idle threads sleep. By default they spin, and where other programs want the same cores (or a container has
    # less than it shows) each layer waits for a thread that is not scheduled: ten times slower on two busy cores
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


_begin()


def __getattr__(name):
    """Detector and Detections, once they are asked for: they load torch."""
    if name not in ('Detector', 'Detections'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from frcnn import detector

    return getattr(detector, name)
