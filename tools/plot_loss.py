#!/usr/bin/env python3
"""Plot the losses of training runs from the JSON lines beside their snapshots."""

import argparse
import os

import _command
import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of a backend that needs no screen)
from reporting.run import last_run, running_mean  # noqa: E402


def main():
    parser = argparse.ArgumentParser(prog=_command.command(), description=__doc__)
    parser.add_argument(
        'logs', nargs='+', metavar='JSONL', help='e.g. output/faster_rcnn_alt_opt/toy_train/*_log.jsonl'
    )
    parser.add_argument('--out', default='losses.png', help='the picture to write (default losses.png)')
    args = parser.parse_args()
    plot([(os.path.basename(path), last_run(path)) for path in args.logs], args.out)
    print(f'Losses: {args.out}')


def plot(runs, out):
    """One panel a run: each loss, averaged over a fiftieth of the run, and the solver's smoothed loss."""
    figure, axes = plt.subplots(1, len(runs), figsize=(4.5 * len(runs), 3.5), squeeze=False)
    for axis, (title, records) in zip(axes[0], runs):
        iterations = [record['iteration'] for record in records]
        for name in records[0]:
            if name not in ('iteration', 'lr', 'seconds'):
                values = np.array([record[name] for record in records], float)
                window = 1 if name == 'smoothed_loss' else max(len(values) // 50, 1)
                axis.plot(iterations, running_mean(values, window), label=name, linewidth=1)
        axis.set(title=title, xlabel='iteration', ylim=(0, None))
        axis.legend()
    figure.tight_layout()
    temporary = f'{out}.tmp'
    figure.savefig(temporary, format=os.path.splitext(out)[1].lstrip('.') or 'png')
    plt.close(figure)
    os.replace(temporary, out)


if __name__ == '__main__':
    _command.run(main)
