"""The layers of Caffe's forks against plain loops written from their definitions, and against OpenCV.

Gradients by differences, saving and shapes: fork_cases.py, which test_layers.py puts through the harness.
"""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch

import caffe
from caffe.types import boxes as box_lib
from helpers import data, layer, net_from
from rpn.generate_anchors import generate_anchors

TRAIN, TEST = caffe.TRAIN, caffe.TEST


def rng(seed=0):
    return np.random.default_rng(seed)


def answer(folder, kind, values, more='', tops=1, phase=TRAIN):
    """The tops of one layer."""
    values = [np.asarray(v, np.float32) for v in values]
    text = ''.join(data(f'b{i}', *v.shape) for i, v in enumerate(values))
    names = [f't{i}' for i in range(tops)]
    net = net_from(
        folder,
        text + layer('L', kind, ' '.join(f'b{i}' for i in range(len(values))), ' '.join(names), more),
        phase,
    )
    for i, v in enumerate(values):
        net.blobs[f'b{i}'].data[...] = v
    net.forward()
    return [net.blobs[name].data.copy() for name in names]


def opencv(folder, text, inputs, tops, prepare=None):
    """(ours, OpenCV's) values of the blobs `tops` for a net as text; prepare(net) sets parameters."""
    net = net_from(folder, text)
    if prepare:
        prepare(net)
    weights = str(folder / 'w.caffemodel')
    net.save(weights)
    other = cv2.dnn.readNetFromCaffe(str(folder / 'net.prototxt'), weights)
    for name, value in inputs.items():
        net.blobs[name].data[...] = value
        other.setInput(np.ascontiguousarray(value, np.float32), name)
    net.forward()
    return [(net.blobs[name].data.copy(), other.forward(name)) for name in tops]


def close(got, want, tolerance=1e-5):
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def agree(pairs, tolerance=1e-5):
    for ours, theirs in pairs:
        close(ours, theirs, tolerance)


# Boxes


def iou(a, b, offset=0):
    area = lambda box: max(0, box[2] - box[0] + offset) * max(0, box[3] - box[1] + offset)
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1))
    shared = max(0, w) * max(0, h)
    return shared / (area(a) + area(b) - shared) if shared > 0 else 0.0


def nms_by_hand(boxes, threshold, offset=0, eta=1.0):
    kept = []
    for i, box in enumerate(boxes):
        if all(iou(box, boxes[k], offset) <= threshold for k in kept):
            kept.append(i)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept


def encode_by_hand(box, prior, variance, code):
    x1, y1, x2, y2 = prior
    w, h = x2 - x1, y2 - y1
    if code == 'CENTER_SIZE':
        raw = [
            ((box[0] + box[2]) / 2 - (x1 + x2) / 2) / w,
            ((box[1] + box[3]) / 2 - (y1 + y2) / 2) / h,
            math.log((box[2] - box[0]) / w),
            math.log((box[3] - box[1]) / h),
        ]
    else:
        unit = (w, h, w, h) if code == 'CORNER_SIZE' else (1, 1, 1, 1)
        raw = [(b - p) / u for b, p, u in zip(box, prior, unit)]
    return [r / v for r, v in zip(raw, variance)]


def decode_by_hand(code, prior, variance, kind):
    x1, y1, x2, y2 = prior
    w, h = x2 - x1, y2 - y1
    c = [a * v for a, v in zip(code, variance)]
    if kind == 'CENTER_SIZE':
        cx, cy = (x1 + x2) / 2 + c[0] * w, (y1 + y2) / 2 + c[1] * h
        w, h = w * math.exp(c[2]), h * math.exp(c[3])
        return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    unit = (w, h, w, h) if kind == 'CORNER_SIZE' else (1, 1, 1, 1)
    return [p + a * u for p, a, u in zip(prior, c, unit)]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('eta', [1.0, 0.8])
def test_nms(offset, eta, monkeypatch):
    monkeypatch.setattr(box_lib, 'BLOCK', 16)
    start = rng().uniform(0, 60, (80, 2))
    boxes = np.concatenate([start, start + rng(1).uniform(5, 40, (80, 2))], 1).astype(np.float32)
    boxes[7, 2:] = boxes[7, :2] - 3
    for threshold in (0.3, 0.7):
        want = nms_by_hand(boxes.astype(float), threshold, offset, eta)
        assert box_lib.nms(torch.from_numpy(boxes), threshold, offset, eta).tolist() == want
        assert box_lib.nms(torch.from_numpy(boxes), threshold, offset, eta, limit=5).tolist() == want[:5]
    assert box_lib.nms(torch.empty(0, 4), 0.5).tolist() == []


# Regions

REGIONS = np.array(
    [
        [0, 0, 0, 60, 40],
        [1, 16.4, 8, 90, 70.5],
        [1, 40, 40, 30, 30],
        [0, 300, 300, 400, 400],
        [0, 23, 7.9, 24, 40.1],
        [1, -30, -20, 95, 79],
        [0, 8, 8, 8, 8],
    ]
)


