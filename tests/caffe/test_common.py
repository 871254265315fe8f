"""The log's level."""

import logging
import os
import subprocess
import sys

import pytest

from caffe import common


@pytest.mark.parametrize(
    'text, level', [('1', 'WARNING'), ('error', 'ERROR'), ('INFO', 'INFO'), ('', 'INFO')]
)
def test_glog_minloglevel_is_a_number_or_a_name(monkeypatch, text, level):
    before = common.logger.level
    monkeypatch.setenv('GLOG_minloglevel', text)
    try:
        common.init_log()
        assert logging.getLevelName(common.logger.level) == level
    finally:
        common.logger.setLevel(before)


def test_another_word_is_named(monkeypatch):
    monkeypatch.setenv('GLOG_minloglevel', 'loud')
    with pytest.raises(ValueError, match="GLOG_minloglevel is 'loud'"):
        common.init_log()


def test_a_python_without_the_packages_is_told_what_is_missing():
    package = os.path.dirname(os.path.dirname(common.__file__))
    done = subprocess.run(
        [sys.executable, '-S', '-c', 'import caffe'],
        text=True,
        capture_output=True,
        env={**os.environ, 'PYTHONPATH': package},
    )
    last = done.stderr.splitlines()[-1]
    assert (
        last.startswith('ImportError: caffe wants torch, numpy, ')
        and 'requirements.txt' in last
        and 'make all' in last
    )
