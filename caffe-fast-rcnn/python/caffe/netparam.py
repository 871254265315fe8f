"""Reading and writing of nets, solvers and weights.

Text prototxts of every age become a current NetParameter (upgrade_net) and are cut to a phase, level and
stages (filter_net). Weights (.caffemodel of any fork, or HDF5) are read and written as plain arrays, through
weights.proto.
"""

import collections
import contextlib
import difflib
import os
import re
import uuid

import h5py
import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from .proto import caffe_pb2, weights_pb2


# ---- files ----


@contextlib.contextmanager
def atomic_write(path):
    """Give a temporary name beside `path` (same suffix); it is `path` at the end, or goes on an error."""
    path = os.path.realpath(path)
    root, suffix = os.path.splitext(path)
    temporary = f'{root}.{uuid.uuid4().hex[:8]}.tmp{suffix}'
    if not os.path.isdir(os.path.dirname(path)):
        raise FileNotFoundError(f'{path} cannot be written: there is no folder {os.path.dirname(path)}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _require_file(path, what):
    if not os.path.isfile(path):
        wrong = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f'{what} {path} {wrong}')


def _read_bytes(path, what):
    _require_file(path, what)
    with open(path, 'rb') as f:
        return f.read()


def _read_text(path, what):
    return _read_bytes(path, what).decode('utf-8-sig', errors='replace')


# ---- text ----


def read_net(path):
    """The NetParameter of a text prototxt, upgraded.

    Errors: FileNotFoundError; ValueError with file, line and message, for an unknown field or enum value with
    the nearest known one.
    """
    return parse_net(_read_text(path, 'net'), str(path))


def parse_net(text, source='<string>'):
    """The NetParameter of a prototxt given as text, upgraded; `source` names it in errors."""
    param = _parse(text, caffe_pb2.NetParameter(), source)
    try:
        return upgrade_net(param)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None


def read_solver(path):
    """The SolverParameter of a text prototxt; `solver_type` becomes `type`.

    As in the original, a missing snapshot_prefix becomes the solver file's path without its suffix, and one
    that is a folder becomes the file's name in that folder. Errors as read_net.
    """
    param = _parse(_read_text(path, 'solver'), caffe_pb2.SolverParameter(), str(path))
    try:
        upgrade_solver(param)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    stem = os.path.splitext(path)[0]
    if not param.snapshot_prefix:
        param.snapshot_prefix = stem
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, os.path.basename(stem))
    return param


def _parse(text, message, source):
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        place = source if error.GetLine() is None else f'{source}:{error.GetLine()}:{error.GetColumn()}'
        reason = re.sub(r'^\d+:\d+ : ', '', str(error))
        raise ValueError(f'{place}: {reason}{_nearest(reason)}') from None
    missing = message.FindInitializationErrors()
    if missing:
        raise ValueError(f'{source}: required fields are missing: {", ".join(missing)}')
    return message


def _nearest(reason):
    """', did you mean ...?' for protobuf's complaint of an unknown field or enum value."""
    pool = caffe_pb2.DESCRIPTOR.pool
    if match := re.search(r'Message type "(.+?)" has no field named "(.+?)"', reason):
        known = pool.FindMessageTypeByName(match[1]).fields_by_name
    elif match := re.search(r'Enum type "(.+?)" has no value named (.+?)\.', reason):
        known = pool.FindEnumTypeByName(match[1]).values_by_name
    else:
        return ''
    near = difflib.get_close_matches(match[2], list(known), 1, cutoff=0.5)
    return f' Did you mean {near[0]!r}?' if near else f' Known: {", ".join(sorted(known))}'


# ---- upgrades ----


def upgrade_net(param):
    """Bring a NetParameter of any age to the current form, in place, and return it.

    V0 and V1 `layers` become `layer`; V0 padding layers go into the convolution or pooling that reads them;
    transformation fields of V1 data layers move to transform_param; `input` with input_shape or input_dim
    becomes an Input layer; a BatchNorm's three param entries go, since its blobs never learn; DeepLab's
    `hole` becomes dilation. ValueError when that cannot be done.
    """
    if param.layers:
        _upgrade_layers(param)
    if param.input or param.input_shape or param.input_dim:
        _upgrade_input(param)
    for layer in param.layer:
        if layer.type == 'BatchNorm' and len(layer.param) == 3:
            del layer.param[:]
        if layer.HasField('convolution_param'):
            _upgrade_hole(layer.convolution_param)
    return param


