"""Layers of segmentation nets: BN of PSPNet and SegNet, Interp of DeepLab and PSPNet, Upsample of SegNet,
Unpooling of DeconvNet."""

import torch
import torch.nn.functional as F

from ..registry import layer
from ..tape import TorchLayer
from .helpers import as_index
from ..proto import caffe_pb2
from .pooling import per_side


@layer('BN', half='keeps')
class BN(TorchLayer):
    """The older batch normalisation, scale and shift in one; each blob (1, C, 1, 1). Two dialects share it.

    PSPNet's: scale (x - mean) / sqrt(var + eps) + shift; blobs scale, shift, running mean and variance, of
    which the last two are not learned. Training takes the batch's mean and (biased) variance, and moves the
    running ones to momentum old + (1 - momentum) new; testing and `frozen` take the running ones. Frozen
    blobs are not learned at all.

    SegNet's, where scale_filler, shift_filler or bn_mode is given: blobs scale and shift. LEARN normalises
    by the batch in both phases (eps 1e-9 unless given); INFERENCE is scale x + shift, for files with the
    statistics folded in.
    """

    fields = (
        'slope_filler',
        'bias_filler',
        'momentum',
        'eps',
        'frozen',
        'scale_filler',
        'shift_filler',
        'bn_mode',
    )

    running = (2, 3)

    def setup(self, bottom, top):
        given = self.param.HasField
        self.segnet = given('scale_filler') or given('shift_filler') or given('bn_mode')
        self.eps = 1e-9 if self.segnet and not given('eps') else self.field('eps')
        shape = (1, bottom[0].shape[1], 1, 1)
        names = ('scale_filler', 'shift_filler') if self.segnet else ('slope_filler', 'bias_filler')
        for name, value in zip(names, (1, 0)):
            self.add_blob(shape, self.field(name) if given(name) else constant(value))
        if not self.segnet:
            self.add_blob(shape)
            self.add_blob(shape, constant(1))
        self.fix_rates()

    def fix_rates(self):
        """lr_mult 0 for the running mean and variance, and for all blobs when frozen."""
        specs = self.layer_param.param
        while len(specs) < len(self.blobs):
            specs.add()
        for i, spec in enumerate(specs):
            if i >= 2 and spec.HasField('lr_mult') and spec.lr_mult != 0:
                raise ValueError(
                    f'the statistics of BN are not learned: param {i} must have lr_mult 0, not {spec.lr_mult}'
                )
            if i >= 2 or self.field('frozen'):
                spec.lr_mult = 0

    def compute(self, x):
        frozen = self.field('frozen')
        weights = [w.detach() if frozen or i >= 2 else w for i, w in enumerate(self.weights)]
        scale, shift, *statistics = (w.reshape(-1) for w in weights)
        if self.segnet and self.field('bn_mode') == 'INFERENCE':
            axes = [-1 if i == 1 else 1 for i in range(x.dim())]
            return x * scale.reshape(axes) + shift.reshape(axes)
        if not self.segnet and (frozen or self.phase == caffe_pb2.TEST):
            return F.batch_norm(x, *statistics, scale, shift, eps=self.eps)
        if not (self.segnet or self.again):
            self.move_statistics(x.detach().transpose(0, 1).flatten(1))
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(x, scale, shift, None, None, True, 0.0, self.eps, cudnn)

    def move_statistics(self, rows):
        momentum = self.field('momentum')
        for blob, new in zip(self.blobs[2:], (rows.mean(1), rows.var(1, unbiased=False))):
            blob.tensor = blob.tensor * momentum + (1 - momentum) * new.reshape(blob.shape)


def constant(value):
    return caffe_pb2.FillerParameter(type='constant', value=value)


