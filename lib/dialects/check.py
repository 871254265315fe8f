"""What a translated net answers, beside the net itself: by this engine and by OpenCV, a reader of its own."""

import caffe
import cv2
import numpy as np
from caffe.format.prototxt import read_net


def differences(found, paths, net, seed=0):
    """Lines: the largest difference of each output of each part from the net's, on one picture drawn by chance."""
    draw(net, seed)
    for path in paths:
        yield f'{path}:'
        ours = caffe.Net(path, caffe.TEST, weights=weights_of(path))
        given = {name: of_net(found, net, name) for name in ours.inputs}
        wanted = {name: of_net(found, net, name) for name in ours.outputs}
        for reader, answer in (
            ('this engine', by_caffe(ours, given)),
            ('OpenCV', by_opencv(path, given, wanted)),
        ):
            if isinstance(answer, str):
                yield f'  {reader}: {answer}'
                continue
            for name, value in wanted.items():
                yield f'  {reader}: {name} differs by {np.abs(answer[name] - value).max():.2g} of {np.abs(value).max():.3g}'


def draw(net, seed):
    """Runs a net on a picture of noise, as large as its input; other inputs have what they have."""
    rng = np.random.RandomState(seed)
    picture = net.blobs[net.inputs[0]]
    picture.data[...] = rng.randn(*picture.shape) * 50
    if 'im_info' in net.blobs:
        net.blobs['im_info'].data[0, :3] = *picture.shape[2:], 1
    net.forward()


def of_net(found, net, name):
    """The value of a blob of the written nets."""
    key = next(key for key, shown in found.names.items() if shown == name)
    if found.shown[key[0]] != key:
        raise ValueError(f'{name}: a layer in place has changed it since')
    return net.blobs[key[0]].data.copy()


def by_caffe(net, given):
    for name, value in given.items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value
    return net.forward()


def by_opencv(path, given, wanted):
    """{name: array}, or what OpenCV says. It goes by the names of layers, those of convolutions but by their blobs'."""
    makers = {top: layer.name for layer in read_net(path).layer for top in layer.top}
    try:
        net = cv2.dnn.readNetFromCaffe(path, weights_of(path))
        for name, value in given.items():
            net.setInput(value, name)
        known = net.getLayerNames()
        names = [name if name in known else makers[name] for name in wanted]
        return dict(zip(wanted, net.forward(names)))
    except cv2.error as error:
        return f'does not run it ({error.err})'


def weights_of(prototxt):
    return prototxt.removesuffix('prototxt') + 'caffemodel'
