"""pycaffe's public names, on an engine of our own."""

import importlib.util
import os
import sys

_NEEDED = {name: name for name in ('torch', 'numpy', 'scipy', 'h5py', 'lmdb')}  # module -> package
_NEEDED.update(cv2='opencv-python-headless', google='protobuf')
_absent = [package for module, package in _NEEDED.items() if not importlib.util.find_spec(module)]
if _absent:
    raise ImportError(
        f'caffe wants {", ".join(_absent)}, which {sys.executable} lacks: requirements.txt lists the packages, '
        f'`make all` installs them'
    )

# Threads that wait sleep. By default OpenMP's spin, which costs several times the work where cores are shared. Read by
# torch when it loads.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from . import types as _types  # fills the registry
from . import coord_map, draw, io, pycaffe
from .classifier import Classifier
from .common import (
    TEST,
    TRAIN,
    Timer,
    init_log,
    log,
    precision,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_precision,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    set_tf32,
    solver_count,
    solver_rank,
)
from .common import is_multiprocess as multiprocess
from .detector import Detector
from .layer import Layer
from .module import to_module
from .net import Net
from .net_spec import NetSpec, layers, params, to_proto
from .parallel import NCCL, has_nccl
from .proto import caffe_pb2
from .registry import layer_type_list
from .solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)
from .types.python import set_python_layers

__version__ = '1.0.0'
init_log()
