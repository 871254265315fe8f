"""Net: a graph of layers read from a prototxt, with pycaffe's surface.

Net.__init__ is the table of contents: read, filter, connect each layer, decide who needs gradients, load
weights. Layers run in file order. A blob name may be written several times (in-place layers); each writing
is a version, and gradients of one version's consumers add up, so no Split layers are inserted.
"""

import collections
import difflib
import os

import numpy as np
import torch

from . import debug, plan
from .format.prototxt import filter_net, read_net
from .format.upgrade import upgrade_net
from .format.weights import read_weights, write_weights, write_weights_hdf5
from .blob import Blob
from .common import Phase, logger
from .layer import TorchLayer, layer_class
from .proto import caffe_pb2


class _Node:
    """A layer in its place: its blobs, and which version of which blob each bottom and top is."""

    def __init__(self, layer):
        self.layer = layer
        self.bottoms, self.tops = [], []  # Blobs
        self.bottom_names, self.top_names = [], []
        self.bottom_versions, self.top_versions = [], []  # ints, unique in the net
        self.propagate_down = []  # per bottom
        self.need_backward = False


class Net:
    """Net(network_file, phase, weights=None, level=0, stages=None), or the older Net(network_file, weights,
    phase).

    Errors: FileNotFoundError for a missing file; ValueError for an unknown layer type, an unknown bottom,
    a top made twice, parameters whose shape does not fit; each names the layer, what was wanted and what
    came.
    """

    def __init__(self, network_file, *args, phase=None, level=0, stages=None, weights=None):
        if len(args) == 2 and isinstance(args[0], (str, os.PathLike)):
            weights, phase = args
        elif args:
            phase, level, stages, weights = [*args, *(phase, level, stages, weights)[len(args) :]]
        if phase is None:
            raise TypeError('Net(network_file, phase): the phase is missing, caffe.TRAIN or caffe.TEST')
        self._init(read_net(str(network_file)), phase, level, stages or ())
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def from_param(cls, param, phase=None, level=0, stages=()):
        """A Net from a NetParameter (upgraded or not); phase None: the one of param.state."""
        net = cls.__new__(cls)
        phase = param.state.phase if phase is None else phase
        net._init(upgrade_net(param), phase, level, stages)
        return net

    def _init(self, param, phase, level, stages):
        self.phase = Phase(phase)
        state = caffe_pb2.NetState()
        state.CopyFrom(param.state)
        state.phase = int(self.phase)
        state.level = level
        state.stage.extend(stages)
        param = filter_net(param, state)
        self.name = param.name
        self.blobs = collections.OrderedDict()
        self.params = collections.OrderedDict()
        self.learnable_params, self.params_lr, self.params_weight_decay = [], [], []
        (
            self._nodes,
            self._before_forward,
            self._after_forward,
            self._before_backward,
            self._after_backward,
        ) = [], [], [], [], []
        self._versions = {}  # blob name -> its latest version, while connecting
        self._version_count = 0
        self._param_owners = {}  # parameter name -> (blob, layer name, index in learnable_params)
        self._shared = set()  # (layer name, index) of parameters that another layer owns
        self._version_losses = {}  # version -> its loss weight, for those that have one
        self._version_needs = set()  # versions that a gradient must reach
        self._blob_loss_weights = collections.OrderedDict()
        for layer_param in param.layer:
            self._append(layer_param)
        self._decide_backward(param.force_backward)
        self._chains = plan.chains(self._nodes)
        for chain in self._chains.values():
            chain.refresh()
        self._ran = {}  # index of a layer -> what ran it last, when it was a chain
        consumed = {v for node in self._nodes for v in node.bottom_versions}
        self.outputs = sorted(
            name
            for name, version in self._versions.items()
            if version not in consumed and not name.startswith('(automatic')
        )
        self.inputs = [top for node in self._nodes if node.layer.type == 'Input' for top in node.top_names]
        if param.debug_info:
            debug.log_passes(self)

    # building

    def _append(self, layer_param):
        if not layer_param.HasField('phase'):
            layer_param.phase = int(self.phase)
        layer = _create_layer(layer_param)
        node = _Node(layer)
        for i, name in enumerate(layer_param.bottom):
            self._connect_bottom(node, i, name)
        tops = list(layer_param.top)
        if layer.loss and not tops:  # a blob that is no output of the net
            tops = [f'(automatic {len(self._nodes)})']
        for i, name in enumerate(tops):
            self._connect_top(node, i, name)
        _set_up(layer, node)
        layer.reshape(node.bottoms, node.tops)
        self._weigh_losses(node)
        self._register_params(node)
        node.need_backward = any(v in self._version_needs for v in node.bottom_versions) or any(
            layer.param_propagate_down
        )
        if node.need_backward:
            self._version_needs.update(node.top_versions)
        self._nodes.append(node)

    def _connect_bottom(self, node, i, name):
        param = node.layer.layer_param
        if name not in self._versions:
            near = difflib.get_close_matches(name, self._versions, 2, 0.5)
            raise ValueError(
                f'layer {param.name!r} ({param.type}): bottom {i} is {name!r}, which no layer before it makes'
                + (f'; did you mean {" or ".join(near)}?' if near else '')
            )
        if param.propagate_down and len(param.propagate_down) != len(param.bottom):
            raise ValueError(
                f'layer {param.name!r}: {len(param.propagate_down)} propagate_down for {len(param.bottom)} bottoms'
            )
        version = self._versions[name]
        node.bottoms.append(self.blobs[name])
        node.bottom_names.append(name)
        node.bottom_versions.append(version)
        node.propagate_down.append(
            param.propagate_down[i] if param.propagate_down else version in self._version_needs
        )

    def _connect_top(self, node, i, name):
        param = node.layer.layer_param
        in_place = i < len(param.bottom) and param.bottom[i] == name
        if name in self._versions and not in_place:
            raise ValueError(
                f'layer {param.name!r} ({param.type}): top {name!r} is already made by an earlier layer'
            )
        if name not in self.blobs:
            self.blobs[name] = Blob()
        self._version_count += 1
        self._versions[name] = self._version_count
        node.tops.append(self.blobs[name])
        node.top_names.append(name)
        node.top_versions.append(self._version_count)

    def _weigh_losses(self, node):
        weights = list(node.layer.layer_param.loss_weight)
        if weights and len(weights) != len(node.tops):
            raise ValueError(
                f'layer {node.layer.name!r}: {len(weights)} loss_weight for {len(node.tops)} tops'
            )
        if not weights:
            weights = [float(node.layer.loss and i == 0) for i in range(len(node.tops))]
        node.layer.loss_weights = weights
        for name, top, version, weight in zip(node.top_names, node.tops, node.top_versions, weights):
            self._blob_loss_weights[name] = weight
            if weight:
                self._version_losses[version] = weight
                _weigh(top, weight)

    def _register_params(self, node):
        layer, specs = node.layer, node.layer.layer_param.param
        if len(specs) > len(layer.blobs):
            raise ValueError(
                f'layer {layer.name!r} ({layer.type}): {len(specs)} param {{}} for {len(layer.blobs)} parameter blobs'
            )
        for i, blob in enumerate(layer.blobs):
            spec = specs[i] if i < len(specs) else caffe_pb2.ParamSpec()
            owner = self._param_owners.get(spec.name) if spec.name else None
            if owner is None:
                lr = spec.lr_mult
                if spec.name:
                    self._param_owners[spec.name] = (blob, layer.name, len(self.learnable_params))
                self.learnable_params.append(blob)
                self.params_lr.append(spec.lr_mult)
                self.params_weight_decay.append(spec.decay_mult)
            else:
                lr = self._share_param(layer, i, spec, owner)
            layer.param_propagate_down.append(lr != 0)
        if layer.blobs:
            self.params[layer.name] = layer.blobs

    def _share_param(self, layer, i, spec, owner):
        """Let blob i of layer be the one that owner = (blob, layer name, index) holds; returns its
        lr_mult."""
        blob, owner_name, index = owner
        own = layer.blobs[i]
        permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
        if own.count != blob.count if permissive else own.shape != blob.shape:
            raise ValueError(
                f'layer {layer.name!r}: parameter {spec.name!r} has the shape {own.shape}, but layer {owner_name!r}, '
                f'which shares it, made it {blob.shape}'
            )
        own.share(blob)
        self._shared.add((layer.name, i))
        for what, values in (('lr_mult', self.params_lr), ('decay_mult', self.params_weight_decay)):
            if spec.HasField(what):
                if getattr(spec, what) != values[index] and values[index] != 1:
                    raise ValueError(
                        f'layer {layer.name!r}: {what} {getattr(spec, what)} of the shared parameter {spec.name!r} '
                        f'differs from {values[index]} in layer {owner_name!r}'
                    )
                values[index] = getattr(spec, what)
        return self.params_lr[index]

    def _decide_backward(self, force):
        """Which layers run backward, and to which bottoms: those on a path from a parameter or forced
        bottom to a loss."""
        under_loss, wanted, consumed = set(), set(), set()  # versions
        for node in reversed(self._nodes):
            contributes = any(node.layer.loss_weights) or any(v in under_loss for v in node.top_versions)
            skip = (
                bool(node.tops)
                and not any(node.layer.loss_weights)
                and all(v in consumed and v not in wanted for v in node.top_versions)
            )
            node.need_backward = node.need_backward and contributes and not skip
            consumed.update(node.bottom_versions)
            for i, version in enumerate(node.bottom_versions):
                node.propagate_down[i] = node.propagate_down[i] and contributes and not skip
                if contributes:
                    under_loss.add(version)
                if node.propagate_down[i]:
                    wanted.add(version)
            if force:
                node.need_backward = True
                node.propagate_down = [
                    p or i not in node.layer.nondiff for i, p in enumerate(node.propagate_down)
                ]
                node.layer.param_propagate_down = [True] * len(node.layer.blobs)
            node.layer.propagate_down = (
                list(node.propagate_down) if node.need_backward else [False] * len(node.bottoms)
            )
            if not node.need_backward:
                node.layer.param_propagate_down = [False] * len(node.layer.blobs)

    # running

    def _forward(self, start, end):
        """Run layers start..end (indices, inclusive); returns the weighted sum of the losses met on the
        way."""
        return float(self.run_forward(start, end))

    def run_forward(self, start=0, end=None):
        """_forward, but the loss is a tensor on the device, so nothing waits for it."""
        end = len(self._nodes) - 1 if end is None else end
        loss, i = torch.zeros(()), start
        while i <= end:
            chain = self._chains.get(i)
            if chain and (
                chain.last > end or chain.last > i and (self._before_forward or self._after_forward)
            ):
                chain = None
            last = chain.last if chain else i
            for hook in self._before_forward:
                hook(i)
            node = self._nodes[i]
            (chain or node.layer).forward_in_net(node.bottoms, node.tops)
            self._ran.update((k, chain) for k in range(i, last + 1))
            for top, weight in zip(node.tops, node.layer.loss_weights):
                if weight:
                    if top._diff.empty:
                        _weigh(top, weight)
                    loss = loss + weight * top.tensor.sum()
            for hook in self._after_forward:
                hook(i)
            i = last + 1
        self._settle()
        return loss

    def _backward(self, start, end):
        """Run layers start..end (indices, start >= end) backward from the tops' diffs; parameters' diffs
        add up."""
        touched = set()  # versions whose diff is this pass's
        i = start
        while i >= end:
            runner, first = self._backward_unit(i, end)
            self._backward_one(runner, range(i, first - 1, -1), touched)
            i = first - 1
        self._settle()

    def _backward_unit(self, i, end):
        """(what runs layer i backward, index of the first layer that this covers)."""
        chain = self._ran.get(i)
        if chain is None:
            return self._nodes[i].layer, i
        if chain.last == i and chain.first >= end:
            return chain, chain.first
        for k in range(chain.first, chain.last + 1):  # only some of its layers: run them again, one by one
            self._nodes[k].layer.forward_in_net(self._nodes[k].bottoms, self._nodes[k].tops)
            self._ran[k] = None
        return self._nodes[i].layer, i

    def _backward_one(self, layer, indices, touched):
        """Run one layer or chain backward; indices: the layers that it covers, last first."""
        node = self._nodes[indices[-1]]
        if not any(self._nodes[k].need_backward for k in indices):
            return
        for k in indices:
            for hook in self._before_backward:
                hook(k)
        before = {}
        for blob, version, propagates in zip(node.bottoms, node.bottom_versions, node.propagate_down):
            if propagates and version in touched:
                before[blob] = blob.grad.clone()
            elif propagates and version in self._version_losses:
                before[blob] = torch.full_like(blob.tensor, self._version_losses[version])
        if not isinstance(layer, TorchLayer):  # a user's backward that writes no diff means zero
            for blob, p in zip(node.bottoms, node.propagate_down):
                if p and blob not in node.tops:
                    blob.clear_grad()
        layer.backward(node.tops, node.propagate_down, node.bottoms)
        for blob, grad in before.items():
            blob.grad = blob.grad + grad
        touched.update(v for v, p in zip(node.bottom_versions, node.propagate_down) if p)
        for k in indices:
            for hook in self._after_backward:
                hook(k)

    def run_backward(self):
        """Backward through the whole net."""
        self._backward(len(self._nodes) - 1, 0)

    def _settle(self):
        for blob in self.blobs.values():
            blob.settle()
        for blob in self.learnable_params:
            blob.settle()

    def forward(self, blobs=None, start=None, end=None, **inputs):
        """Run layers `start` to `end` (names; default all) and return {name: data} of the outputs reached and
        of `blobs`.

        inputs: arrays for the input blobs by name; all of them or none, in the blobs' present shapes.
        """
        first = 0 if start is None else self._layer_index(start)
        last = len(self._nodes) - 1 if end is None else self._layer_index(end)
        reached = self.outputs if end is None else self._nodes[last].top_names
        self._take_arrays(inputs, self.inputs, 'inputs', lambda blob: blob.data)
        self.run_forward(first, last)
        return {name: self.blobs[name].data for name in dict.fromkeys([*reached, *(blobs or [])])}

    def backward(self, diffs=None, start=None, end=None, **outputs):
        """Run layers `start` down to `end` (names; default all) backward and return {name: diff} of the
        inputs reached and of `diffs`.

        outputs: arrays for the diffs of the net's outputs, by name; all of them or none.
        """
        first = len(self._nodes) - 1 if start is None else self._layer_index(start)
        last = 0 if end is None else self._layer_index(end)
        reached = self.inputs if end is None else self._nodes[last].bottom_names
        self._take_arrays(
            outputs,
            self.outputs if start is None else self._nodes[first].top_names,
            'outputs',
            lambda blob: blob.diff,
        )
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in dict.fromkeys([*reached, *(diffs or [])])}

    def _take_arrays(self, given, wanted, what, of):
        if given and set(given) != set(wanted):
            raise ValueError(
                f'net {self.name!r}: the {what} given are {sorted(given)}, the net has {sorted(wanted)}'
            )
        for name, array in given.items():
            array, blob = np.asarray(array), self.blobs[name]
            if array.shape[:1] != blob.shape[:1]:
                raise ValueError(
                    f'net {self.name!r}: {name!r} is given with the shape {array.shape}, but its blob has {blob.shape}; '
                    'reshape the blob first'
                )
            of(blob)[...] = array

    def _layer_index(self, name):
        for i, node in enumerate(self._nodes):
            if node.layer.name == name:
                return i
        near = difflib.get_close_matches(name, self._layer_names, 2, 0.5)
        raise ValueError(
            f'net {self.name!r} has no layer {name!r}'
            + (f'; did you mean {" or ".join(near)}?' if near else '')
        )

    def forward_all(self, blobs=None, **inputs):
        """forward over any number of samples, in batches of the net's size; the last one is padded and the
        padding cut off."""
        collected = {name: [] for name in dict.fromkeys([*self.outputs, *(blobs or [])])}
        for batch in self._batch(inputs):
            for name, array in self.forward(blobs=blobs, **batch).items():
                collected[name].extend(array.copy())
        count = len(next(iter(inputs.values())))
        return {name: np.asarray(rows[:count]) for name, rows in collected.items()}

    def forward_backward_all(self, blobs=None, diffs=None, **arrays):
        """forward_all and backward in the same batches; arrays: inputs by name, and diffs of outputs by
        name. Returns (data, diffs)."""
        data = {name: [] for name in dict.fromkeys([*self.outputs, *(blobs or [])])}
        grads = {name: [] for name in dict.fromkeys([*self.inputs, *(diffs or [])])}
        inputs = {k: v for k, v in arrays.items() if k in self.inputs}
        tops = {k: v for k, v in arrays.items() if k in self.outputs}
        for batch, top_batch in zip(self._batch(inputs), self._batch(tops) if tops else iter(dict, None)):
            for name, array in self.forward(blobs=blobs, **batch).items():
                data[name].extend(array.copy())
            for name, array in self.backward(diffs=diffs, **top_batch).items():
                grads[name].extend(array.copy())
        count = len(next(iter(inputs.values())))
        return (
            {k: np.asarray(v[:count]) for k, v in data.items()},
            {k: np.asarray(v[:count]) for k, v in grads.items()},
        )

    def _batch(self, arrays):
        """Cut {name: array} into batches of the net's size; the last is filled with zeros."""
        if not arrays:
            raise ValueError(f'net {self.name!r}: no arrays given')
        size = next(iter(self.blobs[name].shape[0] for name in arrays))
        count = len(next(iter(arrays.values())))
        for first in range(0, count, size):
            batch = {}
            for name, array in arrays.items():
                rows = np.zeros((size,) + np.asarray(array).shape[1:], np.float32)
                part = array[first : first + size]
                rows[: len(part)] = part
                batch[name] = rows
            yield batch

    def reshape(self):
        """Let every layer shape its tops from its bottoms."""
        for node in self._nodes:
            node.layer.reshape(node.bottoms, node.tops)

    def set_input_arrays(self, data, labels):
        """Give the MemoryData layer, which must be the first, its arrays: data (n, K, H, W), labels (n,) or
        (n, 1, 1, 1).

        RuntimeError, as in pycaffe, unless both are C-contiguous float32 and n is a multiple of
        batch_size.
        """
        if not self._nodes or self._nodes[0].layer.type != 'MemoryData':
            raise RuntimeError(f'net {self.name!r}: set_input_arrays wants MemoryData as the first layer')
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, None, None, None])
        self._nodes[0].layer.set_arrays(data, labels)

    def clear_param_diffs(self):
        for blob in self.learnable_params:
            blob.clear_grad()

    # weights

    def copy_from(self, path):
        """Load the parameters of layers of the same name from a .caffemodel or HDF5 file; other layers keep
        theirs.

        ValueError when a layer's parameters differ in number or shape. Blobs of old files with leading
        axes of 1 fit.
        """
        ignored = []
        for name, _, arrays in read_weights(str(path)):
            if not arrays:
                continue
            if name not in self.params:
                ignored.append(name)
                continue
            blobs = self.params[name]
            arrays = self._with_shared(name, arrays)
            if len(arrays) != len(blobs):
                raise ValueError(
                    f'{path}: layer {name!r} has {len(arrays)} parameter blobs, the net {self.name!r} wants {len(blobs)}'
                )
            for i, (blob, array) in enumerate(zip(blobs, arrays)):
                if array is None:
                    continue
                if _without_leading_ones(array.shape) != _without_leading_ones(blob.shape):
                    raise ValueError(
                        f'{path}: cannot copy parameter {i} of layer {name!r}: shape mismatch, the file has '
                        f'{tuple(array.shape)}, the net wants {blob.shape}. To learn this layer from scratch rather '
                        'than copy it, rename it'
                    )
                blob.data[...] = array.reshape(blob.shape)
        if ignored:
            logger.info(
                '%s: %d layers that net %r does not have: %s',
                path,
                len(ignored),
                self.name,
                ', '.join(ignored),
            )

    def _with_shared(self, name, arrays):
        """A layer's arrays of a file; None where the file leaves a parameter to the layer that owns it, as
        HDF5 files do."""
        missing = [i for i in range(len(self.params[name])) if i >= len(arrays) or arrays[i] is None]
        if missing and all((name, i) in self._shared for i in missing):
            return [None if i in missing else arrays[i] for i in range(len(self.params[name]))]
        return [a for a in arrays if a is not None]

    load_weights = copy_from

    def weight_table(self, diffs=False):
        """[(layer name, type, [arrays], bottom names, top names[, [diffs]])] as write_weights
        takes it."""
        rows = []
        for node in self._nodes:
            arrays = [_copy_to_host(b.tensor) for b in node.layer.blobs]
            row = (node.layer.name, node.layer.type, arrays, node.bottom_names, node.top_names)
            rows.append(row + ([_copy_to_host(b.grad) for b in node.layer.blobs],) if diffs else row)
        return rows

    def save(self, path, diffs=False):
        """Write all parameters: a .caffemodel, or HDF5 when the name ends in .h5; first to a temporary
        name, then renamed."""
        write_weights(str(path), self.weight_table(diffs), self.name)

    def save_hdf5(self, path, diffs=False):
        write_weights_hdf5(str(path), self.weight_table(diffs))

    load_hdf5 = copy_from

    def share_with(self, other):
        """Use the values of other's parameters in all layers of the same name, from now on in common."""
        for name, blobs in other.params.items():
            if name not in self.params:
                continue
            for i, (own, blob) in enumerate(zip(self.params[name], blobs)):
                if own.shape != blob.shape:
                    raise ValueError(
                        f'cannot share parameter {i} of layer {name!r}: shapes {own.shape} and {blob.shape} differ'
                    )
                own.share_data(blob)

    def no_backward(self):
        """Give up backward passes, so that forward keeps nothing for them (a solver's test nets)."""
        for node in self._nodes:
            node.need_backward = False
            node.layer.propagate_down = [False] * len(node.bottoms)
            node.layer.param_propagate_down = [False] * len(node.layer.blobs)
        for chain in self._chains.values():
            chain.refresh()

    # what pycaffe shows of the graph

    layers = property(lambda self: [node.layer for node in self._nodes])
    _layer_names = property(lambda self: [node.layer.name for node in self._nodes])
    _blobs = property(lambda self: list(self.blobs.values()))
    _blob_names = property(lambda self: list(self.blobs))
    _inputs = property(lambda self: [self._blob_names.index(n) for n in self.inputs])
    _outputs = property(lambda self: [self._blob_names.index(n) for n in self.outputs])
    layer_dict = property(lambda self: collections.OrderedDict((n.layer.name, n.layer) for n in self._nodes))
    bottom_names = property(
        lambda self: collections.OrderedDict((n.layer.name, list(n.bottom_names)) for n in self._nodes)
    )
    top_names = property(
        lambda self: collections.OrderedDict((n.layer.name, list(n.top_names)) for n in self._nodes)
    )
    blob_loss_weights = property(lambda self: self._blob_loss_weights)

    def _bottom_ids(self, i):
        return [self._blob_names.index(n) for n in self._nodes[i].bottom_names]

    def _top_ids(self, i):
        return [self._blob_names.index(n) for n in self._nodes[i].top_names]

    def before_forward(self, hook):
        """Call hook(layer index) before each layer's forward; likewise the three below."""
        self._before_forward.append(hook)

    def after_forward(self, hook):
        self._after_forward.append(hook)

    def before_backward(self, hook):
        self._before_backward.append(hook)

    def after_backward(self, hook):
        self._after_backward.append(hook)


def _create_layer(layer_param):
    """The layer object for a LayerParameter."""
    try:
        cls = layer_class(layer_param.type)
    except ValueError as error:
        raise ValueError(f'layer {layer_param.name!r}: {error}') from None
    return cls(layer_param)


def _set_up(layer, node):
    """layer.setup; what a built-in layer finds wrong names the layer. A user's errors pass as they are."""
    if layer.layer_param.type == 'Python':
        layer.setup(node.bottoms, node.tops)
        return
    try:
        layer.setup(node.bottoms, node.tops)
    except (ValueError, IndexError) as error:
        text = str(error)
        if repr(layer.name) not in text:
            shapes = ', '.join(str(b.shape) for b in node.bottoms) or 'none'
            text = f'layer {layer.name!r} ({layer.type}), bottom shapes {shapes}: {text}'
        raise ValueError(text) from error


def _weigh(top, weight):
    top.grad = torch.full(top.shape, weight, device=top.tensor.device)


def _copy_to_host(tensor):
    return tensor.cpu().numpy()


def _without_leading_ones(shape):
    shape = list(shape)
    while len(shape) > 1 and shape[0] == 1:
        shape.pop(0)
    return shape
