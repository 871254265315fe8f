"""The page about a Run: page.html, filled, one file that needs nothing else."""

import logging
import os
import re

import jinja2
import numpy as np
from bokeh.embed import components
from bokeh.resources import Resources

from datasets.evaluators.confusion import confusion
from datasets.evaluators.errors import IGNORED, KINDS, SIMILAR, all_errors, described
from datasets.evaluators.pairs import areas
from datasets.factory import get_imdb
from datasets.joined import joined
from reporting import charts
from reporting.pictures import gallery
from reporting.run import read_run
from utils.files import atomic_path
from utils.proposals import load_detections, load_masks

log = logging.getLogger(__name__)

CONFUSED = 0.5  # the least score of detections that count among those of a wrong class
PAIRS = 10  # of classes that are taken for each other, listed
WRONG = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
)  # what a dataset or a file that is gone, or another one by now, raises


def write_report(path, out=None, most=6):
    """Write the report of read_run(path) to `out`, by default <name of the run>_report.html in its folder -> its path. most: pictures of each kind."""
    run, notes, drawn = read_run(path), [], {}
    out = out or os.path.join(run.folder, f'{run.title}_report.html')
    values = {
        'run': run,
        'notes': notes,
        'stages': [described_stage(n, stage, drawn) for n, stage in enumerate(run.stages)],
        'settings': settings(run.stages),
        'model': model(run.model),
        'smoothed': charts.SMOOTHED,
        'pale': charts.PALE,
        **_tried(notes, 'The tests', lambda: tested(run, most, drawn, notes), {}),
        **_tried(notes, 'The datasets', lambda: statistics(run, drawn), {}),
    }
    if lines := over_time(run, values.get('tests', ())):
        drawn['over_time'] = charts.over_time(lines)
    with atomic_path(out) as temporary, open(temporary, 'w', encoding='utf-8') as stream:
        stream.write(_filled(values, drawn))
    return out


def _filled(values, drawn):
    """page.html with its values and charts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    empty = dict.fromkeys(('test', 'tests', 'masks', 'statistics'))
    library = Resources(mode='inline', components=['bokeh']).render()
    script, places = components(drawn) if drawn else ('', {})
    given = {'library': library, 'script': script, 'charts': places}
    return environment.get_template('page.html').render({**empty, **values, **given})


def _tried(notes, what, make, otherwise):
    """make(); where what it needs is not there, `otherwise`, and a note."""
    try:
        return make()
    except WRONG as error:
        message = isinstance(error, KeyError) and ' ' in str(error)  # of which str() would have quotes
        why = error.args[0] if message else error
        notes.append(f'{what} could not be shown: {why}')
        log.warning('%s', notes[-1])
        return otherwise


def described_stage(n, stage, drawn):
    """What the page has of the n-th stage; its charts into `drawn`, as <what>-<n>."""
    records = stage.records
    if not records:
        return {'name': stage.name, 'seconds': stage.seconds, 'iterations': 0}
    iterations = [record['iteration'] for record in records]
    paces = [record['seconds'] for record in records]
    drawn[f'losses-{n}'] = charts.losses(records)
    drawn[f'rate-{n}'] = charts.line(iterations, [r['lr'] for r in records], 'iteration', 'learning rate')
    drawn[f'paces-{n}'] = charts.line(iterations, paces, 'iteration', 'seconds an iteration', smoothed=True)
    return {
        'name': stage.name,
        'iterations': iterations[-1],
        'seconds': stage.seconds or sum(paces),
        'loss': records[-1]['smoothed_loss'],
        'pace': float(np.median(paces)),
    }


def model(content):
    """[(what, its value)] of a model's sidecar, and what the datasets' own rules gave."""
    digests = [(f'SHA-256 of the {what}', digest) for what, digest in content.get('digests', {}).items()]
    keys = 'net', 'method', 'imdb', 'command', 'anchors'
    known = [(key, content[key]) for key in keys if content.get(key)]
    figures = [
        (imdb, what, of_test['mean_ap'], of_test.get('more', ''))
        for imdb, found in content.get('metrics', {}).items()
        for what, of_test in (('boxes', found), ('masks', found.get('masks')))
        if of_test
    ]
    return {'facts': known + digests, 'figures': figures, 'cfg': list(content.get('cfg', {}).items())}


def settings(stages):
    """[(setting, [its value in each stage])], those whose stages differ first; of the stages that a manifest has."""
    known = [stage.settings for stage in stages if stage.settings]
    keys = dict.fromkeys(key for of_stage in known for key in of_stage)
    rows = [(key, [of_stage.get(key) for of_stage in known]) for key in keys]
    return {
        'names': [stage.name for stage in stages if stage.settings],
        'differ': [row for row in rows if any(value != row[1][0] for value in row[1])],
        'same': [(key, values[0]) for key, values in rows if all(value == values[0] for value in values)],
    }


def tested(run, most, drawn, notes):
    """What the page has of the tests: mean AP of each, all of the last; its charts into `drawn`."""
    if not run.tests:
        return {}
    last = run.tests[-1]
    data = get_imdb(last.imdb)
    rows = []
    for test in run.tests:
        if test.imdb == last.imdb:
            all_boxes, errors = judged(test, data)
            rows.append((test, float(np.mean([of_class.ap for of_class in errors.values()]))))
    table, masks = confusion(all_boxes, data.truth, CONFUSED), load_masks(last.file)
    if masks:
        data.set_proposal_method('gt')
    pictures = _tried(notes, 'Pictures', lambda: gallery(data, all_boxes, masks, errors, most), [])
    shares = {data.class_names[k]: _kinds_of(of_class.shares()) for k, of_class in errors.items()}
    drawn['precisions'] = charts.precisions(errors, data.class_names)
    drawn['confusion'] = charts.confusion(table, data.class_names)
    drawn['kinds'] = charts.kinds(shares)
    return {
        'test': last,
        'tests': rows,
        'kinds': list(_kinds_of(dict.fromkeys(KINDS)))[1:],
        'classes': [
            {
                'k': k,
                'name': data.class_names[k],
                'colour': charts.colour(n),
                **described(of_class, data.truth),
            }
            for n, (k, of_class) in enumerate(errors.items())
        ],
        'confused': confused(table, data.class_names),
        'gallery': pictures,
        'masks': bool(masks),
        'least': CONFUSED,
    }


def _kinds_of(shares):
    """Those that are shown: no classes are said to be alike, and what is ignored is not counted."""
    return {kind: share for kind, share in shares.items() if kind not in (SIMILAR, IGNORED)}


def judged(test, data):
    """all_boxes and {class: Errors} of a Test. ValueError where its detections are not of these images and classes."""
    if isinstance(data, joined):
        raise ValueError(f'{data.name} is of several datasets; a report wants a test on one')
    all_boxes = load_detections(test.file)
    found, wanted = (len(all_boxes), len(all_boxes[0])), (data.num_classes, data.num_images)
    if found != wanted:
        raise ValueError(
            f'{test.file}: {found[0]} classes, {found[1]} images; {data.name} has {wanted[0]}, {wanted[1]}'
        )
    errors = all_errors(all_boxes, data.truth, {})
    if not errors:
        raise ValueError(f'{data.name} has no object to be found')
    return all_boxes, errors


def over_time(run, tests):
    """{what was tested: [(iteration, mean AP)]}, where one training was tested at several iterations: by the tests that were made
    while it was trained, by the dataset's own rule, and by those of its snapshots."""
    lines = {f'{stage.name}, while trained': stage.validations for stage in run.stages}
    for test, ap in tests:
        if test.iteration:
            lines.setdefault(re.sub(r'_iter_\d+$', '', test.net), []).append((test.iteration, ap))
    return {name: points for name, points in lines.items() if len(points) > 1}


