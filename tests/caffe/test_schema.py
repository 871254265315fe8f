"""No layer ignores a field of its own parameter message, unless compat.py says why: each other field is
declared, and looked at when small nets of the type are made and run."""

import ast
import collections
import importlib
import inspect
import textwrap

import cv2
import h5py
import numpy as np
import pytest

import caffe
import compat
import fork_cases
import layer_cases
from caffe import graph
from caffe.registry import layer_class
from caffe.tape import FunctionLayer
from caffe.convert_annoset import annotated
from caffe.format.database import write_database
from caffe.proto import caffe_pb2
from helpers import data, layer, net_from
from layer_cases import build, run

KINDS = caffe.layer_type_list()
CASES = {**layer_cases.CASES, **fork_cases.CASES}
# Types of forks that are not here; their messages are, so that nets with them can be read and drawn.
NO_LAYER = {
    'video_data_param': 'VideoData',
    'selu_dropout_param': 'SELUDropout',
}
# Fields that are read only where the nets below do not go, and the tests that go there.
READ_ELSEWHERE = {'InfogainLoss': {'source'}}  # test_layers.test_infogain_matrix_from_file


@pytest.mark.parametrize('kind', KINDS)
def test_fields_are_declared_or_excused(kind):
    cls = layer_class(kind)
    fields = {f for m in cls.messages for f in compat.schema(m)}
    assert set(cls.fields) <= fields, 'declared, but not in the messages'
    excused = {**compat.IGNORED, **compat.IGNORED_BY.get(kind, {})}
    assert not fields - set(cls.fields) - set(excused), 'neither honoured nor excused'
    assert not set(compat.IGNORED_BY.get(kind, {})) - (fields - set(cls.fields)), 'excuses without need'


def test_excuses_are_needed():
    used = {f for kind in KINDS for f in compat.ignored(kind)}
    assert set(compat.IGNORED) <= used and {*compat.IGNORED_BY, *compat.NOTES} <= set(KINDS)


def test_every_parameter_message_has_its_layer():
    owned = {m for kind in KINDS for m in layer_class(kind).messages}
    messages = {f.name for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields if f.name.endswith('_param')}
    assert messages - owned == {'transform_param', *NO_LAYER} and not set(NO_LAYER.values()) & set(KINDS)


class Recorder:
    """A message that notes which of its fields are looked at."""

    def __init__(self, message, seen, path=()):
        self.message, self.seen, self.path = message, seen, path

    def __getattr__(self, name):
        value = getattr(self.message, name)
        if name not in self.message.DESCRIPTOR.fields_by_name:
            return value
        self.seen.add((*self.path, name))
        return Recorder(value, self.seen, (*self.path, name)) if hasattr(value, 'HasField') else value

    def HasField(self, name):
        self.seen.add((*self.path, name))
        return self.message.HasField(name)


@pytest.fixture
def seen(monkeypatch):
    """{type: paths of the fields looked at} of all layers made from now on."""
    seen = collections.defaultdict(set)
    create = graph._create_layer

    def create_recorded(layer_param):
        made = create(layer_param)
        made.layer_param = Recorder(layer_param, seen[layer_param.type])
        return made

    monkeypatch.setattr(graph, '_create_layer', create_recorded)
    return seen


