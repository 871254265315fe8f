"""The Python layer that trains a mask head: which of the sampled RoIs have an object, and the masks of these."""

import caffe
import torch

from fpn.boxes import family_of
from mask.targets import mask_targets
from utils.arrays import fill
from utils.param_str import parse_param_str


class MaskTargetLayer(caffe.Layer):
    """Bottoms: rois (S, 5: image, box), labels (S,), roi_objects (S,): the row of the object in gt_masks, gt_masks (G, H, W).
    Tops: picks (F,), the rows of rois that have an object (label > 0); rows (F,): f K + label; targets (F, 1, M, M). F may
    be 0. No gradient.
    param_str: num_classes, K; size, M; boxes, the family.
    """

    def setup(self, bottom, top):
        params = parse_param_str(self.param_str)
        self._classes, self._size = params['num_classes'], params['size']
        self._family = family_of(params['boxes'])
        for blob, shape in zip(top, [(1,), (1,), (1, 1, self._size, self._size)], strict=True):
            blob.reshape(*shape)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rois, labels, objects, masks = (blob.tensor for blob in bottom)
        labels = labels.flatten()
        picks = (labels > 0).nonzero()[:, 0]
        rows = torch.arange(len(picks), device=labels.device) * self._classes + labels[picks]
        targets = mask_targets(rois[picks], objects.flatten()[picks], masks, self._size, self._family)
        for blob, values in zip(top, [picks, rows, targets[:, None]]):
            fill(blob, values)

    def backward(self, top, propagate_down, bottom):
        pass
