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