def _upgrade_hole(conv):
    holes = [getattr(conv, name) for name in ('hole', 'hole_h', 'hole_w') if conv.HasField(name)]
    if holes and (conv.dilation or conv.HasField('hole') == (len(holes) > 1)):
        raise ValueError(
            'a convolution wants dilation, or hole, or hole_h and hole_w; '
            f'got dilation {list(conv.dilation)} and {len(holes)} of the others'
        )
    conv.dilation.extend(holes)
    for name in ('hole', 'hole_h', 'hole_w'):
        conv.ClearField(name)


def _upgrade_layers(param):
    if param.layer:
        raise ValueError("a net has either 'layer' or the older 'layers' fields, this one has both")
    old = _fold_padding(param.layers) if any(o.HasField('layer') for o in param.layers) else param.layers
    param.layer.extend([_from_v0(o) if o.HasField('layer') else _from_v1(o) for o in old])
    del param.layers[:]


def _upgrade_input(param):
    dims = list(param.input_dim)
    shapes = [list(s.dim) for s in param.input_shape] or [dims[i : i + 4] for i in range(0, len(dims), 4)]
    odd = dims and not param.input_shape and len(dims) % 4
    if len(shapes) != len(param.input) or odd or not all(shapes):
        raise ValueError(
            f'{len(param.input)} input names ({", ".join(param.input)}), but '
            f'{len(param.input_shape)} input_shape and {len(dims)} input_dim entries; wanted is '
            'one shape, or four input_dim, for each'
        )
    layer = caffe_pb2.LayerParameter(name='input', type='Input', top=param.input)
    for shape in shapes:
        layer.input_param.shape.add(dim=shape)
    rest = list(param.layer)
    del param.layer[:], param.input[:], param.input_shape[:], param.input_dim[:]
    param.layer.extend([layer, *rest])


_ODD_TYPES = {
    'ABSVAL': 'AbsVal',
    'ARGMAX': 'ArgMax',
    'BNLL': 'BNLL',
    'HDF5_DATA': 'HDF5Data',
    'HDF5_OUTPUT': 'HDF5Output',
    'LRN': 'LRN',
    'MVN': 'MVN',
    'NONE': '',
    'RELU': 'ReLU',
    'SOFTMAX_LOSS': 'SoftmaxWithLoss',
    'TANH': 'TanH',
}
_TRANSFORM = ('scale', 'mirror', 'crop_size', 'mean_file')


def _v1_type(number):
    """INNER_PRODUCT is InnerProduct, and so on; '' for a number of some fork's own."""
    if number not in caffe_pb2.V1LayerParameter.LayerType.values():
        return ''
    name = caffe_pb2.V1LayerParameter.LayerType.Name(number)
    return _ODD_TYPES.get(name, ''.join(word.capitalize() for word in name.split('_')))


def _set(message, name, value):
    """Set, append to or copy into a field, whichever its kind asks for."""
    field = getattr(message, name)
    if hasattr(field, 'extend'):
        field.extend(value if hasattr(value, 'extend') else [value])
    elif hasattr(field, 'CopyFrom'):
        field.CopyFrom(value)
    else:
        setattr(message, name, value)


def _set_params(new, old, names=(), modes=()):
    """ParamSpecs from parallel lists: names, share modes, learning rates and decays."""
    lists = dict(name=names, share_mode=modes, lr_mult=old.blobs_lr, decay_mult=old.weight_decay)
    for field, values in lists.items():
        while len(new.param) < len(values):
            new.param.add()
        for spec, value in zip(new.param, values):
            setattr(spec, field, value)


def _from_v1(old):
    new = caffe_pb2.LayerParameter(type=_v1_type(old.type))
    _set_params(new, old, old.param, old.blob_share_mode)
    for field, value in old.ListFields():
        if field.name not in ('type', 'param', 'blob_share_mode', 'blobs_lr', 'weight_decay'):
            _set(new, field.name, value)
    for source in ('data_param', 'image_data_param', 'window_data_param'):
        if new.HasField(source):
            for name in _TRANSFORM:
                if getattr(new, source).HasField(name):
                    _set(new.transform_param, name, getattr(getattr(new, source), name))
                    getattr(new, source).ClearField(name)
    return new


