"""Upgrades: messages of every age become current ones, in place.

Nets: V0 and V1 `layers`, `input` fields, transformation fields of data layers, DeepLab's `hole`. Solvers:
`solver_type`.
"""

from ..names import did_you_mean
from ..proto import caffe_pb2


def upgrade_net(param):
    """Bring a NetParameter of any age to the current form, in place, and return it.

    V0 and V1 `layers` become `layer`; V0 padding layers go into the convolution or pooling that reads them;
    transformation fields of V1 data layers move to transform_param; `input` with input_shape or input_dim
    becomes an Input layer, and without any shape says nothing; a BatchNorm's three param entries go, since its blobs never learn; DeepLab's
    `hole` becomes dilation. ValueError when that cannot be done.
    """
    if param.layers:
        _upgrade_layers(param)
    if param.input:
        _upgrade_input(param)
    for layer in param.layer:
        if layer.type == 'BatchNorm' and len(layer.param) == 3:
            del layer.param[:]
        if layer.HasField('convolution_param'):
            _upgrade_hole(layer.convolution_param)
    return param


def upgrade_solver(param):
    """Turn the old enum `solver_type` into `type`, in place. ValueError when both are given."""
    if param.HasField('solver_type'):
        if param.HasField('type'):
            raise ValueError(f'solver has both type: {param.type!r} and the older solver_type; wanted is one')
        param.type = _SOLVER_TYPES[caffe_pb2.SolverParameter.SolverType.Name(param.solver_type)]
        param.ClearField('solver_type')
    return param


_SOLVER_TYPES = {
    'SGD': 'SGD',
    'NESTEROV': 'Nesterov',
    'ADAGRAD': 'AdaGrad',
    'RMSPROP': 'RMSProp',
    'ADADELTA': 'AdaDelta',
    'ADAM': 'Adam',
}


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


def _upgrade_input(param):
    dims = list(param.input_dim)
    if not dims and not param.input_shape:
        del param.input[:]
        return
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


def _upgrade_layers(param):
    if param.layer:
        raise ValueError("a net has either 'layer' or the older 'layers' fields, this one has both")
    old = _fold_padding(param.layers) if any(o.HasField('layer') for o in param.layers) else param.layers
    param.layer.extend([_from_v0(o) if o.HasField('layer') else _from_v1(o) for o in old])
    del param.layers[:]


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


def v1_type(number):
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
    new = caffe_pb2.LayerParameter(type=v1_type(old.type))
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
V0_TYPES = {
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
    if v0.type not in V0_TYPES:
        raise ValueError(
            f'layer {v0.name!r}: unknown old layer type {v0.type!r}{did_you_mean(v0.type, V0_TYPES)}'
        )
    return V0_TYPES[v0.type]


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
