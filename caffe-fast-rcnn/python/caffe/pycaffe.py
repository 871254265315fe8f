"""The names that scripts import from caffe.pycaffe."""
from .common import Timer       # noqa: F401
from .net import Net            # noqa: F401
from .parallel import NCCL      # noqa: F401
from .solver import (AdaDeltaSolver, AdaGradSolver, AdamSolver, NesterovSolver, RMSPropSolver,     # noqa: F401
                     SGDSolver)
