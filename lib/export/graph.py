"""An ONNX graph as it is written: values with Python's operators, each of which adds a node.

Sizes are 1-D int64 values of one element, so that they go into shapes and broadcast as numbers do.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17  # onnxruntime 1.12 and later
IR_VERSION = 8
FAR = np.iinfo(np.int64).max  # the end of an axis


class Graph:
    """nodes, constants and ends of a graph. outputs: their names, which nothing else takes. prefix: of the names of the values
    that are made from now on."""

    def __init__(self, outputs=()):
        self.nodes, self.constants, self.inputs, self.outputs = [], {}, [], []
        self.prefix = ''
        self._names, self._numbers = set(outputs), {}

    # Values

    def input(self, name, dtype, shape, doc=''):
        """A new input. shape: numbers, and names of dimensions that may vary."""
        if name in self._names:
            raise ValueError(f'{name} is an input and cannot be an output too')
        self._names.add(name)
        self.inputs.append(helper.make_tensor_value_info(name, _code(dtype), shape, doc))
        return Value(self, name, dtype)

    def output(self, value, name, shape, doc=''):
        """Lets `name`, one of the outputs, have this value."""
        self.nodes.append(helper.make_node('Identity', [value.name], [name], name=f'{name}/out'))
        self.outputs.append(helper.make_tensor_value_info(name, _code(value.dtype), shape, doc))

    def const(self, values, dtype=np.float32, name=None):
        """A constant; without a name, the same one for the same values."""
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        key = name or (array.dtype.str, array.shape, array.tobytes())
        if key not in self._numbers:
            name = self._free(name or f'const_{len(self.constants)}')
            self.constants[name] = numpy_helper.from_array(array, name)
            self._numbers[key] = Value(self, name, array.dtype)
        return self._numbers[key]

    def size(self, *dims):
        """A 1-D int64 value of numbers and sizes."""
        if all(isinstance(d, (int, np.integer)) for d in dims):
            return self.const(np.array(dims, np.int64), np.int64)
        parts = [d if isinstance(d, Value) else self.const([d], np.int64) for d in dims]
        return parts[0] if len(parts) == 1 else self.join(parts, 0)

    def join(self, values, axis):
        return self.op('Concat', *values, axis=axis) if len(values) > 1 else values[0]

    def arange(self, count, dtype=np.float32):
        """0, 1 ... less than a size."""
        zero, one = self.const(0, np.int64), self.const(1, np.int64)
        return self.op('Range', zero, count.scalar(), one, dtype=np.int64).cast(dtype)

    def full(self, size, value, dtype=np.float32):
        """`value` at every place of a shape, a 1-D value."""
        tensor = numpy_helper.from_array(np.array([value], dtype))
        return self.op('ConstantOfShape', size, dtype=dtype, value=tensor)

    # Nodes

    def op(self, kind, *inputs, tops=1, dtype=None, name=None, **attributes):
        """A node of this type -> its output, or a tuple of `tops`. dtype: of the outputs, by default the first input's. None
        among the inputs: one that is left out."""
        dtype = inputs[0].dtype if dtype is None else dtype
        stem = self._free(self.prefix + (name or f'{kind}_{len(self.nodes)}'))
        outputs = [stem] + [self._free(f'{stem}/{i}') for i in range(1, tops)]
        given = ['' if value is None else value.name for value in inputs]
        self.nodes.append(helper.make_node(kind, given, outputs, name=stem, **attributes))
        values = tuple(Value(self, output, dtype) for output in outputs)
        return values[0] if tops == 1 else values

    def _free(self, name):
        while name in self._names:
            name += '_'
        self._names.add(name)
        return name

    def model(self, name, doc, properties):
        """The ModelProto, checked. properties: {key: text}."""
        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self.constants.values()), doc
        )
        opset = [helper.make_opsetid('', OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name='py-faster-rcnn'
        )
        helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        return model


def _code(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Value:
    """A tensor of a graph: its name there, and the type of its elements. Numbers that meet it become constants of that type."""

    def __init__(self, graph, name, dtype):
        self.graph, self.name, self.dtype = graph, name, np.dtype(dtype)

    def op(self, kind, *others, dtype=None, **attributes):
        others = [self._beside(other) for other in others]
        return self.graph.op(kind, self, *others, dtype=dtype, **attributes)

    def _beside(self, other):
        return other if isinstance(other, Value) else self.graph.const(other, self.dtype)

    # Arithmetic

    def __add__(self, other):
        return self.op('Add', other)

    def __sub__(self, other):
        return self.op('Sub', other)

    def __mul__(self, other):
        return self.op('Mul', other)

    def __truediv__(self, other):
        return self.op('Div', other)

    def __floordiv__(self, other):
        """Of whole numbers not below 0."""
        return self.op('Div', other)

    def __mod__(self, other):
        return self.op('Mod', other)

    def __pow__(self, other):
        return self.op('Pow', other)

    def __radd__(self, other):
        return self._beside(other) + self

    def __rsub__(self, other):
        return self._beside(other) - self

    def __rmul__(self, other):
        return self._beside(other) * self

    def __rtruediv__(self, other):
        return self._beside(other) / self

    def __neg__(self):
        return self.op('Neg')

    def __gt__(self, other):
        return self.op('Greater', other, dtype=bool)

    def __ge__(self, other):
        return self.op('GreaterOrEqual', other, dtype=bool)

    def __lt__(self, other):
        return self.op('Less', other, dtype=bool)

    def __and__(self, other):
        return self.op('And', other)

    def equals(self, other):
        return self.op('Equal', other, dtype=bool)

    def maximum(self, other):
        return self.op('Max', other)

    def minimum(self, other):
        return self.op('Min', other)

    def where(self, yes, no):
        """Of a condition: values of `yes` where it holds, of `no` elsewhere; one of them is a Value."""
        like = yes if isinstance(yes, Value) else no
        return self.graph.op('Where', self, like._beside(yes), like._beside(no), dtype=like.dtype)

    def ceil_by(self, number):
        """The quotient of whole numbers not below 0, rounded up."""
        return (self + (number - 1)) // number

    def cast(self, dtype):
        if self.dtype == np.dtype(dtype):
            return self
        return self.graph.op('Cast', self, dtype=dtype, to=_code(dtype))

    # Shapes

    def shape(self, start=0, end=None):
        """The sizes of the axes from start up to end, 1-D."""
        ends = {'start': start} | ({} if end is None else {'end': end})
        return self.graph.op('Shape', self, dtype=np.int64, **ends)

    def dim(self, axis):
        return self.shape(axis, axis + 1)

    def scalar(self):
        """Of one element: without axes."""
        return self.op('Squeeze', self.graph.const([0], np.int64))

    def reshape(self, *dims):
        """0: as the axis at that place is, -1: the rest."""
        return self.op('Reshape', self.graph.size(*dims))

    def like(self, other):
        """In the shape of another."""
        return self.op('Reshape', other.shape())

    def unsqueeze(self, *axes):
        return self.op('Unsqueeze', self.graph.const(axes, np.int64))

    def squeeze(self, *axes):
        return self.op('Squeeze', self.graph.const(axes, np.int64))

    def transpose(self, *order):
        return self.op('Transpose', perm=list(order))

    def expand(self, *dims):
        return self.op('Expand', self.graph.size(*dims))

    def take(self, index, axis=0):
        return self.op('Gather', index, axis=axis)

    def cut(self, axis, start, end, step=1):
        """From start up to end along an axis; both are numbers or sizes."""
        ends = [self.graph.size(start), self.graph.size(end)]
        return self.op('Slice', *ends, self.graph.size(axis), self.graph.size(step))

    def head(self, count):
        return self.cut(0, 0, count)

    def where_true(self):
        """Of a condition (n,): the places where it holds (m,) int64."""
        return self.op('NonZero', dtype=np.int64).reshape(-1)

    # Reductions

    def sum(self, *axes, keep=False):
        return self.op('ReduceSum', self.graph.const(axes, np.int64), keepdims=int(keep))

    def mean(self, *axes, keep=False):
        return self.op('ReduceMean', axes=list(axes), keepdims=int(keep))

    def min(self, *axes, keep=False):
        return self.op('ReduceMin', axes=list(axes), keepdims=int(keep))

    def max(self, *axes, keep=False):
        return self.op('ReduceMax', axes=list(axes), keepdims=int(keep))

    def top(self, count, axis=0):
        """The `count` (a size) largest along an axis, the largest first, of equal ones the first: values, places int64."""
        values, places = self.graph.op('TopK', self, count, tops=2, axis=axis)
        return values, Value(self.graph, places.name, np.int64)
