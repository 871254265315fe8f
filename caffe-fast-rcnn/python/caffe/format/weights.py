"""Weights: .caffemodel files of any age and fork, or HDF5, read and written as plain arrays; blob messages.

The slim schema of weights.proto reads them: forks reuse the numbers of LayerParameter's other fields.
"""

import collections
import os
import zipfile

import h5py
import numpy as np
from google.protobuf.message import DecodeError

from ..proto import caffe_pb2, weights_pb2
from .files import atomic_write, read_bytes, require_file
from .hdf5 import numbers, open_hdf5
from .upgrade import V0_TYPES, upgrade_net, v1_type

MOST_BLOBS = 1000  # of a layer: an HDF5 file numbers them


def blobproto_to_array(blob, return_diff=False):
    """The data (or diff) of a BlobProto as float32. ValueError when the values do not fill the shape."""
    slim = weights_pb2.Blob.FromString(blob.SerializeToString())
    return _blob_values(slim, 'diff' if return_diff else 'data').copy()


def array_to_blobproto(arr, diff=None):
    """A BlobProto with the shape and values of arr, and of diff where given."""
    return caffe_pb2.BlobProto.FromString(_blob(np.asarray(arr), diff).SerializeToString())


def _blob(data, diff=None):
    values = {'data': np.asarray(data, '<f4').tobytes()}
    if diff is not None:
        values['diff'] = np.asarray(diff, '<f4').tobytes()
    return weights_pb2.Blob(shape=weights_pb2.Shape(dim=np.shape(data)), **values)


def _blob_values(blob, which='data'):
    """float32 array (may be read-only) of a slim Blob's data or diff, in single or double precision."""
    legacy = any(blob.HasField(d) for d in ('num', 'channels', 'height', 'width'))
    shape = (blob.num, blob.channels, blob.height, blob.width) if legacy else tuple(blob.shape.dim)
    values = _stored_values(blob, which)
    if values.size != np.prod(shape, dtype=np.int64):  # written number by number? the full schema packs
        packed = caffe_pb2.BlobProto.FromString(blob.SerializeToString()).SerializeToString()
        values = _stored_values(weights_pb2.Blob.FromString(packed), which)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f'a blob of shape {shape} has {values.size} values of {which}')
    return values.reshape(shape)


def _stored_values(blob, which):
    double = getattr(blob, 'double_' + which)
    if double:
        return np.frombuffer(double, '<f8').astype(np.float32)
    return np.frombuffer(getattr(blob, which), '<f4')


def read_weights(path):
    """[(layer name, type or '', [float32 arrays])] of a .caffemodel of any age and fork, or of an HDF5 file.

    The content tells which it is; a zip file with one .caffemodel in it, stored as it is, stands for that. The arrays may be
    read-only. An HDF5 file may leave out blobs that another
    layer owns: None stands for those before its last one.
    Errors: FileNotFoundError; ValueError with the file, its size and what is wrong with it.
    """
    path = str(path)
    require_file(path, 'weights')
    if h5py.is_hdf5(path):
        return _read_hdf5(path)
    try:
        return _read_binary(_unzipped(path) if _is_zip(path) else read_bytes(path, 'weights'))
    except (DecodeError, OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'weights {path} ({os.path.getsize(path)} bytes) cannot be read, not a caffemodel '
            f'or cut off: {error}'
        ) from None


def _is_zip(path):
    with open(path, 'rb') as f:
        return f.read(4) == b'PK\x03\x04'  # no .caffemodel begins so


def _unzipped(path):
    """The bytes of the .caffemodel in a zip file."""
    with zipfile.ZipFile(path) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith('.caffemodel')]
        stored = [info for info in found if not (info.compress_type or info.flag_bits & 1)]  # nor encrypted
        if len(found) != 1 or found != stored or found[0].file_size > os.path.getsize(path):
            names = ', '.join(info.filename for info in archive.infolist())
            raise ValueError(f'wanted one .caffemodel in it, stored as it is; it has {names or "nothing"}')
        return archive.read(found[0])


