"""tools/check_dataset.py: each problem by file, object and rule, and the exit status."""

import json
import os
import shutil

import cv2
import pytest
from PIL import Image

import check_dataset
from datasets import factory
from datasets.imdb import imdb
from devkits import TOY_CATEGORIES, obj, write, write_coco_toy, write_image, write_voc, write_xml
from fast_rcnn.config import cfg


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A dataset without problems; -> its folder."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    images = {
        'a': [obj('cat', 1, 2, 30, 20), obj('dog', 31, 5, 60, 40)],
        'b': [obj('cat', 2, 2, 9, 9)],
        'c': [],
    }
    write_voc(tmp_path, images, {'train': ['a', 'b'], 'val': ['c'], 'all': ['a', 'b', 'c']})
    write(tmp_path / 'pets.yml', 'name: pets\nformat: voc\nroot: .\nclasses: [cat, dog]\n')
    return tmp_path


def run(kit, capsys):
    """Exit status and lines printed."""
    status = check_dataset.main([str(kit / 'pets.yml')])
    return status, capsys.readouterr().out.splitlines()


def test_nothing_wrong(kit, capsys):
    status, lines = run(kit, capsys)
    assert status == 0
    assert lines == [
        'pets_all 3, pets_train 2, pets_val 1 images',
        '3 different images with annotations, 1 of them without objects',
        '3 objects, 0 of them difficult; pixels count from 1',
        'objects pets_all pets_train pets_val',
        'cat            2          2        0',
        'dog            1          1        0',
        'No problems',
    ]


def test_boxes_are_listed_by_file_object_and_rule(kit, capsys):
    path = write_xml(
        kit / 'Annotations' / 'b.xml',
        [
            obj('cat', 2, 2, 9, 9),
            obj('dog', 40, 5, 70, 20),
            obj('cat', 7, 8, 7, 20),
            obj('dog', 30, 20, 10, 10),
            obj('cat', 61, 1, 70, 20),
        ],
    )
    status, lines = run(kit, capsys)
    assert status == 0
    of = 'of 60x40 pixels counted from 1'
    assert lines[:4] == [
        f"{path}: object 2 (dog): clipped: xmin 40 ymin 5 xmax 70 ymax 20 {of}; is cut at the image's edge",
        f'{path}: object 3 (cat): zero area: xmin 7 ymin 8 xmax 7 ymax 20 {of}; is dropped',
        f'{path}: object 4 (dog): inverted: xmin 30 ymin 20 xmax 10 ymax 10 {of}; corners are swapped back',
        f'{path}: object 5 (cat): outside: xmin 61 ymin 1 xmax 70 ymax 20 {of}; is dropped',
    ]
    assert lines[-1] == '4 problems, listed above; training goes on all the same'


def test_an_unknown_class_stops(kit, capsys):
    path = write_xml(kit / 'Annotations' / 'b.xml', [obj('cat', 2, 2, 9, 9), obj('Cats', 2, 2, 9, 9)])
    status, lines = run(kit, capsys)
    assert status == 1
    assert lines[0] == f"{path}: object 2 (Cats): unknown class; the nearest is 'cat' [stops training]"


def test_an_unknown_class_is_one_problem_however_many_objects_have_it(kit, capsys):
    path = write_xml(kit / 'Annotations' / 'a.xml', [obj('Cats', 2, 2, 9, 9), obj('cow', 2, 2, 9, 9)])
    write_xml(kit / 'Annotations' / 'b.xml', [obj('cat', 2, 2, 9, 9)] + [obj('Cats', 2, 2, 9, 9)] * 2)
    status, lines = run(kit, capsys)
    assert status == 1 and lines[-1] == '2 problems, listed above; training stops at 2 of them'
    assert lines[0].startswith(f'{path}: object 1 (Cats) (and 2 more objects): unknown class; ')
    assert lines[1].startswith(f'{path}: object 2 (cow): unknown class; ')


