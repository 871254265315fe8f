"""Builds the recorded DetNet-59 with FPN by our importer and generator, and holds its answers against the recorded.

    python tests/replay_detnet.py FILE

FILE: a recording as tests/golden/detnet/README.md has it; weights are drawn by their names. Prints for each key how far ours is
off, of the largest recorded value, and the limit: maps c2 ... c6 and p2 ... p6, the RPN's scores and deltas, the ImageNet
classifier's scores (fc), gradients: digests; the head's fc7, cls_score and bbox_pred: in full. Exit status 0 if all hold.
"""

import argparse
import os
import re
import sys
import tempfile

from replays import GRADIENTS, MAPS, Check, body_shapes, feed, off, pair, places, report, share

# isort: split
import caffe
import import_weights
import numpy as np
from caffe.format.weights import write_weights
from fast_rcnn.config import cfg
from netgen.backbones import BACKBONES
from netgen.layers import layer
from record import seeded, weight

NET = BACKBONES[import_weights.DETNET]
PIXEL = 255 * import_weights.STD[::-1].reshape(3, 1, 1)  # of BGR, in normalised ones
SUM_OF_SQUARES = 'loss_weight: 1 reduction_param { operation: SUMSQ coeff: 0.001 }'


def drawn(shapes, blank=()):
    """A state_dict of these shapes; blank: names whose values nobody looks at."""
    names = {name: 'detnet.' + name.replace('extra_conv.1', 'downsample.1') for name in shapes}
    return {
        name: np.zeros(shape, np.float32) if name in blank else weight(names[name], shape)
        for name, shape in shapes.items()
    }


def backbone_state(classes):
    """detnet59.pth."""
    shapes = body_shapes(NET.body, extra=(4, 5)) | pair('fc', classes, NET.body.stages[-1].channels)
    return drawn(shapes)


def detector_state(classes, blank=()):
    """A detector's, its backbone named as in detnet59.pth."""
    shapes, (*finer, coarsest) = body_shapes(NET.body, extra=(4, 5)), NET.body.stages
    shapes |= pair('RCNN_toplayer', 256, coarsest.channels, 1, 1)
    for i, stage in enumerate(reversed(finer), 1):
        shapes |= pair(f'RCNN_latlayer{i}', 256, stage.channels, 1, 1)
    for name, *shape in (
        ('RCNN_smooth1', 256, 256, 3, 3),
        ('RCNN_smooth2', 256, 256, 3, 3),
        ('RCNN_rpn.RPN_Conv', 512, 256, 3, 3),
        ('RCNN_rpn.RPN_cls_score', 6, 512, 1, 1),
        ('RCNN_rpn.RPN_bbox_pred', 12, 512, 1, 1),
        ('RCNN_top.0', 1024, 256, NET.pooled, NET.pooled),
        ('RCNN_top.2', 1024, 1024, 1, 1),
        ('RCNN_cls_score', classes, 1024),
        ('RCNN_bbox_pred', 4 * classes, 1024),
    ):
        shapes |= pair(name, *shape)
    return drawn(shapes, blank)


def imported(folder, state):
    """(rows, the lines of the prototxt) of what the importer makes of a state_dict."""
    net, rows = import_weights.convert(state, import_weights.OWN_MEANS)
    prototxt = os.path.join(folder, 'imported.prototxt')
    import_weights.write_prototxt(prototxt, net, rows)
    with open(prototxt) as stream:
        return rows, stream.read().splitlines()


def build(folder, lines, rows, phase=caffe.TEST):
    """The net of these lines, with what rows have for it."""
    prototxt, weights = (os.path.join(folder, 'net' + suffix) for suffix in ('.prototxt', '.caffemodel'))
    with open(prototxt, 'w') as stream:
        stream.write('\n'.join(lines))
    names = set(re.findall(r'layer { name: "(\S+)"', '\n'.join(lines)))
    write_weights(weights, [row for row in rows if row[0] in names])
    return caffe.Net(prototxt, weights, phase)


def pixels(image):
    """What our net sees of a normalised image: BGR, less its means."""
    return image[:, ::-1] * PIXEL.astype(np.float32)


def whole(key, found, wanted):
    return Check(key, share(np.abs(found - wanted).max(), np.abs(wanted).max()), MAPS)