def source_nets(folder):
    """{type: [nets of a layer that reads or writes a source]}, with their files."""
    image = np.full((8, 8, 3), 7, np.uint8)
    cv2.imwrite(str(folder / 'x.png'), image)
    (folder / 'list.txt').write_text('x.png 0\n')
    (folder / 'windows.txt').write_text('# 0\nx.png\n3\n8\n8\n2\n1 0.9 0 0 5 5\n0 0.1 2 2 6 6\n')
    datum = caffe.io.array_to_datum(image.transpose(2, 0, 1), 1).SerializeToString()
    write_database(str(folder / 'lmdb'), 'lmdb', [(b'0', datum)])
    boxed = annotated(caffe_pb2.Datum.FromString(datum), [(1, False, (1, 1, 5, 5))], (8, 8))
    write_database(str(folder / 'boxes'), 'lmdb', [(b'0', boxed.SerializeToString())])
    with h5py.File(folder / 'rows.h5', 'w') as f:
        f['x'] = np.zeros((2, 3))
    (folder / 'h5.txt').write_text(f'{folder}/rows.h5\n')
    record = f'source: "{folder}/lmdb" batch_size: 2 backend: LMDB'
    rows = f'source: "{folder}/h5.txt" batch_size: 2'
    batch = f'batch_size: 2 root_folder: "{folder}/" source: "{folder}'
    return {
        'AnnotatedData': [
            layer(
                'x',
                'AnnotatedData',
                tops='x label',
                more=f'data_param {{ {record.replace("/lmdb", "/boxes")} }} annotated_data_param {{ }}',
            )
        ],
        'Data': [layer('x', 'Data', tops='x label', more=f'data_param {{ {record} }}')],
        'ImageData': [
            layer('x', 'ImageData', tops='x label', more=f'image_data_param {{ {batch}/list.txt" }}')
        ],
        'WindowData': [
            layer(
                'x',
                'WindowData',
                tops='x label',
                more=f"""transform_param {{ crop_size: 4 }}
                             window_data_param {{ {batch}/windows.txt" fg_fraction: 0.5 }}""",
            )
        ],
        'HDF5Data': [layer('x', 'HDF5Data', more=f'hdf5_data_param {{ {rows} }}')],
        'HDF5Output': [
            data('x', 2)
            + data('y', 2)
            + layer('out', 'HDF5Output', 'x y', '', f'hdf5_output_param {{ file_name: "{folder}/out.h5" }}')
        ],
        'MemoryData': [
            layer(
                'x',
                'MemoryData',
                tops='x label',
                more='memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }',
            )
        ],
        'DummyData': [
            layer('x', 'DummyData', more=f'dummy_data_param {{ {dims} }}')
            for dims in (
                'shape { dim: 2 } data_filler { type: "uniform" }',
                'num: 1 channels: 2 height: 3 width: 4',
            )
        ],
        'Input': [data('x', 2)],
        'Parameter': [layer('x', 'Parameter', more='parameter_param { shape { dim: 2 } }')],
        'Python': [layer('x', 'Python', more='python_param { module: "test_schema" layer: "Nothing" }')],
    }


class Nothing(caffe.Layer):
    def forward(self, bottom, top):
        pass


def run_nets(kind, folder):
    """Make and run the nets of a type: its layer_cases, or those of source_nets."""
    for it in CASES.get(kind, []):
        values = [make(np.random.default_rng(7)).astype(np.float32) for make in it.bottoms]
        for phase in it.phases:
            run(build(kind, it, values, phase, folder), values)
    for text in source_nets(folder)[kind] if kind not in CASES else []:
        net = net_from(folder, text, caffe.TRAIN)
        if kind == 'MemoryData':
            net.set_input_arrays(np.zeros((2, 1, 2, 3), np.float32), np.zeros((2, 1, 1, 1), np.float32))
        net.forward()


@pytest.mark.parametrize('kind', KINDS)
def test_declared_fields_are_read(kind, seen, tmp_path):
    run_nets(kind, tmp_path)
    read = {path[1] for path in seen[kind] if len(path) > 1}
    fields = set(layer_class(kind).fields)
    if kind == 'Python':  # a user's class knows its param_str; the others made it
        fields -= {'module', 'layer', 'param_str'}
    assert sorted(fields - read - READ_ELSEWHERE.get(kind, set())) == []
    if kind in ('AnnotatedData', 'Data', 'ImageData', 'WindowData'):
        assert {('transform_param', field) for field in layer_class(kind).transformer.fields} <= seen[kind]


@pytest.mark.parametrize('kind', [k for k in KINDS if issubclass(layer_class(k), FunctionLayer)])
def test_keywords_of_functions_are_used(kind):
    function = layer_class(kind).function
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert set(function.__kwdefaults__ or ()) | set(layer_class(kind).fields) <= used


def test_the_solver_reads_its_fields():
    """Each field of SolverParameter is a name in the modules that look at solvers."""
    trees = [
        ast.parse(inspect.getsource(m))
        for m in (
            importlib.import_module('caffe.' + n)
            for n in ('solver', 'rules', 'format.prototxt', 'format.upgrade', 'parallel', '__main__')
        )
    ]
    names = {
        getattr(n, 'attr', getattr(n, 'value', None))
        for tree in trees
        for n in ast.walk(tree)
        if isinstance(n, (ast.Attribute, ast.Constant))
    }
    fields = set(caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name)
    assert fields <= names


def test_the_page_is_current():
    """Otherwise: python caffe-fast-rcnn/compat.py"""
    assert compat.table() in compat.README.read_text()
