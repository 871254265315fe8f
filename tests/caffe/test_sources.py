"""The data layers, on databases, images and arrays that the tests make; the commands that make databases."""

import gc
import itertools
import os
import subprocess
import sys
import threading

import cv2
import h5py
import lmdb
import numpy as np
import pytest

import caffe
from caffe import compute_image_mean, convert_imageset
from caffe import registry
from caffe.format.database import open_database, write_database
from caffe.types.sources.batch import BatchLayer, Prefetch, batches
from caffe.types.sources.transformer import Transformer
from caffe.types.sources.windows import place_window
from caffe.proto import caffe_pb2
from helpers import data, layer, net_from

RAMP = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)  # an image (K, H, W)
PACKAGE_FOLDER = os.path.dirname(os.path.dirname(caffe.__file__))


# ---- what the tests make ----


def make_lmdb(path, records):
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as transaction:
        for key, value in records:
            transaction.put(key, value)
    return path


def datum(image, label=0):
    return caffe.io.array_to_datum(np.asarray(image), label).SerializeToString()


def encoded(image, label=0, kind='png'):
    """A Datum of an image (H, W) or (H, W, 3) as a file."""
    data = cv2.imencode('.' + kind, image)[1].tobytes()
    return caffe_pb2.Datum(data=data, label=label, encoded=True).SerializeToString()


def make_db(path, values):
    return make_lmdb(path, [(b'%08d' % i, value) for i, value in enumerate(values)])


def ramps(path, count):
    """A database of `count` images; number i is RAMP + i and has the label i."""
    return make_db(path, [datum(RAMP + i, i) for i in range(count)])


def data_net(tmp_path, source, batch, more='', transform='', tops='x label', phase=caffe.TEST):
    for name, value in (('batch_size', batch), ('backend', 'LMDB')):
        if name not in more:
            more += f' {name}: {value}'
    text = layer(
        'D',
        'Data',
        tops=tops,
        more=f'data_param {{ source: "{source}" {more} }} transform_param {{ {transform} }}',
    )
    return net_from(tmp_path, text, phase)


def labels(net, passes):
    return [net.forward()['label'].astype(int).tolist() for _ in range(passes)]


def write_mean(path, mean):
    path.write_bytes(caffe.io.array_to_blobproto(np.float32(mean)[None]).SerializeToString())
    return path


@pytest.fixture
def ranks():
    def be(rank, count):
        caffe.set_solver_rank(rank)
        caffe.set_solver_count(count)

    yield be
    be(0, 1)


# ---- Data ----


def test_data_gives_records_in_order_round_and_round(tmp_path):
    net = data_net(tmp_path, ramps(tmp_path / 'db', 3), 2)
    assert net.blobs['x'].shape == (2, 3, 4, 5) and net.blobs['label'].shape == (2,)
    for wanted in ([0, 1], [2, 0], [1, 2], [0, 1]):
        out = net.forward()
        assert out['label'].tolist() == wanted
        np.testing.assert_array_equal(out['x'], [RAMP + i for i in wanted])


def test_data_without_label_and_with_floats(tmp_path):
    values = np.linspace(-1, 1, 12).reshape(3, 2, 2)
    net = data_net(tmp_path, make_db(tmp_path / 'db', [datum(values)]), 1, tops='x')
    np.testing.assert_array_equal(net.forward()['x'][0], values.astype(np.float32))


@pytest.mark.parametrize(
    'more, transform, wanted',
    [
        ('', '', ['bgr', 'gray']),
        ('', 'force_color: true', ['bgr', 'gray as bgr']),
        ('force_encoded_color: true', '', ['bgr', 'gray as bgr']),
        ('', 'force_gray: true', ['bgr as gray', 'gray']),
    ],
)
def test_encoded_records(tmp_path, more, transform, wanted):
    rng = np.random.default_rng(0)
    bgr, gray = rng.integers(0, 256, (4, 5, 3), np.uint8), rng.integers(0, 256, (4, 5), np.uint8)
    images = {
        'bgr': bgr,
        'gray': gray[:, :, None],
        'gray as bgr': np.dstack([gray] * 3),
        'bgr as gray': cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[:, :, None],
    }
    source = make_db(tmp_path / 'db', [encoded(bgr, 7), encoded(gray, 8)])
    net = data_net(tmp_path, source, 1, more, transform)
    for name, label in zip(wanted, (7, 8)):
        out = net.forward()
        assert out['label'] == label
        np.testing.assert_allclose(out['x'][0], images[name].transpose(2, 0, 1), atol='as gray' in name)


def test_each_batch_has_the_shape_of_its_first_record(tmp_path):
    source = make_db(tmp_path / 'db', [datum(RAMP), datum(RAMP[:, :2])])
    net = data_net(tmp_path, source, 1)
    assert [net.forward()['x'].shape for _ in range(3)] == [(1, 3, 4, 5), (1, 3, 2, 5), (1, 3, 4, 5)]
    wanted = r"'D' \(Data\): record '00000001' .*\(3, 2, 5\).*record '00000000' .*\(3, 4, 5\)"
    with pytest.raises(ValueError, match=wanted):
        data_net(tmp_path, source, 2)


def test_solvers_share_the_records_out_in_training_only(tmp_path, ranks):
    source = ramps(tmp_path / 'db', 5)
    ranks(1, 2)
    assert labels(data_net(tmp_path, source, 5, phase=caffe.TRAIN), 2) == [[1, 3, 0, 2, 4], [1, 3, 0, 2, 4]]
    assert labels(data_net(tmp_path, source, 5), 1) == [[0, 1, 2, 3, 4]]


