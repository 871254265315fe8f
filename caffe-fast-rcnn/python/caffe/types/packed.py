"""packed: convolutions without a gradient on CPUs that have AVX2 but not AVX-512, from filters kept in the order in
which packed.h reads them.

3x3 of stride 1 by F(4x4, 3x3) (Winograd; Lavin and Gray, CVPR 2016, section 4.2): 36 products make 16 results, which
are 144 products otherwise. With d the 6x6 patch under 4x4 results y and g the filter
    y = A^T ((G g G^T) * (B^T d B)) A,
where * goes over the planes, the 36 places of a patch: there it is a product of matrices, patches x C and C x O. Its
rounding is larger than that of the sums one by one: about 1e-5 of the largest result, where those have 2e-6.
1x1 of stride 1 is one product of matrices, with bias, ReLU and what it is added to in the same step.

Shapes: N images, C channels of the bottom, O outputs, P planes (36, or 1 for 1x1); panels of 16 outputs each.
"""

import math
import threading

import torch
import torch.nn.functional as F

try:
    from . import packed_cpu
except ImportError:  # not compiled
    packed_cpu = None

COLUMNS = 16  # outputs of a panel
ROWS = 6  # of a product that are computed together
SIDE = 4  # of the results that a patch makes
G = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # times 24
LEAST = 32  # channels and outputs with which it pays
_own = threading.local()  # scratch memory


def pays(x, weight, stride, pad, dilation, group):
    """Whether a convolution of this tensor by filters of the shape `weight` runs faster here: a matter of shapes and
    the processor alone."""
    kernel, (outputs, channels) = tuple(weight[2:]), weight[:2]
    plain = kernel in ((1, 1), (3, 3)) and stride == dilation == (1, 1) and group == 1
    if not plain or min(outputs, channels) < LEAST or not usable(x):
        return False
    if kernel == (3, 3):
        return _patches(len(x), *_size(x, pad)) >= 2 * ROWS
    return pad == (0, 0) and outputs % COLUMNS == 0 and len(x) * x.shape[2] * x.shape[3] >= 16 * ROWS


def usable(x):
    """Whether packed_cpu computes with such a tensor, as well as oneDNN is not to be."""
    return (
        packed_cpu is not None
        and x.device.type == 'cpu'
        and x.dtype == torch.float32
        and torch.backends.cpu.get_cpu_capability() == 'AVX2'
        and (packed_cpu.THREADED or torch.get_num_threads() == 1)
    )


class Packed:
    """The filters (O, C, 3, 3) or (O, C, 1, 1) and bias (O,) or None of a convolution, in order; relu: what it makes
    goes through ReLU. They take 4 times, or once, the memory of the filters."""

    def __init__(self, weight, bias, relu):
        self.outputs, self.relu = len(weight), relu
        missing = -len(weight) % COLUMNS
        self.bias = F.pad(weight.new_zeros(len(weight)) if bias is None else bias, (0, missing))
        planes = weight.permute(2, 3, 1, 0).flatten(0, 1)  # (k k, C, O)
        if len(planes) == 9:
            g = weight.new_tensor(G) / 24
            planes = (torch.kron(g, g) @ planes.flatten(1)).view(-1, *planes.shape[1:])
        panels = F.pad(planes, (0, missing)).unflatten(2, (-1, COLUMNS))
        self.panels = panels.transpose(1, 2).contiguous()  # (P, O / 16, C, 16)

    def __call__(self, x, pad):
        """(N, C, H, W) -> (N, O, H', W'), channels last."""
        rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        height, width = (x.shape[2], x.shape[3]) if len(self.panels) == 1 else _size(x, pad)
        y = x.new_empty(len(x), height, width, self.outputs)
        run = self._pointwise if len(self.panels) == 1 else self._winograd
        run(rows, y, pad)
        return y.permute(0, 3, 1, 2)

    def _pointwise(self, x, y, pad):
        x, y = x.flatten(0, 2), y.flatten(0, 2)
        part = _part(len(x), 96)
        packed_cpu.pointwise(*self._arrays(x, y), False, self.relu, part, *self._room(part))

    def _winograd(self, x, y, pad):
        # The filters are read once for each part, whose planes are to stay in the cache: large filters, large parts
        part = _part(_patches(*y.shape[:3]), 24 if self.panels.numel() < 2**20 else 72)
        packed_cpu.winograd(*self._arrays(x, y), *pad, self.relu, part, *self._room(part))

    def _arrays(self, x, y):
        return x.numpy(), self.panels.numpy(), self.bias.numpy(), y.numpy()

    def _room(self, part):
        """(scratch memory, threads)"""
        planes, panels, channels, _ = self.panels.shape
        threads = torch.get_num_threads()
        count = threads * packed_cpu.scratch_of(planes, channels, panels, part)
        if getattr(_own, 'room', None) is None or len(_own.room) < count:
            _own.room = torch.empty(count).numpy()
        return _own.room, threads


def _size(x, pad):
    """Of the result."""
    return tuple(x.shape[2 + i] + 2 * pad[i] - 2 for i in range(2))


def _patches(images, height, width):
    return images * math.ceil(height / SIDE) * math.ceil(width / SIDE)


def _part(count, most):
    """How many of `count` a thread takes at a time, so that all have as many parts."""
    threads = torch.get_num_threads()
    parts = math.ceil(count / most / threads) * threads
    return math.ceil(count / parts / ROWS) * ROWS
