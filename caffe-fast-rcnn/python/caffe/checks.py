"""checks: values that a layer refuses.

On the CPU each is looked at where it is found. On a GPU a look waits for all the work before it, so a pass
collects them and looks once, when it ends; what it computed from a refused value until then counts for nothing.
"""

import contextlib

import torch

_pass = None  # the Pass that runs now


class Pass:
    def __init__(self):
        self.describe = str  # adds the layer that runs now to what is wrong
        self.found = []  # (whether any is wrong, on the device; what to say then)

    def look(self):
        """ValueError for the first check that found something."""
        if self.found:
            flags, messages = zip(*self.found)
            for wrong, message in zip(torch.stack(flags).tolist(), messages):
                if wrong:
                    raise ValueError(message())


@contextlib.contextmanager
def one_look():
    """All checks within are looked at when it ends, where a look waits."""
    global _pass
    before, _pass = _pass, Pass()
    try:
        yield
        _pass.look()
    finally:
        _pass = before


def layer_runs(describe):
    """From now on the layer runs whose name describe(text) adds to what is wrong."""
    if _pass is not None:
        _pass.describe = describe


def refuse(wrong, message):
    """ValueError(message()) if any of `wrong` is true: now, or (then this is True) when the pass ends."""
    later = _pass is not None and _waits(wrong)
    if later:
        describe = _pass.describe
        _pass.found.append((wrong.any(), lambda: describe(message())))
    elif wrong.any():
        raise ValueError(message())
    return later


def _waits(tensor):
    return tensor.is_cuda
