"""What a tool imports before engine and library: puts both on the path. A Python without them ends the tool."""

import importlib.util
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

absent = [name for name in ('torch', 'numpy', 'cv2', 'google') if not importlib.util.find_spec(name)]
if absent:
    sys.exit(
        f'{sys.executable} lacks {", ".join(absent)}: run `make all` in {ROOT}, then '
        f'.venv/bin/python {os.path.relpath(sys.argv[0], ROOT)} ...'
    )

for folder in ('lib', os.path.join('caffe-fast-rcnn', 'python')):
    path = os.path.join(ROOT, folder)
    if path not in sys.path:
        sys.path.insert(0, path)

# Idle threads sleep. By default they spin, and where other programs want the same cores (or a container has
# less than it shows) each layer waits for a thread that is not scheduled: ten times slower on two busy cores
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
