"""The order in which a roidb's images are drawn, epoch by epoch, by each of several workers.

N images, k of them a minibatch, n workers. Draws come from numpy's global generator; their number and order
are part of the contract: without a Sampler's seed, the same seed of numpy gives the original's order.
"""

import copy

import caffe
import numpy as np

from datasets.record import Record


def is_train_split(path):
    """Whether the last folder named train or val in an image's path is train."""
    folders = [part for part in path.replace('\\', '/').split('/')[:-1] if part in ('train', 'val')]
    return bool(folders) and folders[-1] == 'train'


class ByClass:
    """The classes of a roidb's images, to draw images by: M pairs of a class and an image that has objects of it. starts
    (C + 1,): the images (M,) of the n-th class that has some are those from starts[n] to starts[n + 1]."""

    def __init__(self, roidb):
        own = [np.unique(_object_classes(entry)) for entry in roidb]
        classes = np.concatenate(own or [np.zeros(0, int)])
        if not len(classes):
            raise ValueError('TRAIN.CLASS_AWARE draws images by the classes of their objects; here are none')
        order = np.argsort(classes, kind='stable')
        self.images = np.repeat(np.arange(len(own)), list(map(len, own)))[order]
        self.starts = np.append(np.unique(classes[order], return_index=True)[1], len(order))

    def draw(self, count, random):
        """Indices (count,) of images."""
        classes = random.randint(0, len(self.starts) - 1, count)
        places = random.random_sample(count) * np.diff(self.starts)[classes]
        return self.images[self.starts[classes] + places.astype(np.int64)]


def _object_classes(entry):
    if isinstance(entry, Record) and not entry.sets('gt_classes'):
        return entry.classes
    return entry['gt_classes'][entry['gt_classes'] > 0]


