"""The data layer of training: draws images from the roidb, epoch by epoch, and serves their blobs.

The order and number of draws from numpy's global generator are part of the contract: the same seed gives the
original's minibatches, with prefetch and without.
"""

import multiprocessing
import os

import caffe
import numpy as np

from fast_rcnn.config import cfg
from fast_rcnn.roi_sampling import box_classes
from fpn.boxes import family_of
from roi_data_layer.loader import Loader
from roi_data_layer.looks import check_looks, draw_looks, draws_looks
from roi_data_layer.minibatch import Preparation, get_minibatch
from roi_data_layer.sampler import Sampler
from utils.param_str import parse_param_str
from utils.processes import cores


MANY_MASKS = 24  # objects of an image; of more the masks take longer to come


def training_sampler(roidb, train, rank=0, count=1):
    """The Sampler of a roidb by the settings cfg.TRAIN."""
    mix = (train.VAL_PER_BATCH_SIZE, train.REAL_BATCH_SIZE) if train.NO_POS_SAMPLES_ON_TRAIN else None
    seed = cfg.RNG_SEED if train.SEED_EACH_IMAGE or count > 1 else None
    grouping, factor = train.ASPECT_GROUPING, train.ASPECT_GROUP_FACTOR
    return Sampler(roidb, train.IMS_PER_BATCH, grouping, mix, rank, count, seed, factor, train.CLASS_AWARE)


class RoIDataLayer(caffe.Layer):
    """Tops, by cfg.TRAIN: data, im_info, gt_boxes (HAS_RPN) and, if there is a fourth, gt_masks; or data, rois, labels, and
    with BBOX_REG bbox_targets, bbox_inside_weights, bbox_outside_weights. Shapes: roi_data_layer.minibatch.get_minibatch.
    param_str: num_classes; boxes, the family (caffe). set_roidb must be called before forward. `drawn`: roidb indices of the last
    minibatch; before_draw() is called when the net is done with it. sampler: where in the epoch it is.

    A subclass may give its own _get_next_minibatch (-> {top: array}), _get_next_minibatch_inds (-> roidb
    indices) or _shuffle_roidb_inds (which sets _perm, the epoch's indices, and _cur, how many are used up).
    """

    def setup(self, bottom, top):
        params = parse_param_str(self.param_str)
        self._num_classes, self.family = params['num_classes'], family_of(params.get('boxes', 'caffe'))
        check_looks(cfg.TRAIN)
        self.sampler, self.drawn = None, []
        self.before_draw = lambda: None
        self._masks = bool(cfg.TRAIN.HAS_RPN) and len(top) == 4
        self._preparation = Preparation(cfg.TRAIN, cfg.PIXEL_MEANS, self.family, self._masks)
        self._loader = None
        if cfg.TRAIN.USE_PREFETCH:
            workers = loader_workers(cfg.TRAIN.LOADER_WORKERS)
            room = room_for(cfg.TRAIN, self.family.divisor, self._masks)
            self._loader = Loader(self._preparation, self._wanted, workers, room)
        shapes = top_shapes(cfg.TRAIN, self._num_classes, self._masks)
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
            top[self._name_to_top_map[name]].put(values)

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
        entries = [self._roidb[i] for i in self.drawn]
        prepared = self._loader and self._prepared
        return get_minibatch(entries, self._num_classes, prepared, self.family, self._masks)

    def _prepared(self, entries, looks):
        return self._preparation.scaled(self._loader.take(self._keys(looks)), looks)

    def _keys(self, looks):
        """(indices, Looks) of this minibatch and of those to come, as far as that is known. Looks are None where they will
        be drawn too late to begin with them: there is something to draw, and draws go on from all that are drawn until
        then."""
        train = cfg.TRAIN
        late = draws_looks(train) and self.sampler.seed is None
        yield self.drawn, None if late else looks
        if (
            getattr(self._get_next_minibatch_inds, '__func__', None)
            is not RoIDataLayer._get_next_minibatch_inds
        ):
            return
        for drawn, seeds in self.sampler.ahead():
            random = np.random.RandomState(seeds)
            entries = [self._roidb[i] for i in drawn]
            yield drawn.tolist(), None if late else draw_looks(train, entries, random)

    def _wanted(self, key):
        drawn, looks = key
        return self._preparation.wanted([self._roidb[i] for i in drawn], looks)


def loader_workers(number):
    """cfg.TRAIN.LOADER_WORKERS, -1 replaced by what it stands for."""
    if number >= 0:
        return number
    if caffe.common.device().type == 'cpu':
        return 0
    return max(1, min(4, cores() // int(os.environ.get('LOCAL_WORLD_SIZE', 1))))


def room_for(train, divisor=1, masks=False):
    """Bytes of a prepared minibatch: its images in float32, padded to whole divisors, and some thousand RoIs or MANY_MASKS of
    each, by the settings cfg.TRAIN."""
    short = min(max(train.SCALES) * train.SCALE_JITTER[1], train.MAX_SIZE)
    sides = (int(short) + 1 + divisor) * (train.MAX_SIZE + divisor)
    return train.IMS_PER_BATCH * ((12 + MANY_MASKS * masks) * sides + 2**18)


def top_shapes(train, num_classes, masks=False):
    """{top: shape before anything is drawn}, by the settings cfg.TRAIN."""
    shapes = {'data': (train.IMS_PER_BATCH, 3, max(train.SCALES), train.MAX_SIZE)}
    if train.HAS_RPN:
        images = train.IMS_PER_BATCH
        shapes |= {'im_info': (images, 3), 'gt_boxes': (1, 5 if images == 1 else 6)}
        return {**shapes, 'gt_masks': (1, *shapes['data'][2:])} if masks else shapes
    shapes.update(rois=(1, 5), labels=(1,))
    if train.BBOX_REG:
        columns = 4 * box_classes(num_classes, train.AGNOSTIC)
        names = ('bbox_targets', 'bbox_inside_weights', 'bbox_outside_weights')
        shapes.update({name: (1, columns) for name in names})
    return shapes


class BlobFetcher(multiprocessing.Process):
    """Puts minibatches of a roidb into a queue, from a process of its own, whose draws begin at cfg.RNG_SEED.

    For layers that fetch so; RoIDataLayer itself reads ahead (TRAIN.USE_PREFETCH).
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