@layer('Interp', nondiff=(1,), half='keeps')
class Interp(TorchLayer):
    """(N, C, H, W) resized bilinearly: to height x width, or to
    H + (H - 1) (zoom_factor - 1), or to (H - 1) / shrink_factor + 1 (rounded down), or shrunk, then zoomed,
    or with use_blob_size to the height and width of the second bottom, which takes no gradient. pad_beg and pad_end, not above 0, cut the rims first.
    Row i of H' looks at row i (H - 1) / (H' - 1); at (i + 1/2) H / H' - 1/2, on the rim where that is beyond it, with
    align_corners false; mode NEAREST: it is row i H / H' (rounded down). So the columns."""

    fields = (
        'height',
        'width',
        'zoom_factor',
        'shrink_factor',
        'pad_beg',
        'pad_end',
        'use_blob_size',
        'mode',
        'align_corners',
    )

    def compute(self, x, like=None):
        if self.field('use_blob_size') != (like is not None):
            raise ValueError('use_blob_size and a second bottom, which gives the size, come together')
        first, last = self.field('pad_beg'), self.field('pad_end')
        if first > 0 or last > 0:
            raise ValueError(f'pad_beg and pad_end can only cut (be 0 or below); got {first} and {last}')
        x = F.pad(x, (first, last, first, last))
        size = self.size(x.shape[2:]) if like is None else list(like.shape[2:])
        if self.field('mode') == 'NEAREST':
            return F.interpolate(x, size, mode='nearest')
        return F.interpolate(x, size, mode='bilinear', align_corners=self.field('align_corners'))

    def size(self, size):
        given = self.param.HasField
        zoom, shrink = given('zoom_factor'), given('shrink_factor')
        if given('height') and given('width') and zoom == shrink:
            size = self.field('height'), self.field('width')
        elif zoom or shrink:
            if min(self.field('zoom_factor'), self.field('shrink_factor')) < 1:
                raise ValueError('zoom_factor and shrink_factor must be positive')
            size = [(n - 1) // self.field('shrink_factor') + 1 for n in size]
            size = [n + (n - 1) * (self.field('zoom_factor') - 1) for n in size]
        else:
            raise ValueError('height and width, zoom_factor or shrink_factor must be given')
        if min(size) < 1:
            raise ValueError(f'the top would have height {size[0]} and width {size[1]}')
        return list(size)


def put_back(x, mask, height, width):
    """Zeros (N, C, height, width) with each x where mask, a position y width + x per value, says; of several
    for one place one stays."""
    if x.shape != mask.shape:
        raise ValueError(
            f'the mask must have the shape of the first bottom, {tuple(x.shape)}; got {tuple(mask.shape)}'
        )
    index = as_index(mask.flatten(2), height * width, 'a position in the mask,')
    top = x.new_zeros(*x.shape[:2], height * width)
    return top.scatter(2, index, x.flatten(2)).reshape(*x.shape[:2], height, width)


@layer('Upsample', nondiff=(1,), strict=False)
class Upsample(TorchLayer):
    """With the mask of a Pooling layer as second bottom (SegNet): x goes back to where the maxima were, zeros
    elsewhere, in a map of upsample_h x upsample_w, or scale times as large less one row (pad_out_h) or column
    (pad_out_w). With one bottom (YOLO's forks): each value is repeated scale x scale times."""

    fields = ('scale', 'scale_h', 'scale_w', 'pad_out_h', 'pad_out_w', 'upsample_h', 'upsample_w')

    def compute(self, x, mask=None):
        scale_h, scale_w = (self.field(name) or self.field('scale') for name in ('scale_h', 'scale_w'))
        if not scale_h or not scale_w:
            raise ValueError('scale must be positive')
        cut = self.field('pad_out_h'), self.field('pad_out_w')
        size = self.field('upsample_h'), self.field('upsample_w')
        if mask is None:
            if any(cut) or any(size):
                raise ValueError(
                    'pad_out_h, pad_out_w, upsample_h and upsample_w want the mask of a Pooling '
                    'layer as second bottom'
                )
            return x.repeat_interleave(scale_h, 2).repeat_interleave(scale_w, 3)
        if not all(size):
            size = x.shape[2] * scale_h - cut[0], x.shape[3] * scale_w - cut[1]
        return put_back(x, mask, *size)


@layer('Unpooling', nondiff=(1,), strict=False)
class Unpooling(TorchLayer):
    """Pooling undone, into a map of unpool_h x unpool_w (unpool_size for both) or else stride (n - 1) +
    kernel - 2 pad. MAX: values go where the mask, the second bottom, says. AVE: each is spread evenly over
    its window, TILE: copied all over it; windows that overlap add up. Noh et al., 2015."""

    fields = (
        'unpool',
        'kernel_size',
        'kernel_h',
        'kernel_w',
        'stride',
        'stride_h',
        'stride_w',
        'pad',
        'pad_h',
        'pad_w',
        'unpool_size',
        'unpool_h',
        'unpool_w',
    )

    def compute(self, x, mask=None):
        kernel = per_side(self, 'kernel_size')
        stride, pad = per_side(self, 'stride', 1), per_side(self, 'pad', 0)
        full = [(n - 1) * s + k for n, k, s in zip(x.shape[2:], kernel, stride)]
        size = [
            self.field(f'unpool_{axis}') or self.field('unpool_size') or f - 2 * p
            for axis, f, p in zip('hw', full, pad)
        ]
        if self.field('unpool') == 'MAX':
            if mask is None:
                raise ValueError('unpool: MAX wants the mask of a Pooling layer as second bottom')
            return put_back(x, mask, *size)
        if self.field('unpool') == 'AVE':
            x = x / (kernel[0] * kernel[1])
        spread = F.conv_transpose2d(x.flatten(0, 1)[:, None], x.new_ones(1, 1, *kernel), stride=stride)
        (top, left), (down, right) = pad, [s - f + p for s, f, p in zip(size, full, pad)]
        spread = F.pad(spread, (-left, right, -top, down))
        return spread.reshape(*x.shape[:2], *size)
