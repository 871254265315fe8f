"""What was measured, as a table, JSON and a plot.

A result: {'row', 'images', 'flops', 'contenders': {who: the fields of measure.Times}}. A report: {'machine': {...},
'rows': [results]}.
"""

import json
import os
import platform

import caffe.limits
import matplotlib
import torch
from caffe import common

from utils.files import atomic_path

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of a backend that needs no screen)

HEAD = f'{"row":27} {"who":18} {"median":>10} {"ours is":>8} {"images/s":>9} {"GFLOP/s":>8} {"of limit":>8} {"memory":>8}'


def machine():
    """What all is measured on, with the device's limits in each precision that it multiplies."""
    device = common.device()
    precisions = ['float32'] + ['bf16'] * common.multiplies(torch.bfloat16)
    limits = {precision: caffe.limits.limits(precision) for precision in precisions}
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else _processor()
    return {'device': name, 'threads': torch.get_num_threads(), 'torch': torch.__version__, 'limits': limits}


def _processor():
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as stream:
            names = [line.split(':')[1].strip() for line in stream if line.startswith('model name')]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def title(about):
    found = [f'{about["device"]}, {about["threads"]} threads, torch {about["torch"]}']
    for precision, limits in about['limits'].items():
        values = ', '.join(f'{name} {value:.0f}' for name, value in limits.items())
        found.append(f"the machine's limit in {precision} (GFLOP/s; copy: GB/s): {values}")
    found.append(f'medians of {about["rounds"]} calls, of fewer where a row takes {about["seconds"]:g} s')
    return '\n'.join(found)


def lines(result, limits):
    """The table's lines of one row. `ours is`: our time over theirs."""
    found, ours = [], result['contenders'].get('ours')
    for i, (who, times) in enumerate(result['contenders'].items()):
        start = f'{result["row"] if i == 0 else "":27} {who:18} '
        if times.left_out:
            found.append(f'{start}left out: {times.left_out}')
            continue
        rate = result['flops'] / times.median / 1e9
        most = limits.get('bf16' if 'bf16' in who else 'float32', {}).get('conv')
        columns = [
            f'{_seconds(times.median):>10}',
            f'{ours.median / times.median:8.2f}' if ours and ours is not times else f'{"":8}',
            f'{result["images"] / times.median:9.2f}' if result['images'] else f'{"":9}',
            f'{rate:8.0f} {rate / most:8.0%}' if rate and most else f'{"":17}',
            f'{times.memory / 1e9:5.2f} GB' if times.memory else f'{"":8}',
            ', '.join(notes(times)),
        ]
        found.append((start + ' '.join(columns)).rstrip())
    return found


def _seconds(value):
    return f'{value:.3f} s' if value >= 1 else f'{1e3 * value:.2f} ms'


def notes(times):
    """What else there is to say: medians of the parts; what of the time is not the net; how far the answer is off."""
    for name, values in times.parts.items():
        seconds = sorted(values)[len(values) // 2]
        if name == 'net':
            share = sorted((t - net) / t for t, net in zip(times.seconds, values))[len(values) // 2]
            yield f'not the net: {share:.1%}'
        else:
            yield f'{name} {_seconds(seconds)}'
    if times.difference is not None:
        yield f'answer within {times.difference:.0e}' if times.difference else 'the same answer'


def write(report, stem):
    """STEM.json, and STEM.png, a plot."""
    with atomic_path(f'{stem}.json') as path, open(path, 'w') as stream:
        json.dump(report, stream, indent=1, default=lambda times: vars(times) | {'median': times.median})
        stream.write('\n')
    plot(report['rows'], f'{stem}.png')


def plot(results, path):
    """For each row bars of the contenders' medians, ours as 1."""
    results = [r for r in results if sum(t.median is not None for t in r['contenders'].values()) > 1]
    everybody = list(dict.fromkeys(who for r in results for who in r['contenders']))
    figure, axis = plt.subplots(figsize=(9, 1 + 0.17 * sum(1 + len(r['contenders']) for r in results)))
    place, middles = 0, []
    for result in results:
        there = [(who, t) for who, t in result['contenders'].items() if t.median is not None]
        middles.append(place + (len(there) - 1) / 2)
        for who, times in there:
            relative = times.median / there[0][1].median
            axis.barh(place, relative, 0.9, color=f'C{everybody.index(who) % 10}')
            axis.text(relative, place, f' {_seconds(times.median)}', va='center', fontsize=6)
            place += 1
        place += 1
    axis.set_yticks(middles, [r['row'] for r in results], fontsize=8)
    axis.set_ylim(place - 1, -1)
    axis.axvline(1, color='black', linewidth=0.5)
    axis.set(xlabel='time, ours = 1 (longer is slower)')
    axis.margins(x=0.12)
    colors = [plt.Rectangle((0, 0), 1, 1, color=f'C{i % 10}') for i in range(len(everybody))]
    axis.legend(colors, everybody, fontsize=7, loc='lower center', bbox_to_anchor=(0.5, 1), ncols=6)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png', dpi=120)
    plt.close(figure)
