"""Images, blobs and datums: pycaffe's io."""

import cv2
import numpy as np
import pytest

from caffe import io
from caffe.proto import caffe_pb2


@pytest.fixture
def image():
    return np.random.default_rng(0).random((11, 13, 3)).astype('f')


# ---- protos ----


def test_blobs_keep_shape_values_and_diff():
    a = np.arange(24, dtype='f').reshape(2, 3, 4)
    blob = io.array_to_blobproto(a, -a)
    assert list(blob.shape.dim) == [2, 3, 4] and list(blob.data) == list(range(24))
    np.testing.assert_array_equal(io.blobproto_to_array(blob), a)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), -a)
    io.blobproto_to_array(blob)[0] = 1


def test_blobs_without_a_shape():
    legacy = caffe_pb2.BlobProto(num=1, channels=1, height=10, width=10, data=[0] * 100)
    assert io.blobproto_to_array(legacy).shape == (1, 1, 10, 10)
    assert io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    with pytest.raises(ValueError, match='100 values'):
        io.blobproto_to_array(caffe_pb2.BlobProto(data=[0] * 100))


def test_double_blobs_are_read():
    blob = caffe_pb2.BlobProto(shape=dict(dim=[2]), double_data=[0.5, 2], double_diff=[3, 4])
    np.testing.assert_array_equal(io.blobproto_to_array(blob), np.float32([0.5, 2]), strict=True)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, True), [3, 4])


def test_lists_of_arrays_as_a_string():
    arrays = [np.arange(6, dtype='f').reshape(2, 3), np.float32([7])]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
    assert len(back) == 2
    for a, b in zip(arrays, back):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('dtype, field', [('uint8', 'data'), ('float64', 'float_data')])
def test_datums_keep_arrays_and_labels(dtype, field):
    a = np.arange(24).reshape(2, 3, 4).astype(dtype)
    datum = io.array_to_datum(a, label=5)
    assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 5)
    assert len(getattr(datum, field)) == 24
    back = io.datum_to_array(datum)
    assert back.dtype == a.dtype
    np.testing.assert_array_equal(back, a)
    assert len(io.array_to_datum(a).SerializeToString()) < len(datum.SerializeToString())


def test_datums_that_cannot_be():
    with pytest.raises(ValueError, match='channels, height, width'):
        io.array_to_datum(np.zeros((2, 3)))
    with pytest.raises(ValueError, match='encoded'):
        io.datum_to_array(caffe_pb2.Datum(encoded=True, data=b'x'))


# ---- images ----


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_images_load_as_rgb_in_unit_range(tmp_path, dtype):
    top = np.iinfo(dtype).max
    bgr = np.random.default_rng(0).integers(0, top, (4, 5, 3), endpoint=True).astype(dtype)
    bgr[0, 0] = top
    path = str(tmp_path / 'x.png')
    cv2.imwrite(path, bgr)
    rgb = bgr[:, :, ::-1] / top
    got = io.load_image(path)
    assert got.dtype == np.float32 and got.max() == 1
    np.testing.assert_allclose(got, rgb, atol=1e-6)
    gray = io.load_image(path, color=False)
    assert gray.shape == (4, 5, 1)
    np.testing.assert_allclose(gray[:, :, 0], rgb @ [0.2125, 0.7154, 0.0721], atol=1e-6)


def test_gray_and_transparent_images_load(tmp_path):
    path = str(tmp_path / 'x.png')
    gray = np.uint8([[0, 51], [102, 255]])
    cv2.imwrite(path, gray)
    assert io.load_image(path).shape == (2, 2, 3)
    np.testing.assert_allclose(io.load_image(path, color=False)[:, :, 0], gray / 255, atol=1e-6)
    cv2.imwrite(path, np.uint8([[[255, 0, 0, 7]]]))  # blue, nearly transparent
    np.testing.assert_array_equal(io.load_image(path), [[[0, 0, 1]]])


def test_images_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.jpg'):
        io.load_image(tmp_path / 'none.jpg')
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'bad.jpg \(8 bytes\)'):
        io.load_image(tmp_path / 'bad.jpg')


def test_resizing_follows_pixel_centres(image):
    """Inside as OpenCV's linear resize; outside of an enlarged image is its smallest value."""
    for size in ((5, 6), (23, 30), (11, 13)):
        got = io.resize_image(image, size)
        wanted = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1e-5)
    doubled = io.resize_image(np.float32([[[2], [4]]]), (1, 4))
    # centres at -.25 .25 .75 1.25 of [2, 4], outside is 2
    np.testing.assert_allclose(doubled[0, :, 0], [2, 2.5, 3.5, 3.5], atol=1e-6)
    assert (io.resize_image(np.full((3, 3, 1), 7.0), (5, 2)) == 7).all()


