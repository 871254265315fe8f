"""Puts the engine and the library on the path: a tool imports this before anything of theirs."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

for folder in ('models', 'lib', os.path.join('caffe-fast-rcnn', 'python')):
    path = os.path.join(ROOT, folder)
    if path not in sys.path:
        sys.path.insert(0, path)
