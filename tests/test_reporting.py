"""lib/reporting and tools/report.py: what the page of a run says, and what a browser makes of it."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import report
from pycocotools import mask as coco_mask

from datasets import own
from datasets.evaluators.confusion import confusion
from pipeline import recipe as recipes
from reporting.page import write_report
from reporting.charts import histogram, losses
from reporting.pictures import outline
from reporting.run import read_run, running_mean
from tool_runs import run_main
from utils.proposals import load_detections, save_detections

NAME = 'ResNet-10_faster_rcnn_end2end'
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The toy's three images, whatever name they are asked for by."""
    import make_toy

    path, _ = make_toy.write(str(tmp_path / 'toy'), 1, 3, seed=4)
    made = own.make(own.load(path), 'val')
    monkeypatch.setattr('reporting.page.get_imdb', lambda name: made)
    return made


@pytest.fixture
def folder(tmp_path, data):
    """Of a training by a recipe with two tested snapshots, the first without a detection; and another net's log."""
    made = tmp_path / 'output' / 'e2e' / 'toy_train'
    made.mkdir(parents=True)
    for net in 'resnet10', 'zf':
        with open(made / f'{net}_log.jsonl', 'w') as stream:
            for i in range(1, 31):
                record = {
                    'iteration': i,
                    'lr': 0.01,
                    'smoothed_loss': 2 / i,
                    'loss_cls': 1 / i,
                    'seconds': 0.25,
                }
                stream.write(json.dumps(record) + '\n')
    for name, net in (NAME, 'resnet10'), ('ZF_faster_rcnn_end2end', 'zf'):
        entry = {'result': f'/elsewhere/{net}_iter_30.caffemodel', 'seconds': 9.5}
        entry['settings'] = {'imdb': 'toy_train', 'cfg.TRAIN.SCALES': [607]}
        (made / f'{name}.json').write_text(json.dumps({'train': entry}))
    os.utime(made / 'ZF_faster_rcnn_end2end.json', (1, 1))
    metrics = {'toy_val': {'mean_ap': 0.25, 'aps': {}, 'more': 'a test of 3 images'}}
    sidecar = {'classes': [], 'cfg': {}, 'digests': {'weights': 'ab12'}, 'metrics': metrics}
    (made / 'resnet10_iter_30.classes.json').write_text(json.dumps(sidecar))
    all_boxes = [[np.zeros((0, 5), np.float32)] * 3 for _ in range(5)]
    for when, net in enumerate(['resnet10_iter_20', 'resnet10_iter_30', 'zf_iter_30'], 1):
        (made / f'{net}.caffemodel').touch()
        path = made.parent / 'toy_val' / net / 'detections.npz'
        path.parent.mkdir(parents=True)
        save_detections(str(path), all_boxes)
        os.utime(path, (when, when))
        for image, k, box in zip(data.truth.images, data.truth.classes, data.truth.boxes):
            all_boxes[k][image] = np.vstack([all_boxes[k][image], [[*box, 0.9]]]).astype(np.float32)
        all_boxes[1][0] = np.vstack([all_boxes[1][0], [[0, 0, 3, 3, 0.8]]]).astype(np.float32)
    return made


def test_a_run_has_what_no_other_recipe_has(folder):
    run = read_run(str(folder))
    assert run.title == NAME and run.data == 'toy_train'
    assert [(stage.name, len(stage.records), stage.seconds) for stage in run.stages] == [('train', 30, 9.5)]
    assert [(test.net, test.iteration) for test in run.tests] == [
        ('resnet10_iter_20', 20),
        ('resnet10_iter_30', 30),
    ]
    other = read_run(str(folder / 'ZF_faster_rcnn_end2end.json'))
    assert [test.net for test in other.tests] == ['zf_iter_30']
    for path in folder.glob('*.json'):
        path.unlink()
    run = read_run(str(folder))  # trained without recipes
    assert run.title == 'toy_train' and len(run.stages) == 2 and len(run.tests) == 3
    with pytest.raises(ValueError, match='no training was logged there'):
        read_run(str(folder.parent))
    with pytest.raises(FileNotFoundError, match='no such folder'):
        read_run(str(folder / 'no' / 'where'))


