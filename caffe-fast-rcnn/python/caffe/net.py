"""net: pycaffe's Net, a graph of layers read from a prototxt.

graph.py connects the layers, run.py runs them, transfer.py moves weights; here are the names that scripts
call.
"""

import os

import numpy as np

from . import debug, transfer
from .common import Phase
from .format.prototxt import filter_net, read_net
from .format.upgrade import upgrade_net
from .format.weights import write_weights, write_weights_hdf5
from .graph import Graph
from .names import Names, did_you_mean
from .proto import caffe_pb2
from .run import Runner
from .summary import summary


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
        param = read_net(str(network_file))
        try:
            self._init(param, phase, level, stages or ())
        except ValueError as error:
            raise ValueError(f'{network_file}: {error}') from error
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
        param = _filtered(param, self.phase, level, stages)
        self._graph = graph = Graph(param, self.phase)
        self._runner = Runner(graph)
        self.name, self._nodes = graph.name, graph.nodes
        self.blobs, self.params = graph.blobs, graph.params
        self.learnable_params, self.params_lr = graph.learnable_params, graph.params_lr
        self.params_weight_decay = graph.params_weight_decay
        self.inputs, self.outputs = graph.inputs, graph.outputs
        if param.debug_info:
            debug.log_passes(self)

    # running

    def run_forward(self, start=0, end=None):
        """Run layers start..end (indices, inclusive; default all); returns the weighted sum of the losses met on
        the way, a tensor on the device, so nothing waits for it."""
        return self._runner.forward(start, len(self._nodes) - 1 if end is None else end)

    def run_backward(self):
        """Backward through the whole net."""
        self._runner.backward(len(self._nodes) - 1, 0)

    def forward_backward(self):
        """A solver's pass; returns the loss as run_forward does. It lets go of the last pass's diffs of the blobs
        before it begins, of each layer's tape once it was used, and of what released.py tells."""
        last = len(self._nodes) - 1
        self._runner.forget_diffs()
        loss = self._runner.forward(0, last, solving=True)
        self._runner.backward(last, 0, free=True)
        return loss

    def updated(self):
        """A solver has turned the parameters' diffs into updates and subtracted them."""
        self._runner.released.updated = True

    def _forward(self, start, end):
        return float(self._runner.forward(start, end))

    def _backward(self, start, end):
        self._runner.backward(start, end)

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
        names = self._layer_names
        if name not in names:
            raise ValueError(f'net {self.name!r} has no layer {name!r}' + did_you_mean(name, names))
        return names.index(name)

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

    def no_backward(self):
        """Give up backward passes, so that forward keeps nothing for them (a solver's test nets)."""
        self._runner.no_backward()

    # weights

    def copy_from(self, path):
        """Load the parameters of layers of the same name from a .caffemodel or HDF5 file; see
        transfer.copy_from."""
        transfer.copy_from(self._graph, path)

    load_weights = load_hdf5 = copy_from

    def save(self, path, diffs=False):
        """Write all parameters: a .caffemodel, or HDF5 when the name ends in .h5; first to a temporary
        name, then renamed."""
        self._runner.look()
        write_weights(str(path), transfer.weight_table(self._graph, diffs), self.name)

    def save_hdf5(self, path, diffs=False):
        self._runner.look()
        write_weights_hdf5(str(path), transfer.weight_table(self._graph, diffs))

    def share_with(self, other):
        """Use the values of other's parameters in all layers of the same name, from now on in common."""
        transfer.share_with(self._graph, other._graph)

    # what pycaffe shows of the graph

    layers = property(lambda self: [node.layer for node in self._nodes])
    _layer_names = property(lambda self: [node.layer.name for node in self._nodes])
    _blobs = property(lambda self: list(self.blobs.values()))
    _blob_names = property(lambda self: list(self.blobs))
    _inputs = property(lambda self: [self._blob_names.index(n) for n in self.inputs])
    _outputs = property(lambda self: [self._blob_names.index(n) for n in self.outputs])
    layer_dict = property(lambda self: self._by_layer(lambda node: node.layer))
    bottom_names = property(lambda self: self._by_layer(lambda node: list(node.bottom_names)))
    top_names = property(lambda self: self._by_layer(lambda node: list(node.top_names)))
    blob_loss_weights = property(lambda self: self._graph.blob_loss_weights)

    def _by_layer(self, value):
        return Names(((node.layer.name, value(node)) for node in self._nodes), 'layer')

    def __repr__(self):
        return summary(self)

    def _bottom_ids(self, i):
        return [self._blob_names.index(n) for n in self._nodes[i].bottom_names]

    def _top_ids(self, i):
        return [self._blob_names.index(n) for n in self._nodes[i].top_names]

    def before_forward(self, hook):
        """Call hook(layer index) before each layer's forward; likewise the three below."""
        self._runner.before_forward.append(hook)

    def after_forward(self, hook):
        self._runner.after_forward.append(hook)

    def before_backward(self, hook):
        self._runner.before_backward.append(hook)

    def after_backward(self, hook):
        self._runner.after_backward.append(hook)


def _filtered(param, phase, level, stages):
    """The NetParameter's layers that belong to this state."""
    state = caffe_pb2.NetState()
    state.CopyFrom(param.state)
    state.phase = int(phase)
    state.level = level
    state.stage.extend(stages)
    return filter_net(param, state)
