"""tape: layers made of one function of tensors, `compute(*bottom tensors)`.

It runs under autograd in forward, on tensors that cost next to nothing in reshape; backward is one
torch.autograd.grad over that call.

In half precision (common.set_precision) a layer's `half` says where 16 bits do:
    None       nowhere: it gets and makes float32 (losses, softmax, boxes)
    'keeps'    it makes them where its first bottom has them, and computes in float32 (statistics, coordinates)
    'follows'  it computes with them where all its bottoms have them
    'starts'   it computes with them whatever it gets, on its weights rounded to them: what multiplies matrices
A layer whose tops no such product reads in the end is not `narrow` (plan.py): scores and deltas are not rounded.
Where the device does not multiply such numbers (common.multiplies), what is to compute with them does so in float32,
and rounds. Gradients are as wide as the values that they are of; those of fp16 are held common.loss_scale() times as
large. A weight stays float32, and so does its gradient: the rounding is part of the tape.
"""

import collections
import contextlib
import math

import torch

from . import checks, common, filler
from .blob import storage
from .layer import Layer

FEW = 2**20  # numbers that a layer computes with in no time


class TorchLayer(Layer):
    """A layer that is one function of tensors.

    Subclasses give compute(*bottoms) -> tensor or tuple, and where they have blobs, setup(); inside compute the blobs are
    self.weights.
    """

    # what plan asks
    is_head = False  # a chain may begin with it
    absorbs = False  # a head that has absorb(weights, factor, shift) -> weights
    is_affine = False  # a fixed factor and shift per channel, by factor_and_shift(weights), each or None
    activation = None  # the layer as a function that writes its tensor in place
    packs = staticmethod(
        lambda bottoms: False
    )  # a head that is faster on weights that pack(weights, relu) gives
    channels_last = False  # runs faster on the CPU with the channels last in memory
    running = ()  # blobs by number that compute itself writes, as it goes
    adds = False  # the top is the sum of the two bottoms
    narrow = True  # what plan answers: in half precision its tops may be
    # what reshape asks
    itemwise = False  # what comes of an item (index of axis 0) of the bottoms depends on that item alone
    refuses_zeros = False  # compute wants bottoms with values that mean something, or meta tensors

    def __init__(self, layer_param=None):
        super().__init__(layer_param)
        self.num_tops = max(1, len(self.layer_param.top))
        self.weights = []
        self._inferred = None
        self.over = None  # of what adds: the number of the bottom that the sum is to be written over
        self._tape = None  # inputs, weights, their marks, outputs, of the last run that a backward may follow
        self._generator_state = None  # of torch's generator, before that run
        self.joined = False  # compute runs for a tape of the whole pass
        self.again = False  # compute runs for the tape or for shapes alone: it counts nothing (twice)

    @property
    def param(self):
        return getattr(self.layer_param, self.messages[0])

    def field(self, name):
        """The value of a parameter; see message_value."""
        for message in self.messages:
            if name in getattr(self.layer_param, message).DESCRIPTOR.fields_by_name:
                return message_value(getattr(self.layer_param, message), name)
        raise KeyError(f'{self.type}: no field {name!r} in {", ".join(self.messages)}')

    def add_blob(self, shape, filler_param=None):
        self.blobs.add_blob(*shape)
        self.blobs[-1].fill(
            filler.fill(tuple(shape), filler_param) if filler_param is not None else torch.zeros(tuple(shape))
        )

    def compute(self, *bottoms):
        raise TypeError(f'{type(self).__name__} has no compute(*bottoms)')

    def products(self, bottom, top):
        """How many products of numbers with those of its filters or matrices a forward pass makes."""
        return 0

    def reshape(self, bottom, top):
        shapes = [b.shape for b in bottom]
        if self._inferred is None or self._inferred[0] != shapes:
            self._inferred = shapes, self._infer(shapes)
        for blob, shape in zip(top, self._inferred[1]):
            blob.reshape(*shape)
            if self.shares:
                blob.share_data(bottom[0])

    def _infer(self, shapes):
        """The shapes of the tops, as compute gives them: for no items where it is itemwise, for zeros where a few do,
        both on the CPU; else on meta tensors, for which torch first imports a second's worth of Python."""
        if self.itemwise and len({s[:1] for s in shapes}) == 1 and shapes[0] != ():
            with contextlib.suppress(ValueError):  # told of all items, below
                tops = self._run_empty([(0, *s[1:]) for s in shapes], 'cpu')
                return [(*shapes[0][:1], *s[1:]) for s in tops]
        few = sum(map(math.prod, [*shapes, *(b.shape for b in self.blobs)])) <= FEW
        few = few and all(map(math.prod, shapes)) and not self.refuses_zeros
        return self._run_empty(shapes, 'cpu' if few else 'meta')

    def _run_empty(self, shapes, device):
        """The tops' shapes for zeros of these shapes, which need no memory."""
        one = torch.zeros((), device=device)
        self.weights, self.again = [one.expand(b.shape) for b in self.blobs], True
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=self.draws):
                return [tuple(t.shape) for t in self._run([one.expand(s) for s in shapes])]
        finally:
            self.weights, self.again = [], False

    def forward(self, bottom, top):
        self._hand_over(self._record([b.held for b in bottom]), bottom, top)

    def _hand_over(self, outputs, bottom, top):
        """Give the tops their values."""
        elsewhere = (
            [] if self.absorbs else [*bottom, *self.blobs]
        )  # blobs that an output may lie in; a product is new
        for blob, output in zip(top, outputs):
            if self.shares:
                blob.reshape(*output.shape)
                blob.share_data(bottom[0])
            else:
                blob.take(output, elsewhere)

    def _record(self, tensors):
        """The outputs for these bottoms; keeps the tape that backward needs."""
        needs = self.propagate_down or [False] * len(tensors)
        param_needs = self.param_propagate_down or [False] * len(self.blobs)
        record = any(needs) or any(param_needs)
        if not record and common.half() is None:
            return self._without_tape(tensors, param_needs)
        computes, makes = self._widths(tensors)
        inputs = [self._entering(t, makes) for t in tensors]
        if record:
            takes = [need and i not in self.nondiff for i, need in enumerate(needs)]
            inputs = [_leaf(x, take) for x, take in zip(inputs, takes)]
        weights = self._leaves(param_needs)
        if record and self.draws and not self.again:
            self._generator_state = _generator().get_state()
        with torch.set_grad_enabled(record):
            self.weights = self.narrowed(weights, computes)
            outputs = tuple(y.to(makes) for y in self._run([x.to(computes) for x in inputs]))
        self._tape = (inputs, weights, self._marks(weights), outputs) if record else None
        self.weights = []
        return outputs

    def _without_tape(self, tensors, param_needs):
        """_record in float32 where nothing learns."""
        self._tape, self.weights = None, self._leaves(param_needs)
        with torch.no_grad():
            outputs = self._run(tensors)
        self.weights = []
        return outputs

    def forward_joined(self, bottom, top, inputs, leaf):
        """As forward, in a pass under one tape (joined.py), on which these inputs hang; leaf(blob): a learned blob as the
        tape begins with it. Returns the tops as they hang on it."""
        self._tape = None
        takes = zip(inputs, self.propagate_down)
        inputs = [x if p and i not in self.nondiff else x.detach() for i, (x, p) in enumerate(takes)]
        if self.draws:
            self._generator_state = _generator().get_state()
        weights = self._joined_weights(leaf)
        computes, makes = self._widths(inputs)
        if common.half() is not None:
            inputs = [self._entering(x, makes).to(computes) for x in inputs]
            weights = self.narrowed(weights, computes)
        self.joined, self.weights = True, weights
        try:
            outputs = self._run(inputs)
        finally:
            self.joined, self.weights = False, []
        if common.half() is not None:
            outputs = tuple(y.to(makes) for y in outputs)
        self._hand_over(outputs, bottom, top)
        return outputs

    def _joined_weights(self, leaf):
        return [leaf(b) if p else b.tensor for b, p in zip(self.blobs, self.param_propagate_down)]

    def _leaves(self, needs):
        """The blobs as the tape begins with them."""
        return [_leaf(b.tensor, need) for b, need in zip(self.blobs, needs)]

    def _widths(self, tensors):
        """(the type of the bottoms that compute gets, the type of the tops) for these bottoms."""
        half = common.half()
        if half is None or self.half is None or not self.narrow:
            return torch.float32, torch.float32
        narrow = [t.dtype == half for t in tensors]
        if not (self.half == 'starts' or (narrow[0] if self.half == 'keeps' else all(narrow))):
            return torch.float32, torch.float32
        return (half if self.half != 'keeps' and common.multiplies(half) else torch.float32), half

    def _entering(self, tensor, makes):
        """A bottom as the tape begins with it: as wide as its gradient shall be, where the tops are of type `makes`."""
        narrow = self.half != 'keeps' or tensor.dtype == makes
        return tensor.to(makes if narrow else torch.float32)

    def narrowed(self, weights, dtype):
        """The weights as compute gets them together with bottoms of this type."""
        half = common.half()
        if half is None or self.half != 'starts' or not self.narrow:
            return weights
        return [w.to(half).to(dtype) for w in weights]

    def record_again(self, tensors):
        """The outputs for these bottoms, with the numbers drawn that the last forward drew; keeps the tape, and
        changes no blob."""
        self.again, then, generator = True, self._generator_state, _generator()
        now = None if then is None else generator.get_state()
        try:
            if then is not None:
                generator.set_state(then)
            return self._record(tensors)
        finally:
            self.again = False
            if then is not None:
                generator.set_state(now)

    def recorded(self):
        """The outputs that the tape holds; None without one, or when a learned blob has changed since."""
        if self._tape is None:
            return None
        _, weights, marks, outputs = self._tape
        return outputs if marks == self._marks(weights) else None

    def _marks(self, weights):
        """What changes when the engine changes a learned blob."""
        tensors = [b.tensor for b, w in zip(self.blobs, weights) if w.requires_grad]
        return [(t.data_ptr(), t._version) for t in tensors]

    def forget(self):
        """Let go of the tape."""
        self._tape = None

    def forward_in_net(self, bottom, top):
        self.forward(bottom, top)  # gives the tops their shapes by itself

    def backward(self, top, propagate_down, bottom):
        """As Layer.backward, over the tape."""
        if self._tape is None:  # nothing here takes a gradient
            return
        inputs, weights, _, outputs = self._tape
        for i in self.nondiff:
            if self.strict and i < len(bottom) and propagate_down[i]:
                raise ValueError(
                    f'layer {self.name!r} ({self.type}) cannot propagate a gradient to its bottom {i}'
                )
        factor = undoing(outputs)
        roots = [(y, _plain(t.grad_in(y.dtype, factor))) for y, t in zip(outputs, top) if y.requires_grad]
        takes = [p and i not in self.nondiff for i, p in enumerate(propagate_down)]
        wanted = [x for x, t in zip(inputs, takes) if t] + [w for w in weights if w.requires_grad]
        grads = [None] * len(wanted)
        if roots and wanted:
            ys, dys = zip(*roots)
            grads = torch.autograd.grad(ys, wanted, dys, retain_graph=True, allow_unused=True)
        around = [*inputs, *weights, *(dy for _, dy in roots), *(g for g in grads if g is not None)]
        holders = collections.Counter(storage(t) for t in around)
        grads, done = iter(grads), set()
        for blob, wants, take in zip(bottom, propagate_down, takes):
            if wants:
                grad = next(grads) if take else None
                if id(blob) in done:
                    blob.grad = blob.grad if grad is None else blob.grad + _times(grad, factor)
                elif grad is None:
                    blob.clear_grad()
                else:
                    blob.take_grad(grad, top, factor)
                done.add(id(blob))
        for blob, weight in zip(self.blobs, weights):
            if weight.requires_grad:
                grad = next(grads)
                if grad is not None:
                    blob.add_grad(_times(grad, factor), shared=holders[storage(grad)] > 1)

    def _run(self, tensors, compute=None):
        """The tops of compute, self's or another, as a tuple."""
        checks.layer_runs(lambda text: self._says(text, tensors))
        try:
            outputs = (compute or self.compute)(*tensors)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise ValueError(self._says(error, tensors)) from error
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _says(self, error, tensors):
        shapes = ', '.join(str(tuple(t.shape)) for t in tensors)
        return f'layer {self.name!r} ({self.type}), bottom shapes {shapes or "none"}: {error}'