def at(plane, y, x):
    """Bilinear value; up to one cell outside counts as the rim."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    return (1 - fy) * ((1 - fx) * plane[y0, x0] + fx * plane[y0, x1]) + fy * (
        (1 - fx) * plane[y1, x0] + fx * plane[y1, x1]
    )


@pytest.mark.parametrize('samples', [2, 3, 0])
@pytest.mark.parametrize('aligned', [False, True])
def test_roi_align(samples, aligned, tmp_path):
    """aligned: half a cell further up and left; lengths below 1 are as they are, and a bin without one, where it chooses
    its points, has none."""
    x, scale, p, q = rng().standard_normal((2, 3, 5, 6)), 1 / 16, 3, 2
    shift, least = (0.5, -math.inf) if aligned else (0, 1)
    want = np.zeros((len(REGIONS), 3, p, q))
    for r, (n, x1, y1, x2, y2) in enumerate(REGIONS * [1, scale, scale, scale, scale]):
        h, w = max(y2 - y1, least) / p, max(x2 - x1, least) / q
        sy, sx = samples or math.ceil(h), samples or math.ceil(w)
        for c, i, j, a, b in itertools.product(range(3), range(p), range(q), range(sy), range(sx)):
            y, x_ = y1 - shift + i * h + (a + 0.5) * h / sy, x1 - shift + j * w + (b + 0.5) * w / sx
            want[r, c, i, j] += at(x[int(n), c], y, x_) / (sy * sx)
    more = f'pooled_h: 3 pooled_w: 2 spatial_scale: {scale} sampling_ratio: {samples} aligned: {str(aligned).lower()}'
    close(answer(tmp_path, 'ROIAlign', [x, REGIONS], f'roi_align_param {{ {more} }}')[0], want)


def test_roi_align_at_the_corners_of_bins(tmp_path):
    """A grid one finer and one cell longer than the region, whose points beyond the map are 0, and of every 2x2 the mean."""
    x, scale, (p, q) = rng().standard_normal((2, 3, 5, 6)), 1 / 16, (3, 2)

    def value(plane, y, x_):
        if not (0 <= y < 5 and 0 <= x_ < 6):
            return 0.0
        i, j = min(math.floor(y), 3), min(math.floor(x_), 4)
        above, below = (row[j] + (x_ - j) * (row[j + 1] - row[j]) for row in plane[i : i + 2])
        return above + (y - i) * (below - above)

    grid = np.zeros((len(REGIONS), 3, p + 1, q + 1))
    for r, (n, x1, y1, x2, y2) in enumerate(REGIONS * [1, scale, scale, scale, scale]):
        for c, i, j in np.ndindex(grid.shape[1:]):
            y, x_ = y1 + max(y2 - y1 + 1, 0) * i / p, x1 + max(x2 - x1 + 1, 0) * j / q
            grid[r, c, i, j] = value(x[int(n), c], y, x_)
    want = (grid[..., :-1, :-1] + grid[..., 1:, :-1] + grid[..., :-1, 1:] + grid[..., 1:, 1:]) / 4
    more = f'roi_align_param {{ pooled_h: 3 pooled_w: 2 spatial_scale: {scale} corners: true }}'
    close(answer(tmp_path, 'ROIAlign', [x, REGIONS], more)[0], want)
    last = [[0, 5 * 16, 4 * 16, 5 * 16, 4 * 16]]  # from the last cell to the edge of the map
    (top,) = answer(tmp_path, 'ROIAlign', [x, last], more.replace('3 pooled_w: 2', '1 pooled_w: 1'))
    close(top[0, :, 0, 0], x[0, :, 4, 5] / 4)


@pytest.mark.parametrize('max_pool', [False, True])
def test_roi_crop(max_pool, tmp_path):
    """Points from corner to corner; of the four cells around one those outside the map count as 0."""
    x, scale, (p, q) = rng().standard_normal((2, 3, 5, 6)), 0.07, (6, 4) if max_pool else (3, 2)

    def value(plane, y, x_):
        total = 0.0
        for i, j in itertools.product(
            (math.floor(y), math.floor(y) + 1), (math.floor(x_), math.floor(x_) + 1)
        ):
            if 0 <= i < 5 and 0 <= j < 6:
                total += plane[i, j] * (1 - abs(y - i)) * (1 - abs(x_ - j))
        return total

    want = np.zeros((len(REGIONS), 3, p, q))
    for r, (n, x1, y1, x2, y2) in enumerate(REGIONS * [1, scale, scale, scale, scale]):
        for c, i, j in np.ndindex(want.shape[1:]):
            y, x_ = y1 + (y2 - y1) * i / (p - 1), x1 + (x2 - x1) * j / (q - 1)
            want[r, c, i, j] = value(x[int(n), c], y, x_)
    if max_pool:
        want = want.reshape(-1, 3, 3, 2, 2, 2).max((3, 5))
    more = f'pooled_h: 3 pooled_w: 2 spatial_scale: {scale} max_pool: {str(max_pool).lower()}'
    (got,) = answer(tmp_path, 'ROICrop', [x, REGIONS], f'roi_crop_param {{ {more} }}')
    close(got, want)
    assert (got[3] == 0).all() and (got[0] != 0).all()


def test_roi_crop_of_regions_far_away_and_of_one_point(tmp_path):
    x, more = np.arange(12.0).reshape(1, 1, 3, 4), 'pooled_h: 1 pooled_w: 1'
    boxes = [[0, 1, 0, 2, 2], [0, -3e38, -3e38, 3e38, 3e38], [0, 9e9, 0, 9e9, 2]]
    (top,) = answer(tmp_path, 'ROICrop', [x, boxes], f'roi_crop_param {{ {more} }}')
    assert top.ravel().tolist() == [5.5, 0, 0]


def test_roi_align_of_regions_far_larger_than_the_map(tmp_path):
    """Interpolation and mean are along each axis by itself: the weights of the points of an axis, summed."""
    x = rng().standard_normal((2, 3, 5, 6))
    boxes = [[0, 0, 0, 4, 4], [1, -900, -300, 1000, 500], [0, -7.5, 1, 30.2, 3], [1, -4e8, -4e8, 4e8, 4e8]]
    more = 'roi_align_param { pooled_h: 3 pooled_w: 2 sampling_ratio: 0 spatial_scale: 1 }'
    (got,) = answer(tmp_path, 'ROIAlign', [x, boxes], more)

    def axis(start, end, bins, size):
        step = max(end - start, 1) / bins
        count = math.ceil(step)
        weight = np.zeros((bins, size))
        for b, k in itertools.product(range(bins), range(count)):
            place = start + b * step + (k + 0.5) * step / count
            if -1 <= place <= size:
                place = min(max(place, 0), size - 1)
                low = int(place)
                weight[b, low] += (1 - place + low) / count
                weight[b, min(low + 1, size - 1)] += (place - low) / count
        return weight

    for (n, x1, y1, x2, y2), mean in zip(boxes[:3], got):
        rows, columns = axis(y1, y2, 3, 5), axis(x1, x2, 2, 6)
        close(mean, np.einsum('chw,ph,qw->cpq', x[n], rows, columns))
    assert np.abs(got[3]).max() < 1e-6


def test_roi_align_takes_four_points_unless_told(tmp_path):
    """A bin of one cell between four: the mean at the quarters of it is the mean of the four cells."""
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    (top,) = answer(
        tmp_path, 'ROIAlign', [x, [[0, 1, 1, 2, 2]]], 'roi_align_param { pooled_h: 1 pooled_w: 1 }'
    )
    assert top.item() == (5 + 6 + 9 + 10) / 4


@pytest.mark.parametrize(
    'kind, more',
    [
        ('ROIAlign', 'roi_align_param { pooled_h: 2 pooled_w: 2 sampling_ratio: 0 }'),
        ('ROICrop', 'roi_crop_param { pooled_h: 2 pooled_w: 2 max_pool: true }'),
        ('PSROIPooling', 'psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 2 }'),
    ],
)
def test_no_regions(kind, more, tmp_path):
    (top,) = answer(tmp_path, kind, [np.zeros((1, 8, 4, 4)), np.zeros((0, 5))], more)
    assert top.shape == (0, 2 if kind == 'PSROIPooling' else 8, 2, 2)


def psroi_by_hand(x, rois, scale, dim, g):
    away = lambda v: math.floor(abs(v) + 0.5) * (1 if v >= 0 else -1)
    height, width = x.shape[2:]
    top = np.zeros((len(rois), dim, g, g))
    for r, (n, *corners) in enumerate(rois):
        x1, y1 = (away(v) * scale for v in corners[:2])
        x2, y2 = ((away(v) + 1) * scale for v in corners[2:])
        h, w = max(y2 - y1, 0.1) / g, max(x2 - x1, 0.1) / g
        for c, i, j in np.ndindex(dim, g, g):
            rows = range(max(0, math.floor(y1 + i * h)), min(height, math.ceil(y1 + (i + 1) * h)))
            columns = range(max(0, math.floor(x1 + j * w)), min(width, math.ceil(x1 + (j + 1) * w)))
            cells = [x[int(n), (c * g + i) * g + j, y, x_] for y in rows for x_ in columns]
            top[r, c, i, j] = sum(cells) / len(cells) if cells else 0
    return top


def test_psroi_pooling(tmp_path):
    x = rng().standard_normal((2, 18, 5, 6))
    more = 'psroi_pooling_param { spatial_scale: 0.0625 output_dim: 2 group_size: 3 }'
    close(answer(tmp_path, 'PSROIPooling', [x, REGIONS], more)[0], psroi_by_hand(x, REGIONS, 0.0625, 2, 3))


def test_psroi_pooling_opencv(tmp_path):
    x, rois = (
        rng().standard_normal((2, 18, 12, 14)),
        [
            [0, 0, 0, 100, 90],
            [1, 33, 17, 150, 160],
            [0, 5, 9, 40, 44],
        ],
    )
    text = (
        data('x', 2, 18, 12, 14)
        + data('rois', 3, 5)
        + layer(
            'p',
            'PSROIPooling',
            'x rois',
            more='psroi_pooling_param { spatial_scale: 0.0625 output_dim: 2 group_size: 3 }',
        )
    )
    agree(opencv(tmp_path, text, {'x': x, 'rois': np.array(rois)}, ['p']))


# Proposals

PROPOSAL = """proposal_param { feat_stride: 16 base_size: 16 ratio: 0.5 ratio: 1 ratio: 2 scale: 1 scale: 2
                               scale: 4 min_size: %d pre_nms_topn: %d post_nms_topn: %d nms_thresh: 0.6 }"""


def proposals_by_hand(scores, deltas, info, least, before, after):
    anchors = generate_anchors(16, [0.5, 1, 2], np.array([1, 2, 4]))
    count, (height, width) = len(anchors), scores.shape[2:]
    rows = []
    for n in range(len(scores)):
        boxes = []
        for y, x, a in np.ndindex(height, width, count):
            x1, y1, x2, y2 = anchors[a] + [16 * x, 16 * y, 16 * x, 16 * y]
            dx, dy, dw, dh = deltas[n, 4 * a : 4 * a + 4, y, x]
            w, h = x2 - x1 + 1, y2 - y1 + 1
            cx, cy, w, h = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h, w * math.exp(dw), h * math.exp(dh)
            box = [
                min(max(v, 0), limit - 1)
                for v, limit in zip((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (info[1], info[0]) * 2)
            ]
            large = box[2] - box[0] + 1 >= least * info[-1] and box[3] - box[1] + 1 >= least * info[2]
            boxes.append((scores[n, count + a, y, x] * large, box))
        boxes = sorted(boxes, key=lambda b: -b[0])[:before]
        rows += [(n, *boxes[k][1], boxes[k][0]) for k in nms_by_hand([b for _, b in boxes], 0.6, 1)[:after]]
    return np.array(rows)


@pytest.mark.parametrize('info', [(150.0, 180.0, 1.5), (150.0, 180.0, 1.5, 2.5)])
def test_proposal(info, tmp_path):
    scores, deltas = rng().random((2, 18, 10, 12)), rng(1).normal(0, 0.3, (2, 36, 10, 12))
    rois, kept = answer(tmp_path, 'Proposal', [scores, deltas, [info]], PROPOSAL % (12, 300, 40), tops=2)
    want = proposals_by_hand(scores, deltas, info, 12, 300, 40)
    close(rois, want[:, :5], 1e-4)
    close(kept, want[:, 5])


def test_proposal_opencv(tmp_path):
    text = (
        data('s', 1, 18, 10, 12)
        + data('d', 1, 36, 10, 12)
        + data('i', 1, 3)
        + layer('p', 'Proposal', 's d i', more=PROPOSAL % (1, 200, 20))
    )
    inputs = {
        's': rng().random((1, 18, 10, 12)),
        'd': rng(1).normal(0, 0.3, (1, 36, 10, 12)),
        'i': np.array([[160, 192, 1]]),
    }
    agree(opencv(tmp_path, text, inputs, ['p']), 1e-3)


def conv(name, bottom, outputs, more='kernel_size: 1', kind='Convolution', top=None):
    fill = 'weight_filler { type: "xavier" }'
    return layer(name, kind, bottom, top, more=f'convolution_param {{ num_output: {outputs} {more} {fill} }}')


@pytest.mark.parametrize(
    'kind, more',
    [
        ('ROIAlign', 'roi_align_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 }'),
        ('PSROIPooling', 'psroi_pooling_param { spatial_scale: 0.0625 output_dim: 1 group_size: 2 }'),
    ],
)
def test_regions_from_learned_layers(kind, more, tmp_path):
    """Proposal and the region layers pass none to what proposed, though end-to-end nets ask for it."""
    net = net_from(
        tmp_path,
        data('x', 1, 2, 6, 6)
        + data('i', 1, 3)
        + conv('s', 'x', 6)
        + conv('d', 'x', 12)
        + conv('map', 'x', 4)
        + layer(
            'p',
            'Proposal',
            's d i',
            more='proposal_param { ratio: 1 scale: 1 scale: 2 scale: 4 post_nms_topn: 5 }',
        )
        + layer('r', kind, 'map p', more=more)
        + layer('loss', 'Reduction', 'r', more='loss_weight: 1'),
        TRAIN,
    )
    net.blobs['x'].data[...] = rng().random((1, 2, 6, 6))
    net.blobs['i'].data[...] = [64, 64, 1]
    net.forward()
    net.backward()
    assert net.blobs['p'].shape[1] == 5
    assert (
        (net.params['s'][0].diff == 0).all()
        and (net.params['d'][0].diff == 0).all()
        and (net.params['map'][0].diff != 0).any()
    )


# Online hard example mining


def test_box_annotator_keeps_the_hardest_of_each_image(tmp_path):
    rois = np.zeros((6, 5))
    rois[:, 0] = [0, 1, 0, 1, 0, 0]
    loss, labels = np.array([3, 9, 5, 1, 5, 4.0]), np.array([1, 2, 0, 4, 5, 6.0])
    weights = np.arange(1, 13).reshape(6, 2)
    got = answer(
        tmp_path,
        'BoxAnnotatorOHEM',
        [rois, loss, labels, weights],
        'box_annotator_ohem_param { roi_per_img: 2 }',
        2,
    )
    np.testing.assert_array_equal(got[0], [-1, 2, 0, 4, 5, -1])
    np.testing.assert_array_equal(got[1], [[0, 0], [3, 4], [5, 6], [7, 8], [9, 10], [0, 0]])
    shaped = [v.reshape(6, -1, 1, 1) for v in (rois, loss, labels, weights)]
    again = answer(
        tmp_path,
        'BoxAnnotatorOHEM',
        shaped,
        'box_annotator_ohem_param { roi_per_img: 1 ignore_label: 255 }',
        2,
    )
    np.testing.assert_array_equal(again[0].reshape(-1), [255, 2, 0, 255, 255, 255])
    assert again[1].shape == (6, 2, 1, 1)


def log_softmax(scores, axis=1):
    scores = scores - scores.max(axis, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis, keepdims=True))


def test_softmax_loss_ohem(tmp_path):
    scores, labels = rng().standard_normal((5, 4, 1, 1)), np.array([0, 3, -1, 2, 1]).reshape(5, 1, 1, 1)
    more = 'loss_param { ignore_label: -1 normalization: PRE_FIXED pre_fixed_normalizer: 8 }'
    loss, probability, each = answer(tmp_path, 'SoftmaxWithLossOHEM', [scores, labels], more, 3)
    logs = log_softmax(scores)
    want = np.array([0 if k == -1 else -logs[i, k, 0, 0] for i, k in enumerate(labels.reshape(-1))]).reshape(
        labels.shape
    )
    close(loss, want.sum() / 8)
    close(probability, np.exp(logs))
    close(each, want)


@pytest.mark.parametrize(
    'normalization, divisor',
    [
        ('', 24),
        ('normalization: FULL', 24),
        ('normalization: BATCH_SIZE', 4),
        ('normalization: NONE', 1),
        ('normalization: PRE_FIXED pre_fixed_normalizer: 128', 128),
    ],
)
def test_smooth_l1_loss_ohem(normalization, divisor, tmp_path):
    x, target, weight = rng().standard_normal((3, 4, 8, 2, 3)) * 2
    loss, each = answer(
        tmp_path, 'SmoothL1LossOHEM', [x, target, weight], f'loss_param {{ {normalization} }}', 2
    )
    d = np.abs(weight * (x - target))
    terms = np.where(d < 1, d * d / 2, d - 0.5)
    close(loss, terms.sum() / divisor)
    close(each, terms.sum(1, keepdims=True), 1e-4)


@pytest.mark.parametrize('rows', [1, 3])
def test_concat_drops_ones_of_a_bottom_with_more_axes(rows, tmp_path):
    """The embedding of the best class, (R, 1, 2), joins features (R, 4)."""
    a, b = rng().standard_normal((rows, 4)), rng(1).standard_normal((rows, 1, 2))
    (joined,) = answer(tmp_path, 'Concat', [a, b], 'concat_param { axis: 1 }')
    close(joined, np.concatenate([a, b[:, 0]], 1))


@pytest.mark.parametrize('ignore', [True, False])
def test_softmax_loss_of_several_labels_each(ignore, tmp_path):
    """Each row's term is the mean over the labels that count; a row without any counts nowhere."""
    scores = rng().standard_normal((4, 5))
    labels = np.array([[0, 3, -1], [-1, -1, -1], [2, 2, 4], [1, -1, -1]]) if ignore else np.ones((4, 3), int)
    more = f'loss_param {{ {"ignore_label: -1" if ignore else ""} normalization: VALID }}'
    (loss,), rows = answer(tmp_path, 'SoftmaxWithLoss', [scores, labels], more), []
    for row, chosen in zip(log_softmax(scores), labels):
        counted = [-row[k] for k in chosen if k != -1]
        rows += [np.mean(counted)] if counted else []
    close(loss, np.mean(rows))
    with pytest.raises(ValueError, match='want 4 labels; got 12'):
        answer(tmp_path, 'SoftmaxWithLoss', [scores, labels.reshape(2, 6)], more)


