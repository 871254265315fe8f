"""The necks, and their registry: what makes of a backbone's maps others that know of each other.

`lr` is how a part learns, see netgen.layers.
"""

from dataclasses import dataclass

from netgen.layers import FeatureMap, conv, layer, pool, propagate


@dataclass(frozen=True)
class FPN:
    """Lin et al. 2017 (arXiv 1612.03144), section 3: from the coarsest map on, each is enlarged by its nearest cells to
    the size of the one below, and added to what a 1x1 convolution makes of that; a 3x3 convolution ends each level. One
    more level is every second cell of the coarsest, for the RPN alone.

    The maps of a body, stage s of stride 2^s, become p2 ... p6.
    """

    bodies: list  # of FeatureMap, each of twice the stride of the one before
    channels: int = 256

    @property
    def pooled_maps(self):
        """Those that RoIs are pooled from."""
        return [FeatureMap(f'p{self.level(m)}', m.stride, self.channels) for m in self.bodies]

    @property
    def maps(self):
        last = self.bodies[-1]
        return [*self.pooled_maps, FeatureMap(f'p{self.level(last) + 1}', 2 * last.stride, self.channels)]

    def level(self, body):
        return body.stride.bit_length() - 1

    def lines(self, lr):
        lines, above = [], None
        for body in reversed(self.bodies):
            top = f'p{self.level(body)}'
            merged = lateral = top + '_lateral'
            lines.append(self.conv(lateral, body.blob, 1, lr))
            if above:
                merged = top + '_sum'
                lines += enlarged_sum(top, above, lateral, merged, 'mode: NEAREST')
            lines.append(self.conv(top, merged, 3, lr))
            above = merged
        *_, last, extra = self.maps
        return [*lines, pool(extra.blob, last.blob, 'MAX', 1, 2, 'ceil_mode: false')]

    def conv(self, name, bottom, kernel, lr):
        return conv(name, bottom, self.channels, kernel, lr, pad=kernel // 2, filler='type: "xavier"')


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


NECKS = {'FPN': FPN, 'DetNet': DetNetFPN}
