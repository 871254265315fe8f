"""The XML reader, the rule for boxes, and the cache that is never stale."""

import concurrent.futures
import os

import numpy as np
import pytest
import torch

from datasets.readers import voc_xml
from datasets.readers.boxes import clean_boxes, guess_base
from datasets.readers.images import image_size
from datasets.readers.voc_xml import read_annotations, read_xml
from devkits import obj, write, write_image, write_xml
from fast_rcnn.config import cfg
from utils.words import nearest

# box as written, base, box after, faults; the image has 60 x 40 pixels
RULE = {
    'inside, from 0': ([0, 0, 59, 39], 0, [0, 0, 59, 39], []),
    'inside, from 1': ([1, 1, 60, 40], 1, [0, 0, 59, 39], []),
    'a 0 in a file that counts from 1': ([0, 5, 10, 10], 1, [0, 4, 9, 9], ['clipped']),
    'a width as last pixel': ([10, 5, 60, 40], 0, [10, 5, 59, 39], ['clipped']),
    'negative': ([-8, -3, 10, 10], 0, [0, 0, 10, 10], ['clipped']),
    'inverted in x': ([30, 5, 10, 20], 0, [10, 5, 30, 20], ['inverted']),
    'inverted and beyond': ([70, 50, 10, 20], 0, [10, 20, 59, 39], ['inverted', 'clipped']),
    'no width': ([10, 5, 10, 20], 0, None, ['zero area']),
    'no height': ([10, 5, 20, 5], 1, None, ['zero area']),
    'only the last column is inside': ([59, 5, 80, 20], 0, None, ['zero area']),
    'right of the image': ([60, 5, 80, 20], 0, None, ['outside']),
    'above the image': ([5, -20, 30, -1], 0, None, ['outside']),
    'fractions': ([0.5, 0.5, 10.25, 10.75], 0, [0.5, 0.5, 10.25, 10.75], []),
}


@pytest.mark.parametrize('case', RULE)
def test_rule_for_boxes(case):
    box, base, after, broken = RULE[case]
    boxes, faults = clean_boxes([box], 60, 40, base)
    assert [rule for rule in faults if faults[rule][0]] == broken
    assert boxes.dtype == np.float32
    if after is not None:
        np.testing.assert_array_equal(boxes, [after])


def test_boxes_are_never_beyond_their_image():
    rng = np.random.default_rng(1)
    width, height = rng.integers(1, 50, (2, 500))
    boxes, faults = clean_boxes(rng.integers(-60, 110, (500, 4)), width, height, 1)
    kept = ~(faults['outside'] | faults['zero area'])
    assert 100 < kept.sum() < 500
    assert (boxes[kept, :2] >= 0).all()
    assert (boxes[kept, 2] < width[kept]).all() and (boxes[kept, 3] < height[kept]).all()
    assert (boxes[kept, 2:] > boxes[kept, :2]).all()


def test_no_boxes():
    boxes, faults = clean_boxes([], 60, 40, 1)
    assert boxes.shape == (0, 4) and all(mask.shape == (0,) for mask in faults.values())


def test_base_is_guessed_from_a_coordinate_below_one():
    assert guess_base(np.array([[1, 1, 5, 5], [0, 3, 9, 9]])) == 0
    assert guess_base(np.array([[0.5, 3, 9, 9]])) == 0
    assert guess_base(np.array([[1, 1, 60, 40], [-4, 2, 9, 9]])) == 1
    assert guess_base(np.zeros((0, 4))) == 1


def test_read_xml(tmp_path):
    path = write_xml(tmp_path / 'a.xml', [obj('cat', 1, 2, 3.5, 4), obj(' dog ', 5, 6, 7, 8, difficult=1)])
    annotation = read_xml(path)
    assert annotation.names == ['cat', 'dog'] and annotation.size == (60, 40)
    np.testing.assert_array_equal(annotation.boxes, [[1, 2, 3.5, 4], [5, 6, 7, 8]])
    assert annotation.difficult.tolist() == [False, True]


def test_read_xml_without_objects_or_size(tmp_path):
    annotation = read_xml(write(tmp_path / 'a.xml', '<annotation><size><width>0</width></size></annotation>'))
    assert annotation.boxes.shape == (0, 4) and annotation.size is None


