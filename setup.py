"""Builds the package: pyproject.toml says what it is, this which folders it is of and what is compiled.

python setup.py build_ext --inplace     compiles in place, for a checkout (`make all`)
pip install .                           compiles what can be compiled; what cannot, numpy and torch do, slower

FRCNN_PURE=1 compiles nothing. With nvcc (NVCC) and make, kernels for GPUs are compiled too, by the Makefile; CUDA_ARCHS as
there, NVCC= leaves them out.
"""

import glob
import os
import shutil
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The package frcnn has the repository's folders in it: see lib/utils/places.py
FOLDERS = {
    'caffe': 'caffe-fast-rcnn/python/caffe',
    'frcnn': 'lib/frcnn',
    'frcnn.data': 'data',
    'frcnn.data.scripts': 'data/scripts',
    'frcnn.experiments.cfgs': 'experiments/cfgs',
    'frcnn.lib': 'lib',
    'frcnn.models': 'models',
    'frcnn.tools': 'tools',
}
SOURCES = ['*.pyx', '*.pyc', '*.c', '*.cpp', '*.h', '*.cu', '*.cuh', '*.so', '*.pyd', '*.so.part']
CUDA = 'caffe-fast-rcnn/python/caffe/kernels/kernels.so'


def packages():
    """The names of all packages: those of FOLDERS, and what lies with an __init__.py in lib and in the engine."""
    found = set(FOLDERS) - {'frcnn.lib'}
    for name in 'caffe', 'frcnn.lib':
        for path in glob.glob('**/__init__.py', root_dir=FOLDERS[name], recursive=True):
            parts = os.path.dirname(path).split(os.sep)
            if parts[0] != 'frcnn':
                found.add('.'.join([name, *filter(None, parts)]))
    return sorted(found)


def package_data():
    """{package: patterns}: all that lies beside the library's modules; elsewhere a user's files may lie."""
    own = {'frcnn.data', 'frcnn.data.scripts', 'frcnn.models', 'frcnn.tools'}
    return {name: ['*.yml'] if name.endswith('cfgs') else ['*'] for name in packages() if name not in own}


def source(extension):
    """The .pyx of an extension module, by its name."""
    root = 'caffe' if extension.startswith('caffe.') else 'frcnn.lib'
    return FOLDERS[root] + extension[len(root) :].replace('.', '/') + '.pyx'


class Build(build_ext):
    """build_ext that compiles for GPUs too, and whose --inplace puts a file in place by renaming it: a process that computes
    with the one before keeps that, and none that begins meanwhile meets half a file."""

    def run(self):
        super().run()
        nvcc = os.environ.get('NVCC', 'nvcc')
        if not self.inplace and shutil.which(nvcc) and shutil.which('make'):
            subprocess.run(['make', CUDA, f'NVCC={nvcc}'], check=True)
            if os.path.exists(CUDA):
                self.copy_file(CUDA, os.path.join(self.build_lib, 'caffe', 'kernels', 'kernels.so'))

    def copy_file(self, infile, outfile, **how):
        os.makedirs(os.path.dirname(os.path.abspath(outfile)), exist_ok=True)
        temporary = f'{outfile}.part'
        super().copy_file(infile, temporary, **how)
        os.replace(temporary, outfile)
        return outfile, True


def extensions():
    """What Cython compiles. Without contraction of a * b + c, numbers are those of numpy and torch on every processor."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        print('No Cython: the kernels stay uncompiled. Everything works, but slower.', file=sys.stderr)
        return []
    fast, exact = (['/O2'], []) if sys.platform == 'win32' else (['-O3'], ['-ffp-contract=off'])
    openmp = ['-fopenmp'] if sys.platform.startswith('linux') else []
    optional = '--inplace' not in sys.argv  # there make tells of it, and tries again
    # GCC and those that are like it compile packed_cpu; where the compiler is another, the rest is made nevertheless
    rows = [
        ('caffe.types.roi_pooling_cpu', openmp),
        ('caffe.types.nms_cpu', exact),
        ('caffe.types.packed_cpu', openmp),
        ('frcnn.lib.utils._bbox', exact),
    ]
    made = [
        Extension(
            name,
            [source(name)],
            extra_compile_args=[*fast, *flags],
            extra_link_args=openmp if flags is openmp else [],
            depends=[f'{FOLDERS["caffe"]}/types/packed.h'] if 'packed' in name else [],
        )
        for name, flags in rows
    ]
    made = cythonize(made, language_level=3)
    for one in made:  # Cython lets go of what the Extension was told
        one.optional = optional or 'packed' in one.name
    return made


if __name__ == '__main__':
    setup(
        packages=packages(),
        package_dir=FOLDERS,
        package_data=package_data(),
        exclude_package_data={'': SOURCES},
        cmdclass={'build_ext': Build},
        ext_modules=[] if os.environ.get('FRCNN_PURE') else extensions(),
    )
