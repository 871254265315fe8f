"""Drawing: boxes where they belong, labels that can be read, pictures read upright and written whole."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from fast_rcnn import drawing
from fast_rcnn.drawing import draw, in_words, listed, save_picture
from utils.blob import read_image, read_upright


def test_listed():
    found = [
        np.zeros((0, 5)),
        np.array([[0, 1, 2, 3, 0.5], [4, 5, 6, 7, 0.1]]),
        np.array([[8, 9, 9, 9, 0.75]]),
    ]
    assert listed(found, ('__background__', 'a', 'b'), 0.5) == [
        ('b', 0.75, (8, 9, 9, 9)),
        ('a', 0.5, (0, 1, 2, 3)),
    ]


def test_a_log_names_the_best_and_counts_the_others():
    listing = [('dog', 0.9 - i / 100, (0, 0, 9, 9)) for i in range(12)]
    assert in_words([]) == 'nothing' and in_words(listing[:2]) == 'dog 0.90, dog 0.89'
    assert in_words(listing[:10]).endswith(' 0.81') and in_words(listing).endswith(' dog 0.81 and 2 more')


def test_a_box_is_drawn_where_it_is():
    image = np.zeros((500, 500, 3), np.uint8)
    drawn = draw(image, [('dog', 0.9, (100.0, 200.0, 300.0, 400.0))], ('__background__', 'dog'))
    assert not image.any() and drawn.shape == image.shape
    assert drawn[300, 100].any() and drawn[400, 200].any()
    assert not drawn[300, 200].any() and not drawn[450, 450].any()


@pytest.mark.parametrize('shape', [(30, 40), (60, 400), (400, 20), (375, 500), (1500, 2000), (4500, 6000)])
def test_text_can_be_read_at_any_size(shape):
    objects = [('some long name', 0.9, (2, 2, shape[1] // 2, shape[0] // 2))]
    canvas, factor, style = drawing._canvas(np.zeros((*shape, 3), np.uint8), ['some long name 0.90'])
    width, height = style.label_size('some long name 0.90')
    assert height >= 14 and width <= canvas.shape[1] and height <= canvas.shape[0]
    assert height >= max(shape) / 70 and style.thick >= max(2, max(shape) / 410)
    assert draw(np.zeros((*shape, 3), np.uint8), objects).shape == canvas.shape
    assert canvas.shape[0] == factor * shape[0]


BOXES = st.tuples(*[st.integers(0, 400) for _ in range(4)])


@settings(max_examples=25, deadline=None)
@given(st.lists(BOXES, max_size=25))
def test_labels_keep_clear_of_each_other(boxes):
    places, size = np.zeros((0, 4)), (70, 16)
    for a, b, c, d in boxes:
        box = np.array([min(a, c), min(b, d), max(a, c), max(b, d)])
        places = np.vstack([places, drawing._place(box, *size, (401, 401), places)])
    for i, (x1, y1, x2, y2) in enumerate(places):
        assert 0 <= x1 and 0 <= y1 and x2 <= 401 and y2 <= 401
        for other in places[:i]:
            assert x1 >= other[2] or other[0] >= x2 or y1 >= other[3] or other[1] >= y2


def test_a_crowded_picture_is_enlarged():
    crowd = [('red blood cell', 0.9, (5, 5, 90, 90))] * 60
    assert draw(np.zeros((375, 500, 3), np.uint8), crowd).shape[0] >= 750
    assert draw(np.zeros((375, 500, 3), np.uint8), crowd[:4]).shape[0] == 375


def test_colours_of_classes_differ_and_stay():
    colours = [tuple(drawing._colour(i)) for i in range(20)]
    assert len(set(colours)) == 20 and colours == [tuple(drawing._colour(i)) for i in range(20)]


def test_a_class_has_one_colour_whatever_else_was_found():
    classes, black = ('__background__', 'cat', 'dog', 'cow'), np.zeros((500, 500, 3), np.uint8)
    dog, others = (
        ('dog', 0.9, (100, 200, 300, 400)),
        [('cow', 0.8, (9, 9, 30, 30)), ('cat', 0.7, (9, 40, 30, 90))],
    )
    for objects in [dog], [dog, *others], [*others[::-1], dog]:
        assert draw(black, objects, classes)[300, 300].tolist() == drawing._colour(2)


@pytest.mark.parametrize('extension', ['jpg', 'png', 'webp', 'tif'])
def test_orientation_is_honoured(tmp_path, extension):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 255
    for orientation, rows, columns in (6, slice(0, 25), slice(25, 40)), (3, slice(25, 40), slice(35, 60)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = str(tmp_path / f'a.{extension}')
        Image.fromarray(pixels).save(path, exif=exif)
        image = read_upright(path)
        assert image.shape == ((60, 40, 3) if orientation == 6 else (40, 60, 3))
        assert image[rows, columns].mean() > 150 and image.mean() < 80


def test_plain_pictures_are_read_as_opencv_reads_them(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 255, (20, 30, 3), np.uint8)
    for name in 'a.png', 'a.jpg', 'a.bmp', 'a.tif':
        cv2.imwrite(str(tmp_path / name), pixels)
        np.testing.assert_array_equal(read_upright(str(tmp_path / name)), read_image(str(tmp_path / name)))
    deep = (pixels.astype(np.uint16) << 8)[:, :, 0]
    cv2.imwrite(str(tmp_path / 'deep.tif'), deep)
    np.testing.assert_array_equal(read_upright(str(tmp_path / 'deep.tif'))[:, :, 0], pixels[:, :, 0])


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / 'text.jpg').write_text('no picture')
    cv2.imwrite(str(tmp_path / 'half.jpg'), np.random.RandomState(0).randint(0, 255, (200, 200, 3), np.uint8))
    whole = (tmp_path / 'half.jpg').read_bytes()
    (tmp_path / 'half.jpg').write_bytes(whole[: len(whole) // 2])
    for name in 'text.jpg', 'half.jpg', 'none.jpg', '':
        with pytest.raises(OSError, match=name or str(tmp_path)):
            read_upright(str(tmp_path / name))


def test_pictures_are_written_whole(tmp_path):
    save_picture(str(tmp_path / 'new' / 'a.jpg'), np.zeros((5, 6, 3), np.uint8))
    assert read_image(str(tmp_path / 'new' / 'a.jpg')).shape == (5, 6, 3)


def test_masks_are_tinted_where_they_are():
    """Of an enlarged picture: the pixels within, and an edge; the box is larger than its mask."""
    mask = np.zeros((100, 120), np.uint8)
    mask[20:60, 30:70] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    found = [np.zeros((0, 5)), np.array([[10, 10, 90, 90, 0.2], [10, 10, 90, 90, 0.9]])]
    (one,) = listed(found, ('__background__', 'a'), 0.5, [[], [None, rle]])
    assert one == ('a', 0.9, (10, 10, 90, 90), rle)
    image = np.full((100, 120, 3), 100, np.uint8)
    plain, tinted = (
        draw(image, [one[:3]], ('__background__', 'a')),
        draw(image, [one], ('__background__', 'a')),
    )
    changed = (plain != tinted).any(2)
    factor = changed.shape[0] // 100
    for y, x, inside in ((40, 50, True), (25, 35, True), (15, 50, False), (40, 80, False)):
        assert changed[y * factor, x * factor] == inside
    assert 1600 * factor**2 <= changed.sum() < 2000 * factor**2