def test_files_that_cannot_be_read_stop(kit, capsys):
    os.remove(kit / 'JPEGImages' / 'a.jpg')
    (kit / 'JPEGImages' / 'b.jpg').write_text('no image')
    os.remove(kit / 'Annotations' / 'b.xml')
    write(kit / 'Annotations' / 'c.xml', '<annotation>')
    status, lines = run(kit, capsys)
    assert status == 1 and lines[-1] == '4 problems, listed above; training stops at 4 of them'
    assert lines[0].startswith(f'{kit}/JPEGImages/a: no such image')
    assert lines[1] == f'{kit}/JPEGImages/b.jpg: not an image that can be read [stops training]'
    assert lines[2].startswith(f'{kit}/Annotations/b.xml: no such annotation file')
    assert lines[3].startswith(f'{kit}/Annotations/c.xml: not well-formed XML')


def test_classes_from_annotations_of_which_one_cannot_be_read(kit, capsys):
    write(kit / 'pets.yml', 'name: pets\nformat: voc\nroot: .\n')
    write(kit / 'Annotations' / 'c.xml', '<annotation>')
    status, lines = run(kit, capsys)
    assert status == 1 and lines[-3:] == [
        'cat            2          2        0',
        'dog            1          1        0',
        '1 problem, listed above; training stops at 1 of them',
    ]


def test_another_size_than_the_images(kit, capsys):
    path = write_xml(kit / 'Annotations' / 'b.xml', [], width=640)
    status, lines = run(kit, capsys)
    assert status == 0 and lines[0] == f'{path}: size is 640x40, but the image has 60x40 pixels'


def test_a_truncated_image(kit, capsys):
    path = kit / 'JPEGImages' / 'b.jpg'
    path.write_bytes(path.read_bytes()[:-200])
    status, lines = run(kit, capsys)
    assert lines[0].startswith(f'{path}: damaged image (') and status == 0
    assert cv2.imread(str(path)) is not None
    path.write_bytes(path.read_bytes()[:30])
    status, lines = run(kit, capsys)
    assert lines[0] == f'{path}: Truncated File Read [stops training]' and status == 1


def test_an_image_turned_by_exif(kit, capsys):
    path = write_image(kit / 'JPEGImages' / 'b.jpg')
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    status, lines = run(kit, capsys)
    assert status == 0 and lines[0].startswith(f'{path}: is turned by its EXIF tag')


def test_a_class_without_objects_is_named(kit, capsys):
    write(kit / 'pets.yml', 'name: pets\nformat: voc\nroot: .\nclasses: [cat, dog, fish]\n')
    status, lines = run(kit, capsys)
    assert status == 0 and 'fish           0          0        0  a class without objects' in lines


@pytest.mark.parametrize('val, how_many', [('a\nb\n', 'all of its 2'), ('a\nc\n', '1 of its 2')])
def test_images_trained_on_and_tested_on(kit, capsys, val, how_many):
    write(kit / 'ImageSets' / 'Main' / 'val.txt', val)
    status, lines = run(kit, capsys)
    assert status == 0 and lines[0] == (
        f'pets_val: {how_many} images are in pets_train too: the test does not say how well new images are done'
    )


def test_lists_whose_lines_end_in_an_extension(kit, capsys, caplog):
    path = write(kit / 'ImageSets' / 'Main' / 'train.txt', 'a.jpg\nb.jpg\n')
    status, lines = run(kit, capsys)
    assert status == 0 and lines[0] == 'pets_all 3, pets_train 2, pets_val 1 images'
    assert f'{path}: 2 of 2 lines end in an extension (first: a.jpg), which is left out' in caplog.text


def test_files_that_are_not_utf_8_are_named(kit, capsys):
    path = kit / 'ImageSets' / 'Main' / 'train.txt'
    path.write_bytes(b'a\xe9\n')
    assert run(kit, capsys) == (1, [f'{path}: not UTF-8 text (invalid continuation byte at byte 1)'])
    path = kit / 'pets.yml'
    path.write_bytes(b'name: p\xe9ts\n')
    assert run(kit, capsys) == (1, [f'{path}: not UTF-8 text (invalid continuation byte at byte 7)'])