@pytest.mark.parametrize('kind, count', [('SmoothL1Loss', 4), ('SmoothL1LossOHEM', 3), ('Eltwise', 3)])
def test_ones_at_the_end_of_a_shape_do_not_count(kind, count, tmp_path):
    """R-FCN pools predictions to (R, 4, 1, 1); targets are (R, 4) in one library and (R, 4, 1, 1) in another."""
    values = rng().standard_normal((count, 3, 4))
    plain = answer(tmp_path, kind, values)
    ones = answer(tmp_path, kind, [v[:, :, None, None] if i % 2 else v for i, v in enumerate(values)])
    close(ones[0], plain[0])
    shaped = answer(tmp_path, kind, [v if i % 2 else v[:, :, None, None] for i, v in enumerate(values)])
    close(shaped[0].ravel(), plain[0].ravel())
    with pytest.raises(ValueError, match='shape of the first'):
        answer(tmp_path, kind, [v.T if i % 2 else v for i, v in enumerate(values)])


@pytest.mark.parametrize('gamma, alpha', [(2, 0.25), (0, 1), (0.5, 0.75)])
def test_focal_loss(gamma, alpha, tmp_path):
    scores, labels = rng().standard_normal((5, 4)) * 2, np.array([0, 3, 9, 2, 1])
    more = f'focal_loss_param {{ gamma: {gamma} alpha: {alpha} }} loss_param {{ ignore_label: 9 }}'
    loss, probability = answer(tmp_path, 'FocalLoss', [scores, labels], more, 2)
    p = np.exp(log_softmax(scores))
    terms = [-alpha * (1 - p[i, k]) ** gamma * math.log(p[i, k]) for i, k in enumerate(labels) if k != 9]
    close(loss, sum(terms) / 4)
    close(probability, p)


def test_focal_loss_linear(tmp_path):
    """Two classes: the logit of the label's class is the difference of scores."""
    scores = np.array([[1.0, -2], [0.3, 0.1]])
    (loss,) = answer(
        tmp_path,
        'FocalLoss',
        [scores, [0, 1]],
        'focal_loss_param { type: LINEAR gamma: 3 beta: 0.5 alpha: 1 }',
    )
    close(loss, np.mean([math.log(1 + math.exp(-(3 * z + 0.5))) / 3 for z in (3, -0.2)]))


