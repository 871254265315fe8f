"""Weights, binary and HDF5, and blob messages."""

import glob
import os

import h5py
import numpy as np
import pytest

from caffe.format.weights import (
    array_to_blobproto,
    blobproto_to_array,
    read_weights,
    upgrade_net_binary,
    write_weights,
)
from caffe.proto import caffe_pb2

SHARED = os.path.join(os.path.dirname(__file__), '..', '..', '..', 'shared', 'golden')


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, 3, 3, 3)).astype('f')
    return [
        ('conv/3x3', 'Convolution', [kernel, np.float32([1, 2, 3, 4])], ['data'], ['conv']),
        ('relu', 'ReLU', [], ['conv'], ['conv']),
        ('bn', 'BatchNorm', [np.zeros(4, 'f'), np.ones(4, 'f'), np.full((), 3, 'f')], ['conv'], ['bn']),
    ]


def assert_same_weights(got, rows):
    kept = [row[:3] for row in rows if row[2] or any(g[0] == row[0] for g in got)]
    assert sorted(g[0] for g in got) == sorted(k[0] for k in kept)
    by_name = (sorted(x, key=lambda row: row[0]) for x in (got, kept))
    for (name, kind, arrays), (_, wanted_kind, wanted) in zip(*by_name):
        assert kind in ('', wanted_kind)
        assert len(arrays) == len(wanted), name
        for a, b in zip(arrays, wanted):
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize('suffix', ['.caffemodel', '.caffemodel.h5'])
def test_weights_come_back(tmp_path, rows, suffix):
    path = tmp_path / ('w' + suffix)
    write_weights(path, rows, 'net')
    assert_same_weights(read_weights(path), rows)
    assert h5py.is_hdf5(path) == suffix.endswith('.h5')
    assert os.listdir(tmp_path) == ['w' + suffix]


def test_binary_weights_are_a_net_of_the_full_schema(tmp_path, rows):
    path = tmp_path / 'w.caffemodel'
    diffs = [[a + 1 for a in row[2]] for row in rows]
    write_weights(path, [(*row, d) for row, d in zip(rows, diffs)], 'net')
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    assert net.name == 'net'
    assert [(x.name, x.type, list(x.bottom), list(x.top)) for x in net.layer] == [
        (r[0], r[1], r[3], r[4]) for r in rows
    ]
    np.testing.assert_array_equal(blobproto_to_array(net.layer[0].blobs[0]), rows[0][2][0])
    np.testing.assert_array_equal(blobproto_to_array(net.layer[0].blobs[0], True), rows[0][2][0] + 1)


def test_opencv_reads_binary_weights(tmp_path):
    cv2 = pytest.importorskip('cv2')
    prototxt = tmp_path / 'net.prototxt'
    prototxt.write_text("""
        input: "data" input_shape { dim: 1 dim: 2 dim: 4 dim: 5 }
        layer { name: "a/1x1" type: "Convolution" bottom: "data" top: "a"
          convolution_param { num_output: 3 kernel_size: 1 } }""")
    kernel, bias, image = (
        np.random.default_rng(i).normal(size=s).astype('f')
        for i, s in enumerate([(3, 2, 1, 1), (3,), (1, 2, 4, 5)])
    )
    write_weights(tmp_path / 'w', [('a/1x1', 'Convolution', [kernel, bias], ['data'], ['a'])], 'n')
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(tmp_path / 'w'))
    net.setInput(image)
    wanted = np.einsum('oi,nihw->nohw', kernel[:, :, 0, 0], image) + bias[:, None, None]
    np.testing.assert_allclose(net.forward(), wanted, atol=1e-5)


def test_hdf5_has_the_original_layout(tmp_path, rows):
    path = tmp_path / 'w.h5'
    write_weights(path, [(*row, [a * 2 for a in row[2]]) for row in rows])
    with h5py.File(path) as f:
        np.testing.assert_array_equal(f['data/conv/3x3/1'][()], [1, 2, 3, 4])
        np.testing.assert_array_equal(f['diff/conv/3x3/1'][()], [2, 4, 6, 8])
        assert 'relu' in f['data']


def test_hdf5_with_a_blob_of_a_number_no_layer_has(tmp_path):
    with h5py.File(tmp_path / 'w.h5', 'w') as f:
        f['data/fc/300000000'] = np.float32([5])
    with pytest.raises(ValueError, match='w.h5.*fc/300000000'):
        read_weights(tmp_path / 'w.h5')


def test_hdf5_without_a_shared_blob(tmp_path):
    path = tmp_path / 'w.h5'
    with h5py.File(path, 'w') as f:
        f['data/shares/1'] = np.float32([5])
    ((name, _, arrays),) = read_weights(path)
    assert name == 'shares' and arrays[0] is None and arrays[1] == 5


def test_old_weights_read_by_layer_name(tmp_path):
    net = caffe_pb2.NetParameter()
    v1 = net.layers.add(name='fc', type=caffe_pb2.V1LayerParameter.INNER_PRODUCT)
    v1.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    v0 = net.layers.add().layer
    v0.name, v0.type = 'conv1', 'conv'
    v0.blobs.add(num=1, channels=1, height=1, width=2, double_data=[0.5, 1.5])
    path = tmp_path / 'old.caffemodel'
    path.write_bytes(net.SerializeToString())
    (n1, t1, (fc,)), (n0, t0, (conv,)) = read_weights(path)
    assert (n1, t1, n0, t0) == ('fc', 'InnerProduct', 'conv1', 'Convolution')
    np.testing.assert_array_equal(fc, np.arange(6, dtype='f').reshape(1, 1, 2, 3), strict=True)
    np.testing.assert_array_equal(conv, np.float32([[[[0.5, 1.5]]]]), strict=True)


