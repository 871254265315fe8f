"""parse_log LOG FOLDER: <log's name>.train and .test, tables of what a training's log tells, as comma-separated values.

Columns: NumIters, Seconds since the log's first line, LearningRate, and the net's outputs by name. Logs are those of
`caffe train` here and in the original.
"""

import argparse
import csv
import datetime
import os
import re
import sys

from .format.files import atomic_write, read_text

_NUMBER = r'([-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|inf|nan))'
_TIME = re.compile(r'[IWEF](\d{4}) (\d\d:\d\d:\d\d)(?:\.(\d+))?')
_ITERATION = re.compile(r'Iteration (\d+)')
_RATE = re.compile(rf'Iteration \d+, lr = {_NUMBER}')
_OUTPUT = re.compile(rf'(Train|Test) net output #(\d+): (\S+) = {_NUMBER}')


def parse_log(path_to_log):
    """(rows of training, rows of tests): dicts with NumIters, Seconds, LearningRate and an iteration's outputs.

    An output of several values has columns name, name_2, ... A row of training has the rate told in its iteration, one
    of a test that told before it. Tests that several nets have are one row. ValueError for a log without iterations.
    """
    rows, iteration, rate, begin, now = {'Train': [], 'Test': []}, None, float('nan'), None, None
    for line in read_text(path_to_log, 'log').splitlines():
        if match := _TIME.match(line):
            now = _moment(match, now)
            begin = begin or now
        if match := _ITERATION.search(line):
            iteration = int(match[1])
        if match := _RATE.search(line):
            rate = float(match[1])
            for row in rows['Train'][-1:]:
                if row['NumIters'] == iteration:
                    row['LearningRate'] = rate
        if (match := _OUTPUT.search(line)) and iteration is not None:
            kept = rows[match[1]]
            if not kept or kept[-1]['NumIters'] != iteration:
                seconds = (now - begin).total_seconds() if now else float('nan')
                kept.append({'NumIters': iteration, 'Seconds': seconds, 'LearningRate': rate})
            kept[-1][_free(kept[-1], match[3])] = float(match[4])
    if iteration is None:
        raise ValueError(f'{path_to_log} tells of no iteration; wanted is the log of a training')
    return rows['Train'], rows['Test']


def _moment(match, before):
    """The time of a line; it has no year, and a log may go on into the next."""
    moment = datetime.datetime.strptime(f'2000{match[1]} {match[2]}', '%Y%m%d %H:%M:%S')
    moment += datetime.timedelta(seconds=float(f'0.{match[3] or 0}'))
    if before is not None:
        moment = moment.replace(year=before.year)
        if (before - moment).days > 180:
            moment = moment.replace(year=before.year + 1)
    return moment


def _free(row, name):
    """`name`, or name_2, ... where the row has it already."""
    number, free = 1, name
    while free in row:
        number += 1
        free = f'{name}_{number}'
    return free


def save_csv_files(logfile_path, output_dir, train_dict_list, test_dict_list, delimiter=',', verbose=False):
    """Write <folder>/<log's name>.train and .test; returns their paths. Of no rows there is an empty file."""
    stem = os.path.join(output_dir, os.path.basename(logfile_path))
    for path, rows in ((f'{stem}.train', train_dict_list), (f'{stem}.test', test_dict_list)):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(path) as temporary, open(temporary, 'w', newline='') as f:
            writer = csv.DictWriter(f, columns, delimiter=delimiter)
            if rows:
                writer.writeheader()
            writer.writerows(rows)
        if verbose:
            print(f'Wrote {path}')
    return f'{stem}.train', f'{stem}.test'


def main(argv=None):
    parser = argparse.ArgumentParser(prog='parse_log', description=__doc__)
    parser.add_argument('logfile_path')
    parser.add_argument('output_dir')
    parser.add_argument('--verbose', action='store_true')
    parser.add_argument('--delimiter', default=',')
    args = parser.parse_args(argv)
    try:
        rows = parse_log(args.logfile_path)
        save_csv_files(args.logfile_path, args.output_dir, *rows, args.delimiter, args.verbose)
    except (OSError, ValueError) as error:
        sys.exit(f'parse_log: {error}')


if __name__ == '__main__':
    main()
