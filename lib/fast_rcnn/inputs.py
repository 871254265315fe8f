"""What a test net reads: images as its family of boxes (fpn.boxes) has them, and RoIs.

N images of a pass, S scales of each, R RoIs of one.
"""

import dataclasses
import itertools

import caffe
import numpy as np
import torch

from fast_rcnn.config import cfg
from fpn.boxes import FAMILIES
from mask.passes import box_inputs, last_for_boxes
from utils.blob import im_list_to_blob, padded

CAFFE = FAMILIES['caffe']
TYPICAL_AREA = 224 * 224  # with several scales, a RoI is looked at where its area comes nearest to this


@dataclasses.dataclass
class Scaled:
    """An image as a net wants it: data (S, 3, h, w), the factors (S,) it was scaled by, its own shape before. looks: it at
    one scale, by (short side, mirrored), where data has it not."""

    data: np.ndarray
    scales: np.ndarray
    shape: tuple
    looks: dict = dataclasses.field(default_factory=dict)

    def look(self, short, mirrored=False):
        """A Scaled of it alone, as cfg.TEST was when it was scaled."""
        if (short, mirrored) in self.looks:
            return self.looks[short, mirrored]
        at = slice(*(np.add(cfg.TEST.SCALES.index(short), [0, 1])))
        return Scaled(self.data[at], self.scales[at], self.shape)


def image_blob(im, family=CAFFE):
    """im (H, W, 3) BGR -> data (S, 3, H', W'), the factors (S,) it was scaled by, by cfg.TEST."""
    scaled = [family.scaled(im, cfg.PIXEL_MEANS, size, cfg.TEST.MAX_SIZE) for size in cfg.TEST.SCALES]
    return im_list_to_blob([image for image, _ in scaled]), np.array([scale for _, scale in scaled])


def scaled_image(im, family=CAFFE):
    """im (H, W, 3) BGR -> a Scaled, for proposing; threads may do that ahead of time."""
    data, scales = image_blob(im, family)
    return Scaled(_pinned(data), scales, im.shape)


def looked_at_image(im, family=CAFFE):
    """As scaled_image, for a detector: with its looks, at the scales of judging_scales and by cfg.TEST.FLIP mirrored."""
    image = scaled_image(im, family)
    for short, mirrored in itertools.product(judging_scales(), (False, True)[: 1 + cfg.TEST.FLIP]):
        if mirrored or short not in cfg.TEST.SCALES:
            seen = im[:, ::-1] if mirrored else im
            long = cfg.TEST.MAX_SIZE * short / cfg.TEST.SCALES[0]
            pixels, scale = family.scaled(seen, cfg.PIXEL_MEANS, short, long)
            data = _pinned(im_list_to_blob([pixels]))
            image.looks[short, mirrored] = Scaled(data, np.array([scale]), im.shape)
    return image


def judging_scales():
    """Lengths of the short side at which regions are judged, by cfg.TEST, ascending."""
    return sorted(cfg.TEST.REGION_SCALES if any(cfg.TEST.REGION_SCALES) else cfg.TEST.SCALES)


def _pinned(data):
    """Where it gets to a GPU from while nobody waits."""
    on_gpu = caffe.common.device().type == 'cuda'
    return torch.from_numpy(data).pin_memory().numpy() if on_gpu else data


def proposing_blobs(images, family=CAFFE):
    """What a net with an RPN reads of N Scaled: {data (N, 3, H', W'), im_info (N, 3: height, width, scale)}."""
    if len(cfg.TEST.SCALES) != 1:
        raise ValueError(
            f'a net with an RPN looks at one scale; TEST.SCALES is {cfg.TEST.SCALES} (several: TEST.REGION_SCALES)'
        )
    info = [[*image.data.shape[2:], *image.scales] for image in images]
    return {'data': together(images, family.divisor), 'im_info': np.array(info, np.float32)}


def together(images, divisor):
    """The data of N Scaled as one blob (N S, 3, H', W'), both sides padded to whole divisors, zero beyond each image's
    edge."""
    size = padded(np.max([image.data.shape[2:] for image in images], 0), divisor)
    if len(images) == 1 and images[0].data.shape[2:] == tuple(size):
        return images[0].data
    blob = np.zeros((sum(len(image.data) for image in images), 3, *size), np.float32)
    for slot, plane in zip(blob, (plane for image in images for plane in image.data), strict=True):
        slot[:, : plane.shape[1], : plane.shape[2]] = plane
    return blob


def roi_blob(boxes, scales):
    """boxes (R, 4) -> rois (R, 5): index of the scale that suits it best, the box at that scale."""
    boxes = boxes.astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    levels = np.abs(areas[:, None] * scales[None] ** 2 - TYPICAL_AREA).argmin(1)
    return np.hstack([levels[:, None], boxes * scales[levels][:, None]]).astype(np.float32)


def image_and_roi_blobs(im, rois):
    """im and rois (R, 4) in its pixels -> {data, rois (R, 5); None where cfg.TEST.HAS_RPN}, the scales."""
    data, scales = image_blob(im)
    return {'data': data, 'rois': None if cfg.TEST.HAS_RPN else roi_blob(rois, scales)}, scales


def given_blobs(images, boxes, family=CAFFE, step=None):
    """What a net without an RPN reads of N Scaled and N arrays of boxes (R, 4): {data (N S, 3, H', W'), rois (R', 5)};
    for each image which of the rois answer for its boxes, and the boxes (R, 4) of which they do: a box is looked at
    once where several are the same on the feature map, in whole steps of 1 / step pixels (None: cfg.DEDUP_BOXES; 0: each
    box is looked at)."""
    step = cfg.DEDUP_BOXES if step is None else step
    rois, parts, begin = [], [], 0
    for i, (image, of_image) in enumerate(zip(images, boxes, strict=True)):
        wanted = roi_blob(of_image, image.scales)
        unique, inverse = _distinct(wanted, step)
        wanted[:, 0] += i * len(image.scales)
        rois.append(wanted[unique])
        parts.append((begin + inverse, of_image[unique][inverse]))
        begin += len(rois[-1])
    return {'data': together(images, family.divisor), 'rois': np.concatenate(rois)}, parts


def _distinct(rois, step):
    """Indices of the RoIs that differ on the feature map; which of these each RoI is."""
    if step <= 0:
        return slice(None), np.arange(len(rois))
    hashes = np.round(rois * step).dot(np.array([1, 1e3, 1e6, 1e9, 1e12]))
    _, unique, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return unique, inverse


def forward(net, blobs):
    """Runs net, what it has for boxes, on blobs, whose shapes and values its inputs take."""
    put(net, blobs)
    net.run_forward(end=last_for_boxes(net))


def put(net, blobs):
    """Lets the inputs of net for boxes, all of them, take the shapes and values of blobs."""
    inputs = box_inputs(net)
    if set(blobs) != set(inputs):
        raise ValueError(f'net {net.name!r} reads {sorted(inputs)}; it is given {sorted(blobs)}')
    for name, blob in blobs.items():
        net.blobs[name].put(blob)
