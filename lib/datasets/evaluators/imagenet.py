"""ILSVRC DET's average precision: the area under the curve, of detections as they are written.

Kept from the recipe, so that its figures compare: 1 is added to detections, nothing to boxes in the files.
"""

import numpy as np

from datasets.evaluators import average_precision

RESULT_BASE = 1


def class_aps(all_boxes, truth, classes):
    """{class: AP at IoU > 0.5}, of the classes that have an object to find."""
    written = [[_shifted(boxes) for boxes in of_class] for of_class in all_boxes]
    return average_precision.class_aps(written, truth._replace(boxes=truth.written), classes)


def _shifted(boxes):
    return np.asarray(boxes, float).reshape(-1, 5) + np.array([RESULT_BASE] * 4 + [0])
