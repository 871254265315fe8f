"""Charts of the page, bokeh's: figures as wide as the page lets them, with values under the pointer.

The page finds what it changes by tags: smooth, of a source whose column `smooth` is the running mean of its `raw`; raw, of the pale
lines behind; class-<k>, of what is of a class.
"""

import colorsys

import numpy as np
from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    HoverTool,
    Legend,
    LegendItem,
    LinearColorMapper,
)
from bokeh.palettes import Blues256, Category10_10
from bokeh.plotting import figure

from reporting.run import running_mean

POINTS = 500  # of a line, at most
SMOOTHED = 0.02  # the share of a line's points that a mean is taken of, until somebody asks for another
NOT_LOSSES = 'iteration', 'lr', 'seconds'
NUMBERS = 15  # classes up to which a confusion's cells have their numbers
PALE = 0.3


def losses(records):
    """Each loss of a log's records."""
    chart = _figure('iteration', 'loss', 310)
    iterations = np.array([record['iteration'] for record in records])
    keys = [key for key in records[0] if key not in NOT_LOSSES]
    lines = {}
    for n, key in enumerate(keys):
        values = np.array([record.get(key, np.nan) for record in records], float)
        lines[key] = _smoothed(chart, iterations, values, Category10_10[n % 10], key)
    _limit(chart, [smooth for _, smooth in lines.values()])
    _legend(chart, lines)
    return chart


def line(x, y, xlabel, ylabel, smoothed=False):
    """y over x; smoothed: over a share of them, what it was is drawn pale."""
    chart = _figure(xlabel, ylabel)
    x, y = np.asarray(x), np.asarray(y, float)
    if smoothed:
        shown = _smoothed(chart, x, y, Category10_10[0], ylabel)[1]
    else:
        x, y = _thin(x, y)
        shown = chart.line('x', 'smooth', source=_source(x=x, smooth=y), line_width=2)
        _hover(chart, [shown], (xlabel, '@x{0}'), (ylabel, '@smooth{0.0000[00]}'))
    _limit(chart, [shown])
    return chart


def over_time(rows):
    """Mean AP over iterations of {what was tested: [(iteration, mean AP)]}."""
    chart = _figure('iteration', 'mean AP')
    lines = {}
    for n, (name, points) in enumerate(rows.items()):
        x, y = zip(*sorted(points))
        source, colour = _source(x=np.array(x), y=np.array(y, float)), Category10_10[n % 10]
        marks = chart.scatter('x', 'y', source=source, size=8, color=colour)
        lines[name] = marks, chart.line('x', 'y', source=source, line_width=2, color=colour)
        _hover(chart, [marks], (name, '@y{0.0000}'), ('iteration', '@x{0}'))
    chart.y_range.start, chart.y_range.end = 0, 1.02
    _legend(chart, lines)
    return chart


def precisions(errors, names):
    """Precision over recall of {class number: Errors}, each in its colour."""
    chart = _figure('recall', 'precision', 380)
    for n, (k, of_class) in enumerate(errors.items()):
        recall, precision = _thin(of_class.recall, of_class.precision)
        curve = chart.line(
            'x', 'y', source=_source(x=recall, y=precision), color=colour(n), line_width=2, name=names[k]
        )
        curve.tags = [f'class-{k}']
        _hover(chart, [curve], ('class', '$name'), ('recall', '@x{0.000}'), ('precision', '@y{0.000}'))
    chart.x_range.start, chart.x_range.end, chart.y_range.start, chart.y_range.end = 0, 1, 0, 1.02
    return chart


def colour(n):
    """The n-th class's: a word of CSS."""
    return '#' + ''.join(
        f'{round(255 * part):02x}' for part in colorsys.hsv_to_rgb(n * 0.618034 % 1, 0.85, 0.75)
    )


def confusion(table, names):
    """Counts (K, K) of confusion.confusion, by row as shares of it."""
    rows, columns = np.nonzero(table)
    counts = table[rows, columns]
    shares = counts / table.sum(1)[rows]
    sides = {0: 'nothing'} | dict(enumerate(names[1:], 1))
    cells = _source(
        x=columns,
        y=rows,
        share=shares,
        count=counts.astype(int),
        text=[str(count) for count in counts],
        ink=['white' if share > 0.5 else 'black' for share in shares],
        object=[sides[row] for row in rows],
        found=[sides[column] for column in columns],
    )
    chart = _figure('detected as', 'object', min(150 + 40 * len(names), 900))
    chart.max_width, chart.grid.visible = 250 + 60 * len(names), False
    blues = LinearColorMapper(palette=Blues256[::-1], low=0, high=1)
    shown = chart.rect(
        'x', 'y', 1, 1, source=cells, fill_color={'field': 'share', 'transform': blues}, line_color='#dddddd'
    )
    if len(names) <= NUMBERS:
        chart.text(
            'x', 'y', 'text', source=cells, text_color='ink', text_align='center', text_baseline='middle'
        )
    said = ('object', '@object'), ('detected as', '@found'), ('times', '@count'), ('of these', '@share{0.0%}')
    _hover(chart, [shown], *said)
    _classes(chart.xaxis, ['missed', *names[1:]])
    _classes(chart.yaxis, ['no object', *names[1:]])
    chart.xaxis.major_label_orientation = 'vertical'
    chart.x_range.start, chart.x_range.end = -0.5, len(names) - 0.5
    chart.y_range.start, chart.y_range.end = len(names) - 0.5, -0.5
    return chart


