"""The Python layer that gives each level of a pyramid the RoIs that are pooled from it."""

import caffe
import torch

from fpn.boxes import family_of
from fpn.levels import split
from utils.arrays import fill
from utils.param_str import parse_param_str


class RoILevelsLayer(caffe.Layer):
    """Bottoms: rois (R, 5: image, box), in pixels; or these, the map of each level (N, C, H, W), and data.
    Tops: the rois of each level (R_l, 5), the finest first, where there are maps in cells of it, as many to a pixel, down
    and across, as the map's height has to that of data; last, order (R,): a BatchReindex by it puts what was pooled
    from them, level after level, into the order of rois. No gradient.
    param_str: first, the number of the finest level (2^first pixels to a cell); boxes, the family.
    """

    def setup(self, bottom, top):
        params = parse_param_str(self.param_str)
        self._first, self._family = params['first'], family_of(params['boxes'])
        if len(top) < 2:
            raise ValueError(f'wanted a top for each level and one for the order; got {len(top)}')
        if len(bottom) not in (1, 1 + len(top)):
            raise ValueError(f'wanted rois, or rois, {len(top) - 1} maps and data; got {len(bottom)} bottoms')
        for blob in top[:-1]:
            blob.reshape(1, 5)
        top[-1].reshape(1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rois = bottom[0].tensor.reshape(-1, 5)
        rows, order = split(rois[:, 1:], self._family, self._first, len(top) - 1)
        heights = [blob.shape[2] for blob in bottom[1:]]
        scales = [height / heights[-1] for height in heights[:-1]] or [1] * len(rows)
        for blob, mine, scale in zip(top[:-1], rows, scales, strict=True):
            fill(blob, torch.cat([rois[mine, :1], rois[mine, 1:] * scale], 1))
        fill(top[-1], order)

    def backward(self, top, propagate_down, bottom):
        pass
