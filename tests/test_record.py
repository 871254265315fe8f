"""datasets.record.Record against the dicts that imdb's own methods make of the same boxes."""

import copy
import dataclasses
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.imdb import imdb
from datasets.record import Objects, Record

K, WIDTH = 5, 120


def random_boxes(random, count):
    low = random.randint(0, 80, (count, 2))
    return np.hstack([low, low + random.randint(0, 39, (count, 2))]).astype(np.float32)


def loop_iou(a, b):
    """IoU of two boxes with inclusive corners."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    area_a, area_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return both / (area_a + area_b - both)


def expected(objects, classes, proposals):
    """The dict of a roidb, by a loop."""
    boxes = np.vstack([objects, proposals])
    overlaps = np.zeros((len(boxes), K), np.float32)
    for row, box in enumerate(boxes):
        ious = [1.0 if row == i else loop_iou(box, other) for i, other in enumerate(objects)]
        if row < len(objects):
            overlaps[row, classes[row]] = 1
        elif ious and max(ious) > 0:
            overlaps[row, classes[int(np.argmax(ious))]] = max(ious)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in objects] + [0] * len(proposals)
    return {
        'boxes': boxes,
        'gt_classes': np.append(classes, np.zeros(len(proposals))),
        'gt_overlaps': overlaps,
        'seg_areas': np.array(areas),
        'flipped': False,
        'max_overlaps': overlaps.max(1) if len(boxes) else np.zeros(0),
        'max_classes': overlaps.argmax(1) if len(boxes) else np.zeros(0),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(0, 6), st.integers(0, 1000))
def test_the_keys_say_what_a_roidb_dict_says(num_objects, num_proposals, seed):
    random = np.random.RandomState(seed)
    objects, proposals = random_boxes(random, num_objects), random_boxes(random, num_proposals)
    classes = random.randint(1, K, num_objects)
    record = Record(objects, classes, K, proposals=proposals)
    wanted = expected(objects, classes, proposals)
    assert set(record) == set(wanted)
    assert record['gt_overlaps'].format == 'csr' and record['gt_overlaps'].shape == (len(wanted['boxes']), K)
    for key, value in wanted.items():
        got = record[key].toarray() if key == 'gt_overlaps' else record[key]
        np.testing.assert_allclose(got, value, rtol=1e-6, err_msg=key)
    kinds = {key: record[key].dtype for key in wanted if key != 'flipped'}
    assert kinds == {
        'boxes': np.float32,
        'gt_classes': np.int32,
        'gt_overlaps': np.float32,
        'seg_areas': np.float32,
        'max_overlaps': np.float32,
        'max_classes': np.int64,
    }


def test_a_mirrored_record_holds_the_same_arrays_and_says_the_mirrored_boxes():
    objects, proposals = random_boxes(np.random.RandomState(0), 2), random_boxes(np.random.RandomState(1), 3)
    record = Record(objects, [1, 2], K, width=WIDTH, height=90, proposals=proposals)
    other = record.mirrored()
    assert np.shares_memory(other.objects, record.objects)
    assert np.shares_memory(other.proposals, record.proposals)
    assert other['flipped'] and not record['flipped']
    for (x1, y1, x2, y2), mirrored in zip(record['boxes'], other['boxes']):
        assert list(mirrored) == [WIDTH - 1 - x2, y1, WIDTH - 1 - x1, y2]
    for key in 'gt_classes', 'seg_areas', 'max_overlaps', 'max_classes':
        np.testing.assert_array_equal(other[key], record[key])
    np.testing.assert_array_equal(other.mirrored()['boxes'], record['boxes'])
    with pytest.raises(ValueError, match='a.jpg: the width is not known'):
        Record(objects, [1, 2], K, image='a.jpg').mirrored()


def test_keys_can_be_asked_for_set_and_removed_as_in_a_dict():
    record = Record([[1, 2, 3, 4]], [3], K)
    assert 'image' not in record and record.get('width') is None and 'bbox_targets' not in record
    with pytest.raises(KeyError):
        record['bbox_targets']
    record['image'], record['width'], record['height'] = 'a.jpg', 10, 20
    assert (record.image, record['width'], record['height']) == ('a.jpg', 10, 20)
    record['subset'] = 'mine'
    record['max_overlaps'] = np.zeros(1)
    twin = record.with_proposals([[0, 0, 5, 5, 0.5]])
    twin['subset'] = 'other'
    assert record['subset'] == 'mine' and record['max_overlaps'].sum() == 0 and record['max_classes'] == [3]
    del record['max_overlaps']
    assert record['max_overlaps'] == [1] and len(twin['boxes']) == 2
    record.targets = lambda entry: entry['boxes'] * 2
    assert record['bbox_targets'][0, 3] == 8 and 'bbox_targets' in record
    assert {**record}['image'] == 'a.jpg' and len(record) == len(list(record))
    with pytest.raises(KeyError):
        del record['boxes']


def test_records_are_copied_and_pickled():
    record = Record([[1, 2, 3, 4]], [3], K, image='a.jpg', width=9, height=9, difficult=2).mirrored()
    for other in copy.deepcopy(record), pickle.loads(pickle.dumps(record)):
        np.testing.assert_array_equal(other['boxes'], record['boxes'])
        assert (other.image, other.difficult, other['flipped']) == ('a.jpg', 2, True)


def test_records_and_dicts_merge():
    record = Record([[1, 2, 3, 4]], [3], K)
    (merged,) = imdb.merge_roidbs([record], [dict(Record([], [], K, proposals=[[1, 2, 3, 3]]))])
    assert merged['boxes'].shape == (2, 4) and list(merged['gt_classes']) == [3, 0]


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match='b.jpg: 1 objects have 2 classes'):
        Record([[1, 2, 3, 4]], [1, 2], K, image='b.jpg')
    with pytest.raises(ValueError, match='b.jpg: classes of objects lie in 1 .. 4, got 5 .. 5'):
        Record([[1, 2, 3, 4]], [5], K, image='b.jpg')


class Proposals:
    """A sequence over images that notes what is read of it."""

    digest = 'd'

    def __init__(self, boxes):
        self.boxes, self.read = boxes, []

    def __len__(self):
        return len(self.boxes)

    def __getitem__(self, i):
        self.read.append(i)
        return self.boxes[i]


def columns(images, random=np.random.RandomState(0), folder='/a/b'):
    """Objects of so many images, one object each."""
    return Objects(
        K,
        starts=np.arange(images + 1),
        boxes=random_boxes(random, images),
        classes=random.randint(1, K, images).astype(np.int32),
        difficult=np.arange(images) % 2,
        images=[f'{folder}/train/{i}.jpg' for i in range(images)],
        sizes=np.full((images, 2), WIDTH),
    )


def test_a_record_refers_to_a_row_of_columns_and_to_proposals_that_are_read_when_asked_for():
    source, given = columns(1000), Proposals([random_boxes(np.random.RandomState(i), 3) for i in range(1000)])
    record = Record.of(source, 7).with_proposals(given, 7).mirrored()
    assert sys.getsizeof(record) < 100 and not hasattr(record, '__dict__')
    assert (record['image'], record['width'], record['height']) == ('/a/b/train/7.jpg', WIDTH, WIDTH)
    assert record['gt_classes'].tolist()[1:] == [0, 0, 0] and record.difficult == 1
    given.read.clear()
    assert (record.image, len(record.objects), record.mirrored().mirror, given.read) == (
        source.images[7],
        1,
        False,
        [],
    )
    boxes = np.vstack([source.boxes[7], given.boxes[7]])
    boxes[:, [0, 2]] = WIDTH - 1 - boxes[:, [2, 0]]
    np.testing.assert_array_equal(record['boxes'], boxes)
    assert set(given.read) == {7}
    given.boxes[8] = np.array([[0, 0, 9, 9, 1], [8, 0, 3, 9, 1]], np.float32)
    with pytest.raises(ValueError, match='8.jpg: proposal 1, a box with x1 > x2 .*8.0, 0.0, 3.0'):
        Record.of(source, 8).with_proposals(given, 8)['boxes']


def test_a_pickled_record_takes_its_own_image_with_it_and_no_other():
    record = Record.of(columns(5000), 4321).with_proposals(
        Proposals([random_boxes(np.random, 9)] * 5000), 4321
    )
    record['subset'] = 'mine'
    pickled = pickle.dumps(record.mirrored())
    assert len(pickled) < 2000
    for key, value in record.mirrored().items():
        got, value = (x.toarray() if key == 'gt_overlaps' else x for x in (pickle.loads(pickled)[key], value))
        np.testing.assert_array_equal(got, value)


def test_the_digest_of_columns_is_of_all_they_hold_wherever_the_images_lie():
    def digest(**changed):
        return dataclasses.replace(columns(9, np.random.RandomState(1)), **changed).digest

    same = columns(9, np.random.RandomState(1), folder='/moved')
    assert digest() == digest() == same.digest
    images = same.images[:8] + ['/moved/train/other.jpg']
    others = [
        digest(num_classes=K + 1),
        digest(boxes=same.boxes + 1),
        digest(classes=same.classes[::-1]),
        digest(difficult=same.difficult * 2),
        digest(sizes=same.sizes + 1),
        digest(starts=same.starts // 2 * 2),
        digest(areas=np.ones(9, np.float32)),
        digest(images=images),
    ]
    assert len({*others, digest()}) == 9
