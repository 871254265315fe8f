"""kernels: what runs on CUDA devices by code of our own, in the .cu files beside this one.

The Makefile compiles them with nvcc, where there is one, into a library of plain C functions, which take the
addresses of tensors and queue their work on torch's current stream. Where it is not built, or a tensor is not
float32, the callers use their torch versions, which the tests hold these against.
"""

import ctypes
import functools
import logging
import os

import torch

log = logging.getLogger('caffe')
PATH = os.path.join(os.path.dirname(__file__), 'kernels.so')
DEVICE = 'cuda'  # the type of the devices whose tensors the library takes
MASK_BYTES = 1 << 26  # that nms may take for what boxes drop, a strip of them at a time


@functools.cache
def compiled():
    """The compiled kernels; None where they have not been built."""
    return load(PATH) if os.path.exists(PATH) else None


def load(path):
    loaded = ctypes.CDLL(path)
    loaded.error_text.restype = ctypes.c_char_p
    return loaded


@functools.cache
def run_on(device):
    """Whether the kernels were compiled for this device; where they were not the log says so, once."""
    with _current(device):
        error = compiled().can_run(ctypes.c_int64(device.index or 0))
    if error:
        text = compiled().error_text(error).decode()
        log.warning('the compiled kernels are not for %s (%s): torch does their work', device, text)
    return not error


def serve(*tensors, dtypes=(torch.float32,)):
    """Whether the kernels take tensors of these types where these lie."""
    first = tensors[0]
    alike = all(t.device == first.device and t.dtype == first.dtype for t in tensors)
    if first.device.type != DEVICE or first.dtype not in dtypes or not alike or compiled() is None:
        return False
    return run_on(first.device)


def call(name, *values):
    """Queue kernel `name` on the current stream of the tensors' device: contiguous tensors and None as addresses, whole
    numbers and floats as they are. RuntimeError where it cannot start."""
    device = next(v.device for v in values if torch.is_tensor(v))
    stream = None
    with _current(device):
        if device.type == 'cuda':
            stream = torch.cuda.current_stream(device).cuda_stream
        arguments = [_argument(v) for v in (*values, device.index or 0)]
        error = getattr(compiled(), name)(*arguments, ctypes.c_void_p(stream))
    if error:
        text = compiled().error_text(error).decode()
        raise RuntimeError(f'the CUDA kernel {name} did not start on {device}: {text} (error {error})')


def _current(device):
    """Makes a GPU torch's current one for a while: kernels start on the current device, and leave it as it is."""
    return torch.cuda.device(device if device.type == 'cuda' else -1)


def _argument(value):
    if torch.is_tensor(value):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_double(value) if isinstance(value, float) else value


def overlaps(a, b, offset):
    """As types.boxes.overlaps, of float32 or float64."""
    top = a.new_empty(len(a), len(b))
    kind = 'float' if a.dtype == torch.float32 else 'double'
    call(f'overlaps_{kind}', a.contiguous(), b.contiguous(), len(a), len(b), float(offset), top)
    return top


