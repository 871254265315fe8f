"""Testing under the names that prototxt files, tools and forks import: detection on one image, evaluation over an
imdb, drawing."""

from fast_rcnn.detection import detections, im_detect, ims_detect
from fast_rcnn.inputs import image_and_roi_blobs as _get_blobs
from fast_rcnn.inputs import image_blob as _get_image_blob
from fast_rcnn.inputs import roi_blob as _get_rois_blob
from fast_rcnn.drawing import vis_detections
from fast_rcnn.evaluation import apply_nms, check_classes, test_net

__all__ = [
    '_get_blobs',
    '_get_image_blob',
    '_get_rois_blob',
    'apply_nms',
    'check_classes',
    'detections',
    'im_detect',
    'ims_detect',
    'test_net',
    'vis_detections',
]
