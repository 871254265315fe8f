"""The log's level."""

import logging

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
