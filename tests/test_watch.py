"""caffe.watch: who hangs, and what is told of those that failed."""

import re
import threading
import time

import pytest
import torch.distributed as dist

from caffe import watch


def record(quiet=0, limit=10, tick=1, **more):
    """What a rank says of itself."""
    return {
        **dict(stage='stage1_rpn', what='training', iteration=12, busy=None, waiting=False, left=False),
        **dict(quiet=quiet, limit=limit, tick=tick),
        **more,
    }


@pytest.mark.parametrize(
    'records, heard, culprit',
    [
        ([record(), record()], 0, None),
        ([record(), record(quiet=16)], 0, 'rank 1 .*after iteration 12: nothing has moved there for 16 s'),
        ([record(quiet=17), record(quiet=16)], 0, 'rank 0'),  # rank 1 waits for it, by its later beat
        ([record(quiet=17, waiting=True), record(quiet=16)], 0, 'rank 1'),
        ([record(quiet=99, limit=100), record()], 0, None),  # its steps are slow
        ([record(quiet=99, iteration=None), record()], 0, None),  # it has not begun
        ([record(busy='snapshot'), record(quiet=99)], 0, None),
        ([record(), record()], 25, 'rank 1 after iteration 12: no sign of life for 20 s'),
        ([record(), record(left=True)], 25, None),
    ],
)
def test_who_hangs(records, heard, culprit):
    it = watch.Watch.__new__(watch.Watch)
    now = time.monotonic()
    it.stage, it.calm, it.main, it.heard = 'stage1_rpn', now - 50, threading.get_ident(), now
    it.records = {rank: (one, now - heard * rank) for rank, one in enumerate(records)}
    report = it.verdict(now)
    assert bool(report) == bool(culprit)
    it.heard = now - heard  # nothing is heard at all: that says nothing of a rank
    assert not heard or not it.verdict(now)
    if report:
        said = watch.describe({'count': 2, **report})
        assert re.match(f'{culprit}', said.replace('of 2 hangs in stage1_rpn ', '')), said
        assert ('test_who_hangs' in said) == (report['rank'] == 0)  # its own stack


@pytest.fixture
def watched(monkeypatch):
    """Makes this process rank 0 of two, in a stage, its watch without threads -> the store."""

    def begin(stage=''):
        monkeypatch.setattr(watch.Watch, 'exchange', lambda self: None)
        monkeypatch.setattr(threading.Thread, 'start', lambda self: None)
        monkeypatch.setattr(watch, 'store', dist.HashStore)
        monkeypatch.setattr(watch, '_watch', watch.Watch(stage))
        return watch._watch.store

    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(watch, 'PERIOD', 0.1)
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)
    return begin


@pytest.mark.parametrize(
    'stage, other, said',
    [
        ('', 'a.yml: no such file', 'a.yml: no such file'),
        ('stage1_rpn', 'a.yml: no such file', 'stage1_rpn failed: a.yml: no such file\nValueError'),
        ('', 'no GPU 1', 'rank 0 of 2 failed: a.yml'),
        ('', None, 'rank 0 of 2 failed: a.yml'),
    ],
)
def test_what_all_ranks_fail_with_is_said_plainly(watched, stage, other, said):
    store = watched(stage)
    if other:
        store.set(f'failed/{stage}/1', other)
    report = watch.failed(ValueError('a.yml: no such file'))
    assert report == watch.first_report(store)
    assert watch.told(report).startswith(said), watch.told(report)
    assert ('\n' in watch.told(report)) == bool(stage)


def test_who_fails_at_work_is_named_at_once(watched):
    store = watched()
    store.set('failed//1', 'loss is nan')
    watch.beat('training', 3)
    report = watch.failed(FloatingPointError('nan'), text='loss is nan')
    assert watch.told(report).startswith('rank 0 of 2 failed in training after iteration 3: loss is nan')