def test_other_numbers_of_channels_are_resized_corner_to_corner():
    ramp = np.tile(np.arange(5.0)[:, None, None], (1, 2, 2))
    got = io.resize_image(ramp, (9, 2))
    np.testing.assert_allclose(got[:, 0, 0], np.arange(9) / 2, atol=1e-6)


def test_oversample_takes_corners_centre_and_mirrors(image):
    other = image + 1
    crops = io.oversample([image, other], (5, 6))
    assert crops.shape == (20, 5, 6, 3)
    wanted = [image[:5, :6], image[:5, 7:], image[6:, :6], image[6:, 7:], image[3:8, 3:9]]
    for i in range(5):
        np.testing.assert_array_equal(crops[i], wanted[i])
        np.testing.assert_array_equal(crops[i + 5], wanted[i][:, ::-1])
    np.testing.assert_allclose(crops[10:], crops[:10] + 1, atol=1e-6)
    with pytest.raises(ValueError, match='20.*do not fit.*11'):
        io.oversample([image], (20, 5))


# ---- Transformer ----


@pytest.fixture
def transformer():
    t = io.Transformer({'data': (1, 3, 11, 13)})
    t.set_transpose('data', (2, 0, 1))
    t.set_channel_swap('data', (2, 1, 0))
    t.set_raw_scale('data', 255)
    t.set_mean('data', np.float32([104, 117, 123]))
    t.set_input_scale('data', 0.5)
    return t


def test_preprocess_does_its_steps_in_order(transformer, image):
    before = image.copy()
    got = transformer.preprocess('data', image)
    wanted = (image[:, :, ::-1].transpose(2, 0, 1) * 255 - np.float32([104, 117, 123])[:, None, None]) * 0.5
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    np.testing.assert_array_equal(image, before)


def test_deprocess_undoes_preprocess(transformer, image):
    blob = transformer.preprocess('data', image)[None]
    np.testing.assert_allclose(transformer.deprocess('data', blob), image, atol=1e-5)


def test_preprocess_resizes_to_the_blob(transformer):
    big = np.random.default_rng(1).random((22, 26, 3)).astype('f')
    halved = big.reshape(11, 2, 13, 2, 3).mean((1, 3))  # linear at exactly half the size: the mean of 2 x 2
    wanted = transformer.preprocess('data', halved)
    np.testing.assert_allclose(transformer.preprocess('data', big), wanted, atol=1e-3)


@pytest.mark.parametrize('shape', [(11, 13), (3, 11, 13), (1, 11, 13)])
def test_mean_images_are_subtracted(shape, image):
    t = io.Transformer({'data': (1, 3, 11, 13)})
    t.set_transpose('data', (2, 0, 1))
    mean = np.random.default_rng(2).random(shape)
    t.set_mean('data', mean)
    np.testing.assert_allclose(t.preprocess('data', image), image.transpose(2, 0, 1) - mean, atol=1e-6)


def test_a_mean_image_of_another_size_is_resized():
    t = io.Transformer({'data': (1, 3, 4, 4)})
    t.set_mean('data', np.tile(np.float32([1, 2, 3])[:, None, None], (1, 8, 8)))
    np.testing.assert_allclose(t.mean['data'], np.tile(np.float32([1, 2, 3])[:, None, None], (1, 4, 4)))


@pytest.mark.parametrize(
    'call, wanted',
    [
        (lambda t: t.preprocess('image', np.zeros((1, 1, 1))), "image is not one of.*'data'"),
        (lambda t: t.set_transpose('data', (1, 0)), 'transpose order'),
        (lambda t: t.set_channel_swap('data', (1, 0)), 'channel order'),
        (lambda t: t.set_mean('data', np.zeros(4)), r'mean of shape \(4,\)'),
        (lambda t: t.set_mean('data', np.zeros((2, 5, 5))), r'mean of shape \(2, 5, 5\)'),
        (lambda t: t.set_mean('data', np.zeros((1, 3, 11, 13))), 'mean of shape'),
        (lambda t: t.set_mean('data', 3), r'mean of shape \(\)'),
        (lambda t: t.set_raw_scale('x', 1), 'x is not one of'),
    ],
)
def test_what_does_not_fit_is_refused(transformer, call, wanted):
    with pytest.raises(ValueError, match=wanted):
        call(transformer)
