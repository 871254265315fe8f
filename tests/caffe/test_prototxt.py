"""Text nets and solvers: what is read, errors with their place, layers by phase, level and stage."""

import pytest

from caffe.format.prototxt import filter_net, parse_net, read_net, read_solver
from caffe.format.weights import read_weights
from caffe.proto import caffe_pb2


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('layer {\n  nme: "x" }', r"net\.prototxt:2:.*LayerParameter.*'?nme.*Did you mean 'name'"),
        ('layer { convolution_param { kernelsize: 3 } }', "ConvolutionParameter.*kernelsize.*'kernel_size'"),
        ('layer { include { phase: TRIAN } }', "Phase.*TRIAN.*Did you mean 'TRAIN'"),
        ('layer {\n\n', r'net\.prototxt:\d'),
        ('name: "a" name: "b"', 'multiple "name"'),
        ('layer { name: "c" type: "Clip" clip_param { min: 0 } }', r'net\.prototxt: .*clip_param\.max'),
    ],
)
def test_a_faulty_prototxt_is_named_with_its_place(tmp_path, text, wanted):
    path = tmp_path / 'net.prototxt'
    path.write_text(text)
    with pytest.raises(ValueError, match=wanted):
        read_net(str(path))


@pytest.mark.parametrize('read', [read_net, read_solver, read_weights])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match='nowhere.txt does not exist'):
        read(str(tmp_path / 'nowhere.txt'))
    with pytest.raises(FileNotFoundError, match='is a folder'):
        read(str(tmp_path))


def test_byte_order_mark_and_foreign_comments_are_no_obstacle(tmp_path):
    path = tmp_path / 'net.prototxt'
    path.write_bytes(b"\xef\xbb\xbf# caf\xe9\nname: 'n'\n")
    assert read_net(str(path)).name == 'n'


RULES = """
layer { name: "always" }
layer { name: "train" include { phase: TRAIN } }
layer { name: "not_test" exclude { phase: TEST } }
layer { name: "levels" include { min_level: 2 max_level: 3 } }
layer { name: "staged" include { stage: "a" stage: "b" } }
layer { name: "unstaged" include { not_stage: "a" } }
layer { name: "either" include { phase: TEST stage: "a" } include { min_level: 5 } }
"""


@pytest.mark.parametrize(
    'state, wanted',
    [
        (dict(phase=0), 'always train not_test unstaged'),
        (dict(phase=1), 'always unstaged'),
        (dict(), 'always unstaged'),  # the phase is TEST unless given
        (dict(phase=0, level=2), 'always train not_test levels unstaged'),
        (dict(phase=1, level=4), 'always unstaged'),
        (dict(phase=1, stage=['a', 'b', 'c']), 'always staged either'),
        (dict(phase=0, level=5, stage=['a']), 'always train not_test either'),
    ],
)
def test_rules_let_layers_in(state, wanted):
    param = parse_net(RULES)
    got = filter_net(param, caffe_pb2.NetState(**state))
    assert [layer.name for layer in got.layer] == wanted.split()
    assert len(param.layer) == 7


def test_include_and_exclude_in_one_layer_is_an_error():
    param = parse_net('layer { name: "x" include { phase: TRAIN } exclude { phase: TEST } }')
    with pytest.raises(ValueError, match="'x'.*both include and exclude"):
        filter_net(param, caffe_pb2.NetState())
