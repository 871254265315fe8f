"""The Python layer that makes a gradient smaller on its way down."""

import caffe

from utils.param_str import parse_param_str


class ScaleGradientLayer(caffe.Layer):
    """In place: values stay, their gradient is multiplied by `factor` of param_str."""

    def setup(self, bottom, top):
        if list(bottom) != list(top):
            raise ValueError(f'layer {self.name!r} works in place: wanted its bottom as its top')
        self._factor = parse_param_str(self.param_str)['factor']

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].take_grad(top[0].grad * self._factor, own=True)
