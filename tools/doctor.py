#!/usr/bin/env python3
"""Say what is here: versions, GPUs, which kernels are compiled, and where nets, data and results lie."""

import importlib
import os
import platform
import sys
from importlib import metadata

import _command
from utils.places import HOME, INSTALLED, PROGRAM

PACKAGES = (
    'numpy', 'opencv-python-headless', 'protobuf', 'PyYAML', 'easydict', 'h5py', 'lmdb', 'scipy', 'matplotlib', 'Jinja2', 'Pillow',
    'pycocotools', 'tqdm',
)  # fmt: skip
EXTRAS = {'report': ('tensorboard',), 'export': ('onnx', 'onnxruntime')}  # of pyproject.toml
KERNELS = 'caffe.types.roi_pooling_cpu', 'caffe.types.nms_cpu', 'caffe.types.packed_cpu', 'utils._bbox'
FOLDERS = {
    'nets': 'models',
    'data': 'data',
    'initial weights': os.path.join('data', 'imagenet_models'),
    'caches': os.path.join('data', 'cache'),
    'results': 'output',
    'logs': os.path.join('experiments', 'logs'),
}


def main():
    _command.parser(__doc__).parse_args()
    for title, rows in {
        'program': program(),
        'packages': packages(),
        'GPUs': gpus(),
        'kernels': kernels(),
        'folders': folders(),
    }.items():
        print(title)
        for name, text in rows:
            print(f'  {name:24} {text}')


def program():
    """(what, which) of the program and what it runs on."""
    import frcnn

    yield 'frcnn', f'{frcnn.__version__}, {"installed" if INSTALLED else "a checkout"}: {PROGRAM}'
    yield 'Python', f'{platform.python_version()}: {sys.executable}'
    yield 'system', f'{platform.platform()}, {os.cpu_count()} cores'


def packages():
    """(package, version), with what is missing and how it comes."""
    import torch

    yield (
        'torch',
        f'{torch.__version__}, CUDA {torch.version.cuda or "none"}, cuDNN {torch.backends.cudnn.version() or "none"}',
    )
    for name in PACKAGES:
        yield name, version(name) or 'MISSING, or of another name'
    for extra, names in EXTRAS.items():
        for name in names:
            yield name, version(name) or f"not here, and not needed: pip install 'frcnn[{extra}]'"


def version(package):
    """That of an installed package, else None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gpus():
    """(number, what it is) of each that torch sees."""
    import torch

    if not torch.cuda.is_available():
        why = 'this build of torch is for the CPU' if torch.version.cuda is None else 'no driver, or no GPU'
        yield 'none', f'{why}: compute with --gpu cpu'
    for number in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(number)
        yield str(number), f'{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.1f} GiB'


def kernels():
    """(module, whether it is compiled); without one numpy or torch does its work."""
    from caffe import kernels as cuda

    for name in KERNELS:
        try:
            importlib.import_module(name)
            yield name, 'compiled'
        except ImportError as error:
            yield name, f'not compiled, numpy or torch does its work, slower ({error})'
    there = os.path.exists(cuda.PATH)
    yield (
        'caffe.kernels (CUDA)',
        'compiled' if there else 'not compiled: on GPUs torch does their work, slower',
    )


def folders():
    """(what, where) lies in the folder of work."""
    can = os.access(HOME, os.W_OK)
    yield 'folder of work', HOME + ('' if can else ' (CANNOT BE WRITTEN TO: name another by FRCNN_HOME)')
    for what, name in FOLDERS.items():
        path = os.path.join(HOME, name)
        yield what, path + ('' if os.path.isdir(path) else ' (not there yet)')


if __name__ == '__main__':
    _command.run(main)