# SSD


def test_permute(tmp_path):
    x = rng().standard_normal((2, 3, 4, 5))
    for order in ([0, 2, 3, 1], [3, 1], [2], [], [3, 2, 1, 0]):
        full = order + [i for i in range(4) if i not in order]
        more = f'permute_param {{ {" ".join(f"order: {o}" for o in order)} }}'
        close(answer(tmp_path, 'Permute', [x], more)[0], x.transpose(full))
    text = data('x', 2, 3, 4, 5) + layer(
        'p', 'Permute', 'x', more='permute_param { order: 0 order: 2 order: 3 order: 1 }'
    )
    agree(opencv(tmp_path, text, {'x': x}, ['p']), 0)


@pytest.mark.parametrize('across', [True, False])
@pytest.mark.parametrize('shared', [True, False])
def test_normalize(across, shared, tmp_path):
    x, scale = rng().standard_normal((2, 3, 4, 5)), rng(1).random(3) + 0.5
    scale = scale[:1].repeat(3) if shared else scale
    more = f'across_spatial: {across} channel_shared: {shared} eps: 0.01 scale_filler {{ value: 20 }}'.lower()
    more = f'norm_param {{ {more} }}'
    net = net_from(tmp_path, data('x', *x.shape) + layer('L', 'Normalize', 'x', more=more), TRAIN)
    (blob,) = net.params['L']
    assert blob.shape == (() if shared else (3,)) and (blob.data == 20).all()
    blob.data[...] = scale[0] if shared else scale
    want = np.zeros_like(x)
    for n, c, y, x_ in np.ndindex(x.shape):
        around = x[n] if across else x[n, :, y, x_]
        want[n, c, y, x_] = x[n, c, y, x_] / math.sqrt((around**2).sum() + 0.01) * scale[c]
    close(net.forward(x=x)['L'], want)


def test_normalize_opencv(tmp_path):
    """As in SSD's conv4_3_norm."""

    def prepare(net):
        net.params['norm'][0].data[...] = rng(1).random(6) + 0.5

    text = data('x', 2, 6, 5, 7) + layer(
        'norm',
        'Normalize',
        'x',
        more="""norm_param {
        across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false }""",
    )
    agree(opencv(tmp_path, text, {'x': rng().standard_normal((2, 6, 5, 7))}, ['norm'], prepare))


PRIOR_BOXES = [
    (
        'min_size: 30 min_size: 60 max_size: 45 max_size: 100 aspect_ratio: 2 aspect_ratio: 3 clip: true '
        'variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2',
        2 * (1 + 1 + 4),
    ),
    (
        'min_size: 30.5 flip: false aspect_ratio: 2 aspect_ratio: 1 step: 16 offset: 0.3 variance: 0.2 '
        'clip: false',
        2,
    ),
    (
        'min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 0.5 step_h: 15 step_w: 20 variance: 0.1 '
        'clip: false',
        4,
    ),
]


def prior_boxes_by_hand(text, feature, image):
    words = text.replace(':', '').split()
    given = {
        name: [
            float(v) if v[0].isdigit() else v == 'true' for n, v in zip(words[::2], words[1::2]) if n == name
        ]
        for name in words[::2]
    }
    one = lambda name, default: given.get(name, [default])[0]
    ratios = [1.0]
    for r in given.get('aspect_ratio', []):
        for v in (r, 1 / r) if one('flip', True) else (r,):
            if all(abs(v - other) > 1e-6 for other in ratios):
                ratios.append(v)
    step_y = one('step_h', one('step', image[0] / feature[0]))
    step_x = one('step_w', one('step', image[1] / feature[1]))
    boxes = []
    for y, x in np.ndindex(*feature):
        cx, cy = (x + one('offset', 0.5)) * step_x, (y + one('offset', 0.5)) * step_y
        for i, s in enumerate(given['min_size']):
            shapes = [(s, s)] + [(math.sqrt(s * m),) * 2 for m in given.get('max_size', [])[i : i + 1]]
            shapes += [(s * math.sqrt(r), s / math.sqrt(r)) for r in ratios[1:]]
            boxes += [
                (
                    (cx - w / 2) / image[1],
                    (cy - h / 2) / image[0],
                    (cx + w / 2) / image[1],
                    (cy + h / 2) / image[0],
                )
                for w, h in shapes
            ]
    boxes = np.array(boxes)
    variance = given.get('variance', [0.1])
    variance = variance * 4 if len(variance) == 1 else variance
    boxes = boxes.clip(0, 1) if one('clip', False) else boxes
    return np.stack([boxes, np.tile(variance, (len(boxes), 1))]).reshape(1, 2, -1)


@pytest.mark.parametrize('text, count', PRIOR_BOXES)
def test_prior_box(text, count, tmp_path):
    net = (
        data('x', 1, 6, 5, 7)
        + data('d', 1, 3, 100, 130)
        + layer('p', 'PriorBox', 'x d', more=f'prior_box_param {{ {text} }}')
    )
    ((ours, theirs),) = opencv(
        tmp_path, net, {'x': np.zeros((1, 6, 5, 7)), 'd': np.zeros((1, 3, 100, 130))}, ['p']
    )
    want = prior_boxes_by_hand(text, (5, 7), (100, 130))
    assert ours.shape == (1, 2, 5 * 7 * count * 4)
    close(ours, want)
    close(ours, theirs)


def test_prior_box_takes_the_image_size_it_is_told(tmp_path):
    bottoms = [np.zeros((1, 1, 2, 2)), np.zeros((1, 3, 50, 50))]
    (square,) = answer(tmp_path, 'PriorBox', bottoms, 'prior_box_param { min_size: 30 img_size: 60 }')
    close(square[0, 0, :4], [0, 0, 0.5, 0.5])
    close(square[0, 1], [0.1] * 16)
    (oblong,) = answer(tmp_path, 'PriorBox', bottoms, 'prior_box_param { min_size: 30 img_h: 60 img_w: 120 }')
    close(oblong[0, 0, :4], [0.125, 0, 0.375, 0.5])


def some_priors(count=24):
    """Priors, some of which reach beyond the image, and variances: (1, 2, 4 count)."""
    centre, half = rng(5).uniform(0.1, 0.9, (count, 2)), rng(6).uniform(0.08, 0.3, (count, 2))
    boxes = np.concatenate([centre - half, centre + half], 1)
    return np.stack([boxes, rng(7).uniform(0.1, 0.4, (count, 4))]).reshape(1, 2, -1)


def detections_by_hand(
    loc,
    conf,
    prior,
    classes,
    shared=True,
    code='CORNER',
    in_target=False,
    background=0,
    least=-math.inf,
    threshold=0.3,
    eta=1.0,
    top_k=-1,
    keep=-1,
):
    boxes, variances = prior.reshape(2, -1, 4)
    count, rows = len(boxes), []
    variances = np.ones_like(variances) if in_target else variances
    for n in range(len(loc)):
        codes, scores, found = loc[n].reshape(count, -1, 4), conf[n].reshape(count, classes), []
        for k in range(classes):
            if k == background:
                continue
            order = sorted((p for p in range(count) if scores[p, k] > least), key=lambda p: -scores[p, k])
            order = order[:top_k] if top_k >= 0 else order
            out = [decode_by_hand(codes[p, 0 if shared else k], boxes[p], variances[p], code) for p in order]
            found += [(n, k, scores[order[i], k], *out[i]) for i in nms_by_hand(out, threshold, eta=eta)]
        if 0 <= keep < len(found):
            found = sorted(sorted(found, key=lambda r: -r[2])[:keep], key=lambda r: r[1])
        rows += found
    return np.array(rows).reshape(1, 1, -1, 7)


@pytest.mark.parametrize(
    'more, options',
    [
        (
            'nms_param { nms_threshold: 0.4 top_k: 10 } code_type: CENTER_SIZE keep_top_k: 9 '
            'confidence_threshold: 0.3',
            dict(code='CENTER_SIZE', threshold=0.4, top_k=10, keep=9, least=0.3),
        ),
        (
            'nms_param { nms_threshold: 0.7 eta: 0.9 } variance_encoded_in_target: true',
            dict(threshold=0.7, eta=0.9, in_target=True),
        ),
        (
            'share_location: false code_type: CORNER_SIZE background_label_id: 2 nms_param { top_k: 6 } '
            'keep_top_k: 7',
            dict(shared=False, code='CORNER_SIZE', background=2, top_k=6, keep=7),
        ),
        (
            'background_label_id: -1 keep_top_k: 100 confidence_threshold: 0.9',
            dict(background=-1, keep=100, least=0.9),
        ),
    ],
)
def test_detection_output(more, options, tmp_path):
    prior, per = some_priors(), 1 if options.get('shared', True) else 4
    loc, conf = rng(1).normal(0, 0.4, (2, 24 * per * 4)), rng(2).random((2, 24 * 4))
    (top,) = answer(
        tmp_path,
        'DetectionOutput',
        [loc, conf, prior],
        f'detection_output_param {{ num_classes: 4 {more} }}',
        phase=TEST,
    )
    close(top, detections_by_hand(loc, conf, prior, 4, **options), 1e-5)


