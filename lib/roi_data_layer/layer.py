"""The data layer of training: draws images from the roidb, epoch by epoch, and serves their blobs.

The order and number of draws from numpy's global generator are part of the contract: the same seed gives the
original's minibatches, with prefetch and without.
"""

import concurrent.futures
import multiprocessing

import caffe
import numpy as np

from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import box_classes
from roi_data_layer.minibatch import get_minibatch, scaled_image
from roi_data_layer.sampler import Sampler
from utils.param_str import parse_param_str


class ImageReader:
    """Images scaled for training; those announced are read and scaled ahead of time, in threads."""

    def __init__(self, means, max_size, threads=2):
        self._values = means, max_size
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._coming = {}

    def announce(self, *requests):
        """requests: (path, flipped, target size)."""
        for request in requests:
            if request not in self._coming:
                self._coming[request] = self._pool.submit(scaled_image, *request, *self._values)

    def __call__(self, *request):
        self.announce(request)
        return self._coming.pop(request).result()


def training_sampler(roidb, train, rank=0, count=1):
    """The Sampler of a roidb by the settings cfg.TRAIN."""
    mix = (train.VAL_PER_BATCH_SIZE, train.REAL_BATCH_SIZE) if train.NO_POS_SAMPLES_ON_TRAIN else None
    seed = cfg.RNG_SEED if train.SEED_EACH_IMAGE or count > 1 else None
    return Sampler(roidb, train.IMS_PER_BATCH, train.ASPECT_GROUPING, mix, rank, count, seed)


class RoIDataLayer(caffe.Layer):
    """Tops, by cfg.TRAIN: data, im_info, gt_boxes (HAS_RPN); or data, rois, labels, and with BBOX_REG
    bbox_targets, bbox_inside_weights, bbox_outside_weights. Shapes: roi_data_layer.minibatch.get_minibatch.
    param_str: num_classes. set_roidb must be called before forward. `drawn`: roidb indices of the last
    minibatch; before_draw() is called when the net is done with it. sampler: where in the epoch it is.

    A subclass may give its own _get_next_minibatch (-> {top: array}), _get_next_minibatch_inds (-> roidb
    indices) or _shuffle_roidb_inds (which sets _perm, the epoch's indices, and _cur, how many are used up).
    """

    def setup(self, bottom, top):
        self._num_classes = parse_param_str(self.param_str)['num_classes']
        self.sampler, self.drawn = None, []
        self.before_draw = lambda: None
        self._read = ImageReader(cfg.PIXEL_MEANS, cfg.TRAIN.MAX_SIZE) if cfg.TRAIN.USE_PREFETCH else None
        shapes = top_shapes(cfg.TRAIN, self._num_classes)
        if len(top) != len(shapes):
            raise ValueError(
                f'{len(top)} tops; by cfg.TRAIN.HAS_RPN and BBOX_REG there are {len(shapes)}: '
                + ', '.join(shapes)
            )
        self._name_to_top_map = {name: i for i, name in enumerate(shapes)}
        for blob, shape in zip(top, shapes.values()):
            blob.reshape(*shape)

    def set_roidb(self, roidb):
        """Draw from these entries (prepared; with bbox_targets if BBOX_REG without RPN), epoch by epoch."""
        self._roidb = roidb
        self._shuffle_roidb_inds()

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        if self.sampler is None:
            raise RuntimeError('RoIDataLayer has no roidb: call set_roidb before forward')
        self.before_draw()
        for name, values in self._get_next_minibatch().items():
            blob = top[self._name_to_top_map[name]]
            blob.reshape(*values.shape)
            blob.data[...] = values

    def backward(self, top, propagate_down, bottom):
        pass

    def images(self):
        """Paths of the images in the last minibatch."""
        return [self._roidb[i]['image'] for i in self.drawn]

    @property
    def _roidb(self):
        return self.sampler and self.sampler.roidb

    @_roidb.setter
    def _roidb(self, roidb):
        self.sampler = training_sampler(roidb, cfg.TRAIN, caffe.solver_rank(), caffe.solver_count())

    @property
    def _perm(self):
        return self.sampler.order

    @_perm.setter
    def _perm(self, order):
        self.sampler.order = np.asarray(order)

    @property
    def _cur(self):
        return self.sampler.place

    @_cur.setter
    def _cur(self, place):
        self.sampler.place = place

    def _shuffle_roidb_inds(self):
        self.sampler.shuffle()

    def _get_next_minibatch_inds(self):
        if self.sampler.exhausted:
            self._shuffle_roidb_inds()
        return self.sampler.take()

    def _get_next_minibatch(self):
        self.drawn = [int(i) for i in self._get_next_minibatch_inds()]
        if self._read:
            self._announce()
        return get_minibatch([self._roidb[i] for i in self.drawn], self._num_classes, self._read)

    def _announce(self):
        """Let the reader begin with this minibatch and the epoch's next ones; scales are drawn later, so only
        where there is one."""
        if len(cfg.TRAIN.SCALES) > 1:
            return
        ahead = [self._roidb[i] for i in (*self.drawn, *self.sampler.coming(3))]
        self._read.announce(*((entry['image'], entry['flipped'], cfg.TRAIN.SCALES[0]) for entry in ahead))


def top_shapes(train, num_classes):
    """{top: shape before anything is drawn}, by the settings cfg.TRAIN."""
    shapes = {'data': (train.IMS_PER_BATCH, 3, max(train.SCALES), train.MAX_SIZE)}
    if train.HAS_RPN:
        return {**shapes, 'im_info': (1, 3), 'gt_boxes': (1, 5)}
    shapes.update(rois=(1, 5), labels=(1,))
    if train.BBOX_REG:
        columns = 4 * box_classes(num_classes, train.AGNOSTIC)
        names = ('bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights')
        shapes.update({name: (1, columns) for name in names})
    return shapes


class BlobFetcher(multiprocessing.Process):
    """Puts minibatches of a roidb into a queue, from a process of its own, whose draws begin at cfg.RNG_SEED.

    For layers that fetch so; RoIDataLayer itself reads ahead in threads (TRAIN.USE_PREFETCH).
    """

    def __init__(self, queue, roidb, num_classes):
        super().__init__(daemon=True)
        self._queue, self._num_classes = queue, num_classes
        self._sampler = training_sampler(roidb, cfg.TRAIN, caffe.solver_rank(), caffe.solver_count())

    def run(self):
        np.random.seed(cfg.RNG_SEED)
        while True:
            if self._sampler.exhausted:
                self._sampler.shuffle()
            entries = [self._sampler.roidb[i] for i in self._sampler.take()]
            self._queue.put(get_minibatch(entries, self._num_classes))
