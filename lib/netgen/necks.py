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
                merged, bigger, mode = top + '_sum', top + '_top', 'use_blob_size: true mode: NEAREST'
                lines += [
                    layer(
                        bigger,
                        'Interp',
                        f'{above} {lateral}',
                        bigger,
                        propagate(1, 0),
                        f'interp_param {{ {mode} }}',
                    ),
                    layer(merged, 'Eltwise', f'{lateral} {bigger}', merged),
                ]
            lines.append(self.conv(top, merged, 3, lr))
            above = merged
        *_, last, extra = self.maps
        return [*lines, pool(extra.blob, last.blob, 'MAX', 1, 2, 'ceil_mode: false')]

    def conv(self, name, bottom, kernel, lr):
        return conv(name, bottom, self.channels, kernel, lr, pad=kernel // 2, filler='type: "xavier"')


NECKS = {'FPN': FPN}