def test_nothing_detected(tmp_path):
    (top,) = answer(
        tmp_path,
        'DetectionOutput',
        [np.zeros((2, 96)), np.zeros((2, 96)), some_priors()],
        'detection_output_param { num_classes: 4 confidence_threshold: 0.5 }',
        phase=TEST,
    )
    np.testing.assert_array_equal(top, [[[[0] + [-1] * 6, [1] + [-1] * 6]]])


# MultiBoxLoss


def match_by_hand(boxes, objects, threshold, ignore_outside):
    """(object of each box, -1 none, -2 ignored; overlap)."""
    match, most, table = [-1] * len(boxes), [0.0] * len(boxes), {}
    for p, box in enumerate(boxes):
        if ignore_outside and not all(0 <= v <= 1 for v in box):
            match[p] = -2
            continue
        for o, thing in enumerate(objects):
            overlap = iou(box, thing)
            if overlap > 1e-6:
                table[p, o] = overlap
                most[p] = max(most[p], overlap)
    left = set(range(len(objects)))
    while left:
        free = {k: v for k, v in table.items() if match[k[0]] == -1 and k[1] in left}
        if not free:
            break
        p, o = max(free, key=free.get)
        match[p], most[p] = o, free[p, o]
        left.remove(o)
    if threshold is not None:
        for p in range(len(boxes)):
            good = {o: table[p, o] for o in range(len(objects)) if table.get((p, o), -1) >= threshold}
            if match[p] == -1 and good:
                match[p] = max(good, key=good.get)
    return match, most


def class_loss(scores, label, kind):
    if kind == 'SOFTMAX':
        return -log_softmax(scores[None])[0, label]
    return sum(math.log(1 + math.exp(-s if k == label else s)) for k, s in enumerate(scores))


def location_loss(code, target, kind):
    terms = [abs(a - b) for a, b in zip(code, target)]
    return sum(d * d / 2 if kind == 'L2' or d < 1 else d - 0.5 for d in terms)


DEFAULTS = dict(
    loc_loss_type='SMOOTH_L1',
    conf_loss_type='SOFTMAX',
    loc_weight=1.0,
    num_classes=4,
    share_location=True,
    match_type='PER_PREDICTION',
    overlap_threshold=0.5,
    use_prior_for_matching=True,
    background_label_id=0,
    use_difficult_gt=True,
    neg_pos_ratio=3.0,
    neg_overlap=0.5,
    code_type='CORNER',
    encode_variance_in_target=False,
    map_object_to_agnostic=False,
    ignore_cross_boundary_bbox=False,
    bp_inside=False,
    mining_type='MAX_NEGATIVE',
    nms_threshold=None,
    nms_top_k=-1,
    sample_size=64,
    use_prior_for_nms=False,
    normalization='VALID',
    counted=(True, True),
)


class ImageByHand:
    """What MultiBoxLoss does with an image: its codes (P, L, 4) and scores (P, C), the priors, the options o."""

    def __init__(self, o, codes, scores, boxes, variances):
        self.o, self.codes, self.scores, self.boxes, self.variances = o, codes, scores, boxes, variances

    def decoded(self, p, l):
        variance = np.ones(4) if self.o.encode_variance_in_target else self.variances[p]
        return decode_by_hand(self.codes[p, l], self.boxes[p], variance, self.o.code_type)

    def location(self, p, l, thing):
        o, code = self.o, self.codes[p, l]
        target = encode_by_hand(thing[3:7], self.boxes[p], self.variances[p], o.code_type)
        code = code / self.variances[p] if o.encode_variance_in_target else code
        if o.bp_inside:
            seen = self.boxes[p] if o.use_prior_for_matching else self.decoded(p, l)
            code = [c if 0 <= s <= 1 else t for c, t, s in zip(code, target, seen)]
        return location_loss(code, target, o.loc_loss_type)

    def match(self, things):
        """The pairs (prior, class, object), and of each prior its match and largest overlap."""
        o, count = self.o, len(self.boxes)
        threshold = o.overlap_threshold if o.match_type == 'PER_PREDICTION' else None
        pairs, state = [], [(-1, 0.0)] * count
        for l in range(self.codes.shape[1]):
            mine = things if o.share_location else [t for t in things if t[1] == l]
            pool = things if o.use_prior_for_matching else mine
            seen = [self.boxes[p] if o.use_prior_for_matching else self.decoded(p, l) for p in range(count)]
            match, most = match_by_hand(seen, [t[3:7] for t in pool], threshold, o.ignore_cross_boundary_bbox)
            pairs += [
                (p, l, pool[m])
                for p, m in enumerate(match)
                if m >= 0 and (o.share_location or pool[m][1] == l)
            ]
            state = list(zip(match, most))
        return pairs, state

    def mine(self, pairs, state, label):
        """The pairs that stay, and the priors whose classes count."""
        o = self.o
        loss = [class_loss(self.scores[p], label[p], o.conf_loss_type) for p in range(len(self.boxes))]
        if o.mining_type == 'HARD_EXAMPLE':
            for p, l, thing in pairs:
                loss[p] += self.location(p, l, thing)
            able, limit = list(range(len(self.boxes))), o.sample_size
        else:
            able = [p for p, (m, overlap) in enumerate(state) if m == -1 and overlap < o.neg_overlap]
            limit = int(len(pairs) * o.neg_pos_ratio)
        able.sort(key=lambda p: -loss[p])
        if o.nms_threshold is not None:
            able = able[: o.nms_top_k] if o.nms_top_k >= 0 else able
            seen = [self.boxes[p] if o.use_prior_for_nms else self.decoded(p, 0) for p in able]
            able = [able[i] for i in nms_by_hand(seen, o.nms_threshold)]
        able = able[:limit]
        if o.mining_type == 'HARD_EXAMPLE':
            pairs = [pair for pair in pairs if pair[0] in able]
        return pairs, [pair[0] for pair in pairs] + [p for p in able if state[p][0] == -1]


def multibox_by_hand(loc, conf, prior, truth, **options):
    """The loss, step by step as the class describes it."""
    o = type('Options', (), {**DEFAULTS, **options})
    boxes, variances = prior.reshape(2, -1, 4)
    count, per = len(boxes), 1 if o.share_location else o.num_classes
    codes, scores = loc.reshape(len(loc), count, per, 4), conf.reshape(len(conf), count, o.num_classes)
    total_location = total_class = matches = 0
    for n in range(len(loc)):
        things = [t for t in truth.reshape(-1, 8) if t[0] == n and (o.use_difficult_gt or not t[7])]
        image = ImageByHand(o, codes[n], scores[n], boxes, variances)
        pairs, state = image.match(things)
        label = [o.background_label_id] * count
        for p, _, thing in pairs:
            label[p] = o.background_label_id + 1 if o.map_object_to_agnostic else int(thing[1])
        used = list(range(count)) if o.mining_type == 'NONE' else []
        if things and o.mining_type != 'NONE':
            pairs, used = image.mine(pairs, state, label)
        matches += len(pairs)
        total_location += sum(image.location(*pair) for pair in pairs)
        total_class += sum(class_loss(scores[n, p], label[p], o.conf_loss_type) for p in used)
    divisor = {'VALID': matches, 'FULL': len(loc) * count, 'BATCH_SIZE': len(loc), 'NONE': 1}[o.normalization]
    return (o.counted[0] * o.loc_weight * total_location + o.counted[1] * total_class) / max(1, divisor)


OBJECTS = np.array(
    [
        [0, 1, 0, 0.05, 0.1, 0.45, 0.4, 0],
        [0, 3, 0, 0.5, 0.45, 0.9, 1.0, 0],
        [0, 2, 0, 0.3, 0.35, 0.8, 0.7, 1],
        [1, 2, 0, 0.1, 0.5, 0.6, 0.8, 1],
        [1, 1, 0, 0.52, 0.1, 0.97, 0.55, 0],
        [-1, 0, 0, 0, 0, 0, 0, 0],
    ]
).reshape(1, 1, 6, 8)