def test_rand_skip_begins_anywhere_below_it(tmp_path):
    source, firsts = ramps(tmp_path / 'db', 4), set()
    for seed in range(30):
        net = data_net(tmp_path, source, 3, 'rand_skip: 3') if seed == 0 else reseeded(tmp_path, seed)
        ((first, *rest),) = labels(net, 1)
        assert rest == [(first + 1) % 4, (first + 2) % 4]
        firsts.add(first)
    assert firsts == {0, 1, 2}


def reseeded(tmp_path, seed):
    """The net that net_from wrote last, from another seed."""
    caffe.set_random_seed(seed)
    return caffe.Net(str(tmp_path / 'net.prototxt'), caffe.TEST)


def test_two_nets_read_one_database(tmp_path):
    source = ramps(tmp_path / 'db', 3)
    first, second = data_net(tmp_path, source, 1), data_net(tmp_path, source, 2)
    assert labels(first, 2) == [[0], [1]] and labels(second, 1) == [[0, 1]] and labels(first, 2) == [[2], [0]]


# ---- the transformer ----


def test_values_less_mean_times_scale(tmp_path):
    """By a plain loop, of the central 2 x 3 pixels."""
    net = data_net(
        tmp_path,
        ramps(tmp_path / 'db', 1),
        1,
        '',
        'scale: 0.5 crop_h: 2 crop_w: 3 mean_value: 1 mean_value: 2 mean_value: 4',
    )
    out = net.forward()['x'][0]
    for k, y, x in itertools.product(range(3), range(2), range(3)):
        assert out[k, y, x] == (RAMP[k, 1 + y, 1 + x] - (1, 2, 4)[k]) * 0.5
    assert out.shape == (3, 2, 3)


def test_one_mean_value_is_for_all_channels(tmp_path):
    net = data_net(tmp_path, ramps(tmp_path / 'db', 1), 1, '', 'mean_value: 3')
    np.testing.assert_array_equal(net.forward()['x'][0], RAMP - 3.0)


@pytest.mark.parametrize('phase', [caffe.TRAIN, caffe.TEST])
def test_crops_and_mirror_images(tmp_path, phase):
    """All crops occur in TRAIN, the central one in TEST, each mirrored or not; the mean is cropped alike."""
    mean = np.random.default_rng(0).uniform(0, 9, RAMP.shape).astype(np.float32)
    mean_file = write_mean(tmp_path / 'mean.binaryproto', mean)
    net = data_net(
        tmp_path,
        ramps(tmp_path / 'db', 1),
        50,
        '',
        f'crop_size: 2 mirror: true mean_file: "{mean_file}"',
        phase=phase,
    )
    places = list(itertools.product(range(3), range(4))) if phase == caffe.TRAIN else [(1, 1)]
    whole = RAMP - mean
    known = {
        whole[:, y : y + 2, x : x + 2][:, :, ::step].tobytes(): (y, x, step)
        for y, x in places
        for step in (1, -1)
    }
    seen = {known[image.tobytes()] for _ in range(6) for image in net.forward()['x']}
    assert seen == set(known.values())


def test_a_crop_at_test_is_centred_as_integers_divide(tmp_path):
    """4 x 5 to 3 x 2: from (1 // 2, 3 // 2) = (0, 1)."""
    net = data_net(tmp_path, ramps(tmp_path / 'db', 1), 1, '', 'crop_h: 3 crop_w: 2')
    np.testing.assert_array_equal(net.forward()['x'][0], RAMP[:, :3, 1:3])


@pytest.mark.parametrize('kind', ['Data', 'ImageData', 'WindowData', 'MemoryData', 'HDF5Output'])
def test_no_field_is_ignored(kind):
    """Fields that moved to transform_param are refused; see test_bad_data."""
    cls = registry.layer_class(kind)
    message = getattr(caffe_pb2.LayerParameter(), registry._PARAM_OF_TYPE[kind])
    moved = set() if kind in ('MemoryData', 'HDF5Output') else {'scale', 'mirror', 'crop_size', 'mean_file'}
    assert {f.name for f in message.DESCRIPTOR.fields} == set(cls.fields) | moved


def test_transform_fields_are_honoured_or_refused():
    for field in caffe_pb2.TransformationParameter.DESCRIPTOR.fields:
        param = caffe_pb2.TransformationParameter()
        if field.name not in Transformer.fields:
            value = getattr(param, field.name)
            value.append(2) if hasattr(value, 'append') else value.SetInParent()
            with pytest.raises(ValueError, match=f'{field.name} is not supported'):
                Transformer(param, caffe.TEST, None)


# ---- prefetch ----


def test_batches_are_the_same_with_and_without_prefetch(tmp_path):
    source, seen = ramps(tmp_path / 'db', 7), {}
    for depth in (0, 1, 4):
        net = data_net(
            tmp_path,
            source,
            3,
            f'prefetch: {depth} rand_skip: 5',
            'crop_size: 2 mirror: true',
            phase=caffe.TRAIN,
        )
        seen[depth] = np.array([net.forward()['x'].copy() for _ in range(8)])
        caffe.set_random_seed(99)  # later draws of the engine do not matter
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[4])
    net = reseeded(tmp_path, 2)
    assert not np.array_equal(seen[0], [net.forward()['x'].copy() for _ in range(8)])


def test_prefetch_makes_its_depth_ahead_and_no_more():
    made = threading.Semaphore(0)
    count = itertools.count()

    def items():
        while True:
            made.release()
            yield next(count)

    prefetch = Prefetch(items(), 3)
    assert [next(prefetch), next(prefetch), prefetch.first(), prefetch.first()] == [0, 1, 2, 2]
    for _ in range(7):  # 0 1 2 taken, 3 4 5 in the queue, 6 waits to get in
        assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.1)


