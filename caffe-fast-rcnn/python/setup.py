"""Builds the engine's compiled parts in place: python caffe-fast-rcnn/python/setup.py build_ext --inplace"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

os.chdir(os.path.dirname(os.path.abspath(__file__)))
openmp = ['-fopenmp'] if sys.platform.startswith('linux') else []
extension = Extension(
    'caffe.types.roi_pooling_cpu',
    ['caffe/types/roi_pooling_cpu.pyx'],
    extra_compile_args=['-O3', *openmp],
    extra_link_args=openmp,
)

setup(
    name='caffe-extensions',
    packages=[],
    ext_modules=cythonize([extension]),
    options={'build': {'build_base': os.path.join('..', '..', 'build', 'caffe')}},
)
