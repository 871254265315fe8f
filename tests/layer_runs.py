"""Nets of one Python layer and a few inputs, and roidb entries, for the library's tests."""

import caffe
import cv2
import numpy as np
import scipy.sparse


def one_layer_net(tmp_path, module, layer, tops, param_str, phase=caffe.TRAIN, more='', **shapes):
    """A net with an Input for each name in shapes, and the layer over them; `more`: text of other layers."""
    inputs = ''.join(
        'layer { name: "%s" type: "Input" top: "%s" input_param { shape { %s } } }\n'
        % (name, name, ' '.join(f'dim: {d}' for d in shape))
        for name, shape in shapes.items()
    )
    path = tmp_path / 'net.prototxt'
    path.write_text(
        inputs + 'layer { name: "it" type: "Python" %s %s python_param '
        '{ module: "%s" layer: "%s" param_str: "%s" } }\n'
        % (
            ' '.join(f'bottom: "{b}"' for b in shapes),
            ' '.join(f'top: "{t}"' for t in tops),
            module,
            layer,
            param_str,
        )
        + more
    )
    return caffe.Net(str(path), phase)


def run_layer(tmp_path, module, layer, tops, param_str, phase=caffe.TRAIN, **bottoms):
    """The tops of one Python layer fed with bottoms by name, numpy's seed 3 set before."""
    net = one_layer_net(
        tmp_path,
        module,
        layer,
        tops,
        param_str,
        phase,
        **{name: np.shape(value) for name, value in bottoms.items()},
    )
    for name, value in bottoms.items():
        net.blobs[name].data[...] = value
    np.random.seed(3)
    net.forward()
    return [net.blobs[top].data for top in tops]


def run_in_order(tmp_path, kind, param_str, bottoms, tops, phase=caffe.TRAIN):
    """As run_layer, for kind module.Class, bottoms in a list and a number of tops."""
    module, _, layer = kind.rpartition('.')
    named = {f'b{i}': values for i, values in enumerate(bottoms)}
    param_str = param_str.replace('\n', r'\n')
    return run_layer(tmp_path, module, layer, [f't{i}' for i in range(tops)], param_str, phase, **named)


def write_image(path, width=60, height=40, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.RandomState(seed).randint(0, 255, (height, width, 3), np.uint8))
    return str(path)


def entry(image, boxes=(), classes=(), proposals=(), num_classes=3, width=60, height=40):
    """A prepared roidb entry: objects, and proposals as (box, overlap, class)."""
    gt = np.array(boxes, np.float32).reshape(-1, 4)
    rois = np.array([box for box, _, _ in proposals], np.float32).reshape(-1, 4)
    overlaps = np.zeros((len(gt) + len(rois), num_classes), np.float32)
    overlaps[np.arange(len(gt)), list(classes)] = 1
    for row, (_, overlap, cls) in zip(overlaps[len(gt) :], proposals):
        row[cls] = overlap
    return {
        'image': str(image),
        'width': width,
        'height': height,
        'flipped': False,
        'boxes': np.vstack([gt, rois]),
        'gt_classes': np.array(list(classes) + [0] * len(rois), np.int32),
        'gt_overlaps': scipy.sparse.csr_matrix(overlaps),
        'max_overlaps': overlaps.max(1),
        'max_classes': overlaps.argmax(1),
    }
