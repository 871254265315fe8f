"""Builds the engine's compiled parts in place: python caffe-fast-rcnn/python/setup.py build_ext --inplace"""

import os
import sys

from Cython.Build import cythonize
from in_place import InPlace
from setuptools import Extension, setup

os.chdir(os.path.dirname(os.path.abspath(__file__)))
openmp = ['-fopenmp'] if sys.platform.startswith('linux') else []


def extension(name, *flags, **more):
    """caffe/types/NAME.pyx"""
    return Extension(
        f'caffe.types.{name}',
        [f'caffe/types/{name}.pyx'],
        extra_compile_args=['-O3', *flags],
        extra_link_args=openmp,
        **more,
    )


extensions = [
    extension('roi_pooling_cpu', *openmp),
    # Without contraction of a * b + c, overlaps are those of numpy and torch on every processor
    extension('nms_cpu', '-ffp-contract=off'),
    # GCC and those that are like it compile it; where the compiler is another, the rest is made nevertheless
    extension('packed_cpu', *openmp, depends=['caffe/types/packed.h'], optional=True),
]

setup(
    name='caffe-extensions',
    packages=[],
    cmdclass={'build_ext': InPlace},
    ext_modules=cythonize(extensions),
    options={'build': {'build_base': os.path.join('..', '..', 'build', 'caffe')}},
)
