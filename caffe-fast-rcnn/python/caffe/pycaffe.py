"""The names that scripts import from caffe.pycaffe."""

from .common import Timer
from .net import Net
from .parallel import NCCL
from .solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
)
