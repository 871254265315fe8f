"""The Python layer that has whole images pooled beside their regions: global context (He et al. 2015, appendix B).

N images, R RoIs.
"""

import caffe
import torch

from fpn.boxes import family_of
from utils.arrays import fill
from utils.param_str import parse_param_str


class ContextLayer(caffe.Layer):
    """Bottoms: rois (R, 5: image, box), data (N, C, H, W).
    Tops: these rois and one of all that the net sees of each image (R + N, 5); the rows of what is pooled from them that are
    the rois' own (R,), and those of their images (R,), for BatchReindex. No gradient.
    param_str: boxes, the family.
    """

    def setup(self, bottom, top):
        self._offset = family_of(parse_param_str(self.param_str)['boxes']).offset
        top[0].reshape(1, 5)
        for blob in top[1:]:
            blob.reshape(1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rois = bottom[0].tensor.reshape(-1, 5)
        images, _, height, width = bottom[1].shape
        whole = rois.new_tensor(
            [[i, 0, 0, width - self._offset, height - self._offset] for i in range(images)]
        )
        fill(top[0], torch.cat([rois, whole]))
        fill(top[1], torch.arange(len(rois), device=rois.device))
        fill(top[2], len(rois) + rois[:, 0])

    def backward(self, top, propagate_down, bottom):
        pass