# V0 type -> today's type, and the message where its own fields are now.
_V0_TYPES = {
    'accuracy': ('Accuracy', None),
    'bnll': ('BNLL', None),
    'concat': ('Concat', 'concat_param'),
    'conv': ('Convolution', 'convolution_param'),
    'data': ('Data', 'data_param'),
    'dropout': ('Dropout', 'dropout_param'),
    'euclidean_loss': ('EuclideanLoss', None),
    'flatten': ('Flatten', None),
    'hdf5_data': ('HDF5Data', 'hdf5_data_param'),
    'hdf5_output': ('HDF5Output', 'hdf5_output_param'),
    'im2col': ('Im2col', 'convolution_param'),
    'images': ('ImageData', 'image_data_param'),
    'infogain_loss': ('InfogainLoss', 'infogain_loss_param'),
    'innerproduct': ('InnerProduct', 'inner_product_param'),
    'lrn': ('LRN', 'lrn_param'),
    'multinomial_logistic_loss': ('MultinomialLogisticLoss', None),
    'pool': ('Pooling', 'pooling_param'),
    'relu': ('ReLU', None),
    'sigmoid': ('Sigmoid', None),
    'softmax': ('Softmax', None),
    'softmax_loss': ('SoftmaxWithLoss', None),
    'split': ('Split', None),
    'tanh': ('TanH', None),
    'window_data': ('WindowData', 'window_data_param'),
}
_V0_NAMES = {
    'biasterm': 'bias_term',
    'kernelsize': 'kernel_size',
    'batchsize': 'batch_size',
    'shuffle_images': 'shuffle',
    'meanfile': 'mean_file',
    'cropsize': 'crop_size',
    'det_fg_threshold': 'fg_threshold',
    'det_bg_threshold': 'bg_threshold',
    'det_fg_fraction': 'fg_fraction',
    'det_context_pad': 'context_pad',
    'det_crop_mode': 'crop_mode',
}


def _from_v0(old):
    v0 = old.layer
    kind, message = _known_v0_type(v0)
    new = caffe_pb2.LayerParameter(name=v0.name, type=kind, bottom=old.bottom, top=old.top, blobs=v0.blobs)
    _set_params(new, v0)
    for field, value in v0.ListFields():
        name = _V0_NAMES.get(field.name, field.name)
        if name in ('name', 'type', 'blobs', 'blobs_lr', 'weight_decay'):
            continue
        if name in _TRANSFORM:
            _set(new.transform_param, name, value)
        elif name == message:
            _set(new, name, value)
        elif message and name in getattr(new, message).DESCRIPTOR.fields_by_name:
            _set(getattr(new, message), name, value)
        else:
            raise ValueError(f'layer {v0.name!r}: an old {v0.type!r} layer has no field {field.name!r}')
    return new


def _known_v0_type(v0):
    if v0.type not in _V0_TYPES:
        near = difflib.get_close_matches(v0.type, _V0_TYPES, 1)
        raise ValueError(
            f'layer {v0.name!r}: unknown old layer type {v0.type!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
        )
    return _V0_TYPES[v0.type]


def _fold_padding(layers):
    """V0 nets pad by a layer of its own: give its pad to its readers, which then read its bottom."""
    padding, kept = {}, []
    for layer in layers:
        for i, bottom in enumerate(layer.bottom):
            if bottom in padding:
                if layer.layer.type not in ('conv', 'pool'):
                    raise ValueError(
                        f'layer {layer.layer.name!r} of type {layer.layer.type!r} reads padding '
                        f'layer {padding[bottom].layer.name!r}; only conv and pool can pad'
                    )
                layer.layer.pad = padding[bottom].layer.pad
                layer.bottom[i] = padding[bottom].bottom[0]
        is_padding = layer.layer.type == 'padding'
        if is_padding and (len(layer.bottom), len(layer.top)) != (1, 1):
            raise ValueError(
                f'padding layer {layer.layer.name!r} has {len(layer.bottom)} bottoms and '
                f'{len(layer.top)} tops, wanted one of each'
            )
        for top in layer.top:
            padding.pop(top, None)
        if is_padding:
            padding[layer.top[0]] = layer
        else:
            kept.append(layer)
    return kept


