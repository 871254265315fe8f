"""Builds the library's compiled kernels in place: `python setup.py build_ext --inplace`, from lib/.

Contraction of a * b + c is off, so that the kernels give the numbers of their numpy twins on every processor.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

FLAGS = ['-O3', '-ffp-contract=off']

setup(
    name='detection-kernels',
    packages=[],
    ext_modules=cythonize(
        [
            Extension('utils._bbox', ['utils/_bbox.pyx'], extra_compile_args=FLAGS),
        ],
        language_level=3,
    ),
)
