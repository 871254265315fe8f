"""pycaffe's public names, on an engine of our own."""
from . import layers as _layers     # noqa: F401  fills the registry; rebound below
from .common import (TEST, TRAIN, init_log, log, set_device, set_mode_cpu, set_mode_gpu, set_multiprocess, set_random_seed,
                     set_solver_count, set_solver_rank, solver_count, solver_rank)
from .layer import Layer, layer_type_list
from .net import Net
from .net_spec import NetSpec, layers, params, to_proto
from .parallel import NCCL, has_nccl
from .solver import (AdaDeltaSolver, AdaGradSolver, AdamSolver, NesterovSolver, RMSPropSolver, SGDSolver, get_solver)
from . import io        # noqa: F401
from .proto import caffe_pb2        # noqa: F401

__version__ = '1.0.0'
init_log()
