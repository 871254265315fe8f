"""tools/convert_dataset.py: a dataset goes through every format and comes back as it was, less what is told."""

import base64
import json

import convert_dataset
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from datasets import labels, own
from datasets.readers.masks import rle_of
from devkits import write_coco
from fast_rcnn.config import cfg

FORMATS = list(labels.FORMATS)
MASKS = 'coco', 'yolo', 'labelme', 'cvat'
RING = np.zeros((60, 80), np.uint8)
RING[10:40, 20:60], RING[20:30, 30:50] = 1, 0
TRIANGLE, SQUARES = [40, 30, 80, 30, 60, 60], [[2, 2, 12, 2, 12, 12, 2, 12], [20, 2, 30, 2, 30, 12, 20, 12]]
CLASSES = {1: 'cat', 2: 'guinea pig', 3: 'Hündin'}


def thing(category, x1, y1, x2, y2, **more):
    return {'category_id': category, 'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': 1, 'iscrowd': 0, **more}


def rle(pixels):
    code = coco_mask.encode(np.asfortranarray(pixels))
    return {'size': [60, 80], 'counts': code['counts'].decode()}


IMAGES = {
    'train': {
        'a.png': (
            80,
            60,
            [thing(1, 10, 5, 30, 25), thing(2, 40, 30, 80, 60, segmentation=[TRIANGLE], truncated=1)],
        ),
        'sub/two words ü.JPG': (80, 60, [thing(3, 20, 10, 60, 40, segmentation=rle(RING), occluded=1)]),
        'none.png': (40, 60, []),
    },
    'val': {
        'turned.jpg': (80, 60, [thing(1, 0, 0, 16, 30), thing(2, 2, 2, 30, 12, segmentation=SQUARES)]),
        'more.png': (
            80,
            60,
            [
                thing(1, 4, 6, 9, 11, difficult=1, iscrowd=1),
                thing(1, 1, 1, 79, 59, iscrowd=1),
                thing(3, 3, 3, 9, 9),
            ],
        ),
    },
}


