"""Nets as ONNX files: each layer type as standard operators, whole detectors with what comes before and after their nets.

| module | what |
|---|---|
| graph     | values of a graph that is written, with Python's operators |
| table     | the table of layer types; an entry is a function of Values under @exports('Type') |
| net       | layers of a caffe.Net into a graph |
| plain     | layers that map elements, reduce axes, or move elements |
| products  | layers that multiply by matrices, and normalisation |
| windows   | pooling, resizing, and the ways back |
| regions   | pooling of regions, levels of a pyramid |
| boxes     | each family's box arithmetic, non-maximum suppression |
| proposing | layers that make regions: an RPN's, a cascade's |
| ssd       | PriorBox, DetectionOutput |
| images    | pictures as a net wants them |
| detector  | a detector: from a picture to boxes, scores, labels, masks in its pixels |
| model     | the file: kinds of nets, and what it says of itself |
| check     | onnxruntime's answers beside ours |
"""

from export import plain, products, proposing, regions, ssd, windows
