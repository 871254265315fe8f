#!/usr/bin/env python3
"""Scores of windows of images by caffe.Detector: detect.py INPUT OUTPUT.csv --model_def DEPLOY --pretrained_model WEIGHTS

--crop_mode list: INPUT is a CSV file with the columns filename, ymin, xmin, ymax, xmax. selective_search (the default): a text
file with an image on each line; the module selective_search_ijcv_with_python finds the windows. OUTPUT has these columns
and a score for each class, class0 and so on.
"""

import csv
import itertools
import sys

import caffe
from caffe.format.files import atomic_write
from classify import parser_of, settings

WINDOW = 'ymin', 'xmin', 'ymax', 'xmax'


def windows(path):
    """[(image file, [windows])] of a CSV file, in its order."""
    with open(path, newline='') as f:
        rows = list(csv.DictReader(f))
    try:
        rows = [(row['filename'], tuple(int(float(row[name])) for name in WINDOW)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: wanted are the columns filename, {", ".join(WINDOW)}, of numbers: {error!r}'
        ) from None
    return [(name, [w for _, w in group]) for name, group in itertools.groupby(rows, lambda row: row[0])]


def main(argv=None):
    parser = parser_of(__doc__)
    parser.add_argument('--crop_mode', default='selective_search', choices=['list', 'selective_search'])
    parser.add_argument('--context_pad', type=int, default=16, help='pixels around a window (default 16)')
    args = parser.parse_args(argv)
    given = windows(args.input_file) if args.crop_mode == 'list' else None
    net = caffe.Detector(
        args.model_def, args.pretrained_model, context_pad=args.context_pad, **settings(args)
    )
    if given is None:
        with open(args.input_file) as f:
            found = net.detect_selective_search([line.strip() for line in f if line.strip()])
    else:
        found = net.detect_windows(given)
    with atomic_write(args.output_file) as path, open(path, 'w', newline='') as f:
        writer = csv.writer(f)
        scores = [f'class{k}' for k in range(found[0]['prediction'].size)] if found else []
        writer.writerow(['filename', *WINDOW, *scores])
        for one in found:
            writer.writerow([one['filename'], *one['window'], *one['prediction'].ravel().tolist()])
    print(f'{len(found)} windows: {args.output_file}')


if __name__ == '__main__':
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f'detect.py: {error}')
