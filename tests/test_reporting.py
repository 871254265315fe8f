"""lib/reporting and tools/report.py: what the page of a run says, and what a browser makes of it."""

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

from datasets import own
from datasets.evaluators.confusion import confusion
from pipeline import recipe as recipes
from reporting.page import write_report
from reporting.run import read_run
from tool_runs import run_main
from utils.proposals import save_detections

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
    """addresses: all that the page refers to; ids: of its elements; text."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.text = [], [], ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ('src', 'href', 'xlink:href')]
        self.ids += [value for key, value in attrs if key == 'id']

    def handle_data(self, data):
        self.text += data


def test_the_page_says_all_and_needs_nothing_else(folder, data, monkeypatch, capsys):
    run_main(monkeypatch, report.main, folder)
    assert re.search(rf'^Report: .*{NAME}_report.html$', capsys.readouterr().out.strip())
    text = (folder / f'{NAME}_report.html').read_text()
    page = Page(text)
    assert all(address.startswith(('#', 'data:')) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    referred = set(re.findall(r'url\(#(\w+)\)', text)) | {a[1:] for a in page.addresses if a[:1] == '#'}
    assert referred <= set(page.ids)
    for words in '30 iterations, loss 0.06667, 0.25 s', 'cfg.TRAIN.SCALES', '607', 'Best and worst':
        assert words in page.text
    assert {'raw-0-0', 'raw-0-1', 'class-1'} <= set(page.ids) and page.text.count('mean AP') == 2
    aps = re.findall(r'resnet10_iter_(20|30)\s*([01]\.\d{4})', page.text)
    assert [row[0] for row in aps] == ['20', '30'] and aps[0][1] == '0.0000' and aps[1][1] == '1.0000'
    assert f'{len(data.truth.boxes)}' in page.text and text.count('<figure class="picture">') >= 4


def test_a_dataset_that_is_gone_is_said(folder, monkeypatch):
    def gone(name):
        raise KeyError(f'{name}: no such dataset')

    monkeypatch.setattr('reporting.page.get_imdb', gone)
    text = Page(open(write_report(str(folder))).read()).text
    assert 'The tests could not be shown' in text and 'toy_val: no such dataset' in text
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


PROBE = """<script>
const shown = pattern => [...document.querySelectorAll(pattern)].filter(one => one.getClientRects().length).length;
const click = pattern => document.querySelector(pattern).click();
const found = {};
for (const pattern of ['.truth', '.found', '.focus', '#class-1', "[id^='raw-']"]) {
  const box = `input[data-shows="${pattern}"]`;
  const before = shown(pattern); click(box); const between = shown(pattern); click(box);
  found[pattern] = [before, between, shown(pattern)];
}
click('[data-all=false]'); found.none = shown("[id^='class-']");
click('[data-all=true]'); found.all = shown("[id^='class-']");
found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = JSON.stringify(found);
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason='needs chromium')
def test_in_a_browser(folder, tmp_path):
    """Nothing is said on the console; each switch hides and shows; at 400 pixels nothing juts out."""
    page = tmp_path / 'page.html'
    page.write_text(open(write_report(str(folder))).read() + PROBE)
    frame = tmp_path / 'frame.html'
    frame.write_text('<iframe src="page.html" width="400" height="900" onload="document.title = '
                     'this.contentDocument.title"></iframe>')  # fmt: skip
    words = '--headless --no-sandbox --disable-gpu --allow-file-access-from-files --enable-logging=stderr --dump-dom'
    done = subprocess.run(
        [CHROMIUM, *words.split(), f'--user-data-dir={tmp_path / "profile"}', frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 'CONSOLE' not in done.stderr
    found = json.loads(re.search('<title>(.*?)</title>', done.stdout)[1])
    assert found.pop('wide') == 0 and found.pop('none') == 0 and found.pop('all') >= 1
    for pattern, (before, between, after) in found.items():
        assert before == after != between and 0 in (before, between), pattern
