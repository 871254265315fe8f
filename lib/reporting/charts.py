"""Drawings of the page, as SVG to be put into HTML.

What the page shows and hides has an id: raw-<chart>-<n> for what is not smoothed, class-<k> for a class's curve.
"""

import io
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from reporting.run import running_mean

POINTS = 500  # of a line, at most
NOT_LOSSES = 'iteration', 'lr', 'seconds'
NUMBERS = 15  # classes up to which a confusion's cells have their numbers


def losses(name, records):
    """Each loss of a log's records, smoothed over a fiftieth of them and as it was."""
    figure, axis = _axis()
    iterations = np.array([record['iteration'] for record in records])
    keys = [key for key in records[0] if key not in NOT_LOSSES]
    top = 0
    for n, key in enumerate(keys):
        values = np.array([record.get(key, np.nan) for record in records], float)
        smooth = running_mean(values, 1 if key == 'smoothed_loss' else max(len(values) // 50, 1))
        axis.plot(*_thin(iterations, values), color=f'C{n}', alpha=0.3, linewidth=0.7, gid=f'raw-{name}-{n}')
        axis.plot(*_thin(iterations, smooth), color=f'C{n}', linewidth=1.4, label=key)
        top = max(top, np.nanmax(smooth, initial=0))
    axis.set(xlabel='iteration', ylabel='loss', ylim=(0, 1.15 * top or 1))
    axis.legend(fontsize='x-small')
    return _svg(figure, f'loss-{name}')


def line(name, x, y, xlabel, ylabel, smoothed=False, mark=''):
    """y over x; smoothed: over a fiftieth of them, what it was is drawn pale."""
    figure, axis = _axis()
    x, y = np.asarray(x), np.asarray(y, float)
    if smoothed:
        axis.plot(*_thin(x, y), color='C0', alpha=0.3, linewidth=0.7, gid=f'raw-{name}-0')
        y = running_mean(y, max(len(y) // 50, 1))
    axis.plot(*_thin(x, y), color='C0', linewidth=1.4, marker=mark)
    axis.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.1 * np.nanmax(y, initial=0) or 1))
    return _svg(figure, name)


def precisions(errors):
    """Precision over recall of {class number: Errors}, each in its colour."""
    figure, axis = _axis(3.8, 5.2)
    for n, (k, of_class) in enumerate(errors.items()):
        recall, precision = _thin(of_class.recall, of_class.precision)
        axis.plot(recall, precision, color=colour(n), linewidth=1.3, gid=f'class-{k}')
    axis.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    return _svg(figure, 'precision')


def colour(n):
    """The n-th class's: a word of CSS."""
    return matplotlib.colors.to_hex(matplotlib.colors.hsv_to_rgb([n * 0.618034 % 1, 0.85, 0.75]))


def confusion(table, names):
    """Counts (K, K) of confusion.confusion, by row as shares of it."""
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(max(3.5, 0.42 * len(names) + 1.5), 12)
    figure, axis = _axis(side, side)
    figure.set_layout_engine('constrained')  # class names are of any length
    axis.imshow(shares, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    ticks, size = np.arange(len(names)), max(3, min(9, 400 / len(names) / 4))
    axis.set_xticks(ticks, ['missed', *names[1:]], rotation=90, fontsize=size)
    axis.set_yticks(ticks, ['no object', *names[1:]], fontsize=size)
    axis.set(xlabel='detected as', ylabel='object')
    axis.grid(False)
    for row, column in np.argwhere(table) if len(names) <= NUMBERS else ():
        ink = 'white' if shares[row, column] > 0.5 else 'black'
        axis.text(column, row, str(table[row, column]), color=ink, ha='center', va='center', fontsize=8)
    return _svg(figure, 'confusion')


def sizes(sides):
    """Histogram of {name: square roots of objects' areas, in pixels}."""
    figure, axis = _axis()
    every = np.concatenate(list(sides.values()))
    bins = np.geomspace(max(every.min(initial=1), 1), max(every.max(initial=2), 2), 25)
    for name, values in sides.items():
        axis.hist(values, bins, weights=np.full(len(values), 1 / max(len(values), 1)), alpha=0.5, label=name)
    axis.set(xscale='log', xlabel="side of an object's box, pixels (root of its area)", ylabel='share')
    axis.legend(fontsize='small')
    return _svg(figure, 'sizes')


def _axis(height=2.6, width=4.2):
    """A figure of that many inches with one axis."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.75 / width, 0.45 / height, 1 - 0.1 / width, 1 - 0.1 / height)
    axis = figure.add_subplot()
    axis.grid(alpha=0.25)
    return figure, axis


def _thin(x, y):
    """Not more than POINTS of them: means of as many neighbours, the last point itself."""
    if len(x) <= POINTS:
        return x, y
    starts = np.linspace(0, len(x), POINTS, endpoint=False).astype(int)
    counts = np.diff(starts, append=len(x))
    x, y = (np.append(np.add.reduceat(values, starts) / counts, values[-1]) for values in (x, y))
    return x, y


def _svg(figure, name):
    """Its text as text; no id but those that were given and those that it refers to itself, which are the chart's own."""
    stream = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
        figure.savefig(stream, format='svg', metadata={'Date': None})
    text = stream.getvalue()
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', '', text[text.index('<svg') :])
