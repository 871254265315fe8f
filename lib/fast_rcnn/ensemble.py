"""Several nets that are asked as one."""

import itertools

from fpn.boxes import family_of_net
from mask.passes import has_masks


class Ensemble:
    """Nets of one family of boxes whose proposals are joined, and whose scores and boxes of each region are averaged
    (He et al. 2015, appendix B); to the test loop it is a net."""

    def __init__(self, nets):
        self.nets = list(nets)
        families = {family_of_net(net).name for net in self.nets}
        if len(families) > 1:
            raise ValueError(f'nets that are asked together have one family of boxes; got {sorted(families)}')
        if len(set(map(id, self.nets))) < len(self.nets):
            raise ValueError('wanted different nets: each keeps what it has seen in its own blobs')
        if any(map(has_masks, self.nets)):
            raise ValueError('nets with masks are asked alone, not together with others')
        self.name = '+'.join(net.name for net in self.nets)

    @property
    def layers(self):
        """Those of all nets."""
        return list(itertools.chain.from_iterable(net.layers for net in self.nets))


def members(net):
    """The nets that `net` is made of: itself, or those of an Ensemble."""
    return net.nets if isinstance(net, Ensemble) else [net]