BAD_XML = {
    'not XML': ('<annotation>', 'not well-formed XML'),
    'no box': (
        '<annotation><object><name>cat</name></object></annotation>',
        r'object 1 \(cat\): wanted a <bndbox>',
    ),
    'a word': (
        f'<annotation>{obj("a", 1, 2, 3, 4)}{obj("cat", "x", 2, 3, 4)}</annotation>',
        r'object 2 \(cat\).*xmin x',
    ),
    'NaN': (f'<annotation>{obj("cat", "nan", 2, 3, 4)}</annotation>', r'object 1 \(cat\).*xmin nan'),
    'no name': (f'<annotation>{obj("", 1, 2, 3, 4)}</annotation>', 'object 1 has no <name>'),
}


@pytest.mark.parametrize('case', BAD_XML)
def test_bad_xml_names_file_and_object(tmp_path, case):
    text, message = BAD_XML[case]
    with pytest.raises(ValueError, match='bad.xml: .*' + message):
        read_xml(write(tmp_path / 'bad.xml', text))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.xml: no such annotation file'):
        read_xml(str(tmp_path / 'none.xml'))
    with pytest.raises(OSError, match='text.jpg: not an image'):
        image_size(write(tmp_path / 'text.jpg', 'no image'))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three annotated images, and a cache from the first file on."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    monkeypatch.setattr(voc_xml, 'CACHE_FROM', 1)
    return [
        (
            write_xml(tmp_path / f'{i}.xml', [obj('cat', 1, 2, 3 + i, 9)] * i),
            write_image(tmp_path / f'{i}.jpg'),
        )
        for i in range(3)
    ]


def read(files):
    return read_annotations(files, 'set', os.path.join(cfg.DATA_DIR, 'cache'))


def count_reads(monkeypatch):
    reads = []
    monkeypatch.setattr(voc_xml, 'read_xml', lambda path: reads.append(path) or read_xml(path))
    return reads


def test_cache_is_used_while_nothing_changes(files, tmp_path, monkeypatch):
    first, reads = read(files), count_reads(monkeypatch)
    second = read(files)
    left = ['set_annotations.npz', 'set_annotations.npz.lock']
    assert reads == [] and sorted(os.listdir(tmp_path / 'data' / 'cache')) == left
    for a, b in zip(first, second):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert first.counts.tolist() == [0, 1, 2] and first.sizes.tolist() == [[60, 40]] * 3


def test_changed_annotation_image_or_list_is_read_anew(files, monkeypatch):
    read(files)
    write_xml(files[1][0], [obj('dog', 1, 2, 3, 9)])
    assert read(files).vocabulary.tolist() == ['dog', 'cat']
    write_image(files[0][1], 50, 30)
    assert read(files).sizes[0].tolist() == [50, 30]
    assert read(files[:2]).counts.tolist() == [0, 1]
    reads = count_reads(monkeypatch)
    os.utime(files[2][0], (1, 1))
    read(files[:2])
    assert reads == []
    read(files)
    assert len(reads) == 3


def test_several_processes_read_what_one_reads(files, tmp_path, monkeypatch):
    write_xml(files[1][0], [obj('dog', 1, 2, 3, 9)])
    one = read(files)
    monkeypatch.setattr(voc_xml, 'SHARE', 1)
    os.utime(files[0][0], (1, 1))
    generator = torch.get_rng_state()
    several = read(files)
    assert torch.equal(torch.get_rng_state(), generator)
    assert several.vocabulary.tolist() == ['dog', 'cat'] and several.names.tolist() == [0, 1, 1]
    for key in 'counts', 'sizes', 'boxes', 'difficult':
        np.testing.assert_array_equal(getattr(several, key), getattr(one, key))
    write(files[2][0], '<annotation>')
    with pytest.raises(ValueError, match='^/.*2.xml: not well-formed XML'):
        read(files)


def test_of_two_that_find_no_cache_one_makes_it(files, monkeypatch):
    reads = count_reads(monkeypatch)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first, second = threads.map(read, [files, files])
    assert len(reads) == 3
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_damaged_cache_is_made_anew(files, tmp_path):
    path = tmp_path / 'data' / 'cache' / 'set_annotations.npz'
    first = read(files)
    path.write_bytes(path.read_bytes()[:200])
    np.testing.assert_array_equal(read(files).boxes, first.boxes)
    np.testing.assert_array_equal(np.load(path)['boxes'], first.boxes)


def test_nearest():
    assert nearest('Catt', ['dog', 'cat', 'car']) == 'cat'
    assert nearest('rbc', ['RBC', 'WBC']) == 'RBC'
    assert nearest('x', []) == ''