@pytest.mark.parametrize('depth', [0, 3])
def test_an_error_comes_in_its_place_and_stays(depth):
    def items():
        yield 'one'
        raise OSError('broken.jpg')

    prefetch = Prefetch(items(), depth)
    assert next(prefetch) == 'one'
    for _ in range(2):
        with pytest.raises(OSError, match='broken.jpg'):
            next(prefetch)


def test_the_thread_goes_with_the_net(tmp_path):
    source = ramps(tmp_path / 'db', 3)
    gc.collect()  # nets of earlier tests
    before = set(threading.enumerate())
    net = data_net(tmp_path, source, 2)
    net.forward()
    (thread,) = set(threading.enumerate()) - before
    del net
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_batch_is_left_off_when_the_net_goes():
    stop, asked = threading.Event(), []

    def samples():
        for i in itertools.count():
            asked.append(i)
            if i == 2:
                stop.set()
            yield np.zeros((1, 1, 1), np.float32), 0, 'x'

    assert list(batches(samples(), 10**6, stop)) == [] and asked == [0, 1, 2]


def test_a_forked_process_is_told_that_the_thread_stayed_behind(monkeypatch):
    prefetch = Prefetch(itertools.count(), 2)
    child = os.getpid() + 1
    monkeypatch.setattr(os, 'getpid', lambda: child)
    with pytest.raises(RuntimeError, match='forked'):
        next(prefetch)


def run_python(*args):
    env = dict(os.environ, PYTHONPATH=PACKAGE_FOLDER)
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=120, env=env)


def test_a_program_ends_while_batches_are_made(tmp_path):
    """And the rows that HDF5Output was given are in their file."""
    source = ramps(tmp_path / 'db', 3)
    data_net(tmp_path, source, 2)
    with open(tmp_path / 'net.prototxt', 'a') as f:
        param = f'hdf5_output_param {{ file_name: "{tmp_path}/out.h5" }}'
        f.write(layer('O', 'HDF5Output', 'x label', '', param))
    program = f'import caffe; net = caffe.Net("{tmp_path}/net.prototxt", 1); net.forward(); net.forward()'
    run = run_python('-c', program)
    assert (run.returncode, run.stderr) == (0, '')
    with h5py.File(tmp_path / 'out.h5') as f:
        assert f['label'][:].ravel().tolist() == [0, 1, 2, 0]


# ---- bad databases ----


def bad_sources(tmp_path):
    (tmp_path / 'plain').mkdir()
    (tmp_path / 'level').mkdir()
    (tmp_path / 'level' / 'CURRENT').write_text('')
    (tmp_path / 'garbage').mkdir()
    (tmp_path / 'garbage' / 'data.mdb').write_bytes(b'x' * 10000)
    make_db(tmp_path / 'cut', [datum(np.zeros((3, 100, 100), np.uint8))] * 20)
    with open(tmp_path / 'cut' / 'data.mdb', 'r+b') as f:
        f.truncate(300000)
    noise = caffe_pb2.Datum(data=b'no image', encoded=True).SerializeToString()
    short = caffe_pb2.Datum(channels=3, height=4, width=5, data=b'short').SerializeToString()
    deep = encoded(np.zeros((4, 5), np.uint16))
    none = caffe_pb2.Datum(label=1).SerializeToString()
    databases = dict(
        good=[datum(RAMP)] * 2,
        empty=[],
        text=[b'\xff\xff'],
        noise=[noise],
        short=[short],
        deep=[deep],
        none=[none],
        later=[datum(RAMP), noise],
    )
    for name, values in databases.items():
        make_db(tmp_path / name, values)
    write_mean(tmp_path / 'mean', np.zeros((3, 4, 4)))
    (tmp_path / 'broken').write_bytes(b'\xff\xff')


@pytest.mark.parametrize(
    'source, more, transform, error, match',
    [
        ('nowhere', '', '', FileNotFoundError, 'nowhere'),
        ('plain', '', '', ValueError, 'plain.*no database.*data.mdb'),
        ('level', '', '', ValueError, 'level.*is LEVELDB, but LMDB'),
        ('good', 'backend: LEVELDB', '', ValueError, 'good.*is LMDB, but LEVELDB'),
        ('garbage', '', '', ValueError, 'garbage cannot be read'),
        ('cut', '', '', ValueError, 'cut is truncated: data.mdb has 300000 bytes of'),
        ('empty', '', '', ValueError, 'empty.*is empty'),
        ('text', '', '', ValueError, "record '00000000' of .*text is no Datum"),
        ('noise', '', '', ValueError, "record '00000000' of .*noise .8 bytes. cannot be decoded"),
        ('short', '', '', ValueError, "record '00000000' of .*short: .*5.*3,4,5"),
        ('deep', '', '', ValueError, 'deep has uint16 pixels'),
        ('none', '', '', ValueError, 'none is an empty Datum'),
        ('good', 'batch_size: 0', '', ValueError, 'batch_size must be given'),
        ('good', 'mirror: true', '', ValueError, 'mirror has its place in transform_param'),
        ('good', '', 'crop_size: 5', ValueError, r"record '00000000'.*crop of \(5, 5\).*image of \(4, 5\)"),
        ('good', '', 'crop_h: 5', ValueError, 'crop_h and crop_w come together'),
        ('good', '', 'mean_value: 1 mean_value: 2', ValueError, '2 mean_value for 3 channels'),
        ('good', '', 'mean_value: 1 mean_file: "DIR/mean"', ValueError, 'mean_file and mean_value exclude'),
        ('good', '', 'mean_file: "DIR/mean"', ValueError, r'mean has .* \(3, 4, 4\), the image \(3, 4, 5\)'),
        ('good', '', 'mean_file: "DIR/broken"', ValueError, 'broken is no BlobProto'),
        ('good', '', 'mean_file: "DIR/gone"', FileNotFoundError, 'gone'),
        ('good', '', 'force_gray: true', ValueError, 'not encoded and has 3 channels'),
        ('good', '', 'force_gray: true force_color: true', ValueError, 'force_color and force_gray exclude'),
        ('good', '', 'resize_param { }', ValueError, 'resize_param is not supported'),
    ],
)
def test_bad_data(tmp_path, source, more, transform, error, match):
    bad_sources(tmp_path)
    with pytest.raises(error, match=match):
        data_net(tmp_path, tmp_path / source, 1, more, transform.replace('DIR', str(tmp_path)))


