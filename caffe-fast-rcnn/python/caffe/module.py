"""module: a net as a torch.nn.Module, for torch's own training loops, optimizers, compilers and exporters.

The layers' compute functions run on tensors one after another under autograd: no blobs, no chains, no tapes of the
engine. docs/modules.md says what users see.
"""

import copy

import torch

from . import common
from .blob import Blob
from .tape import TorchLayer, message_value


def to_module(net, outputs=None, share=False):
    """The net as a torch.nn.Module, NetModule.

    outputs: names of the blobs that forward gives; by default those of the net. Layers that none of them needs are left
    out. share: the module's parameters lie in the memory of the net's, so that a change of either is one of both (on the
    CPU alone); otherwise they are copies. ValueError names an output that the net lacks, and a
    Python layer that has parameters.
    """
    return NetModule(net, list(net.outputs) if outputs is None else list(outputs), share)


class NetModule(torch.nn.Module):
    """forward(*inputs, **inputs) -> {output: tensor}.

    Parameters go by layer and number, as in net.params: `conv1.0` is net.params['conv1'][0]; points of a layer's name
    become underscores. One that several layers share is one Parameter. Those with lr_mult 0 take no gradient; running
    statistics are buffers.

    inputs: names of the tensors that forward takes, in this order: the tops of layers without bottoms. outputs: what it
    gives. loss_weights {output: its weight in the net's loss}, of those that have one.
    """

    def __init__(self, net, outputs, share):
        super().__init__()
        last = {name: v for node in net._nodes for name, v in zip(node.top_names, node.top_versions)}
        for name in outputs:
            if name not in last:
                raise ValueError(f'net {net.name!r} has no blob {name!r}; it has {", ".join(last)}')
        self.outputs = outputs
        self.loss_weights = {n: net.blob_loss_weights[n] for n in outputs if net.blob_loss_weights.get(n)}
        self.inputs, self._sources, self._steps = [], [], []
        self._outputs = [last[name] for name in outputs]
        made = {}  # memory of a blob -> its Parameter
        for node in _needed(net._nodes, set(self._outputs)):
            if not node.bottoms and not node.layer.blobs:
                self.inputs += node.top_names
                self._sources += node.top_versions
                continue
            step = Step(node, made, share)
            self.add_module(self._free(node.layer.name), step)
            self._steps.append((step, node.bottom_versions, node.top_versions))

    def _free(self, name):
        name = name.replace('.', '_') or '_'
        while hasattr(self, name):
            name += '_'
        return name

    def forward(self, *values, **named):
        known = dict(zip(self.inputs, values))
        if (
            len(values) > len(self.inputs)
            or set(known) & set(named)
            or set(known) | set(named) != set(self.inputs)
        ):
            raise TypeError(
                f'wanted the inputs {", ".join(self.inputs) or "none"}, each once; '
                f'got {len(values)} by place and {", ".join(named) or "none"} by name'
            )
        known.update(named)
        tensors = {version: known[name] for version, name in zip(self._sources, self.inputs)}
        for step, bottoms, tops in self._steps:
            tensors.update(zip(tops, step(*[tensors[v] for v in bottoms])))
        return {name: tensors[version] for name, version in zip(self.outputs, self._outputs)}


def _needed(nodes, wanted):
    """The nodes that make these versions of blobs, in order."""
    wanted, found = set(wanted), []
    for node in reversed(nodes):
        if wanted & set(node.top_versions):
            found.append(node)
            wanted.update(node.bottom_versions)
    return found[::-1]


