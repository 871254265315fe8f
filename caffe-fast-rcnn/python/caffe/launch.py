"""Worlds of workers: a process per device, each with torchrun's variables, and what watches over them.

With one process everything here does nothing.
"""

import contextlib


def beat(what, iteration):
    """This rank is alive and has come to `iteration` of `what`: to be called at each minibatch or image."""


@contextlib.contextmanager
def busy(what):
    """Around long work without beats (a snapshot, statistics): the others wait for it and nobody is hung."""
    yield
