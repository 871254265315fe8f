"""Builds the library's compiled kernels in place: `python setup.py build_ext --inplace`, from lib/.

Contraction of a * b + c is off, so that the kernels give the numbers of their numpy twins on every processor.
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

sys.path.insert(0, os.path.join('..', 'caffe-fast-rcnn', 'python'))
from in_place import InPlace  # noqa: E402  (found by the line above)

FLAGS = ['-O3', '-ffp-contract=off']

setup(
    name='detection-kernels',
    packages=[],
    cmdclass={'build_ext': InPlace},
    ext_modules=cythonize(
        [
            Extension('utils._bbox', ['utils/_bbox.pyx'], extra_compile_args=FLAGS),
        ],
        language_level=3,
    ),
)