def nms(boxes, threshold, offset, limit):
    """As types.boxes.nms; nothing is waited for but the number of boxes kept."""
    count, words = len(boxes), -(-len(boxes) // 64)
    if not count:
        return boxes.new_empty(0, dtype=torch.int64)
    strip = min(64 * max(1, min(64, MASK_BYTES // (words * 8 * 64))), 64 * words)
    taken, mask = (boxes.new_empty(size, dtype=torch.int64) for size in (count, strip * words))
    gone, number = (boxes.new_zeros(size, dtype=torch.int64) for size in (words, 1))
    numbers = count, float(threshold), float(offset), count if limit is None else limit
    call('nms', boxes.contiguous(), *numbers, gone, mask, strip, taken, number)
    return taken[: int(number)]


def class_nms(boxes, starts, threshold, offset):
    """As types.boxes.class_nms."""
    gone = torch.zeros(len(boxes), dtype=torch.uint8, device=boxes.device)
    bounds = torch.tensor(starts, dtype=torch.int64, device=boxes.device)
    call('class_nms', boxes.contiguous(), bounds, len(starts) - 1, float(threshold), float(offset), gone)
    return (gone == 0).nonzero()[:, 0]


class Regions(torch.autograd.Function):
    """x (N, C, H, W), image (R,) int64, boxes (R, 4) to (R, tops, p, q) by the kernel `name` of regions.cu. No gradient
    to image and boxes. The gradient of x is the same each time, whatever the order in which its terms are added;
    where one of the top's is not finite all of it is not a number."""

    @staticmethod
    def forward(ctx, x, image, boxes, name, scale, tops, p, q, samples=0, aligned=0):
        top = x.new_empty(len(boxes), tops, p, q)
        where = x.new_empty(top.shape, dtype=torch.int32) if name == 'roi_pooling' else None
        size = (ctypes.c_int64 * 9)(len(boxes), x.shape[1], tops, *x.shape[2:], p, q, samples, aligned)
        ctx.regions = image.contiguous(), boxes.contiguous(), float(scale), size
        ctx.name, ctx.where, ctx.shape = name, where, x.shape
        call(f'{name}_forward', x.contiguous(), *ctx.regions, top, where)
        return top

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        bottom = grad.new_zeros(ctx.shape)
        if grad.numel():
            total = torch.zeros(ctx.shape, dtype=torch.int64, device=grad.device)
            most = grad.abs().amax()
            sums = total, bottom, bottom.numel()
            call(f'{ctx.name}_backward', grad.contiguous(), most, *ctx.regions, ctx.where, *sums)
        return bottom, *[None] * 9


class Moved(torch.autograd.Function):
    """x (N, C, H, W), offset (N, groups 2 k, h, w), mask (N, groups k, h, w) or None, and the numbers of deform.cu's Moves
    from h on, to columns (N, C k, h, w), as types.deformable.moved_columns. Gradients as those of Regions."""

    @staticmethod
    def forward(ctx, x, offset, mask, *numbers):
        x, offset, mask = (None if t is None else t.contiguous() for t in (x, offset, mask))
        h, w, kernel_h, kernel_w = numbers[:4]
        top = x.new_empty(len(x), x.shape[1] * kernel_h * kernel_w, h, w)
        ctx.size = (ctypes.c_int64 * 15)(*x.shape, *numbers)
        ctx.save_for_backward(x, offset, mask)
        call('moved_forward', x, offset, mask, ctx.size, top)
        return top

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, offset, mask = ctx.saved_tensors
        bottom, moves = torch.empty_like(x), torch.empty_like(offset)
        masks = None if mask is None else torch.empty_like(mask)
        total = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
        most = grad.abs().amax() * (1 if mask is None else mask.abs().amax())
        call(
            'moved_backward', grad.contiguous(), most, x, offset, mask, ctx.size, total, bottom, moves, masks
        )
        return bottom, moves, masks, *[None] * 11


class Shifted(torch.autograd.Function):
    """x (N, C, H, W), image (R,) int64, boxes (R, 4), shifts (R, 2 classes, part, part) or None to (R, tops, p, p), as
    types.deformable.deformable_psroi_pooling. No gradient to image and boxes; the others' as those of Regions."""

    @staticmethod
    def forward(ctx, x, image, boxes, shifts, scale, std, tops, group, p, part, samples, classes):
        x, boxes, shifts = (None if t is None else t.contiguous() for t in (x, boxes, shifts))
        top = x.new_empty(len(boxes), tops, p, p)
        ctx.size = (ctypes.c_int64 * 10)(len(boxes), *x.shape[1:], tops, group, p, part, samples, classes)
        ctx.numbers = float(scale), float(std)
        tensors = x, image.contiguous(), boxes, shifts
        ctx.save_for_backward(*tensors)
        call('shifted_forward', *tensors, *ctx.numbers, ctx.size, top)
        return top

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, image, boxes, shifts = ctx.saved_tensors
        bottom = torch.empty_like(x)
        moves = None if shifts is None else torch.empty_like(shifts)
        total = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
        regions = x, image, boxes, shifts, *ctx.numbers, ctx.size
        call(
            'shifted_backward',
            grad.contiguous(),
            grad.abs().amax(),
            *regions,
            total,
            bottom,
            bottom.numel(),
            moves,
        )
        return bottom, None, None, moves, *[None] * 8
