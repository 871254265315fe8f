"""Files: atomic or not there, proposals and detections without pickle, old pickles read safely."""

import collections
import os
import pickle
import resource

import numpy as np
import pytest

from caffe.format.files import atomic_write
from utils import safe_pickle
from utils.files import atomic_path, load_npz, pack, save_npz, unpack
from utils.proposals import (
    load_detections,
    load_proposals,
    newest_proposals,
    proposal_file,
    save_detections,
    save_proposals,
)

GOLDEN = os.path.join(os.path.dirname(__file__), 'golden', 'e2e')


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'new' / 'x.txt'
    with atomic_path(path) as temporary:
        with open(temporary, 'w') as stream:
            stream.write('first')
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        with open(temporary, 'w') as stream:
            stream.write('half')
        raise RuntimeError
    assert path.read_text() == 'first' and os.listdir(path.parent) == ['x.txt']


def test_errors_of_writing_name_the_file_that_was_wanted(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a full disk: nobody names the file
    try:
        for write in atomic_path, atomic_write:
            with pytest.raises(OSError, match='File too large') as caught, write(tmp_path / 'x') as temporary:
                with open(temporary, 'wb', buffering=0) as stream:
                    while True:
                        stream.write(bytes(60))
            assert str(caught.value.filename) == str(tmp_path / 'x') and not os.listdir(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (tmp_path / 'x').mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_path(str(tmp_path / 'x')) as temporary:
        open(temporary, 'w').close()
    assert caught.value.filename == str(tmp_path / 'x') and os.listdir(tmp_path) == ['x']
    with pytest.raises(OSError, match='^other.jpg: no image$'), atomic_path(str(tmp_path / 'y')):
        raise OSError('other.jpg: no image')


def test_npz(tmp_path):
    path = str(tmp_path / 'a.npz')
    save_npz(path, a=np.arange(3))
    assert load_npz(path)['a'].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match='objects'):
        save_npz(path, a=np.array([{}]))
    with open(path, 'r+b') as stream:
        stream.truncate(os.path.getsize(path) - 20)
    with pytest.raises(ValueError, match='a.npz: not a whole .npz file'):
        load_npz(path)


def test_pack_and_unpack():
    arrays = [np.ones((2, 4)), np.zeros((0, 4)), np.full((1, 4), 2)]
    for ours, theirs in zip(unpack(*pack(arrays, 4)), arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert unpack(*pack([], 4)) == []


def test_proposals(tmp_path):
    boxes = [np.arange(8).reshape(2, 4), np.zeros((0, 4))]
    path = str(tmp_path / 'p.json')
    save_proposals(path, boxes)
    assert [b.shape for b in load_proposals(path)] == [(2, 4), (0, 4)]
    save_proposals(path, boxes, [np.array([[0.5], [0.25]]), np.zeros((0, 1))])
    loaded = load_proposals(path)
    np.testing.assert_array_equal(loaded[0], [[0, 1, 2, 3, 0.5], [4, 5, 6, 7, 0.25]])
    with pytest.raises(ValueError, match='differ'):
        save_proposals(path, boxes, [np.zeros((1, 1)), np.zeros((0, 1))])
    with pytest.raises(FileNotFoundError, match='no proposal file'):
        load_proposals(str(tmp_path / 'none.json'))
    save_npz(path, other=np.zeros(1))
    with pytest.raises(ValueError, match='wanted an array boxes'):
        load_proposals(path)


def test_proposals_of_older_tools(tmp_path):
    folder = os.path.join(GOLDEN, 'proposals_stage1_val2')
    loaded = load_proposals(folder)
    assert len(loaded) == 12 and loaded[0].shape == (300, 4) and loaded[0].dtype == np.float32
    assert loaded[0][0].tolist() == pytest.approx([16.808315, 0, 117.530975, 119])
    one_file = tmp_path / 'all.pkl'
    one_file.write_bytes(pickle.dumps(list(loaded), 2))
    np.testing.assert_array_equal(load_proposals(str(one_file))[11], loaded[11])
    (tmp_path / 'folder').mkdir()
    for name in '0.pkl', '2.pkl':
        (tmp_path / 'folder' / name).write_bytes(pickle.dumps(loaded[0]))
    with pytest.raises(FileNotFoundError, match='1.pkl'):
        load_proposals(str(tmp_path / 'folder'))


def test_detections(tmp_path):
    old = load_detections(os.path.join(GOLDEN, 'detections.pkl'))
    assert len(old) == 201 and len(old[37]) == 12 and old[37][0].shape == (4, 5)
    path = str(tmp_path / 'd.npz')
    save_detections(path, old)
    for a, b in zip(old, load_detections(path), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    with pytest.raises(FileNotFoundError, match='no detection file'):
        load_detections(str(tmp_path / 'none.npz'))


class Runs:
    def __reduce__(self):
        return os.system, ('echo run > harm',)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays_and_containers(tmp_path, protocol):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = {
        'a': [rows, (1, 2.5, None, 'x', b'y')],
        'b': np.float64(3.5),
        'c': collections.OrderedDict(z=np.array(['s'])),
        'f': np.asfortranarray(rows),
    }
    path = tmp_path / 'x.pkl'
    path.write_bytes(pickle.dumps(value, protocol))
    loaded = safe_pickle.load(path)
    np.testing.assert_array_equal(loaded['a'][0], value['a'][0])
    np.testing.assert_array_equal(loaded['f'], value['f'])
    assert loaded['a'][1] == value['a'][1] and loaded['b'] == 3.5 and loaded['c']['z'][0] == 's'


@pytest.mark.parametrize(
    'value', [Runs(), [np.array([Runs()], dtype=object)], os.path.join, collections.Counter()]
)
def test_anything_else_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(value))
    with pytest.raises(pickle.UnpicklingError, match='x.pkl: names'):
        safe_pickle.load('x.pkl')
    assert not (tmp_path / 'harm').exists()


def test_broken_pickle(tmp_path):
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(np.arange(100))[:50])
    with pytest.raises(pickle.UnpicklingError, match='x.pkl'):
        safe_pickle.load(tmp_path / 'x.pkl')


class Asks:
    """Pickled as a call of `function` with `args`, then with `state` to take."""

    def __init__(self, function, args, *state):
        self.parts = function, args, *state

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np.arange(1).__reduce__()[0]
OBJECTS = (1, (3 * 10**8,), np.dtype(object), False, [])


@pytest.mark.parametrize(
    'content',
    [
        pickle.dumps(Asks(np.ndarray, ((3 * 10**9,), 'b'))),
        pickle.dumps(Asks(RECONSTRUCT, (np.ndarray, (3 * 10**9,), b'b'))),
        pickle.dumps(Asks(RECONSTRUCT, (np.ndarray, (0,), b'b'), OBJECTS)),
        b'N' + pickle.LONG_BINPUT + (10**8).to_bytes(4, 'little') + pickle.MARK + b'.',
        pickle.BINBYTES8 + (3 * 10**9).to_bytes(8, 'little') + b'x.',
    ],
)
def test_a_pickle_gets_no_more_memory_than_its_file_holds(tmp_path, content):
    (tmp_path / 'x.pkl').write_bytes(content)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with open('/proc/self/statm') as f:
        now = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, limit[1]))
    try:
        with pytest.raises(pickle.UnpicklingError, match='x.pkl'):
            safe_pickle.load(tmp_path / 'x.pkl')
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def test_newest_proposals(tmp_path):
    with pytest.raises(FileNotFoundError, match='rpn_generate.py'):
        newest_proposals(str(tmp_path))
    for age, net in enumerate(['new', 'old']):
        path = proposal_file(str(tmp_path), net)
        open(path, 'w').close()
        os.utime(path, (1000 - age, 1000 - age))
    assert newest_proposals(str(tmp_path)) == proposal_file(str(tmp_path), 'new')
