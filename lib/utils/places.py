"""Where the program's own files lie, and where a user's: nets, data, results, logs.

In a checkout both are the repository. Installed, the package frcnn has the repository's folders lib, tools, experiments/cfgs,
data and models in it, as they lie here, and a user's files lie in the folder of work: FRCNN_HOME, by default the current one.
"""

import os
import sys

LIB = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.dirname(LIB)
INSTALLED = os.path.exists(os.path.join(PROGRAM, '__init__.py'))  # it is the package frcnn
ENGINE = os.path.dirname(PROGRAM) if INSTALLED else os.path.join(PROGRAM, 'caffe-fast-rcnn', 'python')
HOME = os.path.abspath(os.environ.get('FRCNN_HOME') or ('' if INSTALLED else PROGRAM))
CFGS = os.path.join(PROGRAM, 'experiments', 'cfgs')


def command():
    """How this program was called: `frcnn train`, or by the name of a tool's file."""
    return os.environ.get('FRCNN_COMMAND') or os.path.basename(sys.argv[0])