def test_an_image_too_large_to_be_read_is_named(kit, capsys, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 600)
    status, lines = run(kit, capsys)
    assert status == 1 and lines[0].startswith(f'{kit}/JPEGImages/a.jpg: Image size (2400 pixels) exceeds')


def test_an_encoding_that_is_not_known(kit, capsys):
    path = write(kit / 'Annotations' / 'b.xml', '<?xml version="1.0" encoding="none"?><annotation/>')
    status, lines = run(kit, capsys)
    assert lines[0] == f'{path}: not well-formed XML (unknown encoding: none) [stops training]'


def test_an_imdb_without_xml_files_is_refused(kit, capsys, monkeypatch):
    monkeypatch.setattr(factory, '_added', {'bare_train': lambda: imdb('bare_train')})
    with pytest.raises(ValueError, match='bare_train: not annotated in XML or JSON files'):
        check_dataset.main(['bare_train'])


def test_a_wrong_description(kit, capsys):
    write(kit / 'pets.yml', 'name: pets\nformat: voc\nroot: .\nclases: [cat]\n')
    status, lines = run(kit, capsys)
    assert status == 1 and lines == [f"{kit}/pets.yml: unknown key 'clases'; the nearest is 'classes'"]


def test_without_lists_it_says_what_writes_them(kit, capsys):
    shutil.rmtree(kit / 'ImageSets')
    status, lines = run(kit, capsys)
    assert status == 1 and 'no splits are listed' in lines[0] and 'tools/split_dataset.py' in lines[0]


def test_by_name(kit, capsys):
    os.makedirs(kit / 'data' / 'datasets')
    os.symlink(kit / 'pets.yml', kit / 'data' / 'datasets' / 'pets.yml')
    assert check_dataset.main(['pets']) == 0
    assert capsys.readouterr().out.startswith('pets_all 3, pets_train 2, pets_val 1 images')
    assert check_dataset.main(['pets_val']) == 0
    assert capsys.readouterr().out.startswith('pets_val 1 images')
    assert check_dataset.main(['cats']) == 1
    assert 'unknown imdb cats' in capsys.readouterr().out
    assert check_dataset.main(['pascal_voc']) == 1
    assert 'no such image set' in capsys.readouterr().out


def test_a_dataset_in_cocos_format(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    path = write_coco_toy(tmp_path, train=3, val=3)
    file = tmp_path / 'annotations' / 'instances_train.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'] = [-5, 10, 30, 30]
    content['annotations'][1]['bbox'] = [5, 10, 0, 30]
    content['images'][2]['width'] = 1000
    file.write_text(json.dumps(content))
    (tmp_path / 'images' / 'val' / 'val_0001.jpg').unlink()
    assert check_dataset.main([path]) == 1
    lines = capsys.readouterr().out.splitlines()
    name = next(name for name in TOY_CATEGORIES.values() if f'object 1 ({name})' in lines[0])
    assert lines[0].startswith(
        f'{file}, image 10: object 1 ({name}): clipped: xmin -5 ymin 10 xmax 24 ymax 39 of '
    )
    assert f'{file}, image 10: object 2' in lines[1] and 'zero area' in lines[1] and 'is dropped' in lines[1]
    assert lines[2].startswith(f'{file}, image 30: size is 1000x')
    assert lines[3].endswith('val_0001.jpg: No such file or directory [stops training]')
    assert (
        lines[4] == 'toycoco_train 3, toycoco_val 3 images'
        and '2 of them crowds; pixels count from 0' in lines[6]
    )
    file.write_text(file.read_text()[:-9])
    assert check_dataset.main([path]) == 1
    assert capsys.readouterr().out.startswith(f'{file}: not whole JSON')