def _generator():
    """torch's own on the engine's device."""
    device = common.device()
    return (
        torch.default_generator if device.type == 'cpu' else torch.cuda.default_generators[device.index or 0]
    )


def undoing(outputs):
    """The number that brings gradients which came by these outputs back to their size, or None."""
    scale = common.loss_scale() if any(y.dtype == torch.float16 for y in outputs) else 1
    return None if scale == 1 else 1 / scale


def _times(tensor, factor):
    return tensor if factor is None else tensor.float() * factor


def _leaf(tensor, need):
    return _plain(tensor.detach()).requires_grad_(need)


def _plain(tensor):
    """The tensor; a batch of one with the stride that a larger one would have, because torch's backward of
    batch_norm is wrong on the strides (C, 1, W C, C)."""
    if tensor.dim() != 4 or len(tensor) != 1 or tensor.stride(0) >= tensor.numel():
        return tensor
    return tensor.as_strided(tensor.shape, (tensor.numel(), *tensor.stride()[1:]))


class FunctionLayer(TorchLayer):
    """A TorchLayer from a function: positional parameters are bottoms, keyword-only ones the messages' fields."""

    function = None  # set by @layer

    def setup(self, bottom, top):
        special = {'phase': int(self.phase), 'num_tops': self.num_tops}
        self.keywords = {n: self.field(n) for n in self.fields}
        self.keywords.update((n, special[n]) for n in self.special)

    def compute(self, *bottoms):
        return type(self).function(*bottoms, **self.keywords)


def message_value(message, name):
    """A field as layers see it: None when unset without a default, enums by name, repeated as tuples."""
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    enum = field.enum_type
    if repeated(field):
        return tuple(enum.values_by_number[v].name if enum else v for v in value)
    if field.message_type is not None:
        return value
    if not field.has_default_value and not message.HasField(name):
        return None
    return enum.values_by_number[value].name if enum else value


def repeated(field):
    """Whether a field descriptor is repeated, whatever protobuf calls that this year."""
    return field.is_repeated if hasattr(field, 'is_repeated') else field.label == field.LABEL_REPEATED
