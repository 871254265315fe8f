"""What settings decide of a solver and its train net over their files: what is frozen, biases, clipping, whose statistics
BatchNorm takes.

The files stay as they are; what trains is written beside the training's results, to be read.
"""

import fnmatch
import logging
import os

from google.protobuf import text_format

from caffe.format.prototxt import read_net, read_solver
from caffe.names import did_you_mean
from utils.files import atomic_path

log = logging.getLogger(__name__)

# The message of the kinds of layers whose second parameter is a bias, where there is one
BIASED = {
    'Convolution': 'convolution_param',
    'Deconvolution': 'convolution_param',
    'InnerProduct': 'inner_product_param',
    'Embed': 'embed_param',
    'Scale': 'scale_param',
}
BLOBS = {'BatchNorm': 3, 'PReLU': 1, 'Normalize': 1}


def with_options(solver_file, train, folder):
    """The solver file to train by: solver_file itself, or where cfg.TRAIN's FREEZE, BIAS_DECAY, DOUBLE_BIAS,
    SYNC_BN or CLIP_GRADIENTS differ from it, <snapshot_prefix>_options_solver.prototxt in the folder, and its net beside it.

    ValueError for a pattern of FREEZE that fits no layer with parameters, and for SYNC_BN where no statistics are learned.
    """
    solver, changes = read_solver(solver_file), []
    if train.CLIP_GRADIENTS > 0 and train.CLIP_GRADIENTS != solver.clip_gradients:
        changes.append(f'clip_gradients {solver.clip_gradients:g} -> {train.CLIP_GRADIENTS:g}')
        solver.clip_gradients = train.CLIP_GRADIENTS
    net_changes = []
    if train.FREEZE or train.SYNC_BN or not train.BIAS_DECAY or not train.DOUBLE_BIAS:
        field = 'train_net' if solver.train_net else 'net'
        net_file = getattr(solver, field)
        net = read_net(net_file)
        net_changes = _change_net(net, train, net_file)
    if not changes and not net_changes:
        return solver_file
    stem = os.path.join(folder, f'{solver.snapshot_prefix}_options')
    if net_changes:
        setattr(solver, field, f'{stem}_net.prototxt')
        write_changed(f'{stem}_net.prototxt', net, net_file, net_changes)
        changes.append(f'{field} {net_file} -> {stem}_net.prototxt')
    write_changed(f'{stem}_solver.prototxt', solver, solver_file, changes)
    return f'{stem}_solver.prototxt'


def write_changed(path, message, source, changes):
    """Writes a message made of the file `source`, and says in its head and in the log what was changed, in words."""
    with atomic_path(path) as temporary, open(temporary, 'w') as stream:
        stream.write(f'# {source}, by the settings: {"; ".join(changes)}\n')
        stream.write(text_format.MessageToString(message))
    log.info('%s: %s (%s)', source, '; '.join(changes), path)


def _change_net(net, train, source):
    """Changes the NetParameter -> what was done, in words."""
    frozen = freeze(net, train.FREEZE, source)
    biases = [spec for layer in net.layer if layer.name not in frozen for spec in _bias(layer)]
    decayed = [(weight, bias) for weight, bias in biases if not train.BIAS_DECAY and bias.decay_mult]
    doubled = [(w, b) for w, b in biases if not train.DOUBLE_BIAS and b.lr_mult != w.lr_mult]
    synced = _learning_statistics(net, source) if train.SYNC_BN else []
    for _, bias in decayed:
        bias.decay_mult = 0
    for batch_norm in synced:
        batch_norm.sync = True
    for weight, bias in doubled:
        bias.lr_mult = weight.lr_mult
    return [
        *([f'frozen: {" ".join(frozen)}'] if frozen else []),
        *([f'{len(decayed)} biases do not decay'] if decayed else []),
        *([f'{len(doubled)} biases learn as fast as their weights'] if doubled else []),
        *([f'{len(synced)} BatchNorm over all workers'] if synced else []),
    ]


def _learning_statistics(net, source):
    """The BatchNormParameters of the layers that take a batch's statistics."""
    norms = [layer.batch_norm_param for layer in net.layer if layer.type == 'BatchNorm']
    learning = [norm for norm in norms if not norm.use_global_stats]
    if not learning:
        raise ValueError(
            f'{source}: TRAIN.SYNC_BN, but no BatchNorm takes the statistics of a batch (of {len(norms)})'
        )
    return learning


def freeze(net, patterns, source):
    """Sets the lr_mult of all parameters of layers whose name fits a pattern (as file names do: *, ?, [abc]) to 0 in a
    NetParameter; BatchNorm among them takes its statistics as they are -> the layers' names."""
    names = [layer.name for layer in net.layer if _count(layer)]
    frozen = set()
    for pattern in patterns:
        fit = fnmatch.filter(names, pattern)
        if not fit:
            raise ValueError(
                f'{source}: TRAIN.FREEZE {pattern!r} fits no layer with parameters'
                + (did_you_mean(pattern, names) or f'; there are {", ".join(names)}')
            )
        frozen.update(fit)
    for layer in net.layer:
        if layer.name in frozen:
            _extend(layer, _count(layer))
            for spec in layer.param:
                spec.lr_mult = 0
            if layer.type == 'BatchNorm':
                layer.batch_norm_param.use_global_stats = True
    return [name for name in names if name in frozen]


def _count(layer):
    """How many parameters a layer has; one of a kind that is not known here, those that its file names."""
    if layer.type in BIASED:
        learned = len(layer.bottom) < 2 if layer.type == 'Scale' else 1
        return learned + getattr(layer, BIASED[layer.type]).bias_term
    return BLOBS.get(layer.type, len(layer.param))


def _bias(layer):
    """[(the ParamSpec of a layer's weights, of its bias)], or []."""
    if layer.type not in BIASED or _count(layer) < 2:
        return []
    _extend(layer, 2)
    return [(layer.param[0], layer.param[1])]


def _extend(layer, count):
    while len(layer.param) < count:
        layer.param.add()
