"""What a tool imports before engine and library: puts both on the path."""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

for folder in ('models', 'lib', os.path.join('caffe-fast-rcnn', 'python')):
    path = os.path.join(ROOT, folder)
    if path not in sys.path:
        sys.path.insert(0, path)

# Idle threads sleep. By default they spin, and where other programs want the same cores (or a container has
# less than it shows) each layer waits for a thread that is not scheduled: ten times slower on two busy cores
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
