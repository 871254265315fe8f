"""checks: values that a layer refuses.

On the CPU each is looked at where it is found. On a GPU a look waits for all the work before it, so a pass
collects them and looks once, when it ends; a solver's pass puts that off until the next one begins or weights are
saved. What was computed from a refused value until then counts for nothing.
"""

import contextlib
import contextvars

import torch

_now = contextvars.ContextVar('the Pass that runs', default=None)  # in this thread


class Pass:
    """The checks of one forward pass."""

    def __init__(self):
        self.describe = str  # adds the layer that runs now to what is wrong
        self.found = []  # (whether any is wrong, on the device; what to say then)
        self.flags = self.sent = (
            None  # the former of all of them, on the host; what tells when they have come
        )

    def send(self):
        """Begin to bring the flags to the host."""
        if self.found:
            flags = torch.stack([flag for flag, _ in self.found])
            self.flags = flags.to('cpu', non_blocking=True)
            if flags.is_cuda:
                self.sent = torch.cuda.Event()
                self.sent.record()

    def look(self):
        """ValueError for the first check that found something."""
        found, self.found = self.found, []
        if self.sent:
            self.sent.synchronize()
        for wrong, (_, message) in zip(self.flags.tolist() if found else [], found):
            if wrong:
                raise ValueError(message())


@contextlib.contextmanager
def one_look(later=False):
    """All checks within are looked at when it ends, where a look waits; later: when the Pass that it gives is told
    to look."""
    found = Pass()
    before = _now.set(found)
    try:
        yield found
        found.send()
        if not later:
            found.look()
    finally:
        _now.reset(before)


def layer_runs(describe):
    """From now on the layer runs whose name describe(text) adds to what is wrong."""
    if _now.get() is not None:
        _now.get().describe = describe


def refuse(wrong, message):
    """ValueError(message()) if any of `wrong` is true: now, or (then this is True) when the pass ends; never in a graph that
    torch.compile or torch.export makes, where values cannot be looked at."""
    if torch.compiler.is_compiling():
        return True
    found = _now.get()
    if found is not None and _waits(wrong):
        describe = found.describe
        found.found.append((wrong.any(), lambda: describe(message())))
        return True
    if wrong.any():
        raise ValueError(message())
    return False


def _waits(tensor):
    return tensor.is_cuda
