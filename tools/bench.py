#!/usr/bin/env python3
"""How fast this is here, against others: a table, and beside it STEM.json and STEM.png.

tools/bench.py [ROW ...] measures the rows whose names begin so, all without: test/rpn, train/rpn/ResNet-50, nms ...
"""

import argparse
import fnmatch
import json
import tempfile

import _command  # noqa: F401  (the path)


def parse_args(words=None):
    parser = argparse.ArgumentParser(
        prog=_command.command(), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'rows', nargs='*', metavar='ROW', help='names or how they begin, * and ? as in a shell'
    )
    _command.add(parser, 'gpu', default=None, help='a GPU; default: 0 where there is one, else the CPU')
    parser.add_argument('--rounds', type=int, default=5, help='calls of each that count (default 5)')
    parser.add_argument(
        '--seconds', type=float, default=20, help="no further round after so many of a row's (default 20)"
    )
    parser.add_argument('--against', nargs='+', metavar='WHO', help='only these of a row: ours PyTorch ...')
    parser.add_argument(
        '--no-memory', action='store_true', help='leave out the processes that measure memory'
    )
    parser.add_argument('--small', action='store_true', help='little nets and images: does everything work?')
    parser.add_argument('--list', action='store_true', help="the rows' names, nothing else")
    parser.add_argument('--out', default='bench', metavar='STEM', help='default: bench')
    parser.add_argument(
        '--peak-in', metavar='FOLDER', help=argparse.SUPPRESS
    )  # what a process of memory() is
    return parser.parse_args(words)


def main(words=None):
    args = parse_args(words)
    from speed import nets, pipeline, rows  # noqa: F401  (they register their rows)

    chosen = choose(list(rows.ROWS), args.rows)
    if args.list:
        print('\n'.join(chosen))
        return
    use_device(args)
    if args.peak_in:
        print(json.dumps(peak(args, chosen[0])))
        return
    measure(args, chosen)


def choose(names, wanted):
    """The names that begin as one of `wanted` says; ValueError for one that fits none."""
    for pattern in wanted:
        if not fnmatch.filter(names, pattern + '*'):
            raise ValueError(f'no row is called {pattern}; they are {", ".join(names)}')
    return [n for n in names if not wanted or any(fnmatch.fnmatch(n, pattern + '*') for pattern in wanted)]


def use_device(args):
    import torch

    from pipeline.settings import use_device

    if args.gpu is None:
        args.gpu = [0] if torch.cuda.is_available() else ['cpu']
    _command.one_device(args.gpu, 'bench.py')
    use_device(args.gpu)


def measure(args, chosen):
    from speed import report, rows

    about = report.machine()
    about['rounds'], about['seconds'] = args.rounds, args.seconds
    print(report.title(about), report.HEAD, sep='\n\n')
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            case = rows.Case(folder, args.small, name)
            memory = None if args.no_memory else lambda who, case=case: memory_of(args, case, who)
            times, flops = rows.measure(case, args.rounds, args.against, memory, args.seconds)
            results.append(
                {'row': name, 'images': rows.ROWS[name].images, 'flops': flops, 'contenders': times}
            )
            print('\n'.join(report.lines(results[-1], about['limits'])), flush=True)
            report.write({'machine': about, 'rows': results}, args.out)
    print(f'\n{args.out}.json, {args.out}.png')


def memory_of(args, case, who):
    """Bytes that a process takes which runs one contender alone."""
    from speed.measure import in_process

    small = ['--small'] if args.small else []
    words = [case.row, '--against', who, '--peak-in', case.folder, '--gpu', str(args.gpu[0]), *small]
    return in_process(__file__, *words)


def peak(args, name):
    from speed import rows
    from speed.measure import peak_memory
    from fast_rcnn.config import overrides

    case = rows.Case(args.peak_in, args.small, name)
    with overrides(case.settings(rows.ROWS[name])):
        (contender,) = rows.contenders_of(case, args.against)[0].values()
        for _ in range(3):
            contender.call()
    return peak_memory()


if __name__ == '__main__':
    _command.run(main)
