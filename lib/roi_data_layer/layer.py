"""The data layer of training: draws images from the roidb, epoch by epoch, and serves their blobs.

The order and number of draws from numpy's global generator are part of the contract: the same seed gives the
original's minibatches, with prefetch and without.
"""

import concurrent.futures
import itertools
import logging

import caffe
import numpy as np

from fast_rcnn.config import cfg
from roi_data_layer.minibatch import get_minibatch, is_train_split, scaled_image
from utils.param_str import parse_param_str

log = logging.getLogger(__name__)


def epoch_order(widths, heights, aspect_grouping):
    """Indices of all images in random order; grouped, wide (w >= h) images come in pairs, tall ones too."""
    wide = np.asarray(widths) >= np.asarray(heights)
    if not aspect_grouping:
        return np.random.permutation(np.arange(len(wide)))
    order = np.hstack([np.random.permutation(np.where(wide)[0]), np.random.permutation(np.where(~wide)[0])])
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    return np.append(pairs[np.random.permutation(np.arange(len(pairs)))].ravel(), order[2 * len(pairs) :])


def mix_val(order, is_val, share):
    """Reorder so that, of every n images, floor(n * share) are of val: each train image once, val ones as
    they come in `order`, over again if they are too few. No draws."""
    if not 0 <= share < 1:
        raise ValueError(f'TRAIN.VAL_PER_BATCH_SIZE is a share of the images, 0 <= share < 1, got {share}')
    train, val = order[~is_val[order]], itertools.cycle(order[is_val[order]])
    mixed = []
    for n, index in enumerate(train, 1):
        while len(mixed) - n + 1 < np.floor((len(mixed) + 1) * share):
            mixed.append(next(val))
        mixed.append(index)
    return np.array(mixed)


class ImageReader:
    """Images scaled for training; those announced are read and scaled ahead of time, in threads."""

    def __init__(self, threads=2):
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._coming = {}

    def announce(self, *requests):
        """requests: (path, flipped, target size)."""
        for request in requests:
            if request not in self._coming:
                self._coming[request] = self._pool.submit(scaled_image, *request)

    def __call__(self, *request):
        self.announce(request)
        return self._coming.pop(request).result()


class RoIDataLayer(caffe.Layer):
    """Tops, by cfg.TRAIN: data, im_info, gt_boxes (HAS_RPN); or data, rois, labels, and with BBOX_REG
    bbox_targets, bbox_inside_weights, bbox_outside_weights. Shapes: roi_data_layer.minibatch.get_minibatch.
    param_str: num_classes. set_roidb must be called before forward. `drawn`: roidb indices of the last
    minibatch; before_draw() is called when the net is done with it. order, place: this epoch's indices, and
    how many are used up.
    """

    def setup(self, bottom, top):
        self._num_classes = parse_param_str(self.param_str)['num_classes']
        self._roidb, self.drawn = None, []
        self.before_draw = lambda: None
        box_columns = 4 * self._num_classes
        train = cfg.TRAIN
        shapes = {'data': (train.IMS_PER_BATCH, 3, max(train.SCALES), train.MAX_SIZE)}
        if train.HAS_RPN:
            shapes.update(im_info=(1, 3), gt_boxes=(1, 5))
        else:
            shapes.update(rois=(1, 5), labels=(1,))
            if train.BBOX_REG:
                shapes.update(
                    {
                        name: (1, box_columns)
                        for name in ('bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights')
                    }
                )
        if len(top) != len(shapes):
            raise ValueError(
                f'{len(top)} tops; by cfg.TRAIN.HAS_RPN and BBOX_REG there are {len(shapes)}: '
                + ', '.join(shapes)
            )
        self._top_names = list(shapes)
        for blob, shape in zip(top, shapes.values()):
            blob.reshape(*shape)

    def set_roidb(self, roidb):
        """Draw from these entries (prepared; with bbox_targets if BBOX_REG without RPN), epoch by epoch."""
        self._roidb = roidb
        self._read = ImageReader() if cfg.TRAIN.USE_PREFETCH else scaled_image
        self._shuffle_roidb_inds()

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        if self._roidb is None:
            raise RuntimeError('RoIDataLayer has no roidb: call set_roidb before forward')
        self.before_draw()
        self.drawn = [int(i) for i in self._get_next_minibatch_inds()]
        if cfg.TRAIN.USE_PREFETCH:
            self._announce()
        blobs = get_minibatch([self._roidb[i] for i in self.drawn], self._num_classes, self._read)
        for name, blob in zip(self._top_names, top):
            blob.reshape(*blobs[name].shape)
            blob.data[...] = blobs[name]

    def backward(self, top, propagate_down, bottom):
        pass

    def images(self):
        """Paths of the images in the last minibatch."""
        return [self._roidb[i]['image'] for i in self.drawn]

    def _shuffle_roidb_inds(self):
        widths, heights = ([entry[side] for entry in self._roidb] for side in ('width', 'height'))
        self.order = epoch_order(widths, heights, cfg.TRAIN.ASPECT_GROUPING)
        if cfg.TRAIN.VAL_PER_BATCH_SIZE > 0:
            is_val = np.array([not is_train_split(entry['image']) for entry in self._roidb])
            if is_val.all() or not is_val.any():
                raise ValueError('TRAIN.VAL_PER_BATCH_SIZE mixes images of train and val; here is one kind')
            self.order = mix_val(self.order, is_val, cfg.TRAIN.VAL_PER_BATCH_SIZE)
        self.place = 0

    def _get_next_minibatch_inds(self):
        if self.place + cfg.TRAIN.IMS_PER_BATCH >= len(self.order):
            self._shuffle_roidb_inds()
        inds = self.order[self.place : self.place + cfg.TRAIN.IMS_PER_BATCH]
        self.place += cfg.TRAIN.IMS_PER_BATCH
        return inds

    def _announce(self):
        """Let the reader begin with this minibatch and the epoch's next ones; scales are drawn later, so only
        where there is one."""
        if len(cfg.TRAIN.SCALES) > 1:
            return
        ahead = self.order[self.place - len(self.drawn) : self.place + 3 * cfg.TRAIN.IMS_PER_BATCH]
        self._read.announce(
            *((self._roidb[i]['image'], self._roidb[i]['flipped'], cfg.TRAIN.SCALES[0]) for i in ahead)
        )