def test_a_bad_record_reaches_the_pass_that_wants_it(tmp_path):
    bad_sources(tmp_path)
    net = data_net(tmp_path, tmp_path / 'later', 1)
    net.forward()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"layer 'D' \(Data\): record '00000001' of .*later"):
            net.forward()


def test_number_of_tops(tmp_path):
    with pytest.raises(ValueError, match='3 tops'):
        data_net(tmp_path, ramps(tmp_path / 'db', 1), 1, tops='x y z')


# ---- ImageData ----


@pytest.fixture
def pictures(tmp_path):
    """Six images 8 x 10 in a folder; image i has the label i. list.txt names them, one with a space."""
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (8, 10, 3), np.uint8) for _ in range(6)]
    names = ['0.png', 'a 1.png', '2.png', '3.png', '4.png', '5.png']
    (tmp_path / 'images').mkdir()
    for name, image in zip(names, images):
        cv2.imwrite(str(tmp_path / 'images' / name), image)
    (tmp_path / 'list.txt').write_text(''.join(f'{name} {i}\n' for i, name in enumerate(names)) + '\n')
    return images


def image_net(tmp_path, batch, more='', transform='', phase=caffe.TEST):
    param = f'source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/images/" batch_size: {batch} {more}'
    text = layer(
        'I',
        'ImageData',
        tops='x label',
        more=f'image_data_param {{ {param} }} transform_param {{ {transform} }}',
    )
    return net_from(tmp_path, text, phase)


def test_images_in_the_order_of_the_list(tmp_path, pictures):
    net = image_net(tmp_path, 4, transform='mean_value: 100 scale: 2')
    for wanted in ([0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]):
        out = net.forward()
        assert out['label'].tolist() == wanted
        for image, i in zip(out['x'], wanted):
            np.testing.assert_array_equal(image, (pictures[i].transpose(2, 0, 1) - 100.0) * 2)