_SOLVER_TYPES = {
    'SGD': 'SGD',
    'NESTEROV': 'Nesterov',
    'ADAGRAD': 'AdaGrad',
    'RMSPROP': 'RMSProp',
    'ADADELTA': 'AdaDelta',
    'ADAM': 'Adam',
}


def upgrade_solver(param):
    """Turn the old enum `solver_type` into `type`, in place. ValueError when both are given."""
    if param.HasField('solver_type'):
        if param.HasField('type'):
            raise ValueError(f'solver has both type: {param.type!r} and the older solver_type; wanted is one')
        param.type = _SOLVER_TYPES[caffe_pb2.SolverParameter.SolverType.Name(param.solver_type)]
        param.ClearField('solver_type')
    return param


def upgrade_net_text(source, target):
    """Rewrite a text prototxt of any age in the current form."""
    _write_text(read_net(source), target)


def upgrade_net_binary(source, target):
    """Rewrite a .caffemodel of any age in the current form, whole: parameters of layers as well as blobs."""
    param = caffe_pb2.NetParameter()
    try:
        param.ParseFromString(_read_bytes(source, 'net'))
    except DecodeError as error:
        raise ValueError(
            f'{source} ({os.path.getsize(source)} bytes): not a binary net of this format, or '
            f'cut off: {error}'
        ) from None
    with atomic_write(target) as path, open(path, 'wb') as f:
        f.write(upgrade_net(param).SerializeToString())


def upgrade_solver_text(source, target):
    """Rewrite a solver prototxt of any age in the current form."""
    param = _parse(_read_text(source, 'solver'), caffe_pb2.SolverParameter(), str(source))
    _write_text(upgrade_solver(param), target)


def _write_text(message, target):
    with atomic_write(target) as path, open(path, 'w', encoding='utf-8') as f:
        f.write(text_format.MessageToString(message))


# ---- phase, level, stage ----


def filter_net(param, state):
    """A new NetParameter with the layers that the NetState lets in.

    A layer with `include` rules is in when one of them holds, a layer with `exclude` rules when none does.
    ValueError for both in one.
    """
    kept = caffe_pb2.NetParameter()
    kept.CopyFrom(param)
    del kept.layer[:]
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise ValueError(f'layer {layer.name!r} has both include and exclude rules; wanted is one kind')
        rules = layer.include or layer.exclude
        if not rules or any(_holds(rule, state) for rule in rules) == bool(layer.include):
            kept.layer.append(layer)
    return kept


def _holds(rule, state):
    return (
        (not rule.HasField('phase') or rule.phase == state.phase)
        and (not rule.HasField('min_level') or state.level >= rule.min_level)
        and (not rule.HasField('max_level') or state.level <= rule.max_level)
        and set(rule.stage) <= set(state.stage)
        and not set(rule.not_stage) & set(state.stage)
    )


# ---- blobs ----


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


# ---- weights ----


def read_weights(path):
    """[(layer name, type or '', [float32 arrays])] of a .caffemodel of any age and fork, or of an HDF5 file.

    The content tells which it is. The arrays may be read-only. An HDF5 file may leave out blobs that another
    layer owns: None stands for those before its last one.
    Errors: FileNotFoundError; ValueError with the file, its size and what is wrong with it.
    """
    path = str(path)
    _require_file(path, 'weights')
    try:
        return _read_hdf5(path) if h5py.is_hdf5(path) else _read_binary(_read_bytes(path, 'weights'))
    except (DecodeError, OSError, ValueError) as error:
        raise ValueError(
            f'weights {path} ({os.path.getsize(path)} bytes) cannot be read, not a caffemodel '
            f'or cut off: {error}'
        ) from None


def _read_binary(data):
    net = weights_pb2.Net.FromString(data)
    layers = list(net.layer) + [_slim_from_old(o) for o in net.layers]
    if not layers:
        raise ValueError('it holds no layers')
    return [(x.name, x.type, [_layer_blob(x, i) for i in range(len(x.blobs))]) for x in layers]


def _slim_from_old(old):
    if old.HasField('layer'):
        v0 = old.layer
        return weights_pb2.Layer(name=v0.name, type=_V0_TYPES.get(v0.type, ('', None))[0], blobs=v0.blobs)
    return weights_pb2.Layer(name=old.name, type=_v1_type(old.type), blobs=old.blobs)


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
            layers[layer][int(index)] = item[()].astype(np.float32)

    with h5py.File(path, 'r') as f:
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
