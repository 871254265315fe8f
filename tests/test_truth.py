"""Ground truth of annotations, and the records made of it, against a plain loop over the objects."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.readers.boxes import clean_boxes
from datasets.readers.truth import make_truth
from datasets.readers.voc_xml import Annotations
from datasets.record import Record

WIDTH, HEIGHT, K = 20, 15, 4
BOXES = st.tuples(*[st.integers(-3, 25)] * 4)
OBJECTS = st.lists(st.tuples(BOXES, st.integers(0, K - 2), st.booleans()), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=4), st.booleans(), st.sampled_from([0, 1]))
def test_records_against_a_loop(images, use_diff, base):
    flat = [item for objects in images for item in objects]
    data = Annotations(
        counts=np.array([len(objects) for objects in images], np.int64),
        sizes=np.array([[WIDTH, HEIGHT]] * len(images), np.int64),
        boxes=np.array([box for box, _, _ in flat], np.float32).reshape(-1, 4),
        difficult=np.array([hard for _, _, hard in flat], bool),
        names=np.array([name for _, name, _ in flat], np.int64),
        vocabulary=np.array(['a', 'b', 'c']),
    )
    truth, faults = make_truth(data, [2, 1, 3], base)
    assert len(truth.images) + faults['outside'] + faults['zero area'] == len(flat)
    records = truth.objects(K, ['picture.jpg'] * len(images), use_diff)
    for i, objects in enumerate(images):
        boxes, classes = [], []
        for box, name, hard in objects:
            cleaned, fault = clean_boxes([box], WIDTH, HEIGHT, base)
            if not (fault['outside'][0] or fault['zero area'][0]) and (use_diff or not hard):
                boxes.append(cleaned[0].tolist())
                classes.append([2, 1, 3][name])
        record = Record.of(records, i)
        assert record['boxes'].tolist() == boxes and record['gt_classes'].tolist() == classes
        assert record.difficult == len(objects) - len(boxes)
        assert (record['width'], record['height'], record['image']) == (WIDTH, HEIGHT, 'picture.jpg')
