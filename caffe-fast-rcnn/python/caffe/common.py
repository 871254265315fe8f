"""Engine-wide state: phase names, mode and device, precision, random seed, solver count and rank, the log."""

import contextlib
import enum
import functools
import logging
import os
import random
import sys
import time

import torch


class Phase(enum.IntEnum):
    """TRAIN or TEST: equals 0 or 1, prints as its name."""

    TRAIN = 0
    TEST = 1

    def __str__(self):
        return self.name

    def __format__(self, spec):
        return format(self.name if spec in ('', 's') else int(self), spec)


TRAIN, TEST = Phase.TRAIN, Phase.TEST
logger = logging.getLogger('caffe')


class _State:
    gpu = False
    device_id = 0
    precision = 'float32'
    tf32 = False
    loss_scale = 1.0
    solver_count = 1
    solver_rank = 0
    multiprocess = False


def set_mode_cpu():
    _State.gpu = False


def set_mode_gpu():
    """From now on nets compute on the CUDA device, in full float32 as Caffe did (but see set_tf32 and set_precision).
    RuntimeError when torch sees no such device."""
    _require_cuda(_State.device_id)
    _State.gpu = True
    set_tf32(_State.tf32)


def set_device(device_id):
    """Choose the CUDA device by its number; the mode stays what it is. RuntimeError when there is no such
    device."""
    _require_cuda(int(device_id))
    _State.device_id = int(device_id)
    torch.cuda.set_device(_State.device_id)


def _require_cuda(device_id):
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not 0 <= device_id < count:
        raise RuntimeError(
            f'GPU {device_id} was asked for, but torch {torch.__version__} sees '
            f'{count} CUDA device{"s" * (count != 1)}; compute on the CPU: caffe.set_mode_cpu(), '
            '--gpu cpu, or in a recipe cpu in place of the number'
        )


def device():
    """The torch.device that nets compute on."""
    return _device(_State.device_id) if _State.gpu else _CPU


_CPU = torch.device('cpu')
_device = functools.cache(functools.partial(torch.device, 'cuda'))


HALVES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
PRECISIONS = ('float32', *HALVES)


def set_precision(name):
    """What nets compute in from now on: 'float32', or 'bf16' or 'fp16', 16 bits of which 8 or 11 hold the number's
    digits. tape.py says which layers then do; weights, their updates, losses and whatever numpy shows stay float32.
    ValueError for another word."""
    if name not in PRECISIONS:
        raise ValueError(f'precision {name!r} is not known; wanted is {", ".join(PRECISIONS)}')
    if name != _State.precision:
        how = (
            ''
            if name == 'float32' or multiplies(HALVES[name])
            else ', by float32: it cannot multiply these itself'
        )
        logger.info('Computing in %s on %s%s', name, device(), how)
    _State.precision = name


def precision():
    return _State.precision


def half():
    """The torch type of 16 bits that layers compute in; None: float32."""
    return HALVES.get(_State.precision)


def multiplies(dtype):
    """Whether the device multiplies numbers of this type by itself. Where it does not, layers compute in float32 and
    round what they make."""
    return _multiplies(dtype, device().type)


@functools.cache
def _multiplies(dtype, kind):
    if kind == 'cuda':
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    known = getattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    mimicked = torch.backends.cpu.get_cpu_capability() == 'AVX512' and not known()  # as slowly as float32
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and not mimicked


def set_tf32(on):
    """Whether CUDA devices may round the factors of float32 convolutions and matrix products to 11 bits (TF32), which
    is several times as fast. Off at first, whatever torch's own default is."""
    _State.tf32 = bool(on)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = _State.tf32


def loss_scale():
    """What gradients of 16 bits are multiplied by, so that small ones are not lost: see loss_scale.LossScale."""
    return _State.loss_scale


@contextlib.contextmanager
def scaled(factor):
    """Within, gradients of fp16 are held `factor` times as large."""
    before, _State.loss_scale = _State.loss_scale, factor
    try:
        yield
    finally:
        _State.loss_scale = before


def set_random_seed(seed):
    """Seed what the engine draws from: torch's generators (all devices) and Python's `random`. Numpy's
    stays untouched."""
    torch.manual_seed(int(seed))
    random.seed(int(seed))


def solver_count():
    return _State.solver_count


def set_solver_count(count):
    _State.solver_count = int(count)


def solver_rank():
    return _State.solver_rank


def set_solver_rank(rank):
    _State.solver_rank = int(rank)


def is_multiprocess():
    return _State.multiprocess


def set_multiprocess(on):
    _State.multiprocess = bool(on)


class _StderrHandler(logging.StreamHandler):
    """Writes in glog's manner to stderr, unless the program has set up logging itself."""

    def __init__(self):
        super().__init__(sys.stderr)
        self.setFormatter(
            logging.Formatter(
                '%(levelname).1s%(asctime)s %(process)d %(filename)s:%(lineno)d] %(message)s', '%m%d %H:%M:%S'
            )
        )

    def emit(self, record):
        if not logging.root.handlers:
            self.stream = sys.stderr
            super().emit(record)


def _glog_level():
    text = os.environ.get('GLOG_minloglevel', '').strip() or '0'
    names = ['INFO', 'WARNING', 'ERROR', 'FATAL']
    if text.upper() in names:
        return names.index(text.upper())
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f'the environment variable GLOG_minloglevel is {text!r}, wanted is 0 to 3 or one of {names}'
        ) from None


def init_log(level=None):
    """Start the log; `level` as in glog (0 info, 1 warning, 2 error, 3 fatal), by default GLOG_minloglevel,
    where the names do as well. ValueError for another word there."""
    level = _glog_level() if level is None else int(level)
    logger.setLevel([logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL][max(0, min(level, 3))])
    if not logger.handlers:
        logger.addHandler(_StderrHandler())


def log(message):
    logger.info(message)


class Timer:
    """A stopwatch: start(), stop(), then `ms`. On the GPU it waits for the work given so far."""

    def __init__(self):
        self.ms = 0.0

    def start(self):
        self._begin = self._now()

    def stop(self):
        self.ms = 1000 * (self._now() - self._begin)

    @staticmethod
    def _now():
        if _State.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()