def test_images_resized_and_gray(tmp_path, pictures):
    out = image_net(tmp_path, 1, 'new_height: 3 new_width: 5 is_color: false').forward()['x']
    gray = cv2.imread(str(tmp_path / 'images' / '0.png'), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(out[0, 0], cv2.resize(gray, (5, 3)))


def test_shuffle_gives_every_image_once_a_round(tmp_path, pictures):
    rounds = labels(image_net(tmp_path, 6, 'shuffle: true'), 8)
    assert all(sorted(r) == list(range(6)) for r in rounds) and len({tuple(r) for r in rounds}) > 4


def test_images_skip_in_the_first_round_only(tmp_path, pictures):
    image_net(tmp_path, 7, 'rand_skip: 3')
    firsts = set()
    for seed in range(30):
        ((first, *rest),) = labels(reseeded(tmp_path, seed), 1)
        assert rest == [(first + i) % 6 for i in range(1, 7)]
        firsts.add(first)
    assert firsts == {0, 1, 2}


def test_solvers_that_see_the_same_images_are_warned_of(tmp_path, pictures, ranks, caplog):
    ranks(1, 2)
    assert labels(image_net(tmp_path, 3, phase=caffe.TRAIN), 1) == [[0, 1, 2]]
    assert 'all solvers see the same images' in caplog.text


@pytest.mark.parametrize(
    'listing, more, transform, error, match',
    [
        (None, '', '', FileNotFoundError, 'list.txt'),
        ('\n', '', '', ValueError, 'list.txt is empty'),
        ('0.png 1\n2.png\n', '', '', ValueError, "list.txt, line 2: wanted a path and .* label, got '2.png'"),
        ('0.png 0.5\n', '', '', ValueError, 'line 1'),
        ('9.png 0\n', '', '', FileNotFoundError, 'images/9.png'),
        ('text.png 0\n', '', '', ValueError, r"'I' \(ImageData\): image .*text.png \(4 bytes\) cannot be"),
        ('0.png 0\n', 'new_height: 4', '', ValueError, 'new_height and new_width'),
        ('0.png 0\n', 'rand_skip: 2', '', ValueError, 'rand_skip 2, but .* only 1'),
        ('0.png 0\n', 'mean_file: "m"', '', ValueError, 'mean_file has its place'),
        ('0.png 0\n', '', 'crop_size: 9', ValueError, r'0.png: a crop of \(9, 9\)'),
        ('0.png 0\n', '', 'force_gray: true', ValueError, 'force_gray, but the layer reads colour'),
        ('0.png 0\n', 'is_color: false', 'force_color: true', ValueError, 'force_color, .* reads gray'),
    ],
)
def test_bad_image_lists(tmp_path, pictures, listing, more, transform, error, match):
    (tmp_path / 'images' / 'text.png').write_text('text')
    (tmp_path / 'list.txt').unlink() if listing is None else (tmp_path / 'list.txt').write_text(listing)
    with pytest.raises(error, match=match):
        image_net(tmp_path, 1, more, transform)


# ---- WindowData ----

WINDOWS = """# 0
images/0.png
3 8 10 3
1 0.9 1 2 6 5
2 0.1 0 0 9 7
3 0.4 4 4 5 5
# 1
images/2.png
3
8
10
2
4 0.5 2 1 4 6
5 0.29 3 3 8 7
"""


def window_net(tmp_path, windows, batch, more='', transform='crop_size: 6'):
    (tmp_path / 'windows.txt').write_text(windows)
    param = f'source: "{tmp_path}/windows.txt" root_folder: "{tmp_path}/" batch_size: {batch} {more}'
    text = layer(
        'W',
        'WindowData',
        tops='x label',
        more=f'window_data_param {{ {param} }} transform_param {{ {transform} }}',
    )
    return net_from(tmp_path, text)


def test_windows_of_both_kinds(tmp_path, pictures):
    """Background, then foreground, in the numbers asked for; what is neither does not occur."""
    net = window_net(
        tmp_path, WINDOWS, 8, 'bg_threshold: 0.3 fg_fraction: 0.25', 'crop_size: 6 scale: 0.5 mean_value: 10'
    )
    boxes = {(0, 2): (0, 0, 9, 7), (0, 1): (1, 2, 6, 5), (2, 5): (3, 3, 8, 7), (2, 4): (2, 1, 4, 6)}
    crops = {}
    for (image, kind), (x1, y1, x2, y2) in boxes.items():
        crop = cv2.resize(pictures[image][y1 : y2 + 1, x1 : x2 + 1], (6, 6)).transpose(2, 0, 1)
        crops[((crop - np.float32(10)) * np.float32(0.5)).tobytes()] = kind
    seen = []
    for _ in range(10):
        out = net.forward()
        kinds = [crops[image.tobytes()] for image in out['x']]
        assert out['label'].tolist() == [0] * 6 + kinds[6:]
        seen.append(kinds)
    assert {k for kinds in seen for k in kinds[:6]} == {2, 5}
    assert {k for kinds in seen for k in kinds[6:]} == {1, 4}


def test_the_share_of_foreground_is_found_in_single_precision(tmp_path, pictures):
    """0.7 as a float is a little less than 0.7; 10 times that is 7 as a float, but 6.9999999 as a double."""
    out = window_net(tmp_path, WINDOWS, 10, 'fg_fraction: 0.7').forward()
    assert np.count_nonzero(out['label']) == 7


@pytest.mark.parametrize(
    'box, crop, pad, square, mirror, source, target',
    [
        # as it is: the whole window to the whole crop
        ((2, 3, 8, 4), 6, 0, False, False, (slice(3, 5), slice(2, 9)), (slice(0, 6), slice(0, 6))),
        # 10 pixels about the centre 25, times 12 / 10: 19 to 31
        ((20, 20, 29, 29), 12, 1, False, False, (slice(19, 32),) * 2, (slice(0, 12),) * 2),
        # about the centre 5: -1 to 11, 13 pixels; the 12 in the image make 11.08 of 12, and 0.92 are before
        ((0, 0, 9, 9), 12, 1, False, False, (slice(0, 12),) * 2, (slice(1, 12),) * 2),
        # mirrored, the missing columns are on the right
        ((0, 0, 9, 9), 12, 1, False, True, (slice(0, 12),) * 2, (slice(1, 12), slice(0, 11))),
        # the same at the other end of the image, 40 high and 50 wide
        ((40, 30, 49, 39), 12, 1, False, False, (slice(29, 40), slice(39, 50)), (slice(0, 10), slice(0, 10))),
        # 10 x 4 pixels about (25, 22) become a square of half-width 5
        ((20, 20, 29, 23), 10, 0, True, False, (slice(17, 28), slice(20, 31)), (slice(0, 10), slice(0, 10))),
    ],
)
def test_places_of_windows(box, crop, pad, square, mirror, source, target):
    assert place_window(box, (40, 50), mirror, crop, pad, square) == (source, target)


def test_context_outside_the_image_is_zero(tmp_path, pictures):
    """As the third case above, but of 13 x 13 pixels an image has only 8 x 10: 7 rows and 9 columns of 12."""
    mean = np.arange(3 * 14 * 14, dtype=np.float32).reshape(3, 14, 14)
    mean_file = write_mean(tmp_path / 'mean', mean)
    windows = '# 0 images/0.png 3 8 10 1 1 1 0 0 9 9'
    net = window_net(
        tmp_path,
        windows,
        20,
        'fg_fraction: 1 context_pad: 1',
        f'crop_size: 12 mirror: true scale: 2 mean_file: "{mean_file}"',
    )
    pixels = cv2.resize(pictures[0], (9, 7)).astype(np.float32).transpose(2, 0, 1)
    wanted = []
    for values, left in ((pixels, 1), (pixels[:, :, ::-1], 2)):
        crop = np.zeros((3, 12, 12), np.float32)
        for k, y, x in itertools.product(range(3), range(7), range(9)):
            crop[k, 1 + y, left + x] = 2 * (values[k, y, x] - mean[k, 1 + 1 + y, 1 + left + x])
        wanted.append(crop.tobytes())
    assert {image.tobytes() for image in net.forward()['x']} == set(wanted)


def test_cached_images_are_read_once(tmp_path, pictures):
    windows = '# 0 images/0.png 3 8 10 1 1 1 1 1 6 6'
    cached = window_net(tmp_path, windows, 1, 'fg_fraction: 1 cache_images: true')
    fresh = window_net(tmp_path, windows, 1, 'fg_fraction: 1')
    (tmp_path / 'images' / '0.png').unlink()
    for _ in range(9):
        cached.forward()
    with pytest.raises(FileNotFoundError, match='images/0.png'):
        for _ in range(9):
            fresh.forward()


ONE = '# 0 images/0.png 3 8 10 1 '


@pytest.mark.parametrize(
    'windows, more, transform, match',
    [
        ('', '', '', 'windows.txt is empty'),
        (ONE + '1 1 0 0 5 5', '', '', 'no background windows; each batch wants 3'),
        (ONE + '1 0 0 0 5 5', '', '', 'no foreground windows; each batch wants 1'),
        (ONE + '1 1 0 0 5', '', '', 'image 0 images/0.png: the file ends within its 1 windows'),
        ('0 images/0.png 3 8 10 1', '', '', 'image 0: wanted # index'),
        (ONE + '1 1 0 0 5.5 5', '', '', 'images/0.png: wanted integers'),
        (ONE + '0 1 0 0 5 5', '', '', 'foreground of class 0'),
        (
            ONE + '1 1 0 0 10 5',
            'fg_fraction: 1',
            '',
            r'window \[0, 0, 10, 5\] of .*0.png: .*image of \(8, 10\)',
        ),
        (ONE + '1 1 5 0 4 5', 'fg_fraction: 1', '', r'window \[5, 0, 4, 5\]'),
        (WINDOWS, '', 'crop_size: 0', 'crop_size must be given'),
        (WINDOWS, 'crop_mode: "round"', '', "crop_mode 'round'; wanted warp or square"),
        (WINDOWS, 'context_pad: 3', '', 'context_pad 3 on both sides leaves nothing of crop_size 6'),
        (WINDOWS, '', 'mean_value: 1 mean_value: 2', '2 mean_value'),
        (WINDOWS, '', 'mean_file: "DIR/mean"', r'\(3, 5, 7\); wanted are 3 channels of 6 x 6'),
        (WINDOWS, '', 'force_gray: true', 'force_gray'),
        (WINDOWS, 'scale: 2', '', 'scale has its place'),
    ],
)
def test_bad_windows(tmp_path, pictures, windows, more, transform, match):
    write_mean(tmp_path / 'mean', np.zeros((3, 5, 7)))
    transform = transform.replace('DIR', str(tmp_path))
    if 'crop_size' not in transform:
        transform += ' crop_size: 6'
    with pytest.raises(ValueError, match=match):
        window_net(tmp_path, windows, 4, more, transform)


def test_window_images_that_are_missing_or_broken(tmp_path, pictures):
    (tmp_path / 'images' / '2.png').write_text('text')
    with pytest.raises(FileNotFoundError, match='images/9.png'):
        window_net(tmp_path, '# 0 images/9.png 3 8 10 1 1 1 0 0 5 5', 1, 'fg_fraction: 1')
    with pytest.raises(ValueError, match='images/2.png .4 bytes. cannot be decoded'):
        window_net(tmp_path, '# 0 images/2.png 3 8 10 1 1 1 0 0 5 5', 1, 'fg_fraction: 1')


# ---- MemoryData ----


def memory_net(tmp_path, first='', more=''):
    param = 'memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 } '
    return net_from(tmp_path, first + layer('M', 'MemoryData', tops='x label', more=param + more))


def test_memory_data_in_order_round_and_round(tmp_path):
    net = memory_net(tmp_path)
    assert net.blobs['x'].shape == (2, 3, 4, 5) and net.blobs['label'].shape == (2,)
    values, numbers = np.float32([RAMP + i for i in range(4)]), np.arange(4, dtype=np.float32)
    net.set_input_arrays(values, numbers)
    for wanted in ([0, 1], [2, 3], [0, 1]):
        out = net.forward()
        assert out['label'].tolist() == wanted
        np.testing.assert_array_equal(out['x'], values[wanted])
    values[2:] = 7
    assert (net.forward()['x'] == 7).all(), 'the caller still holds the arrays'
    net.blobs['x'].data[...] = 1
    assert (values[2:] == 7).all(), 'but the net does not write into them'
    net.set_input_arrays(values[:2], np.ones((2, 1, 1, 1), np.float32))
    assert net.forward()['label'].tolist() == [1, 1]


@pytest.mark.parametrize(
    'values, numbers, match',
    [
        (np.zeros((2, 3, 4, 5)), np.zeros(2, np.float32), 'data must be .* float32 .* got float64'),
        (
            np.zeros((2, 3, 4), np.float32),
            np.zeros(2, np.float32),
            r'\(n, 3, 4, 5\); got float32 \(2, 3, 4\)',
        ),
        (np.zeros((2, 3, 5, 4), np.float32), np.zeros(2, np.float32), r'got float32 \(2, 3, 5, 4\)'),
        (np.zeros((2, 3, 5, 4), np.float32).swapaxes(2, 3), np.zeros(2, np.float32), ', not contiguous'),
        (np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 1), np.float32), 'labels must be'),
        (np.zeros((2, 3, 4, 5), np.float32), np.zeros(4, np.float32), '2 rows of data but 4 labels'),
        (np.zeros((3, 3, 4, 5), np.float32), np.zeros(3, np.float32), 'multiple of batch_size 2 rows, got 3'),
        (np.zeros((0, 3, 4, 5), np.float32), np.zeros(0, np.float32), 'got 0'),
    ],
)
def test_bad_arrays(tmp_path, values, numbers, match):
    with pytest.raises(RuntimeError, match=match):
        memory_net(tmp_path).set_input_arrays(values, numbers)


