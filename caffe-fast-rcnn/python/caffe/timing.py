"""timing: where the time of a net's passes goes.

unit  what runs as one: a layer, or a chain, which is a head and the layers that its result absorbs
row   what is known of a unit; of several alike it is the sum
"""

import contextlib
import dataclasses
import math
import time

import torch

from . import common
from .limits import flops


@dataclasses.dataclass
class Row:
    names: list  # of the layers that run as one, which bears the name of the first
    kind: str  # their types
    ms: dict  # 'forward' and 'backward' -> milliseconds of a pass
    flops: dict  # likewise, operations
    least: float  # milliseconds of both passes at the machine's limits
    count: int = 1

    def rate(self, way):
        """GFLOP/s of a pass, 0 where there is nothing to multiply."""
        return self.flops[way] / self.ms[way] / 1e6 if self.ms[way] else 0.0

    @property
    def total(self):
        return sum(self.ms.values())


def time_net(net, iterations, limits):
    """(rows of the units in the net's order, {'forward': ms, 'backward': ms} of a whole pass): means over so many
    forward and backward passes, after one that does not count. limits: those of the machine (limits.limits)."""
    units = _units(net)
    spans, whole = {}, {'forward': [], 'backward': []}
    net.run_forward()
    net.run_backward()
    with contextlib.ExitStack() as stack:
        for first, (unit, _) in units.items():
            for way, method in (('forward', 'forward_in_net'), ('backward', 'backward')):
                stack.enter_context(_watched(unit, method, spans.setdefault((first, way), [])))
        for _ in range(iterations):
            net.clear_param_diffs()
            for way, run in (('forward', net.run_forward), ('backward', net.run_backward)):
                begin = _now()
                run()
                whole[way].append((begin, _now()))
    if common.device().type == 'cuda':
        torch.cuda.synchronize()

    def mean(found):
        return sum(_between(*span) for span in found) / iterations

    rows = []
    for first, (unit, layers) in units.items():
        ms = {way: mean(spans[first, way]) for way in whole}
        rows.append(_row(net._nodes[first], unit, layers, ms, limits))
    return rows, {way: mean(found) for way, found in whole.items()}


def _units(net):
    """{index of its first layer: (the layer or Chain that runs, its layers)}."""
    found, i = {}, 0
    while i < len(net._nodes):
        chain = net._runner.chains.get(i)
        layer = net._nodes[i].layer
        found[i] = (chain, chain.layers) if chain else (layer, [layer])
        i += len(found[i][1])
    return found


@contextlib.contextmanager
def _watched(unit, method, spans):
    """Within, each call of the unit's method adds its (begin, end) to spans."""
    work = getattr(unit, method)

    def timed(*arguments):
        begin = _now()
        work(*arguments)
        spans.append((begin, _now()))

    setattr(unit, method, timed)
    try:
        yield
    finally:
        delattr(unit, method)


def _now():
    """A moment: on a GPU that at which it gets to here, for which nobody waits."""
    if common.device().type == 'cpu':
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin, end):
    """Milliseconds from one moment to another; a GPU must have got there."""
    return 1000 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)


def _row(node, unit, layers, ms, limits):
    """At its limits the machine takes as long as the products do, or as its memory takes to read and write all
    numbers once, whichever is longer; no time where nothing is computed from bottoms (Input)."""
    bottoms = node.propagate_down
    weights = [blob for layer in layers for blob in layer.blobs]
    learned = [p for layer in layers for p in layer.param_propagate_down]
    count = flops(unit, node.bottoms, node.tops)
    most = max(limits['conv'], limits['matmul'])
    taken = (any(bottoms) + any(learned[:1])) * node.need_backward
    forward = sum(map(_size, [*node.bottoms, *node.tops, *weights])) if node.bottoms else 0
    diffs = [b for b, p in zip(node.bottoms, bottoms) if p] + [b for b, p in zip(weights, learned) if p]
    backward = (forward + sum(map(_size, diffs))) * node.need_backward
    return Row(
        names=[layer.name for layer in layers],
        kind=' + '.join(layer.type for layer in layers),
        ms=ms,
        flops={'forward': count, 'backward': count * taken},
        least=(
            max(count / most, forward / limits['copy']) + max(count * taken / most, backward / limits['copy'])
        )
        / 1e6,
    )


def _size(blob):
    """Bytes of its values, and as good as those of its diff."""
    return blob.count * blob.held.element_size()


def by_kind(rows):
    """The sums of the rows of one kind, the longest first."""
    sums = {}
    for row in rows:
        other = sums.get(row.kind)
        sums[row.kind] = dataclasses.replace(row, names=[]) if other is None else _sum(other, row)
    return sorted(sums.values(), key=lambda row: -row.total)


def _sum(a, b):
    return dataclasses.replace(
        a,
        ms={way: a.ms[way] + b.ms[way] for way in a.ms},
        flops={way: a.flops[way] + b.flops[way] for way in a.ms},
        least=a.least + b.least,
        count=a.count + b.count,
    )


def table(rows):
    """The rows as text, with their sum: milliseconds and GFLOP/s forward and backward; limit, the share of the time
    that the machine's limits would allow; share, that of all the rows."""
    whole = sum(row.total for row in rows) or math.inf
    every = rows[0]
    for row in rows[1:]:
        every = _sum(every, row)
    every = dataclasses.replace(every, names=['total'], kind='')
    lines = [('layer', 'runs as one', 'forward', 'backward', 'GFLOP/s', 'backward', 'limit', 'share')]
    for row in [*rows, every]:
        kind = row.kind if row.names else f'{row.count} x {row.kind}'
        figures = [f'{row.ms[way]:.3f}' for way in row.ms]
        figures += [f'{row.rate(way):.0f}' if row.flops[way] else '' for way in row.ms]
        limit = f'{row.least / row.total:.0%}' if row.least and row.total else ''
        name = row.names[0] if row.names else ''
        lines.append((name, kind, *figures, limit, f'{row.total / whole:.1%}'))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join(
        '  '.join(text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths)))
        for line in lines
    )
