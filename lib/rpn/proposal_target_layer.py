"""The Python layer that trains a head end to end: sampled RoIs, their labels and box targets."""

import caffe

from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import box_classes
from roi_data_layer.minibatch import rois_per_image
from rpn.targets import image_targets
from utils.arrays import fill, values_of
from utils.param_str import parse_param_str


class ProposalTargetLayer(caffe.Layer):
    """Bottoms: rois (R, 5), gt_boxes (G, 5).
    Tops: rois (S, 5), labels (S,), box targets, inside weights, outside weights (S, 4K). No gradient.
    param_str: num_classes.
    """

    def setup(self, bottom, top):
        if cfg.TRAIN.NO_POS_SAMPLES_ON_TRAIN:
            raise ValueError(
                'TRAIN.NO_POS_SAMPLES_ON_TRAIN is for alternating optimization: end to end, '
                'nothing tells this layer which images are annotated in full'
            )
        self._num_classes = parse_param_str(self.param_str)['num_classes']
        columns = 4 * box_classes(self._num_classes, cfg.TRAIN.AGNOSTIC)
        for blob, shape in zip(top, [(1, 5), (1,)] + 3 * [(1, columns)]):
            blob.reshape(*shape)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        num_rois = rois_per_image(cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.REAL_BATCH_SIZE, 1)
        rois, gt_boxes = map(values_of, bottom)
        rois, labels, targets, weights = image_targets(
            rois, [gt_boxes], self._num_classes, num_rois, cfg.TRAIN
        )
        for blob, values in zip(top, [rois, labels, targets, weights, weights > 0]):
            fill(blob, values)

    def backward(self, top, propagate_down, bottom):
        pass
