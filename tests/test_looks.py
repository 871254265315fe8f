"""How training looks at images: what is drawn, and that boxes stay on what they are around, whatever is done to pixels."""

import colorsys

import numpy as np
import pytest
from layer_runs import entry, write_image
from test_loader import HEAD, records, served  # noqa: F401
from test_train import Killed, kill_at, tiny, train_from_seed  # noqa: F401

import cv2
from datasets.record import Record
from fast_rcnn.config import DEFAULTS, cfg, overrides
from fpn.boxes import FAMILIES
from fast_rcnn.train import SolverWrapper
from fast_rcnn.resume import training_mark
from roi_data_layer.layer import room_for, training_sampler
from roi_data_layer.looks import Colours, Crop, Look, check_looks, coloured, draw_looks, moved
from roi_data_layer.minibatch import get_minibatch
from roi_data_layer.roidb import add_bbox_regression_targets

RPN = {'TRAIN.HAS_RPN': True, 'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.BBOX_REG': False, 'TRAIN.MAX_SIZE': 4000}
EVERYTHING = {
    'TRAIN.SCALE_JITTER': [0.7, 1.3],
    'TRAIN.FLIP_PROB': 0.5,
    'TRAIN.ASPECT_CROPPING': True,
    'TRAIN.CROP_PROB': 0.6,
    'TRAIN.DISTORT_PROB': 0.5,
}


