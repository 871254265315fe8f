"""Normalisation and the affine layers beside it: BatchNorm, GroupNorm, LRN, MVN, Scale, Bias. Bottom and top have the
same shape."""

import torch
import torch.nn.functional as F

from .. import common
from ..registry import layer
from ..tape import TorchLayer
from ..proto import caffe_pb2
from . import synced
from .helpers import canonical_axis, sqrt_by_hand


@layer('BatchNorm', half='keeps')
class BatchNorm(TorchLayer):
    """(x - mean) / sqrt(var + eps) per channel (axis 1). Ioffe and Szegedy, 2015.

    Blobs: sum of means (C,), sum of unbiased variances (C,), weight of the sums (1,). Statistics are those of
    the batch, which also go into the sums, each multiplied by moving_average_fraction before; with
    use_global_stats (default: at TEST) they are the sums over their weight. The blobs are no learned
    parameters: their lr_mult is 0, and a prototxt that says otherwise is an error.

    sync: in training, the batch is that of all ranks (caffe.parallel), a pass of each, whatever their sizes; then all
    ranks run this layer, forward and backward, equally often.
    """

    fields = ('use_global_stats', 'moving_average_fraction', 'eps', 'sync')
    itemwise = True  # as far as shapes go
    running = (0, 1, 2)
    _of_all = None  # means, variances, count of all ranks, of the last pass

    def setup(self, bottom, top):
        channels = bottom[0].shape[1] if len(bottom[0].shape) > 1 else 1
        for shape in ((channels,), (channels,), (1,)):
            self.add_blob(shape)
        specs = self.layer_param.param
        for i in range(3):
            spec = specs[i] if i < len(specs) else specs.add()
            if spec.HasField('lr_mult') and spec.lr_mult != 0:
                raise ValueError(
                    f'the statistics of BatchNorm are not learned: param {i} must have '
                    f'lr_mult 0, not {spec.lr_mult}'
                )
            spec.lr_mult = 0
        given = self.field('use_global_stats')
        self.is_affine = self.use_global_stats = self.phase == caffe_pb2.TEST if given is None else given

    def compute(self, x):
        flat = x if x.dim() > 1 else x.reshape(-1, 1)
        if self.use_global_stats:
            mean, var = self.global_stats(self.weights)
            return F.batch_norm(flat, mean, var, eps=self.field('eps')).reshape(x.shape)
        syncs = self.field('sync') and self.phase == caffe_pb2.TRAIN and common.solver_count() > 1
        y, mean, var = (self.by_all if syncs else self.by_batch)(flat)
        if not self.again:
            self.add_to_average(mean, var)
        return y.reshape(x.shape)

    def by_batch(self, x):
        """x normalised by its own statistics, and its means and unbiased variances."""
        channels = x.shape[1]
        if x.numel() == channels:
            return x - x, x.detach().reshape(-1), x.new_zeros(channels)
        mean, var = x.new_zeros(channels), x.new_zeros(channels)
        momentum = 1.0  # the running statistics become the batch's
        y = torch.batch_norm(
            x, None, None, mean, var, True, momentum, self.field('eps'), torch.backends.cudnn.enabled
        )
        return y, mean, var

    def by_all(self, x):
        """As by_batch, by the statistics of all ranks; those of the last pass, where it is but computed again."""
        if not self.again:
            self._of_all = synced.statistics(x)
        elif self._of_all is None:  # for its shape
            return self.by_batch(x)
        mean, var, count = self._of_all
        y = synced.Normalized.apply(x, mean, var, count, self.field('eps'))
        return y, mean.to(x.dtype), (var * count / (count - 1).clamp(min=1)).to(x.dtype)

    def global_stats(self, weights):
        mean, var, weight = (w.detach() for w in weights)
        scale = torch.where(weight == 0, 0.0, 1 / weight)
        return mean * scale, var * scale

    def factor_and_shift(self, weights):
        mean, var = self.global_stats(weights)
        factor = (var + self.field('eps')).rsqrt()
        return factor, -mean * factor

    def add_to_average(self, mean, var):
        fraction = self.field('moving_average_fraction')
        for blob, new in zip(self.blobs, (mean, var, torch.ones_like(mean[:1]))):
            blob.tensor = blob.tensor * fraction + new


