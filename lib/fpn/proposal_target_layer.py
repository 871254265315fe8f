"""The Python layer that samples proposals and ground truth as the RoIs that the head trains on."""

import caffe

from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import box_classes
from fpn.boxes import family_of
from fpn.targets import roi_targets
from roi_data_layer.minibatch import rois_per_image
from rpn.targets import boxes_of_images
from utils.arrays import fill
from utils.param_str import parse_param_str


class ProposalTargetLayer(caffe.Layer):
    """Bottoms: rois (R, 5: image, box), gt_boxes (G, 5, of several images 6: the image's index last), im_info (N, 3).
    Tops: rois (S, 5), labels (S,), box targets, inside weights, outside weights (S, 4K), image after image; if asked for, the
    row in gt_boxes (S,) of each one's object, 0 where it has none. No gradient.
    param_str: num_classes; boxes, the family; weights, of codes, and agnostic: see fpn.targets.roi_targets.
    """

    def setup(self, bottom, top):
        params = parse_param_str(self.param_str)
        self._num_classes, self._family = params['num_classes'], family_of(params['boxes'])
        self._weights, self._agnostic = params.get('weights'), params.get('agnostic', False)
        columns = 4 * box_classes(self._num_classes, self._agnostic)
        for blob, shape in zip(top, [(1, 5), (1,)] + 3 * [(1, columns)] + [(1,)]):
            blob.reshape(*shape)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        rois, gt_boxes, images = bottom[0].tensor, bottom[1].tensor, bottom[2].shape[0]
        num_rois = rois_per_image(cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.REAL_BATCH_SIZE, images)
        rois, labels, targets, weights, matched = roi_targets(
            rois,
            boxes_of_images(gt_boxes, images),
            self._num_classes,
            num_rois,
            self._family,
            cfg.TRAIN,
            self._weights,
            self._agnostic,
        )
        for blob, values in zip(top, [rois, labels, targets, weights, weights > 0, matched]):
            fill(blob, values)

    def backward(self, top, propagate_down, bottom):
        pass