def painted(path, width, height, boxes):
    """A black image with a rectangle of a colour of its own at each box, which reappears in others' places as it is."""
    im = np.zeros((height, width, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        im[y1 : y2 + 1, x1 : x2 + 1] = 50 * (i + 1)
    cv2.imwrite(str(path), im)
    return entry(path, boxes, range(1, len(boxes) + 1), num_classes=5, width=width, height=height)


def found(data, classes):
    """The boxes of the pixels of each class, by plain loops, in a blob (1, 3, H, W) that was not scaled."""
    rows = (data[0, 0] + cfg.PIXEL_MEANS[0, 0, 0]).round().tolist()
    result = []
    for cls in classes:
        places = [(x, y) for y, row in enumerate(rows) for x, pixel in enumerate(row) if pixel == 50 * cls]
        xs, ys = zip(*places)
        result.append([min(xs), min(ys), max(xs), max(ys), cls])
    return result


@pytest.mark.parametrize(
    'settings',
    [
        {'TRAIN.FLIP_PROB': 0.5},
        {'TRAIN.ASPECT_CROPPING': True},
        {'TRAIN.CROP_PROB': 1.0, 'TRAIN.CROP_OVERLAPS': [0.1]},
        {'TRAIN.ASPECT_CROPPING': True, 'TRAIN.FLIP_PROB': 0.5, 'TRAIN.CROP_PROB': 0.5},
    ],
)
@pytest.mark.parametrize('turned', [False, True])
def test_boxes_are_around_what_they_were_around(tmp_path, settings, turned):
    """Rectangles far apart, so that a crop of the long image loses some; with `turned` it is high."""
    boxes = [[2, 3, 11, 9], [30, 0, 44, 12], [60, 5, 63, 18], [70, 1, 99, 4]]
    width, height = 100, 21
    if turned:
        boxes, width, height = [[y1, x1, y2, x2] for x1, y1, x2, y2 in boxes], height, width
    roidb = [painted(tmp_path / 'a.png', width, height, boxes)]
    np.random.seed(5)
    seen_boxes = set()
    for _ in range(8):
        state = np.random.get_state()
        with overrides({**RPN, **settings, 'TRAIN.SCALES': [21]}):
            (look,) = draw_looks(cfg.TRAIN, roidb)
            sides = look.crop and (look.crop.x2 - look.crop.x1 + 1, look.crop.y2 - look.crop.y1 + 1)
            np.random.set_state(state)
            with overrides({'TRAIN.SCALES': [min(sides or (width, height))]}):  # as large as it is
                blobs = get_minibatch(roidb, 5)
        assert blobs['im_info'].tolist() == [[*(sides or (width, height))[::-1], 1]]
        classes = blobs['gt_boxes'][:, 4].astype(int).tolist()
        assert blobs['gt_boxes'].tolist() == found(blobs['data'], classes) and classes
        if settings.get('TRAIN.ASPECT_CROPPING') and not settings.get('TRAIN.CROP_PROB'):
            assert sorted(sides) == [21, 42]
        seen_boxes.add(str(blobs['gt_boxes'].tolist()))
    assert len(seen_boxes) > 1


def place_by_loops(boxes, width, length):
    """All places of an aspect crop of a wide image that hold all boxes; or [], then those of each box."""
    return [
        [x for x in range(width - length + 1) if all(x <= b[0] and b[2] < x + length for b in group)]
        for group in [boxes, *([box] for box in boxes)]
    ]


@pytest.mark.parametrize(
    'boxes',
    [
        [[20, 0, 25, 5]],
        [[20, 0, 25, 5], [30, 2, 40, 9]],
        [[0, 0, 5, 5], [40, 0, 59, 9]],
        [[3, 0, 50, 9]],
        [],
        [[12, 0, 12, 4]],
    ],
)
def test_places_of_aspect_crops(boxes):
    """20 of 60 pixels: every place is drawn that holds all objects, or where there is none, one of them."""
    one = entry('a', boxes, [1] * len(boxes), width=60, height=10)
    with overrides({'TRAIN.ASPECT_CROPPING': True}):
        np.random.seed(2)
        crops = [draw_looks(cfg.TRAIN, [one])[0].crop for _ in range(300)]
    assert {(crop.y1, crop.y2, crop.x2 - crop.x1, crop.centred) for crop in crops} == {(0, 9, 19, False)}
    every, *each = place_by_loops(boxes, 60, 20)
    wanted = every or sum(each, []) or range(3, 32)  # the last is inside the one that is too long
    assert {crop.x1 for crop in crops} == set(wanted)
    for crop in crops:
        boxes_left, kept = moved(one['boxes'], Look(10, crop=crop), 60)
        assert len(boxes_left) == kept.sum() >= min(len(boxes), 1)


def test_aspect_crops_are_of_longer_images_alone():
    with overrides({'TRAIN.ASPECT_CROPPING': True}):
        looks = draw_looks(cfg.TRAIN, [entry('a', width=20, height=10), entry('b', width=10, height=21)])
    assert looks[0].crop is None and looks[1].crop.y2 - looks[1].crop.y1 + 1 == 20


def test_what_a_crop_leaves_of_boxes():
    """Boxes of which a row or column is left go, thin ones that are whole stay; or those go whose centre is outside."""
    boxes = np.array(
        [[0, 0, 9, 9], [0, 0, 11, 14], [0, 12, 30, 12], [5, 0, 10, 30], [19, 19, 19, 19]], np.float32
    )
    crop = Crop(10, 10, 19, 19, False)
    left, kept = moved(boxes, Look(1, crop=crop), 40)
    assert kept.tolist() == [False, True, True, False, True]
    assert left.tolist() == [[0, 0, 1, 4], [0, 2, 9, 2], [9, 9, 9, 9]]
    left, kept = moved(boxes, Look(1, crop=crop._replace(centred=True)), 40)
    assert kept.tolist() == [False, False, True, False, True]
    left, kept = moved(boxes, Look(1, mirrored=True), 40)
    assert kept.all() and left[2].tolist() == [9, 12, 39, 12] and boxes[2].tolist() == [0, 12, 30, 12]


def test_overlapping_crops_are_as_the_settings_say():
    one = entry('a', [[10, 10, 49, 29], [60, 30, 79, 39]], [1, 2], width=90, height=60)
    settings = {'TRAIN.CROP_PROB': 1.0, 'TRAIN.CROP_SIDES': [0.4, 0.8], 'TRAIN.CROP_OVERLAPS': [0.3, 1.0]}
    with overrides(settings):
        np.random.seed(3)
        crops = [draw_looks(cfg.TRAIN, [one])[0].crop for _ in range(200)]
        empty = draw_looks(cfg.TRAIN, [entry('b', width=90, height=60)] * 9)
    assert 60 < sum(crop is None for crop in crops) < 140 and any(look.crop for look in empty)
    for x1, y1, x2, y2, centred in filter(None, crops):
        width, height = x2 - x1 + 1, y2 - y1 + 1
        assert 36 <= width <= 72 and 24 <= height <= 48 and 0.5 <= width / height <= 2 and centred
        assert 0 <= x1 and x2 < 90 and 0 <= y1 and y2 < 60
        overlaps = []
        for a, b, c, d in one['boxes']:
            if x1 <= (a + c) / 2 <= x2 and y1 <= (b + d) / 2 <= y2:
                both = (min(x2, c) - max(x1, a) + 1) * (min(y2, d) - max(y1, b) + 1)
                overlaps.append(both / (width * height + (c - a + 1) * (d - b + 1) - both))
        assert max(overlaps) >= 0.3


@pytest.mark.parametrize('first', [True, False])
def test_colours_are_those_of_a_plain_loop(first):
    im = np.random.RandomState(4).randint(0, 256, (6, 5, 3)).astype(np.uint8)
    colours = Colours(-20.0, 1.4, 0.7, 15.0, first)
    result = coloured(im, colours)
    assert result.dtype == np.uint8
    for pixel, new in zip(im.reshape(-1, 3).tolist(), result.reshape(-1, 3).tolist()):
        values = [min(max(v - 20, 0) * (1.4 if first else 1), 255) / 255 for v in pixel]
        hue, saturation, value = colorsys.rgb_to_hsv(*values[::-1])
        values = colorsys.hsv_to_rgb((hue + 15 / 360) % 1, min(saturation * 0.7, 1), value)[::-1]
        values = [min(v * 255 * (1 if first else 1.4), 255) for v in values]
        assert np.abs(np.array(values) - new).max() < 0.51
    np.testing.assert_array_equal(coloured(im, Colours(0.0, 1.0, 1.0, 0.0, first)), im)


def test_colours_are_drawn_each_with_its_probability():
    with overrides({'TRAIN.DISTORT_PROB': 0.25}):
        np.random.seed(6)
        drawn = [look.colours for look in draw_looks(cfg.TRAIN, [entry('a')] * 2000)]
    unchanged = (0, 1, 1, 0)
    for i, (low, high) in enumerate([(-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18)]):
        values = [colours[i] for colours in drawn if colours and colours[i] != unchanged[i]]
        assert 430 < len(values) < 570 and low <= min(values) < 0.9 * low + 0.1 * high
        assert 0.9 * high + 0.1 * low < max(values) <= high
    assert 0.25 < np.mean([colours is None for colours in drawn]) < 0.38  # 0.75 ** 4


def test_sizes_jitter_within_the_longest(tmp_path):
    image = write_image(tmp_path / 'a.png')  # 60 x 40
    with overrides({**RPN, 'TRAIN.SCALES': [80], 'TRAIN.SCALE_JITTER': [0.5, 2], 'TRAIN.MAX_SIZE': 180}):
        np.random.seed(1)
        assert room_for(cfg.TRAIN) >= 12 * 161 * 181
        infos = [get_minibatch([entry(image)], 3)['im_info'][0] for _ in range(60)]
    sides = np.array(infos)[:, 0]
    assert sides.min() < 50 and sides.max() == 120 and len(set(sides)) > 20
    assert all(width == round(60 * scale) for _, width, scale in infos)


def test_a_setting_that_is_off_draws_nothing():
    roidb = [entry('a', [[1, 2, 3, 4]], [1], width=90, height=10)] * 3
    with overrides({'TRAIN.SCALES': [30, 40, 50]}):
        np.random.seed(7)
        looks = draw_looks(cfg.TRAIN, roidb)
    after = np.random.rand()
    np.random.seed(7)
    assert looks == [Look([30, 40, 50][i]) for i in np.random.randint(0, high=3, size=3)]
    assert np.random.rand() == after


@pytest.mark.parametrize('seed_each', [False, True])
def test_looks_are_the_same_whoever_reads(tmp_path, records, seed_each):  # noqa: F811
    settings = {**EVERYTHING, 'TRAIN.SCALES': [30, 40], 'TRAIN.SEED_EACH_IMAGE': seed_each}
    plain = served(tmp_path, records, 14, {**settings, 'TRAIN.USE_PREFETCH': False})
    assert len({blobs[1].shape for blobs in plain}) > 7
    for workers in 0, 2:
        for ours, theirs in zip(
            served(tmp_path, records, 14, {**settings, 'TRAIN.LOADER_WORKERS': workers}), plain
        ):
            for value, expected in zip(ours, theirs):
                np.testing.assert_array_equal(value, expected)


def test_proposals_move_with_their_image(tmp_path):
    """RoIs, labels and targets are those of a roidb whose image and boxes were cropped before."""
    boxes, proposals = [[30, 5, 59, 24], [2, 2, 12, 12]], [[28, 5, 57, 22], [40, 0, 62, 25], [0, 0, 9, 9]]
    image = painted(tmp_path / 'a.png', 80, 30, boxes)['image']
    record = Record(boxes, [1, 2], 5, image=image, width=80, height=30, proposals=proposals)
    crop = Crop(25, 4, 64, 29, True)
    cv2.imwrite(str(tmp_path / 'b.png'), cv2.imread(image)[4:30, 25:65])
    low, high = np.array([25, 4, 25, 4]), np.array([64, 29, 64, 29])
    cut = [(np.clip(box, low, high) - low).tolist() for box in (boxes[0], *proposals[:2])]
    other = Record(cut[:1], [1], 5, image=str(tmp_path / 'b.png'), width=40, height=26, proposals=cut[1:])
    settings = {**HEAD, 'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.BBOX_NORMALIZE_TARGETS': False}
    with overrides(settings), pytest.MonkeyPatch.context() as patch:
        add_bbox_regression_targets([record, other])
        np.random.seed(1)
        expected = get_minibatch([other], 5)
        patch.setattr('roi_data_layer.minibatch.draw_looks', lambda *args: [Look(40, crop=crop)])
        np.random.seed(1)
        np.random.randint(0, high=1, size=1)
        blobs = get_minibatch([record], 5)
    assert set(blobs['labels']) == {0, 1} or set(blobs['labels']) == {1}
    for name, value in blobs.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize('family', ['caffe', 'torchvision'])
def test_a_look_is_as_if_the_image_had_been_so(tmp_path, family):
    """In each family's arithmetic, two images a pass."""
    boxes = [[30, 5, 59, 24], [2, 2, 12, 12]]
    one = painted(tmp_path / 'a.png', 80, 30, boxes)
    cv2.imwrite(str(tmp_path / 'b.png'), cv2.imread(one['image'])[4:30, ::-1][:, 10:50])
    other = entry(tmp_path / 'b.png', [[79 - 59 - 10, 1, 39, 20]], [1], num_classes=5, width=40, height=26)
    looks = [Look(50, True, Crop(10, 4, 49, 29, False)), Look(60)]
    with overrides({**RPN, 'TRAIN.IMS_PER_BATCH': 2}), pytest.MonkeyPatch.context() as patch:
        patch.setattr('roi_data_layer.minibatch.draw_looks', lambda *args: looks)
        blobs = get_minibatch([one, one], 5, family=FAMILIES[family])
        looks = [Look(50), Look(60)]
        expected = get_minibatch([other, one], 5, family=FAMILIES[family])
    for name, value in blobs.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_boxes_that_cannot_move_are_refused(tmp_path):
    image = write_image(tmp_path / 'a.png')
    one = entry(image, [[10, 5, 20, 30]], [2], [([11, 5, 20, 30], 0.9, 2)])
    own = Record([[10, 5, 20, 30]], [2], 3, image=image, width=60, height=40)
    own['max_overlaps'] = np.ones(1, np.float32)
    with overrides({**HEAD, 'TRAIN.FLIP_PROB': 1.0, 'TRAIN.IMS_PER_BATCH': 1, 'TRAIN.BBOX_REG': False}):
        for refused in one, own:
            with pytest.raises(ValueError, match='a.png: TRAIN.FLIP_PROB.* of Records'):
                get_minibatch([refused], 3)


def test_a_training_that_was_killed_goes_on_with_the_same_looks(tiny, tmp_path, monkeypatch):  # noqa: F811
    solver, entries = tiny
    roidb = [
        Record(
            e['boxes'][:1],
            [2],
            3,
            image=e['image'],
            width=60,
            height=40,
            proposals=[*e['boxes'][1:], [0, 0, 50, 20]],
        )
        for e in entries
    ]
    with overrides({**EVERYTHING, 'TRAIN.SNAPSHOT_ITERS': 3}):
        expected = train_from_seed(solver, roidb, str(tmp_path / 'straight'), 6)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(SolverWrapper, 5, patch)
            train_from_seed(solver, roidb, str(tmp_path / 'out'), 6)
        np.random.seed(99)
        ended = train_from_seed(solver, roidb, str(tmp_path / 'out'), 6)
    for ours, theirs in zip(ended, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    'setting, value, message',
    [
        ('SCALE_JITTER', [0, 1], '0 < low <= high'),
        ('CROP_SIDES', [0.5, 1.5], '<= 1; got'),
        ('CONTRAST', [1.5, 0.5], 'low <= high'),
        ('SATURATION', [1.0], 'two numbers'),
        ('FLIP_PROB', 1.5, 'in 0..1, got 1.5'),
        ('CROP_OVERLAPS', [], 'one overlap'),
    ],
)
def test_settings_that_make_no_sense(setting, value, message):
    with (
        overrides({f'TRAIN.{setting}': value}),
        pytest.raises(ValueError, match=f'TRAIN.{setting}.*{message}'),
    ):
        check_looks(cfg.TRAIN)


def test_older_states_are_gone_on_from():
    """The digest of the settings as they were before there were these: a new one is named in LATER."""
    sampler = training_sampler([entry('a')], cfg.TRAIN)
    digest = 'bc27e8ea0ff3c58e83b3a9e8b0190fcb6de43275d00cd32c3931496b06dd00d6'
    with overrides(DEFAULTS):
        assert training_mark([], sampler)['settings'] == digest
        for setting, value in EVERYTHING.items():
            with overrides({setting: value}):
                assert training_mark([], sampler)['settings'] != digest
