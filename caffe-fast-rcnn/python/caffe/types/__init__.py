"""The built-in layer types, one module per family; importing this package fills the registry.

| module     | types |
|---|---|
| activation | AbsVal BNLL Clip Dropout ELU Exp Log Power PReLU ReLU Sigmoid Softmax Swish TanH Threshold |
| conv       | Convolution Deconvolution InnerProduct Embed Im2col |
| deformable | ConvolutionDeformable DeformableConvolution DeformablePSROIPooling ModulatedDeformableConvolution |
| detections | DetectionEvaluate; files of detections |
| loss       | Accuracy and the losses |
| mobile     | Axpy ConvolutionDepthwise DepthwiseConvolution HSwish HardSwish Mish ReLU6 ShuffleChannel |
| multibox   | MultiBoxLoss |
| norm       | BatchNorm Bias GroupNorm LRN MVN Scale |
| ohem       | BoxAnnotatorOHEM SmoothL1LossOHEM SoftmaxWithLossOHEM |
| pooling    | Pooling SPP |
| proposal   | Proposal |
| python     | Python |
| recurrent  | LSTM LSTMUnit RNN |
| reduction  | ArgMax Eltwise Reduction |
| roi        | PSROIAlign PSROIPooling ROIAlign ROICrop ROIPooling |
| segmentation | BN Interp Unpooling Upsample |
| shape      | BatchReindex Concat Crop Filter Flatten Reshape Silence Slice Split Tile |
| ssd        | DetectionOutput Normalize Permute PriorBox |
| sources/   | AnnotatedData Data DummyData HDF5Data HDF5Output ImageData Input MemoryData Parameter WindowData |

A new type is one function under @layer('Type') in its family's module: positional parameters are bottoms,
keyword-only ones are fields of the type's parameter message. A type with blobs is a class with setup() and
compute(). Its message is found by name: HardTanhParameter, as hard_tanh_param of LayerParameter, belongs to HardTanh. half= says what it does in half precision.
tests/caffe/layer_cases.py needs one line for it, and the table above its name.
"""

from . import (
    activation,
    conv,
    deformable,
    detections,
    loss,
    mobile,
    multibox,
    norm,
    ohem,
    pooling,
    proposal,
    python,
    recurrent,
    reduction,
    roi,
    segmentation,
    shape,
    sources,
    ssd,
)