def test_memory_data_errors(tmp_path, caplog):
    net = memory_net(tmp_path, more='transform_param { scale: 2 }')
    assert "'M': MemoryData does not transform" in caplog.text
    with pytest.raises(RuntimeError, match='no data; call net.set_input_arrays'):
        net.forward()
    with pytest.raises(RuntimeError, match='MemoryData as the first layer'):
        memory_net(tmp_path, data('before', 1)).set_input_arrays(np.zeros((2, 3, 4, 5)), np.zeros(2))
    with pytest.raises(ValueError, match='batch_size, channels, height, width must be given'):
        net_from(tmp_path, layer('M', 'MemoryData', tops='x y', more='memory_data_param { batch_size: 2 }'))


# ---- HDF5Output ----


def output_net(tmp_path, rows=(2, 2)):
    more = f'hdf5_output_param {{ file_name: "{tmp_path}/out.h5" }}'
    ends = data('x', rows[0], 3) + data('y', rows[1])
    return net_from(tmp_path, ends + layer('O', 'HDF5Output', 'x y', '', more))


def test_hdf5_output_adds_rows_and_appears_whole(tmp_path):
    net = output_net(tmp_path)
    for i in range(3):
        net.blobs['x'].data[...] = i + np.arange(6).reshape(2, 3)
        net.blobs['y'].data[...] = [10 * i, 10 * i + 1]
        net.forward()
    assert not (tmp_path / 'out.h5').exists()
    del net
    gc.collect()
    with h5py.File(tmp_path / 'out.h5') as f:
        assert f['data'].dtype == np.float32 and f['data'].shape == (6, 3, 1, 1)
        wanted = [i + 3 * j + np.arange(3) for i in range(3) for j in range(2)]
        np.testing.assert_array_equal(f['data'][:, :, 0, 0], wanted)
        np.testing.assert_array_equal(f['label'][:].ravel(), [0, 1, 10, 11, 20, 21])
    assert sorted(os.listdir(tmp_path)) == ['net.prototxt', 'out.h5']