class Page(HTMLParser):
    """addresses: all that the page refers to; ids: of its elements; text, without programs."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.text, self.tag = [], [], '', ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.addresses += [value for key, value in attrs if key in ('src', 'href', 'xlink:href')]
        self.ids += [value for key, value in attrs if key == 'id']

    def handle_data(self, data):
        if self.tag not in ('script', 'style'):
            self.text += data

    def handle_endtag(self, tag):
        self.tag = ''


def test_the_page_says_all_and_needs_nothing_else(folder, data, monkeypatch, capsys):
    run_main(monkeypatch, report.main, folder)
    assert re.search(rf'^Report: .*{NAME}_report.html$', capsys.readouterr().out.strip())
    text = (folder / f'{NAME}_report.html').read_text()
    page = Page(text)
    assert all(address.startswith(('#', 'data:')) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address[:1] == '#'} <= set(page.ids)
    assert len(text) < 3e6
    for words in (
        '30 iterations, loss 0.06667, 0.25 s',
        'cfg.TRAIN.SCALES',
        '607',
        'Best and worst',
        'Mean AP over time',
        'a test of 3 images',
        'SHA-256 of the weights',
    ):
        assert words in page.text
    assert '<pre class="lines">a test of 3 images' in text  # long lines of figures are broken, not cut
    assert text.count('"raw"') >= 3 and '"class-1"' in text and page.text.count('mean AP') == 2
    aps = re.findall(r'resnet10_iter_(20|30)\s*([01]\.\d{4})', page.text)
    assert [row[0] for row in aps] == ['20', '30'] and aps[0][1] == '0.0000' and aps[1][1] == '1.0000'
    assert f'{len(data.truth.boxes)}' in page.text and text.count('<figure class="picture">') >= 4


def test_of_a_training_that_was_killed(folder):
    """It left no manifest, no model, and half a line; another had only begun."""
    for path in folder.iterdir():
        if path.name != 'resnet10_log.jsonl':
            path.unlink()
    with open(folder / 'resnet10_log.jsonl', 'a') as stream:
        stream.write('{"iteration": 31, "lo')
    (folder / 'vgg16_log.jsonl').write_text('{"itera')
    figures = [{'iteration': n, 'figure': n / 40, 'snapshot': ''} for n in (10, 20)]
    (folder / 'resnet10_validation.json').write_text(json.dumps(figures))
    run = read_run(str(folder))
    assert [(stage.name, len(stage.records)) for stage in run.stages] == [('resnet10', 30), ('vgg16', 0)]
    assert run.stages[0].validations == [(10, 0.25), (20, 0.5)] and not run.tests and not run.model
    text = Page(open(write_report(str(folder))).read()).text
    assert '30 iterations' in text and 'Nothing was logged of it' in text and 'Mean AP over time' in text


def test_masks_are_drawn(folder, data):
    """Of the tested, and of the objects where the dataset has them."""
    corners = np.zeros((40, 50), np.uint8, order='F')
    corners[10:30, 5:25] = 1
    rle = coco_mask.encode(corners)
    assert outline(rle) == 'M5 10 L5 29 L24 29 L24 10z'
    (test,) = (test for test in read_run(str(folder)).tests if test.iteration == 30)
    all_boxes = load_detections(test.file)
    masks = [[[rle] * len(boxes) for boxes in of_class] for of_class in all_boxes]
    save_detections(test.file, all_boxes, masks)
    os.utime(test.file, (5, 5))
    data.set_proposal_method('gt')
    for entry in data.roidb:
        entry['segms'] = [rle] * len(entry['boxes'])
    text = open(write_report(str(folder))).read()
    assert 'data-shows=".mask"' in text
    figures = re.findall('<figure class="picture">.*?</figure>', text, re.S)
    assert figures and all(one.count('class="mask"') >= 2 for one in figures)


def test_charts_of_odd_numbers():
    """A loss that is not always there, one that is no number; a class without a box."""
    records = [{'iteration': 1, 'a': 1.0, 'b': float('nan')}, {'iteration': 2, 'a': 3.0}]
    sources = [line.data_source for line in losses(records).renderers if line.tags == ['raw']]
    assert sources[0].data['smooth'].tolist() == [1, 3] and np.isnan(sources[1].data['smooth']).all()
    assert running_mean(np.array([1.0, np.nan, 3.0]), 2).tolist() == [1, 1, 3]
    (bars,) = histogram({'none': np.zeros(0)}, 'side', 1, 8).renderers
    assert not bars.data_source.data['top'].any()


def test_a_dataset_that_is_gone_is_said(folder, monkeypatch):
    def gone(name):
        raise KeyError(f'{name}: no such dataset')

    monkeypatch.setattr('reporting.page.get_imdb', gone)
    text = Page(open(write_report(str(folder))).read()).text
    assert 'The tests could not be shown: toy_val: no such dataset' in text
    assert '30 iterations' in text and 'Best and worst' not in text


def test_a_report_that_fails_is_said_and_no_more(monkeypatch, caplog, capsys):
    def fails(path):
        raise IndexError('of what was not thought of')

    monkeypatch.setattr('reporting.page.write_report', fails)
    recipes.report('a.json')
    assert 'no report was written: IndexError: of what was not thought of' in caplog.text
    monkeypatch.setattr('reporting.page.write_report', lambda path: f'{path}.html')
    recipes.report('a.json')
    assert capsys.readouterr().out == 'Report: a.json.html\n'


def test_confusion_by_hand():
    boxes = np.float32([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [0, 0, 9, 9]])
    truth = SimpleNamespace(
        images=np.array([0, 0, 0, 1]),
        classes=np.array([1, 2, 2, 1]),
        boxes=boxes,
        difficult=np.array([False, False, False, True]),
    )
    nothing = np.zeros((0, 5), np.float32)
    ones = np.float32(
        [
            [0, 0, 9, 9, 0.9],  # right
            [20, 0, 29, 8, 0.8],  # of class 2
            [60, 0, 69, 9, 0.7],  # where there is nothing
            [40, 0, 49, 9, 0.4],  # too low a score
        ]
    )
    twos = np.float32(
        [[0, 0, 9, 9, 0.95], [20, 0, 29, 9, 0.6]]
    )  # the first takes the object; the second is late
    hard = np.float32([[0, 0, 9, 9, 0.9]])  # not counted
    table = confusion([[nothing] * 2, [ones, hard], [twos, nothing]], truth, 0.5)
    assert table.tolist() == [[0, 2, 1], [0, 0, 1], [1, 1, 0]]


WATCH = """<head><script>window.faults = [];
for (const word of ['error', 'warn']) console[word] = (...words) => faults.push(words.join(' '));
addEventListener('error', event => faults.push(event.message));
</script>"""
PROBE = """<script>
const shown = pattern => [...document.querySelectorAll(pattern)].filter(one => one.getClientRects().length).length;
const seen = tag => tagged(tag).filter(one => one.visible && one.glyph.line_alpha.value !== 0).length;
const clicked = (pattern, count) => {
  const counts = [count()];
  for (const _ of 'ab') { document.querySelector(pattern).click(); counts.push(count()); }
  return counts;
};
const slid = share => {
  const slider = document.querySelector('#smoothing');
  slider.value = share;
  slider.dispatchEvent(new Event('input'));
  return [...tagged('smooth')[0].data.smooth];
};
function probe() {
  if (!window.Bokeh || !Bokeh.documents.length) return setTimeout(probe, 50);
  const found = {toggled: [
    ...['.truth', '.found', '.focus'].map(one => clicked(`input[data-shows="${one}"]`, () => shown(one))),
    clicked('input[data-class="class-1"]', () => seen('class-1')),
    clicked('input[data-pale]', () => seen('raw')),
  ]};
  document.querySelector('[data-all=false]').click(); found.none = seen('class-1');
  document.querySelector('[data-all=true]').click(); found.all = seen('class-1');
  found.smooth = [[...tagged('smooth')[0].data.smooth], slid(0), slid(0.2), slid(0.02)];
  found.raw = [...tagged('smooth')[0].data.raw];
  found.charts = shown('.chart');
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.faults = faults;
  parent.document.title = JSON.stringify(found);
}
probe();
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason='needs chromium')
def test_in_a_browser(folder, tmp_path):
    """Nothing is said on the console; each switch hides and shows, the slider smooths as the page came; at 400 pixels nothing juts
    out."""
    page = tmp_path / 'page.html'
    page.write_text(open(write_report(str(folder))).read().replace('<head>', WATCH) + PROBE)
    frame = tmp_path / 'frame.html'
    frame.write_text('<iframe src="page.html" width="400" height="900"></iframe>')
    words = '--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=9000 --dump-dom'
    done = subprocess.run(
        [CHROMIUM, *words.split(), f'--user-data-dir={tmp_path / "profile"}', frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = json.loads(html.unescape(re.search('<title>(.*?)</title>', done.stdout)[1]))
    assert found['faults'] == [] and found['wide'] == 0 and found['none'] == 0 and found['all'] == 1
    assert found['charts'] >= 8
    for before, between, after in found['toggled']:
        assert before == after != between and 0 in (before, between)
    came, plain, smooth, back = found['smooth']
    assert plain == found['raw'] and np.allclose(came, back, atol=1e-5)
    assert np.allclose(smooth, running_mean(np.array(plain), 6), atol=1e-5)