def _read_binary(data):
    net = weights_pb2.Net.FromString(data)
    layers = list(net.layer) + [_slim_from_old(o) for o in net.layers]
    if not layers:
        raise ValueError('it holds no layers')
    return [
        (text_of(x.name), text_of(x.type), [_layer_blob(x, i) for i in range(len(x.blobs))]) for x in layers
    ]


def text_of(value):
    """A string of a message, which is bytes where it is no UTF-8."""
    return value.decode(errors='replace') if isinstance(value, bytes) else value


def _slim_from_old(old):
    if old.HasField('layer'):
        v0 = old.layer
        return weights_pb2.Layer(name=v0.name, type=V0_TYPES.get(v0.type, ('', None))[0], blobs=v0.blobs)
    return weights_pb2.Layer(name=old.name, type=v1_type(old.type), blobs=old.blobs)


def _layer_blob(layer, i):
    try:
        return _blob_values(layer.blobs[i])
    except (ValueError, DecodeError) as error:
        raise ValueError(f'layer {layer.name!r}, blob {i}: {error}') from None


def _read_hdf5(path):
    layers = collections.defaultdict(dict)

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            layer, _, index = name.rpartition('/')
            if not layer or not index.isdigit():
                raise ValueError(f'dataset /data/{name}, wanted /data/<layer>/<number>')
            if len(index) > len(str(MOST_BLOBS)) or int(index) >= MOST_BLOBS:
                raise ValueError(f'dataset /data/{name}: a layer has at most {MOST_BLOBS} parameters')
            layers[layer][int(index)] = numbers(item)

    with open_hdf5(path, 'weights') as f:
        if not isinstance(f.get('data'), h5py.Group):
            raise ValueError(f'no group /data in it, only {sorted(f)}')
        f['data'].visititems(visit)
    return [(name, '', [blobs.get(i) for i in range(max(blobs) + 1)]) for name, blobs in layers.items()]


def write_weights(path, layers, net_name=''):
    """Write [(name, type, [arrays], bottoms, tops[, [diffs]])] as a .caffemodel, or HDF5 by suffix .h5."""
    if str(path).endswith('.h5'):
        return write_weights_hdf5(path, layers)
    with atomic_write(path) as temporary, open(temporary, 'wb') as f:
        f.write(weights_pb2.Net(name=net_name).SerializeToString())
        for name, kind, arrays, bottoms, tops, *diffs in layers:  # a message may be written in parts
            blobs = [_blob(a, d) for a, d in zip(arrays, diffs[0] if diffs else [None] * len(arrays))]
            layer = weights_pb2.Layer(name=name, type=kind, bottom=bottoms, top=tops, blobs=blobs)
            f.write(weights_pb2.Net(layer=[layer]).SerializeToString())


def write_weights_hdf5(path, layers):
    """Write the rows of write_weights as HDF5: /data/<layer>/<index>, and /diff likewise where given."""
    with atomic_write(path) as temporary, h5py.File(temporary, 'w') as f:
        for name, _, arrays, _, _, *diffs in layers:
            for kind, values in (('data', arrays), ('diff', diffs[0] if diffs else [])):
                group = f.require_group(f'{kind}/{name}')
                for i, array in enumerate(values):
                    group[str(i)] = np.asarray(array, np.float32)


def upgrade_net_binary(source, target):
    """Rewrite a .caffemodel of any age in the current form, whole: parameters of layers as well as blobs."""
    param = caffe_pb2.NetParameter()
    try:
        param.ParseFromString(read_bytes(source, 'net'))
        upgrade_net(param)
    except (DecodeError, ValueError) as error:
        raise ValueError(
            f'{source} ({os.path.getsize(source)} bytes): not a binary net of this format, or '
            f'cut off: {error}'
        ) from None
    with atomic_write(target) as path, open(path, 'wb') as f:
        f.write(param.SerializeToString())