MULTIBOX = [
    dict(),
    dict(code_type='CENTER_SIZE', overlap_threshold=0.3),
    dict(code_type='CORNER_SIZE', normalization='FULL'),
    dict(loc_loss_type='L2', conf_loss_type='LOGISTIC', loc_weight=2.5, normalization='BATCH_SIZE'),
    dict(match_type='BIPARTITE', normalization='NONE'),
    dict(use_difficult_gt=False, neg_pos_ratio=1.5, neg_overlap=0.2),
    dict(mining_type='NONE', overlap_threshold=0.4),
    dict(mining_type='NONE', conf_loss_type='LOGISTIC'),
    dict(mining_type='NONE', share_location=False, overlap_threshold=0.3),
    dict(
        mining_type='NONE',
        share_location=False,
        use_prior_for_matching=False,
        overlap_threshold=0.2,
        code_type='CENTER_SIZE',
    ),
    dict(use_prior_for_matching=False, overlap_threshold=0.3),
    dict(background_label_id=3, use_difficult_gt=False, objects=OBJECTS[:, :, 2:]),
    dict(mining_type='HARD_EXAMPLE', sample_size=8, overlap_threshold=0.2),
    dict(mining_type='HARD_EXAMPLE', loc_loss_type='L2', code_type='CENTER_SIZE'),
    dict(encode_variance_in_target=True, code_type='CENTER_SIZE'),
    dict(bp_inside=True, overlap_threshold=0.2),
    dict(bp_inside=True, use_prior_for_matching=False, overlap_threshold=0.2),
    dict(ignore_cross_boundary_bbox=True, overlap_threshold=0.2),
    dict(nms_threshold=0.3, neg_pos_ratio=6.0),
    dict(nms_threshold=0.2, nms_top_k=9, use_prior_for_nms=True, neg_pos_ratio=6.0),
    dict(mining_type='HARD_EXAMPLE', sample_size=9, nms_threshold=0.3, overlap_threshold=0.2),
    dict(map_object_to_agnostic=True, num_classes=2),
    dict(counted=(False, True)),
    dict(counted=(True, False)),
    dict(objects=OBJECTS[:, :, 5:]),
    dict(objects=OBJECTS[:, :, 5:], mining_type='NONE'),
    dict(objects=OBJECTS[:, :, :3], overlap_threshold=0.3),
]


def multibox_text(options):
    """The layer's parameters as a prototxt has them."""
    fields, nms, rest = [], [], ''
    for name, value in options.items():
        if name == 'normalization':
            rest += f' loss_param {{ normalization: {value} }}'
        elif name == 'counted':
            rest += ''.join(f' propagate_down: {str(v).lower()}' for v in (*value, False, False))
        elif name.startswith('nms_'):
            nms.append(f'{name if name == "nms_threshold" else "top_k"}: {value}')
        else:
            fields.append(f'{name}: {str(value).lower() if isinstance(value, bool) else value}')
    nms = f'nms_param {{ {" ".join(nms)} }}' if nms else ''
    return f'multibox_loss_param {{ {" ".join(fields)} {nms} }}{rest}'


@pytest.mark.parametrize(
    'options',
    MULTIBOX,
    ids=lambda o: ' '.join(f'{k}={v}' for k, v in o.items() if k != 'objects') or 'defaults',
)
@pytest.mark.parametrize('seed', [0, 1])
def test_multibox_loss(options, seed, tmp_path):
    options = {'num_classes': 4, **options}
    objects = options.pop('objects', OBJECTS)
    classes, per = options['num_classes'], 1 if options.get('share_location', True) else 4
    loc, conf = rng(seed).normal(0, 0.6, (2, 24 * per * 4)), rng(seed + 10).normal(0, 2, (2, 24 * classes))
    (loss,) = answer(tmp_path, 'MultiBoxLoss', [loc, conf, some_priors(), objects], multibox_text(options))
    close(loss, multibox_by_hand(loc, conf, some_priors(), objects, **options), 1e-4)


# Segmentation


@pytest.mark.parametrize(
    'more, size',
    [
        ('height: 9 width: 4', (9, 4)),
        ('zoom_factor: 2', (9, 13)),
        ('shrink_factor: 2', (3, 4)),
        ('shrink_factor: 3 zoom_factor: 4', (5, 9)),
        ('height: 7 width: 7 pad_beg: -1 pad_end: -2', (7, 7)),
        ('zoom_factor: 3 pad_end: -1', (10, 16)),
        ('height: 1 width: 1', (1, 1)),
        ('height: 5 width: 7', (5, 7)),
    ],
)
def test_interp(more, size, tmp_path):
    x = rng().standard_normal((2, 3, 5, 7))
    cut = x[:, :, 1:-2, 1:-2] if 'pad_beg' in more else x[:, :, :-1, :-1] if 'pad' in more else x
    want = np.zeros((2, 3, *size))
    for n, c, i, j in np.ndindex(want.shape):
        y, x_ = (k * (a - 1) / (b - 1) if b > 1 else 0.0 for k, a, b in zip((i, j), cut.shape[2:], size))
        want[n, c, i, j] = at(cut[n, c], y, x_)
    close(answer(tmp_path, 'Interp', [x], f'interp_param {{ {more} }}')[0], want)
    if 'pad' not in more and 'shrink' not in more:
        agree(
            opencv(
                tmp_path,
                data('x', *x.shape) + layer('p', 'Interp', 'x', more=f'interp_param {{ {more} }}'),
                {'x': x},
                ['p'],
            )
        )


def test_interp_to_the_size_of_the_second_bottom(tmp_path):
    x, like = rng().standard_normal((2, 3, 5, 7)), np.zeros((1, 2, 9, 4))
    (want,) = answer(tmp_path, 'Interp', [x], 'interp_param { height: 9 width: 4 }')
    (got,) = answer(tmp_path, 'Interp', [x, like], 'interp_param { use_blob_size: true }')
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('size', [(9, 4), (10, 14), (3, 2), (5, 7), (1, 1)])
def test_interp_by_centres_of_cells(size, tmp_path):
    """Cells fill the same square in both maps; a centre beyond the outermost ones counts as on them."""
    x = rng().standard_normal((2, 3, 5, 7))
    want = np.zeros((2, 3, *size))
    for n, c, i, j in np.ndindex(want.shape):
        y, x_ = (min(max((k + 0.5) * a / b - 0.5, 0), a - 1) for k, a, b in zip((i, j), (5, 7), size))
        want[n, c, i, j] = at(x[n, c], y, x_)
    more = f'height: {size[0]} width: {size[1]} align_corners: false'
    close(answer(tmp_path, 'Interp', [x], f'interp_param {{ {more} }}')[0], want)


