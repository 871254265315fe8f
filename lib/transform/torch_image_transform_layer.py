"""From Caffe's encoding of images to the one torch's pretrained networks expect."""

import caffe
import numpy as np

from fast_rcnn.config import cfg

# RGB, of pixels in [0, 1]
MEAN = np.array([0.48462, 0.45624, 0.40588], np.float32).reshape(1, 3, 1, 1)
STD = np.array([0.22889, 0.22447, 0.22496], np.float32).reshape(1, 3, 1, 1)


class TorchImageTransformLayer(caffe.Layer):
    """Bottom: images (N, 3, H, W), BGR 0..255 less cfg.PIXEL_MEANS. Top: RGB 0..1 less MEAN, over STD."""

    def setup(self, bottom, top):
        self._pixel_means = cfg.PIXEL_MEANS.astype(np.float32).reshape(1, 3, 1, 1)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        rgb = (bottom[0].data + self._pixel_means)[:, ::-1] / 255
        top[0].data[...] = (rgb - MEAN) / STD

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = (top[0].diff / STD / 255)[:, ::-1]