def confused(table, names):
    """[(class, class it was taken for, how often, share of its objects)], the most frequent first."""
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    wrong[0], wrong[:, 0] = 0, 0
    order = np.argsort(-wrong, axis=None, kind='stable')[:PAIRS]
    rows = zip(*np.unravel_index(order, wrong.shape))
    return [
        (names[i], names[j], int(wrong[i, j]), wrong[i, j] / table[i].sum()) for i, j in rows if wrong[i, j]
    ]


def statistics(run, drawn):
    """What the page has of the images trained and tested on; its charts into `drawn`."""
    names = {'trained on': run.data, **({'tested on': run.tests[-1].imdb} if run.tests else {})}
    sets = {what: _parts(name) for what, name in names.items()}
    class_names = next(iter(sets.values()))[0].class_names
    truths = {what: [part.truth for part in parts] for what, parts in sets.items()}
    counts = {
        what: sum(np.bincount(one.classes, minlength=len(class_names)) for one in of_set)
        for what, of_set in truths.items()
    }
    boxes = {what: np.concatenate([one.boxes for one in of_set]) for what, of_set in truths.items()}
    boxes = {what: of_set.astype(float) for what, of_set in boxes.items()}
    sides = {what: np.sqrt(areas(of_set, one=1)) for what, of_set in boxes.items()}
    shapes = {what: np.divide(*(of_set[:, 2:] - of_set[:, :2] + 1).T) for what, of_set in boxes.items()}
    per_image = {
        what: np.concatenate([np.diff(one.starts) for one in of_set]) for what, of_set in truths.items()
    }
    drawn['sizes'] = charts.histogram(sides, "side of an object's box, pixels (root of its area)", 4, 256)
    drawn['shapes'] = charts.histogram(shapes, 'width of a box over its height', 0.25, 4)
    return {
        'statistics': {
            'sets': [
                (what, names[what], *_counted(of_set, per_image[what])) for what, of_set in truths.items()
            ],
            'classes': [
                (name, *(int(of_set[k]) for of_set in counts.values()))
                for k, name in enumerate(class_names)
                if k
            ],
            'most': max(1, *(int(of_set.max()) for of_set in counts.values())),
        }
    }


def _parts(name):
    data = get_imdb(name)
    return data.parts if isinstance(data, joined) else [data]


def _counted(truths, per_image):
    """Images, objects, difficult ones, images without an object, most objects in one."""
    hard = sum(int(one.difficult.sum()) for one in truths)
    empty, most = int((per_image == 0).sum()), int(per_image.max(initial=0))
    return len(per_image), int(per_image.sum()), hard, empty, most