@pytest.mark.parametrize('size', [(9, 4), (10, 14), (3, 2), (5, 7)])
def test_interp_by_the_nearest_cell(size, tmp_path):
    x = rng().standard_normal((2, 3, 5, 7))
    want = np.zeros((2, 3, *size))
    for i, j in np.ndindex(size):
        want[:, :, i, j] = x[:, :, i * 5 // size[0], j * 7 // size[1]]
    more = f'height: {size[0]} width: {size[1]} mode: NEAREST'
    close(answer(tmp_path, 'Interp', [x], f'interp_param {{ {more} }}')[0], want)


def places_by_hand(x, mask, size):
    top = np.zeros((*x.shape[:2], *size))
    for n, c, y, x_ in np.ndindex(x.shape):
        where = int(mask[n, c, y, x_])
        top[n, c, where // size[1], where % size[1]] = x[n, c, y, x_]
    return top


@pytest.mark.parametrize(
    'more, size',
    [
        ('scale: 2', (6, 8)),
        ('scale: 2 pad_out_h: true pad_out_w: true', (5, 7)),
        ('scale_h: 3 scale_w: 2', (9, 8)),
        ('scale: 2 upsample_h: 7 upsample_w: 9', (7, 9)),
    ],
)
def test_upsample_with_a_mask(more, size, tmp_path):
    x = rng().standard_normal((2, 3, 3, 4))
    mask = (
        rng(1).permuted(np.tile(np.arange(size[0] * size[1]), (2, 3, 1)), axis=2)[:, :, :12].reshape(x.shape)
    )
    close(
        answer(tmp_path, 'Upsample', [x, mask], f'upsample_param {{ {more} }}')[0],
        places_by_hand(x, mask, size),
    )


def test_softmax_loss_smooths_labels(tmp_path):
    """A label's place has 1 - e + e / K of the weight, each other e / K."""
    scores, labels, e = rng().standard_normal((5, 4)), np.array([0, 3, 1, 2, 2]), 0.2
    logs, total = log_softmax(scores), 0.0
    for n, k in np.ndindex(5, 4):
        if labels[n] != 1:
            total -= (e / 4 + (1 - e) * (k == labels[n])) * logs[n, k]
    more = f'loss_param {{ label_smoothing: {e} ignore_label: 1 }}'
    close(answer(tmp_path, 'SoftmaxWithLoss', [scores, labels], more)[0], total / 4)


def test_softmax_loss_weighs_classes(tmp_path):
    scores, labels, weights = rng().standard_normal((2, 3, 4)), rng(1).integers(0, 3, (2, 4)), (0.5, 2.0, 1.5)
    more = f'weight_by_label_freqs: true ignore_label: 2 {" ".join(f"class_weighting: {w}" for w in weights)}'
    logs = log_softmax(scores)
    terms = [
        -weights[labels[n, i]] * logs[n, labels[n, i], i] for n, i in np.ndindex(2, 4) if labels[n, i] != 2
    ]
    close(
        answer(tmp_path, 'SoftmaxWithLoss', [scores, labels], f'loss_param {{ {more} }}')[0],
        sum(terms) / len(terms),
    )
    with pytest.raises(ValueError, match='3 classes want as many class_weighting; got 2'):
        more = 'loss_param { weight_by_label_freqs: true class_weighting: 1 class_weighting: 2 }'
        answer(tmp_path, 'SoftmaxWithLoss', [scores, labels], more)


def test_upsample_undoes_pooling(tmp_path):
    """SegNet's pair: the maxima return to their places, 5 x 7 from 3 x 4."""
    x = rng().random((1, 2, 5, 7)) + 1
    net = net_from(
        tmp_path,
        data('x', 1, 2, 5, 7)
        + layer('pool', 'Pooling', 'x', 'pool mask', 'pooling_param { kernel_size: 2 stride: 2 }')
        + layer(
            'up', 'Upsample', 'pool mask', more='upsample_param { scale: 2 pad_out_h: true pad_out_w: true }'
        ),
    )
    up = net.forward(x=x)['up']
    want = np.zeros_like(x)
    for n, c, i, j in np.ndindex(1, 2, 3, 4):
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        a, b = np.unravel_index(window.argmax(), window.shape)
        want[n, c, 2 * i + a, 2 * j + b] = window.max()
    close(up, want)


def test_upsample_repeats_without_a_mask(tmp_path):
    x = rng().standard_normal((2, 3, 2, 4))
    close(answer(tmp_path, 'Upsample', [x], 'upsample_param { scale: 3 }')[0], x.repeat(3, 2).repeat(3, 3))
    close(answer(tmp_path, 'Upsample', [x], 'upsample_param { scale_h: 2 scale_w: 1 }')[0], x.repeat(2, 2))


@pytest.mark.parametrize('kind', ['AVE', 'TILE'])
@pytest.mark.parametrize(
    'more, kernel, stride, pad, size',
    [
        ('kernel_size: 2 stride: 2', (2, 2), (2, 2), (0, 0), (4, 6)),
        ('kernel_size: 3 stride: 2 pad: 1', (3, 3), (2, 2), (1, 1), (3, 5)),
        (
            'kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 0 unpool_size: 6',
            (3, 2),
            (1, 3),
            (1, 0),
            (6, 6),
        ),
    ],
)
def test_unpooling_over_windows(kind, more, kernel, stride, pad, size, tmp_path):
    x = rng().standard_normal((2, 3, 2, 3))
    want = np.zeros((2, 3, *size))
    for n, c, i, j, a, b in np.ndindex(*x.shape, *kernel):
        y, x_ = i * stride[0] - pad[0] + a, j * stride[1] - pad[1] + b
        if 0 <= y < size[0] and 0 <= x_ < size[1]:
            want[n, c, y, x_] += x[n, c, i, j] / (kernel[0] * kernel[1] if kind == 'AVE' else 1)
    close(answer(tmp_path, 'Unpooling', [x], f'unpooling_param {{ unpool: {kind} {more} }}')[0], want)


def test_unpooling_with_a_mask(tmp_path):
    x, mask = rng().standard_normal((1, 2, 2, 3)), rng(1).permutation(24)[:12].reshape(1, 2, 2, 3)
    close(
        answer(tmp_path, 'Unpooling', [x, mask], 'unpooling_param { kernel_size: 2 stride: 2 }')[0],
        places_by_hand(x, mask, (4, 6)),
    )


def test_mask_beyond_the_top(tmp_path):
    with pytest.raises(ValueError, match=r"'L' \(Upsample\).*a position in the mask, 24 is not in 0..23"):
        answer(tmp_path, 'Upsample', [np.zeros((1, 1, 2, 3)), np.array([[[[3, 4, 5], [6, 7, 24]]]])])


def bn_net(folder, more, phase, shape=(4, 3, 2, 5)):
    return net_from(folder, data('x', *shape) + layer('L', 'BN', 'x', more=more), phase)


def normalised(x, mean, var, eps):
    return (x - mean[:, None, None]) / np.sqrt(var + eps)[:, None, None]


def test_bn_of_pspnet(tmp_path):
    x = rng().standard_normal((4, 3, 2, 5)) * 2 + 1
    more = 'bn_param { slope_filler { value: 2 } bias_filler { value: 0.5 } momentum: 0.9 eps: 0.01 }'
    net = bn_net(tmp_path, more, TRAIN)
    assert [b.shape for b in net.params['L']] == [(1, 3, 1, 1)] * 4 and net.params_lr == [1, 1, 0, 0]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    close(net.forward(x=x)['L'], 2 * normalised(x, mean, var, 0.01) + 0.5, 1e-4)
    net.forward(x=x)
    running = net.params['L'][2].data.reshape(-1), net.params['L'][3].data.reshape(-1)
    close(running[0], mean * (1 - 0.9**2))
    close(running[1], var * (1 - 0.9**2) + 0.9**2, 1e-5)
    for test in (
        bn_net(tmp_path, more, TEST),
        bn_net(tmp_path, more.replace('eps', 'frozen: true eps'), TRAIN),
    ):
        test.share_with(net)
        before = running[0].copy()
        close(test.forward(x=x)['L'], 2 * normalised(x, *running, 0.01) + 0.5, 1e-4)
        np.testing.assert_array_equal(test.params['L'][2].data.reshape(-1), before)
    assert test.params_lr == [0] * 4
    with pytest.raises(ValueError, match='param 3 must have lr_mult 0'):
        bn_net(tmp_path, 'param {} param {} param {} param { lr_mult: 1 }', TRAIN)


@pytest.mark.parametrize('phase', [TRAIN, TEST])
def test_bn_of_segnet(phase, tmp_path):
    x = rng().standard_normal((4, 3, 2, 5)) * 2 + 1
    fillers = 'scale_filler { type: "constant" value: 1.5 } shift_filler { type: "constant" value: 0.001 }'
    learn = bn_net(tmp_path, f'bn_param {{ {fillers} }}', phase)
    assert [b.shape for b in learn.params['L']] == [(1, 3, 1, 1)] * 2
    close(
        learn.forward(x=x)['L'], 1.5 * normalised(x, x.mean((0, 2, 3)), x.var((0, 2, 3)), 1e-9) + 0.001, 1e-4
    )
    close(
        bn_net(tmp_path, f'bn_param {{ bn_mode: INFERENCE {fillers} }}', phase).forward(x=x)['L'],
        1.5 * x + 0.001,
    )


# Compact nets


def test_axpy(tmp_path):
    scale, x, y = (
        rng().standard_normal((2, 3)),
        rng(1).standard_normal((2, 3, 4, 5)),
        rng(2).standard_normal((2, 3, 4, 5)),
    )
    for shape in ((2, 3), (2, 3, 1, 1)):
        close(answer(tmp_path, 'Axpy', [scale.reshape(shape), x, y])[0], scale[:, :, None, None] * x + y)


@pytest.mark.parametrize('group', [1, 2, 3, 6])
def test_shuffle_channel(group, tmp_path):
    x = rng().standard_normal((2, 6, 2, 3))
    want = [x[:, g * (6 // group) + k] for k in range(6 // group) for g in range(group)]
    more = f'shuffle_channel_param {{ group: {group} }}'
    close(answer(tmp_path, 'ShuffleChannel', [x], more)[0], np.stack(want, 1))
    agree(
        opencv(
            tmp_path, data('x', 2, 6, 2, 3) + layer('p', 'ShuffleChannel', 'x', more=more), {'x': x}, ['p']
        ),
        0,
    )


@pytest.mark.parametrize('kind', ['ConvolutionDepthwise', 'DepthwiseConvolution'])
def test_depthwise_convolution(kind, tmp_path):
    x = rng().standard_normal((2, 4, 5, 6))
    text = data('x', 2, 4, 5, 6) + layer(
        'c',
        kind,
        'x',
        more="""convolution_param {
        num_output: 4 kernel_size: 3 stride: 2 pad: 1
        weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" } }""",
    )
    net = net_from(tmp_path, text)
    weight, bias = (b.data for b in net.params['c'])
    assert weight.shape == (4, 1, 3, 3)
    padded, want = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), np.zeros((2, 4, 3, 3))
    for n, c, i, j in np.ndindex(want.shape):
        want[n, c, i, j] = (padded[n, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * weight[c, 0]).sum() + bias[c]
    close(net.forward(x=x)['c'], want)
    if kind == 'ConvolutionDepthwise':
        agree(opencv(tmp_path, text, {'x': x}, ['c']))


@pytest.mark.parametrize(
    'kind, formula',
    [
        ('ReLU6', lambda v: min(max(v, 0), 6)),
        ('Mish', lambda v: v * math.tanh(math.log1p(math.exp(v)))),
        ('HardSwish', lambda v: v * min(max(v + 3, 0), 6) / 6),
        ('HSwish', lambda v: v * min(max(v + 3, 0), 6) / 6),
    ],
)
def test_activations(kind, formula, tmp_path):
    x = rng().standard_normal((2, 3, 4)) * 4
    close(answer(tmp_path, kind, [x])[0], np.vectorize(formula)(x))
    if kind != 'HSwish':
        agree(opencv(tmp_path, data('x', 2, 3, 4) + layer('p', kind, 'x'), {'x': x}, ['p']))


BAD = [
    ('ROIAlign', [(1, 2, 4, 4), (3, 5)], 'roi_align_param { pooled_h: 2 }', 'pooled_h and pooled_w'),
    ('ROIAlign', [(1, 2, 4, 4), (3, 4)], 'roi_align_param { pooled_h: 2 pooled_w: 2 }', 'rows of 5'),
    (
        'PSROIPooling',
        [(1, 8, 4, 4), (3, 5)],
        'psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 3 }',
        'got 1.0 and 8 channels',
    ),
    ('Proposal', [(1, 6, 2, 2), (1, 12, 2, 2), (1, 3)], 'proposal_param { ratio: 1 }', 'ratio and scale'),
    (
        'Proposal',
        [(1, 6, 2, 2), (1, 12, 2, 2), (1, 3)],
        'proposal_param { ratio: 1 scale: 2 }',
        '1 anchors want scores',
    ),
    (
        'BoxAnnotatorOHEM',
        [(3, 5), (2,), (3,), (3, 4)],
        'box_annotator_ohem_param { roi_per_img: 2 }',
        '2 losses want as many rois',
    ),
    ('SmoothL1LossOHEM', [(2, 3), (2, 4)], '', r'got \(2, 4\)'),
    ('Permute', [(2, 3)], 'permute_param { order: 2 }', 'order .2,. must name'),
    ('Permute', [(2, 3)], 'permute_param { order: 0 order: 0 }', 'different axes'),
    ('PriorBox', [(1, 1, 2, 2), (1, 1, 8, 8)], '', 'min_size must be given'),
    (
        'PriorBox',
        [(1, 1, 2, 2), (1, 1, 8, 8)],
        'prior_box_param { min_size: 4 max_size: 3 }',
        'max_size larger',
    ),
    (
        'PriorBox',
        [(1, 1, 2, 2), (1, 1, 8, 8)],
        'prior_box_param { min_size: 4 variance: 0.1 variance: 0.2 }',
        'once or four times',
    ),
    (
        'PriorBox',
        [(1, 1, 2, 2), (1, 1, 8, 8)],
        'prior_box_param { min_size: 4 step: 2 step_h: 2 step_w: 2 }',
        'step, or step_h and step_w',
    ),
    (
        'PriorBox',
        [(1, 1, 2, 2), (1, 1, 8, 8)],
        'prior_box_param { min_size: 4 img_h: 9 }',
        'img_size, or img_h',
    ),
    (
        'DetectionOutput',
        [(1, 8), (1, 5), (1, 2, 8)],
        'detection_output_param { num_classes: 3 }',
        '1 x 8 locations and 1 x 6 scores',
    ),
    (
        'DetectionOutput',
        [(1, 8), (1, 6), (1, 2, 8)],
        'detection_output_param { num_classes: 3 visualize: true }',
        'shows nothing',
    ),
    (
        'DetectionOutput',
        [(1, 8), (1, 6), (1, 2, 8)],
        'detection_output_param { num_classes: 3 save_output_param { output_directory: "x" } }',
        'output_format must be given',
    ),
    ('DetectionEvaluate', [(1, 1, 2, 7), (1, 1, 2, 8)], '', 'num_classes and overlap_threshold'),
    (
        'DetectionEvaluate',
        [(1, 1, 2, 7), (1, 1, 2, 7)],
        'detection_evaluate_param { num_classes: 3 }',
        'objects must be rows of 8',
    ),
    (
        'DetectionOutput',
        [(1, 8), (1, 6), (1, 2, 8)],
        'detection_output_param { num_classes: 3 nms_param { eta: 0 } }',
        'eta must be',
    ),
    (
        'MultiBoxLoss',
        [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 7)],
        'multibox_loss_param { num_classes: 3 }',
        'rows of 8',
    ),
    (
        'MultiBoxLoss',
        [(1, 8), (1, 6), (1, 1, 16), (1, 1, 1, 8)],
        'multibox_loss_param { num_classes: 3 }',
        r'shape \(1, 2, 4 P\)',
    ),
    (
        'MultiBoxLoss',
        [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)],
        'multibox_loss_param { num_classes: 3 do_neg_mining: false }',
        'contradicts mining_type MAX_NEGATIVE',
    ),
    (
        'MultiBoxLoss',
        [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)],
        'multibox_loss_param { num_classes: 3 share_location: false }',
        'wants share_location',
    ),
    (
        'MultiBoxLoss',
        [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)],
        'multibox_loss_param { num_classes: 3 }',
        'the class of the background, 0',
    ),
    ('Interp', [(1, 1, 4, 4)], '', 'height and width, zoom_factor or shrink_factor'),
    ('Interp', [(1, 1, 4, 4)], 'interp_param { zoom_factor: 2 pad_beg: 1 }', 'can only cut'),
    ('Interp', [(1, 1, 4, 4)], 'interp_param { use_blob_size: true }', 'a second bottom'),
    ('Upsample', [(1, 1, 4, 4)], 'upsample_param { pad_out_h: true }', 'want the mask'),
    ('Upsample', [(1, 1, 4, 4), (1, 1, 4, 3)], '', r'got \(1, 1, 4, 3\)'),
    ('Unpooling', [(1, 1, 4, 4)], 'unpooling_param { kernel_size: 2 }', 'MAX wants the mask'),
    ('Axpy', [(1, 2), (1, 3, 4, 4), (1, 3, 4, 4)], '', 'Axpy wants a scale'),
    ('ShuffleChannel', [(1, 4, 2, 2)], 'shuffle_channel_param { group: 3 }', 'group 3 does not divide 4'),
    (
        'DepthwiseConvolution',
        [(1, 4, 3, 3)],
        'convolution_param { num_output: 6 kernel_size: 3 }',
        'group 4 does not divide',
    ),
]


@pytest.mark.parametrize('kind, shapes, more, wanted', BAD)
def test_bad_parameters(kind, shapes, more, wanted, tmp_path):
    with pytest.raises(ValueError, match=wanted) as error:
        answer(tmp_path, kind, [np.zeros(shape) for shape in shapes], more)
    assert "'L'" in str(error.value) and kind in str(error.value)


def test_objects_that_cannot_be(tmp_path):
    """A class that the net does not know, an image that the batch does not have."""
    values = [np.zeros((2, 96)), np.zeros((2, 96)), some_priors()]
    cases = ([0, 4], 'class of an object 4 is not in 0..3'), ([2, 1], 'image number of an object 2')
    for row, wanted in cases:
        thing = np.array([[[[*row, 0, 0.1, 0.1, 0.5, 0.5, 0]]]])
        with pytest.raises(ValueError, match=wanted):
            answer(tmp_path, 'MultiBoxLoss', [*values, thing], 'multibox_loss_param { num_classes: 4 }')


@pytest.mark.parametrize(
    'more, factor', [('group_num: 3', 1), ('group: 3', 1), ('group: 3 scale_filler { value: 2 }', 2)]
)
def test_group_norm_is_a_loop_over_groups(more, factor, tmp_path):
    x = rng().standard_normal((2, 6, 3, 4)) * 3 + 1
    want = np.empty_like(x)
    for n, g in itertools.product(range(2), range(3)):
        part = x[n, 2 * g : 2 * g + 2]
        want[n, 2 * g : 2 * g + 2] = (part - part.mean()) / np.sqrt(part.var() + 0.1)
    (got,) = answer(tmp_path, 'GroupNorm', [x], f'group_norm_param {{ {more} eps: 0.1 }}')
    close(got, want * factor)


def test_group_norm_wants_groups_of_equal_size(tmp_path):
    with pytest.raises(ValueError, match="'L'.* 32 groups want as many channels, or a multiple"):
        answer(tmp_path, 'GroupNorm', [np.zeros((1, 48, 2, 2))])
