"""What a tool imports before engine and library: puts both on the path. A Python without them ends the tool."""

import importlib.util
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIB = os.path.join(ROOT, 'lib')

CHECKOUT = os.path.isdir(os.path.join(LIB, 'frcnn'))

absent = [name for name in ('torch', 'numpy', 'cv2', 'google') if not importlib.util.find_spec(name)]
if absent:
    again = f'run `make all` in {ROOT}, then .venv/bin/python {os.path.relpath(sys.argv[0], ROOT)} ...'
    sys.exit(
        f'{sys.executable} lacks {", ".join(absent)}: {again if CHECKOUT else "pip install torch, and frcnn again"}'
    )

# The package frcnn, which knows the rest: in lib, or around it where it is installed
if CHECKOUT:
    sys.path.insert(0, LIB)
elif os.path.dirname(ROOT) not in sys.path:
    sys.path.append(os.path.dirname(ROOT))
import frcnn  # noqa: E402, F401
