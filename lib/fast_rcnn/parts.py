"""A detector's test net in parts, so that regions are looked at again without the image: which layers make its RoIs,
which make what RoIs are pooled from, which turn a RoI into features, and which turn these into scores and box deltas.

Parts are found by what layers read, whatever their names; those for masks (mask.passes) are in none. R RoIs.
"""

import itertools

from fast_rcnn.config import cfg
from mask.passes import last_for_boxes
from utils.arrays import fill

ROIS = 'rois'


def answers_of(net):
    """The blobs of a net that hold its answers, by cfg.TEST: scores and, unless boxes stay, deltas."""
    return ['cls_score' if cfg.TEST.SVM else 'cls_prob'] + ['bbox_pred'] * bool(cfg.TEST.BBOX_REG)


class Parts:
    """Indices of the layers of a net, in the order they run: proposing (none where RoIs are given), maps, pooling,
    outputs. boundary: blobs that pooling and outputs read and only the maps make, so that with them kept, RoIs are looked at
    again. features: blobs (R, ...) that outputs read of pooling.

    Outputs begin with the layers with weights that come last before an answer; where there are none (R-FCN), or what follows
    pools again (a cascade), there are no features, and all that depends on RoIs is pooling. ValueError for a net without RoIs."""

    def __init__(self, net):
        self.net = net
        bottoms, tops = net.bottom_names, net.top_names
        last = last_for_boxes(net)
        for_boxes = list(bottoms) if last is None else list(bottoms)[: last + 1]
        self.layers = [(set(bottoms[name]), set(tops[name])) for name in for_boxes]
        answers = answers_of(net)
        missing = [name for name in (ROIS, *answers) if name not in net.blobs]
        if missing:
            raise ValueError(
                f'net {net.name!r} judges no regions: it has no blob {" and no blob ".join(missing)}'
            )
        regions = self._after({ROIS}, range(len(self.layers)))
        self.boundary = sorted(self._read(regions) - self._made(regions) - {ROIS})
        makers = self._output_makers(answers, regions)
        self.outputs = sorted({*makers, *self._after(self._made(makers), regions)})
        if self._read(self.outputs) & {ROIS, *self.boundary}:
            makers, self.outputs = set(), []
        self.pooling = [i for i in regions if i not in self.outputs]
        self.features = sorted(self._read(makers) & self._made(self.pooling))
        self.maps = self._before(self.boundary, set(range(len(self.layers))) - set(regions))
        self.proposing = [] if ROIS in net.inputs else self._before([ROIS], set(range(len(self.layers))))

    def _read(self, layers):
        return set().union(*(self.layers[i][0] for i in layers))

    def _made(self, layers):
        return set().union(*(self.layers[i][1] for i in layers))

    def _after(self, blobs, among):
        """Those layers that depend on blobs."""
        blobs, found = set(blobs), []
        for i in among:
            bottoms, tops = self.layers[i]
            if bottoms & blobs:
                found.append(i)
                blobs |= tops
        return found

    def _before(self, blobs, among):
        """Those layers that blobs depend on."""
        blobs, found = set(blobs), []
        for i in sorted(among, reverse=True):
            bottoms, tops = self.layers[i]
            if tops & blobs:
                found.append(i)
                blobs |= bottoms
        return found[::-1]

    def _output_makers(self, answers, regions):
        """The last layers with weights, among regions, before each answer; none unless every answer has one."""
        makers = set()
        for name in answers:
            of_answer, blobs = set(), {name}
            for i in sorted(regions, reverse=True):
                bottoms, tops = self.layers[i]
                if tops & blobs:
                    blobs -= tops
                    if self.net.layers[i].blobs:
                        of_answer.add(i)
                    else:
                        blobs |= bottoms
            if not of_answer:
                return set()
            makers |= of_answer
        return makers

    def run(self, layers):
        """Runs these layers, in order."""
        for _, together in itertools.groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
            together = [i for _, i in together]
            self.net.run_forward(together[0], together[-1])

    def kept(self):
        """What `boundary` holds now: see look_back."""
        return {name: self.net.blobs[name].tensor.clone() for name in self.boundary}

    def look_back(self, kept):
        """Lets the net look at an image as it did when `kept` gave this."""
        for name, values in kept.items():
            fill(self.net.blobs[name], values)
