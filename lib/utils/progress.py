"""How long work shows that it goes on: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)


def progress(items, desc, total=None, every=30.0):
    """Iterate over items under a tqdm bar, or (stderr is no tty) logging a line every `every` seconds."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=desc, total=total)
        return
    total = len(items) if total is None else total
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every or done == total:
            last, rate = now, done / max(now - start, 1e-9)
            log.info('%s: %d/%d, %.2f/s, %.0f s left', desc, done, total, rate, (total - done) / rate)


def span(seconds):
    """A time as a person says it: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{minutes} min' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02d} min'
