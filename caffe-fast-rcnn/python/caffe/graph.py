"""graph: the layers of a net in their places.

Layers run in file order. A blob name may be written several times (in-place layers); each writing is a
version, and gradients of one version's consumers add up, so no Split layers are inserted.
"""

import torch

from .blob import Blob
from .names import Names, did_you_mean
from .proto import caffe_pb2
from .registry import layer_class


class Node:
    """A layer in its place: its blobs, and which version of which blob each bottom and top is."""

    def __init__(self, layer):
        self.layer = layer
        self.bottoms, self.tops = [], []  # Blobs
        self.bottom_names, self.top_names = [], []
        self.bottom_versions, self.top_versions = [], []  # ints, unique in the net
        self.propagate_down = []  # per bottom
        self.need_backward = False


class Graph:
    """The nodes of a NetParameter that was filtered for its phase, and its blobs and parameters.

    blobs, params: by name; params gives a layer's list. learnable_params: Blobs without those that share
    another's, with params_lr and params_weight_decay, their multipliers.
    """

    def __init__(self, param, phase):
        self.name, self.phase = param.name, phase
        self.nodes = []
        self.blobs = Names(what='blob')
        self.params = Names(what='layer with parameters')
        self.learnable_params, self.params_lr, self.params_weight_decay = [], [], []
        self.shared = set()  # (layer name, index) of parameters that another layer owns
        self.blob_loss_weights = Names(what='blob')
        self.version_losses = {}  # version -> its loss weight, for those that have one
        self._versions = {}  # blob name -> its latest version, while connecting
        self._version_count = 0
        self._version_needs = set()  # versions that a gradient must reach
        self._param_owners = {}  # parameter name -> (blob, layer name, index in learnable_params)
        self._stated = set()  # (index in learnable_params, 'lr_mult' or 'decay_mult') that a prototxt gives
        for layer_param in param.layer:
            self._append(layer_param)
        self._decide_backward(param.force_backward)
        consumed = {v for node in self.nodes for v in node.bottom_versions}
        self.outputs = sorted(
            name
            for name, version in self._versions.items()
            if version not in consumed and not name.startswith('(automatic')
        )
        self.inputs = [top for node in self.nodes if node.layer.type == 'Input' for top in node.top_names]

    def _append(self, layer_param):
        if not layer_param.HasField('phase'):
            layer_param.phase = int(self.phase)
        layer = _create_layer(layer_param)
        node = Node(layer)
        for i, name in enumerate(layer_param.bottom):
            self._connect_bottom(node, i, name)
        tops = list(layer_param.top)
        if layer.loss and not tops:  # a blob that is no output of the net
            tops = [f'(automatic {len(self.nodes)})']
        for i, name in enumerate(tops):
            self._connect_top(node, i, name)
        _set_up(layer, node)
        self._weigh_losses(node)
        self._register_params(node)
        node.need_backward = any(v in self._version_needs for v in node.bottom_versions) or any(
            layer.param_propagate_down
        )
        if node.need_backward:
            self._version_needs.update(node.top_versions)
        self.nodes.append(node)

    def _connect_bottom(self, node, i, name):
        param = node.layer.layer_param
        if name not in self._versions:
            raise ValueError(
                f'layer {param.name!r} ({param.type}): bottom {i} is {name!r}, which no layer before it makes'
                + did_you_mean(name, self._versions)
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
            self.blob_loss_weights[name] = weight
            if weight:
                self.version_losses[version] = weight
                weigh(top, weight)

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
                lr, index = spec.lr_mult, len(self.learnable_params)
                if spec.name:
                    self._param_owners[spec.name] = (blob, layer.name, index)
                self._stated.update((index, w) for w in ('lr_mult', 'decay_mult') if spec.HasField(w))
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
        self.shared.add((layer.name, i))
        for what, values in (('lr_mult', self.params_lr), ('decay_mult', self.params_weight_decay)):
            if spec.HasField(what):
                if getattr(spec, what) != values[index] and (index, what) in self._stated:
                    raise ValueError(
                        f'layer {layer.name!r}: {what} {getattr(spec, what)} of the shared parameter {spec.name!r} '
                        f'differs from {values[index]} in layer {owner_name!r}'
                    )
                values[index] = getattr(spec, what)
                self._stated.add((index, what))
        return self.params_lr[index]

    def _decide_backward(self, force):
        """Which layers run backward, and to which bottoms: those on a path from a parameter or forced
        bottom to a loss."""
        under_loss, wanted, consumed = set(), set(), set()  # versions
        for node in reversed(self.nodes):
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


def _create_layer(layer_param):
    """The layer object for a LayerParameter."""
    try:
        cls = layer_class(layer_param.type)
    except ValueError as error:
        raise ValueError(f'layer {layer_param.name!r}: {error}') from None
    return cls(layer_param)


# What torch and Python raise where a layer's numbers make no sense, or ask for more memory than there is
_SENSELESS = ValueError, IndexError, RuntimeError, TypeError, OverflowError, ZeroDivisionError, MemoryError


def _set_up(layer, node):
    """layer.setup and reshape; what a built-in layer finds wrong names the layer. A user's errors pass as they
    are."""
    wrapped = () if layer.layer_param.type == 'Python' else _SENSELESS
    try:
        layer.setup(node.bottoms, node.tops)
        layer.reshape(node.bottoms, node.tops)
    except wrapped as error:
        text = str(error) or type(error).__name__
        if repr(layer.name) not in text:
            shapes = ', '.join(str(b.shape) for b in node.bottoms) or 'none'
            text = f'layer {layer.name!r} ({layer.type}), bottom shapes {shapes}: {text}'
        raise ValueError(text) from error


def weigh(top, weight):
    top.grad = torch.full(top.shape, weight, device=top.tensor.device)
