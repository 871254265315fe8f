"""Classifier: images in, class scores out."""

import numpy as np

from . import io
from .common import TEST
from .net import Net


def set_image_transform(net, mean=None, input_scale=None, raw_scale=None, channel_swap=None):
    """An io.Transformer for the net's first input: images have channels last; what is None stays unset."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    settings = (
        (transformer.set_mean, mean),
        (transformer.set_input_scale, input_scale),
        (transformer.set_raw_scale, raw_scale),
        (transformer.set_channel_swap, channel_swap),
    )
    for set_value, value in settings:
        if value is not None:
            set_value(name, value)
    return transformer


class Classifier(Net):
    """A net that classifies images.

    image_dims: (height, width) that images are resized to before cropping, by default the input's.
    """

    def __init__(
        self,
        model_file,
        pretrained_file,
        image_dims=None,
        mean=None,
        input_scale=None,
        raw_scale=None,
        channel_swap=None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = set_image_transform(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = np.array(image_dims if image_dims else self.crop_dims)

    def predict(self, inputs, oversample=True):
        """Scores (N, classes) of a list of images (H, W, K): means over ten crops, or of the centre crop."""
        images = [io.resize_image(image, self.image_dims) for image in inputs]
        crops = [self._centre(image) for image in images]
        if oversample:
            crops = io.oversample(images, self.crop_dims)
        name = self.inputs[0]
        blob = np.array([self.transformer.preprocess(name, crop) for crop in crops])
        scores = self.forward_all(**{name: blob})[self.outputs[0]]
        if oversample:
            scores = scores.reshape(len(scores) // 10, 10, -1).mean(1)
        return scores

    def _centre(self, image):
        y, x = ((self.image_dims - self.crop_dims) / 2).astype(int)
        return image[y : y + self.crop_dims[0], x : x + self.crop_dims[1]]