@layer('GroupNorm', half='keeps', itemwise=True)
class GroupNorm(TorchLayer):
    """(x - mean) / sqrt(var + eps), by the mean and biased variance of each of group_num groups of neighbouring channels
    of an item. Wu and He, 2018 (arXiv 1803.08494).

    Blobs: none, a Scale layer follows, which costs nothing where it and a ReLU are in place (plan.py) and this layer is not;
    where affine, a factor (C,), 1 unless scale_filler says otherwise, and a shift (C,). `group` is another name of
    group_num, that of nets whose layer is affine. ValueError for groups that are not equally large.
    """

    fields = ('group_num', 'group', 'eps', 'affine', 'scale_filler', 'bias_filler')
    is_head = absorbs = True

    def setup(self, bottom, top):
        given = self.field('affine')
        if given or given is None and self.field('group') is not None:
            one = caffe_pb2.FillerParameter(type='constant', value=1)
            channels = bottom[0].shape[1:2]
            self.add_blob(channels, self.param.scale_filler if self.param.HasField('scale_filler') else one)
            self.add_blob(channels, self.field('bias_filler'))

    def compute(self, x):
        groups = self.field('group') or self.field('group_num')
        if x.dim() < 2 or x.shape[1] % groups:
            raise ValueError(f'{groups} groups want as many channels, or a multiple, on axis 1')
        factor, shift = [*self.weights, None, None][:2]
        return torch.group_norm(x, groups, factor, shift, self.field('eps'), torch.backends.cudnn.enabled)

    def absorb(self, weights, factor, shift):
        """The weights after y -> y factor + shift, (C,) each or None."""
        like = shift if factor is None else factor
        ours, more = weights or (torch.ones_like(like), torch.zeros_like(like))
        if factor is not None:
            ours, more = ours * factor, more * factor
        return [ours, more if shift is None else more + shift]


@layer('LRN', half='keeps', itemwise=True)
def lrn(x, *, local_size, alpha, beta, norm_region, k):
    """x / (k + alpha / n sum x^2)^beta over n = local_size neighbouring channels (ACROSS_CHANNELS; Krizhevsky
    et al., 2012, section 3.3), or x / (1 + alpha / n^2 sum x^2)^beta over an n x n window of the same channel
    (WITHIN_CHANNEL, where k has no effect)."""
    if local_size % 2 == 0:
        raise ValueError(f'local_size must be odd, not {local_size}')
    if norm_region == 'ACROSS_CHANNELS':
        return F.local_response_norm(x, local_size, alpha, beta, k)
    return x * (1 + alpha * F.avg_pool2d(x * x, local_size, 1, local_size // 2)) ** -beta


@layer('MVN')
def mvn(x, *, normalize_variance, across_channels, eps):
    """x less its mean over each map, or each sample (across_channels); then, with normalize_variance, over
    its deviation + eps."""
    flat = x.flatten(1 if across_channels else 2)
    centred = flat - flat.mean(-1, keepdim=True)
    if normalize_variance:
        centred = centred / (sqrt_by_hand(centred.square().mean(-1, keepdim=True), eps) + eps)
    return centred.reshape(x.shape)


def along(param, x, axis):
    """`param`, shaped to be broadcast over x from `axis` on."""
    axis = canonical_axis(axis, x.dim()) if x.dim() else 0
    wanted = x.shape[axis : axis + param.dim()]
    if param.shape != wanted:
        raise ValueError(
            f'the factor or bias has the shape {tuple(param.shape)}, '
            f'the bottom from axis {axis} on {tuple(wanted)}'
        )
    return param.reshape(param.shape + (1,) * (x.dim() - axis - param.dim()))


class _Affine(TorchLayer):
    """What Scale and Bias share: a blob shaped like num_axes axes of the first bottom from `axis` on (-1: all
    of them)."""

    @property
    def is_affine(self):
        return len(self.layer_param.bottom) == self.field('axis') == self.field('num_axes') == 1

    @property
    def itemwise(self):
        return len(self.layer_param.bottom) == 1 and self.field('axis') > 0

    def param_shape(self, shape):
        axis, num_axes = canonical_axis(self.field('axis'), len(shape)), self.field('num_axes')
        if num_axes < -1 or axis + num_axes > len(shape):
            raise ValueError(
                f'num_axes {num_axes} from axis {axis} on does not fit the bottom of shape {shape}'
            )
        return shape[axis:] if num_axes == -1 else shape[axis : axis + num_axes]


@layer('Scale', half='keeps')
class Scale(_Affine):
    """x times a learned blob (1 at first), or times the second bottom, broadcast from `axis` on; plus a
    learned bias with bias_term."""

    fields = ('axis', 'num_axes', 'filler', 'bias_term', 'bias_filler')

    def setup(self, bottom, top):
        shape = bottom[1].shape if len(bottom) > 1 else self.param_shape(bottom[0].shape)
        if len(bottom) == 1:
            one = caffe_pb2.FillerParameter(type='constant', value=1)
            self.add_blob(shape, self.param.filler if self.param.HasField('filler') else one)
        if self.field('bias_term'):
            self.add_blob(shape, self.field('bias_filler'))

    def compute(self, x, factor=None):
        blobs, axis = list(self.weights), self.field('axis')
        y = x * along(blobs.pop(0) if factor is None else factor, x, axis)
        return y + along(blobs[0], x, axis) if blobs else y

    def factor_and_shift(self, weights):
        return weights[0], weights[1] if len(weights) > 1 else None


@layer('Bias', half='keeps')
class Bias(_Affine):
    """x plus a learned blob (0 at first), or plus the second bottom, broadcast from `axis` on."""

    fields = ('axis', 'num_axes', 'filler')

    def setup(self, bottom, top):
        if len(bottom) == 1:
            self.add_blob(self.param_shape(bottom[0].shape), self.field('filler'))

    def compute(self, x, bias=None):
        return x + along(self.weights[0] if bias is None else bias, x, self.field('axis'))

    def factor_and_shift(self, weights):
        return None, weights[0]
