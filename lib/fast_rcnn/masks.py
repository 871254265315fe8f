"""Masks that a net answers: back in the image, and in rows beside their boxes on disk.

D detections of an image, M cells along a side of a net's mask. An RLE is pycocotools', as in datasets.readers.masks.
"""

import cv2
import numpy as np
from pycocotools import mask as coco_mask

THRESH = 0.5  # the least probability of a pixel that belongs to the object, which it exceeds
COLUMNS = 6  # of rows on disk: class x1 y1 x2 y2 score


def pasted(probs, boxes, height, width, thresh=THRESH):
    """Masks of an image, D RLEs: probs (D, M, M) of the cells of boxes (D, 4), in its pixels, which end at edges.

    By Detectron's rule, as torchvision has it (models/detection/roi_heads.py): a cell of zeros is put around each mask, its
    box grows with it, about its centre, and is cut to whole pixels, of which it has the last ones too; between the centres
    of cells values are bilinear.
    """
    return [
        coco_mask.encode(_pasted(prob, corners, height, width, thresh))
        for prob, corners in zip(
            np.pad(probs, ((0, 0), (1, 1), (1, 1))), expanded(boxes, probs.shape[-1]).tolist()
        )
    ]


def expanded(boxes, cells):
    """boxes (D, 4) -> (D, 4) int64, for masks of so many cells with one more at each edge."""
    boxes = np.asarray(boxes, np.float32)
    centres = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    halves = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32((cells + 2) / cells)
    return np.hstack([centres - halves, centres + halves]).astype(np.int64)


def _pasted(prob, corners, height, width, thresh):
    """(height, width) uint8, column after column in memory."""
    x1, y1, x2, y2 = corners
    prob = cv2.resize(
        np.float32(prob), (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)), interpolation=cv2.INTER_LINEAR
    )
    mask = np.zeros((height, width), np.uint8, order='F')
    rows, columns = slice(max(y1, 0), max(y2 + 1, 0)), slice(max(x1, 0), max(x2 + 1, 0))
    into = mask[rows, columns]
    into[:] = prob[max(-y1, 0) :, max(-x1, 0) :][: into.shape[0], : into.shape[1]] > thresh
    return mask


def packed(dets, rles):
    """Detections (D, 6) and their D RLEs, all of one image -> rows (n, 6) float32: D and zeros, the detections, then the
    RLEs' codes, a line each, as they are, in rows of 24 bytes."""
    code = b'\n'.join(rle['counts'] for rle in rles)
    code += bytes(-len(code) % (4 * COLUMNS))
    head = np.array([[len(dets)] + [0] * (COLUMNS - 1)], np.float32)
    return np.vstack([head, dets, np.frombuffer(code, np.float32).reshape(-1, COLUMNS)])


def unpacked(rows, height, width):
    """The inverse of packed."""
    end = 1 + int(rows[0, 0])
    codes = rows[end:].tobytes().rstrip(b'\0').split(b'\n')[: end - 1]
    return rows[1:end], [{'size': [height, width], 'counts': code} for code in codes]