def head_checks(recorded, folder, rows, lines):
    """From what is pooled on."""
    count = len(recorded['fc7'])
    first = next(i for i, line in enumerate(lines) if 'name: "fc6"' in line)
    shape = f'shape {{ dim: {count} dim: 256 dim: {NET.pooled} dim: {NET.pooled} }}'
    source = layer('pooled', 'Input', '', 'roi_pool', f'input_param {{ {shape} }}')
    net = build(folder, [source, *lines[first:]], rows)
    pooled = seeded('detnet pooled').randn(count, 256, NET.pooled, NET.pooled)
    feed(net, roi_pool=np.abs(pooled).astype(np.float32))
    net.forward()
    yield whole('fc7', net.blobs['fc7'].data.reshape(recorded['fc7'].shape), recorded['fc7'])
    yield whole('cls_score', net.blobs['cls_score'].data, recorded['cls_score'])
    columns = recorded['bbox_pred'].shape[1] // 4
    means, stds = (
        np.tile(values, columns) for values in (cfg.TRAIN.BBOX_NORMALIZE_MEANS, cfg.TRAIN.BBOX_NORMALIZE_STDS)
    )
    yield whole('bbox_pred', (net.blobs['bbox_pred'].data - means) / stds, recorded['bbox_pred'])


def map_checks(recorded, net):
    levels = [m.blob for m in NET.maps]
    rows = [(f'c{i}', m.blob) for i, m in enumerate(NET.body.stages, 2)]
    rows += [(blob, blob) for blob in levels]
    rows += [
        (f'{key}_{i}', f'rpn_{kind}_{blob}')
        for i, blob in enumerate(levels)
        for key, kind in (('score', 'scores'), ('deltas', 'deltas'))
    ]
    for key, blob in rows:
        values = net.blobs[blob].data
        if key.startswith('score'):  # background and object of one anchor, then of the next
            values = (
                values.reshape(len(values), 2, -1, *values.shape[2:]).swapaxes(1, 2).reshape(values.shape)
            )
        yield Check(f'shape/{key}', float(values.shape != tuple(recorded[f'shape/{key}'])), 0)
        yield Check(key, off(values, recorded[key]), MAPS)


def gradient_checks(recorded, net, where):
    """Of the sum of squares of all maps."""
    net.backward()
    for key in recorded:
        name = key.removeprefix('grad/')
        if name == key:
            continue
        if name == 'conv1.weight':  # the importer has scaled it, and turned its channels round
            found = (net.params['conv1'][0].diff / PIXEL)[:, ::-1]
        else:
            blob, i = where[name]
            found = net.params[blob][i].diff
        yield Check(key, off(found, recorded[key]), GRADIENTS)


def pyramid_checks(recorded, folder, state, rows, lines):
    """The net as it is up to the proposals; then a loss for each map."""
    first = next(i for i, line in enumerate(lines) if 'name: "proposal"' in line)
    losses = [
        layer(f'loss_{m.blob}', 'Reduction', m.blob, f'loss_{m.blob}', SUM_OF_SQUARES) for m in NET.maps
    ]
    lines = [line for line in lines[:first] if '"im_info"' not in line] + losses
    net = build(folder, lines, rows, caffe.TRAIN)
    feed(net, data=pixels(recorded['image']))
    net.forward()
    return [*map_checks(recorded, net), *gradient_checks(recorded, net, places(state, rows))]


def classifier_checks(recorded, folder):
    rows, lines = imported(folder, backbone_state(1000))
    net = build(folder, lines, rows)
    feed(net, data=pixels(recorded['image']))
    net.forward()
    return [Check('fc', off(net.blobs['fc1000'].data, recorded['fc']), MAPS)]


def replay(recorded, head=True):
    """The Checks of a recording, {key: array}; those of the head, which has most of the weights, or not."""
    with tempfile.TemporaryDirectory() as folder:
        state = detector_state(recorded['cls_score'].shape[1], () if head else ('RCNN_top.0.weight',))
        rows, lines = imported(folder, state)
        checks = pyramid_checks(recorded, folder, state, rows, lines)
        checks += head_checks(recorded, folder, rows, lines) if head else []
        return checks + classifier_checks(recorded, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', metavar='FILE')
    args = parser.parse_args()
    with np.load(args.file) as file:
        recorded = {key: file[key] for key in file.files}
    sys.exit(report('detnet', replay(recorded)))


if __name__ == '__main__':
    main()