def test_hdf5_output_closed_by_hand_begins_anew(tmp_path):
    net = output_net(tmp_path)
    for value in (1, 2):
        net.blobs['y'].data[...] = value
        net.forward()
        net.layers[-1].close()
        with h5py.File(tmp_path / 'out.h5') as f:
            assert f['label'][:].ravel().tolist() == [value, value]


def test_hdf5_output_errors(tmp_path):
    with pytest.raises(ValueError, match="layer 'O': 2 rows of data but 3 of label"):
        output_net(tmp_path, (2, 3)).forward()
    net = output_net(tmp_path)
    net.forward()
    net.blobs['x'].reshape(2, 4)
    with pytest.raises(ValueError, match=r'rows of data were \(3, 1, 1\) so far, now they are \(4, 1, 1\)'):
        net.forward()
    with pytest.raises(ValueError, match='file_name must be given'):
        net_from(tmp_path, data('x', 1) + layer('O', 'HDF5Output', 'x x', ''))
    with pytest.raises(ValueError, match='two bottoms, got 1'):
        net_from(tmp_path, data('x', 1) + layer('O', 'HDF5Output', 'x', ''))


# ---- convert_imageset, compute_image_mean and databases ----


def convert(tmp_path, *flags, db='db'):
    convert_imageset.main([*flags, f'{tmp_path}/images/', f'{tmp_path}/list.txt', f'{tmp_path}/{db}'])
    records = [(bytes(k), bytes(v)) for k, v in open_database(tmp_path / db, 'lmdb')]
    return [k for k, _ in records], [caffe_pb2.Datum.FromString(v) for _, v in records]


def decoded(datum):
    return cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_convert_imageset_stores_pixels(tmp_path, pictures):
    keys, datums = convert(tmp_path)
    assert keys[:2] == [b'00000000_0.png', b'00000001_a 1.png']
    assert [d.label for d in datums] == list(range(6))
    for record, image in zip(datums, pictures):
        assert not record.encoded
        np.testing.assert_array_equal(caffe.io.datum_to_array(record), image.transpose(2, 0, 1))
    out = data_net(tmp_path, tmp_path / 'db', 6).forward()
    np.testing.assert_array_equal(out['x'][2], pictures[2].transpose(2, 0, 1))


