"""Engine-wide state: phase names, mode and device, random seed, solver count and rank, the log."""

import enum
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
    solver_count = 1
    solver_rank = 0
    multiprocess = False


def set_mode_cpu():
    _State.gpu = False


def set_mode_gpu():
    """From now on nets compute on the CUDA device, in full float32 as Caffe did: cuDNN's TF32 is switched off (a
    program may switch it on again afterwards, for speed). RuntimeError when torch sees no such device."""
    _require_cuda(_State.device_id)
    torch.backends.cudnn.allow_tf32 = False
    _State.gpu = True


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
    return torch.device('cuda', _State.device_id) if _State.gpu else torch.device('cpu')


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
