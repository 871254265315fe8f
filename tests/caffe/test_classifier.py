"""Classifier and Detector, on a net that averages its input and counts."""

import cv2
import numpy as np
import pytest

from caffe import io
from caffe.classifier import Classifier
from caffe.detector import Detector

# The scores are the means over the input of each channel: what a plain loop over crops finds.
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "weigh" type: "Scale" bottom: "mean" top: "scores" scale_param { filler { value: 1 } } }
"""


@pytest.fixture
def files(tmp_path):
    from caffe import Net, TEST

    (tmp_path / 'net.prototxt').write_text(NET)
    net = Net(str(tmp_path / 'net.prototxt'), TEST)
    net.params['weigh'][0].data[...] = [1, 2, 3]
    net.save(str(tmp_path / 'net.caffemodel'))
    return str(tmp_path / 'net.prototxt'), str(tmp_path / 'net.caffemodel')


@pytest.fixture
def images():
    return list(np.random.default_rng(0).random((3, 8, 9, 3)).astype('f'))


def scores(crop):
    """BGR, scaled by 255, less a mean of 100; weighed 1 2 3."""
    return (crop[:, :, ::-1] * 255 - 100).mean((0, 1)) * [1, 2, 3]


SETTINGS = dict(mean=np.float32([100, 100, 100]), raw_scale=255, channel_swap=(2, 1, 0))


def test_classifier_takes_the_centre_crop(files, images):
    net = Classifier(*files, image_dims=(8, 9), **SETTINGS)
    got = net.predict(images, oversample=False)[:, :, 0, 0]
    np.testing.assert_allclose(got, [scores(im[1:7, 1:7]) for im in images], rtol=1e-4)


def test_classifier_averages_ten_crops(files, images):
    net = Classifier(*files, image_dims=(8, 9), **SETTINGS)
    got = net.predict(images)
    wanted = [np.mean([scores(c) for c in io.oversample([im], (6, 6))], 0) for im in images]
    assert got.shape == (3, 3)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_classifier_resizes_to_its_input_by_default(files, images):
    got = Classifier(*files, **SETTINGS).predict(images[:1], oversample=False)[:, :, 0, 0]
    np.testing.assert_allclose(got, [scores(io.resize_image(images[0], (6, 6)))], rtol=1e-4)


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (12, 14, 3)).astype('uint8')
    cv2.imwrite(str(tmp_path / 'p.png'), pixels)
    return str(tmp_path / 'p.png'), pixels[:, :, ::-1] / np.float32(255)


def test_detector_scores_windows(files, picture):
    path, image = picture
    windows = [(0, 0, 6, 6), (3, 4, 9, 10), (5, 5, 12, 14)]
    found = Detector(*files, **SETTINGS).detect_windows([(path, windows), (path, windows[:2])])
    assert [f['window'] for f in found] == windows + windows[:2] and {f['filename'] for f in found} == {path}
    for f in found[:2]:
        ymin, xmin, ymax, xmax = f['window']
        np.testing.assert_allclose(f['prediction'][:, 0, 0], scores(image[ymin:ymax, xmin:xmax]), rtol=1e-4)
    assert Detector(*files).detect_windows([]) == []


def test_context_is_image_where_there_is_some_and_mean_outside(files, picture):
    _, image = picture
    net = Detector(*files, **SETTINGS, context_pad=2)
    # half sides of 1 grow threefold, 6 / (6 - 4): rows and columns 2 to 8 of the image
    inside = net.crop(image, (4, 4, 5, 5))
    np.testing.assert_allclose(inside, io.resize_image(image[2:8, 2:8], (6, 6)), atol=1e-6)
    corner = net.crop(image, (0, 0, 1, 1))
    # rows -2 to 4: 2 of 7 rows lie above, round(2 * 6 / 7) = 2 rows of the crop
    np.testing.assert_allclose(corner[:2], 100 / 255, rtol=1e-5)
    np.testing.assert_allclose(corner[:, :2], 100 / 255, rtol=1e-5)
    np.testing.assert_allclose(corner[2:, 2:], io.resize_image(image[:4, :4], (4, 4)), atol=1e-6)


@pytest.mark.parametrize('context_pad', [None, 1])
def test_a_window_outside_the_image_is_refused(files, picture, context_pad):
    with pytest.raises(ValueError, match=r'\(12, 14\)'):
        Detector(*files, context_pad=context_pad).crop(picture[1], (40, 40, 50, 50))
