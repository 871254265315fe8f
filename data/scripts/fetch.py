#!/usr/bin/env python3
"""Say where a dataset or weights come from, and check what lies here.

    data/scripts/fetch.py                    all of them
    data/scripts/fetch.py voc_2007 bccd      some

Nothing is downloaded, and no package is needed: any Python will do. tools/fetch.py knows the same names, and downloads what a
program can. Exit status 1 if something is missing or is not what it should be.
"""

import os
import sys

DATA = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(DATA), 'lib'))

from public import check  # noqa: E402

if __name__ == '__main__':
    try:
        status = check.main(DATA)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
