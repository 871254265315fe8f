"""lib/pipeline/child.py and manifest.py: steps in child processes, what ends them, and what is done again."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import caffe
import pytest
from two_machines import has_ended

from pipeline import child as children
from pipeline import manifest as manifests
from pipeline.child import StageError
from pipeline.manifest import File, Manifest


def write(job):
    """A step that writes its number, and when it began; `then` says what becomes of its process in between."""
    open(job['to'] + '.began', 'w').close()
    if job.get('then') == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if job.get('then') == 'exit':
        os._exit(3)
    if job.get('then') == 'raise':
        raise FloatingPointError('loss_cls is nan')
    if job.get('then') == 'sleep':
        time.sleep(600)
    with open(job['to'], 'w') as f:
        f.write(str(os.getpid() if job.get('pid') else job['number']))
    return job['to']


@pytest.fixture
def manifest(tmp_path):
    return lambda **more: Manifest(str(tmp_path / 'run.json'), **more)


@pytest.fixture
def job(tmp_path):
    return lambda **more: {'to': str(tmp_path / 'result'), 'number': 1, **more}


@pytest.fixture
def started(monkeypatch):
    """The names of the steps that are done from now on: in this process, unless it would not live through that."""
    names, run_in_child = [], manifests.run_in_child

    def counted(name, function, job, log_path):
        names.append(name)
        return run_in_child(name, function, job, log_path) if job.get('then') else function(job)

    monkeypatch.setattr(manifests, 'run_in_child', counted)
    return names


def test_a_step_is_done_once_and_the_manifest_says_so(manifest, job, started, tmp_path):
    first, second = manifest().run('one', write, job()), manifest().run('one', write, job())
    assert first == second == job()['to'] and started == ['one']
    assert open(first).read() == '1'
    entry = json.loads((tmp_path / 'run.json').read_text())['one']
    assert entry['result'] == job()['to'] and entry['settings']['number'] == 1


def test_a_step_is_done_in_a_process_of_its_own(manifest, tmp_path):
    result = manifest().run('one', write, {'to': str(tmp_path / 'result'), 'number': 1, 'pid': True})
    assert int(open(result).read()) != os.getpid()


@pytest.mark.parametrize('change', ['setting', 'input file', 'result lost'])
def test_what_changed_is_redone_and_named(manifest, job, tmp_path, started, caplog, change):
    source = tmp_path / 'weights'
    source.write_text('a')
    manifest().run('one', write, job(cfg={'TRAIN': {'MAX_SIZE': 300}}, weights=File(source)))
    size = 300
    if change == 'setting':
        size = 400
    elif change == 'input file':
        source.write_text('b')
    else:
        os.remove(job()['to'])
    caplog.set_level(logging.INFO)
    manifest().run('one', write, job(cfg={'TRAIN': {'MAX_SIZE': size}}, weights=File(source)))
    assert started == ['one', 'one']
    said = {
        'setting': 'cfg.TRAIN.MAX_SIZE (300 -> 400)',
        'input file': 'weights (content)',
        'result lost': 'missing',
    }
    assert any('again' in message and said[change] in message for message in caplog.messages)


def test_what_is_ignored_does_not_count(manifest, job, started):
    for gpu in 0, 1:
        manifest(ignore=('cfg.GPU_ID',)).run('one', write, job(cfg={'GPU_ID': gpu}))
    assert started == ['one']


def test_a_setting_that_was_not_there_counts_as_assumed(manifest, job, started, caplog):
    caplog.set_level(logging.INFO)
    assumed = {'cfg': {'PRECISION': 'float32', 'OTHER': 1}}
    manifest().run('one', write, job(cfg={}))
    manifest(assumed=assumed).run('one', write, job(cfg={'PRECISION': 'float32'}))
    assert started == ['one']
    manifest(assumed=assumed).run('one', write, job(cfg={'PRECISION': 'bf16'}))
    assert started == ['one', 'one'] and 'cfg.PRECISION (float32 -> bf16)' in caplog.text


@pytest.mark.parametrize(
    'then, cause', [('kill', 'SIGKILL'), ('exit', 'exit code 3'), ('raise', 'loss_cls is nan')]
)
def test_a_dead_child_ends_the_run_and_the_next_goes_on(manifest, job, tmp_path, started, then, cause):
    manifest().run('first', write, job())
    with pytest.raises(StageError, match=f'second failed(.|\n)*{cause}(.|\n)*run_second.log'):
        manifest().run('second', write, job(to=job()['to'] + '2', then=then))
    assert time.time() - os.path.getmtime(job()['to'] + '2.began') < 60
    said = (tmp_path / 'run_second.log').read_text()
    assert (
        ("raise FloatingPointError('loss_cls is nan')" in said) == ('Traceback' in said) == (then == 'raise')
    )
    manifest().run('first', write, job())
    manifest().run('second', write, job(to=job()['to'] + '2'))
    assert started == ['first', 'second', 'second']


NO_PROC = pytest.mark.skipif(not os.path.exists('/proc/self/task'), reason='finds the child by /proc')


def sleeping_step(tmp_path):
    """(a command whose step sleeps, the step's process)."""
    log, script = str(tmp_path / 'log'), tmp_path / 'main.py'
    parts = [os.path.dirname(os.path.dirname(module.__file__)) for module in (caffe, children)]
    folders = [*parts, os.path.dirname(__file__)]
    script.write_text(
        f'import sys; sys.path[:0] = {folders!r}\n'
        'import test_stages\n'
        'from pipeline.child import run_in_child\n'
        'if __name__ == "__main__":\n'
        f'    run_in_child("long", test_stages.write, {{"then": "sleep"}}, {log!r})\n'
    )
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    return parent, wait_for(lambda: os.path.exists(log) and sleeping_child(parent.pid))


@NO_PROC
def test_a_step_does_not_outlive_its_command(tmp_path):
    parent, child = sleeping_step(tmp_path)
    parent.kill()
    parent.communicate()
    wait_for(lambda: has_ended(child))


@NO_PROC
def test_ctrl_c_ends_a_step_and_names_no_signal(tmp_path):
    parent, _ = sleeping_step(tmp_path)
    parent.send_signal(signal.SIGINT)
    said = parent.communicate()[1]
    assert (
        'Interrupted: stopped; the same command goes on from long' in said
        and 'SIG' not in said.splitlines()[-1]
    )


def sleeping_child(pid):
    """The process that a step runs in: the child of `pid` started by multiprocessing's spawn."""
    for child in open(f'/proc/{pid}/task/{pid}/children').read().split():
        if b'spawn_main' in open(f'/proc/{child}/cmdline', 'rb').read():
            return int(child)
    return None


def wait_for(condition, seconds=600):
    """What `condition` gives once it gives something true."""
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return condition()
        time.sleep(0.1)
    raise AssertionError('waited in vain')


def test_a_spoilt_manifest_is_named(manifest, job, tmp_path):
    (tmp_path / 'run.json').write_text('{"one": ')
    with pytest.raises(StageError, match='run.json'):
        manifest()
