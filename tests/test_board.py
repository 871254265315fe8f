"""lib/fast_rcnn/board.py: what of a test is written for TensorBoard."""

import sys

import numpy as np
import pytest

from datasets import own
from datasets.evaluators.errors import KINDS
from fast_rcnn.board import THRESHOLDS, counts, iteration_of, write_test


@pytest.fixture
def data(tmp_path):
    import make_toy

    path, _ = make_toy.write(str(tmp_path / 'toy'), 1, 3, seed=4)
    return own.make(own.load(path), 'val')


def found(data):
    """Each object, and in the first image one thing more."""
    all_boxes = [[np.zeros((0, 5), np.float32)] * 3 for _ in range(5)]
    for image, k, box in zip(data.truth.images, data.truth.classes, data.truth.boxes):
        all_boxes[k][image] = np.vstack([all_boxes[k][image], [[*box, 0.9]]]).astype(np.float32)
    all_boxes[1][0] = np.vstack([all_boxes[1][0], [[0, 0, 3, 3, 0.8]]]).astype(np.float32)
    return all_boxes


def test_counts_by_hand():
    """Four detections of a class that has three objects, one of them of an object that does not count."""
    kinds = [KINDS.index(kind) for kind in ('right', 'background', 'ignored', 'right')]
    curve = counts(np.array([0.9, 0.8, 0.7, 0.25]), np.array(kinds), 3)
    assert [part.shape for part in curve] == [(THRESHOLDS,)] * 6
    for least, expected in (0, (2, 1, 0, 1, 2 / 3, 2 / 3)), (50, (1, 1, 0, 2, 1 / 2, 1 / 3)):
        assert np.allclose([part[least] for part in curve], expected)
    assert [part[95] for part in curve] == [0, 0, 0, 3, 0, 0]
    assert iteration_of('a/zf_iter_40.caffemodel') == 40 and iteration_of('zf_final') == 0


def test_a_test_as_tensorboard_has_it(data, tmp_path):
    pytest.importorskip('tensorboard', reason='needs tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_test(str(tmp_path), 40, data, found(data), 0.5)
    events = EventAccumulator(str(tmp_path / 'board')).Reload()
    tags = events.Tags()
    assert [(one.step, one.value) for one in events.Scalars('mean AP')] == [(40, 0.5)]
    present = {data.class_names[k] for k in data.truth.classes}
    assert {tag for tag in tags['scalars'] if tag != 'mean AP'} == {f'AP/{name}' for name in present}
    assert set(tags['tensors']) == {f'precision over recall/{name}' for name in present}
    assert len(tags['images']) == 2 * data.num_images
    (picture,) = events.Images(next(tag for tag in tags['images'] if tag.endswith('/found')))
    assert picture.step == 40 and picture.width >= 100


def test_where_there_is_nothing_to_write(data, tmp_path, monkeypatch, caplog):
    write_test(str(tmp_path), 1, data, found(data), float('nan'))  # scored elsewhere
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    write_test(str(tmp_path), 1, data, found(data), 0.5)
    assert not (tmp_path / 'board').exists() and 'TENSORBOARD: nothing is written for it' in caplog.text