def test_convert_imageset_gray_and_resized(tmp_path, pictures):
    _, datums = convert(tmp_path, '--gray=true', '-resize_width=5', '--resize_height', '3')
    gray = cv2.imread(str(tmp_path / 'images' / '0.png'), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(caffe.io.datum_to_array(datums[0])[0], cv2.resize(gray, (5, 3)))


def test_convert_imageset_encoded(tmp_path, pictures):
    _, kept = convert(tmp_path, '-encoded')
    assert all(d.encoded and not d.HasField('channels') for d in kept)
    assert kept[0].data == (tmp_path / 'images' / '0.png').read_bytes(), 'the file as it is'
    _, small = convert(tmp_path, '-encoded', '-resize_width=5', '-resize_height=3', db='small')
    np.testing.assert_array_equal(decoded(small[0]), cv2.resize(pictures[0], (5, 3)))
    assert small[0].data[1:4] == b'PNG'
    _, jpegs = convert(tmp_path, '-encode_type', 'jpg', db='jpegs')
    assert jpegs[0].encoded and jpegs[0].data[:2] == b'\xff\xd8' and decoded(jpegs[0]).shape == (8, 10, 3)
    _, gray = convert(tmp_path, '-encoded', '-gray', db='gray')
    assert decoded(gray[0]).shape == (8, 10)


def test_convert_imageset_shuffles(tmp_path, pictures):
    orders = {tuple(d.label for d in convert(tmp_path, '-shuffle', db=f'db{i}')[1]) for i in range(4)}
    assert len(orders) > 1 and all(sorted(o) == list(range(6)) for o in orders)
    assert [d.label for d in convert(tmp_path, '-shuffle=false', '--noshuffle')[1]] == list(range(6))


@pytest.mark.parametrize(
    'flags, listing, match',
    [
        ([], '0.png 0\ntext.png 1\n', 'image .*images/text.png .4 bytes. cannot be decoded'),
        ([], '0.png 0\n9.png 1\n', 'images/9.png'),
        ([], '0.png\n', 'list.txt, line 1'),
        (['-check_size'], '0.png 0\nsmall.png 1\n', r'small.png is \(4, 10, 3\) .* not \(8, 10, 3\)'),
        (['-encode_type=what'], '0.png 0\n', "0.png cannot be stored as 'what'"),
    ],
)
def test_convert_imageset_errors_leave_nothing(tmp_path, pictures, flags, listing, match):
    (tmp_path / 'images' / 'text.png').write_text('text')
    cv2.imwrite(str(tmp_path / 'images' / 'small.png'), pictures[0][:4])
    (tmp_path / 'list.txt').write_text(listing)
    with pytest.raises(SystemExit, match='convert_imageset: .*' + match):
        convert(tmp_path, *flags)
    assert sorted(os.listdir(tmp_path)) == ['images', 'list.txt']


def test_convert_imageset_overwrites_nothing(tmp_path, pictures):
    (tmp_path / 'db').mkdir()
    with pytest.raises(SystemExit, match='db exists'):
        convert(tmp_path)
    with pytest.raises(SystemExit, match='no folder .*nowhere'):
        convert(tmp_path, db='nowhere/db')


def test_both_commands_run_as_modules(tmp_path, pictures):
    files = [f'{tmp_path}/{name}' for name in ('images/', 'list.txt', 'db')]
    run = run_python('-m', 'caffe.convert_imageset', '-backend', 'lmdb', *files)
    assert run.returncode == 0 and '6 of 6' in run.stderr, run.stderr
    run = run_python('-m', 'caffe.compute_image_mean', files[2], f'{tmp_path}/mean.binaryproto')
    assert run.returncode == 0 and 'mean_value of channel 2: ' in run.stderr, run.stderr
    blob = caffe_pb2.BlobProto.FromString((tmp_path / 'mean.binaryproto').read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 3, 8, 10) and not blob.HasField('shape')
    wanted = np.mean(pictures, 0).transpose(2, 0, 1)
    np.testing.assert_allclose(caffe.io.blobproto_to_array(blob)[0], wanted, rtol=1e-6)
    net = data_net(tmp_path, tmp_path / 'db', 6, '', f'mean_file: "{tmp_path}/mean.binaryproto"')
    np.testing.assert_allclose(net.forward()['x'].mean(0), 0, atol=1e-4)


def test_the_mean_of_encoded_and_float_records(tmp_path):
    images = [np.full((2, 2, 3), v, np.uint8) for v in (1, 4)]
    make_db(tmp_path / 'db', [*map(encoded, images), datum(np.full((3, 2, 2), 0.5))])
    compute_image_mean.main([f'{tmp_path}/db', f'{tmp_path}/mean'])
    blob = caffe_pb2.BlobProto.FromString((tmp_path / 'mean').read_bytes())
    np.testing.assert_allclose(blob.data, [5.5 / 3] * 12)


def test_no_mean_of_images_of_two_sizes(tmp_path):
    make_db(tmp_path / 'db', [datum(RAMP), datum(RAMP[:, :2])])
    with pytest.raises(SystemExit, match=r"record '00000001' .*\(3, 2, 5\), .* before it \(3, 4, 5\)"):
        compute_image_mean.main([f'{tmp_path}/db', f'{tmp_path}/mean'])
    assert os.listdir(tmp_path) == ['db']


def test_a_database_grows_and_is_made_whole_or_not_at_all(tmp_path):
    block = bytes(2**20)
    write_database(tmp_path / 'big', 'lmdb', ((b'%d' % i, block) for i in range(40)))
    assert len(open_database(tmp_path / 'big', 'lmdb')) == 40

    def failing():
        yield b'key', b'value'
        raise OSError('disk')

    with pytest.raises(OSError, match='disk'):
        write_database(tmp_path / 'db', 'lmdb', failing())
    assert os.listdir(tmp_path) == ['big']


def test_without_plyvel_leveldb_says_how_to_convert(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'plyvel', None)
    (tmp_path / 'db').mkdir()
    (tmp_path / 'db' / 'CURRENT').write_text('')
    with pytest.raises(ModuleNotFoundError, match='pip install plyvel.*convert_imageset -backend lmdb'):
        data_net(tmp_path, tmp_path / 'db', 1, 'backend: LEVELDB')


def test_leveldb(tmp_path, pictures):
    pytest.importorskip('plyvel', reason='LevelDB is optional')
    paths = [f'{tmp_path}/{name}' for name in ('images/', 'list.txt', 'db')]
    convert_imageset.main(['-backend', 'leveldb', *paths])
    net = data_net(tmp_path, tmp_path / 'db', 4, 'backend: LEVELDB')
    assert labels(net, 3) == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    np.testing.assert_array_equal(net.forward()['x'][0], pictures[0].transpose(2, 0, 1))
    assert compute_image_mean.mean_image(f'{tmp_path}/db', 'leveldb').shape == (3, 8, 10)


@pytest.mark.parametrize(
    'message', ['data_param', 'hdf5_data_param']
)  # with old fields of images, and without
def test_a_new_source_says_where_samples_come_from(tmp_path, monkeypatch, message):
    monkeypatch.setattr(registry, '_REGISTRY', dict(registry._REGISTRY))

    @registry.layer('Counted', message)
    class Counted(BatchLayer):
        fields = ('batch_size',)

        def samples(self, param, transformer):
            images = (np.full((1, 2, 2), i, np.uint8) for i in itertools.count())
            return ((transformer(image, 'one'), int(image.max()), 'one') for image in images)

    text = layer('x', 'Counted', tops='x y', more=message + ' { batch_size: 3 } transform_param { scale: 2 }')
    net = net_from(tmp_path, text, caffe.TEST)
    for start in (0, 3):
        net.forward()
        assert net.blobs['y'].data.tolist() == [start, start + 1, start + 2]
        assert net.blobs['x'].data[:, 0, 1, 1].tolist() == [2 * start, 2 * start + 2, 2 * start + 4]
