"""What settings decide of a solver and its train net over their files: what is frozen, biases, clipping, whose statistics
BatchNorm takes, smoothed labels, hard examples.

The files stay as they are; what trains is written beside the training's results, to be read.
"""

import fnmatch
import logging
import os

from google.protobuf import text_format

from caffe.format.prototxt import parse_net, read_net, read_solver
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
    SYNC_BN, LABEL_SMOOTHING, OHEM or CLIP_GRADIENTS differ from it, <snapshot_prefix>_options_solver.prototxt in the folder, and its net beside it.

    ValueError for a pattern of FREEZE that fits no layer with parameters, for SYNC_BN where no statistics are learned, and for
    OHEM where the net has not the losses that it changes.
    """
    solver, changes = read_solver(solver_file), []
    if train.CLIP_GRADIENTS > 0 and train.CLIP_GRADIENTS != solver.clip_gradients:
        changes.append(f'clip_gradients {solver.clip_gradients:g} -> {train.CLIP_GRADIENTS:g}')
        solver.clip_gradients = train.CLIP_GRADIENTS
    net_changes = []
    wanted = train.FREEZE or train.SYNC_BN or not train.BIAS_DECAY or not train.DOUBLE_BIAS
    if wanted or train.LABEL_SMOOTHING or train.OHEM:
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
    smoothed = _smooth(net, train.LABEL_SMOOTHING) if train.LABEL_SMOOTHING else []
    if train.OHEM and _class_losses(net):
        mine_hard(net, train.OHEM, source)
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
        *([f'labels of {" ".join(smoothed)} smoothed by {train.LABEL_SMOOTHING:g}'] if smoothed else []),
        *([f'the {train.OHEM} hardest RoIs of an image train'] if train.OHEM and _class_losses(net) else []),
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


def _class_losses(net):
    """The layers that judge regions' classes; where an RPN trains alone there are none."""
    return [one for one in net.layer if one.type == 'SoftmaxWithLoss' and one.bottom[0].endswith('cls_score')]


def _smooth(net, share):
    """Sets the label smoothing of the losses of regions' classes -> the layers' names."""
    if not 0 < share < 1:
        raise ValueError(f'TRAIN.LABEL_SMOOTHING: wanted a share from 0 to 1, got {share:g}')
    losses = _class_losses(net)
    for one in losses:
        one.loss_param.label_smoothing = share
    return [one.name for one in losses]


# What gives each region its loss, and the labels and weights of the hardest; roi_per_img
MINING = """
layer {{ name: "per_roi_loss_cls" type: "SoftmaxWithLossOHEM" bottom: "cls_score" bottom: "labels" top: "temp_loss_cls"
  top: "temp_prob_cls" top: "per_roi_loss_cls" propagate_down: false propagate_down: false
  loss_weight: 0 loss_weight: 0 loss_weight: 0 }}
layer {{ name: "roi_boxes" type: "SmoothL1LossOHEM" bottom: "bbox_pred" bottom: "bbox_targets" bottom: "bbox_inside_weights"
  top: "temp_loss_bbox" top: "per_roi_loss_bbox" propagate_down: false propagate_down: false propagate_down: false
  loss_weight: 0 loss_weight: 0 }}
layer {{ name: "roi_classes" type: "Reshape" bottom: "per_roi_loss_cls" top: "per_roi_loss_cls_rows"
  propagate_down: false reshape_param {{ shape {{ dim: -1 dim: 1 }} }} }}
layer {{ name: "per_roi_loss" type: "Eltwise" bottom: "per_roi_loss_cls_rows" bottom: "per_roi_loss_bbox" top: "per_roi_loss"
  propagate_down: false propagate_down: false }}
layer {{ name: "hardest" type: "BoxAnnotatorOHEM" bottom: "rois" bottom: "per_roi_loss" bottom: "labels"
  bottom: "bbox_inside_weights" top: "labels_ohem" top: "bbox_loss_weights_ohem" propagate_down: false
  propagate_down: false propagate_down: false propagate_down: false
  box_annotator_ohem_param {{ roi_per_img: {count} ignore_label: -1 }} }}
layer {{ name: "mined" type: "Silence" bottom: "temp_loss_cls" bottom: "temp_prob_cls" bottom: "temp_loss_bbox"
  bottom: "bbox_outside_weights" }}
"""


def mine_hard(net, count, source):
    """Lets `count` RoIs of each image, those with the largest losses, train a NetParameter with the losses loss_cls and
    loss_bbox, as R-FCN's nets with OHEM have it: the boxes' loss is then over `count` in place of the number of RoIs."""
    losses = {one.name: one for one in net.layer if one.name in ('loss_cls', 'loss_bbox')}
    kinds = {name: one.type for name, one in losses.items()}
    sigma = losses['loss_bbox'].smooth_l1_loss_param.sigma if 'loss_bbox' in losses else 1
    if kinds != {'loss_cls': 'SoftmaxWithLoss', 'loss_bbox': 'SmoothL1Loss'} or sigma != 1:
        raise ValueError(
            f'{source}: TRAIN.OHEM wants a net with one head, whose losses are loss_cls and loss_bbox, a SoftmaxWithLoss '
            f'and a SmoothL1Loss with sigma 1; got {kinds or "none"}, sigma {sigma:g}'
        )
    losses['loss_cls'].bottom[1] = 'labels_ohem'
    losses['loss_cls'].loss_param.ignore_label = -1
    box = losses['loss_bbox']
    box.type, box.bottom[2] = 'SmoothL1LossOHEM', 'bbox_loss_weights_ohem'
    del box.bottom[3:], box.propagate_down[3:]
    box.loss_param.normalization, box.loss_param.pre_fixed_normalizer = box.loss_param.PRE_FIXED, count
    layers = list(net.layer)
    place = next(i for i, one in enumerate(layers) if one.name in losses)
    layers[place:place] = parse_net(MINING.format(count=count)).layer
    del net.layer[:]
    net.layer.extend(layers)


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