def test_messages_of_forks_under_the_numbers_of_others_are_skipped(tmp_path, rows):
    """Field 147 of a layer is swish_param here, a string in some fork: the weights are read all the same."""
    path = tmp_path / 'fork.caffemodel'
    write_weights(path, rows)
    blob = array_to_blobproto(np.float32([7]))
    layer = caffe_pb2.LayerParameter(name='alien', type='Alien', blobs=[blob]).SerializeToString()
    layer += bytes([147 << 3 & 0x7F | 2 | 0x80, 147 >> 4, 3]) + b'\xff\xff\xff'
    path.write_bytes(path.read_bytes() + bytes([100 << 3 & 0x7F | 2 | 0x80, 100 >> 4, len(layer)]) + layer)
    name, kind, (array,) = read_weights(path)[-1]
    assert (name, kind, array) == ('alien', 'Alien', 7)


def test_numbers_written_one_by_one_are_read(tmp_path):
    """Writers that do not pack give each float its own tag (field 5, four bytes)."""
    unpacked = b''.join(b'\x2d' + np.float32(x).tobytes() for x in (1, 2, 3)) + b'\x3a\x03\x0a\x01\x03'
    path = tmp_path / 'w.caffemodel'
    layer = b'\x0a\x01a' + b'\x3a' + bytes([len(unpacked)]) + unpacked
    path.write_bytes(b'\xa2\x06' + bytes([len(layer)]) + layer)
    np.testing.assert_array_equal(read_weights(path)[0][2][0], [1, 2, 3])


def test_truncated_weights_are_named_with_their_size(tmp_path, rows):
    path = tmp_path / 'w.caffemodel'
    write_weights(path, rows, 'net')
    whole = path.read_bytes()
    for size in (0, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf'w\.caffemodel \({size} bytes\).*cut off'):
            read_weights(path)


def test_truncated_hdf5_weights_are_named(tmp_path, rows):
    path = tmp_path / 'w.h5'
    write_weights(path, rows)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r'w\.h5 \(\d+ bytes\)'):
        read_weights(path)


def test_a_blob_that_does_not_fill_its_shape_is_named(tmp_path):
    net = caffe_pb2.NetParameter()
    net.layer.add(name='fc').blobs.add(data=[1, 2]).shape.dim.extend([3])
    path = tmp_path / 'w.caffemodel'
    path.write_bytes(net.SerializeToString())
    with pytest.raises(ValueError, match=r"layer 'fc', blob 0.*\(3,\).*2 values"):
        read_weights(path)


def test_hdf5_of_another_layout_is_refused(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as f:
        f['weights'] = [1]
    with h5py.File(tmp_path / 'b.h5', 'w') as f:
        f['data'] = [1]
    for name in 'ab':
        with pytest.raises(ValueError, match=name + r'\.h5.*data'):
            read_weights(tmp_path / f'{name}.h5')


def test_upgraded_binary_net_keeps_its_blobs(tmp_path):
    net = caffe_pb2.NetParameter(name='n')
    layer = net.layers.add(name='fc', type=caffe_pb2.V1LayerParameter.INNER_PRODUCT, blobs_lr=[2])
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[3, 4])
    (tmp_path / 'old').write_bytes(net.SerializeToString())
    upgrade_net_binary(tmp_path / 'old', tmp_path / 'new')
    new = caffe_pb2.NetParameter.FromString((tmp_path / 'new').read_bytes())
    assert not new.layers and new.layer[0].type == 'InnerProduct' and new.layer[0].param[0].lr_mult == 2
    np.testing.assert_array_equal(blobproto_to_array(new.layer[0].blobs[0]), [[[[3, 4]]]])


def test_a_failed_write_leaves_the_old_file(tmp_path, rows):
    path = tmp_path / 'w.caffemodel'
    path.write_bytes(b'old')
    with pytest.raises(ValueError):
        write_weights(path, [*rows, ('bad', 'X', [np.array('text')], [], [])])
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['w.caffemodel']


def test_writing_into_a_missing_folder_names_it(tmp_path, rows):
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere'):
        write_weights(tmp_path / 'nowhere' / 'w.caffemodel', rows)


def test_the_recorded_weights_read():
    paths = glob.glob(os.path.join(SHARED, '*', '*.caffemodel*'))
    if not paths:
        pytest.skip('the recorded caffemodels are not here')
    for path in paths:
        layers = read_weights(path)
        assert sum(len(arrays) for *_, arrays in layers) >= 11, path
        assert all(np.isfinite(a).all() for *_, arrays in layers for a in arrays), path
    paths = (os.path.join(SHARED, 'solver', 'init.caffemodel' + suffix) for suffix in ('', '.h5'))
    binary, hdf5 = map(read_weights, paths)
    assert_same_weights(hdf5, [(*layer, (), ()) for layer in binary])