def epoch_order(wide, aspect_grouping, random=np.random, group=2, drawn=None):
    """Indices of all images in random order; grouped, the wide ones (N,) bool come in pairs, or as many as a group has,
    the others too. drawn: the images, as they were drawn, in place of all."""
    if not aspect_grouping:
        return random.permutation(np.arange(len(wide))) if drawn is None else drawn
    order = np.hstack([random.permutation(part) for part in _parts(wide, drawn)])
    groups = order[: len(order) // group * group].reshape(-1, group)
    shuffled = groups[random.permutation(np.arange(len(groups)))].ravel()
    return np.append(shuffled, order[len(shuffled) :])


def _parts(wide, drawn):
    """The wide images and the others, of all or of those drawn."""
    if drawn is None:
        return np.where(wide)[0], np.where(~wide)[0]
    return drawn[wide[drawn]], drawn[~wide[drawn]]


def bands(ratios, factor):
    """The band (N,) of each of ratios (N,), widths over heights: 2 factor between 1/2 and 2, and those beyond."""
    return np.searchsorted(2 ** np.linspace(-1, 1, 2 * factor + 1), ratios, 'right')


def banded_order(bands, random, group, drawn=None):
    """Indices of images of bands (N,) in groups of one band each, N // group of them: whole groups in random order, then
    those of what is left of a band, most images first, completed by more of its images. drawn: as in epoch_order."""
    drawn = np.arange(len(bands)) if drawn is None else drawn
    whole, left = [np.zeros((0, group), np.int64)], []
    for band in np.unique(bands[drawn]):
        mine = random.permutation(drawn[bands[drawn] == band])
        count = len(mine) // group * group
        whole.append(mine[:count].reshape(-1, group))
        left.append((len(mine) - count, np.resize(np.roll(mine, -count), group)))
    whole = random.permutation(np.concatenate(whole))
    left = [group_of for _, group_of in sorted(left, key=lambda one: -one[0])]
    return np.concatenate([whole, left])[: len(bands) // group].ravel()


def mix_val(order, is_val, val_images, real_batch):
    """Of every real_batch places of the order (N,) the first val_images go to images of val (N,) bool, the
    others to those of train, each kind as it comes and over again where it is too few. No draws."""
    of_val = np.arange(len(order)) % real_batch < val_images
    mixed = np.empty_like(order)
    mixed[of_val] = np.resize(order[is_val[order]], np.count_nonzero(of_val))
    mixed[~of_val] = np.resize(order[~is_val[order]], np.count_nonzero(~of_val))
    return mixed


def seed_draws(*numbers):
    """Begin all draws anew, numpy's and the engine's (Dropout), from these numbers, each >= 0."""
    np.random.seed(numbers)
    caffe.set_random_seed(np.random.SeedSequence(numbers).generate_state(1)[0])


class Sampler:
    """Indices of one minibatch after another. order (N,) of this epoch, place: how many are used up, epoch.

    images: k. mix: (val_images, real_batch) for mix_val, or None. rank, count: this worker's number r of n. All
    workers go through one order: from `place` on the worker takes the k images from r k on, and place moves on by
    n k. A new order begins when no more than n k images are left, so that the last 1 .. n k of an order are not
    drawn.

    seed: None, or where all draws begin: an order's with (seed, epoch), and with each minibatch taken those that
    follow, with (seed, epoch, its place in the order); so they do not depend on which worker takes it. A new order
    then begins only with a real batch, when no more than the real_batch images of one are left (set real_batch to k n
    iter_size); an order that is shorter is gone through over again.

    factor: of bands of width over height, 0: wide and tall. class_aware: an order's images are drawn by class (ByClass).
    """

    def __init__(
        self,
        roidb,
        images,
        aspect_grouping=True,
        mix=None,
        rank=0,
        count=1,
        seed=None,
        factor=0,
        class_aware=False,
    ):
        if count > 1 and seed is None:
            raise ValueError(f'{count} workers go through one order only if their draws have a seed')
        self.roidb, self.images, self.grouping, self.mix = roidb, images, aspect_grouping, mix
        self.rank, self.count, self.seed, self.real_batch = rank, count, seed, images * count
        self.wide = np.array([entry['width'] >= entry['height'] for entry in roidb], bool)
        self.bands = bands(np.array([e['width'] / e['height'] for e in roidb]), factor) if factor else None
        self.is_val = mix and self._is_val()
        self.by_class = ByClass(roidb) if class_aware else None
        self.order, self.place, self.epoch = np.zeros(0, np.int64), 0, 0

    def _is_val(self):
        val_images, real_batch = self.mix
        if not 0 < val_images < real_batch:
            raise ValueError(
                f'TRAIN.NO_POS_SAMPLES_ON_TRAIN mixes images of train and val: wanted 0 < TRAIN.VAL_PER_BATCH_SIZE '
                f'< TRAIN.REAL_BATCH_SIZE, got {val_images} and {real_batch}'
            )
        is_val = np.array([not is_train_split(entry['image']) for entry in self.roidb], bool)
        if is_val.all() or not is_val.any():
            raise ValueError(
                'TRAIN.NO_POS_SAMPLES_ON_TRAIN mixes images of train and val; here is one kind alone'
            )
        return is_val

    def shuffle(self):
        """Begin an epoch."""
        if self.seed is not None:
            seed_draws(self.seed, self.epoch + 1)
        self._begin_order(np.random)

    def _begin_order(self, random):
        self.place, self.epoch = 0, self.epoch + 1
        drawn = self.by_class and self.by_class.draw(len(self.roidb), random)
        if self.grouping and self.bands is not None:
            self.order = banded_order(self.bands, random, self.images, drawn)
        else:
            self.order = epoch_order(self.wide, self.grouping, random, max(2, self.images), drawn)
        if self.mix:
            self.order = mix_val(self.order, self.is_val, *self.mix)

    @property
    def exhausted(self):
        """Whether a new order must begin."""
        left = len(self.order) - self.place
        if self.seed is None:
            return left <= self.images
        return left <= self.real_batch and self.place % self.real_batch == 0 and (self.place > 0 or left == 0)

    def take(self):
        """The next minibatch's indices (k,); see exhausted. With a seed the draws for it begin here."""
        taken, seeds = self._next()
        if seeds:
            seed_draws(*seeds)
        return taken

    def _next(self):
        begin = self.place + self.images * self.rank
        self.place += self.images * self.count
        if self.seed is None:
            return self.order[begin : begin + self.images], None
        taken = np.take(self.order, range(begin, begin + self.images), mode='wrap')
        return taken, (self.seed, self.epoch, begin)

    def ahead(self):
        """What take will return next and after, and the seeds of the draws that follow each, or None. Without a seed
        it ends with this order: what the next one is, the draws until then decide. Draws nothing itself."""
        twin = copy.copy(self)
        while not (twin.exhausted and twin.seed is None):
            if twin.exhausted:
                twin._begin_order(np.random.RandomState((twin.seed, twin.epoch + 1)))
            yield twin._next()

    def state(self):
        """What restore goes on from."""
        return {'order': self.order, 'place': self.place, 'epoch': self.epoch}

    def restore(self, state):
        self.order = np.asarray(state['order'])
        self.place, self.epoch = int(state['place']), int(state['epoch'])
