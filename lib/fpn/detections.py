"""From what a net says of its RoIs to what it finds in the images, by torchvision's rule: classes together, each with
non-maximum suppression of its own (models/detection/roi_heads.py, postprocess_detections).

N images, R RoIs, K classes, n detections.
"""

import torch

from fpn.proposals import best_first

LEAST_SIDE = 1e-2  # pixels of the scaled image


def detections(probs, codes, rois, im_info, family, thresh, nms_thresh, most):
    """probs (R, K), codes (R, 4K), rois (R, 5: image, box), im_info (N, 3) -> for each image boxes (n, 4) in the pixels
    of its scaled image, scores (n,), classes (n,), best first: above thresh, at most `most` (<= 0: all)."""
    boxes = family.decode(rois[:, 1:], codes, family.roi_weights)
    found = []
    for i, info in enumerate(im_info.tolist()):
        mine = (rois[:, 0] == i).nonzero()[:, 0]
        found.append(_of_image(probs[mine], boxes[mine], info, family, thresh, nms_thresh, most))
    return found


def _of_image(probs, boxes, info, family, thresh, nms_thresh, most):
    boxes = family.clip(boxes, info).reshape(*probs.shape, 4)
    parts = []
    for j in range(1, probs.shape[1]):
        of_class, scores = boxes[:, j], probs[:, j]
        right = (scores > thresh) & (family.sides(of_class) >= LEAST_SIDE).all(1)
        of_class, scores = of_class[right], scores[right]
        order = best_first(scores, 0)
        kept = order[family.nms(of_class[order], nms_thresh)]
        parts.append((of_class[kept], scores[kept], torch.full_like(kept, j)))
    boxes, scores, classes = (torch.cat(values) for values in zip(*parts))
    best = best_first(scores, most)
    return boxes[best], scores[best], classes[best]
