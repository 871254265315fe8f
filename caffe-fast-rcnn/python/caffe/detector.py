"""Detector: scores of given windows of images, the way of R-CNN (Girshick et al. 2014)."""

import numpy as np

from . import io
from .classifier import set_image_transform
from .common import TEST
from .net import Net


class Detector(Net):
    """A net that scores windows. context_pad: pixels of surrounding image, in the net's square input."""

    def __init__(
        self,
        model_file,
        pretrained_file,
        mean=None,
        input_scale=None,
        raw_scale=None,
        channel_swap=None,
        context_pad=None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = set_image_transform(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad):
        """Set context_pad; outside of images is the mean, in the scale and channel order of images."""
        name = self.inputs[0]
        channels, height, width = self.blobs[name].shape[1:]
        self.crop_dims = np.array((height, width, channels))
        self.context_pad = context_pad
        t = self.transformer
        self.crop_mean = np.zeros(self.crop_dims, np.float32)
        if name in t.mean:
            mean = np.broadcast_to(t.mean[name], (channels, height, width)) / t.raw_scale.get(name, 1)
            self.crop_mean[:] = mean[np.argsort(t.channel_swap.get(name, range(channels)))].transpose(1, 2, 0)

    def detect_windows(self, images_windows):
        """Score windows: [(image file, [(ymin, xmin, ymax, xmax), ...]), ...] gives one dict for each window.

        Its keys: 'window', 'prediction' and 'filename'.
        """
        found, inputs = [], []
        name = self.inputs[0]
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                found.append({'window': window, 'filename': filename})
                inputs.append(self.transformer.preprocess(name, self.crop(image, window)))
        if not found:
            return []
        scores = self.forward_all(**{name: np.array(inputs)})[self.outputs[0]]
        return [{**f, 'prediction': s} for f, s in zip(found, scores)]

    def detect_selective_search(self, image_fnames):
        """detect_windows on windows of module selective_search_ijcv_with_python, where it is installed."""
        import selective_search_ijcv_with_python as selective_search

        names = [str(name) for name in image_fnames]
        return self.detect_windows(zip(names, selective_search.get_windows(names)))

    def crop(self, im, window):
        """The window (ymin, xmin, ymax, xmax) of an image, with its context where context_pad is set.

        ValueError when nothing of it is inside.
        """
        ymin, xmin, ymax, xmax = (int(v) for v in window)
        if not self.context_pad:
            crop = im[max(ymin, 0) : ymax, max(xmin, 0) : xmax]
            if not crop.size:
                raise ValueError(f'window {tuple(window)} holds nothing of an image of {im.shape[:2]} pixels')
            return crop
        return self._crop_with_context(im, np.array([ymin, xmin, ymax, xmax], float))

    def _crop_with_context(self, im, box):
        size = self.crop_dims[0]
        half = (box[2:] - box[:2] + 1) / 2
        centre = box[:2] + half
        half = half * size / (size - 2 * self.context_pad)
        box = np.round(np.concatenate([centre - half, centre + half]))
        scale = size / (box[2:] - box[:2] + 1)
        pad = np.round(np.maximum(0, -box[:2]) * scale).astype(int)
        box = np.clip(box, 0, np.tile(im.shape[:2], 2)).astype(int)
        part = im[box[0] : box[2], box[1] : box[3]]
        if not part.size:
            raise ValueError(f'window around {tuple(centre)} holds nothing of an image of {im.shape[:2]}')
        dims = np.minimum(np.round((box[2:] - box[:2] + 1) * scale).astype(int), size - pad)
        crop = self.crop_mean.copy()
        crop[pad[0] : pad[0] + dims[0], pad[1] : pad[1] + dims[1]] = io.resize_image(part, dims)
        return crop
