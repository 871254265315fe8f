"""plot_training_log CHART OUT.png LOG...: a curve for each log of a training.

CHART: 0 test accuracy over iterations, 1 over seconds; 2 test loss, 3; 4 learning rate of training, 5; 6 training loss, 7.
Accuracy is also mean average precision: each output whose name has no `loss` in it.
"""

import argparse
import os
import sys

import matplotlib

from .format.files import atomic_write
from .parse_log import parse_log

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of a backend that needs no screen)

KINDS = 'Test accuracy', 'Test loss', 'Train learning rate', 'Train loss'
AXES = {'NumIters': 'Iters', 'Seconds': 'Seconds'}
CHARTS = [(kind, axis) for kind in KINDS for axis in AXES]


def curves(chart, log):
    """[(name, xs, ys)] of a chart's number and a log."""
    kind, axis = CHARTS[chart]
    train, test = parse_log(log)
    rows = train if kind.startswith('Train') else test
    names = list(dict.fromkeys(n for row in rows for n in row if n not in (*AXES, 'LearningRate')))
    wanted = {
        'Test accuracy': [n for n in names if 'loss' not in n.lower()],
        'Train learning rate': ['LearningRate'],
    }.get(kind, [n for n in names if 'loss' in n.lower()])
    found = [(n, *zip(*((row[axis], row[n]) for row in rows if n in row))) for n in wanted if rows]
    if not found:
        raise ValueError(f'{log} has no {kind.lower()}')
    return found


def plot_chart(chart_type, path_to_png, path_to_log_list):
    """Draw the chart of that number."""
    kind, axis = CHARTS[chart_type]
    figure, axes = plt.subplots()
    for log in path_to_log_list:
        for name, xs, ys in curves(chart_type, log):
            axes.plot(xs, ys, label=f'{os.path.basename(log)}: {name}', linewidth=0.75, marker='.')
    axes.set(title=f'{kind} vs. {AXES[axis]}', xlabel=AXES[axis], ylabel=kind)
    axes.legend()
    with atomic_write(path_to_png) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(prog='plot_training_log', description=__doc__)
    parser.add_argument('chart', type=int, choices=range(len(CHARTS)))
    parser.add_argument('out')
    parser.add_argument('logs', nargs='+')
    args = parser.parse_args(argv)
    try:
        plot_chart(args.chart, args.out, args.logs)
    except (OSError, ValueError) as error:
        sys.exit(f'plot_training_log: {error}')


if __name__ == '__main__':
    main()
