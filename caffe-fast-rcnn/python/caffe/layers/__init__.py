"""The built-in layer types, one module per family; importing this package fills the registry.

| module     | types |
|---|---|
| activation | AbsVal BNLL Clip Dropout ELU Exp Log Power PReLU ReLU Sigmoid Softmax Swish TanH Threshold |
| conv       | Convolution Deconvolution InnerProduct Embed Im2col |
| data       | DummyData HDF5Data Input Parameter |
| loss       | Accuracy and the losses |
| norm       | BatchNorm Bias LRN MVN Scale |
| pooling    | Pooling SPP |
| python     | Python |
| recurrent  | LSTM LSTMUnit RNN |
| reduction  | ArgMax Eltwise Reduction |
| roi        | ROIPooling |
| shape      | BatchReindex Concat Crop Filter Flatten Reshape Silence Slice Split Tile |
| sources    | Data HDF5Output ImageData MemoryData |
| windows    | WindowData |

A new type is one function under @layer('Type') in its family's module: positional parameters are bottoms,
keyword-only ones are fields of the type's parameter message. A type with blobs is a class with setup() and
compute(). tests/caffe/layer_cases.py needs one line for it.
"""
from . import activation, conv, data, loss, norm, pooling, python, recurrent, reduction, roi, shape, sources, windows
