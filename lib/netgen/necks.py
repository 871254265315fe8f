"""The necks, and their registry: what makes of a backbone's maps others that know of each other.

`lr` is how a part learns, see netgen.layers.
"""

from dataclasses import dataclass
from functools import partial

from netgen.layers import FeatureMap, conv, layer, normed_conv, pool, propagate


@dataclass(frozen=True)
class FPN:
    """Lin et al. 2017 (arXiv 1612.03144), section 3: from the coarsest map on, each is enlarged to the size of the one
    below, and added to what a 1x1 convolution makes of that; a 3x3 convolution ends each level.

    Above them lie levels for the RPN alone. extra 'pool': one, every second cell of the coarsest. 'P5', 'C5': two, as in
    Lin et al. 2017 (arXiv 1708.02002), section 4: 3x3 convolutions of stride 2, of the coarsest level, or of the body's
    coarsest map, and of the rectified first.

    groups: each convolution to p5 has GroupNorm of so many behind it; 0: none.

    The maps of a body, stage s of stride 2^s, become p2 ... p6, or p7.
    """

    bodies: list  # of FeatureMap, each of twice the stride of the one before
    channels: int = 256
    enlarged: str = 'mode: NEAREST'  # fields of interp_param
    extra: str = 'pool'
    groups: int = 0

    @property
    def pooled_maps(self):
        """Those that RoIs are pooled from."""
        return [self.map(m.stride) for m in self.bodies]

    @property
    def maps(self):
        above = 1 if self.extra == 'pool' else 2
        return [*self.pooled_maps, *(self.map(self.bodies[-1].stride << i) for i in range(1, above + 1))]

    def map(self, stride):
        return FeatureMap(f'p{stride.bit_length() - 1}', stride, self.channels)

    def lines(self, lr):
        lines, above = [], None
        for body, level in reversed(list(zip(self.bodies, self.pooled_maps))):
            top = level.blob
            merged = lateral = top + '_lateral'
            lines += self.of_level(lateral, body.blob, 1, lr)
            if above:
                merged = top + '_sum'
                lines += enlarged_sum(top, above, lateral, merged, self.enlarged)
            lines += self.of_level(top, merged, 3, lr)
            above = merged
        return [*lines, *self.levels_above(lr)]

    def levels_above(self, lr):
        last, first, *second = [m.blob for m in self.maps[len(self.bodies) - 1 :]]
        if self.extra == 'pool':
            return [pool(first, last, 'MAX', 1, 2, 'ceil_mode: false')]
        bottom, rectified = last if self.extra == 'P5' else self.bodies[-1].blob, first + '_relu'
        return [
            self.conv(first, bottom, 3, lr, stride=2),
            layer(rectified, 'ReLU', first, rectified),
            self.conv(second[0], rectified, 3, lr, stride=2),
        ]

    def of_level(self, name, bottom, kernel, lr):
        if not self.groups:
            return [self.conv(name, bottom, kernel, lr)]
        return normed_conv(name, bottom, self.channels, kernel, lr, self.groups, filler='type: "xavier"')

    def conv(self, name, bottom, kernel, lr, stride=1):
        filler = 'type: "xavier"'
        return conv(name, bottom, self.channels, kernel, lr, stride, kernel // 2, filler=filler)


@dataclass(frozen=True)
class DetNetFPN:
    """guoruoqian/DetNet_pytorch's (lib/model/fpn/fpn.py): the maps at the coarsest stride are added up as they are, the
    others as in FPN, but bilinearly enlarged, corners on corners, from what the 3x3 convolution above has made. All levels
    have anchors, all but the last give RoIs.

    The maps of a body, in their order, become p2, p3 ...
    """

    bodies: list  # of FeatureMap
    channels: int = 256

    @property
    def maps(self):
        return [FeatureMap(f'p{i}', m.stride, self.channels) for i, m in enumerate(self.bodies, 2)]

    @property
    def pooled_maps(self):
        return self.maps[:-1]

    def lines(self, lr):
        coarsest = self.maps[-1]
        lines, above = [self.conv(coarsest.blob, self.bodies[-1].blob, 1, lr)], coarsest.blob
        for body, level in list(zip(self.bodies, self.maps))[-2::-1]:
            top = level.blob
            lateral = top + '_lateral'
            lines.append(self.conv(lateral, body.blob, 1, lr))
            if level.stride == coarsest.stride:
                lines.append(layer(top, 'Eltwise', f'{lateral} {above}', top))
            else:
                lines += enlarged_sum(top, above, lateral, top + '_sum')
                lines.append(self.conv(top, top + '_sum', 3, lr))
            above = top
        return lines

    def conv(self, name, bottom, kernel, lr):
        return conv(name, bottom, self.channels, kernel, lr, pad=kernel // 2, std=0.01)


def enlarged_sum(level, above, lateral, top, *mode):
    """The map above, in the size of the lateral one, and that: in the blob `top`."""
    bigger, how = level + '_top', ' '.join(['use_blob_size: true', *mode])
    return [
        layer(bigger, 'Interp', f'{above} {lateral}', bigger, propagate(1, 0), f'interp_param {{ {how} }}'),
        layer(top, 'Eltwise', f'{lateral} {bigger}', top),
    ]


NECKS = {
    'FPN': FPN,
    'FPN-bilinear': partial(FPN, enlarged='align_corners: false'),
    'FPN-P6P7-of-P5': partial(FPN, extra='P5'),
    'FPN-P6P7-of-C5': partial(FPN, extra='C5'),
    'DetNet': DetNetFPN,
}