def picture(path, width, height, turn=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.zeros((height, width, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = turn
    image.save(path, **({'exif': exif} if path.suffix.lower() == '.jpg' else {}))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A dataset in COCO's format, with all that a format may be asked to keep."""
    root = tmp_path_factory.mktemp('given')
    for split, images in IMAGES.items():
        write_coco(root / f'annotations/instances_{split}.json', images, CLASSES)
        for name, (width, height, _) in images.items():
            picture(root / 'images' / split / name, width, height, 6 if name == 'turned.jpg' else 1)
    return root


def by_name(found):
    """{name of a picture: (split, Labelled)}"""
    of = {image: split for split, images in found.splits.items() for image in images}
    return {image.rpartition('/')[2].lower(): (of[image], one) for image, one in found.images.items()}


def same_mask(a, b, size):
    a, b = (rle_of(mask, size[1], size[0])[0] for mask in (a, b))
    return coco_mask.iou([a], [b], [0])[0, 0]


@pytest.mark.parametrize('kind', FORMATS)
def test_there_and_back(root, tmp_path, kind, capsys):
    convert_dataset.main(['coco', str(root), str(tmp_path / 'there'), '--to', kind])
    said = capsys.readouterr().out
    convert_dataset.main([kind, str(tmp_path / 'there'), str(tmp_path / 'back')])
    first, there, back = (
        by_name(labels.read(form, str(path)))
        for form, path in (('coco', root), (kind, tmp_path / 'there'), ('coco', tmp_path / 'back'))
    )
    assert first.keys() == there.keys() == back.keys()
    for name, (split, one) in first.items():
        kept = [thing for thing in one.things if kind != 'yolo' or not thing.flags & {'crowd', 'difficult'}]
        for other_split, other in there[name], back[name]:
            assert other_split == split and other[1:3] == one[1:3] and other.turn == one.turn
            assert [thing.name for thing in other.things] == [thing.name for thing in kept]
            for before, after in zip(kept, other.things):
                np.testing.assert_allclose(after.box, before.box, atol=1e-4)
                check_mask(kind, before, after, (one.width, one.height))
                check_flags(kind, before.flags, after.flags)
    assert ('not kept by' in said) == (kind not in ('coco', 'cvat'))
    assert 'turned by their EXIF tags: 1 images' in said


def check_mask(kind, before, after, size):
    if before.mask is None or kind not in MASKS:
        assert after.mask is None or kind == 'yolo'
    elif 'counts' in before.mask and kind in ('yolo', 'labelme'):  # the ring's hole is filled
        assert (
            same_mask(
                after.mask,
                rle(np.maximum(RING, np.pad(np.ones((30, 40), np.uint8), ((10, 20), (20, 20))))),
                size,
            )
            == 1
        )
    else:
        assert same_mask(before.mask, after.mask, size) > 0.97


def check_flags(kind, before, after):
    if kind == 'voc':
        before = before - {'crowd'} | ({'difficult'} if 'crowd' in before else set())
    assert after == (before if kind != 'yolo' else frozenset())


@pytest.mark.parametrize(
    'kind, said',
    [
        ('voc', 'not kept by voc: 1 x crowds (written as difficult), 3 x masks\n'),
        ('csv', 'not kept by csv: 3 x masks\n'),
        (
            'yolo',
            'not kept by yolo: 1 x crowd objects (left out), 1 x difficult objects (left out), 1 x holes of masks, '
            '1 x masks in several parts (joined by lines), 3 x objects without mask (their boxes stand for it), '
            '1 x occluded flags, 1 x truncated flags\n',
        ),
        ('labelme', 'not kept by labelme: 1 x holes of masks\n'),
    ],
)
def test_what_is_lost_is_said_in_a_line(root, tmp_path, kind, said, capsys):
    convert_dataset.main(['coco', str(root), str(tmp_path / 'there'), '--to', kind])
    out = capsys.readouterr().out
    assert said in out and out.count('not kept by') == 1


@pytest.mark.parametrize('kind', FORMATS)
def test_what_is_written_is_a_dataset_as_it_stands(root, tmp_path, kind, monkeypatch):
    """The YAML file that is written needs nothing more."""
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    convert_dataset.main(['coco', str(root), str(tmp_path / 'pets'), '--to', kind])
    described = own.load(str(tmp_path / 'pets' / 'pets.yml'))
    assert described.classes[1:] == tuple(
        CLASSES.values() if kind in ('coco', 'yolo', 'csv') else sorted(CLASSES.values())
    )
    assert (described.train, described.test) == ('train', 'val')
    train = own.make(described, 'train')
    boxes = {
        train.image_path_at(i).rpartition('/')[2]: entry['boxes'].tolist()
        for i, entry in enumerate(train.gt_roidb())
    }
    assert boxes['a.png'] == [[10, 5, 29, 24], [40, 30, 79, 59]] and boxes['none.png'] == []
    val = own.make(described, 'val')
    assert sum(len(entry['boxes']) for entry in val.gt_roidb()) == 3  # neither what is difficult nor a crowd
    if kind in MASKS:
        assert all(len(segms) for segms in (entry['segms'] for entry in train.gt_roidb()) if segms)


def test_it_can_be_divided_anew(root, tmp_path):
    convert_dataset.main(['coco', str(root), str(tmp_path / 'new'), '--val', '0.4'])
    found = labels.read('coco', str(tmp_path / 'new'))
    assert {split: len(images) for split, images in found.splits.items()} == {'train': 3, 'val': 2}
    convert_dataset.main(['coco', str(root), str(tmp_path / 'all'), '--val', '0'])
    assert list(COCO(str(tmp_path / 'all/annotations/instances_train.json')).imgs) == [1, 2, 3, 4, 5]


def test_pictures_may_be_left_where_they_are(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cfg, 'DATA_DIR', str(tmp_path / 'data'))
    for kind in 'coco', 'csv':
        convert_dataset.main(['coco', str(root), str(tmp_path / kind), '--to', kind, '--leave'])
        assert not (tmp_path / kind / 'images').exists()
        val = own.make(own.load(str(tmp_path / kind / f'{kind}.yml')), 'val')
        assert {val.image_path_at(i) for i in range(2)} == {
            str(root / 'images/val' / name) for name in IMAGES['val']
        }
    with pytest.raises(ValueError, match='--leave: pictures of voc lie beside their labels'):
        convert_dataset.main(['coco', str(root), str(tmp_path / 'x'), '--to', 'voc', '--leave'])


def test_a_folder_that_holds_something_is_refused(root, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine.txt').write_text('')
    with pytest.raises(ValueError, match='wanted a folder that is empty or not there'):
        convert_dataset.main(['coco', str(root), str(tmp_path / 'out')])


def test_two_pictures_of_one_name_stay_two(tmp_path):
    for split in 'train', 'val':
        picture(tmp_path / 'given' / split / 'images' / 'a.png', 40, 30)
        (tmp_path / 'given' / split / 'labels').mkdir()
        (tmp_path / 'given' / split / 'labels' / 'a.txt').write_text('0 .5 .5 .5 .5\n')
    (tmp_path / 'given' / 'classes.txt').write_text('cat\n')
    convert_dataset.main(['yolo', str(tmp_path / 'given'), str(tmp_path / 'voc'), '--to', 'voc'])
    assert sorted(path.name for path in (tmp_path / 'voc' / 'JPEGImages').iterdir()) == [
        'train_images_a.png',
        'val_images_a.png',
    ]


def test_pictures_that_labels_hold_are_written(tmp_path):
    """Of LabelMe, and nothing more is left in the folder."""
    shape = {'label': 'cat', 'points': [[1, 1], [9, 9]], 'shape_type': 'rectangle'}
    picture(tmp_path / 'a.png', 40, 30)
    data = base64.b64encode((tmp_path / 'a.png').read_bytes()).decode()
    (tmp_path / 'given').mkdir()
    (tmp_path / 'given/a.json').write_text(
        json.dumps({'imagePath': 'x.png', 'imageData': data, 'shapes': [shape]})
    )
    convert_dataset.main(
        ['labelme', str(tmp_path / 'given'), str(tmp_path / 'out'), '--to', 'voc', '--val', '0']
    )
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'Annotations',
        'ImageSets',
        'JPEGImages',
        'out.yml',
    ]
    (found,) = (tmp_path / 'out/JPEGImages').iterdir()
    assert found.read_bytes() == (tmp_path / 'a.png').read_bytes() and found.name.startswith('a_')
