"""The Python layer that trains a head end to end: sampled RoIs, their labels and box targets."""

import caffe

from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import box_classes
from roi_data_layer.minibatch import rois_per_image
from rpn.targets import boxes_of_images, image_targets
from utils.arrays import fill, values_of
from utils.param_str import parse_param_str


class ProposalTargetLayer(caffe.Layer):
    """Bottoms: rois (R, 5), gt_boxes (G, 5; of TRAIN.IMS_PER_BATCH images (G, 6), the image's index last).
    Tops: rois (S, 5), labels (S,), box targets, inside weights, outside weights (S, 4K), image after image; if asked for, the
    row in gt_boxes (S,) of each one's object, 0 where it has none. No gradient.
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
        for blob, shape in zip(top, [(1, 5), (1,)] + 3 * [(1, columns)] + [(1,)]):
            blob.reshape(*shape)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rois, gt_boxes = map(values_of, bottom)
        images = cfg.TRAIN.IMS_PER_BATCH if gt_boxes.shape[1] == 6 else 1
        num_rois = rois_per_image(cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.REAL_BATCH_SIZE, images)
        rois, labels, targets, weights, matched = image_targets(
            rois, boxes_of_images(gt_boxes, images), self._num_classes, num_rois, cfg.TRAIN
        )
        for blob, values in zip(top, [rois, labels, targets, weights, weights > 0, matched]):
            fill(blob, values)

    def backward(self, top, propagate_down, bottom):
        pass
