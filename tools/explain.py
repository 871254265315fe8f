#!/usr/bin/env python3
"""Why a detector's AP is what it is: its errors by kind, per class and size of objects, with the worst as pictures.

Writes to --out: errors.json, curves.png (precision over recall) and pictures of the worst errors of each kind, named after
kind, rank, class and image: the detection in its class's colour with its score, the objects without one.
"""

import json
import os

import _command

log = _command.log


def main():
    args = parse_args()
    _command.start_log()
    _command.load_cfg(args)
    from datasets.evaluators.errors import all_errors, described
    from utils.files import atomic_path
    from utils.proposals import load_detections

    data = _command.get_imdb(args.imdb)
    paths = [os.path.join(args.output_dir, name) for name in ('detections.npz', 'detections.pkl')]
    all_boxes = load_detections(next(filter(os.path.exists, paths), paths[0]))
    numbers = {name: k for k, name in enumerate(data.classes)}
    alike = groups(args.similar, numbers)
    errors = all_errors(all_boxes, data.truth, alike)
    if not errors:
        raise ValueError(f'{data.name} has no object to be found')
    os.makedirs(args.out, exist_ok=True)
    report = {data.classes[k]: described(of_class, data.truth) for k, of_class in errors.items()}
    report['worst'] = gallery(data, errors, args.worst, args.out)
    with atomic_path(os.path.join(args.out, 'errors.json')) as temporary, open(temporary, 'w') as stream:
        json.dump(report, stream, indent=1)
    plot({data.classes[k]: of_class for k, of_class in errors.items()}, os.path.join(args.out, 'curves.png'))
    _command.say('\n'.join(table(report)))
    _command.say(f'{len(report["worst"])} pictures, errors.json and curves.png: {args.out}')


def groups(words, numbers):
    """{class number: those that are like it} of words such as cow,horse,sheep."""
    found = {}
    for word in words:
        names = word.split(',')
        unknown = sorted(set(names) - set(numbers))
        if unknown:
            raise ValueError(
                f'--similar {word}: no class {", ".join(unknown)}; there are {", ".join(numbers)}'
            )
        for name in names:
            found.setdefault(numbers[name], set()).update(numbers[other] for other in names)
    return found


def table(report):
    """Lines: of each class AP, shares of its best detections, and what AP would be without the errors of each kind."""
    rows = {name: row for name, row in report.items() if name != 'worst'}
    kinds = list(next(iter(rows.values()))['ap_without'])
    wide = max(len(name) for name in [*rows, 'class'])
    lines = [
        'Of as many best detections as there are objects, those that are errors; (AP without any of that kind)',
        f'{"class":{wide}}  objects     AP  ' + '  '.join(f'{kind:>15}' for kind in kinds) + '  missed',
    ]
    for name, row in rows.items():
        cells = [f'{row["best"][kind]:6.1%} ({row["ap_without"][kind]:.4f})' for kind in kinds]
        lines.append(
            f'{name:{wide}}  {row["objects"]:7}  {row["ap"]:.4f}  {"  ".join(f"{cell:>15}" for cell in cells)}  '
            f'{row["missed"]:6.1%}'
        )
    return lines


def gallery(data, errors, most, folder):
    """Writes pictures of the `most` worst errors of each kind -> a list of what is on them: kind, class, image, score, box,
    file. Worst: of the highest score; of objects that were missed, the largest."""
    from datasets.evaluators.errors import worst
    from fast_rcnn.drawing import draw, save_picture
    from utils.blob import read_image

    shown = []
    for kind, found in worst(errors, data.truth, most).items():
        for rank, (k, image, score, box) in enumerate(found, 1):
            path = data.image_path_at(image)
            stem = os.path.splitext(os.path.basename(path))[0]
            name = f'{kind}_{rank:02d}_{data.classes[k]}_{stem}.png'.replace(os.sep, '_')
            objects = slice(data.truth.starts[image], data.truth.starts[image + 1])
            around = [('', None, tuple(map(float, own))) for own in data.truth.boxes[objects]]
            label = data.class_names[k] if score is not None else f'missed {data.class_names[k]}'
            picture = draw(read_image(path), [(label, score, box), *around], data.class_names)
            save_picture(os.path.join(folder, name), picture)
            row = {'kind': kind, 'class': data.classes[k], 'image': path, 'score': score, 'box': box}
            shown.append({**row, 'file': name})
    return shown


def plot(errors, path):
    """Precision over recall of each class."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    from utils.files import atomic_path

    figure, axis = plt.subplots(figsize=(7, 6))
    for name, of_class in errors.items():
        axis.plot(of_class.recall, of_class.precision, label=f'{name} {of_class.ap:.3f}', linewidth=1)
    axis.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize='small', ncols=1 + len(errors) // 25)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png')
    plt.close(figure)


def parse_args(argv=None):
    parser = _command.parser(__doc__.split('\n')[0], 'imdb', 'cfg', required=('imdb',), gpu=['cpu'])
    parser.add_argument('output_dir', help='the folder with detections.npz (or an older detections.pkl)')
    parser.add_argument('--out', default='errors', metavar='FOLDER', help='default errors')
    parser.add_argument(
        '--worst', type=int, default=10, metavar='N', help='pictures of each kind (default 10)'
    )
    parser.add_argument(
        '--similar', nargs='+', default=[], metavar='A,B,...', help='classes that are like each other'
    )
    _command.add(parser, 'set')
    return parser.parse_args(argv)


if __name__ == '__main__':
    _command.run(main)