class Step(torch.nn.Module):
    """One layer: tensors to a tuple of tensors. Blob i is the Parameter or buffer named i."""

    def __init__(self, node, made, share):
        super().__init__()
        layer = node.layer
        if node.bottoms and layer.blobs and not isinstance(layer, TorchLayer):
            raise ValueError(
                f'layer {layer.name!r} ({layer.type}) runs code of its own on parameters of its own'
            )
        given = layer.layer_param.propagate_down
        cut = {i for i in range(len(node.bottoms)) if i in layer.nondiff or given and not given[i]}
        self._passes = [i not in cut for i in range(len(node.bottoms))]
        self._shapes = [blob.shape for blob in layer.blobs]
        specs = layer.layer_param.param
        learned = [i >= len(specs) or specs[i].lr_mult != 0 for i in range(len(layer.blobs))]
        for i, (blob, learns) in enumerate(zip(layer.blobs, learned)):
            if isinstance(layer, TorchLayer) and i in layer.running:
                self.register_buffer(str(i), _values(blob, share))
                continue
            if blob._data not in made:
                made[blob._data] = torch.nn.Parameter(_values(blob, share), learns)
            self.register_parameter(str(i), made[blob._data])
        self._engine = _alone(layer, self) if isinstance(layer, TorchLayer) else layer

    def weights(self):
        return [getattr(self, str(i)).reshape(shape) for i, shape in enumerate(self._shapes)]

    def forward(self, *bottoms):
        bottoms = [x if passes else x.detach() for x, passes in zip(bottoms, self._passes)]
        if not isinstance(self._engine, TorchLayer):
            if not bottoms:  # a Parameter layer's top is its blob
                return tuple(self.weights())
            return torch.compiler.disable(_eager)(self._engine, bottoms)
        self._engine.weights = self.weights()
        tops = self._engine.compute(*bottoms)
        self._engine.weights = []
        return tops if isinstance(tops, tuple) else (tops,)


def _values(blob, share):
    """The blob's values, in its memory or copied."""
    if not share:
        return blob.tensor.detach().clone(memory_format=torch.contiguous_format)
    if common.device().type != 'cpu':
        raise ValueError(
            'a module shares the memory of a net on the CPU alone; copy it, or caffe.set_mode_cpu()'
        )
    return torch.from_numpy(blob.data)  # holds the view, so that the net looks into this memory from now on


class _Slot:
    """A blob of the layer, for a compute that reads or writes its statistics."""

    def __init__(self, step, name):
        self._step, self._name = step, name

    @property
    def tensor(self):
        return getattr(self._step, self._name).detach()

    @tensor.setter
    def tensor(self, value):
        with torch.no_grad():
            getattr(self._step, self._name).copy_(value)

    @property
    def shape(self):
        return tuple(getattr(self._step, self._name).shape)


def _alone(layer, step):
    """A copy of the layer that is independent of its net: its blobs are those of `step`, and its fields plain values, which
    torch.compile can look into."""
    layer = copy.copy(layer)
    layer.forget()
    fields = {}
    for message in reversed([getattr(layer.layer_param, name) for name in layer.messages]):
        fields.update({f.name: message_value(message, f.name) for f in message.DESCRIPTOR.fields})
    layer.field = lambda name: fields[name]
    layer.blobs = [_Slot(step, str(i)) for i in range(len(layer.blobs))]
    return layer


def _eager(layer, bottoms):
    if any(isinstance(x, torch._subclasses.FakeTensor) for x in bottoms):
        raise ValueError(
            f'layer {layer.name!r} ({layer.type}) runs code of its own on arrays, which cannot be exported; '
            'to_module(net, outputs=...) of blobs before it can'
        )
    return _Eager.apply(layer, *bottoms)


class _Eager(torch.autograd.Function):
    """A layer that is not one function of tensors, a user's Python layer for example: by its own forward and backward, on
    blobs of its own, in float32; its tops are as wide as its first bottom."""

    @staticmethod
    def forward(ctx, layer, *bottoms):
        ctx.layer, ctx.bottoms = layer, [Blob() for _ in bottoms]
        ctx.tops = [Blob() for _ in layer.layer_param.top]
        for blob, x in zip(ctx.bottoms, bottoms):
            blob.take(x.detach().clone())
        layer.forward_in_net(ctx.bottoms, ctx.tops)
        wide = bottoms[0].dtype if bottoms else torch.float32
        return tuple(top.tensor.to(wide, copy=True) for top in ctx.tops)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        needs = ctx.needs_input_grad[1:]
        for top, grad in zip(ctx.tops, grads):
            top.take_grad(grad.clone())
        ctx.layer.backward(ctx.tops, list(needs), ctx.bottoms)
        return None, *(b.grad.clone() if need else None for b, need in zip(ctx.bottoms, needs))