def kinds(shares):
    """What the best detections of each class are: {class: {kind: share}}, stacked, the first class above."""
    names, rows = list(shares), np.arange(len(shares))
    chart = _figure('share of the best detections', '', 110 + 26 * len(names))
    lefts, lines = np.zeros(len(names)), {}
    for n, kind in enumerate(next(iter(shares.values()))):
        rights = lefts + [of_class[kind] for of_class in shares.values()]
        bars = _source(y=rows, left=lefts, right=rights, share=rights - lefts, name=names)
        ink = ('#5aa469', '#f2b134', '#d95f5f', '#8c6bb1')[n % 4]
        lines[kind] = (chart.hbar('y', 0.8, left='left', right='right', source=bars, color=ink, name=kind),)
        _hover(chart, lines[kind], ('class', '@name'), ('$name', '@share{0.0%}'))
        lefts = rights
    _classes(chart.yaxis, names)
    chart.x_range.start, chart.x_range.end = 0, 1
    chart.y_range.start, chart.y_range.end = len(names) - 0.5, -0.5
    _legend(chart, lines)
    return chart


def histogram(values, label, least, most):
    """Shares of {name: values}, on a logarithmic axis that reaches from least to most at the least."""
    chart = _figure(label, 'share', x_axis_type='log')
    every = np.concatenate([[least, most], *values.values()])
    edges, lines = np.geomspace(max(every.min(), 1e-3), every.max(), 31), {}
    for n, (name, of_set) in enumerate(values.items()):
        shares = np.histogram(of_set, edges)[0] / max(len(of_set), 1)
        bars = _source(left=edges[:-1], right=edges[1:], top=shares)
        ink = Category10_10[n % 10]
        lines[name] = (chart.quad('left', 'right', 'top', 0, source=bars, alpha=0.45, color=ink),)
        _hover(chart, lines[name], (label, '@left{0.[00]} to @right{0.[00]}'), (name, '@top{0.0%}'))
    chart.y_range.start = 0
    chart.xaxis.ticker, chart.xaxis.formatter = [2.0**n for n in range(-4, 14)], BasicTickFormatter()
    _legend(chart, lines)
    return chart


def _figure(xlabel, ylabel, height=270, **more):
    chart = figure(
        sizing_mode='stretch_width',
        height=height,
        x_axis_label=xlabel,
        y_axis_label=ylabel,
        tools='pan,box_zoom,reset,save',
        active_drag=None,  # a finger scrolls the page
        toolbar_location='above',
        **more,
    )
    chart.toolbar.logo = None
    chart.axis.minor_tick_line_color = None
    chart.axis.axis_label_text_font_style = 'normal'
    return chart


def _source(**columns):
    """Of numbers in as few bytes as do."""
    small = {'f': np.float32, 'i': np.int32}
    columns = {
        name: values.astype(small[values.dtype.kind]) if isinstance(values, np.ndarray) else values
        for name, values in columns.items()
    }
    return ColumnDataSource(columns)


def _smoothed(chart, x, values, colour, label):
    """Draws values as they are, pale, and smoothed -> both lines."""
    x, values = _thin(x, values)
    smooth = running_mean(values, max(round(SMOOTHED * len(values)), 1))
    source = _source(x=x, raw=values, smooth=smooth)
    source.tags = ['smooth']
    pale = chart.line('x', 'raw', source=source, color=colour, line_width=1, line_alpha=PALE)
    pale.tags = ['raw']
    shown = chart.line('x', 'smooth', source=source, color=colour, line_width=2)
    _hover(chart, [shown], ('iteration', '@x{0}'), (label, '@smooth{0.0000}'))
    return pale, shown


def _limit(chart, lines):
    """The axis from 0 to somewhat above the lines: what is behind them may reach farther."""
    tops = [np.nanmax(shown.data_source.data['smooth'], initial=0) for shown in lines]
    chart.y_range.start, chart.y_range.end = 0, 1.15 * float(max(tops, default=0)) or 1


def _legend(chart, lines):
    """{name: lines}, below: a click hides them."""
    items = [LegendItem(label=name, renderers=list(shown)) for name, shown in lines.items()]
    legend = Legend(
        items=items, orientation='horizontal', click_policy='hide', ncols=3, location='center_left'
    )
    legend.padding, legend.margin, legend.border_line_color, legend.label_text_font_size = 0, 4, None, '11px'
    chart.add_layout(legend, 'below')


def _hover(chart, shown, *said):
    chart.add_tools(HoverTool(renderers=list(shown), tooltips=list(said), visible=False))


def _classes(axis, names):
    """Names in place of 0, 1, 2 ..."""
    axis.ticker = list(range(len(names)))
    axis.major_label_overrides = dict(enumerate(names))
    if len(names) > 40:
        axis.major_label_text_font_size = '8px'


def _thin(x, y):
    """Not more than POINTS of them: means of as many neighbours, the last point itself."""
    if len(x) <= POINTS:
        return x, y
    starts = np.linspace(0, len(x), POINTS, endpoint=False).astype(int)
    counts = np.diff(starts, append=len(x))
    x, y = (np.append(np.add.reduceat(values, starts) / counts, values[-1]) for values in (x, y))
    return x, y
