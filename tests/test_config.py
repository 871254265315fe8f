"""Settings: what overrides them, what is refused, and that a stage's scope ends."""

import numpy as np
import pytest

from fast_rcnn.config import (
    cfg,
    cfg_from_file,
    cfg_from_list,
    cfg_restore,
    cfg_values,
    get_output_dir,
    overrides,
)
from utils.param_str import parse_param_str


def test_file(tmp_path):
    path = tmp_path / 'a.yml'
    path.write_text(
        'EXP_DIR: mine\nTRAIN:\n  HAS_RPN: True\n  SCALES: [400, 500]\n  FG_FRACTION: 1\n'
        'TEST:\n  SCALES: !!python/tuple [300]\nPIXEL_MEANS: [[[1, 2, 3]]]\n'
    )
    cfg_from_file(str(path))
    assert cfg.EXP_DIR == 'mine' and cfg.TRAIN.HAS_RPN
    assert cfg.TRAIN.SCALES == (400, 500) and cfg.TEST.SCALES == (300,)
    assert cfg.TRAIN.FG_FRACTION == 1.0 and isinstance(cfg.TRAIN.FG_FRACTION, float)
    np.testing.assert_array_equal(cfg.PIXEL_MEANS, [[[1, 2, 3]]])


def test_list():
    cfg_from_list(['TRAIN.SCALES', '[120]', 'TEST.NMS', '0.5', 'EXP_DIR', 'words', 'USE_GPU_NMS', 'False'])
    assert (cfg.TRAIN.SCALES, cfg.TEST.NMS, cfg.EXP_DIR, cfg.USE_GPU_NMS) == ((120,), 0.5, 'words', False)
    with pytest.raises(ValueError, match='pairs'):
        cfg_from_list(['TEST.NMS'])


@pytest.mark.parametrize(
    'key, value, error, message',
    [
        ('TRAIN.BATCHSIZE', '1', KeyError, 'nearest is TRAIN.BATCH_SIZE'),
        ('TRAIN.RPN_NMS_TRESH', '1', KeyError, 'nearest is TRAIN.RPN_NMS_THRESH'),
        ('TRAIN', '1', KeyError, 'unknown setting TRAIN'),
        ('TRAIN.BATCH_SIZE', '1.5', TypeError, 'TRAIN.BATCH_SIZE wants int'),
        ('TRAIN.BATCH_SIZE', 'True', TypeError, 'got bool'),
        ('TRAIN.HAS_RPN', '1', TypeError, 'wants bool'),
        ('TRAIN.SCALES', '600', TypeError, 'TRAIN.SCALES wants tuple'),
        ('TRAIN.SCALES', '["a"]', TypeError, 'TRAIN.SCALES wants int'),
        ('PIXEL_MEANS', '[1, 2]', ValueError, 'wants 3 numbers'),
    ],
)
def test_refused(key, value, error, message):
    with pytest.raises(error, match=message):
        cfg_from_list([key, value])


def test_a_refused_file_is_named_and_changes_nothing(tmp_path):
    path = tmp_path / 'b.yml'
    path.write_text('EXP_DIR: other\nTRAIN:\n  NONSENSE: 1\n')
    with pytest.raises(KeyError, match='b.yml: unknown setting TRAIN.NONSENSE'):
        cfg_from_file(str(path))
    assert cfg.EXP_DIR == 'default'
    path.write_text('- 1\n')
    with pytest.raises(ValueError, match='wanted a mapping'):
        cfg_from_file(str(path))


def test_overrides_end_and_keep_sections_in_place():
    train = cfg.TRAIN
    with pytest.raises(RuntimeError), overrides({'TRAIN.HAS_RPN': True, 'TEST': {'NMS': 0.9}}):
        assert train.HAS_RPN and cfg.TEST.NMS == 0.9
        cfg.TRAIN.BATCH_SIZE = 7
        raise RuntimeError
    assert not train.HAS_RPN and cfg.TEST.NMS == 0.3 and train.BATCH_SIZE == 128 and cfg.TRAIN is train


def test_values_travel():
    with overrides({'TRAIN.BATCH_SIZE': 5}):
        values = cfg_values()
    assert type(values['TRAIN']) is dict and cfg.TRAIN.BATCH_SIZE == 128
    cfg_restore(values)
    assert cfg.TRAIN.BATCH_SIZE == 5


def test_output_dir(tmp_path):
    class Named:
        name = 'x'

    with overrides({'ROOT_DIR': str(tmp_path)}):
        assert get_output_dir(Named, Named) == str(tmp_path / 'output' / 'default' / 'x' / 'x')
    assert (tmp_path / 'output' / 'default' / 'x' / 'x').is_dir()


def test_param_str():
    assert parse_param_str("'num_classes': 201") == {'num_classes': 201}
    assert parse_param_str("'feat_stride': 16 \n'scales': !!python/tuple [2, 4, 8]") == {
        'feat_stride': 16,
        'scales': (2, 4, 8),
    }
    assert parse_param_str('') == {}
    with pytest.raises(ValueError, match='wants a mapping'):
        parse_param_str('21')
    with pytest.raises(ValueError, match=r'param_str:1:6: .*python/object'):
        parse_param_str("'a': !!python/object/apply:os.system ['true']")


def test_a_file_in_another_encoding_or_no_yaml_is_named(tmp_path):
    (tmp_path / 'a.yml').write_bytes(b'EXP_DIR: caf\xe9\n')
    with pytest.raises(ValueError, match='a.yml: not UTF-8'):
        cfg_from_file(str(tmp_path / 'a.yml'))
    (tmp_path / 'b.yml').write_text('EXP_DIR: [\n')
    with pytest.raises(ValueError, match=r'b\.yml:\d+:\d+: [^\n]+$'):
        cfg_from_file(str(tmp_path / 'b.yml'))
